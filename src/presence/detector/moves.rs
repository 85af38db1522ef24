//! Keys that move between the servers of a cluster, each of which has a detector of its own.
//!
//! The server that is left says `del`, which is no user leaving; asked, it answers MOVED or ASK. The key is
//! then handed over: taken in by the detector of the new owner first, let go by this one after that, so that
//! the roster never counts no key of a user who keeps beating. A move is atomic for a key (it is at the new
//! owner before the old one disowns it), so the new owner's word decides what became of it.

use super::ask::{LOOK_AGAIN_MS, ServerId};
use super::{Detector, Flags, Output};
use crate::presence::{Key, Reason, Time};

/// What is believed of a key that another server owns now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Which key.
    pub key: Key,
    /// The last heartbeat known.
    pub last_seen: Time,
    /// When its TTL, or its grant, runs out.
    pub deadline: Time,
    /// Its TTL in milliseconds, 0 where that is not known.
    pub ttl_ms: u32,
    /// Its absence proves nothing until the deadline.
    pub granted: bool,
    /// It had not come yet, or is gone: if the server it is handed to disowns it, it is handed back at once.
    pub not_yet: bool,
}

impl Detector {
    pub(super) fn doubted(&mut self, name: &[u8]) {
        let Some(at) = self.find(name) else { return };
        self.touch(at);
        let flags = &mut self.slots[at].flags;
        if !flags.has(Flags::LIVE) {
            return;
        }
        flags.doubt(true);
        if !self.waits(at) {
            self.ask_first(at);
        }
    }

    /// Is a key gone that is not at the new owner of a slot on its way? Only where the server that the slot leaves
    /// had disowned it before. Else it may be still there: never sent, or sent back, in a slot that had left and
    /// returns, or that came by a third server.
    pub(super) fn proves_absence(&self, at: u32, left: ServerId) -> bool {
        let slot = &self.slots[at];
        slot.flags.has(Flags::ADOPTED) && !slot.flags.has(Flags::MOVED) && slot.disowned == left && left != 0
    }

    /// The answer was MOVED or ASK, or that the key has not come yet.
    pub(super) fn apply_moved(&mut self, at: u32, now: Time, not_yet: bool) {
        let slot = &mut self.slots[at];
        if !slot.flags.has(Flags::LIVE) {
            return self.free(at);
        }
        // Two servers that both disown a key pass it on twice a second, not as fast as they can answer.
        let passed_on = slot.flags.has(Flags::ADOPTED) && !slot.flags.has(Flags::EAGER);
        slot.flags.put(Flags::ASK | Flags::EAGER, false);
        slot.flags.put(Flags::MOVED, true);
        self.deadlines.file(at, &mut slot.filed, now.plus(LOOK_AGAIN_MS), now);
        if !passed_on {
            self.hand_over(at, not_yet);
        }
    }

    fn hand_over(&mut self, at: u32, not_yet: bool) {
        let slot = &self.slots[at];
        self.out.push_back(Output::Moved(Moved {
            key: slot.key.clone(),
            last_seen: slot.last_seen,
            deadline: slot.deadline,
            ttl_ms: slot.ttl,
            granted: slot.flags.has(Flags::GRANTED),
            not_yet,
        }));
    }

    /// Takes a key in as live, on the word of another server's detector, and asks for it.
    pub(super) fn adopt(&mut self, now: Time, moved: &Moved, from: ServerId) {
        let name = moved.key.as_str().as_bytes();
        let at = self.find(name).unwrap_or_else(|| self.make(now, moved.key.clone()));
        let slot = &mut self.slots[at];
        slot.disowned = from;
        slot.flags.adopt();
        slot.flags.put(Flags::EAGER, moved.not_yet);
        slot.flags.put(Flags::MOVED, false);
        // What was asked before it came may be answered from before it came.
        slot.flags.put(Flags::OVERTAKEN, slot.batch != 0);
        if slot.flags.has(Flags::LIVE) {
            slot.last_seen = slot.last_seen.max(moved.last_seen);
        } else {
            slot.last_seen = moved.last_seen;
            slot.deadline = moved.deadline;
            slot.ttl = moved.ttl_ms;
            slot.flags.put(Flags::GRANTED, moved.granted && moved.deadline != Time::NEVER);
            slot.flags.put(Flags::LEAST, moved.ttl_ms != 0);
            self.counts.immortal += u64::from(moved.deadline == Time::NEVER);
            self.revive(at, now, moved.last_seen.min(now), Reason::Reconciled);
        }
        // While the server is out of reach, the pass that follows asks.
        if self.up && !self.waits(at) {
            self.ask_later(at);
        }
    }

    /// Unless it has been renewed here since it was handed over.
    pub(super) fn let_go(&mut self, now: Time, name: &[u8]) {
        let Some(at) = self.find(name) else { return };
        let flags = self.slots[at].flags;
        if flags.has(Flags::LIVE) && flags.has(Flags::MOVED) {
            self.kill(at, now, Reason::Reconciled);
        }
    }

    /// Gives over all keys. A server that is out of reach may have lost them with its users unable to renew
    /// them, so each gets a grant.
    pub(super) fn retire(&mut self, now: Time) {
        for at in 0..self.slots.end() {
            if !self.slots.get(at).is_some_and(|slot| slot.flags.has(Flags::LIVE)) {
                continue;
            }
            if !self.up {
                self.grant_in_turn(at, now);
            }
            self.slots[at].flags.put(Flags::MOVED, true);
            self.hand_over(at, false);
        }
    }

    /// Will it be asked anyway?
    pub(super) fn waits(&self, at: u32) -> bool {
        let slot = &self.slots[at];
        slot.flags.has(Flags::QUEUED) || slot.batch != 0
    }
}

impl Flags {
    /// Its absence is a deletion, should an answer find it absent. Where absence proves nothing, a `del` older
    /// than the move does not either, whichever of the three comes last.
    pub(super) fn doubt(&mut self, deleted: bool) {
        let proves = !(self.has(Flags::ADOPTED) && self.has(Flags::GRANTED));
        self.put(Flags::DOUBTED, deleted && proves);
    }

    /// Its absence proves nothing before its deadline.
    pub(super) fn grant(&mut self) {
        self.put(Flags::GRANTED, true);
        self.doubt(self.has(Flags::DOUBTED));
    }

    fn adopt(&mut self) {
        self.put(Flags::ADOPTED, true);
        self.doubt(self.has(Flags::DOUBTED));
    }
}
