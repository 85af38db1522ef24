//! WebSockets and Server-Sent Events: clients that read the hub.

mod asked;
mod bells;
pub mod frames;
pub mod names;
mod reader;
pub mod socket;
pub mod sse;
mod wire;
