//! The rules about all servers, one script each, and as properties of random histories.

mod connections;
mod digests;
mod keys;
mod properties;
mod script;
mod whole_user;
