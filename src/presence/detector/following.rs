//! The daemon's part at this server: it asks at deadlines for all daemons, or another one does.
//!
//! One daemon, the holder of the server's lease, listens to renewals and asks at deadlines. A key that its question finds
//! expired is deleted by that very question, so Redis announces the end to every daemon. The others therefore keep no
//! deadlines and ask for no TTL. They still ask for themselves where neither an absence nor an event proves anything yet:
//! for granted keys at the end of the grant, and for keys that were doubted, claimed, disowned or adopted.
//!
//! A detector that begins to lead asks for the TTL of every key, without a gap: no event is missing, only deadlines are.

use super::probes::LOOK_AGAIN_MS;
use super::{Detector, Output, Role};
use crate::{Reason, Time};

impl Detector {
    /// Another daemon asks at deadlines from now on.
    pub(super) fn follow(&mut self, now: Time) {
        self.take_role(now, Role::Follows);
        self.polled = true;
        self.unasked = None;
        for at in 0..self.table.end() {
            let Some(slot) = self.table.get_mut(at).filter(|slot| slot.is_live()) else { continue };
            slot.leave_to_holder();
            // One that this daemon asks for itself may have waited for the questions of a takeover.
            if slot.is_own_question() && !slot.is_filed() {
                self.keep_deadline(at, now);
            }
        }
    }

    /// This daemon asks at deadlines from now on; `polled` if it hears no `set`. Every earlier `set` may have been missed.
    pub(super) fn lead(&mut self, now: Time, polled: bool) {
        self.take_role(now, Role::Holds);
        self.polled = polled;
        self.missed = now;
        // A pass under way may have been answered for some keys.
        self.unasked = Some(0);
    }

    pub(super) fn take_role(&mut self, now: Time, role: Role) {
        if self.role == Role::Follows && role != Role::Follows {
            self.led_since = now;
        }
        self.role = role;
    }

    /// Whether the last heartbeat of a live key may have been missed: no event reports renewals, or none did before this
    /// detector led, and the key would have run out before.
    pub(super) fn may_miss_renewals(&self, at: u32) -> bool {
        self.polled || self.is_older_than_lead(at)
    }

    /// Whether the key would have run out before this detector led, by its last heartbeat known.
    fn is_older_than_lead(&self, at: u32) -> bool {
        self.table[at].own_deadline(self.settings.first_ttl_ms) < self.led_since
    }

    /// Whether the next question for this key is another daemon's.
    pub(super) fn leaves_to_holder(&self, at: u32) -> bool {
        self.role == Role::Follows && !self.table[at].is_own_question()
    }

    /// The next question for this key is this daemon's from now on: it has a deadline again.
    pub(super) fn keep_deadline(&mut self, at: u32, now: Time) {
        if self.role != Role::Follows || !self.up || self.table[at].waits() {
            return;
        }
        if self.table[at].is_immortal() {
            return self.table[at].file_under(at, &mut self.deadlines, now.plus(LOOK_AGAIN_MS), now);
        }
        self.file(at, now);
    }

    /// The holder says that the key has ended, and that no event did.
    pub(super) fn suspected(&mut self, name: &[u8]) {
        let Some(at) = self.table.find(name) else { return };
        if self.role == Role::Follows && self.table[at].is_live() && !self.table[at].waits() {
            self.ask_later(at);
        }
    }

    /// A question found that the key has ended, without an event: the others are to ask, too.
    pub(super) fn note_unannounced(&mut self, at: u32) {
        if self.role == Role::Holds && !self.table[at].is_gone() {
            let key = self.table[at].key().clone();
            self.out.push_back(Output::Unannounced(key));
        }
    }

    /// A TTL that was learnt and that the others cannot guess.
    pub(super) fn note_learnt(&mut self, at: u32, before: u32) {
        if self.role != Role::Holds {
            return;
        }
        let slot = &self.table[at];
        let Some(ttl_ms) = slot.known_ttl().filter(|&ttl| ttl != before) else { return };
        if before == 0 {
            self.vote_for_ttl(ttl_ms);
        }
        let slot = &self.table[at];
        if before != 0 || u64::from(ttl_ms) != self.settings.first_ttl_ms {
            self.out.push_back(Output::Learnt(slot.key().clone(), ttl_ms));
        }
    }

    /// A key ends whose renewals were another daemon's business: its last heartbeat is presumed.
    pub(super) fn presume_end(&mut self, at: u32, now: Time, reason: Reason) {
        let first_ttl = self.settings.first_ttl_ms;
        if self.role == Role::Follows || self.is_older_than_lead(at) {
            self.table[at].presume_end(now, first_ttl, reason);
        }
    }

    /// A heartbeat before then need not be the last one.
    pub(super) fn heard_since(&self, now: Time) -> Time {
        if self.role == Role::Follows { now.plus(1) } else { self.missed }
    }
}
