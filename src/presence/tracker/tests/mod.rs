//! The rules about all servers, one script each, and as properties of random histories.

mod chosen;
mod connections;
mod digests;
mod keys;
mod properties;
mod script;
mod tracking;
mod two_daemons;
mod whole_user;
