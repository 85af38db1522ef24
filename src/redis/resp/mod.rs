//! One RESP client: commands, connections, and pipelines of commands with their replies.
//!
//! Events, questions, listings, writes, `doctor` and the poll of a cluster's nodes all use it.

pub(in crate::redis) mod client;
pub(in crate::redis) mod commands;
pub(in crate::redis) mod connection;
mod depth;
pub(in crate::redis) mod pushes;
pub(in crate::redis) mod reply;
mod socket;
mod trim;
