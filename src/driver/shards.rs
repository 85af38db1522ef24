//! Which servers are followed: as the cluster's slots move, nodes come and go, and keys change hands.

use super::Driver;
use super::server::Server;
use crate::presence::{Answer, Input, Moved, Sweeps, Time};
use crate::redis::cluster::{Node, Redirection, Topology, slot};
use crate::redis::link::{Feeder, Place};
use tracing::info;

/// How often a server that left tries again to give its keys over, while slots have no owner.
const RETIRE_EVERY_MS: u64 = 500;

impl Driver {
    /// Follows the servers that there are now.
    pub(super) fn reshape(&mut self) {
        let topology = self.topology.borrow_and_update().clone();
        self.redirections.clear();
        for server in 0..self.servers.len() {
            self.compare_node(server, &topology);
        }
        for node in &topology.nodes {
            if self.place_of(&node.id).is_none() {
                if topology.clustered {
                    info!(server = node.shown(), "a primary of the cluster; following it");
                }
                self.links += 1;
                let feeder = Feeder { link: self.links, feed: self.feeder.clone() };
                let of_cluster = || Place { node: node.id.clone(), topology: self.topology.clone() };
                let place = topology.clustered.then(of_cluster);
                self.servers.push(Server::new(node, &self.template, place, feeder));
            }
        }
        self.current = topology;
        self.retire();
        self.open_if_compared();
    }

    /// A server whose slots are others now has a gap; one that is no primary any more leaves.
    fn compare_node(&mut self, at: usize, topology: &Topology) {
        let server = &mut self.servers[at];
        if server.leaves() {
            return;
        }
        let same = |held: &&Node| held.id == server.node.id && held.addresses == server.node.addresses;
        let Some(node) = topology.nodes.iter().find(same) else {
            server.link = None;
            server.connected = false;
            server.sweeps = Sweeps::default();
            self.tell_gap(at, "topology", "it is no primary of the cluster any more");
            let now = self.clock.now();
            self.servers[at].detector.handle(now, Input::Down);
            self.drain(at);
            return;
        };
        if server.node.slots != node.slots {
            server.slots_moved(self.clock.now());
        }
        server.node = node.clone();
    }

    /// Gives over the keys of servers that left, and forgets those that have none left.
    pub(super) fn retire(&mut self) {
        let now = self.clock.now();
        for at in 0..self.servers.len() {
            if self.servers[at].leaves() {
                self.servers[at].detector.handle(now, Input::Retired);
                self.drain(at);
            }
        }
        self.publish_counts();
        self.servers.retain(|server| !server.leaves() || server.detector.counts().keys > 0);
        let waits = self.servers.iter().any(Server::leaves);
        self.retire_at = waits.then(|| now.plus(RETIRE_EVERY_MS));
    }

    /// Tries again, once the slots have owners.
    pub(super) fn retire_again(&mut self, now: Time) {
        if self.current.without_owner() == 0 {
            self.retire();
        } else {
            self.retire_at = Some(now.plus(RETIRE_EVERY_MS));
        }
    }

    /// The server that follows the node of this name.
    fn place_of(&self, node: &str) -> Option<usize> {
        self.servers.iter().position(|server| server.node.id == node && !server.leaves())
    }

    /// A server that was asked said where keys of some slots are: newer than what the topology knows. The answers
    /// that wait for a key to come learn from where.
    pub(super) fn redirect(
        &mut self,
        at: usize,
        answers: &mut [Answer],
        redirections: Vec<(usize, Redirection)>,
    ) {
        for (place, Redirection { slot, address, .. }) in redirections {
            let address = self.servers[at].node.absolute(&address);
            let Some(node) = self.current.at(&address) else {
                self.redirections.remove(&slot);
                continue;
            };
            if let Some(Answer::NotYet(left)) = answers.get_mut(place)
                && let Some(owner) = self.place_of(&node.id)
            {
                *left = self.servers[owner].number();
            }
            self.redirections.insert(slot, node.id.clone());
        }
    }

    /// Hands a key from one server's detector to that of its owner, which takes it in first. Where the owner is
    /// not known yet, the key stays, and is offered again.
    pub(super) fn hand_over(&mut self, from: usize, moved: &Moved) {
        let name = self.template.link.names.redis_key(moved.key.as_str());
        let said = self.redirections.get(&slot(name.as_bytes()));
        let owner = match said {
            Some(node) => Some(node.as_str()),
            None => self.current.owner(name.as_bytes()).map(|node| node.id.as_str()),
        };
        let Some(to) = owner.and_then(|owner| self.place_of(owner)).filter(|&to| to != from) else { return };
        let (now, number) = (self.clock.now(), self.servers[from].number());
        self.servers[to].detector.handle(now, Input::Adopted(moved, number));
        self.drain(to);
        self.servers[from].detector.handle(now, Input::LetGo(moved.key.as_str().as_bytes()));
    }

    /// What is in the way of knowing everybody's state, of all servers together.
    pub(super) fn in_the_way(&self) -> Option<String> {
        if self.current.nodes.is_empty() {
            return Some(self.current.unknown.clone());
        }
        let missing = self.current.without_owner();
        if missing > 0 {
            return Some(format!("{missing} slots of the cluster have no owner"));
        }
        let first = self.servers.iter().find(|server| !server.ready());
        first.map(Server::in_the_way)
    }

    /// Have all servers been compared once? A node of a cluster that has yet to meet the others knows of no more
    /// than it owns itself, which may be nothing.
    pub(super) fn all_compared(&self) -> bool {
        let known = !self.current.nodes.is_empty() && self.current.without_owner() == 0;
        known && self.servers.iter().all(|server| server.compared || server.leaves())
    }
}
