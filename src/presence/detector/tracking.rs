//! Servers that publish no events: client tracking pushes the names of the keys that change.
//!
//! A push says that a command has changed a key, or that the key ran out, but not which. So each push is a question, and
//! only answers change what is believed. An answer is true of the instant at which Redis gave it. So it holds although
//! another push has come since, and then the detector asks again. Redis pushes names at the end of a turn of its event loop, and
//! they come on a connection of their own, so an answer may come before the push of its cause: that costs a question. A key
//! that changes and changes back before its question is asked is not reported.
//!
//! The end of a key needs the proof of a canary, like any absence that no event reports (see `probes.rs`). The canary's
//! own push is the proof, so every push that came before the question has been read by then.

use super::messages::{Answer, Output};
use super::ttl::Left;
use super::{Detector, Role};
use crate::{Reason, Time};

impl Detector {
    /// From the next connection on the server pushes each change of a key and publishes none (`true`), or publishes events.
    pub fn track(&mut self, tracked: bool) {
        self.tracked = tracked;
    }

    /// The key's name was pushed: asks for it. A question under way may be older than the change.
    pub(super) fn pushed(&mut self, now: Time, name: &[u8]) {
        if !self.tracked {
            return;
        }
        self.note_end(name);
        let Some(at) = self.find_or_make(now, name) else { return };
        let slot = &mut self.table[at];
        slot.push();
        if slot.batch() != 0 {
            slot.overtake();
        } else if !slot.waits() {
            self.claim_pushed(at, now);
            self.ask_later(at);
        }
    }

    /// The holder of the lease announces that the key has ended, `deleted` or at its deadline: asks, if this daemon follows.
    pub(super) fn announced_end(&mut self, now: Time, name: &[u8], deleted: bool) {
        let Some(at) = self.table.find(name) else { return };
        if self.tracked && self.role == Role::Follows && self.table[at].is_live() {
            self.pushed(now, name);
            self.table[at].note_deletion(deleted);
        }
    }

    /// Why a key that is absent, and that no comparison asked for, has ended. A daemon that follows knows no deadline, only the
    /// holder's announcement.
    pub(super) fn end_reason(&self, at: u32, ran_out: bool) -> Reason {
        let ran_out = match self.role {
            Role::Follows => !self.table[at].is_said_deleted(),
            _ => ran_out,
        };
        if ran_out { Reason::Expired } else { Reason::Deleted }
    }

    /// A push that no answer has settled may be the start of a session, and older than it looks.
    fn claim_pushed(&mut self, at: u32, now: Time) {
        if !self.table[at].is_live() {
            self.claims.push_back((now, at));
            self.out.push_back(Output::Unknown { key: self.table[at].key().clone(), ended: false });
        }
    }

    /// A push has come since the question was sent: its answer holds, and the next one says what has changed since.
    pub(super) fn believe_and_ask_again(&mut self, at: u32, now: Time, answer: Answer, times: (Time, Time)) {
        // Queued first, so that an absent key keeps its slot.
        self.ask_later(at);
        self.believe(at, now, answer, times);
        self.table[at].push();
        self.claim_pushed(at, now);
    }

    /// The answers to pushes have no order among the keys of a user, nor do those of several batches that are applied in one turn: of all
    /// outputs that wait, the ends come last. No key has two changes among them, since it is not asked for again before they are
    /// taken.
    pub(super) fn put_starts_first(&mut self) {
        let is_end = |output: &Output| matches!(output, Output::Changed(change) if !change.live);
        self.out.make_contiguous().sort_by_key(is_end);
    }

    /// The answer to a push: the rest of the TTL.
    pub(super) fn apply_pushed(&mut self, at: u32, now: Time, left: Left) {
        let first_ttl = self.settings.first_ttl_ms;
        let (was_live, ttl_before) = (self.table[at].is_live(), self.table[at].known_ttl().unwrap_or(0));
        self.apply(at, |slot| {
            slot.take_pushed(now, left, first_ttl);
            (!was_live).then(|| slot.revive(now, Reason::Heartbeat))
        });
        if was_live {
            self.note_learnt(at, ttl_before);
        }
        self.file(at, now);
    }
}
