//! Questions to Redis, and the fence rule that says what an answer is worth.
//!
//! Answers and events come on different connections, so an answer alone does not say which events
//! it counts in. Each batch travels between two fences that come back in the event stream. An
//! answer takes its place there: it is applied when the closing fence arrives, and only if no event
//! for its key came between the two; otherwise the key is looked after anew.

use super::{Detector, Flags, LONGEST_TTL_MS, Output, SAME_TTL_MS, Slot};
use crate::presence::{Reason, Time};
use std::collections::{BTreeMap, VecDeque};

/// How soon a key that was set without a TTL, or that its server disowns, is asked again, in milliseconds.
pub(super) const LOOK_AGAIN_MS: u64 = 500;

/// Names one batch of questions; never 0.
pub type BatchId = u32;

/// Names a server among those of one driver; 0 names none of them.
pub type ServerId = u8;

/// The two ends of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Published before the first question.
    Open,
    /// Published after the last.
    Close,
}

/// What Redis says when it is asked for the TTL of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// −2: there is no such key.
    Absent,
    /// −1: it has no TTL.
    NoTtl,
    /// So many milliseconds are left.
    Left(u64),
    /// MOVED or ASK: the key's slot is another server's, so this one knows nothing of it.
    Moved,
    /// −2 of a server that the slot migrates to, asked with ASKING after it had said MOVED: the key is gone, or the
    /// server that the slot leaves, which is named, has it still. Where a link does not ask so, who leaves is told
    /// only when the slot has its new owner.
    NotYet(ServerId),
}

/// What waits to be asked, and what is under way.
#[derive(Clone, Default)]
pub(super) struct Asks {
    due: VecDeque<u32>,
    learn: VecDeque<u32>,
    batches: BTreeMap<BatchId, Batch>,
    last: BatchId,
}

#[derive(Clone)]
struct Batch {
    sent: Time,
    slots: Vec<u32>,
    learns: bool,
    open: bool,
    closed: bool,
    answers: Option<(Time, Vec<Answer>)>,
}

impl Asks {
    pub(super) fn waiting(&self) -> usize {
        self.due.len() + self.learn.len()
    }

    /// The batches under way, for a test that compares states.
    #[cfg(test)]
    pub(super) fn fingerprint(&self) -> Vec<(BatchId, bool, bool, bool)> {
        let batches = self.batches.iter();
        batches.map(|(&id, b)| (id, b.open, b.closed, b.answers.is_some())).collect()
    }

    /// How often a slot is in the queues, and in the batch of this number, for a test that counts.
    #[cfg(test)]
    pub(super) fn places(&self, at: u32, batch: BatchId) -> [usize; 2] {
        let queued = self.due.iter().chain(&self.learn).filter(|&&other| other == at).count();
        let slots = self.batches.get(&batch).map_or(&[][..], |batch| &batch.slots);
        [queued, slots.iter().filter(|&&other| other == at).count()]
    }

    pub(super) fn learning(&self) -> usize {
        self.learn.len()
    }

    /// When the oldest batch under way was handed out. Numbers grow, but for one wrap in years,
    /// which makes this late once, not wrong.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.batches.values().next().map(|batch| batch.sent)
    }

    fn under_way(&self, learns: bool) -> usize {
        self.batches.values().filter(|batch| batch.learns == learns).count()
    }
}

impl Detector {
    /// Asks for a key whose deadline has passed, before all that can wait.
    pub(super) fn ask_first(&mut self, at: u32) {
        self.slots[at].flags.put(Flags::QUEUED, true);
        self.asks.due.push_back(at);
    }

    pub(super) fn ask_later(&mut self, at: u32) {
        self.slots[at].flags.put(Flags::QUEUED, true);
        self.asks.learn.push_back(at);
    }

    /// An event for the key came: an answer under way may not count it in.
    pub(super) fn touch(&mut self, at: u32) {
        let slot = &mut self.slots[at];
        if slot.batch != 0 && self.asks.batches.get(&slot.batch).is_some_and(|batch| batch.open) {
            slot.flags.put(Flags::OVERTAKEN, true);
        }
    }

    pub(super) fn next_batch(&mut self, now: Time) -> Option<Output> {
        let room = |asks: &Asks, learns, most| asks.under_way(learns) < most;
        let (due, learn) = (self.settings.due_batches, self.settings.learn_batches);
        let mut batch = None;
        if !self.asks.due.is_empty() && room(&self.asks, false, due) {
            batch = self.make_batch(now, false);
        }
        if self.asks.learn.is_empty() && room(&self.asks, true, learn) {
            self.next_unasked();
        }
        if batch.is_none() && !self.asks.learn.is_empty() && room(&self.asks, true, learn) {
            batch = self.make_batch(now, true);
        }
        batch
    }

    /// The next batch of a queue; `None` if nothing in it is still worth asking.
    fn make_batch(&mut self, now: Time, learns: bool) -> Option<Output> {
        let id = self.asks.last.checked_add(1).unwrap_or(1);
        let (mut slots, mut keys) = (Vec::new(), Vec::new());
        while slots.len() < self.settings.batch_keys {
            let queue = if learns { &mut self.asks.learn } else { &mut self.asks.due };
            let Some(at) = queue.pop_front() else { break };
            let slot = &mut self.slots[at];
            slot.flags.put(Flags::QUEUED, false);
            let (live, in_pass) = (slot.flags.has(Flags::LIVE), slot.flags.has(Flags::PASS));
            if !live && !in_pass {
                self.free(at);
                continue;
            }
            // Renewed while it waited: its deadline lies ahead.
            if !learns && !in_pass && slot.deadline >= now && !slot.flags.has(Flags::DOUBTED) {
                self.look_after(at, now);
                continue;
            }
            slot.batch = id;
            slots.push(at);
            keys.push(slot.key.clone());
        }
        if slots.is_empty() {
            return None;
        }
        let count = slots.len() as u64;
        if learns {
            self.counts.lookups += count
        } else {
            self.counts.probes += count
        }
        self.asks.last = id;
        let batch = Batch { sent: now, slots, learns, open: false, closed: false, answers: None };
        self.asks.batches.insert(id, batch);
        Some(Output::Ask(id, keys))
    }

    pub(super) fn fence(&mut self, now: Time, id: BatchId, side: Side) {
        let Some(batch) = self.asks.batches.get_mut(&id) else {
            return;
        };
        match side {
            Side::Open => batch.open = true,
            Side::Close => batch.closed = true,
        }
        self.finish_batch(now, id);
    }

    pub(super) fn answers(&mut self, now: Time, id: BatchId, answers: Vec<Answer>) {
        let Some(batch) = self.asks.batches.get_mut(&id) else {
            return;
        };
        batch.answers = Some((now, answers));
        self.finish_batch(now, id);
    }

    /// Applies a batch once both its closing fence and its answers are there.
    fn finish_batch(&mut self, now: Time, id: BatchId) {
        let ready = |batch: &Batch| batch.closed && batch.answers.is_some();
        if !self.asks.batches.get(&id).is_some_and(ready) {
            return;
        }
        let Some(batch) = self.asks.batches.remove(&id) else {
            return;
        };
        let Some((came, answers)) = batch.answers else {
            return;
        };
        // Without its opening fence a batch proves nothing: ask again.
        let worth = batch.open && answers.len() == batch.slots.len();
        for (i, &at) in batch.slots.iter().enumerate() {
            let slot = &mut self.slots[at];
            slot.batch = 0;
            let overtaken = slot.flags.has(Flags::OVERTAKEN);
            slot.flags.put(Flags::OVERTAKEN, false);
            if !worth {
                self.ask_later(at);
                continue;
            }
            if overtaken && self.sweeps() && !self.slots[at].flags.has(Flags::LIVE) {
                // An end came, and no `set` that followed it would have been heard.
                self.ask_later(at);
                continue;
            }
            let in_pass = self.leave_pass(at);
            if overtaken {
                self.counts.overtaken += 1;
                // However much has come since, at the answer's time it was here. Without a deadline it is asked again.
                let here = matches!(answers[i], Answer::Left(_) | Answer::NoTtl);
                if here && self.slots[at].deadline != Time::NEVER {
                    self.slots[at].flags.put(Flags::ADOPTED, false);
                }
                self.keep(at, now);
                continue;
            }
            match answers[i] {
                Answer::Absent => self.apply_absent(at, now, batch.sent, in_pass),
                Answer::NoTtl => self.apply_no_ttl(at, now),
                Answer::Moved => self.apply_moved(at, now, false),
                Answer::NotYet(left) if self.proves_absence(at, left) => {
                    self.apply_absent(at, now, batch.sent, in_pass);
                }
                Answer::NotYet(_) => self.apply_moved(at, now, true),
                Answer::Left(left) => {
                    self.apply_left(at, now, batch.sent, came, left.min(LONGEST_TTL_MS));
                }
            }
        }
    }

    /// What the events say stands: look after a live key, forget a dead one.
    fn keep(&mut self, at: u32, now: Time) {
        if self.slots[at].flags.has(Flags::LIVE) {
            self.look_after(at, now);
        } else {
            self.free(at);
        }
    }

    fn apply_absent(&mut self, at: u32, now: Time, sent: Time, in_pass: bool) {
        let slot = &self.slots[at];
        if !slot.flags.has(Flags::LIVE) {
            self.free(at);
        } else if slot.flags.has(Flags::DOUBTED) {
            self.kill(at, now, Reason::Deleted);
        } else if slot.flags.has(Flags::GRANTED) && sent <= slot.deadline {
            // Absent while the grant still ran. It may have run out since, but then the user may have
            // come back since, too: the next question tells.
            self.slots[at].flags.put(Flags::ASK, false);
            self.file(at, now);
        } else {
            // Gone without an event: its deadline passed, or FLUSHALL, or a gap hid the event.
            let ran_out = slot.deadline < now && (!in_pass || self.sweeps());
            let otherwise = if in_pass && self.sweeps() { Reason::Deleted } else { Reason::Reconciled };
            self.kill(at, now, if ran_out { Reason::Expired } else { otherwise });
        }
    }

    fn apply_no_ttl(&mut self, at: u32, now: Time) {
        let slot = &mut self.slots[at];
        self.counts.immortal += u64::from(slot.deadline != Time::NEVER);
        slot.deadline = Time::NEVER;
        slot.flags.put(Flags::GRANTED | Flags::ASK, false);
        // Some programs SET and then EXPIRE, which makes no event that is listened to: look again soon,
        // and then once a TTL.
        let soon = now.since(slot.last_seen) < LOOK_AGAIN_MS;
        let again = if soon { LOOK_AGAIN_MS } else { self.settings.first_ttl_ms };
        self.deadlines.file(at, &mut slot.filed, now.plus(again), now);
        if !slot.flags.has(Flags::LIVE) {
            self.revive(at, now, now, self.found());
        }
    }

    /// Why a key that was not known is live.
    fn found(&self) -> Reason {
        if self.sweeps() { Reason::Heartbeat } else { Reason::Reconciled }
    }

    fn apply_left(&mut self, at: u32, now: Time, sent: Time, came: Time, left: u64) {
        let first_ttl = self.settings.first_ttl_ms;
        self.doubt_heard(at);
        let slot = &mut self.slots[at];
        self.counts.immortal -= u64::from(slot.deadline == Time::NEVER);
        let changed = slot.learn_ttl(left, sent, came);
        slot.know_at_least(left, first_ttl);
        slot.flags.put(Flags::ASK, false);
        let heard = slot.flags.has(Flags::HEARD);
        let (lo, hi) = (sent.plus(left), came.plus(left));
        let told = if heard { slot.last_seen.plus(u64::from(slot.ttl)).clamp(lo, hi) } else { lo };
        let granted = slot.flags.has(Flags::GRANTED);
        slot.deadline = if granted { slot.deadline.max(told) } else { told };
        let live = slot.flags.has(Flags::LIVE);
        if !heard {
            let ttl = if slot.ttl == 0 { first_ttl } else { u64::from(slot.ttl) };
            let renewed = told.minus(ttl).min(now);
            slot.last_seen = if live { slot.last_seen.max(renewed) } else { renewed };
        }
        let last_seen = slot.last_seen;
        if changed {
            self.surprised();
        }
        if !live {
            self.revive(at, now, last_seen, self.found());
            self.grant_found(at, now);
        }
        self.file(at, now);
    }

    /// Forgets all batches and queues: their fences may be lost.
    pub(super) fn drop_asks(&mut self) {
        let last = self.asks.last;
        let asks = std::mem::replace(&mut self.asks, Asks { last, ..Asks::default() });
        let batched = asks.batches.into_values().flat_map(|batch| batch.slots);
        for at in batched.chain(asks.due).chain(asks.learn) {
            let slot = &mut self.slots[at];
            slot.batch = 0;
            slot.flags.put(Flags::QUEUED, false);
            slot.flags.put(Flags::OVERTAKEN, false);
            slot.flags.put(Flags::PASS, false);
            self.free(at);
        }
    }
}

impl Slot {
    /// Its TTL was never told, nor when it was set; nor is it the end of a grant.
    pub(super) fn deadline_is_guessed(&self) -> bool {
        self.flags.has(Flags::LEARN) && !self.flags.has(Flags::HEARD) && !self.flags.has(Flags::GRANTED)
    }

    /// Learns the TTL from an answer that tells `left`. Says whether it is another than was known.
    ///
    /// Too short a TTL costs one more question, too long a one makes the next offline late. So a
    /// shorter one is always believed, and a longer one only right after the `set`: later it is as
    /// likely a renewal by EXPIRE, which makes no event that we listen to.
    fn learn_ttl(&mut self, left: u64, sent: Time, came: Time) -> bool {
        if !self.flags.has(Flags::HEARD) {
            return false;
        }
        let ttl = ttl_of(left, self.last_seen, sent, came);
        let known = u64::from(self.ttl);
        if known == 0 || self.flags.has(Flags::LEAST) {
            // Without a question that followed a `set` there is nothing to learn from.
            let learns = self.flags.has(Flags::LEARN);
            if learns {
                self.ttl = ttl as u32;
                self.flags.put(Flags::LEAST, false);
            }
            self.flags.put(Flags::HEARD, learns);
            return false;
        }
        let fresh = sent.since(self.last_seen) <= known / 4;
        let differs = ttl.abs_diff(known) > SAME_TTL_MS + came.since(sent);
        let believed = differs && (ttl < known || fresh);
        if believed {
            self.ttl = ttl as u32;
            self.flags.put(Flags::VARIES, true);
        } else if differs {
            // Not learnt from this answer; but the next `set` is asked for at once, which tells.
            self.flags.put(Flags::VARIES, true);
            self.flags.put(Flags::HEARD, false);
        } else if fresh {
            self.flags.put(Flags::VARIES, false);
        }
        believed
    }

    /// A TTL is at least what an answer leaves of it. It is remembered although no `set` was heard that gave it,
    /// since a grant has to be as long as the pause between two heartbeats; the next `set` is asked for, which tells.
    fn know_at_least(&mut self, left: u64, first_ttl: u64) {
        let assumed = if self.ttl == 0 { first_ttl } else { u64::from(self.ttl) };
        if left > assumed + SAME_TTL_MS {
            self.flags.put(Flags::VARIES, self.ttl != 0);
            self.ttl = left as u32;
            self.flags.put(Flags::LEAST, true);
            self.flags.put(Flags::HEARD, false);
        }
    }
}

/// The TTL that the `set` which arrived at `heard` gave, when `left` was the answer to a question
/// handed out at `sent` and answered at `came`. The truth lies between what these bounds allow; a
/// whole second there, else a tenth, is what a program will have written.
fn ttl_of(left: u64, heard: Time, sent: Time, came: Time) -> u64 {
    let low = left + sent.since(heard);
    let high = low + came.since(sent) + 10;
    // An answer that took long could be rounded to what nobody wrote.
    let slow = came.since(sent) > SAME_TTL_MS;
    let round = |step: u64| Some(low.div_ceil(step) * step).filter(|&ttl| ttl <= high && !slow);
    round(1000).or_else(|| round(100)).unwrap_or(low).clamp(1, LONGEST_TTL_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_learnt_as_it_was_written() {
        let at = Time::from_ms;
        assert_eq!(ttl_of(29_999, at(100), at(100), at(101)), 30_000);
        assert_eq!(ttl_of(29_950, at(100), at(148), at(152)), 30_000);
        assert_eq!(ttl_of(1_499, at(100), at(100), at(101)), 1_500);
        assert_eq!(ttl_of(1_234, at(100), at(100), at(101)), 1_234);
        assert_eq!(ttl_of(1_400, at(0), at(0), at(600)), 1_400, "a slow answer is not rounded");
        assert_eq!(ttl_of(0, at(100), at(100), at(100)), 1, "never 0, which is not known");
        assert_eq!(ttl_of(LONGEST_TTL_MS, at(0), at(9), at(9)), LONGEST_TTL_MS);
    }
}
