//! At which of its addresses each node is reached. No I/O.
//!
//! A node's id says who it is; its addresses are only ways to it. CLUSTER NODES names an IP address and perhaps a
//! hostname, and either may fail: a pod that was restarted, an address inside another network, a certificate for
//! the hostname alone. So a node counts as reached only at an address that answered with the node's id.

use crate::redis::cluster::view::{AcceptedView, NodeAddress};
use std::collections::{BTreeMap, BTreeSet};

/// The addresses at which nodes answered.
#[derive(Default)]
pub(super) struct ReachedNodes {
    /// By node id; kept while the node is silent.
    reached: BTreeMap<String, NodeAddress>,
    /// The nodes that answered the last poll at that address.
    answered: BTreeSet<String>,
    /// The nodes all of whose addresses the last poll tried.
    tried: BTreeSet<String>,
}

impl ReachedNodes {
    /// The addresses to poll: the one at which a node answered, or else all of its addresses.
    pub(super) fn polled(&mut self, accepted: &AcceptedView) -> BTreeSet<NodeAddress> {
        let mut places = BTreeSet::new();
        self.tried.clear();
        for (id, addresses) in accepted.nodes() {
            if self.answered.contains(id) {
                places.extend(self.reached.get(id).cloned());
            } else {
                places.extend(self.reached.get(id).cloned());
                places.extend(addresses.iter().cloned());
                self.tried.insert(id.to_owned());
            }
        }
        places
    }

    /// Takes in a poll: which node answered at which address. `seeds` are the addresses of the URL, which stand in
    /// for a node none of whose own addresses answered.
    pub(super) fn update(
        &mut self,
        accepted: &AcceptedView,
        answers: &BTreeMap<NodeAddress, String>,
        seeds: &[NodeAddress],
    ) {
        self.answered.clear();
        let mut next = BTreeMap::new();
        for (id, addresses) in accepted.nodes() {
            let answers = |place: &&NodeAddress| answers.get(place).is_some_and(|by| by == id);
            let held = self.reached.get(id);
            let seed = || seeds.iter().filter(|_| self.tried.contains(id)).find(answers);
            let found = held.filter(answers).or_else(|| addresses.iter().find(answers)).or_else(seed);
            if found.is_some() {
                self.answered.insert(id.to_owned());
            }
            let known = |place: &&NodeAddress| addresses.contains(place) || seeds.contains(place);
            if let Some(place) = found.or(held.filter(known)) {
                next.insert(id.to_owned(), place.clone());
            }
        }
        self.reached = next;
    }

    /// Has the last poll tried, or reached, every node of the view?
    pub(super) fn is_complete(&self, accepted: &AcceptedView) -> bool {
        accepted.nodes().all(|(id, _)| self.answered.contains(id) || self.tried.contains(id))
    }

    /// The address of each node that was reached, by id.
    pub(super) fn by_id(&self) -> &BTreeMap<String, NodeAddress> {
        &self.reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::cluster::view::ClusterView;
    use crate::redis::info::Info;
    use std::time::Instant;

    fn at(host: &str) -> NodeAddress {
        (host.to_owned(), 7)
    }

    fn accepted(ip: &str) -> AcceptedView {
        let info = Info::parse("cluster_state:ok\ncluster_current_epoch:1");
        let nodes = format!("aaa {ip}:7@17,a.example master - 0 1 1 connected 0-16383");
        let mut accepted = AcceptedView::default();
        accepted.accept(&[ClusterView::parse(&info, &nodes, "h").unwrap()], Instant::now());
        accepted
    }

    /// Polls once: each of `hosts` answers as the node with that id, if it is polled.
    fn poll(nodes: &mut ReachedNodes, view: &AcceptedView, hosts: &[(&str, &str)]) -> Option<String> {
        let seeds = [at("seed")];
        let polled: BTreeSet<NodeAddress> = nodes.polled(view).into_iter().chain(seeds.clone()).collect();
        let answers = hosts.iter().map(|(host, id)| (at(host), (*id).to_owned()));
        nodes.update(view, &answers.filter(|(place, _)| polled.contains(place)).collect(), &seeds);
        nodes.by_id().get("aaa").map(|(host, _)| host.clone())
    }

    #[test]
    fn ip_address_comes_first_and_stays() {
        let (mut nodes, view) = (ReachedNodes::default(), accepted("10.0.0.1"));
        let all = [("seed", "aaa"), ("10.0.0.1", "aaa"), ("a.example", "aaa")];
        assert_eq!(poll(&mut nodes, &view, &all).as_deref(), Some("10.0.0.1"));
        assert_eq!(
            poll(&mut nodes, &view, &[]).as_deref(),
            Some("10.0.0.1"),
            "a silent node stays where it was"
        );
        assert_eq!(poll(&mut nodes, &view, &all).as_deref(), Some("10.0.0.1"));
    }

    #[test]
    fn failing_address_gives_way() {
        let (mut nodes, view) = (ReachedNodes::default(), accepted("10.0.0.1"));
        assert_eq!(poll(&mut nodes, &view, &[("a.example", "aaa")]).as_deref(), Some("a.example"));
        let taken = [("10.0.0.1", "bbb"), ("a.example", "aaa")];
        assert_eq!(
            poll(&mut nodes, &view, &taken).as_deref(),
            Some("a.example"),
            "another node answers there"
        );
        assert_eq!(
            poll(&mut nodes, &view, &[("seed", "aaa")]).as_deref(),
            Some("a.example"),
            "not tried yet"
        );
        assert_eq!(poll(&mut nodes, &view, &[("seed", "aaa")]).as_deref(), Some("seed"));
    }

    #[test]
    fn restarted_node_is_found_at_its_new_address() {
        let mut nodes = ReachedNodes::default();
        let first = accepted("10.0.0.1");
        assert_eq!(poll(&mut nodes, &first, &[("10.0.0.1", "aaa")]).as_deref(), Some("10.0.0.1"));
        let next = accepted("10.0.0.9");
        assert_eq!(poll(&mut nodes, &next, &[]), None, "the old address is no longer one of its own");
        assert_eq!(poll(&mut nodes, &next, &[("10.0.0.9", "aaa")]).as_deref(), Some("10.0.0.9"));
    }
}
