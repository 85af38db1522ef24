//! The writer of a stream; the head of the folder has its stages.

use super::comparison::{Comparison, Restored, Sight, Step, differences};
use super::order::{BUCKETS, Batch, StreamEntry, StreamOrder, StreamReply, StreamView};
use crate::{Name, Time};
use std::collections::VecDeque;

/// How often the lease is renewed, and asked for, in milliseconds. Redis keeps it for three times as long.
const EVERY_MS: u64 = 1_000;
/// After so many milliseconds without a current view the lease is marked, so that a daemon with a current view may take it.
const STALE_MS: u64 = 3_000;
/// How often one bucket is compared while nothing is wrong: all of them in about eleven minutes.
const VERIFY_MS: u64 = 10_000;
/// Entries in one write. The server runs its script in a few milliseconds.
const BATCH: usize = 200;
/// Members of a bucket in one write.
const CHUNK: usize = 1_000;
/// The first and the longest wait after an order that failed, in milliseconds.
const RETRY_MS: (u64, u64) = (20, 1_000);

enum Stage {
    Waits,
    Marks,
    /// `None`: the comparison begins as soon as the view is current.
    Compares(Option<Box<Comparison>>),
    Writes,
}

/// A bucket on its way into Redis.
struct Rebuild {
    bucket: usize,
    members: Vec<Name>,
    /// So many members were sent.
    sent: usize,
}

/// The part of this daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamRole {
    /// It holds the lease.
    Writer,
    /// Another daemon holds the lease, or nobody.
    Waits,
}

/// The work of the writer since it exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamCounts {
    /// Entries added.
    pub written: u64,
    /// Entries dropped, since their users were in that state already.
    pub repeated: u64,
    /// Comparisons of all users after the lease was taken.
    pub takeovers: u64,
    /// Comparisons of all users since more transitions happened than the history keeps.
    pub behind: u64,
    /// Comparisons of all users since the server lost writes.
    pub lost_writes: u64,
    /// Comparisons of all users since the stream was deleted.
    pub deleted: u64,
    /// Buckets that were not whole and were written again.
    pub rebuilt: u64,
}

/// See the folder's head.
pub struct StreamWriter {
    daemon: String,
    term: u64,
    stage: Stage,
    /// The order under way, or to be sent again.
    ordered: Option<StreamOrder>,
    /// The order failed: it is to be sent again.
    again: bool,
    /// Orders that failed in a row.
    failures: u32,
    /// Nothing is ordered before.
    rests_until: Time,
    renew_at: Time,
    verify_at: Time,
    verify_next: usize,
    /// The bucket under comparison is this one.
    verifies: bool,
    stale_since: Option<Time>,
    /// The number of the last write of this term.
    number: u64,
    /// The server lost writes of this term, which goes on.
    resumes: bool,
    exists: bool,
    /// The number of the last transition that is written.
    place: u64,
    /// The same, once the outbox is empty.
    upto: u64,
    /// The stream is what the view was at `place`, once that is no lower: a comparison leaves out those who come or go meanwhile.
    equal_from: u64,
    /// Some of the outbox may be written, or it corrects the stream.
    unequal: bool,
    outbox: VecDeque<StreamEntry>,
    /// So many entries of the outbox are under way.
    sent: usize,
    rebuild: Option<Rebuild>,
    leaving: bool,
    counts: StreamCounts,
}

impl StreamWriter {
    /// A writer that has not begun. `daemon` names this run of this daemon.
    pub fn new(daemon: &str) -> StreamWriter {
        let never = Time::default();
        StreamWriter {
            daemon: daemon.to_owned(),
            term: 0,
            stage: Stage::Waits,
            ordered: None,
            again: false,
            failures: 0,
            rests_until: never,
            renew_at: never,
            verify_at: never,
            verify_next: 0,
            verifies: false,
            stale_since: None,
            number: 0,
            resumes: false,
            exists: false,
            place: 0,
            upto: 0,
            equal_from: 0,
            unequal: false,
            outbox: VecDeque::new(),
            sent: 0,
            rebuild: None,
            leaving: false,
            counts: StreamCounts::default(),
        }
    }

    /// The part of this daemon.
    pub fn role(&self) -> StreamRole {
        if matches!(self.stage, Stage::Waits) { StreamRole::Waits } else { StreamRole::Writer }
    }

    /// How many transitions are not written yet; `None` if another daemon writes, or if this one has not begun.
    pub fn lag(&self, view: &dyn StreamView) -> Option<u64> {
        match self.stage {
            Stage::Waits | Stage::Marks | Stage::Compares(None) => None,
            Stage::Writes => Some(view.seq().saturating_sub(self.place)),
            Stage::Compares(Some(ref comparison)) => Some(view.seq().saturating_sub(comparison.place)),
        }
    }

    /// Its work so far.
    pub fn counts(&self) -> StreamCounts {
        self.counts
    }

    /// The daemon stops: what has happened is written, then the lease is given up. Returns whether that is done.
    pub fn leave(&mut self) -> bool {
        self.leaving = true;
        matches!(self.stage, Stage::Waits) && self.ordered.is_none()
    }

    /// The next order; none while one is under way, or if nothing is to be done.
    pub fn next(&mut self, now: Time, view: &dyn StreamView) -> Option<StreamOrder> {
        self.stale_since = if view.is_current() { None } else { self.stale_since.or(Some(now)) };
        if now < self.rests_until {
            return None;
        }
        if self.ordered.is_none() {
            self.ordered = self.decide(now, view);
            return self.ordered.clone();
        }
        std::mem::take(&mut self.again).then(|| self.ordered.clone()).flatten()
    }

    fn decide(&mut self, now: Time, view: &dyn StreamView) -> Option<StreamOrder> {
        if matches!(self.stage, Stage::Waits) {
            return (view.is_current() && !self.leaving).then(|| self.take());
        }
        if now >= self.renew_at {
            return Some(self.write(now, 0));
        }
        if let Some(chunk) = self.chunk(now) {
            return Some(chunk);
        }
        if !self.outbox.is_empty() {
            return Some(self.write(now, BATCH));
        }
        match &mut self.stage {
            Stage::Waits => None,
            Stage::Marks | Stage::Compares(_) if self.leaving => Some(self.release()),
            Stage::Marks => view.is_current().then_some(StreamOrder::Mark),
            Stage::Compares(_) => self.compare(now, view),
            Stage::Writes => self.follow(now, view),
        }
    }

    fn token(&self) -> String {
        format!("{}:{}", self.daemon, self.term)
    }

    fn take(&mut self) -> StreamOrder {
        // A term of its own, so that no late write of the last one is valid.
        if !std::mem::take(&mut self.resumes) {
            self.term += 1;
        }
        StreamOrder::Take { token: self.token() }
    }

    fn release(&self) -> StreamOrder {
        StreamOrder::Release { token: self.token() }
    }

    fn batch(&self, now: Time) -> Batch {
        let stale = self.stale_since.is_some_and(|since| now.since(since) >= STALE_MS);
        Batch { token: self.token(), number: self.number + 1, stale, exists: self.exists }
    }

    /// Renews the lease, with at most `most` entries.
    fn write(&mut self, now: Time, most: usize) -> StreamOrder {
        let entries: Vec<StreamEntry> = self.outbox.iter().take(most).cloned().collect();
        self.sent = entries.len();
        StreamOrder::Write { batch: self.batch(now), entries }
    }

    /// The next members of a bucket that is written.
    fn chunk(&self, now: Time) -> Option<StreamOrder> {
        let Rebuild { bucket, members, sent } = self.rebuild.as_ref()?;
        let rest = &members[*sent..];
        Some(StreamOrder::Rebuild {
            batch: self.batch(now),
            bucket: *bucket,
            members: rest[..rest.len().min(CHUNK)].to_vec(),
            first: *sent == 0,
            last: rest.len() <= CHUNK,
        })
    }

    fn compare(&mut self, now: Time, view: &dyn StreamView) -> Option<StreamOrder> {
        let Stage::Compares(comparison) = &mut self.stage else { return None };
        if comparison.is_none() && view.is_current() {
            *comparison = Comparison::begin(view, self.exists).map(Box::new);
        }
        let comparison = comparison.as_mut()?;
        match comparison.step((now, view)) {
            Step::Ask(order) => Some(order),
            Step::Write(entries) => {
                self.outbox.extend(entries);
                Some(self.write(now, BATCH))
            }
            Step::Restore(Restored { bucket, members }) => {
                self.rebuild = Some(Rebuild { bucket, members, sent: 0 });
                self.chunk(now)
            }
            Step::Finished => {
                (self.place, self.upto) = (comparison.place, comparison.place);
                self.equal_from = comparison.until;
                self.verify_at = now.plus(VERIFY_MS);
                self.stage = Stage::Writes;
                self.follow(now, view)
            }
        }
    }

    /// Writes what has happened since; if nothing has, compares a bucket now and then.
    fn follow(&mut self, now: Time, view: &dyn StreamView) -> Option<StreamOrder> {
        let Some(transitions) = view.transitions(self.place, BATCH) else {
            self.counts.behind += 1;
            self.compare_again();
            return self.compare(now, view);
        };
        if transitions.is_empty() {
            return if self.leaving { Some(self.release()) } else { self.verify(now) };
        }
        self.upto = self.place + transitions.len() as u64;
        self.outbox.extend(transitions.iter().map(StreamEntry::of));
        Some(self.write(now, BATCH))
    }

    fn verify(&mut self, now: Time) -> Option<StreamOrder> {
        if now < self.verify_at {
            return None;
        }
        self.verify_at = now.plus(VERIFY_MS);
        self.verifies = true;
        Some(StreamOrder::Read { bucket: self.verify_next })
    }

    /// All users are to be compared again.
    fn compare_again(&mut self) {
        self.outbox.clear();
        self.unequal = false;
        self.rebuild = None;
        self.verifies = false;
        self.stage = Stage::Compares(None);
    }

    /// Another daemon writes, or nobody.
    fn wait(&mut self, until: Time) {
        self.compare_again();
        self.stage = Stage::Waits;
        self.rests_until = until;
    }

    /// The result of the order under way.
    pub fn replied(&mut self, now: Time, reply: StreamReply, view: &dyn StreamView) {
        if reply == StreamReply::Failed {
            return self.failed(now);
        }
        self.failures = 0;
        let Some(order) = self.ordered.take() else { return };
        match reply {
            StreamReply::Held { number, exists } => {
                (self.number, self.exists) = (number, exists);
                self.renew_at = now.plus(EVERY_MS);
                self.counts.takeovers += u64::from(number == 0);
                self.stage = Stage::Marks;
            }
            StreamReply::Marked => self.stage = Stage::Compares(None),
            StreamReply::Other => self.wait(now.plus(EVERY_MS)),
            StreamReply::Lost | StreamReply::Released => self.wait(now),
            StreamReply::Members { members, whole } => self.read(now, members, whole, view),
            StreamReply::Page { states, next } => {
                if let Stage::Compares(Some(comparison)) = &mut self.stage {
                    comparison.recalled(states, next);
                }
            }
            StreamReply::Done { written, repeated } => self.done(now, &order, written, repeated),
            StreamReply::BucketLost(bucket) => self.restore(bucket, view),
            StreamReply::Gone => {
                self.exists = false;
                self.counts.deleted += 1;
                self.compare_again();
            }
            StreamReply::Changed => {
                self.counts.lost_writes += 1;
                self.resumes = true;
                self.wait(now);
            }
            StreamReply::Failed => {}
        }
    }

    /// The same order is sent again later: perhaps it is done.
    fn failed(&mut self, now: Time) {
        let wait_ms = RETRY_MS.1.min(RETRY_MS.0 << self.failures.min(10));
        self.failures += 1;
        self.rests_until = now.plus(wait_ms);
        match &self.ordered {
            // The lease may have to be renewed first.
            Some(StreamOrder::Mark) => return self.ordered = None,
            Some(StreamOrder::Write { entries, .. }) => self.unequal |= !entries.is_empty(),
            _ => {}
        }
        self.again = true;
    }

    fn done(&mut self, now: Time, order: &StreamOrder, written: u64, repeated: u64) {
        self.number += 1;
        self.renew_at = now.plus(EVERY_MS);
        match order {
            StreamOrder::Rebuild { members, last, .. } => {
                if let Some(rebuild) = &mut self.rebuild {
                    rebuild.sent += members.len();
                }
                if *last {
                    self.rebuild = None;
                    self.counts.rebuilt += 1;
                }
            }
            _ => {
                // The reply to a write that is repeated counts nothing.
                self.exists |= written > 0 || (repeated == 0 && self.sent > 0);
                self.counts.written += written;
                self.counts.repeated += repeated;
                self.outbox.drain(..self.sent.min(self.outbox.len()));
                if self.outbox.is_empty() {
                    self.place = self.upto;
                    self.unequal = false;
                }
            }
        }
    }

    fn read(&mut self, now: Time, members: Vec<Name>, whole: bool, view: &dyn StreamView) {
        if let Stage::Compares(Some(comparison)) = &mut self.stage {
            let entries = comparison.read(members, whole, (now, view));
            self.outbox.extend(entries);
        } else if std::mem::take(&mut self.verifies) {
            let bucket = self.verify_next;
            self.verify_next = (bucket + 1) % BUCKETS;
            if !whole {
                return self.restore(bucket, view);
            }
            // If too much has happened, the next step compares everything.
            let Some(sight) = Sight::of(view, bucket, self.place) else { return };
            let members = members.into_iter().collect();
            let entries = differences(&members, &sight.online, &sight.pending, (now, view));
            self.unequal |= !entries.is_empty();
            self.outbox.extend(entries);
        }
    }

    /// A bucket that is not whole is written again as it was at the writer's place, if the stream is known to be the same.
    fn restore(&mut self, bucket: usize, view: &dyn StreamView) {
        let equal = self.place >= self.equal_from && !self.unequal;
        let sight = match self.stage {
            Stage::Writes if equal => Sight::of(view, bucket, self.place),
            // It was lost after it was read.
            _ => None,
        };
        match sight {
            Some(sight) => {
                self.rebuild = Some(Rebuild { bucket, members: sight.members(bucket), sent: 0 });
            }
            None => self.compare_again(),
        }
    }
}
