//! The rules about all servers, one script each, and as properties of random histories.

mod connections;
mod keys;
mod properties;
mod script;
mod tracking;
mod whole_user;
