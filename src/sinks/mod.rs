//! What leaves the hub for Redis and other programs: readers of the hub's history, each with its own pace.

pub mod last_seen;
