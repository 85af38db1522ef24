//! WebSocket, Server-Sent Events, clients and the console.

mod beat;
mod churn;
mod console;
mod console_sight;
mod events;
mod grace;
mod js_client;
mod keeping;
mod page;
mod rust_client;
mod slow;
pub(crate) mod socket;
