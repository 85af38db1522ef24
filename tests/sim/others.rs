//! The other daemons at a server, as far as this one notices them: whether they hold the lease, say so, and ask at deadlines.

use super::link::Feed;
use super::redis::{Event, Redis};
use super::world::{Act, Broken, World};
use keybeat::presence::{Digest, DigestMessage, LEASE_MS, LeaseOrder, LeaseReply};

/// The name of whichever daemon it is.
const OTHER: &str = "other";
/// A holder asks for a key at most so long after its deadline, in milliseconds.
const PROMPT_MS: u64 = 20;
/// While no key is known to run out, a holder looks again after so long, in milliseconds.
const LOOK_MS: u64 = 200;

/// The lease of one server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lease {
    /// The holder, and until when; `true` is the daemon under test.
    held: Option<(bool, u64)>,
    /// The other daemons do nothing until then.
    dead_until: u64,
    /// One of them believes that it holds the lease, and asks at deadlines.
    leads: bool,
    /// Since when it has announced each key that comes or ends; 0 if it has not.
    tracks: u64,
    /// When one of them last began or ceased to lead, or to announce.
    pub changed: u64,
    /// When its last announcement is due.
    said_at: u64,
}

impl Lease {
    fn holder(&self, now: u64) -> Option<bool> {
        self.held.filter(|&(_, until)| until > now).map(|(ours, _)| ours)
    }

    /// The key is gone, with all others.
    pub fn lose(&mut self) {
        self.held = None;
    }

    /// The faults end; the other daemons die for good, or live.
    pub fn heal(&mut self, dies: bool) {
        self.dead_until = if dies { u64::MAX } else { self.dead_until };
        self.leads &= !dies;
    }

    /// The holder, as a daemon finds it that does not take the lease.
    pub fn look(&self, now: u64) -> LeaseReply {
        match self.holder(now) {
            Some(ours) => LeaseReply::Other(if ours { "this one" } else { OTHER }.into()),
            None => LeaseReply::Nobody,
        }
    }

    /// As Redis carries out the daemon's order.
    pub fn carry_out(&mut self, now: u64, order: LeaseOrder) -> LeaseReply {
        let mine = LeaseReply::Mine { daemons: 2 };
        match (order, self.holder(now)) {
            (LeaseOrder::Take, Some(false)) => LeaseReply::Other(OTHER.into()),
            (LeaseOrder::Take | LeaseOrder::Seize, _) => {
                self.held = Some((true, now + LEASE_MS));
                mine
            }
            (LeaseOrder::Renew, Some(ours)) => {
                self.held = Some((ours, now + LEASE_MS));
                if ours { mine } else { LeaseReply::Other(OTHER.into()) }
            }
            (LeaseOrder::Renew, None) => LeaseReply::Nobody,
            (LeaseOrder::Release, holder) => {
                if holder == Some(true) {
                    self.held = None;
                }
                LeaseReply::Nobody
            }
        }
    }
}

impl Redis {
    /// When the first key runs out.
    fn first_deadline(&self) -> Option<u64> {
        self.keys.values().copied().min()
    }
}

impl World {
    /// Another daemon wakes, as it does about once a second.
    pub fn others_wake(&mut self, node: usize) {
        let now = self.now;
        self.later(900..1_100, Act::Others(node));
        if !self.nodes[node].takes_writes(now) {
            return;
        }
        let (stirs, dies_ms) = (!self.healing && self.rng.u8(..6) == 0, self.rng.u64(..12_000));
        let which = self.rng.u8(..5);
        let lease = &mut self.nodes[node].lease;
        if now < lease.dead_until {
            if self.knobs.broken == Broken::BeatsForever {
                self.nodes[node].out.push(Event::Lease(true));
            }
            return;
        }
        if stirs {
            match which {
                // All of them die, or freeze.
                0 | 1 => {
                    (lease.dead_until, lease.leads, lease.tracks) = (now + dies_ms, false, 0);
                    lease.changed = now;
                }
                2 => lease.held = lease.held.map(|(ours, _)| (ours, u64::MAX)),
                3 => lease.lose(),
                // One takes the lease though this daemon holds it.
                _ => lease.held = Some((false, now + LEASE_MS)),
            }
        }
        let lease = &mut self.nodes[node].lease;
        let takes = lease.holder(now).is_none() && which > 2;
        if takes || (lease.leads && lease.holder(now) == Some(false)) {
            lease.held = Some((false, now + LEASE_MS));
        }
        let leads = lease.holder(now) == Some(false) && now >= lease.dead_until;
        let led = std::mem::replace(&mut lease.leads, leads);
        if !leads {
            lease.tracks = 0;
        }
        if led != leads {
            lease.changed = now;
        }
        if leads && lease.tracks == 0 && self.knobs.mode.tracks() {
            self.later(1..900, Act::OthersTrack(node));
        }
        let lease = &mut self.nodes[node].lease;
        let tracks = lease.tracks;
        if lease.leads {
            self.nodes[node].out.push(Event::Lease(true));
            if !self.knobs.mode.tracks() {
                self.others_publish_digest(node);
            }
            if tracks > 0 {
                self.nodes[node].out.push(Event::Tracks(tracks));
            }
            if !led {
                self.at(now, Act::OthersAsk(node));
            }
        } else if self.knobs.broken == Broken::BeatsForever {
            self.nodes[node].out.push(Event::Lease(true));
        } else if led && which == 4 {
            self.nodes[node].out.push(Event::Lease(false));
        }
    }

    /// The other holder publishes a mark for digests, and at its next turn its digest.
    fn others_publish_digest(&mut self, node: usize) {
        let now = self.now;
        let redis = &mut self.nodes[node];
        if let Some(digest) = redis.digest.take() {
            return redis.out.push(Event::Digest(digest));
        }
        if self.rng.u8(..3) == 0 {
            let mut digest = Digest::default();
            redis.keys.keys().for_each(|key| digest.note(key.as_bytes(), true));
            redis.out.push(Event::Digest(DigestMessage::Mark(now)));
            redis.digest = Some(DigestMessage::Digest(now, digest));
        }
    }

    /// A message of the daemon about digests arrives. Another daemon may find that its own differs from the daemon's.
    pub fn publish_digest(&mut self, node: usize, message: DigestMessage) {
        match message {
            DigestMessage::Digest(..) if self.rng.u8(..4) == 0 => {
                let again = self.rng.bool();
                self.nodes[node].out.push(Event::Digest(DigestMessage::Differs { again }));
            }
            DigestMessage::Mark(_) => self.nodes[node].out.push(Event::Digest(message)),
            DigestMessage::Digest(..) | DigestMessage::Differs { .. } => {}
        }
    }

    /// The other holder asks for the keys that have run out.
    pub fn others_ask(&mut self, node: usize) {
        let now = self.now;
        if !self.nodes[node].lease.leads {
            return;
        }
        if self.nodes[node].takes_writes(now) {
            let due: Vec<String> = self.nodes[node]
                .keys
                .iter()
                .filter(|&(_, &at)| at < now)
                .map(|(key, _)| key.clone())
                .collect();
            due.iter().for_each(|key| self.nodes[node].touch(now, key));
        }
        let next = self.nodes[node].first_deadline().unwrap_or(u64::MAX).saturating_add(1);
        let next = next.clamp(now + 1, now + LOOK_MS) + self.rng.u64(..PROMPT_MS);
        self.at(next, Act::OthersAsk(node));
    }

    /// The other holder knows all keys, and announces from now on each that comes or ends.
    pub fn others_track(&mut self, node: usize) {
        let (now, node) = (self.now, &mut self.nodes[node]);
        if node.lease.leads && node.lease.tracks == 0 && node.takes_writes(now) {
            (node.lease.tracks, node.lease.changed) = (now, now);
            node.known = node.keys.keys().cloned().collect();
            node.out.push(Event::Tracks(now));
        }
    }

    /// The other holder notices that a key has changed, and asks for it.
    pub fn plan_to_say(&mut self, node: usize, event: &Event) {
        let (Event::New(key) | Event::Ended(key, _)) = event else { return };
        if self.nodes[node].lease.tracks > 0 {
            let lag = self.rng.u64(..30);
            let lease = &mut self.nodes[node].lease;
            lease.said_at = lease.said_at.max(self.now + lag);
            let when = lease.said_at;
            self.at(when, Act::OthersSay(node, key.clone()));
        }
    }

    /// It announces the key, if the key has come or ended.
    pub fn others_say(&mut self, node: usize, key: &str) {
        let (now, deleted, node) = (self.now, self.rng.bool(), &mut self.nodes[node]);
        if node.lease.tracks == 0 || !node.up {
            return;
        }
        node.touch(now, key);
        if node.keys.contains_key(key) {
            if node.known.insert(key.to_owned()) {
                node.out.push(Event::Came(key.to_owned()));
            }
        } else if node.known.remove(key) {
            node.out.push(Event::Gone(key.to_owned(), deleted));
        }
    }

    /// Did the daemon that announces changes become another one a moment ago? Then keys may have come and gone unannounced.
    pub fn just_followed(&self, within_ms: u64) -> bool {
        let shared = self.knobs.mode.tracks() && self.knobs.mode.shared;
        let silent = |node: &Redis, listens: bool| node.lease.tracks == 0 && !listens;
        shared
            && self.relay.servers.iter().any(|server| {
                let node = &self.nodes[server.node];
                let changed = node.lease.changed.max(server.link.listens_since);
                self.now - changed.min(self.now) <= within_ms || silent(node, server.link.listens)
            })
    }

    /// An order with the lease's key arrives at the server.
    pub fn order_of_lease(&mut self, at: usize, order: LeaseOrder) {
        let node = self.relay.servers[at].node;
        let reply = match self.nodes[node].takes_writes(self.now) {
            true => self.nodes[node].lease.carry_out(self.now, order),
            false => LeaseReply::Nobody,
        };
        if order != LeaseOrder::Release {
            self.reply(at, Feed::Lease(reply));
        }
    }

    /// The stream gets the events that report renewals, or no longer.
    pub fn listen(&mut self, at: usize, on: bool) {
        let link = &mut self.relay.servers[at].link;
        (link.listens, link.listens_since) = (on, self.now);
        if !on && self.knobs.mode.tracks() {
            self.push_no_more(at);
        }
        if on {
            self.send(at, Feed::Event(Event::Leads));
        }
    }
}
