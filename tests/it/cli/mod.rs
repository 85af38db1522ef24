//! Commands and what they print.

mod commands;
mod listing;
mod sources;
mod terminal;
mod top;
pub(crate) mod usage;
mod watching;
