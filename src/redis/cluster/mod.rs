//! A cluster: which primaries it has, and which of them owns which slot.
//!
//! `topology` is the result, `view` parses and ranks what the nodes know, `addresses` decides where each node is
//! reached, and `poller` asks the nodes. A server that stands
//! alone is a topology of one node.

mod addresses;
mod poller;
mod topology;
mod view;

pub use poller::{Followed, follow, primaries};
pub use topology::{Node, Redirection, SLOTS, Topology, redirection, slot};
