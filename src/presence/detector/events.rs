//! The effects of events on a key: it is made, renewed, written with a TTL, or it ends.

use super::messages::{End, Output};
use super::slot::{Renewal, Verdict};
use super::{Detector, Key, Reason, Time};

impl Detector {
    pub(super) fn created(&mut self, now: Time, name: &[u8]) {
        if let Some(at) = self.table.find(name).filter(|&at| self.table[at].proves_deletion()) {
            // The next event says whether the key was deleted, or has moved away and back.
            self.touch(at);
            self.recreated = self.polled.then_some((at, now));
        } else if self.polled {
            self.renewed(now, name, Renewal::Created);
        } else {
            // The `set` of the same command follows.
            self.renewed(now, name, Renewal::Placed);
        }
    }

    pub(super) fn renewed(&mut self, now: Time, name: &[u8], how: Renewal) {
        if how == Renewal::Set {
            self.end_deleted(now, name);
        }
        let Some(at) = self.find_or_make(now, name) else { return };
        self.last_set = (how == Renewal::Set).then_some((at, now));
        self.touch(at);
        let (missed, first_ttl) = (self.missed, self.settings.first_ttl_ms);
        let claimed = self.is_claimed(at);
        self.apply(at, |slot| {
            slot.distrust_before(missed);
            let mut change = slot.renew(now, first_ttl, how)?;
            // It may have been live since the claim.
            if claimed {
                change.reason = Reason::Reconciled;
            }
            Some(change)
        });
        if !self.table[at].waits() {
            self.look_after(at, now);
        }
    }

    /// This daemon has written the key with this TTL. Its write has no place in the stream, so the answer to a question under way may be
    /// older. Returns whether that is news to other daemons.
    pub fn written(&mut self, now: Time, name: &[u8], ttl_ms: u32) -> bool {
        let Some(at) = self.find_live(name) else { return false };
        if self.table[at].batch() != 0 {
            self.table[at].overtake();
        }
        self.note_written(now, at, ttl_ms)
    }

    /// Another daemon says that it has written the key with this TTL.
    pub(super) fn written_elsewhere(&mut self, now: Time, name: &[u8], ttl_ms: u32) {
        if let Some(at) = self.find_live(name) {
            self.touch(at);
            self.note_written(now, at, ttl_ms);
        }
    }

    /// The place of a key that is known to be live. For any other key the answer to the first question counts, whatever came since.
    fn find_live(&self, name: &[u8]) -> Option<u32> {
        self.table.find(name).filter(|&at| self.table[at].is_live())
    }

    /// The deadline only moves to an earlier instant, so a message that is wrong costs a question.
    fn note_written(&mut self, now: Time, at: u32, ttl_ms: u32) -> bool {
        if self.leaves_to_holder(at) {
            return self.table[at].note_ttl(ttl_ms, self.settings.first_ttl_ms);
        }
        let mut news = false;
        self.apply(at, |slot| {
            news = slot.shorten(now, ttl_ms);
            None
        });
        if news && self.up && !self.table[at].waits() {
            self.file(at, now);
        }
        news
    }

    /// A daemon says that the key ends so many milliseconds from now.
    pub(super) fn ends_in(&mut self, now: Time, name: &[u8], left_ms: u32) {
        let Some(at) = self.table.find(name).filter(|&at| self.table[at].is_live()) else { return };
        // Where no `set` comes before, an answer under way may be older than the message.
        self.touch(at);
        let polled = self.polled;
        self.apply(at, |slot| {
            slot.expect_end(now, left_ms, polled);
            None
        });
        if !self.table[at].waits() {
            self.file(at, now);
        }
    }

    pub(super) fn ended(&mut self, now: Time, name: &[u8], end: End) {
        let Some(at) = self.table.find(name) else { return self.note_unknown_end(name) };
        self.touch(at);
        let slot = &mut self.table[at];
        slot.distrust_before(self.missed);
        if !slot.is_live() {
            slot.unclaim();
            return self.note_unknown_end(name);
        }
        let (verdict, reason) = match end {
            End::Expired => (self.expire(at), Reason::Expired),
            End::Deleted => (slot.delete(), Reason::Deleted),
            End::Evicted => {
                // It was there until now: however often that happens, its user renews it in between.
                self.throw_away(at, now, Time::NEVER);
                (Verdict::Kept, Reason::Expired)
            }
        };
        if verdict == Verdict::Ends {
            if end == End::Expired
                && !self.leaves_to_holder(at)
                && let Some(early_ms) = self.table[at].expires_early(now)
            {
                self.note_fickle(at, early_ms);
            }
            self.end(at, now, reason);
        } else if !self.table[at].waits() {
            self.file(at, now);
        }
    }

    /// The key that an event ended was not live: it was, if it came in a gap that is not compared yet.
    pub(super) fn note_unknown_end(&mut self, name: &[u8]) {
        if !self.settled()
            && let Ok(key) = Key::parse(name)
        {
            self.out.push_back(Output::Unknown { key, ended: true });
        }
    }

    pub(super) fn expire(&mut self, at: u32) -> Verdict {
        let mut verdict = Verdict::Kept;
        self.apply(at, |slot| {
            verdict = slot.expire();
            None
        });
        verdict
    }
}
