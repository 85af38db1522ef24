//! Slots without an owner: an outage for their keys alone.
//!
//! No server takes heartbeats for such a slot, and none answers questions about its keys. The server that owned it may
//! still have the keys, and announces the end of each. So until the slot has an owner again nobody of its users
//! changes, and after that absence proves nothing for one TTL.

use super::Tracker;
use super::topology::Fleet;
use crate::{Input, Key, Time};
use std::collections::BTreeMap;

/// A topology may be this old when it comes, in milliseconds: the nodes are polled, and a poll takes its time.
const OLD_MS: u64 = 2_000;

/// The slots without an owner.
#[derive(Default)]
pub(super) struct Ownerless {
    /// Since when, at the earliest.
    slots: BTreeMap<u16, Time>,
    /// The last time in which the process was stopped or starved: what it learns right after that is so much older.
    late: (Time, Time),
}

impl Ownerless {
    /// The driver's loop has turned late: nothing was learnt in between.
    pub(super) fn turned_late(&mut self, from: Time, to: Time) {
        let from = if from.since(self.late.1) <= OLD_MS { self.late.0 } else { from };
        self.late = (from, to);
    }

    /// When what is learnt now may have come to be.
    fn earliest(&self, now: Time) -> Time {
        let (from, to) = self.late;
        if now.since(to) <= OLD_MS { from.minus(OLD_MS) } else { now.minus(OLD_MS) }
    }

    /// Follows the topology. Returns the slots that have an owner again, and since when they had none.
    fn follow(&mut self, now: Time, fleet: &Fleet) -> BTreeMap<u16, Time> {
        if self.slots.is_empty() && fleet.without_owner() == 0 {
            return BTreeMap::new();
        }
        let (before, earliest) = (std::mem::take(&mut self.slots), self.earliest(now));
        let (returned, still) = before.into_iter().partition(|(slot, _)| fleet.owner(*slot).is_some());
        self.slots = still;
        for slot in (0..fleet.slots).filter(|&slot| fleet.owner(slot).is_none()) {
            self.slots.entry(slot).or_insert(earliest);
        }
        returned
    }
}

impl Tracker {
    /// Grants the keys of the slots that have an owner again, also those of servers that have left.
    pub(super) fn grant_returned(&mut self, now: Time, fleet: &Fleet) {
        let returned = self.ownerless.follow(now, fleet);
        let Some(&since) = returned.values().min() else { return };
        for at in 0..self.servers.len() {
            let slot = &self.settings.slot;
            let keys = self.servers[at].detector.keys(|key| returned.contains_key(&slot(key)));
            if !keys.is_empty() {
                self.feed(now, at, Input::Barred(&keys, since));
            }
        }
    }

    /// Whether the slot of this key has no owner.
    pub(super) fn is_ownerless(&self, name: &[u8]) -> bool {
        let slots = &self.ownerless.slots;
        !slots.is_empty() && Key::parse(name).is_ok_and(|key| slots.contains_key(&(self.settings.slot)(&key)))
    }
}
