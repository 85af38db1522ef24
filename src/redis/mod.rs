//! All of Redis: names, connections, the event stream, questions, writes, listings, a private server.
//!
//! From the ground up: `glob`, `names`, `channel` (messages between daemons), `url`, `address_map` and `target` (what a URL means), `resp` (the RESP client), `info`, `scan` and
//! `server_config` (one place for INFO, SCAN and CONFIG), `sentinel` and `cluster` (which servers there are); above
//! them `link` (events and questions), `writer`, `listing` and `inspect`, and above `writer` the `directory` (statuses and
//! groups), `last_seen` and the `stream` of transitions. No file imports one above it.

pub mod address_map;
pub mod channel;
pub mod cluster;
pub mod directory;
mod glob;
pub mod info;
pub mod inspect;
pub mod last_seen;
pub mod link;
pub mod listing;
mod names;
pub mod password_file;
pub mod private;
pub mod raw;
mod resp;
mod retry_delay;
mod scan;
mod sentinel;
mod server_config;
pub mod stream;
pub mod target;
pub mod tls;
mod url;
pub mod usage;
pub mod vendor;
pub mod writer;

pub use glob::Glob;
pub use names::{CLASSES, NEW_CLASS, Names, lacks_new, missing_classes};
