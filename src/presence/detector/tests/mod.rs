//! The rules as scripts (`script` runs them), every interleaving of a small world, and random histories.

use super::*;

mod announced;
mod cluster;
mod events;
mod first_pass;
mod following;
mod fuzz;
mod interleavings;
mod migration;
mod outages;
mod properties;
mod reconcile;
mod retimed;
mod script;
mod tracking;
mod ttls;
mod unheard;
