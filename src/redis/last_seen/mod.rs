//! When users were last seen, in Redis: a sorted set per bucket of users, the user as member and the time as score.
//!
//! `store` has the commands; `reader` answers requests, within a time limit.

mod reader;
mod store;

pub use reader::LastSeen;
pub use store::{LastSeenStore, Removed, check};
