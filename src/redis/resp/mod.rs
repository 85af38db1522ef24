//! One RESP client: frames on a connection, and pipelines of commands with their replies.

pub(in crate::redis) mod pipeline;
pub(in crate::redis) mod wire;
