//! The whole daemon against real Redis.

#[path = "../common/mod.rs"]
mod common;

mod api;
mod churn;
mod cli;
mod client;
mod cluster;
mod commands;
mod console;
mod console_sight;
mod degraded;
mod deploy;
mod docs;
mod doctor;
mod events;
mod examples;
mod faults;
mod floors;
mod http;
mod lifecycle;
mod logs;
mod proxies;
mod rust_client;
mod schemathesis;
mod security_attacks;
mod security_fence;
mod security_limits;
mod security_origins;
mod security_tls;
mod security_tokens;
mod slow;
mod socket;
mod supervisor;
mod terminal;
mod top;
#[cfg(feature = "otel")]
mod traces;
#[cfg(not(feature = "otel"))]
mod traces_absent;
