//! Packages, proxies, supervisors and examples.

mod examples;
mod files;
mod proxies;
mod supervisor;
