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
mod pushes;

use super::deadlines::{Bucket, Deadlines};
use super::early;
use super::messages::BatchId;
use super::ttl::SAME_TTL_MS;
use crate::presence::table::Named;
use crate::presence::{Change, Key, Reason, Time};

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

/// The knowledge about the key.
impl Slot {
    pub(super) fn is_live(&self) -> bool {
        self.flags.has(Flags::LIVE)
    }

    /// Whether it is live without a TTL.
    pub(super) fn is_immortal(&self) -> bool {
        self.deadline == Time::NEVER
    }

    /// Whether absence proves nothing until its deadline.
    pub(super) fn is_granted(&self) -> bool {
        self.flags.has(Flags::GRANTED)
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.is_live() && self.flags.has(Flags::DOUBTED)
    }

    /// Whether it is not live, and an event that proves nothing says otherwise since the last question.
    pub(super) fn is_claimed(&self) -> bool {
        !self.is_live() && self.flags.has(Flags::DOUBTED)
    }

    pub(super) fn is_adopted(&self) -> bool {
        self.flags.has(Flags::ADOPTED)
    }

    /// Whether it is live, and nothing says that it may have moved.
    pub(super) fn is_settled(&self) -> bool {
        self.is_live() && !self.flags.has(Flags::DOUBTED | Flags::ADOPTED | Flags::MOVED)
    }

    /// Whether it is live, disowned by this server, and not adopted by another detector.
    pub(super) fn is_moved(&self) -> bool {
        self.is_live() && self.flags.has(Flags::MOVED)
    }

    /// Whether a deadline bucket holds a valid entry.
    pub(super) fn is_filed(&self) -> bool {
        self.filed != 0
    }

    #[cfg(test)]
    pub(super) fn deadline(&self) -> Time {
        self.deadline
    }

    /// The last heartbeat known.
    pub(super) fn last_seen(&self) -> Time {
        self.last_seen
    }

    /// The deadline without any grant: one TTL after the last heartbeat known.
    pub(super) fn own_deadline(&self, first_ttl: u64) -> Time {
        if self.is_immortal() { Time::NEVER } else { self.last_seen.plus(self.ttl_or(first_ttl)) }
    }

    /// Whether only a grant keeps it live: Redis does not have it.
    pub(super) fn is_gone(&self) -> bool {
        self.flags.has(Flags::GONE)
    }

    /// Whether it is live, and not for a grant alone.
    pub(super) fn is_held_by_redis(&self) -> bool {
        self.is_live() && !self.is_gone()
    }

    /// Redis has it, whatever was believed under a grant.
    pub(super) fn put_held(&mut self) {
        self.flags.put(Flags::GONE, false);
    }

    /// Whether a grant may hide a renewal without an event: then the detector asks at the key's own deadline too.
    fn hides_renewals(&self) -> bool {
        self.flags.has(Flags::GRANTED) && !self.flags.has(Flags::BY_SET) && !self.flags.has(Flags::GONE)
    }

    /// Whether its own deadline has passed under a grant that may hide a renewal.
    pub(super) fn may_be_renewed(&self, now: Time, first_ttl: u64) -> bool {
        self.hides_renewals() && self.own_deadline(first_ttl) < now && self.deadline >= now
    }

    /// The TTL in milliseconds; `first_ttl` while it is unknown.
    pub(super) fn ttl_or(&self, first_ttl: u64) -> u64 {
        if self.ttl == 0 { first_ttl } else { u64::from(self.ttl) }
    }

    /// Whether it is to be asked for whatever its deadline says.
    pub(super) fn must_ask(&self) -> bool {
        self.flags.has(Flags::ASK)
    }

    /// Whether this daemon asks for it even where another one asks at deadlines: neither an absence nor an event proves anything
    /// yet.
    pub(super) fn is_own_question(&self) -> bool {
        self.flags.has(Flags::GRANTED | Flags::DOUBTED | Flags::MOVED | Flags::ADOPTED)
    }

    /// The TTL in milliseconds, if an answer gave all of it.
    pub(super) fn known_ttl(&self) -> Option<u32> {
        (self.ttl != 0 && !self.flags.has(Flags::LEAST)).then_some(self.ttl)
    }

    /// Whether this renewal's TTL is to be checked; `all` if the renewals of all keys are.
    pub(super) fn wants_check(&self, all: bool) -> bool {
        self.flags.has(Flags::HEARD) && (all || self.flags.has(Flags::UNCONFIRMED | Flags::FICKLE))
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

    /// Whether the deadline is only a guess: no answer gave the TTL, no `set` gave its start, no grant set it.
    fn deadline_is_guessed(&self) -> bool {
        self.flags.has(Flags::LEARN) && !self.flags.has(Flags::HEARD) && !self.flags.has(Flags::GRANTED)
    }

    /// Whether `last_seen` is only a guess: no `set` gave it, and the TTL that leads back to it is not known.
    fn heartbeat_is_guessed(&self) -> bool {
        !self.flags.has(Flags::HEARD) && (self.ttl == 0 || self.flags.has(Flags::LEAST))
    }

    /// The facts that decide the future, for tests that compare states: instants count from `now`, batches from the last one.
    #[cfg(test)]
    pub(super) fn facts(&self, now: Time, last: BatchId) -> impl std::hash::Hash + use<> {
        let Slot { key: _, deadline, last_seen, ttl, filed, batch, flags, pass, said } = self;
        let from_now = |then: &Time| self.is_live().then(|| then.as_ms().wrapping_sub(now.as_ms()));
        let filed = self.is_filed().then(|| filed.wrapping_sub(now.as_ms() as u32));
        let batch = (*batch != 0).then(|| last - batch);
        (from_now(deadline), from_now(last_seen), *ttl, filed, batch, flags.0, *pass, *said)
    }

    #[cfg(test)]
    pub(super) fn is_overtaken(&self) -> bool {
        self.flags.has(Flags::OVERTAKEN)
    }

    /// The note of its deadline bucket.
    #[cfg(test)]
    pub(super) fn filed(&self) -> u32 {
        self.filed
    }

    #[cfg(test)]
    pub(super) fn is_queued(&self) -> bool {
        self.flags.has(Flags::QUEUED)
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
    /// since now.
    pub(super) fn revive(&mut self, now: Time, reason: Reason) -> Change {
        self.flags.put(Flags::DOUBTED, self.is_doubted());
        self.flags.put(Flags::LIVE, true);
        let last_seen = if self.heartbeat_is_guessed() { now } else { self.last_seen.min(now) };
        let key = self.key.clone();
        Change { key, live: true, at: now, last_seen, reason, deadline: None }
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
