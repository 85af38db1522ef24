//! Who is online, who watches whom, and who is told what.
//!
//! Split by a hash of the user into shards, each behind a short lock. To watch is to register and to
//! copy the state under the same lock, so a snapshot and the transitions after it leave no gap and
//! repeat nothing; and whoever watches everybody never stops the rest for longer than one shard.

use crate::metrics::Metrics;
use crate::presence::{Change, Key, Mailbox, Presence, Pushed, Roster, Time, Transition};
use crate::protocol;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{Notify, watch};

/// As many as Centrifuge's hub has: enough that two cores rarely wait for each other.
const SHARDS: usize = 64;

/// Is what we hold known to be what Redis holds?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Every server is subscribed, compared and proven.
    pub up: bool,
    /// Since when.
    pub since: Time,
    /// If not: what is in the way.
    pub cause: String,
}

/// A change that waits for a watcher: its number and its JSON, shared by all who are told.
#[derive(Clone)]
pub struct Told {
    /// The transition's number.
    pub seq: u64,
    /// The transition, encoded.
    pub json: Arc<str>,
}

/// One reader of transitions.
pub struct Watcher {
    id: u64,
    // A std mutex: held for a push or a drain, never across an await.
    mailbox: Mutex<Mailbox<Told>>,
    overflowed: AtomicBool,
    bell: Notify,
}

impl Watcher {
    /// Waits until something is pending, or the mailbox has overflowed.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Has a lossless mailbox overflowed, so that its reader has to start again?
    pub fn overflowed(&self) -> bool {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Rings for itself, so that what came while its reader was busy is looked for again.
    pub fn ring(&self) {
        if !lock(&self.mailbox).is_empty() {
            self.bell.notify_one();
        }
    }

    /// Takes at most `most` pending changes, the oldest first.
    pub fn take(&self, most: usize) -> Vec<Told> {
        let mut mailbox = lock(&self.mailbox);
        std::iter::from_fn(|| mailbox.pop()).take(most).collect()
    }

    /// Keep every change from now on, at most `pending` at a time.
    pub fn make_lossless(&self, pending: usize) {
        *lock(&self.mailbox) = Mailbox::lossless(pending);
    }

    fn push(&self, user: &Arc<str>, told: Told, metrics: &Metrics) {
        let pushed = lock(&self.mailbox).push(user, told);
        match pushed {
            Pushed::Queued => {}
            Pushed::Cancelled => {
                metrics.conflated.inc();
                return;
            }
            Pushed::Full => self.overflowed.store(true, Ordering::Relaxed),
        }
        self.bell.notify_one();
    }
}

struct Shard {
    roster: Roster,
    watched: HashMap<Arc<str>, Vec<Arc<Watcher>>>,
    all: HashMap<u64, Arc<Watcher>>,
}

/// See the module's head.
pub struct Hub {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    epoch: String,
    seq: AtomicU64,
    /// Whether the first comparison with Redis is done: until then nobody's state is known.
    open: watch::Sender<bool>,
    status: watch::Sender<Status>,
    watchers: AtomicU64,
    /// Marks sent into the event stream, and how far it has come back.
    marks: AtomicU64,
    passed: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves a roster or mailbox whole: every change of them is one call.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Hub {
    /// An empty hub that remembers `remember` users offline. `now` is when it began.
    pub fn new(now: Time, remember: usize, metrics: Arc<Metrics>) -> Hub {
        let shard =
            || Shard { roster: Roster::new(remember / SHARDS), watched: HashMap::new(), all: HashMap::new() };
        let status = Status { up: false, since: now, cause: "not connected yet".into() };
        Hub {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            hasher: RandomState::new(),
            epoch: format!("{:x}-{:08x}", now.as_ms(), fastrand::u32(..)),
            seq: AtomicU64::new(0),
            open: watch::Sender::new(false),
            status: watch::Sender::new(status),
            watchers: AtomicU64::new(0),
            marks: AtomicU64::new(0),
            passed: watch::Sender::new(0),
            metrics,
        }
    }

    /// Names this run of this daemon.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The number of the last transition.
    pub fn seq(&self) -> u64 {
        self.seq.load(Ordering::Acquire)
    }

    /// The first comparison is done: what is held now is the first snapshot, and changes from now on
    /// are transitions.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Whether the first comparison is done, as it changes.
    pub fn opened(&self) -> watch::Receiver<bool> {
        self.open.subscribe()
    }

    /// Says whether what is held is known to be true.
    pub fn set_status(&self, status: Status) {
        self.metrics.ready.set(i64::from(status.up));
        self.status.send_if_modified(|held| {
            let changed = held.up != status.up || held.cause != status.cause;
            if changed {
                let since = if held.up == status.up { held.since } else { status.since };
                *held = Status { since, ..status };
            }
            changed
        });
    }

    /// The status, as it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Takes in the change of a key and tells whoever watches its user. Only the driver calls this,
    /// so numbers are given in the order of the transitions.
    pub fn apply(&self, change: &Change) -> Option<Transition> {
        let mut shard = self.shard(change.key.user());
        let transition = shard.roster.apply(change)?;
        if !*self.open.borrow() {
            return None;
        }
        let seq = self.seq.fetch_add(1, Ordering::AcqRel) + 1;
        shard.tell(seq, &transition, &self.metrics);
        Some(transition)
    }

    /// A new reader, who watches nobody yet.
    pub fn watcher(&self) -> Arc<Watcher> {
        Arc::new(Watcher {
            id: self.watchers.fetch_add(1, Ordering::Relaxed),
            mailbox: Mutex::new(Mailbox::conflating()),
            overflowed: AtomicBool::new(false),
            bell: Notify::new(),
        })
    }

    /// Registers `watcher` for `user` and gives the state from which that user's transitions go on.
    pub fn watch(&self, watcher: &Arc<Watcher>, user: &Arc<str>) -> Presence {
        let mut shard = self.shard(user);
        let watchers = shard.watched.entry(user.clone()).or_default();
        if !watchers.iter().any(|other| other.id == watcher.id) {
            watchers.push(watcher.clone());
        }
        // Asked again: what is pending for the user is in the state that is given now.
        lock(&watcher.mailbox).forget(user);
        shard.roster.get(user)
    }

    /// Ends what [`watch`](Hub::watch) began.
    pub fn unwatch(&self, watcher: &Watcher, user: &str) {
        let mut shard = self.shard(user);
        let Some(watchers) = shard.watched.get_mut(user) else {
            return;
        };
        watchers.retain(|other| other.id != watcher.id);
        if watchers.is_empty() {
            shard.watched.remove(user);
        }
        if !shard.all.contains_key(&watcher.id) {
            lock(&watcher.mailbox).forget(user);
        }
    }

    /// Registers `watcher` for everybody, shard by shard, and gives each shard's users online as it
    /// is registered there.
    pub fn watch_all<'a>(
        &'a self,
        watcher: &'a Arc<Watcher>,
    ) -> impl Iterator<Item = Vec<(Arc<str>, Presence)>> + 'a {
        self.shards.iter().map(move |shard| {
            let mut shard = lock(shard);
            shard.all.insert(watcher.id, watcher.clone());
            shard.forget_pending(watcher);
            let mut online = Vec::with_capacity(shard.roster.online());
            shard.roster.page(0, usize::MAX, true, |user, presence| online.push((user.clone(), presence)));
            online
        })
    }

    /// Ends what [`watch_all`](Hub::watch_all) began; users watched by name stay watched.
    pub fn unwatch_all(&self, watcher: &Watcher) {
        for shard in &self.shards {
            lock(shard).all.remove(&watcher.id);
        }
    }

    /// A number for a mark that is to be sent into the event stream.
    pub fn next_mark(&self) -> u64 {
        self.marks.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// A mark came back: everything that Redis did before it is taken in.
    pub fn pass_mark(&self, mark: u64) {
        self.passed.send_if_modified(|passed| {
            let newer = mark > *passed;
            *passed = mark.max(*passed);
            newer
        });
    }

    /// Waits until a mark has come back. One with a later number was sent later, so it does as well.
    pub async fn passed(&self, mark: u64) {
        let mut passed = self.passed.subscribe();
        if passed.wait_for(|&passed| passed >= mark).await.is_err() {
            tracing::debug!("the hub is gone");
        }
    }

    /// The state of a user.
    pub fn get(&self, user: &str) -> Presence {
        self.shard(user).roster.get(user)
    }

    /// The live keys of a user that name a session.
    pub fn keys(&self, user: &str) -> Vec<Key> {
        self.shard(user).roster.keys(user)
    }

    /// At most `most` users, online or remembered, from a cursor on, and the cursor that goes on.
    pub fn page(
        &self,
        from: Cursor,
        most: usize,
        online: bool,
    ) -> (Vec<(Arc<str>, Presence)>, Option<Cursor>) {
        let mut users = Vec::new();
        let mut slot = from.slot;
        for shard in from.shard as usize..SHARDS {
            let left = most - users.len();
            let next = lock(&self.shards[shard])
                .roster
                .page(slot, left, online, |user, presence| users.push((user.clone(), presence)));
            if let Some(slot) = next {
                return (users, Some(Cursor { shard: shard as u32, slot }));
            }
            slot = 0;
        }
        (users, None)
    }

    /// How many users are online, and with how many keys.
    pub fn count(&self) -> (usize, u64) {
        self.shards.iter().fold((0, 0), |(users, sessions), shard| {
            let shard = lock(shard);
            (users + shard.roster.online(), sessions + shard.roster.sessions())
        })
    }

    fn shard(&self, user: &str) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.hasher.hash_one(user) as usize % SHARDS])
    }
}

impl Shard {
    /// What is pending for users whom the watcher watches by name is in the snapshot that it gets now.
    fn forget_pending(&self, watcher: &Watcher) {
        let named = |watchers: &[Arc<Watcher>]| watchers.iter().any(|other| other.id == watcher.id);
        for (user, _) in self.watched.iter().filter(|(_, watchers)| named(watchers)) {
            lock(&watcher.mailbox).forget(user);
        }
    }

    fn tell(&self, seq: u64, transition: &Transition, metrics: &Metrics) {
        let named = self.watched.get(&transition.user).map_or(&[][..], Vec::as_slice);
        if named.is_empty() && self.all.is_empty() {
            return;
        }
        let json: Arc<str> = protocol::encode_transition(seq, transition).into();
        let told = || Told { seq, json: json.clone() };
        for watcher in self.all.values() {
            watcher.push(&transition.user, told(), metrics);
        }
        for watcher in named.iter().filter(|watcher| !self.all.contains_key(&watcher.id)) {
            watcher.push(&transition.user, told(), metrics);
        }
    }
}

/// Where a page of users ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    shard: u32,
    slot: u32,
}

impl Cursor {
    /// Reads what [`Display`](std::fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Cursor> {
        let (shard, slot) = text.split_once('-')?;
        let cursor = Cursor { shard: shard.parse().ok()?, slot: slot.parse().ok()? };
        Some(cursor).filter(|cursor| (cursor.shard as usize) < SHARDS)
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.shard, self.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::Reason;

    fn hub() -> Hub {
        let hub = Hub::new(Time::from_ms(1), 640, Arc::new(Metrics::new()));
        hub.open();
        hub
    }

    fn change(key: &str, live: bool) -> Change {
        Change {
            key: Key::parse(key.as_bytes()).unwrap(),
            live,
            at: Time::from_ms(2),
            last_seen: Time::from_ms(2),
            reason: Reason::Heartbeat,
            deadline: None,
        }
    }

    fn seqs(watcher: &Watcher) -> Vec<u64> {
        watcher.take(100).iter().map(|told| told.seq).collect()
    }

    #[test]
    fn a_watcher_by_name_and_of_all_is_told_once() {
        let hub = hub();
        let watcher = hub.watcher();
        let alice: Arc<str> = "alice".into();
        assert_eq!(hub.watch(&watcher, &alice), Presence::Offline { last_seen: None });
        assert_eq!(hub.watch_all(&watcher).flatten().count(), 0);
        hub.apply(&change("alice", true));
        hub.apply(&change("bob", true));
        assert_eq!(seqs(&watcher), [1, 2]);
        hub.unwatch_all(&watcher);
        hub.apply(&change("alice", false));
        hub.apply(&change("bob", false));
        assert_eq!(seqs(&watcher), [3], "alice is still watched by name");
        hub.unwatch(&watcher, "alice");
        hub.apply(&change("alice", true));
        assert_eq!(seqs(&watcher), [0; 0]);
        assert!(hub.shards.iter().all(|shard| lock(shard).watched.is_empty()));
    }

    #[test]
    fn a_second_snapshot_holds_what_was_pending() {
        let hub = hub();
        let watcher = hub.watcher();
        let alice: Arc<str> = "alice".into();
        hub.watch(&watcher, &alice);
        hub.apply(&change("alice", true));
        assert!(matches!(hub.watch(&watcher, &alice), Presence::Online { .. }));
        assert_eq!(seqs(&watcher), [0; 0]);
        hub.apply(&change("alice", false));
        assert_eq!(seqs(&watcher), [2]);
    }

    #[test]
    fn before_the_first_comparison_nothing_is_a_transition() {
        let hub = Hub::new(Time::from_ms(1), 64, Arc::new(Metrics::new()));
        assert_eq!(hub.apply(&change("alice", true)), None);
        hub.open();
        assert!(hub.apply(&change("alice", false)).is_some());
        assert_eq!(hub.seq(), 1);
    }

    #[test]
    fn a_lossless_watcher_that_falls_behind_is_marked() {
        let hub = hub();
        let watcher = hub.watcher();
        watcher.make_lossless(2);
        hub.watch_all(&watcher).for_each(drop);
        for i in 0..3 {
            assert!(!watcher.overflowed());
            hub.apply(&change(&format!("u{i}"), true));
        }
        assert!(watcher.overflowed());
    }

    #[test]
    fn pages_of_all_shards_give_everybody_once() {
        let hub = hub();
        for i in 0..1000 {
            hub.apply(&change(&format!("u{i}#s"), true));
        }
        let (mut names, mut cursor) = (Vec::new(), Some(Cursor::default()));
        while let Some(from) = cursor {
            let (users, next) = hub.page(from, 77, true);
            assert!(users.len() == 77 || next.is_none());
            names.extend(users.into_iter().map(|(user, _)| user));
            cursor = next.map(|next| Cursor::parse(&next.to_string()).unwrap());
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 1000);
        assert_eq!(hub.count(), (1000, 1000));
        assert_eq!(Cursor::parse("64-0"), None);
    }
}
