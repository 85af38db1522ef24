//! keybeat
pub mod cli;
pub mod config;
pub mod driver;
pub mod error;
pub mod hub;
pub mod keyspace;
pub mod metrics;
pub mod presence;
pub mod protocol;
pub mod server;
pub mod web;
