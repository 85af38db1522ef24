//! Packages, proxies, supervisors and examples.

mod below_path;
mod drain;
mod examples;
mod files;
mod helm;
mod packages;
mod proxies;
mod supervisor;
