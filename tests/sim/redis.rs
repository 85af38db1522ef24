//! A Redis that is obvious: keys with deadlines that are deleted late, and a word for each change.

use super::others::Lease;
use super::pushes::Pushes;
use fastrand::Rng;
use keybeat::presence::{Answer, BatchId, DigestMessage, End, Side};
use std::collections::{BTreeMap, BTreeSet};

/// The deadline of a key without a TTL.
pub const NEVER: u64 = u64::MAX;
/// A page of SCAN looks at about this share of the keys.
const PAGES: u64 = 4;

/// One message of the event stream.
#[derive(Debug, Clone)]
pub enum Event {
    /// `new`.
    New(String),
    Set(String),
    /// `expire`, `persist`.
    Retimed(String),
    /// `rename_to`, `restore`.
    Placed(String),
    Ended(String, End),
    /// A daemon says that it wrote the key with this TTL.
    Written(String, u32),
    /// A daemon says that the key ends so many milliseconds later.
    EndsIn(String, u32),
    Fence(BatchId, Side),
    /// The daemon's own key was set.
    Canary,
    /// From here on the stream has the events that report renewals.
    Leads,
    /// Another daemon holds the lease, or gives it up.
    Lease(bool),
    /// About the digests of the server's keys.
    Digest(DigestMessage),
    /// It announces that a key has come, or has ended, and since when it has announced each.
    Came(String),
    Gone(String, bool),
    Tracks(u64),
    /// No message at all, for FLUSHALL and SWAPDB make none: only the world's own book reads which keys there
    /// are now.
    Exchanged(BTreeSet<String>),
}

impl Event {
    /// Is it an event of a key, which the server publishes by itself?
    pub fn is_of_key(&self) -> bool {
        matches!(
            self,
            Event::New(_) | Event::Set(_) | Event::Retimed(_) | Event::Placed(_) | Event::Ended(..)
        )
    }
}

/// How a server comes back.
#[derive(Debug, Clone, Copy)]
pub enum Return {
    /// With all it had.
    Whole,
    /// Without its last writes.
    Older,
    Empty,
    /// Another server takes over: it lacks the last writes, and keeps what has run out.
    Failover,
}

/// One server.
#[derive(Default)]
pub struct Redis {
    /// Names and deadlines; one that has passed stays until it is touched or swept.
    pub keys: BTreeMap<String, u64>,
    /// Published, and not yet on its way.
    pub out: Vec<Event>,
    pub up: bool,
    /// Until then it refuses writes; until then it does nothing at all.
    pub refuses_until: u64,
    pub frozen_until: u64,
    /// It has refused a write that no canary has counted.
    pub refused: bool,
    /// When it last deleted a key that had run out.
    pub ran_out: u64,
    pub run: u32,
    /// When its process was started.
    pub started: u64,
    /// It was a replica before.
    pub took_over: bool,
    /// Its keys were exchanged, and no canary has come since.
    pub exchanged: bool,
    pub lease: Lease,
    /// The other holder's digest at its mark, yet to be sent.
    pub digest: Option<DigestMessage>,
    pub pushes: Pushes,
    /// The keys that another daemon has announced.
    pub known: BTreeSet<String>,
    /// The value of the daemon's canary.
    pub canary: Option<u64>,
    /// Keys that came or went without a word, and when.
    pub unsaid: BTreeMap<String, u64>,
    /// The keys of a replica, or of the file on disk.
    replica: BTreeMap<String, u64>,
    /// Another database: its keys, and the canary that it holds from when it was this one.
    other: (BTreeMap<String, u64>, Option<u64>),
}

impl Redis {
    pub fn new() -> Redis {
        Redis { up: true, run: 1, ..Redis::default() }
    }

    pub fn takes_writes(&self, now: u64) -> bool {
        self.up && self.refuses_until <= now && self.frozen_until <= now
    }

    /// Any access deletes a key that has run out.
    pub fn touch(&mut self, now: u64, key: &str) {
        if self.keys.get(key).is_some_and(|&deadline| deadline < now) {
            self.end(key, End::Expired);
            self.ran_out = now;
        }
    }

    fn end(&mut self, key: &str, end: End) -> Option<u64> {
        let deadline = self.keys.remove(key)?;
        self.out.push(Event::Ended(key.to_owned(), end));
        Some(deadline)
    }

    fn put(&mut self, key: &str, deadline: u64, event: fn(String) -> Event) {
        let event = event(key.to_owned());
        // What is placed over a live key comes into being, too.
        if self.keys.insert(key.to_owned(), deadline).is_none() || matches!(event, Event::Placed(_)) {
            self.out.push(Event::New(key.to_owned()));
        }
        self.out.push(event);
    }

    pub fn set(&mut self, now: u64, key: &str, ttl: u64) {
        self.touch(now, key);
        self.put(key, now.saturating_add(ttl), Event::Set);
        if ttl != NEVER {
            self.out.push(Event::Retimed(key.to_owned()));
        }
    }

    /// The message of another daemon that has set the key.
    pub fn say_written(&mut self, key: &str, ttl: u64) {
        self.out.push(Event::Written(key.to_owned(), ttl as u32));
    }

    /// A daemon shortens the TTL of a key and announces it, in one transaction.
    pub fn end_soon(&mut self, now: u64, key: &str, ttl: u64) {
        self.touch(now, key);
        if let Some(&deadline) = self.keys.get(key) {
            let left = ttl.min(deadline - now);
            self.set(now, key, left);
            self.out.push(Event::EndsIn(key.to_owned(), left as u32));
        }
    }

    /// RESTORE … REPLACE.
    pub fn restore(&mut self, now: u64, key: &str, ttl: u64) {
        self.touch(now, key);
        self.put(key, now.saturating_add(ttl), Event::Placed);
    }

    pub fn del(&mut self, now: u64, key: &str) {
        self.touch(now, key);
        self.end(key, End::Deleted);
    }

    /// INCR and EXPIRE.
    pub fn count(&mut self, now: u64, key: &str, ttl: u64) {
        self.touch(now, key);
        if !self.keys.contains_key(key) {
            self.keys.insert(key.to_owned(), NEVER);
            self.out.push(Event::New(key.to_owned()));
        }
        self.expire(now, key, ttl);
    }

    /// EXPIRE or PERSIST.
    pub fn expire(&mut self, now: u64, key: &str, ttl: u64) -> bool {
        self.touch(now, key);
        let held = self.keys.get_mut(key);
        let there = held.map(|deadline| *deadline = now.saturating_add(ttl)).is_some();
        if there {
            self.out.push(Event::Retimed(key.to_owned()));
        }
        there
    }

    pub fn rename(&mut self, now: u64, from: &str, to: &str) {
        self.touch(now, from);
        if !self.keys.contains_key(from) {
            return;
        }
        self.touch(now, to);
        if let Some(&deadline) = self.keys.get(from) {
            self.out.push(Event::New(to.to_owned()));
            self.end(from, End::Deleted);
            self.keys.insert(to.to_owned(), deadline);
            self.out.push(Event::Placed(to.to_owned()));
        }
    }

    /// MIGRATE, as the server sees it that the key leaves, and the one that it comes to.
    pub fn give(&mut self, now: u64, key: &str) -> Option<u64> {
        self.touch(now, key);
        self.end(key, End::Deleted)
    }

    pub fn receive(&mut self, key: &str, deadline: u64) {
        self.put(key, deadline, Event::Placed);
    }

    pub fn evict(&mut self, key: &str) {
        self.end(key, End::Evicted);
    }

    /// FLUSHALL, which makes no event.
    pub fn flush(&mut self, now: u64) {
        self.other = Default::default();
        self.pushes.flushed = true;
        self.swap(now);
        self.other = Default::default();
    }

    /// SWAPDB, which makes none either.
    pub fn swap(&mut self, now: u64) {
        self.exchanged = true;
        self.lease.lose();
        std::mem::swap(&mut self.keys, &mut self.other.0);
        std::mem::swap(&mut self.canary, &mut self.other.1);
        // What has run out in another database is announced there.
        self.keys.retain(|_, deadline| *deadline >= now);
        self.unsaid.extend(self.keys.keys().chain(self.other.0.keys()).map(|key| (key.clone(), now)));
        self.out.push(Event::Exchanged(self.keys.keys().cloned().collect()));
    }

    pub fn pttl(&mut self, now: u64, key: &str) -> Answer {
        self.touch(now, key);
        match self.keys.get(key) {
            None => Answer::Absent,
            Some(&NEVER) => Answer::NoTtl,
            Some(deadline) => Answer::Left(deadline - now),
        }
    }

    /// One page: the keys whose hash lies in one stretch, and now and then some of an earlier stretch again.
    pub fn scan(&mut self, now: u64, rng: &mut Rng, cursor: u64) -> (Vec<Vec<u8>>, u64) {
        let all: Vec<String> = self.keys.keys().cloned().collect();
        let next = if rng.u8(..5) == 0 { 0 } else { cursor.saturating_add(rng.u64(1..=u64::MAX / PAGES)) };
        let end = if next == 0 || next == u64::MAX { u64::MAX } else { next };
        let mut names = Vec::new();
        for name in all {
            let at = hash(&name) >> 1;
            let again = at < cursor && rng.u8(..6) == 0;
            if (at >= cursor && at < end) || again {
                self.touch(now, &name);
                if self.keys.contains_key(&name) {
                    names.push(name.into_bytes());
                }
            }
        }
        (names, if end == u64::MAX { 0 } else { next })
    }

    /// The active cycle: a sampler.
    pub fn sweep(&mut self, now: u64, rng: &mut Rng) {
        let due: Vec<String> =
            self.keys.iter().filter(|&(_, &deadline)| deadline < now).map(|(name, _)| name.clone()).collect();
        for name in due.iter().filter(|_| rng.u8(..3) == 0) {
            self.touch(now, name);
        }
    }

    pub fn replicate(&mut self) {
        self.replica.clone_from(&self.keys);
    }

    /// Another run begins.
    pub fn begin(&mut self, now: u64, how: Return, owns: impl Fn(&str) -> bool) {
        match how {
            Return::Whole => {}
            Return::Empty => self.keys.clear(),
            Return::Older | Return::Failover => self.keys.clone_from(&self.replica),
        }
        self.keys.retain(|key, _| owns(key));
        // A replica that takes over has been running all the time.
        self.took_over = matches!(how, Return::Failover);
        self.started = if self.took_over { 0 } else { now };
        if !self.took_over {
            self.keys.retain(|_, deadline| *deadline >= now);
        }
        self.up = true;
        (self.refuses_until, self.frozen_until, self.refused) = (0, 0, false);
        self.run += 1;
        self.canary = None;
        self.lease.lose();
        self.pushes = Default::default();
        self.other = Default::default();
        self.unsaid.clear();
        self.replicate();
    }

    /// The node of a cluster that takes over from this one.
    pub fn successor(&self, now: u64, owns: impl Fn(&str) -> bool) -> Redis {
        let mut next = Redis { replica: self.replica.clone(), ..Redis::new() };
        next.begin(now, Return::Failover, owns);
        next
    }
}

/// FNV-1a: the same in every run of the test, as a seed needs it.
pub fn hash(text: &str) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, mix)
}
