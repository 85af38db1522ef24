//! A slow and obvious Redis: what the scripts do there.

use crate::Time;
use crate::stream::{BUCKETS, Batch, StreamOrder, StreamReply, bucket_of};
use std::collections::BTreeSet;

/// The lease ends after so many milliseconds.
pub(super) const LEASE_MS: u64 = 3_000;

#[derive(Clone, Default)]
struct Bucket {
    members: BTreeSet<String>,
    whole: bool,
}

#[derive(Clone)]
pub(super) struct Server {
    /// Token, number, whether it is stale, and its end.
    lease: Option<(String, u64, bool, Time)>,
    exists: bool,
    buckets: Vec<Bucket>,
    /// Users and states in the order of the entries, each with the token of its writer.
    pub(super) entries: Vec<(String, bool, String)>,
}

impl Server {
    pub(super) fn new() -> Server {
        Server { lease: None, exists: false, buckets: vec![Bucket::default(); BUCKETS], entries: Vec::new() }
    }

    pub(super) fn lose_bucket(&mut self, bucket: usize) {
        self.buckets[bucket] = Bucket::default();
    }

    pub(super) fn delete_stream(&mut self) {
        (self.exists, self.entries) = (false, Vec::new());
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

    pub(super) fn holder(&self, now: Time) -> Option<&str> {
        self.lease.as_ref().filter(|(.., until)| now < *until).map(|(token, ..)| token.as_str())
    }

    pub(super) fn execute(&mut self, now: Time, order: &StreamOrder) -> StreamReply {
        if self.holder(now).is_none() {
            self.lease = None;
        }
        match order {
            StreamOrder::Take { token } => self.take(now, token),
            StreamOrder::Mark => StreamReply::Marked,
            StreamOrder::Read { bucket } => {
                let Bucket { members, whole } = &self.buckets[*bucket];
                let members = members.iter().map(|user| user.as_str().into()).collect();
                StreamReply::Members { members, whole: *whole }
            }
            StreamOrder::Recall { after } => {
                let from = after.as_ref().map_or(0, |after| after.parse().expect("a number"));
                let page = self.entries.iter().skip(from).take(3);
                let states: Vec<_> = page.map(|(user, online, _)| (user.as_str().into(), *online)).collect();
                let next = (!states.is_empty()).then(|| (from + states.len()).to_string());
                StreamReply::Page { states, next }
            }
            StreamOrder::Rebuild { batch, bucket, members, first, last } => {
                if let Some(reply) = self.refusal(batch) {
                    return reply;
                }
                self.count(now, batch);
                let bucket = &mut self.buckets[*bucket];
                if *first {
                    *bucket = Bucket::default();
                }
                bucket.members.extend(members.iter().map(|user| user.to_string()));
                bucket.whole |= *last;
                StreamReply::Done { written: 0, repeated: 0 }
            }
            StreamOrder::Write { batch, entries } => {
                if let Some(reply) = self.refusal(batch) {
                    return reply;
                }
                let mut buckets = entries.iter().map(|entry| bucket_of(&entry.user));
                if let Some(lost) = buckets.find(|&bucket| !self.buckets[bucket].whole) {
                    return StreamReply::BucketLost(lost);
                }
                self.count(now, batch);
                let mut written = 0;
                for entry in entries {
                    let user = entry.user.to_string();
                    let members = &mut self.buckets[bucket_of(&user)].members;
                    let changed =
                        if entry.online { members.insert(user.clone()) } else { members.remove(&user) };
                    if changed {
                        self.entries.push((user, entry.online, batch.token.clone()));
                        (self.exists, written) = (true, written + 1);
                    }
                }
                StreamReply::Done { written, repeated: entries.len() as u64 - written }
            }
            StreamOrder::Release { token } => {
                if self.holder(now) == Some(token) {
                    self.lease = None;
                }
                StreamReply::Released
            }
        }
    }

    fn take(&mut self, now: Time, token: &str) -> StreamReply {
        match &mut self.lease {
            Some((holder, number, _, until)) if holder == token => {
                *until = now.plus(LEASE_MS);
                StreamReply::Held { number: *number, exists: self.exists }
            }
            Some((_, _, false, _)) => StreamReply::Other,
            _ => {
                self.lease = Some((token.to_owned(), 0, false, now.plus(LEASE_MS)));
                StreamReply::Held { number: 0, exists: self.exists }
            }
        }
    }

    /// Why a write is not valid or is done already; `None` if it is valid.
    fn refusal(&self, batch: &Batch) -> Option<StreamReply> {
        match &self.lease {
            None => Some(StreamReply::Lost),
            Some((token, ..)) if *token != batch.token => Some(StreamReply::Other),
            Some((_, number, ..)) if *number == batch.number => {
                Some(StreamReply::Done { written: 0, repeated: 0 })
            }
            Some((_, number, ..)) if *number + 1 != batch.number => Some(StreamReply::Changed),
            Some(_) if self.exists && !batch.exists => Some(StreamReply::Changed),
            Some(_) if !self.exists && batch.exists => Some(StreamReply::Gone),
            Some(_) => None,
        }
    }

    fn count(&mut self, now: Time, batch: &Batch) {
        self.lease = Some((batch.token.clone(), batch.number, batch.stale, now.plus(LEASE_MS)));
    }
}
