//! Commands and what they print.

mod commands;
mod terminal;
mod top;
pub(crate) mod usage;
