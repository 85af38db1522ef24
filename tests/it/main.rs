//! The whole daemon against real Redis.

#[path = "../common/mod.rs"]
mod common;

mod api;
mod cli;
mod deploy;
mod docs;
mod redis;
mod security;
mod streams;
