//! Commands and what they print.

mod bench;
mod commands;
mod config_file;
mod listing;
mod settings;
mod sources;
mod terminal;
mod top;
pub(crate) mod usage;
mod watching;
