//! keybeat
pub mod presence;
