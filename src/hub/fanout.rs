//! The watchers of each user, and how a transition reaches them.

use super::audience::Audience;
use super::readers::QueuedAnswer;
use super::watcher::Watcher;
use super::{Encoded, Hub, SHARDS, Shard};
use crate::lock::lock;
use crate::presence::{Change, Name, Presence, Time, Transition};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rings of the bell of all readers of everybody together, per second, that the daemon has time for however busy it is: each
/// costs a write to the kernel, about 10 µs. More of them follow only while the readers keep up. Otherwise the bell rings less
/// often and each message has more transitions.
const RINGS_PER_SECOND: f64 = 30_000.0;
/// The longest between two rings, however many readers there are.
const RING_LATEST: Duration = Duration::from_millis(50);
/// When the hub looks again whether the readers have read what the last ring announced.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// The readers keep up if at most one in so many has not read since the last ring.
const KEEPS_UP: usize = 8;

/// Entries of the log at which the hub looks who still needs the oldest.
pub(super) const LOG_KEPT: u64 = 4096;
/// The pause between two passes while a reader needs more of the log.
const TRIM_AGAIN: Duration = Duration::from_millis(100);
/// Readers that one step of a [`TrimPass`] looks at, unless one has to fold.
const STEP: usize = 64;

/// The readers of everybody, and when their bell last rang.
#[derive(Default)]
pub(super) struct Everybody {
    pub(super) watchers: HashMap<u64, Arc<Watcher>>,
    /// The number of the last transition that is in the log and the history, as far as they were written.
    pub(super) written: u64,
    rung: Option<Instant>,
    /// The end of the log when the bell rang.
    rung_at: u64,
    /// A log of this length has to be trimmed; `None` while [`Hub::trim_log`] is at it.
    trim_at: Option<u64>,
}

impl Everybody {
    pub(super) fn new() -> Everybody {
        Everybody { trim_at: Some(LOG_KEPT), ..Everybody::default() }
    }
}

/// The messages for a reader of everybody that joins a shard.
pub struct JoinedShard {
    /// The shard's users online.
    pub online: Vec<(Name, Presence)>,
    /// Users whom the reader knows to be online from an earlier watch by name, and who went offline since: their absence
    /// in the snapshot is no transition, so these come before it.
    pub left: Vec<Arc<Encoded>>,
}

/// One pass over the readers of everybody: moves what slow readers have not read into their mailboxes, and then
/// trims the log.
struct TrimPass {
    watchers: Vec<Arc<Watcher>>,
    lag: u64,
    next: usize,
    /// The place before which no reader needs the log.
    needed: u64,
}

impl Hub {
    /// Applies the change of a key, and hands the transition to whoever watches the user. Only the driver calls
    /// this, so the numbers are in the order of the transitions.
    pub fn apply(&self, change: &Change) -> Option<Transition> {
        let at = self.shard_of(change.key.user());
        let mut shard = lock(&self.shards[at]);
        let mut transition = shard.roster.apply(change)?;
        if transition.online && !self.is_known(change.key.user()) {
            // Nobody has seen the user come.
            shard.roster.forget_start(change.key.user());
            transition.mark = Time::default();
        }
        let grouped = shard.grouped.get(&transition.user);
        grouped.into_iter().flatten().for_each(|group| group.count(transition.online));
        if !*self.board.open.borrow() {
            return None;
        }
        let seq = self.seq() + 1;
        self.hand_out(&shard, at, seq, &transition);
        // After it is in every mailbox, in the log and in the history.
        self.readers.publish(seq);
        drop(shard);
        self.readers.relieve();
        Some(transition)
    }

    fn hand_out(&self, shard: &Shard, at: usize, seq: u64, transition: &Transition) {
        let named = shard.watched.get(&transition.user).map_or(&[][..], Audience::watchers);
        let grouped = shard.grouped.get(&transition.user).map_or(&[][..], Vec::as_slice);
        let mut everybody = lock(&self.everybody);
        everybody.written = seq;
        let (logged, recorded) = (!everybody.watchers.is_empty(), self.history.has_begun());
        if named.is_empty() && grouped.is_empty() && !logged && !recorded {
            return;
        }
        let entry = Arc::new(Encoded::new(seq, transition, at));
        if logged {
            self.write_log(&mut everybody, entry.clone());
        }
        if recorded {
            self.history.push(entry.clone());
        }
        drop(everybody);
        self.couriers.wake(named.iter().filter(|watcher| watcher.push(&entry)));
        grouped.iter().for_each(|group| group.push(&entry, &self.couriers));
    }

    fn write_log(&self, everybody: &mut Everybody, entry: Arc<Encoded>) {
        let mut log = lock(&self.readers.log);
        log.push(entry);
        if everybody.trim_at.is_some_and(|at| log.len() >= at) {
            everybody.trim_at = None;
            self.long_log.notify_one();
        }
    }

    /// Keeps the log short, for as long as the hub lives: whenever the log is long, moves what slow readers have
    /// not read into their mailboxes. The driver never does that, however many slow readers there are. A reader
    /// that this task does not reach before the log is full has to start again (`Overflow::Behind`).
    pub async fn trim_log(&self) {
        loop {
            self.long_log.notified().await;
            loop {
                let mut pass = self.begin_pass(LOG_KEPT / 2);
                while self.step(&mut pass) {
                    // Everybody else has a turn after each message of the log.
                    tokio::task::yield_now().await;
                }
                if self.end_pass(&pass) < LOG_KEPT {
                    break;
                }
                // A lossless reader still needs the start of the log. It may catch up without another transition.
                tokio::time::sleep(TRIM_AGAIN).await;
            }
        }
    }

    /// One pass at once, for tests without a runtime: a reader is slow if it is more than `lag` entries behind.
    pub fn settle_all(&self, lag: u64) {
        let mut pass = self.begin_pass(lag);
        while self.step(&mut pass) {}
        self.end_pass(&pass);
    }

    fn begin_pass(&self, lag: u64) -> TrimPass {
        let everybody = lock(&self.everybody);
        let watchers = everybody.watchers.values().cloned().collect();
        // Whoever begins to watch from now on begins at the end of the log.
        let needed = lock(&self.readers.log).end();
        TrimPass { watchers, lag, next: 0, needed }
    }

    /// Looks at some readers, or moves one message into one mailbox. Returns whether there is more to do.
    fn step(&self, pass: &mut TrimPass) -> bool {
        for _ in 0..STEP {
            let Some(watcher) = pass.watchers.get(pass.next) else { return false };
            let (place, folds) = watcher.settle(pass.lag);
            if folds {
                return true;
            }
            pass.needed = pass.needed.min(place);
            pass.next += 1;
        }
        true
    }

    /// Trims the log. Returns how many entries are left.
    fn end_pass(&self, pass: &TrimPass) -> u64 {
        let held = {
            let mut log = lock(&self.readers.log);
            log.seal();
            log.trim(pass.needed);
            log.len()
        };
        lock(&self.everybody).trim_at = Some(LOG_KEPT.max(held * 9 / 8));
        self.readers.relieve();
        held
    }

    /// Rings the bell of the readers of everybody, if the log has grown and they have read what the last ring announced, or enough
    /// time has passed at `now`; else returns when to call again. The driver calls this after it has applied changes.
    pub fn ring(&self, now: Instant) -> Option<Instant> {
        let mut everybody = lock(&self.everybody);
        let end = lock(&self.readers.log).end();
        if everybody.watchers.is_empty() || end == everybody.rung_at {
            return None;
        }
        let pause = Duration::from_secs_f64(everybody.watchers.len() as f64 / RINGS_PER_SECOND);
        let due = everybody.rung.map(|rung| rung + pause.min(RING_LATEST)).filter(|&due| due > now);
        if let Some(due) = due
            && self.readers.unread() > everybody.watchers.len() / KEEPS_UP
        {
            return Some(due.min(now + LOOK_AGAIN));
        }
        (everybody.rung, everybody.rung_at) = (Some(now), end);
        self.couriers.wake(everybody.watchers.values().inspect(|watcher| watcher.announce()));
        None
    }

    /// The size of all that waits for clients, without the log, in bytes.
    pub fn mailbox_bytes(&self) -> usize {
        self.readers.bytes()
    }

    /// The size of the log that all readers of everybody share, in bytes.
    pub fn log_bytes(&self) -> usize {
        lock(&self.readers.log).bytes()
    }

    /// Counts an answer of so many bytes until it is dropped. `end` closes its connection if too much waits for all clients.
    pub fn queue_answer(&self, bytes: usize, end: Box<dyn Fn() + Send + Sync>) -> Arc<QueuedAnswer> {
        QueuedAnswer::new(&self.readers, bytes, end)
    }

    /// A new reader, which watches nobody yet.
    pub fn watcher(&self) -> Arc<Watcher> {
        Watcher::new(&self.readers)
    }

    /// Registers `watcher` for `user`. Returns the state that the user's next transition follows.
    pub fn watch(&self, watcher: &Arc<Watcher>, user: &Name) -> Presence {
        self.watch_shared(watcher, user).1
    }

    /// The same, and the name as all who watch the user share it.
    pub fn watch_shared(&self, watcher: &Arc<Watcher>, user: &str) -> (Name, Presence) {
        let at = self.shard_of(user);
        let mut shard = lock(&self.shards[at]);
        let name = match shard.watched.get_key_value(user) {
            Some((name, _)) => name.clone(),
            None => shard.roster.name(user).unwrap_or_else(|| user.into()),
        };
        match shard.watched.entry(name.clone()) {
            Entry::Occupied(mut audience) => audience.get_mut().join(watcher),
            Entry::Vacant(free) => {
                free.insert(Audience::of(watcher));
                // Without room for the user, the user's states stay marked as stale.
                let _has_room = self.interest.as_ref().is_none_or(|interest| interest.enter(&name));
            }
        }
        // If the reader asks again: the state that it is given now covers what is pending for the user.
        watcher.give(&name, at, self.seq());
        let presence = shard.roster.get(user);
        (name, presence)
    }

    /// Ends what [`watch`](Hub::watch) began.
    pub fn unwatch(&self, watcher: &Watcher, user: &str) {
        let at = self.shard_of(user);
        let mut shard = lock(&self.shards[at]);
        let Some(audience) = shard.watched.get_mut(user) else {
            return;
        };
        if audience.leave(watcher) {
            shard.watched.remove(user);
            self.interest.iter().for_each(|interest| interest.leave(user));
            // Clients may have watched thousands of names that nobody has.
            if shard.watched.len() < shard.watched.capacity() / 4 {
                let most = shard.watched.len() * 2;
                shard.watched.shrink_to(most);
            }
        }
        // A group may still cover the user.
        if !shard.is_watched_by(watcher, user) {
            watcher.forget(user, at);
        }
    }

    /// Registers `watcher` for everybody, shard by shard. Yields each shard's users online as it is registered
    /// there.
    pub fn watch_all<'a>(
        &'a self,
        watcher: &'a Arc<Watcher>,
    ) -> impl Iterator<Item = Vec<(Name, Presence)>> + 'a {
        self.begin_watch_all(watcher);
        (0..SHARDS).filter_map(move |shard| Some(self.join_shard(watcher, shard)?.online))
    }

    /// The first step of [`watch_all`](Hub::watch_all), for callers that take the shards one by one.
    pub fn begin_watch_all(&self, watcher: &Arc<Watcher>) {
        // If it watches everybody already. Most of this happens before the lock for which the driver waits.
        watcher.keep_unread();
        let mut everybody = lock(&self.everybody);
        watcher.keep_unread();
        everybody.watchers.insert(watcher.id, watcher.clone());
        watcher.begin_all(true, 0);
        self.begin_all_statuses(watcher);
    }

    /// Registers `watcher` for one shard; `None` after the last shard.
    pub fn join_shard(&self, watcher: &Watcher, shard: usize) -> Option<JoinedShard> {
        let held = lock(self.shards.get(shard)?);
        let left = watcher.join(shard, self.seq(), |user| self.shard_of(user) == shard);
        Some(JoinedShard { online: held.online(), left })
    }

    /// Ends what [`watch_all`](Hub::watch_all) began; users watched by name stay watched.
    pub fn unwatch_all(&self, watcher: &Watcher) {
        lock(&self.everybody).watchers.remove(&watcher.id);
        watcher.end_all();
        self.end_all_statuses(watcher);
    }
}
