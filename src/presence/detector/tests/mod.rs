//! The detector's rules: by script (`events`, `outages`, `first_pass`, …), by every interleaving, by random histories.

use super::*;

mod fuzz;
mod interleavings;
mod migration;
mod properties;
mod script;
