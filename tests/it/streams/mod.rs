//! WebSocket, Server-Sent Events, clients and the console.

mod beat;
mod churn;
mod console;
mod console_figures;
mod console_sessions;
mod console_sight;
mod console_users;
mod events;
mod grace;
mod js_client;
mod keeping;
mod page;
mod rust_client;
mod slow;
pub(crate) mod socket;
