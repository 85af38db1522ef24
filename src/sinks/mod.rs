//! Where transitions go besides clients: to Redis and to other programs. Each sink reads the hub's history at its own pace and delays
//! nobody.

pub mod last_seen;
pub mod stream;
pub mod webhooks;
