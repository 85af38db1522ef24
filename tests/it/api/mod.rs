//! Requests and answers.

pub(crate) mod http;
mod last_seen;
mod logs;
mod metrics;
mod schemathesis;
mod session_list;
#[cfg(feature = "otel")]
mod traces;
#[cfg(not(feature = "otel"))]
mod traces_absent;
mod users;
