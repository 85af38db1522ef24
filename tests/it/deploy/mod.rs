//! Packages, proxies, supervisors and examples.

mod drain;
mod examples;
mod files;
mod packages;
mod proxies;
mod supervisor;
