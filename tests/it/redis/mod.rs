//! Servers, clusters and their faults.

mod cluster;
mod degraded;
pub(crate) mod doctor;
mod faults;
mod key_pattern;
mod leases;
mod lifecycle;
mod modes;
mod outages;
mod sessions;
mod tracking;
mod ttls;
