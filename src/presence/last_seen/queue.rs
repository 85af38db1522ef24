//! The times that have yet to be written to Redis.
//!
//! Every daemon notes each user who goes offline, and one daemon writes: the holder of the lease of the server that has the
//! user's bucket. The others keep what they noted for [`KEPT_MS`]: a holder that dies may not have written it, and its successor
//! writes it again. A bucket without a holder keeps its times until there is one. So each time is written at least once, usually
//! exactly once, and Redis keeps the newest of a user's times whatever the order of the writes.

use super::{SEEN_BUCKETS, seen_bucket};
use crate::presence::{Name, Time};
use std::collections::{BTreeMap, HashMap};

/// A daemon that does not write keeps a time for so long, in milliseconds. A successor holds the lease after about four seconds;
/// the rest is for writes that failed while the holder before lived.
const KEPT_MS: u64 = 60_000;
/// The pause after a write that failed, in milliseconds, and the longest one: each further failure doubles it.
const RETRY_MS: (u64, u64) = (200, 5_000);

/// A user, and when the user was last seen.
pub type Seen = (Name, Time);

/// The daemon that writes the times of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketWriter {
    /// This daemon.
    Own,
    /// Another daemon.
    Other,
    /// No daemon, or it is not known which.
    Nobody,
}

/// A time that has yet to be written.
#[derive(Debug)]
struct Waiting {
    seen: Time,
    noted: Time,
    /// Its place in the order in which times were noted.
    number: u64,
}

#[derive(Debug, Default)]
struct Bucket {
    waiting: HashMap<Name, Waiting>,
    /// A write is under way.
    writing: bool,
    /// Nothing is written before.
    retry_at: Time,
    pause_ms: u64,
}

/// See the module's head. Each user has one time here, the newest.
#[derive(Debug)]
pub struct SeenQueue {
    buckets: Vec<Bucket>,
    /// The users in the order in which their times were noted.
    order: BTreeMap<u64, Name>,
    next_number: u64,
    most: usize,
}

impl SeenQueue {
    /// An empty queue for at most `most` users.
    pub fn new(most: usize) -> SeenQueue {
        let buckets = (0..SEEN_BUCKETS).map(|_| Bucket::default()).collect();
        SeenQueue { buckets, order: BTreeMap::new(), next_number: 0, most }
    }

    /// A user went offline. Where there are too many users, the one whose time was noted first is dropped and returned with the
    /// bucket.
    pub fn note(&mut self, now: Time, user: &Name, seen: Time) -> Option<(usize, Name)> {
        let waiting = &mut self.buckets[seen_bucket(user)].waiting;
        let number = self.next_number;
        self.next_number += 1;
        if let Some(held) = waiting.get_mut(user) {
            self.order.remove(&held.number);
            *held = Waiting { seen: held.seen.max(seen), noted: now, number };
        } else {
            waiting.insert(user.clone(), Waiting { seen, noted: now, number });
        }
        self.order.insert(number, user.clone());
        if self.order.len() <= self.most {
            return None;
        }
        let (_, oldest) = self.order.pop_first()?;
        let bucket = seen_bucket(&oldest);
        self.buckets[bucket].waiting.remove(&oldest);
        Some((bucket, oldest))
    }

    /// Forgets the times that another daemon has had time enough to write.
    pub fn prune(&mut self, now: Time, writer: impl Fn(usize) -> BucketWriter) {
        let writers: Vec<BucketWriter> = (0..SEEN_BUCKETS).map(writer).collect();
        let mut done = Vec::new();
        for (number, user) in &self.order {
            let bucket = seen_bucket(user);
            let Some(held) = self.buckets[bucket].waiting.get(user) else { continue };
            if now.since(held.noted) < KEPT_MS {
                break;
            }
            if writers[bucket] == BucketWriter::Other {
                done.push((*number, bucket, user.clone()));
            }
        }
        for (number, bucket, user) in done {
            self.order.remove(&number);
            self.buckets[bucket].waiting.remove(&user);
        }
    }

    /// At most `most` times of a bucket, which this daemon is to write now; none while an earlier write of the bucket is under way
    /// or has just failed.
    pub fn take(&mut self, now: Time, bucket: usize, most: usize) -> Option<Vec<Seen>> {
        let bucket = &mut self.buckets[bucket];
        if bucket.writing || bucket.waiting.is_empty() || now < bucket.retry_at {
            return None;
        }
        bucket.writing = true;
        Some(bucket.waiting.iter().take(most).map(|(user, held)| (user.clone(), held.seen)).collect())
    }

    /// Redis has these times, which [`take`](SeenQueue::take) gave.
    pub fn written(&mut self, bucket: usize, times: &[Seen]) {
        let bucket = &mut self.buckets[bucket];
        (bucket.writing, bucket.pause_ms) = (false, 0);
        for (user, seen) in times {
            // A newer time has yet to be written.
            if let Some(held) = bucket.waiting.get(user).filter(|held| held.seen <= *seen) {
                self.order.remove(&held.number);
                bucket.waiting.remove(user);
            }
        }
    }

    /// Redis may not have the times that [`take`](SeenQueue::take) gave last.
    pub fn failed(&mut self, now: Time, bucket: usize) {
        let bucket = &mut self.buckets[bucket];
        bucket.writing = false;
        bucket.pause_ms = (2 * bucket.pause_ms).clamp(RETRY_MS.0, RETRY_MS.1);
        bucket.retry_at = now.plus(bucket.pause_ms);
    }

    /// How many times wait in the buckets for which `wanted` is true.
    pub fn waiting(&self, wanted: impl Fn(usize) -> bool) -> usize {
        let wanted = self.buckets.iter().enumerate().filter(|(bucket, _)| wanted(*bucket));
        wanted.map(|(_, bucket)| bucket.waiting.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Time {
        Time::from_ms(ms)
    }

    fn name(text: &str) -> Name {
        text.into()
    }

    fn times(queue: &mut SeenQueue, now: u64, user: &str) -> Option<Vec<Seen>> {
        queue.take(at(now), seen_bucket(user), 10)
    }

    #[test]
    fn newest_time_waits_until_written() {
        let (mut queue, alice) = (SeenQueue::new(10), name("alice"));
        queue.note(at(10), &alice, at(7));
        queue.note(at(11), &alice, at(5));
        let first = times(&mut queue, 11, "alice").unwrap();
        assert_eq!(first, [(alice.clone(), at(7))]);
        queue.note(at(20), &alice, at(19));
        assert_eq!(times(&mut queue, 20, "alice"), None, "a write is under way");
        queue.written(seen_bucket("alice"), &first);
        let second = times(&mut queue, 21, "alice").unwrap();
        assert_eq!(second, [(alice, at(19))]);
        queue.written(seen_bucket("alice"), &second);
        assert_eq!(
            (times(&mut queue, 22, "alice"), queue.waiting(|_| true), queue.order.len()),
            (None, 0, 0)
        );
    }

    #[test]
    fn failed_write_is_repeated_after_a_pause() {
        let (mut queue, alice) = (SeenQueue::new(10), name("alice"));
        queue.note(at(0), &alice, at(0));
        let mut now = 0;
        for pause in [200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            assert!(times(&mut queue, now, "alice").is_some());
            queue.failed(at(now), seen_bucket("alice"));
            assert_eq!(times(&mut queue, now + pause - 1, "alice"), None, "{pause}");
            now += pause;
        }
        let written = times(&mut queue, now, "alice").unwrap();
        queue.written(seen_bucket("alice"), &written);
        queue.note(at(now), &alice, at(now));
        assert!(times(&mut queue, now, "alice").is_some(), "the pause is over");
    }

    #[test]
    fn follower_keeps_times_for_a_successor() {
        let (mut queue, alice) = (SeenQueue::new(10), name("alice"));
        queue.note(at(0), &alice, at(0));
        for writer in [BucketWriter::Own, BucketWriter::Nobody] {
            queue.prune(at(KEPT_MS * 10), |_| writer);
        }
        queue.prune(at(KEPT_MS - 1), |_| BucketWriter::Other);
        assert_eq!(queue.waiting(|bucket| bucket == seen_bucket("alice")), 1);
        queue.prune(at(KEPT_MS), |_| BucketWriter::Other);
        assert_eq!((queue.waiting(|_| true), queue.order.len()), (0, 0));
    }

    #[test]
    fn full_queue_drops_the_oldest() {
        let mut queue = SeenQueue::new(2);
        for (now, user) in [(1, "a"), (2, "b"), (3, "a")] {
            assert_eq!(queue.note(at(now), &name(user), at(now)), None);
        }
        assert_eq!(queue.note(at(4), &name("c"), at(4)), Some((seen_bucket("b"), name("b"))));
        assert_eq!((queue.waiting(|_| true), queue.order.len()), (2, 2));
    }

    /// Redis, and two daemons that both see each user go offline.
    struct World {
        now: u64,
        daemons: [Option<SeenQueue>; 2],
        /// Writes under way: the daemon, the bucket and its times.
        writes: Vec<(usize, usize, Vec<Seen>)>,
        holder: Option<usize>,
        redis: HashMap<Name, Time>,
        truth: HashMap<Name, Time>,
        count: usize,
    }

    impl World {
        fn new() -> World {
            World {
                now: 1,
                daemons: [Some(SeenQueue::new(100)), Some(SeenQueue::new(100))],
                writes: Vec::new(),
                holder: Some(0),
                redis: HashMap::new(),
                truth: HashMap::new(),
                count: 0,
            }
        }

        fn writer(holder: Option<usize>, daemon: usize) -> BucketWriter {
            match holder {
                None => BucketWriter::Nobody,
                Some(holder) if holder == daemon => BucketWriter::Own,
                Some(_) => BucketWriter::Other,
            }
        }

        fn leave(&mut self, user: usize) {
            let user = name(&format!("u{user}"));
            self.truth.insert(user.clone(), at(self.now));
            for queue in self.daemons.iter_mut().flatten() {
                assert_eq!(queue.note(at(self.now), &user, at(self.now)), None);
            }
        }

        /// Whether the daemon that follows has all that the holder has yet to write.
        fn is_covered(&self) -> bool {
            let [Some(one), Some(other)] = &self.daemons else { return false };
            let (holder, follower) = if self.holder == Some(0) { (one, other) } else { (other, one) };
            holder.order.values().all(|user| follower.buckets[seen_bucket(user)].waiting.contains_key(user))
        }

        /// The holder dies with its writes.
        fn kill(&mut self) {
            let Some(holder) = self.holder.take() else { return };
            self.daemons[holder] = None;
            self.writes.retain(|(daemon, ..)| *daemon != holder);
        }

        /// Another daemon takes over, and a new one starts.
        fn take_over(&mut self) {
            if self.holder.is_none() {
                self.holder = self.daemons.iter().position(Option::is_some);
            }
            self.daemons.iter_mut().for_each(|daemon| {
                daemon.get_or_insert_with(|| SeenQueue::new(100));
            });
        }

        fn turn(&mut self) {
            let holder = self.holder;
            for (daemon, queue) in self.daemons.iter_mut().enumerate() {
                let Some(queue) = queue else { continue };
                queue.prune(at(self.now), |_| World::writer(holder, daemon));
                for bucket in (0..SEEN_BUCKETS).filter(|_| holder == Some(daemon)) {
                    let taken = queue.take(at(self.now), bucket, 2);
                    self.writes.extend(taken.map(|times| (daemon, bucket, times)));
                }
            }
        }

        /// A write ends: it is done and confirmed, done and not confirmed, or not done.
        fn end_write(&mut self, which: usize, outcome: usize) {
            if self.writes.is_empty() {
                return;
            }
            let (daemon, bucket, times) = self.writes.swap_remove(which % self.writes.len());
            if outcome < 2 {
                self.count += times.len();
                for (user, seen) in &times {
                    let held = self.redis.entry(user.clone()).or_default();
                    *held = (*held).max(*seen);
                }
            }
            if let Some(queue) = &mut self.daemons[daemon] {
                if outcome == 0 { queue.written(bucket, &times) } else { queue.failed(at(self.now), bucket) }
            }
        }
    }

    proptest! {
        /// Whatever fails, and whichever daemon dies: in the end Redis has the newest time of each user.
        #[test]
        fn every_newest_time_is_written(steps in prop::collection::vec((0u8..10, 0usize..12, 0usize..3), 0..200)) {
            let mut world = World::new();
            for (action, which, outcome) in steps {
                match action {
                    0..4 => world.leave(which),
                    4..6 => world.turn(),
                    6..8 => world.end_write(which, outcome),
                    8 if world.is_covered() => {
                        world.kill();
                        world.take_over();
                        // The new daemon has noted nothing: the successor first writes what it has.
                        for _ in 0..20 {
                            world.now += 5_000;
                            world.turn();
                            while !world.writes.is_empty() {
                                world.end_write(0, 0);
                            }
                        }
                    }
                    _ => world.now += which as u64 * 1_000,
                }
            }
            for _ in 0..40 {
                world.now += 5_000;
                world.turn();
                while !world.writes.is_empty() {
                    world.end_write(0, 0);
                }
            }
            prop_assert_eq!(&world.redis, &world.truth);
        }

        /// Without faults each time is written by one daemon, once.
        #[test]
        fn calm_times_are_written_once(users in prop::collection::vec(0usize..40, 0..60)) {
            let mut world = World::new();
            for user in &users {
                world.now += 10;
                world.leave(*user);
                world.turn();
                while !world.writes.is_empty() {
                    world.end_write(0, 0);
                }
            }
            prop_assert_eq!(world.count, users.len());
        }
    }
}
