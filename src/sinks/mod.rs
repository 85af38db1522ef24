//! Where transitions go besides clients. Each sink reads the hub's history and delays nobody.

pub mod stream;
pub mod webhooks;
