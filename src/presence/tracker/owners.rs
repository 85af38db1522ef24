//! The servers, and how keys pass from one server's detector to another's.

use super::gap::Cause;
use super::server::{Phase, Server};
use super::topology::{Elsewhere, Fleet, Primary};
use super::{Action, Event, Tracker, WrittenKeys};
use crate::{Answer, End, Input, Key, Moved, Time};
use std::collections::BTreeMap;

/// How often the keys of a server that left are offered again while some slots have no owner, in milliseconds.
const RETIRE_EVERY_MS: u64 = 500;

impl Tracker {
    /// Follows the primaries that there are now.
    pub(super) fn follow(&mut self, now: Time, fleet: Fleet) {
        self.redirections.clear();
        for at in 0..self.servers.len() {
            self.compare_primary(now, at, &fleet);
        }
        for primary in &fleet.primaries {
            if self.place_of(&primary.id).is_none() {
                self.open_link(now, primary);
            }
        }
        self.grant_returned(now, &fleet);
        self.fleet = fleet;
        self.retire(now);
        self.open_if_compared();
        self.servers_changed = true;
        self.may_release = true;
    }

    fn open_link(&mut self, now: Time, primary: &Primary) {
        self.links += 1;
        self.servers.push(Server::new(now, self.links, primary, &self.settings));
        self.out.push_back(Action::Open { link: self.links, primary: primary.id.clone() });
    }

    /// Learns the new slots of a server, or that it left.
    fn compare_primary(&mut self, now: Time, at: usize, fleet: &Fleet) {
        let server = &mut self.servers[at];
        if server.has_left() {
            return;
        }
        let Some(primary) = fleet.primaries.iter().find(|primary| primary.is(&server.primary)) else {
            return self.part_from(now, at, fleet);
        };
        if server.primary.slots != primary.slots {
            let settled = server.settled();
            server.polling.once(now, settled);
            server.slots_since = now;
            if let Phase::Up(canary) = &mut server.phase {
                canary.hurry(now);
            }
        }
        server.primary = primary.clone();
    }

    /// If servers that were compared before own all its slots, the slots have moved with all keys. If not, a replica may
    /// have taken over, which lacks the last writes.
    fn part_from(&mut self, now: Time, at: usize, fleet: &Fleet) {
        let server = &self.servers[at];
        let known = |primary: &Primary| {
            let owner = self.place_of(&primary.id).filter(|&owner| owner != at);
            owner.is_some_and(|owner| self.servers[owner].compared > 0)
        };
        let mut slots = server.primary.slots.iter().cloned().flatten();
        let moved = slots.all(|slot| fleet.owner(slot).is_some_and(known));
        self.servers[at].lossy = !(server.settled() && moved);
        self.gap(now, at, Cause::Topology, Cause::Topology.text().into());
        self.out.push_back(Action::Forget(self.servers[at].link));
        self.fall(now, at, Phase::Left);
        self.servers[at].polling = Default::default();
    }

    /// Hands over the keys of servers that left.
    fn retire(&mut self, now: Time) {
        for at in 0..self.servers.len() {
            if self.servers[at].has_left() {
                self.feed(now, at, Input::Retired { lossy: self.servers[at].lossy });
            }
        }
        let left = || self.servers.iter().filter(|server| server.has_left());
        let pause = if left().any(|server| server.detector.has_unretired()) { 1 } else { RETIRE_EVERY_MS };
        self.retire_at = Some(now.plus(pause)).filter(|_| left().next().is_some());
    }

    /// Offers the keys again, once each slot has an owner.
    pub(super) fn retire_again(&mut self, now: Time) {
        if self.retire_at.is_none_or(|due| due > now) {
            return;
        }
        if self.fleet.without_owner() == 0 {
            self.retire(now);
        } else {
            self.retire_at = Some(now.plus(RETIRE_EVERY_MS));
        }
    }

    /// Forgets servers that left and have no keys any longer.
    pub(super) fn forget_the_empty(&mut self) {
        let before = self.servers.len();
        for server in &self.servers {
            if server.has_left() && server.detector.counts().keys == 0 {
                self.forgotten.add_totals(server.detector.counts());
            }
        }
        self.servers.retain(|server| !server.has_left() || server.detector.counts().keys > 0);
        if self.servers.len() < before {
            self.servers_changed = true;
            self.retire_at = self.retire_at.filter(|_| self.servers.iter().any(Server::has_left));
        }
    }

    /// The server that follows the primary of this id.
    fn place_of(&self, id: &str) -> Option<usize> {
        self.servers.iter().position(|server| server.primary.id == id && !server.has_left())
    }

    /// Turns an event into a question where slots may be moving: after `del` the key may be at another server, and a server
    /// speaks only for the slots that it owns.
    pub(super) fn doubt<'a>(&self, at: usize, event: Event<'a>) -> Event<'a> {
        match event {
            Event::Key(Input::Ended(name, End::Deleted)) => Event::Key(Input::Doubted(name)),
            // Redis removes the key; its user cannot renew it.
            Event::Key(Input::Ended(name, End::Expired)) if self.is_ownerless(name) => {
                Event::Key(Input::Ended(name, End::Evicted))
            }
            Event::Key(
                Input::Renewed(name) | Input::Created(name) | Input::Placed(name) | Input::Retimed(name),
            ) if self.is_foreign(at, name) => Event::Key(Input::Claimed(name)),
            event => event,
        }
    }

    /// Whether another server owns the key's slot, or did when the event was sent. A key that has not moved away was asked for
    /// here before.
    fn is_foreign(&self, at: usize, name: &[u8]) -> bool {
        let server = &self.servers[at];
        if server.detector.has_settled(name) {
            return false;
        }
        if matches!(&server.phase, Phase::Up(canary) if !canary.has_passed(server.slots_since)) {
            return true;
        }
        let Ok(key) = Key::parse(name) else { return false };
        self.owner((self.settings.slot)(&key)).is_some_and(|owner| owner != server.primary.id)
    }

    /// The id of the primary that owns a slot, if it is known. Redirections are newer than the topology.
    fn owner(&self, slot: u16) -> Option<&str> {
        let redirected = self.redirections.get(&slot).map(String::as_str);
        redirected.or_else(|| self.fleet.owner(slot).map(|primary| primary.id.as_str()))
    }

    /// This daemon has written these keys. Their own event need not have arrived; it only moves a deadline further.
    pub(super) fn written(&mut self, now: Time, keys: &[(Key, u32)]) {
        let mut news: BTreeMap<usize, WrittenKeys> = BTreeMap::new();
        for (key, ttl_ms) in keys {
            let slot = (self.settings.slot)(key);
            let owner = self.fleet.owner(slot).and_then(|primary| self.place_of(&primary.id));
            let Some(at) = owner else { continue };
            // Of a key that is not kept, any TTL is news that other daemons do not expect.
            let is_news = match self.keeps(at, key.as_bytes()) {
                true => self.servers[at].detector.written(now, key.as_bytes(), *ttl_ms),
                false => u64::from(*ttl_ms) < self.settings.detector.first_ttl_ms,
            };
            if is_news {
                news.entry(at).or_default().push((key.clone(), *ttl_ms));
            }
        }
        for (at, keys) in news {
            self.out.push_back(Action::Announce(self.servers[at].link, keys));
        }
    }

    /// A server's answers name the owners of some slots: newer than the topology. An answer that a key has not come
    /// yet learns from which server the key comes.
    pub(super) fn redirect(&mut self, at: usize, answers: &mut [Answer], elsewhere: Vec<Elsewhere>) {
        for Elsewhere { place, slot, address } in elsewhere {
            let address = self.servers[at].primary.absolute(&address);
            let Some(primary) = self.fleet.at(&address) else {
                self.redirections.remove(&slot);
                continue;
            };
            if let Some(Answer::NotYet(left)) = answers.get_mut(place)
                && let Some(owner) = self.place_of(&primary.id)
            {
                *left = self.servers[owner].link;
            }
            self.redirections.insert(slot, primary.id.clone());
        }
    }

    /// Hands a key from one server's detector to the detector of its owner, which adopts the key before the first one
    /// lets it go: so the user always has a key. Where the owner is not known yet, the key stays, and the detector
    /// offers it again.
    pub(super) fn hand_over(&mut self, now: Time, from: usize, moved: &Moved) {
        let slot = (self.settings.slot)(&moved.key);
        let Some(to) = self.owner(slot).and_then(|owner| self.place_of(owner)).filter(|&to| to != from)
        else {
            return;
        };
        if self.keeps(to, moved.key.as_bytes()) {
            self.feed(now, to, Input::Adopted(moved, self.servers[from].link));
            self.drain(now, to);
        }
        self.feed(now, from, Input::LetGo(moved.key.as_str().as_bytes()));
    }
}
