//! WebSockets and Server-Sent Events: clients that read the hub.

mod asked;
mod bells;
mod frame_queue;
pub mod frames;
mod group_watch;
mod groups;
mod line;
pub mod names;
mod reader;
pub mod socket;
pub mod sse;
mod wanted;
mod wire;
