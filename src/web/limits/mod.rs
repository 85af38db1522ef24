//! How much: connections, quotas, and the log of refusals.

pub mod connections;
pub mod quota;
pub mod refusal_log;
