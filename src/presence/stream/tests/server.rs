//! A slow and obvious Redis: what the scripts of `src/redis/stream/scripts.rs` do there, and what `src/redis/stream/store.rs` reads.
//!
//! The simulation compiles this file as well (`tests/sim/sinks`). So it names the crate of the decisions `presence`, as its parent
//! module does in both places.

use super::presence::{BUCKETS, Batch, StreamEntry, StreamOrder, StreamReply, Time, bucket_of};
use std::collections::BTreeSet;

/// The lease ends after so many milliseconds.
pub(super) const LEASE_MS: u64 = 3_000;
/// Entries in one page of the stream.
const PAGE: usize = 3;

/// A SET of users online. It is whole while it has the member `#`.
#[derive(Debug, Clone, Default)]
struct Bucket {
    members: BTreeSet<String>,
    whole: bool,
}

/// The value and the TTL of the lease's key.
#[derive(Debug, Clone)]
struct Lease {
    token: String,
    number: u64,
    stale: bool,
    /// `None`: it has no TTL.
    until: Option<Time>,
}

/// An entry as it stands in the stream.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) entry: StreamEntry,
    /// The token of its writer.
    pub(super) token: String,
    /// The time at which the server added it.
    pub(super) at: Time,
}

impl Written {
    pub(super) fn user(&self) -> &str {
        &self.entry.user
    }
}

/// The rules that the scripts keep. A simulation breaks one of them to see that it notices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// A write needs the lease.
    pub(super) lease: bool,
    /// The number of a write follows the number of the last one.
    pub(super) numbers: bool,
    /// A bucket without its member `#` is not whole.
    pub(super) sentinels: bool,
    /// An entry that would not alternate is dropped.
    pub(super) states: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { lease: true, numbers: true, sentinels: true, states: true }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) rules: Rules,
    lease: Option<Lease>,
    exists: bool,
    buckets: Vec<Bucket>,
    /// All entries since the stream exists.
    pub(super) entries: Vec<Written>,
    /// So many of them were trimmed.
    pub(super) trimmed: usize,
}

/// The faults, and what an observer sees.
impl Server {
    pub(super) fn new() -> Server {
        Server {
            rules: Rules::default(),
            lease: None,
            exists: false,
            buckets: vec![Bucket::default(); BUCKETS],
            entries: Vec::new(),
            trimmed: 0,
        }
    }

    pub(super) fn lose_bucket(&mut self, bucket: usize) {
        self.buckets[bucket] = Bucket::default();
    }

    /// The lease's key is lost.
    pub(super) fn lose_lease(&mut self) {
        self.lease = None;
    }

    /// PERSIST of the lease's key.
    pub(super) fn keep_lease(&mut self) {
        self.lease.iter_mut().for_each(|lease| lease.until = None);
    }

    pub(super) fn delete_stream(&mut self) {
        (self.exists, self.entries, self.trimmed) = (false, Vec::new(), 0);
    }

    /// The users whom the SETs name.
    pub(super) fn online(&self) -> BTreeSet<String> {
        self.buckets.iter().flat_map(|bucket| bucket.members.iter().cloned()).collect()
    }

    /// Another state of a user than the stream has, as if a program had changed the SET.
    pub(super) fn tamper(&mut self, user: &str) {
        let members = &mut self.buckets[bucket_of(user)].members;
        if !members.remove(user) {
            members.insert(user.to_owned());
        }
    }

    /// The token of the daemon that holds the lease.
    pub(super) fn holder(&self, now: Time) -> Option<&str> {
        let lease = self.lease.as_ref().filter(|lease| lease.until.is_none_or(|until| now < until));
        lease.map(|lease| lease.token.as_str())
    }
}

/// The scripts and reads.
impl Server {
    pub(super) fn execute(&mut self, now: Time, order: &StreamOrder) -> StreamReply {
        self.execute_some(now, order, usize::MAX)
    }

    /// The server refuses a command of the script after `most` entries or members. The script ends there, and what it did stays
    /// done.
    pub(super) fn execute_some(&mut self, now: Time, order: &StreamOrder, most: usize) -> StreamReply {
        if self.holder(now).is_none() {
            self.lease = None;
        }
        match order {
            StreamOrder::Take { token } => self.take(now, token),
            StreamOrder::Mark => StreamReply::Marked,
            StreamOrder::Read { bucket } => {
                let Bucket { members, whole } = &self.buckets[*bucket];
                let members = members.iter().map(|user| user.as_str().into()).collect();
                StreamReply::Members { members, whole: *whole || !self.rules.sentinels }
            }
            StreamOrder::Recall { after } => self.recall(after.as_deref()),
            StreamOrder::Rebuild { batch, bucket, members, first, last } => {
                if let Some(reply) = self.refusal(now, batch) {
                    return reply;
                }
                let bucket = &mut self.buckets[*bucket];
                if *first {
                    *bucket = Bucket::default();
                }
                bucket.members.extend(members.iter().take(most).map(|user| user.to_string()));
                if members.len() > most {
                    return StreamReply::Failed;
                }
                bucket.whole |= *last;
                self.count(now, batch);
                StreamReply::Done { written: 0, repeated: 0 }
            }
            StreamOrder::Write { batch, entries } => self.write(now, batch, entries, most),
            StreamOrder::Release { token } => {
                if self.holder(now) == Some(token) {
                    self.lease = None;
                }
                StreamReply::Released
            }
        }
    }

    fn take(&mut self, now: Time, token: &str) -> StreamReply {
        let until = Some(now.plus(LEASE_MS));
        match &mut self.lease {
            Some(lease) if lease.token == token => {
                lease.until = until;
                StreamReply::Held { number: lease.number, exists: self.exists }
            }
            Some(lease) if !lease.stale && lease.until.is_some() => StreamReply::Other,
            _ => {
                self.lease = Some(Lease { token: token.to_owned(), number: 0, stale: false, until });
                StreamReply::Held { number: 0, exists: self.exists }
            }
        }
    }

    fn recall(&self, after: Option<&str>) -> StreamReply {
        let from = after.map_or(0, |after| after.parse().expect("a number")).max(self.trimmed);
        let page = self.entries.iter().skip(from).take(PAGE);
        let states: Vec<_> = page.map(|written| (written.user().into(), written.entry.online)).collect();
        let next = (!states.is_empty()).then(|| (from + states.len()).to_string());
        StreamReply::Page { states, next }
    }

    fn write(&mut self, now: Time, batch: &Batch, entries: &[StreamEntry], most: usize) -> StreamReply {
        if let Some(reply) = self.refusal(now, batch) {
            return reply;
        }
        let mut buckets = entries.iter().map(|entry| bucket_of(&entry.user));
        let is_lost = |&bucket: &usize| self.rules.sentinels && !self.buckets[bucket].whole;
        if let Some(lost) = buckets.find(is_lost) {
            return StreamReply::BucketLost(lost);
        }
        let mut written = 0;
        for entry in entries.iter().take(most) {
            let user = entry.user.to_string();
            let members = &mut self.buckets[bucket_of(&user)].members;
            let changed = if entry.online { members.insert(user) } else { members.remove(&user) };
            if changed || !self.rules.states {
                self.entries.push(Written { entry: entry.clone(), token: batch.token.clone(), at: now });
                (self.exists, written) = (true, written + 1);
            }
        }
        if entries.len() > most {
            return StreamReply::Failed;
        }
        self.count(now, batch);
        StreamReply::Done { written, repeated: entries.len() as u64 - written }
    }

    /// Why a write is not valid or is done already; `None` if it is valid, and then the lease is renewed.
    fn refusal(&mut self, now: Time, batch: &Batch) -> Option<StreamReply> {
        let Rules { lease: leased, numbers, .. } = self.rules;
        let Some(lease) = &mut self.lease else { return leased.then_some(StreamReply::Lost) };
        if leased && lease.token != batch.token {
            return Some(StreamReply::Other);
        }
        if lease.number == batch.number && numbers {
            return Some(StreamReply::Done { written: 0, repeated: 0 });
        }
        if lease.number + 1 != batch.number && numbers {
            return Some(StreamReply::Changed);
        }
        if self.exists != batch.exists {
            return Some(if batch.exists { StreamReply::Gone } else { StreamReply::Changed });
        }
        lease.until = Some(now.plus(LEASE_MS));
        None
    }

    /// The end of a write.
    fn count(&mut self, now: Time, batch: &Batch) {
        let Batch { token, number, stale, .. } = batch.clone();
        self.lease = Some(Lease { token, number, stale, until: Some(now.plus(LEASE_MS)) });
    }
}
