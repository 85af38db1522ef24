//! One key: what the detector believes about it, in 40 bytes. Only this folder reads or writes the flag bits; other
//! files call verbs, which return what they changed. `evidence.rs` has the verbs for events and answers, `pushes.rs` those for pushed names.
//!
//! A slot is *asked* (not live, only a question is pending; *claimed* if the question under way may be older than an event
//! that proves nothing), or *live*. A live key can also be
//! - *granted*: absence proves nothing until its deadline (evicted, server restarted or flushed);
//! - *doubted*: a `del` arrived that may be a move to another server;
//! - *adopted*: another detector handed it over, and no answer of this server has confirmed it;
//! - *moved*: this server disowns it, and no other detector has adopted it.
//!
//! | event | asked | live | granted | doubted | adopted | moved |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | `set`, `new`, placed: [`renew`](Slot::renew) | → live, online | renewed | → live | placed: → live; `set`, `new` without `restore`: ends ([`proves_deletion`](Slot::proves_deletion)), → live, online | renewed, still adopted | → live |
//! | `expire`, `persist`: [`retime`](Slot::retime) | → live, online | asked | → live, asked | → live, asked | asked, still adopted | → live, asked |
//! | `set` from a server that does not own the slot: [`claim`](Slot::claim) | → claimed, asked | asked | asked | asked | asked | asked |
//! | its name is pushed: [`push`](Slot::push) | → claimed, asked | asked | asked | asked | asked | asked |
//! | a daemon wrote it: [`shorten`](Slot::shorten) | – | deadline earlier | – | deadline earlier | deadline earlier | deadline earlier |
//! | a daemon announces its end: [`expect_end`](Slot::expect_end) | – | deadline earlier | – | deadline earlier | deadline earlier | deadline earlier |
//! | `expired`: [`expire`](Slot::expire) | – | ends | kept until the deadline | ends | kept: may be older than the move | ends |
//! | `del`: [`delete`](Slot::delete) | – | ends | ends | ends | → doubted | ends |
//! | `del` in a cluster: [`doubt`](Slot::doubt) | – | → doubted | → doubted | – | → doubted | → doubted |
//! | `evicted`, replaced: [`throw_away`](Slot::throw_away) | – | → granted | deadline kept or later | → granted | → granted, no doubt | → granted |
//! | server restarted: [`grant`](Slot::grant) | – | → granted | deadline kept or later | → granted | → granted, no doubt | → granted |
//! | answer: a TTL: [`take_ttl`](Slot::take_ttl) | → live, online | deadline learnt | deadline kept; → live if it is later | → live | → live | → live |
//! | the same after a push: [`take_pushed`](Slot::take_pushed) | → live, online | renewed, or no change | renewed: → live | → live | → live | → live |
//! | answer: no TTL: [`take_no_ttl`](Slot::take_no_ttl) | → live, online | immortal | → live, immortal | → immortal | → immortal | → immortal |
//! | answer: absent: [`absence`](Slot::absence) | freed | ends | kept until the deadline, then ends | ends: deleted | ends | ends |
//! | answer: moved: [`disown`](Slot::disown) | freed | → moved, handed over | → moved, handed over | → moved, handed over | → moved, handed over in 500 ms | handed over again |
//! | handed over to here: [`adopt`](Slot::adopt) | → adopted, online | → adopted | → adopted, granted | → adopted | stays | → adopted |
//! | adopted elsewhere: [`is_moved`](Slot::is_moved) | – | – | – | – | – | ends |
//! | its deadline passes: [`look`](Slot::look) | – | asked | asked, also at its own deadline if renewals may be unseen | asked | asked | asked |
//!
//! "ends" is [`end`](Slot::end): offline, and freed unless a question is pending. A key that is both granted and
//! adopted cannot be doubted. An answer counts only if no event came between its fences (see `probes.rs`).

mod evidence;
mod facts;
mod pushes;

use super::deadlines::{Bucket, Deadlines};
use super::early;
use super::messages::BatchId;
use super::ttl::SAME_TTL_MS;
use crate::table::Named;
use crate::{Change, Key, Reason, Time};

/// See the module's head.
#[derive(Clone)]
pub(super) struct Slot {
    key: Key,
    deadline: Time,
    last_seen: Time,
    /// The learnt TTL in milliseconds, 0 while it is unknown.
    ttl: u32,
    /// See [`Deadlines::file`].
    filed: u32,
    /// The batch that asks for it, 0 for none.
    batch: BatchId,
    flags: Flags,
    /// The last pass that asked for it or found it named.
    pass: u8,
    said: Said,
}

/// A daemon's word about it that no event or answer has shown.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Said {
    #[default]
    Nothing,
    /// The TTL.
    Ttl,
    /// The deadline, and that its user was there when the message came.
    End,
    /// That a program has deleted it.
    Deleted,
}

/// The facts of a slot, packed.
#[derive(Clone, Copy, Default)]
struct Flags(u16);

impl Flags {
    const LIVE: u16 = 1;
    /// It waits in a queue of questions.
    const QUEUED: u16 = 2;
    /// An event came after the opening fence of its batch.
    const OVERTAKEN: u16 = 4;
    /// Absence proves nothing until the deadline.
    const GRANTED: u16 = 8;
    /// `last_seen` is the arrival of a `set`. Where names are pushed and no `set` is published: a push is not answered.
    const HEARD: u16 = 16;
    /// Its TTL is known from one answer alone: the next renewal is checked.
    const UNCONFIRMED: u16 = 32;
    /// The pass waits for its answer.
    const PASS: u16 = 64;
    /// Its TTL is to be learnt.
    const LEARN: u16 = 128;
    /// A `del` came that may be a move; of a key that is not live, a `set` from a server that does not own its slot.
    const DOUBTED: u16 = 256;
    /// The server disowns it, and no other detector has adopted it.
    const MOVED: u16 = 512;
    /// Another detector handed it over. No event ends it before an answer confirms it here, since the event may be
    /// older than the move.
    const ADOPTED: u16 = 1024;
    /// The true TTL may be longer: `ttl` is only what an answer had left of it.
    const LEAST: u16 = 2048;
    /// The last two `set`s arrived, so the program does not renew by EXPIRE, which sends no event.
    const BY_SET: u16 = 4096;
    /// It was adopted from a server where it had not arrived: if this server disowns it too, it goes back without delay.
    const EAGER: u16 = 8192;
    /// Redis does not have it, although a grant keeps it live: only a `set` brings it back.
    const GONE: u16 = 16384;
    /// The user's program varies the TTL: each renewal is checked.
    const FICKLE: u16 = 32768;
    /// It is to be asked for before its deadline.
    const ASK: u16 = Flags::LEARN | Flags::DOUBTED | Flags::MOVED | Flags::ADOPTED;
    /// Everything about its question, which outlives the key.
    const QUESTION: u16 = Flags::QUEUED | Flags::OVERTAKEN | Flags::PASS;

    /// Whether one of these flags is set.
    fn has(self, flag: u16) -> bool {
        self.0 & flag != 0
    }

    fn put(&mut self, flag: u16, on: bool) {
        if on { self.0 |= flag } else { self.0 &= !flag }
    }
}

/// How an event shows that the key is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renewal {
    /// `set`.
    Set,
    /// `new`, where no `set` follows: it may be a `set`, with a TTL of its own.
    Created,
    /// Another command placed it, with any TTL.
    Placed,
}

/// The effect of an event on a live key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The key ends.
    Ends,
    /// The event proves nothing; a question or a deadline decides.
    Kept,
}

/// The meaning of an absent answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// The key was not live.
    Known,
    /// A `del` was in doubt: now it is certain.
    Deleted,
    /// The grant still ran when the question was sent.
    Granted,
    /// The key ended without an event; whether its deadline has passed.
    Gone { ran_out: bool },
}

/// The step for a slot when its bucket comes due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing: not live, a question is pending, or the entry is stale.
    Away,
    /// Ask, but other questions are more urgent.
    AskLater,
    /// Its deadline has passed, or the early question is due: ask at once.
    AskFirst,
    /// It was renewed: file it again.
    File,
}

impl Named for Slot {
    fn name(&self) -> &[u8] {
        self.key.as_bytes()
    }
}

/// Questions and passes.
impl Slot {
    /// A slot that is not live yet. `pass` is any pass but the current one.
    pub(super) fn new(key: Key, now: Time, pass: u8, fickle: bool) -> Slot {
        let flags = Flags(if fickle { Flags::FICKLE } else { 0 });
        Slot {
            key,
            deadline: now,
            last_seen: now,
            ttl: 0,
            filed: 0,
            batch: 0,
            flags,
            pass,
            said: Said::Nothing,
        }
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Whether a question for it is queued or sent.
    pub(super) fn waits(&self) -> bool {
        self.flags.has(Flags::QUEUED) || self.batch != 0
    }

    /// The batch that asks for it, 0 for none.
    pub(super) fn batch(&self) -> BatchId {
        self.batch
    }

    pub(super) fn enqueue(&mut self) {
        self.flags.put(Flags::QUEUED, true);
    }

    pub(super) fn dequeue(&mut self) {
        self.flags.put(Flags::QUEUED, false);
    }

    /// Its question is sent. The answer includes every claim so far.
    pub(super) fn send_in(&mut self, batch: BatchId) {
        self.batch = batch;
        self.flags.put(Flags::DOUBTED, self.is_doubted());
    }

    /// An event came after the opening fence: the answer may not include it.
    pub(super) fn overtake(&mut self) {
        self.flags.put(Flags::OVERTAKEN, true);
    }

    /// Its batch was answered. Returns whether an event overtook the answer.
    pub(super) fn close_question(&mut self) -> bool {
        let overtaken = self.flags.has(Flags::OVERTAKEN);
        self.batch = 0;
        self.flags.put(Flags::OVERTAKEN, false);
        overtaken
    }

    /// All questions are dropped.
    pub(super) fn drop_question(&mut self) {
        self.batch = 0;
        self.flags.put(Flags::QUESTION, false);
    }

    /// The pass of this number waits for its answer. `missed` if events may be missing: then the last `set` need not
    /// be the last that arrived, so the answer does not teach the TTL.
    pub(super) fn join_pass(&mut self, pass: u8, missed: bool) {
        self.pass = pass;
        self.flags.put(Flags::PASS, true);
        if missed {
            self.flags.put(Flags::HEARD, false);
        }
    }

    /// The pass of this number found it named and needs no answer.
    pub(super) fn named_by_pass(&mut self, pass: u8) {
        self.pass = pass;
    }

    /// Whether the pass of this number has asked for it or found it named.
    pub(super) fn known_to_pass(&self, pass: u8) -> bool {
        self.pass == pass
    }

    /// Whether the pass waits for its answer.
    pub(super) fn in_pass(&self) -> bool {
        self.flags.has(Flags::PASS)
    }

    /// The pass no longer waits for it. Returns whether it did.
    pub(super) fn leave_pass(&mut self) -> bool {
        let in_pass = self.in_pass();
        self.flags.put(Flags::PASS, false);
        in_pass
    }
}

/// The knowledge about the key, which `facts.rs` reads.
impl Slot {
    /// Redis has it, whatever was believed under a grant.
    pub(super) fn put_held(&mut self) {
        self.flags.put(Flags::GONE, false);
    }

    /// The known TTL is confirmed.
    #[cfg(test)]
    pub(super) fn confirm_ttl(&mut self) {
        self.flags.put(Flags::UNCONFIRMED, false);
    }

    /// Each renewal is checked from now on.
    pub(super) fn put_fickle(&mut self) {
        self.flags.put(Flags::FICKLE, true);
    }
}

/// Deadlines, and the two ends of a presence.
impl Slot {
    /// Files it under its deadline, if it has one.
    pub(super) fn file(
        &mut self,
        at: u32,
        deadlines: &mut Deadlines,
        now: Time,
        (first_ttl, polled): (u64, bool),
    ) {
        if self.is_immortal() {
            return;
        }
        let own = self.own_deadline(first_ttl);
        let due = if self.hides_renewals() && own >= now { own.min(self.deadline) } else { self.deadline };
        let due = due.plus(1);
        let due = if self.is_asked_early(polled) { early::ask_at(due, now) } else { due };
        self.file_under(at, deadlines, due, now);
    }

    /// Whether it is asked for before its deadline, too: where no `set` reports a renewal (`polled`), unless the deadline
    /// is that of a grant.
    fn is_asked_early(&self, polled: bool) -> bool {
        polled && !self.is_granted()
    }

    /// Whether it is to be asked for: its deadline has passed, or is near enough for the early question.
    pub(super) fn is_due(&self, now: Time, polled: bool) -> bool {
        self.deadline < now || (self.is_asked_early(polled) && early::is_near(self.deadline, now))
    }

    /// Files it under another instant than its deadline.
    pub(super) fn file_under(&mut self, at: u32, deadlines: &mut Deadlines, due: Time, now: Time) {
        deadlines.file(at, &mut self.filed, due, now);
    }

    /// Another daemon hears its renewals and asks for it: no deadline is kept, unless this daemon has to ask for itself.
    pub(super) fn leave_to_holder(&mut self) {
        self.flags.put(Flags::BY_SET, false);
        if !self.is_own_question() {
            self.filed = 0;
        }
    }

    /// No event reports its renewals any longer.
    pub(super) fn stop_hearing(&mut self) {
        self.flags.put(Flags::BY_SET, false);
    }

    /// Its bucket came due.
    pub(super) fn look(&mut self, bucket: &Bucket, now: Time, (first_ttl, polled): (u64, bool)) -> Look {
        if !bucket.holds(self.filed) {
            return Look::Away;
        }
        self.filed = 0;
        if self.waits() || !self.is_live() {
            Look::Away
        } else if self.is_immortal() || self.must_ask() || self.may_be_renewed(now, first_ttl) {
            Look::AskLater
        } else if self.is_due(now, polled) {
            Look::AskFirst
        } else {
            Look::File
        }
    }

    /// It is live from now on; `last_seen` is set before. Where the last heartbeat is a guess, the user is known to be there
    /// since now. A key that was found, and whose TTL has run out since, was there before: its end is not earlier than its start.
    pub(super) fn revive(&mut self, now: Time, reason: Reason) -> Change {
        self.flags.put(Flags::DOUBTED, self.is_doubted());
        self.flags.put(Flags::LIVE, true);
        let at = if self.deadline_is_guessed() { now } else { self.deadline.min(now) };
        let last_seen = if self.heartbeat_is_guessed() { at } else { self.last_seen.min(at) };
        let key = self.key.clone();
        Change { key, live: true, at, last_seen, reason, deadline: None }
    }

    /// It is no longer live. Only its question stays.
    pub(super) fn end(&mut self, now: Time, reason: Reason) -> Change {
        let guessed = self.deadline_is_guessed();
        let deadline = if guessed { now } else { self.deadline.min(now) };
        let in_time = reason == Reason::Expired && !guessed && self.deadline.since(now) <= SAME_TTL_MS;
        let change = Change {
            key: self.key.clone(),
            live: false,
            at: if reason == Reason::Deleted { now } else { deadline },
            last_seen: self.last_seen.min(now),
            reason,
            deadline: in_time.then_some(deadline),
        };
        self.deadline = now;
        self.ttl = 0;
        self.filed = 0;
        self.said = Said::Nothing;
        self.flags.0 &= Flags::QUESTION | Flags::FICKLE;
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_takes_forty_bytes() {
        assert_eq!(size_of::<Option<Slot>>(), 40);
    }
}
