//! Packages, proxies, supervisors and examples.

mod drain;
mod examples;
mod files;
mod proxies;
mod supervisor;
