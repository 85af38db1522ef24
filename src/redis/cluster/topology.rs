//! The primaries, and which of them owns which key.

use crate::presence::{Fleet, Primary};
use crate::redis::names::Names;
use crate::redis::target::Target;

/// How many slots a cluster has (Redis cluster specification).
pub const SLOTS: u16 = 16_384;

/// One primary, and how to connect to it.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its id, slots and addresses. The first address is the one of `target`.
    pub primary: Primary,
    /// How to connect to it.
    pub target: Target,
}

impl Node {
    /// Its id in the cluster; empty for a server that stands alone.
    pub fn id(&self) -> &str {
        &self.primary.id
    }

    /// The name at this node of the daemon named `daemon`.
    pub fn daemon(&self, daemon: &str) -> String {
        if self.id().is_empty() { daemon.to_owned() } else { format!("{daemon}-{}", self.id()) }
    }

    /// A canary key whose slot this node owns; `None` if no such key was found.
    pub fn canary_key(&self, names: &Names, daemon: &str) -> Option<String> {
        self.own_key(&names.canary_key(daemon))
    }

    /// A key that begins like this and lies in a slot of the node, the same at all daemons that know the same slots; `None` if
    /// the node owns none.
    pub fn own_key(&self, key: &str) -> Option<String> {
        if self.id().is_empty() {
            return Some(key.to_owned());
        }
        if self.primary.slots.is_empty() {
            return None;
        }
        // Keys fall into slots at random: 163,840 tries miss a node that owns one slot in 1 of 20,000 cases.
        (0..u32::from(SLOTS) * 10)
            .map(|i| format!("{key}:{i}"))
            .find(|key| self.primary.owns(slot(key.as_bytes())))
    }

    /// The hosts that it announces.
    pub fn hosts(&self) -> impl Iterator<Item = String> {
        let places = self.primary.addresses.iter();
        places.filter_map(|place| Some(place.rsplit_once(':')?.0.to_owned()))
    }

    /// Its name for people.
    pub fn shown(&self) -> &str {
        self.target.shown()
    }
}

/// All primaries.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    /// Do the nodes share the keys by slot? Otherwise one server has all keys.
    pub clustered: bool,
    /// The primaries, in the order of their ids.
    pub nodes: Vec<Node>,
    /// Why no primary is known.
    pub unknown: String,
}

impl Topology {
    /// The topology of one server, with or without Sentinels.
    pub fn one(target: Target) -> Topology {
        let primary = Primary { name: target.shown().to_owned(), ..Primary::default() };
        Topology { clustered: false, nodes: vec![Node { primary, target }], unknown: String::new() }
    }

    /// The node that owns a key.
    pub fn owner(&self, redis_key: &[u8]) -> Option<&Node> {
        if !self.clustered {
            return self.nodes.first();
        }
        let slot = slot(redis_key);
        self.nodes.iter().find(|node| node.primary.owns(slot))
    }

    /// The node that a redirection names. The address that a node is reached at counts before those that it only
    /// announces: another node may have had them.
    pub fn at(&self, address: &str) -> Option<&Node> {
        let reached = self.nodes.iter().find(|node| node.primary.is_reached_at(address));
        reached.or_else(|| self.nodes.iter().find(|node| node.primary.has(address)))
    }

    /// The primaries without their connections.
    pub fn fleet(&self) -> Fleet {
        Fleet {
            slots: if self.clustered { SLOTS } else { 0 },
            primaries: self.nodes.iter().map(|node| node.primary.clone()).collect(),
            unknown: self.unknown.clone(),
        }
    }
}

/// The slot of a key.
pub fn slot(redis_key: &[u8]) -> u16 {
    redis_protocol::redis_keyslot(redis_key)
}

/// Where a node sends a client that asks for a key which the node does not own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirection {
    /// The key's slot.
    pub slot: u16,
    /// `HOST:PORT`; the host is empty if it is that of the node which was asked.
    pub address: String,
    /// The slot is being moved: only this command goes there, after ASKING.
    pub ask: bool,
}

/// Parses the error `MOVED 3999 127.0.0.1:6381` or `ASK …`; `None` for any other error.
pub fn redirection(why: &str) -> Option<Redirection> {
    let mut words = why.split(' ');
    let ask = match words.next()? {
        "MOVED" => false,
        "ASK" => true,
        _ => return None,
    };
    Some(Redirection { slot: words.next()?.parse().ok()?, address: words.next()?.to_owned(), ask })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_name_slot_and_address() {
        let moved = Redirection { slot: 3999, address: "127.0.0.1:6381".into(), ask: false };
        assert_eq!(redirection("MOVED 3999 127.0.0.1:6381"), Some(moved.clone()));
        assert_eq!(redirection("ASK 3999 127.0.0.1:6381"), Some(Redirection { ask: true, ..moved }));
        for other in ["CLUSTERDOWN The cluster is down", "MOVED", "MOVED x y", "MOVED 1", ""] {
            assert_eq!(redirection(other), None, "{other}");
        }
    }
}
