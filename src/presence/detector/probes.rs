//! Questions to Redis, and the fence rule that says what an answer is worth.
//!
//! Answers and events come on different connections, so an answer alone does not say which events it includes. Each
//! batch of questions therefore travels between two fences that come back in the event stream. An answer is applied
//! when the closing fence arrives, and only if no event for its key came between the two fences. Otherwise the
//! detector asks again where it still needs to.
//!
//! A key that is absent although no event ended it may have gone with the whole keyspace, or its event with a stream
//! that is dead. So a batch with such an answer is applied only after a canary, ordered later, has come back with its
//! key as the daemon had set it. Until then events still count as newer than the answers.

use super::Detector;
use super::LONGEST_TTL_MS;
use super::messages::{Answer, BatchId, Output, Side};
use super::slot::Absence;
use super::ttl::Left;
use crate::{Reason, Time};
use std::collections::{BTreeMap, VecDeque};
#[cfg(test)]
use {
    super::{Slot, Table},
    std::hash::{Hash, Hasher},
};

/// The pause before a key that was set without a TTL, or that its server disowns, is asked for again, in milliseconds.
pub(super) const LOOK_AGAIN_MS: u64 = 500;

/// The longest pause before a key without a TTL is asked for again, in milliseconds.
const LONGEST_PAUSE_MS: u64 = 3_600_000;

/// The questions that wait, and the batches under way.
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
    /// Fences and answers are there since then, and a canary is to prove the absence of a key.
    unproven: Option<Time>,
}

impl Asks {
    pub(super) fn waiting(&self) -> usize {
        self.due.len() + self.learn.len() + self.unproven()
    }

    /// How many keys were asked for in batches that wait for a canary.
    fn unproven(&self) -> usize {
        let unproven = self.batches.values().filter(|batch| batch.unproven.is_some());
        unproven.map(|batch| batch.slots.len()).sum()
    }

    /// The number of the last batch.
    #[cfg(test)]
    pub(super) fn last(&self) -> BatchId {
        self.last
    }

    /// Hashes what decides the future, for tests that compare states: instants count from `now`, batches from the last one.
    #[cfg(test)]
    pub(super) fn hash(&self, now: Time, table: &Table<Slot>, hash: &mut impl Hasher) {
        let Asks { due, learn, batches, last } = self;
        (due.len(), learn.len(), batches.len()).hash(hash);
        due.iter().chain(learn).for_each(|&at| table[at].key().hash(hash));
        for (id, batch) in batches {
            let Batch { sent, slots, learns, open, closed, answers, unproven } = batch;
            slots.iter().for_each(|&at| table[at].key().hash(hash));
            (last - id, learns, open, closed, unproven.map(|since| now.since(since))).hash(hash);
            let Some((came, answers)) = answers else {
                now.since(*sent).hash(hash);
                continue;
            };
            answers.hash(hash);
            // An absent or overtaken answer is the same whenever the key was asked for.
            let timed = |(&at, answer): (&u32, &Answer)| {
                *answer != Answer::Absent && !table[at].is_overtaken() || table[at].is_granted()
            };
            slots
                .iter()
                .zip(answers)
                .any(timed)
                .then(|| [*sent, *came].map(|then| now.since(then)))
                .hash(hash);
        }
    }

    /// How often a slot is in the queues, and in the batch of this number, for tests that count.
    #[cfg(test)]
    pub(super) fn places(&self, at: u32, batch: BatchId) -> [usize; 2] {
        let queued = self.due.iter().chain(&self.learn).filter(|&&other| other == at).count();
        let slots = self.batches.get(&batch).map_or(&[][..], |batch| &batch.slots);
        [queued, slots.iter().filter(|&&other| other == at).count()]
    }

    pub(super) fn learning(&self) -> usize {
        self.learn.len()
    }

    /// When the oldest batch was sent whose fences or answers are missing. Numbers grow, except for one wrap in years; then the result is late
    /// once.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.batches.values().find(|batch| batch.unproven.is_none()).map(|batch| batch.sent)
    }

    fn has_room(&self, learns: bool, most: usize) -> bool {
        let waits = |batch: &&Batch| batch.learns == learns && batch.unproven.is_none();
        self.batches.values().filter(waits).count() < most
    }
}

impl Detector {
    /// Queues a question that cannot wait: a deadline has passed, or a deletion is in doubt.
    pub(super) fn ask_first(&mut self, at: u32) {
        self.table[at].enqueue();
        self.asks.due.push_back(at);
    }

    /// Queues a question that yields to the urgent ones.
    pub(super) fn ask_later(&mut self, at: u32) {
        self.table[at].enqueue();
        self.asks.learn.push_back(at);
    }

    /// An event for the key came: an answer under way may not include it.
    pub(super) fn touch(&mut self, at: u32) {
        let batch = self.table[at].batch();
        if batch != 0 && self.asks.batches.get(&batch).is_some_and(|batch| batch.open) {
            self.table[at].overtake();
        }
    }

    /// The next batch to send, if one may be sent.
    pub(super) fn next_batch(&mut self, now: Time) -> Option<Output> {
        let (due, learn) = (self.settings.due_batches, self.settings.learn_batches);
        let mut batch = None;
        if !self.asks.due.is_empty() && self.asks.has_room(false, due) {
            batch = self.make_batch(now, false);
        }
        if self.asks.learn.is_empty() && self.asks.has_room(true, learn) {
            self.next_unasked();
        }
        if batch.is_none() && !self.asks.learn.is_empty() && self.asks.has_room(true, learn) {
            batch = self.make_batch(now, true);
        }
        batch
    }

    /// The next batch of a queue; `None` if no question in it is needed any more.
    fn make_batch(&mut self, now: Time, learns: bool) -> Option<Output> {
        let id = self.asks.last.checked_add(1).unwrap_or(1);
        let (mut slots, mut keys) = (Vec::new(), Vec::new());
        while slots.len() < self.settings.batch_keys {
            let queue = if learns { &mut self.asks.learn } else { &mut self.asks.due };
            let Some(at) = queue.pop_front() else { break };
            let slot = &mut self.table[at];
            slot.dequeue();
            if !slot.is_live() && !slot.in_pass() && !slot.is_claimed() {
                self.free(at);
                continue;
            }
            // Renewed while it waited: its deadline lies ahead.
            let pushed = self.tracked && slot.is_pushed();
            if !learns && !pushed && !slot.in_pass() && !slot.is_due(now, self.polled) && !slot.is_doubted() {
                self.look_after(at, now);
                continue;
            }
            slot.send_in(id);
            slots.push(at);
            keys.push(slot.key().clone());
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
        let batch =
            Batch { sent: now, slots, learns, open: false, closed: false, answers: None, unproven: None };
        self.asks.batches.insert(id, batch);
        Some(Output::Ask(id, keys))
    }

    pub(super) fn fence(&mut self, now: Time, id: BatchId, side: Side) {
        let Some(batch) = self.asks.batches.get_mut(&id) else { return };
        match side {
            Side::Open => batch.open = true,
            Side::Close => batch.closed = true,
        }
        self.finish_batch(now, id);
    }

    pub(super) fn answers(&mut self, now: Time, id: BatchId, answers: Vec<Answer>) {
        let Some(batch) = self.asks.batches.get_mut(&id) else { return };
        batch.answers = Some((now, answers));
        self.finish_batch(now, id);
    }

    /// Applies a batch once both its closing fence and its answers have arrived, or has its absences proven.
    fn finish_batch(&mut self, now: Time, id: BatchId) {
        let ready = |batch: &&Batch| batch.closed && batch.answers.is_some() && batch.unproven.is_none();
        let Some(batch) = self.asks.batches.get(&id).filter(ready) else { return };
        if !self.needs_proof(batch) {
            return self.apply_batches(now, &[id]);
        }
        if let Some(batch) = self.asks.batches.get_mut(&id) {
            batch.unproven = Some(now);
            self.out.push_back(Output::Prove);
        }
    }

    /// Whether an answer of the batch would end a key that no event has ended.
    fn needs_proof(&self, batch: &Batch) -> bool {
        let Some((_, answers)) = &batch.answers else { return false };
        let ends = |(&at, answer): (&u32, &Answer)| {
            *answer == Answer::Absent && self.table[at].ends_unannounced(batch.sent, self.tracked)
        };
        batch.open && answers.len() == batch.slots.len() && batch.slots.iter().zip(answers).any(ends)
    }

    /// A canary that was ordered at `sent` has come back: applies the batches that were complete before.
    pub(super) fn proven(&mut self, now: Time, sent: Time) {
        let before = |batch: &Batch| batch.unproven.is_some_and(|since| since < sent);
        let batches = self.asks.batches.iter().filter(|(_, batch)| before(batch));
        let ids: Vec<BatchId> = batches.map(|(&id, _)| id).collect();
        self.apply_batches(now, &ids);
    }

    fn apply_batches(&mut self, now: Time, ids: &[BatchId]) {
        ids.iter().for_each(|&id| self.apply_batch(now, id));
        if self.tracked {
            self.put_starts_first();
        }
    }

    fn apply_batch(&mut self, now: Time, id: BatchId) {
        let Some(batch) = self.asks.batches.remove(&id) else { return };
        let Some((came, answers)) = batch.answers else { return };
        // Without its opening fence a batch proves nothing: ask again.
        let valid = batch.open && answers.len() == batch.slots.len();
        for (i, &at) in batch.slots.iter().enumerate() {
            let slot = &mut self.table[at];
            // A key that was there when Redis answered, and that an event claims since, is there.
            let claimed =
                slot.is_claimed() && matches!(answers.get(i), Some(Answer::Left(_) | Answer::NoTtl));
            let overtaken = slot.close_question() && (self.tracked || !claimed);
            // In a sweep no event would report a `set` that followed the end.
            let end_only =
                overtaken && !slot.is_live() && self.pass.as_ref().is_some_and(|pass| pass.sweeps());
            if !valid || end_only {
                self.ask_later(at);
            } else if overtaken && self.tracked {
                self.believe_and_ask_again(at, now, answers[i], (batch.sent, came));
            } else if overtaken {
                self.discard(at, now, answers[i]);
            } else {
                self.believe(at, now, answers[i], (batch.sent, came));
            }
        }
        self.settle_claims();
    }

    /// An event came between the fences, and it is newer than the answer.
    fn discard(&mut self, at: u32, now: Time, answer: Answer) {
        self.leave_pass(at);
        self.counts.overtaken += 1;
        let slot = &mut self.table[at];
        // Whatever came since, the key was here when Redis answered. Without a deadline it is asked for again.
        if matches!(answer, Answer::Left(_) | Answer::NoTtl) && !slot.is_immortal() {
            slot.confirm();
            self.origins.forget(at);
        }
        let slot = &self.table[at];
        if slot.is_live() {
            self.look_after(at, now)
        } else if slot.is_claimed() {
            self.ask_later(at)
        } else {
            self.free(at)
        }
    }

    /// No event came between the fences: the answer holds.
    pub(super) fn believe(&mut self, at: u32, now: Time, answer: Answer, (sent, came): (Time, Time)) {
        let in_pass = self.leave_pass(at);
        let pushed = self.tracked && self.table[at].take_push();
        let absent = match answer {
            Answer::Absent => true,
            Answer::NotYet(left) => self.proves_absence(at, left),
            _ => false,
        };
        // Every answer either confirms an adopted key or hands it on.
        self.origins.forget(at);
        match answer {
            _ if absent => self.apply_absent(at, now, sent, in_pass),
            Answer::NoTtl => self.apply_no_ttl(at, now, in_pass),
            Answer::Left(ms) => {
                let left = Left { ms: ms.min(LONGEST_TTL_MS), sent, came };
                if pushed {
                    self.apply_pushed(at, now, left)
                } else {
                    self.apply_left(at, now, left, in_pass)
                }
            }
            Answer::Absent | Answer::Moved => self.apply_moved(at, now, false),
            Answer::NotYet(_) => self.apply_moved(at, now, true),
        }
    }

    fn apply_absent(&mut self, at: u32, now: Time, sent: Time, in_pass: bool) {
        let swept = in_pass && self.pass.as_ref().is_some_and(|pass| pass.sweeps());
        let slot = &mut self.table[at];
        match slot.absence(now, sent) {
            Absence::Known => {
                if self.tracked {
                    self.out.push_back(Output::Unknown { key: slot.key().clone(), ended: true });
                }
                self.free(at);
            }
            Absence::Deleted => self.end(at, now, Reason::Deleted),
            // The grant may have ended since, but then the user may have returned since, too: the next question tells.
            Absence::Granted => {
                self.apply(at, |slot| {
                    slot.rest();
                    None
                });
                self.file(at, now);
            }
            // Without an event: its deadline passed, or FLUSHALL, or a gap hid the event.
            Absence::Gone { ran_out } => {
                self.note_unannounced(at);
                let compared = in_pass && !swept;
                let reason = match (ran_out, swept) {
                    _ if compared => Reason::Reconciled,
                    _ if self.tracked => self.end_reason(at, ran_out),
                    (true, _) => Reason::Expired,
                    (false, true) => Reason::Deleted,
                    (false, false) => Reason::Reconciled,
                };
                self.end(at, now, reason);
            }
        }
    }

    fn apply_no_ttl(&mut self, at: u32, now: Time, in_pass: bool) {
        let reason = self.found_reason(at, in_pass);
        // Some programs SET and then EXPIRE, which sends no event that the detector subscribes to: ask again soon, and then
        // at growing pauses.
        let silent_ms = self.table[at].silent_ms(now);
        let longest_ms = LONGEST_PAUSE_MS.max(self.settings.first_ttl_ms);
        let pause = if silent_ms < LOOK_AGAIN_MS {
            LOOK_AGAIN_MS
        } else {
            silent_ms.clamp(self.settings.first_ttl_ms, longest_ms)
        };
        self.apply(at, |slot| {
            slot.take_no_ttl(now);
            (!slot.is_live()).then(|| slot.revive(now, reason))
        });
        if !self.leaves_to_holder(at) {
            self.table[at].file_under(at, &mut self.deadlines, now.plus(pause), now);
        }
    }

    fn apply_left(&mut self, at: u32, now: Time, left: Left, in_pass: bool) {
        self.usual.note(left.ms, self.settings.first_ttl_ms);
        let (missed, first_ttl, reason) =
            (self.heard_since(now), self.settings.first_ttl_ms, self.found_reason(at, in_pass));
        let (was_live, ttl_before) = (self.table[at].is_live(), self.table[at].known_ttl().unwrap_or(0));
        let mut changed = None;
        let again = self.is_set_again(at, left);
        self.apply(at, |slot| {
            if again {
                slot.end_grant();
            }
            slot.distrust_before(missed);
            changed = slot.take_ttl(now, left, first_ttl);
            (!was_live).then(|| slot.revive(now, reason))
        });
        if let Some(difference_ms) = changed {
            self.note_fickle(at, difference_ms);
        }
        self.note_learnt(at, ttl_before);
        if !was_live {
            self.grant_found(at, now, left.sent);
        }
        // The answer is older than the TTL.
        if self.table[at].may_be_renewed(now, first_ttl) && !self.table[at].waits() {
            return self.ask_later(at);
        }
        self.file(at, now);
    }

    /// Why a key that was not known is live. One that was claimed may have been live since the claim.
    fn found_reason(&self, at: u32, in_pass: bool) -> Reason {
        let sweeps = self.pass.as_ref().is_some_and(|pass| pass.sweeps());
        if self.tracked {
            return if in_pass && !sweeps { Reason::Reconciled } else { Reason::Heartbeat };
        }
        let claimed = || !self.table[at].is_live() && self.was_claimed(at);
        if sweeps && !claimed() { Reason::Heartbeat } else { Reason::Reconciled }
    }

    /// Drops all batches and queues: their fences may be lost.
    pub(super) fn drop_asks(&mut self) {
        self.recreated = None;
        let last = self.asks.last;
        let asks = std::mem::replace(&mut self.asks, Asks { last, ..Asks::default() });
        let batched = asks.batches.into_values().flat_map(|batch| batch.slots);
        for at in batched.chain(asks.due).chain(asks.learn) {
            self.table[at].drop_question();
            self.free(at);
        }
        self.claims.clear();
    }
}
