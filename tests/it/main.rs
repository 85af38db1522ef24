//! The whole daemon against real Redis.

#[path = "../common/mod.rs"]
mod common;

mod churn;
mod floors;
