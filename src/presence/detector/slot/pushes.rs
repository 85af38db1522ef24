//! The effects of pushed names on a slot, where the server publishes no events.

use super::{Flags, Said, Slot};
use crate::Time;
use crate::detector::ttl::{Left, SAME_TTL_MS};

impl Slot {
    /// The server pushed its name: something has changed it, and the next answer shows what.
    pub fn push(&mut self) {
        self.flags.put(Flags::HEARD, true);
        if !self.is_live() {
            self.flags.put(Flags::DOUBTED, true);
        }
    }

    /// Whether a push came since the last answer.
    pub fn is_pushed(&self) -> bool {
        self.flags.has(Flags::HEARD)
    }

    /// Whether a push came since the last answer. It counts as answered from now on.
    pub fn take_push(&mut self) -> bool {
        let pushed = self.is_pushed();
        self.flags.put(Flags::HEARD, false);
        pushed
    }

    /// An answer gave the rest of the TTL, after a push. Another deadline than that of the last heartbeat is a renewal by the command
    /// that was pushed. The caller [revives](Slot::revive) a key that was not live.
    pub fn take_pushed(&mut self, now: Time, left: Left, first_ttl: u64) {
        let (low, high) = (left.sent.plus(left.ms), left.came.plus(left.ms));
        let own = self.own_deadline(first_ttl);
        let same = own.plus(SAME_TTL_MS) >= low && own <= high.plus(SAME_TTL_MS);
        if self.is_live() && !self.is_immortal() && same {
            self.take_ttl(now, left, first_ttl);
            return;
        }
        let ttl = left.ttl(left.sent);
        if u64::from(ttl.abs_diff(self.ttl)) > SAME_TTL_MS {
            self.ttl = ttl;
        }
        self.flags.put(Flags::ASK | Flags::GRANTED | Flags::GONE | Flags::LEAST | Flags::UNCONFIRMED, false);
        self.said = Said::Nothing;
        self.deadline = low;
        self.last_seen = low.minus(u64::from(self.ttl)).min(now);
    }

    /// A daemon has announced its end, and whether a program deleted it.
    pub fn note_deletion(&mut self, deleted: bool) {
        self.said = if deleted { Said::Deleted } else { Said::Nothing };
    }

    /// Whether a daemon has announced that a program deleted it.
    pub fn is_said_deleted(&self) -> bool {
        self.said == Said::Deleted
    }
}
