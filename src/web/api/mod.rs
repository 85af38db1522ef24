//! The HTTP calls. Each handler reads its request, checks it, does it, and answers.

pub mod groups;
pub mod health;
pub mod heartbeats;
pub mod listing;
mod request;
mod sessions;
pub mod sockets;
pub mod stats;
pub mod statuses;
pub mod users;
