//! WebSocket and Server-Sent Events.

pub mod frames;
pub mod names;
pub mod recorder;
pub mod sse;
pub mod websocket;
