//! Commands and what they print.

mod commands;
mod listing;
mod settings;
mod sources;
mod terminal;
mod top;
pub(crate) mod usage;
mod watching;
