//! Servers, clusters and their faults.

mod address_map;
mod cluster;
mod degraded;
pub(crate) mod doctor;
mod faults;
mod first_seconds;
mod fleet;
mod groups;
mod key_pattern;
pub(crate) mod last_seen;
mod leases;
mod lifecycle;
mod managed;
mod modes;
mod outages;
mod sessions;
mod statuses;
mod stream;
mod stream_model;
mod tracking;
mod ttls;
mod watched;
mod webhooks;
