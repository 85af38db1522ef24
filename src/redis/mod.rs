//! All of Redis: names, connections, the event stream, commands, a private server.

pub mod cluster;
pub mod inspect;
pub mod link;
mod names;
pub mod private;
mod resp;
pub mod scan;
pub mod target;
pub mod tls;
mod url;
pub mod writer;

pub use names::{CLASSES, Names, missing_classes};
