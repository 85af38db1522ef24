//! The effects of events, answers and other detectors on a slot: one verb per row of the table in `mod.rs`.

use super::{Absence, Flags, Renewal, Said, Slot, Verdict};
use crate::detector::messages::Moved;
use crate::detector::ttl::{Left, Lesson, SAME_TTL_MS};
use crate::{Change, Reason, Time};

/// Events.
impl Slot {
    /// An event shows that it is there. Returns the change if it was not live.
    pub fn renew(&mut self, now: Time, first_ttl: u64, how: Renewal) -> Option<Change> {
        let placed = how == Renewal::Placed;
        if placed {
            self.ttl = 0;
            self.flags.put(Flags::LEAST, false);
        }
        // A key that moves to a server is placed there, which is no heartbeat.
        let granted = (placed && self.flags.has(Flags::GRANTED)).then_some(self.deadline);
        let live = self.is_live();
        let again = live && self.flags.has(Flags::HEARD) && !self.flags.has(Flags::GRANTED);
        // The `new` of a key that was live follows an end that is not known.
        let learn = self.ttl == 0 || self.flags.has(Flags::LEAST) || how == Renewal::Created;
        self.last_seen = now;
        self.deadline = now.plus(self.ttl_or(first_ttl));
        if self.said == Said::End {
            self.said = Said::Nothing;
        }
        self.flags.put(Flags::GRANTED | Flags::GONE | Flags::DOUBTED | Flags::MOVED, false);
        if let Some(until) = granted {
            self.grant(until);
        }
        self.flags.put(Flags::BY_SET, again && how == Renewal::Set);
        self.flags.put(Flags::HEARD, !placed);
        self.flags.put(Flags::LEARN, learn);
        (!live).then(|| self.revive(now, Reason::Heartbeat))
    }

    /// A command has given it another TTL, which is not known: it is there, and it is to be asked for.
    pub fn retime(&mut self, now: Time) {
        self.last_seen = now;
        self.flags.put(Flags::GRANTED | Flags::GONE | Flags::DOUBTED | Flags::MOVED, false);
        self.flags.put(Flags::BY_SET | Flags::HEARD, false);
        self.flags.put(Flags::LEARN, true);
    }

    /// `set` came from a server that does not own its slot. A `del` before it may have been a move away, and the slot comes
    /// back: then absence alone proves no deletion.
    pub fn claim(&mut self) {
        let live = self.is_live();
        self.flags.put(Flags::DOUBTED, !live);
        self.flags.put(Flags::LEARN, live || self.flags.has(Flags::LEARN));
    }

    /// An end came for a key that is not live: older claims are void.
    pub fn unclaim(&mut self) {
        self.flags.put(Flags::DOUBTED, false);
    }

    /// A daemon wrote it with this TTL. Returns whether that is shorter than was believed. A longer TTL is left to the
    /// probe at the deadline.
    pub fn shorten(&mut self, now: Time, ttl_ms: u32) -> bool {
        let ttl_ms = ttl_ms.max(1);
        let shorter = self.ttl != 0 && self.ttl.saturating_sub(ttl_ms) > SAME_TTL_MS as u32;
        if shorter {
            self.ttl = ttl_ms;
            self.said = Said::Ttl;
        }
        // A grant stands: its absence proves nothing before.
        let ends = now.plus(u64::from(ttl_ms));
        let earlier = !self.flags.has(Flags::GRANTED) && self.deadline.since(ends) > SAME_TTL_MS;
        if earlier {
            self.deadline = ends;
        }
        shorter || earlier
    }

    /// The key's TTL, of which no deadline is kept. Returns whether that is news.
    pub fn note_ttl(&mut self, ttl_ms: u32, first_ttl: u64) -> bool {
        let news = u64::from(ttl_ms) != self.ttl_or(first_ttl);
        self.ttl = ttl_ms.max(1);
        self.flags.put(Flags::LEAST, false);
        self.said = Said::Ttl;
        news
    }

    /// It ends now, and its renewals were not heard: the last one was one TTL before the end, unless a program has just
    /// deleted it. Where no grant gave a deadline, the end is now.
    pub fn presume_end(&mut self, now: Time, first_ttl: u64, reason: Reason) {
        let granted = self.flags.has(Flags::GRANTED);
        let end = if granted { self.deadline.min(now) } else { now };
        let last = match reason {
            Reason::Deleted => now,
            Reason::Expired => end.minus(self.ttl_or(first_ttl)),
            Reason::Heartbeat | Reason::Reconciled => self.last_seen,
        };
        self.last_seen = self.last_seen.max(last);
        if !granted {
            self.flags.put(Flags::HEARD, false);
            self.flags.put(Flags::LEARN, true);
        }
    }

    /// A daemon says that it has just set the key, and that it ends in `left_ms` milliseconds unless somebody renews it. The
    /// deadline only moves to an earlier instant, so a wrong message costs a question. The TTL is not the program's, so no answer
    /// before the next `set` teaches it. Where no event reports the `set`, the message alone says when the user was there.
    pub fn expect_end(&mut self, now: Time, left_ms: u32, polled: bool) {
        self.flags.put(Flags::HEARD, false);
        // A grant stands: its absence proves nothing before.
        if self.flags.has(Flags::GRANTED) {
            return;
        }
        self.deadline = self.deadline.min(now.plus(u64::from(left_ms)));
        if polled {
            self.last_seen = now;
            self.said = Said::End;
        }
    }

    /// Events since `missed` may be missing: a `set` that arrived before it need not be the last.
    pub fn distrust_before(&mut self, missed: Time) {
        if self.last_seen < missed {
            self.flags.put(Flags::HEARD, false);
        }
    }

    /// `expired` came for a live key.
    pub fn expire(&mut self) -> Verdict {
        if self.is_adopted() {
            // Without the doubt: an absent answer then ends it as expired.
            self.put_doubt(false);
            return Verdict::Kept;
        }
        // The copy that a restarted server had: the user may have been unable to renew it.
        let granted = self.flags.has(Flags::GRANTED);
        self.flags.put(Flags::GONE, granted);
        if granted { Verdict::Kept } else { Verdict::Ends }
    }

    /// By how many milliseconds `expired` at `now` comes too early, so that the program must have changed the TTL.
    pub fn expires_early(&self, now: Time) -> Option<u64> {
        let early_ms = self.deadline.since(now);
        let known = !self.is_immortal() && !self.deadline_is_guessed();
        (early_ms > SAME_TTL_MS && known).then_some(early_ms)
    }

    /// `del` came for a live key, from a server that is not part of a cluster.
    pub fn delete(&mut self) -> Verdict {
        if self.is_adopted() {
            self.put_doubt(true);
            return Verdict::Kept;
        }
        Verdict::Ends
    }

    /// `del` came for a live key that may have moved.
    pub fn doubt(&mut self) {
        self.put_doubt(true);
    }

    /// Whether a `set`, or a `new` without a `restore`, from this server shows that the `del` in doubt was a deletion.
    pub fn proves_deletion(&self) -> bool {
        self.is_live() && self.is_doubted() && !self.is_adopted() && !self.is_moved()
    }

    /// An absent answer will mean a deletion. Where absence proves nothing, a `del` older than the move does not
    /// either, whichever of the three (doubt, grant, adoption) comes last.
    fn put_doubt(&mut self, on: bool) {
        let proves = !(self.is_adopted() && self.flags.has(Flags::GRANTED));
        self.flags.put(Flags::DOUBTED, on && proves);
    }

    /// Redis removed the key, not the user: it stays until the deadline of its last heartbeat, or until `until`.
    pub fn throw_away(&mut self, now: Time, until: Time) {
        // A renewal by EXPIRE, or a `set` that was missed, may have moved the deadline: then one TTL from now.
        let heard = self.flags.has(Flags::HEARD) && self.flags.has(Flags::BY_SET);
        if !heard || self.deadline < now || self.is_immortal() {
            self.extend(until);
        }
        self.put_grant();
        self.flags.put(Flags::GONE, true);
    }

    /// Absence proves nothing before `until`, nor before a later deadline that it already has.
    pub fn grant(&mut self, until: Time) {
        self.extend(until);
        self.put_grant();
    }

    fn extend(&mut self, until: Time) {
        self.deadline = if self.is_immortal() { until } else { self.deadline.max(until) };
    }

    fn put_grant(&mut self) {
        self.flags.put(Flags::GRANTED, true);
        self.put_doubt(self.is_doubted());
    }
}

/// Answers.
impl Slot {
    /// An answer gave the rest of the TTL. Returns by how many milliseconds the TTL differs from the known one, if it does.
    /// The caller [revives](Slot::revive) a key that was not live.
    pub fn take_ttl(&mut self, now: Time, left: Left, first_ttl: u64) -> Option<u64> {
        let changed = self.learn(left);
        let changed = self.know_at_least(left.ms, first_ttl).or(changed);
        self.flags.put(Flags::ASK | Flags::GONE, false);
        let heard = self.flags.has(Flags::HEARD);
        let (low, high) = (left.sent.plus(left.ms), left.came.plus(left.ms));
        let deadline = if heard { self.last_seen.plus(u64::from(self.ttl)).clamp(low, high) } else { low };
        let granted = self.flags.has(Flags::GRANTED);
        // A key that Redis keeps for longer than the grant needs no grant.
        let granted = granted && deadline < self.deadline;
        self.flags.put(Flags::GRANTED, granted);
        // It was renewed since a daemon announced its end, or the message was forged.
        let outlives = self.said == Said::End && deadline.since(self.deadline) > SAME_TTL_MS;
        if outlives {
            self.said = Said::Nothing;
        }
        self.deadline = if granted { self.deadline } else { deadline };
        if !heard {
            let renewed = deadline.minus(self.ttl_or(first_ttl)).min(now);
            self.last_seen = if self.is_live() && !outlives { self.last_seen.max(renewed) } else { renewed };
        }
        changed
    }

    /// Learns the TTL from an answer that follows a `set`.
    fn learn(&mut self, left: Left) -> Option<u64> {
        if !self.flags.has(Flags::HEARD) {
            return None;
        }
        if self.ttl == 0 || self.flags.has(Flags::LEAST) {
            // Without a question that followed a `set` there is nothing to learn from.
            let learns = self.flags.has(Flags::LEARN);
            if learns {
                self.ttl = left.ttl(self.last_seen);
                self.flags.put(Flags::LEAST, false);
                // The next `set` may have another.
                self.flags.put(Flags::UNCONFIRMED, true);
            }
            self.flags.put(Flags::HEARD, learns);
            return None;
        }
        let lesson = left.compare(self.ttl, self.last_seen);
        // What a daemon said shows nothing about the user's program.
        let said = self.said == Said::Ttl;
        self.said = if said && lesson == Lesson::Unsure { Said::Ttl } else { Said::Nothing };
        match lesson {
            Lesson::Other(ttl, difference_ms) => {
                self.ttl = ttl;
                self.flags.put(Flags::UNCONFIRMED, true);
                return (!said).then_some(difference_ms);
            }
            // Not learnt from this answer. The next `set` is checked, which tells.
            Lesson::Unsure => {
                self.flags.put(Flags::UNCONFIRMED, true);
                self.flags.put(Flags::HEARD, false);
            }
            Lesson::Confirmed => self.flags.put(Flags::UNCONFIRMED, false),
            Lesson::Same => {}
        }
        None
    }

    /// A TTL is at least what an answer leaves of it. It is remembered although no `set` gave it, since a grant must
    /// be as long as the pause between two heartbeats. The daemon checks the next `set`, which shows the true one. Returns by how
    /// many milliseconds a TTL that was learnt was too short.
    fn know_at_least(&mut self, left: u64, first_ttl: u64) -> Option<u64> {
        let more = left.saturating_sub(self.ttl_or(first_ttl));
        let learnt = self.ttl != 0 && self.said != Said::Ttl;
        if more > SAME_TTL_MS {
            self.flags.put(Flags::UNCONFIRMED, self.ttl != 0);
            self.ttl = left as u32;
            self.flags.put(Flags::LEAST, true);
            self.flags.put(Flags::HEARD, false);
        }
        (more > SAME_TTL_MS && learnt).then_some(more)
    }

    /// Its user has come back, so its absence would prove something again.
    pub fn end_grant(&mut self) {
        self.flags.put(Flags::GRANTED, false);
    }

    /// An answer said that it has no TTL. The caller [revives](Slot::revive) a key that was not live.
    pub fn take_no_ttl(&mut self, now: Time) {
        self.deadline = Time::NEVER;
        self.flags.put(Flags::GRANTED | Flags::GONE | Flags::ASK, false);
        if !self.is_live() {
            self.last_seen = now;
        }
    }

    /// For how long it has been silent, in milliseconds.
    pub fn silent_ms(&self, now: Time) -> u64 {
        now.since(self.last_seen)
    }

    /// The meaning of an absent answer to a question sent at `sent`.
    pub fn absence(&self, now: Time, sent: Time) -> Absence {
        if !self.is_live() {
            Absence::Known
        } else if self.is_doubted() {
            Absence::Deleted
        } else if self.flags.has(Flags::GRANTED) && sent <= self.deadline {
            Absence::Granted
        } else {
            Absence::Gone { ran_out: self.deadline < now }
        }
    }

    /// Whether an absent answer to a question sent at `sent` would end it without an event: no `del` is in doubt, and
    /// no event came since the question. A push that came since (`tracked`) is no event that ends it.
    pub fn ends_unannounced(&self, sent: Time, tracked: bool) -> bool {
        let granted = self.flags.has(Flags::GRANTED) && sent <= self.deadline;
        let overtaken = self.flags.has(Flags::OVERTAKEN) && !tracked;
        self.is_live() && !self.is_doubted() && !granted && !overtaken
    }

    /// It is absent under a grant: nothing more is to be asked before the deadline.
    pub fn rest(&mut self) {
        self.flags.put(Flags::ASK, false);
        self.flags.put(Flags::GONE, true);
    }

    /// An answer found it here, though an event overtook the answer.
    pub fn confirm(&mut self) {
        self.flags.put(Flags::ADOPTED, false);
    }

    /// An answer said that another server owns it. Returns whether to hand it over at once: two servers that both
    /// disown a key pass it on twice a second, not as fast as they answer.
    pub fn disown(&mut self) -> bool {
        let passed_on = self.is_adopted() && !self.flags.has(Flags::EAGER);
        self.flags.put(Flags::ASK | Flags::EAGER, false);
        self.flags.put(Flags::MOVED, true);
        !passed_on
    }

    /// A page of a first pass names it: live from now on, with the first TTL until its own is learnt. Returns the
    /// change if it was not live.
    pub fn found(&mut self, now: Time, first_ttl: u64) -> Option<Change> {
        if self.is_live() {
            return None;
        }
        self.deadline = now.plus(first_ttl);
        self.flags.put(Flags::LEARN, true);
        // The last heartbeat is no earlier, if the TTL is the first one.
        self.last_seen = now.minus(first_ttl);
        Some(self.revive(now, Reason::Reconciled))
    }
}

/// Moves between servers.
impl Slot {
    /// Another detector hands it over as live. Returns the change if it was not live here.
    pub fn adopt(&mut self, now: Time, moved: &Moved) -> Option<Change> {
        self.flags.put(Flags::ADOPTED, true);
        self.put_doubt(self.is_doubted());
        self.flags.put(Flags::EAGER, moved.not_yet);
        self.flags.put(Flags::MOVED, false);
        // A pending answer may be older than the key's arrival.
        self.flags.put(Flags::OVERTAKEN, self.batch != 0);
        if self.is_live() {
            self.adopt_grant(moved);
            // Its arrival here was no heartbeat.
            let heard = self.flags.has(Flags::HEARD);
            self.last_seen = if heard { self.last_seen.max(moved.last_seen) } else { moved.last_seen };
            return None;
        }
        self.last_seen = moved.last_seen;
        self.deadline = moved.deadline;
        self.ttl = moved.ttl_ms;
        self.flags.put(Flags::GRANTED, moved.granted && !self.is_immortal());
        let change = self.revive(now, Reason::Reconciled);
        self.flags.put(Flags::LEAST, moved.ttl_ms != 0);
        Some(change)
    }

    /// A key that is live here too: a grant of the other server counts, if the last heartbeat was there.
    fn adopt_grant(&mut self, moved: &Moved) {
        let newer = !self.flags.has(Flags::HEARD) || moved.last_seen >= self.last_seen;
        let newer = newer && moved.deadline != Time::NEVER;
        if moved.granted && newer && !self.is_immortal() {
            self.deadline = self.deadline.max(moved.deadline);
            self.flags.put(Flags::GRANTED, true);
            self.put_doubt(self.is_doubted());
        }
    }

    /// Its server leaves the cluster.
    pub fn give_up(&mut self) {
        self.flags.put(Flags::MOVED, true);
    }

    /// The state to hand over.
    pub fn handover(&self, not_yet: bool) -> Moved {
        Moved {
            key: self.key.clone(),
            last_seen: self.last_seen,
            deadline: self.deadline,
            ttl_ms: self.ttl,
            granted: self.flags.has(Flags::GRANTED),
            fickle: self.flags.has(Flags::FICKLE),
            not_yet,
        }
    }
}
