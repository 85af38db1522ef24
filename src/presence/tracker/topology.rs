//! The primaries, and the slots that each of them owns.

use std::ops::RangeInclusive;

/// All primaries, as the cluster's nodes last described them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet {
    /// How many slots the keys are divided into; 0 for one server that has all keys.
    pub slots: u16,
    /// The primaries, in the order of their ids.
    pub primaries: Vec<Primary>,
    /// Why no primary is known, if none is.
    pub unknown: String,
}

/// One primary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Primary {
    /// Its id in the cluster; empty for a server that stands alone.
    pub id: String,
    /// Its address as people read it, without a password.
    pub name: String,
    /// The addresses that redirections may use for it, each `HOST:PORT`; first the one at which it is reached.
    pub addresses: Vec<String>,
    /// The slots that it owns.
    pub slots: Vec<RangeInclusive<u16>>,
}

/// A server answered MOVED or ASK: the slot's keys are at another address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// The place of the answer in its batch.
    pub place: usize,
    /// The key's slot.
    pub slot: u16,
    /// `HOST:PORT`; the host is empty where it is the host of the server that answered.
    pub address: String,
}

impl Fleet {
    /// Do several servers share the keys?
    pub fn clustered(&self) -> bool {
        self.slots > 0
    }

    /// The primary that owns a slot; the only one, if the servers share no slots.
    pub fn owner(&self, slot: u16) -> Option<&Primary> {
        self.primaries.iter().find(|primary| !self.clustered() || primary.owns(slot))
    }

    /// The primary that a redirection names. The address at which a primary is reached counts before those that a
    /// primary only announces: another primary may have had them.
    pub fn at(&self, address: &str) -> Option<&Primary> {
        let reached = self.primaries.iter().find(|primary| primary.is_reached_at(address));
        reached.or_else(|| self.primaries.iter().find(|primary| primary.has(address)))
    }

    /// How many slots no primary owns.
    pub fn without_owner(&self) -> usize {
        let owned: usize = self.primaries.iter().map(Primary::owned).sum();
        usize::from(self.slots).saturating_sub(owned)
    }

    /// Is at least one primary known, and has each slot an owner? A node that has yet to meet the others knows only
    /// the slots that it owns itself, which may be none.
    pub fn complete(&self) -> bool {
        !self.primaries.is_empty() && self.without_owner() == 0
    }

    /// Why it is not complete.
    pub fn missing(&self) -> Option<String> {
        match self.without_owner() {
            _ if self.primaries.is_empty() => Some(self.unknown.clone()),
            0 => None,
            missing => Some(format!("{missing} slots of the cluster have no owner")),
        }
    }
}

impl Primary {
    /// Does it own this slot?
    pub fn owns(&self, slot: u16) -> bool {
        self.slots.iter().any(|range| range.contains(&slot))
    }

    /// How many slots it owns.
    pub fn owned(&self) -> usize {
        self.slots.iter().map(|range| range.len()).sum()
    }

    /// Is it reached at this address?
    pub fn is_reached_at(&self, address: &str) -> bool {
        self.addresses.first().is_some_and(|held| held == address)
    }

    /// May a redirection use this address for it?
    pub fn has(&self, address: &str) -> bool {
        self.addresses.iter().any(|held| held == address)
    }

    /// Is it the same server? With another address it is not: the link to it must start again.
    pub fn is(&self, other: &Primary) -> bool {
        self.id == other.id && self.addresses == other.addresses
    }

    /// The full address of a redirection by this server, which leaves out the host if the host is its own.
    pub fn absolute(&self, address: &str) -> String {
        let own = self.addresses.first().and_then(|own| own.rsplit_once(':'));
        // An IPv6 address may begin with a colon, too.
        let port = address.strip_prefix(':').filter(|port| port.bytes().all(|c| c.is_ascii_digit()));
        match own {
            Some((host, _)) if port.is_some() => format!("{host}{address}"),
            _ => address.to_owned(),
        }
    }
}
