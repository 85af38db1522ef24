//! The times that have yet to be written to Redis.
//!
//! One daemon writes the times of a bucket: the holder of the lease of the server that has the bucket. A daemon that becomes the
//! writer of a bucket is behind: the writer before may have died with times that it had not written. So the new writer writes the
//! times of all users whom its hub remembers; those that Redis has change nothing, since Redis keeps the newest time of a user. The
//! same repairs whatever else was dropped. In calm each time is written once.

use super::{SEEN_BUCKETS, seen_bucket};
use crate::{Name, Time};
use std::collections::HashMap;

/// The pause after a write that failed, in milliseconds, and the longest one: each further failure doubles it.
const RETRY_MS: (u64, u64) = (200, 5_000);

/// A user, and when the user was last seen.
pub type Seen = (Name, Time);

/// The daemon that writes the times of a bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BucketWriter {
    /// This daemon.
    Own,
    /// Another daemon.
    Other,
    /// No daemon, or it is not known which.
    #[default]
    Nobody,
}

/// The outcome of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// The time waits to be written.
    Waits,
    /// Another daemon writes it.
    Elsewhere,
    /// There is no room. The bucket is behind.
    Dropped,
}

#[derive(Debug, Default)]
struct Bucket {
    writer: BucketWriter,
    /// Redis may lack times that the hub remembers.
    behind: bool,
    waiting: HashMap<Name, Time>,
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
    waiting: usize,
    most: usize,
}

impl SeenQueue {
    /// An empty queue for at most `most` users.
    pub fn new(most: usize) -> SeenQueue {
        let buckets = (0..SEEN_BUCKETS).map(|_| Bucket::default()).collect();
        SeenQueue { buckets, waiting: 0, most }
    }

    /// These daemons write the buckets now.
    pub fn follow(&mut self, writers: impl IntoIterator<Item = BucketWriter>) {
        for (bucket, writer) in self.buckets.iter_mut().zip(writers) {
            let before = std::mem::replace(&mut bucket.writer, writer);
            bucket.behind |= writer == BucketWriter::Own && before != BucketWriter::Own;
        }
    }

    /// Whether this daemon writes a bucket.
    pub fn owns(&self, bucket: usize) -> bool {
        self.buckets[bucket].writer == BucketWriter::Own
    }

    /// A user went offline, or the hub remembers the user.
    pub fn note(&mut self, user: &Name, seen: Time) -> Noted {
        let bucket = &mut self.buckets[seen_bucket(user)];
        if bucket.writer == BucketWriter::Other {
            return Noted::Elsewhere;
        }
        if let Some(held) = bucket.waiting.get_mut(user) {
            *held = seen.max(*held);
        } else if self.waiting >= self.most {
            bucket.behind = true;
            return Noted::Dropped;
        } else {
            bucket.waiting.insert(user.clone(), seen);
            self.waiting += 1;
        }
        Noted::Waits
    }

    /// Users may have gone offline without a note.
    pub fn lose(&mut self) {
        self.buckets.iter_mut().for_each(|bucket| bucket.behind = true);
    }

    /// The buckets whose remembered users are to be noted now; empty if there are none. Where the queue is long, they have to wait.
    pub fn catch_up(&mut self) -> Vec<usize> {
        if self.waiting > self.most / 2 {
            return Vec::new();
        }
        let own = self.buckets.iter_mut().enumerate().filter(|(_, one)| one.writer == BucketWriter::Own);
        own.filter_map(|(at, bucket)| std::mem::take(&mut bucket.behind).then_some(at)).collect()
    }

    /// At most `most` times of a bucket, which this daemon is to write now; none while an earlier write of the bucket is under way
    /// or has just failed. Times that were noted before another daemon became the writer are written too: the other daemon may not
    /// have them.
    pub fn take(&mut self, now: Time, bucket: usize, most: usize) -> Option<Vec<Seen>> {
        let bucket = &mut self.buckets[bucket];
        let is_ready = bucket.writer != BucketWriter::Nobody && !bucket.writing && now >= bucket.retry_at;
        if !is_ready || bucket.waiting.is_empty() {
            return None;
        }
        bucket.writing = true;
        Some(bucket.waiting.iter().take(most).map(|(user, seen)| (user.clone(), *seen)).collect())
    }

    /// Redis has these times, which [`take`](SeenQueue::take) gave.
    pub fn written(&mut self, bucket: usize, times: &[Seen]) {
        let bucket = &mut self.buckets[bucket];
        (bucket.writing, bucket.pause_ms) = (false, 0);
        for (user, seen) in times {
            // A newer time has yet to be written.
            if bucket.waiting.get(user).is_some_and(|held| held <= seen) {
                bucket.waiting.remove(user);
                self.waiting -= 1;
            }
        }
        // A burst must not cost memory for good.
        if bucket.waiting.is_empty() {
            bucket.waiting = HashMap::new();
        }
    }

    /// Redis may not have the times that [`take`](SeenQueue::take) gave last.
    pub fn failed(&mut self, now: Time, bucket: usize) {
        let bucket = &mut self.buckets[bucket];
        bucket.writing = false;
        bucket.pause_ms = (2 * bucket.pause_ms).clamp(RETRY_MS.0, RETRY_MS.1);
        bucket.retry_at = now.plus(bucket.pause_ms);
    }

    /// Writes that failed may be repeated at once.
    pub fn hurry(&mut self) {
        self.buckets.iter_mut().for_each(|bucket| bucket.retry_at = Time::default());
    }

    /// How many users' times wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: [BucketWriter; SEEN_BUCKETS] = [BucketWriter::Own; SEEN_BUCKETS];
    const OTHER: [BucketWriter; SEEN_BUCKETS] = [BucketWriter::Other; SEEN_BUCKETS];
    const NOBODY: [BucketWriter; SEEN_BUCKETS] = [BucketWriter::Nobody; SEEN_BUCKETS];

    fn at(ms: u64) -> Time {
        Time::from_ms(ms)
    }

    fn name(text: &str) -> Name {
        text.into()
    }

    /// A queue that writes everything, and is not behind.
    fn owner(most: usize) -> SeenQueue {
        let mut queue = SeenQueue::new(most);
        queue.follow(OWN);
        assert_eq!(queue.catch_up().len(), SEEN_BUCKETS);
        queue
    }

    fn times(queue: &mut SeenQueue, now: u64, user: &str) -> Option<Vec<Seen>> {
        queue.take(at(now), seen_bucket(user), 10)
    }

    #[test]
    fn newest_time_waits_until_written() {
        let (mut queue, alice) = (owner(10), name("alice"));
        queue.note(&alice, at(7));
        queue.note(&alice, at(5));
        let first = times(&mut queue, 11, "alice").unwrap();
        assert_eq!(first, [(alice.clone(), at(7))]);
        queue.note(&alice, at(19));
        assert_eq!(times(&mut queue, 20, "alice"), None, "a write is under way");
        queue.written(seen_bucket("alice"), &first);
        let second = times(&mut queue, 21, "alice").unwrap();
        assert_eq!(second, [(alice, at(19))]);
        queue.written(seen_bucket("alice"), &second);
        assert_eq!((times(&mut queue, 22, "alice"), queue.waiting()), (None, 0));
    }

    #[test]
    fn failed_write_is_repeated_after_a_pause() {
        let (mut queue, alice) = (owner(10), name("alice"));
        queue.note(&alice, at(0));
        let mut now = 0;
        for pause in [200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            assert!(times(&mut queue, now, "alice").is_some());
            queue.failed(at(now), seen_bucket("alice"));
            assert_eq!(times(&mut queue, now + pause - 1, "alice"), None, "{pause}");
            now += pause;
        }
        assert!(times(&mut queue, now, "alice").is_some());
        queue.failed(at(now), seen_bucket("alice"));
        queue.hurry();
        let written = times(&mut queue, now, "alice").unwrap();
        queue.written(seen_bucket("alice"), &written);
        queue.note(&alice, at(now));
        assert!(times(&mut queue, now, "alice").is_some(), "the pause is over");
    }

    #[test]
    fn only_the_writer_writes() {
        let (mut queue, alice) = (SeenQueue::new(10), name("alice"));
        assert_eq!(queue.note(&alice, at(1)), Noted::Waits);
        assert_eq!(times(&mut queue, 1, "alice"), None, "no daemon holds the lease yet");
        queue.follow(OTHER);
        assert_eq!(queue.note(&name("bob"), at(2)), Noted::Elsewhere);
        assert!(times(&mut queue, 2, "alice").is_some(), "the other one may not know it");
        assert_eq!(queue.catch_up(), [0; 0]);
        queue.follow(OWN);
        assert_eq!(queue.catch_up().len(), SEEN_BUCKETS, "the other one may have died with its times");
        assert_eq!(queue.catch_up(), [0; 0]);
        queue.follow(OWN);
        assert_eq!(queue.catch_up(), [0; 0]);
    }

    #[test]
    fn full_queue_catches_up_later() {
        let mut queue = owner(2);
        let users = ["a", "b", "c"].map(name);
        let noted = users.each_ref().map(|user| queue.note(user, at(1)));
        assert_eq!(noted, [Noted::Waits, Noted::Waits, Noted::Dropped]);
        assert_eq!(queue.note(&users[0], at(2)), Noted::Waits, "the user has a place");
        assert_eq!(queue.catch_up(), [0; 0], "there is no room yet");
        let first = times(&mut queue, 1, "a").unwrap();
        queue.written(seen_bucket("a"), &first);
        assert_eq!(queue.catch_up(), [seen_bucket("c")]);
        queue.lose();
        assert_eq!(queue.catch_up().len(), SEEN_BUCKETS);
    }

    /// A daemon: whom its hub remembers, and its queue.
    struct Daemon {
        hub: HashMap<Name, Time>,
        queue: SeenQueue,
        /// It does nothing, and its writes arrive when it runs again.
        frozen: bool,
    }

    impl Daemon {
        fn new(hub: HashMap<Name, Time>) -> Daemon {
            Daemon { hub, queue: SeenQueue::new(8), frozen: false }
        }
    }

    /// Redis, and two daemons that see each user go offline.
    struct World {
        now: u64,
        daemons: [Daemon; 2],
        /// Writes under way: the daemon, the bucket and its times.
        writes: Vec<(usize, usize, Vec<Seen>)>,
        holder: Option<usize>,
        redis: HashMap<Name, Time>,
        truth: HashMap<Name, Time>,
        /// How many times Redis was sent.
        count: usize,
    }

    impl World {
        fn new() -> World {
            let daemons = [HashMap::new(), HashMap::new()].map(Daemon::new);
            let (writes, redis, truth) = (Vec::new(), HashMap::new(), HashMap::new());
            World { now: 1, daemons, writes, holder: Some(0), redis, truth, count: 0 }
        }

        fn leave(&mut self, user: usize) {
            let (user, seen) = (name(&format!("u{user}")), at(self.now));
            self.truth.insert(user.clone(), seen);
            for daemon in &mut self.daemons {
                daemon.hub.insert(user.clone(), seen);
                daemon.queue.note(&user, seen);
            }
        }

        fn turn(&mut self) {
            for (at_daemon, daemon) in self.daemons.iter_mut().enumerate().filter(|(_, one)| !one.frozen) {
                daemon.queue.follow(match self.holder {
                    None => NOBODY,
                    Some(holder) if holder == at_daemon => OWN,
                    Some(_) => OTHER,
                });
                let behind = daemon.queue.catch_up();
                for (user, seen) in daemon.hub.iter().filter(|(user, _)| behind.contains(&seen_bucket(user)))
                {
                    daemon.queue.note(user, *seen);
                }
                for bucket in 0..SEEN_BUCKETS {
                    let taken = daemon.queue.take(at(self.now), bucket, 2);
                    self.writes.extend(taken.map(|times| (at_daemon, bucket, times)));
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
            let queue = &mut self.daemons[daemon].queue;
            if outcome == 0 { queue.written(bucket, &times) } else { queue.failed(at(self.now), bucket) }
        }

        /// The daemon dies with its writes and another one starts, which has seen nobody go.
        fn restart(&mut self, daemon: usize) {
            self.writes.retain(|(of, ..)| *of != daemon);
            self.daemons[daemon] = Daemon::new(HashMap::new());
            if self.holder == Some(daemon) {
                self.holder = None;
            }
        }

        fn calm(&mut self) {
            self.holder = Some(self.holder.unwrap_or(0));
            self.daemons.iter_mut().for_each(|daemon| daemon.frozen = false);
            for _ in 0..40 {
                self.now += 5_000;
                self.turn();
                while !self.writes.is_empty() {
                    self.end_write(0, 0);
                }
            }
        }
    }

    proptest! {
        /// Whatever fails, and whichever daemon dies or freezes: in the end Redis has the newest time of each user.
        #[test]
        fn every_newest_time_is_written(steps in prop::collection::vec((0u8..14, 0usize..12, 0usize..3), 0..200)) {
            let mut world = World::new();
            // The only daemon that has seen everybody go since the last calm.
            let mut whole = None;
            for (action, which, outcome) in steps {
                let daemon = which % 2;
                match action {
                    0..4 => world.leave(which),
                    4..6 => world.turn(),
                    6..8 => world.end_write(which, outcome),
                    8 => world.holder = [None, Some(0), Some(1)][outcome],
                    9 => world.daemons[daemon].frozen ^= true,
                    10 if whole.is_none_or(|whole| whole != daemon) => {
                        world.restart(daemon);
                        whole = Some(1 - daemon);
                    }
                    11 if outcome == 0 => {
                        // The one that has seen everybody go takes over before it may die.
                        world.holder = whole.or(world.holder);
                        world.calm();
                        whole = None;
                    }
                    _ => world.now += which as u64 * 1_000,
                }
            }
            world.holder = whole.or(world.holder);
            world.calm();
            prop_assert_eq!(&world.redis, &world.truth);
        }

        /// Without faults each time is written by one daemon, once.
        #[test]
        fn calm_times_are_written_once(users in prop::collection::vec(0usize..40, 0..60)) {
            let mut world = World::new();
            world.turn();
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
