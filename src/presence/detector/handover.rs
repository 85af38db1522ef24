//! Keys that move between the servers of a cluster. Each server has its own detector.
//!
//! The server that a key leaves sends `del`, although no user left; asked, it answers MOVED or ASK. Then the detector
//! of the new owner adopts the key first, and this one drops it afterwards, so the roster always counts at least one
//! key of a user who keeps sending heartbeats. A move is atomic for a key (it is at the new owner before the old one
//! disowns it), so the new owner's answer decides.

use super::Detector;
use super::messages::{Input, Moved, Output, ServerId};
use super::probes::LOOK_AGAIN_MS;
use super::slot::Renewal;
use crate::{Reason, Time};
use std::collections::HashMap;

/// The number of keys that one step hands over, so that other servers' events need not wait for a million keys.
const RETIRED_MOST: usize = if cfg!(test) { 2 } else { 4096 };

/// The server that disowned each adopted key before it was adopted here. Empty unless slots move, so it costs a slot
/// nothing.
#[derive(Clone, Default)]
pub(super) struct LastOwners(HashMap<u32, ServerId>);

impl LastOwners {
    pub(super) fn note(&mut self, at: u32, from: ServerId) {
        self.0.insert(at, from);
    }

    /// The key is confirmed here, or gone.
    pub(super) fn forget(&mut self, at: u32) {
        if !self.0.is_empty() {
            self.0.remove(&at);
        }
    }

    pub(super) fn of(&self, at: u32) -> Option<ServerId> {
        self.0.get(&at).copied()
    }
}

impl Detector {
    /// `del` in a cluster: asks whether the key was deleted or moved.
    pub(super) fn doubted(&mut self, name: &[u8]) {
        let Some(at) = self.table.find(name) else { return self.note_unknown_end(name) };
        self.touch(at);
        let slot = &mut self.table[at];
        if !slot.is_live() {
            slot.unclaim();
            return self.note_unknown_end(name);
        }
        slot.doubt();
        if !slot.waits() {
            self.ask_first(at);
        }
    }

    /// A server that does not own the key's slot sent `set`: asks whether the key is there. If the slot is about to arrive,
    /// the server disowns the key, which then comes from the detector of the owner or is found by the next poll.
    pub(super) fn claimed(&mut self, now: Time, name: &[u8]) {
        let Some(at) = self.find_or_make(now, name) else { return };
        self.touch(at);
        let slot = &mut self.table[at];
        slot.claim();
        let (live, waits) = (slot.is_live(), slot.waits());
        if waits {
            return;
        }
        if !live {
            self.claims.push_back((now, at));
        }
        self.ask_later(at);
    }

    /// When the oldest claim came that no answer has settled.
    pub fn oldest_claim(&self) -> Option<Time> {
        self.claims.iter().find(|&&(_, at)| self.is_claim_open(at)).map(|&(came, _)| came)
    }

    /// Whether a claim of this key is open.
    pub(super) fn is_claimed(&self, at: u32) -> bool {
        self.is_claim_open(at) && self.was_claimed(at)
    }

    /// Whether a claim of this key may have led to its question.
    pub(super) fn was_claimed(&self, at: u32) -> bool {
        self.claims.iter().any(|&(_, claimed)| claimed == at)
    }

    /// Whether the key is not live, and a question for it is under way.
    fn is_claim_open(&self, at: u32) -> bool {
        self.table.get(at).is_some_and(|slot| !slot.is_live() && slot.waits())
    }

    /// Answers have come: drops the claims that are settled, as far as no older one is open.
    pub(super) fn settle_claims(&mut self) {
        while self.claims.front().is_some_and(|&(_, at)| !self.is_claim_open(at)) {
            self.claims.pop_front();
        }
    }

    /// `set` of a key, also after its `new`: if a `del` was in doubt, it was a deletion. Had the key moved, this server would have sent the `set` on
    /// to the new owner; a key that has moved back was placed here before.
    pub(super) fn end_deleted(&mut self, now: Time, name: &[u8]) {
        if let Some(at) = self.table.find(name).filter(|&at| self.table[at].proves_deletion()) {
            self.end(at, now, Reason::Deleted);
        }
    }

    /// Where no `set` is heard, the event after the `new` of a doubted key decides: without a `restore` of the same command
    /// the `del` was a deletion. A fence follows in any case, since the doubt is asked about.
    pub(super) fn end_recreated(&mut self, next: &Input) {
        let Some((at, came)) = self.recreated.take() else { return };
        let Some(slot) = self.table.get(at).filter(|slot| slot.proves_deletion()) else { return };
        let name = slot.key().as_bytes().to_vec();
        if !matches!(next, Input::Placed(placed) if *placed == name) {
            self.end(at, came, Reason::Deleted);
            self.renewed(came, &name, Renewal::Created);
        }
    }

    /// Whether a key that has not arrived at the new owner of a slot is gone. That is so only if the server `left`,
    /// which the slot leaves, had disowned it before. Otherwise that server may still have the key: it never sent it,
    /// the slot returns to it, or the slot came by a third server.
    pub(super) fn proves_absence(&self, at: u32, left: ServerId) -> bool {
        let slot = &self.table[at];
        slot.is_adopted() && !slot.is_moved() && left != 0 && self.origins.of(at) == Some(left)
    }

    /// The answer was MOVED or ASK, or that the key has not arrived (`not_yet`).
    pub(super) fn apply_moved(&mut self, at: u32, now: Time, not_yet: bool) {
        let slot = &mut self.table[at];
        if !slot.is_live() {
            return self.free(at);
        }
        let at_once = slot.disown();
        slot.file_under(at, &mut self.deadlines, now.plus(LOOK_AGAIN_MS), now);
        if at_once {
            self.out.push_back(Output::Moved(slot.handover(not_yet)));
        }
    }

    /// Takes over a key as live, and asks for it.
    pub(super) fn adopt(&mut self, now: Time, moved: &Moved, from: ServerId) {
        let found = self.table.find(moved.key.as_bytes());
        let at = found.unwrap_or_else(|| self.make(now, moved.key.clone()));
        self.origins.note(at, from);
        // The outage was the other server's: its key may not have been renewed since.
        if moved.granted {
            self.outages.note(moved.last_seen, now);
        }
        self.apply(at, |slot| slot.adopt(now, moved));
        if moved.fickle {
            self.fickle.note(moved.key.user());
            self.table[at].put_fickle();
        }
        // While the server is down, the pass that follows will ask.
        if self.up && !self.table[at].waits() {
            self.ask_later(at);
        }
    }

    /// Drops a key that another detector adopted, unless it was renewed here since it was handed over.
    pub(super) fn let_go(&mut self, now: Time, name: &[u8]) {
        let Some(at) = self.table.find(name) else { return };
        if self.table[at].is_moved() {
            self.end(at, now, Reason::Reconciled);
        }
    }

    /// Hands over the next keys, with a grant if they may be lost.
    pub(super) fn retire(&mut self, now: Time, lossy: bool) {
        let mut left = RETIRED_MOST;
        while self.retired < self.table.end() && left > 0 {
            let at = self.retired;
            self.retired += 1;
            if !self.table.get(at).is_some_and(|slot| slot.is_live()) {
                continue;
            }
            left -= 1;
            if lossy {
                self.grant_in_turn(at, now);
            }
            let slot = &mut self.table[at];
            slot.give_up();
            self.out.push_back(Output::Moved(slot.handover(false)));
            self.keep_deadline(at, now);
        }
        if self.retired >= self.table.end() {
            self.retired = 0;
        }
    }

    /// Whether [`Input::Retired`](super::Input::Retired) has left keys for the next one.
    pub fn has_unretired(&self) -> bool {
        self.retired > 0
    }
}
