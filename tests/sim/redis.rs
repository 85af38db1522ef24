//! A Redis that is obvious: keys with deadlines that are deleted late, and a word for each change.

use fastrand::Rng;
use keybeat::presence::{Answer, BatchId, End, Side};
use std::collections::BTreeMap;

/// The deadline of a key without a TTL.
pub const NEVER: u64 = u64::MAX;
/// A page of SCAN looks at about this share of the keys.
const PAGES: u64 = 4;

/// One message of the event stream.
#[derive(Debug, Clone)]
pub enum Event {
    Set(String),
    /// `rename_to`, `restore`.
    Placed(String),
    Ended(String, End),
    Fence(BatchId, Side),
    /// No message at all, for FLUSHALL makes none: only the world's own book reads it.
    Flushed,
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

/// The server that clients reach.
pub struct Redis {
    /// Names and deadlines; one that has passed stays until it is touched or swept.
    pub keys: BTreeMap<String, u64>,
    /// Published, and not yet on its way.
    pub out: Vec<Event>,
    pub up: bool,
    pub run: u32,
    /// When its process was started.
    pub started: u64,
    /// The daemon's canary is there.
    pub canary: bool,
    /// What a replica, or the file on disk, has of the keys.
    replica: BTreeMap<String, u64>,
}

impl Redis {
    pub fn new() -> Redis {
        let (keys, replica) = (BTreeMap::new(), BTreeMap::new());
        Redis { keys, out: Vec::new(), up: true, run: 1, started: 0, canary: false, replica }
    }

    /// Any access deletes a key that has run out.
    fn touch(&mut self, now: u64, key: &str) {
        if self.keys.get(key).is_some_and(|&deadline| deadline < now) {
            self.end(key, End::Expired);
        }
    }

    fn end(&mut self, key: &str, end: End) -> Option<u64> {
        let deadline = self.keys.remove(key)?;
        self.out.push(Event::Ended(key.to_owned(), end));
        Some(deadline)
    }

    pub fn set(&mut self, now: u64, key: &str, ttl: u64) {
        self.touch(now, key);
        self.keys.insert(key.to_owned(), now.saturating_add(ttl));
        self.out.push(Event::Set(key.to_owned()));
    }

    /// RESTORE … REPLACE.
    pub fn restore(&mut self, now: u64, key: &str, ttl: u64) {
        self.touch(now, key);
        self.keys.insert(key.to_owned(), now.saturating_add(ttl));
        self.out.push(Event::Placed(key.to_owned()));
    }

    pub fn del(&mut self, now: u64, key: &str) {
        self.touch(now, key);
        self.end(key, End::Deleted);
    }

    /// EXPIRE or PERSIST, neither of which makes an event that is listened to.
    pub fn expire(&mut self, now: u64, key: &str, ttl: u64) -> bool {
        self.touch(now, key);
        let held = self.keys.get_mut(key);
        held.map(|deadline| *deadline = now.saturating_add(ttl)).is_some()
    }

    pub fn rename(&mut self, now: u64, from: &str, to: &str) {
        self.touch(now, from);
        if !self.keys.contains_key(from) {
            return;
        }
        self.touch(now, to);
        if let Some(deadline) = self.end(from, End::Deleted) {
            self.keys.insert(to.to_owned(), deadline);
            self.out.push(Event::Placed(to.to_owned()));
        }
    }

    pub fn evict(&mut self, key: &str) {
        self.end(key, End::Evicted);
    }

    pub fn flush(&mut self) {
        self.keys.clear();
        self.canary = false;
        self.out.push(Event::Flushed);
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
    pub fn begin(&mut self, now: u64, how: Return) {
        match how {
            Return::Whole => {}
            Return::Empty => self.keys.clear(),
            Return::Older | Return::Failover => self.keys.clone_from(&self.replica),
        }
        // A replica that takes over has been running all the time.
        self.started = if matches!(how, Return::Failover) { 0 } else { now };
        if !matches!(how, Return::Failover) {
            self.keys.retain(|_, deadline| *deadline >= now);
        }
        self.up = true;
        self.run += 1;
        self.canary = false;
        self.replicate();
    }
}

/// FNV-1a: the same in every run of the test, as a seed needs it.
pub fn hash(text: &str) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, mix)
}
