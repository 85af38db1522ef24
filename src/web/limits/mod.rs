//! How much a client may have: connections, sockets, streams, watches, requests, heartbeats, sessions, bodies; and the log of refusals.
//!
//! These files know neither `App` nor passes: a limit gets the address or the user that it counts. `forwarded` finds the
//! address of a client behind proxies.

pub mod activity;
pub mod bodies;
pub mod connected;
pub mod connections;
pub mod entrance;
pub mod forwarded;
pub mod quota;
pub mod refusal_log;
pub mod shares;
