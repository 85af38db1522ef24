//! A Redis Stream of transitions, and the keys that the daemons need for it, all in one slot.
//!
//! `group` reads the stream for webhooks. `names` has the keys, `scripts` the scripts, and `store` carries out what is decided elsewhere
//! ([`StreamWriter`](crate::presence::StreamWriter)).

mod group;
mod names;
mod rights;
mod scripts;
mod store;

pub use group::{GroupEntry, GroupLease, StreamGroup};
pub use names::StreamNames;
pub use rights::{LAG_RIGHT, missing_rights};
pub use store::StreamStore;
