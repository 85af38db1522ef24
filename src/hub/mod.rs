//! Who is online, who watches whom, and who is told what.
//!
//! Split by a hash of the user into shards, each behind a short lock. To watch is to register and to
//! copy the state under the same lock, so a snapshot and the transitions after it leave no gap and
//! repeat nothing; and whoever watches everybody never stops the rest for longer than one shard.
//!
//! Whoever watches users by name has a mailbox; all who watch everybody read one log. A transition is
//! encoded once for all of them.

mod audience;
mod log;
mod watcher;

pub use watcher::{Overflow, Watcher};

use crate::metrics::Metrics;
use crate::presence::{Change, Key, Name, Presence, Roster, ServerState, Time, Transition};
use crate::protocol;
use audience::Audience;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use watcher::Mailboxes;

/// As many as Centrifuge's hub has: enough that two cores rarely wait for each other.
const SHARDS: usize = 64;

/// How many sockets the bell of those who watch everybody rings a second, at most: each costs a
/// write to the kernel, 10 µs or so. Many watchers are therefore rung less often, and told more at a
/// time; up to 30 of them are told each transition at once.
const RINGS_PER_SECOND: f64 = 30_000.0;
/// However many they are, nobody waits longer for the bell.
const RING_LATEST: Duration = Duration::from_millis(50);

/// So many transitions stay in the log before somebody looks who still needs them.
const LOG_KEPT: u64 = 4096;

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

/// A transition as it is told, encoded once and shared by all who are told.
pub struct Told {
    /// The transition's number.
    pub seq: u64,
    /// Whose it is.
    pub user: Name,
    /// The transition, encoded.
    pub json: Box<str>,
    shard: u8,
}

impl Told {
    /// Which shard its user is in.
    pub fn shard(&self) -> usize {
        self.shard.into()
    }

    /// What it costs in memory, in bytes: the text, the name if it is shared with nobody, and three
    /// blocks with their heads.
    fn cost(&self) -> usize {
        std::mem::size_of::<Told>() + self.json.len() + self.user.len() + 3 * 16
    }
}

struct Shard {
    roster: Roster,
    watched: HashMap<Name, Audience>,
}

/// Those who watch everybody, and when their bell rang last.
#[derive(Default)]
struct Everybody {
    watchers: HashMap<u64, Arc<Watcher>>,
    rung: Option<Instant>,
    /// How far the log was when the bell rang.
    rung_at: u64,
    /// When the log is that long, it is seen who still needs its start.
    trim_at: u64,
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
    servers: Mutex<Vec<ServerState>>,
    watchers: AtomicU64,
    mailboxes: Arc<Mailboxes>,
    // A shard's lock may be held when this one is taken, never the other way round.
    everybody: Mutex<Everybody>,
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
    /// An empty hub that remembers `remember` users offline, without a limit of its mailboxes. `now` is when
    /// it began.
    pub fn new(now: Time, remember: usize, metrics: Arc<Metrics>) -> Hub {
        Hub::with_mailboxes(now, remember, usize::MAX, metrics)
    }

    /// The same, with another limit of what all mailboxes may hold together, in bytes.
    pub fn with_mailboxes(now: Time, remember: usize, most: usize, metrics: Arc<Metrics>) -> Hub {
        let shard = || Shard { roster: Roster::new(remember / SHARDS), watched: HashMap::new() };
        let status = Status { up: false, since: now, cause: "not connected yet".into() };
        Hub {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            hasher: RandomState::new(),
            epoch: format!("{:x}-{:08x}", now.as_ms(), fastrand::u32(..)),
            seq: AtomicU64::new(0),
            open: watch::Sender::new(false),
            status: watch::Sender::new(status),
            servers: Mutex::default(),
            watchers: AtomicU64::new(0),
            mailboxes: Arc::new(Mailboxes::new(most, metrics.clone())),
            everybody: Mutex::new(Everybody { trim_at: LOG_KEPT, ..Everybody::default() }),
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

    /// Says how each server is.
    pub fn set_servers(&self, servers: Vec<ServerState>) {
        *lock(&self.servers) = servers;
    }

    /// How each server was a second ago, or since.
    pub fn servers(&self) -> Vec<ServerState> {
        lock(&self.servers).clone()
    }

    /// Takes in the change of a key and tells whoever watches its user. Only the driver calls this,
    /// so numbers are given in the order of the transitions.
    pub fn apply(&self, change: &Change) -> Option<Transition> {
        let at = self.shard_of(change.key.user());
        let mut shard = lock(&self.shards[at]);
        let transition = shard.roster.apply(change)?;
        if !*self.open.borrow() {
            return None;
        }
        let seq = self.seq.fetch_add(1, Ordering::AcqRel) + 1;
        self.tell(&shard, at, seq, &transition);
        drop(shard);
        self.mailboxes.relieve();
        Some(transition)
    }

    fn tell(&self, shard: &Shard, at: usize, seq: u64, transition: &Transition) {
        let named = shard.watched.get(&transition.user).map_or(&[][..], Audience::watchers);
        let mut everybody = lock(&self.everybody);
        let logged = !everybody.watchers.is_empty();
        if named.is_empty() && !logged {
            return;
        }
        let json = protocol::encode_transition(seq, transition).into();
        let told = Arc::new(Told { seq, user: transition.user.clone(), json, shard: at as u8 });
        if logged {
            self.log(&mut everybody, told.clone());
        }
        drop(everybody);
        named.iter().for_each(|watcher| watcher.push(&told));
    }

    fn log(&self, everybody: &mut Everybody, told: Arc<Told>) {
        let held = {
            let mut log = lock(&self.mailboxes.log);
            log.push(told);
            log.end() - log.start()
        };
        if held < everybody.trim_at {
            return;
        }
        let needed = everybody.watchers.values().map(|watcher| watcher.settle(LOG_KEPT / 2)).min();
        let mut log = lock(&self.mailboxes.log);
        log.seal();
        log.trim(needed.unwrap_or(u64::MAX));
        everybody.trim_at = LOG_KEPT.max((log.end() - log.start()) * 9 / 8);
    }

    /// Rings the bell of those who watch everybody, if something was written for them and their time
    /// has come; else says when it will have. To be called after changes were applied.
    pub fn ring(&self) -> Option<Instant> {
        let mut everybody = lock(&self.everybody);
        let end = lock(&self.mailboxes.log).end();
        if everybody.watchers.is_empty() || end == everybody.rung_at {
            return None;
        }
        let pause = Duration::from_secs_f64(everybody.watchers.len() as f64 / RINGS_PER_SECOND);
        let now = Instant::now();
        let due = everybody.rung.map(|rung| rung + pause.min(RING_LATEST)).filter(|&due| due > now);
        if due.is_some() {
            return due;
        }
        (everybody.rung, everybody.rung_at) = (Some(now), end);
        everybody.watchers.values().for_each(|watcher| watcher.ring());
        None
    }

    /// What all mailboxes hold together, in bytes.
    pub fn mailbox_bytes(&self) -> usize {
        self.mailboxes.bytes()
    }

    /// A new reader, who watches nobody yet.
    pub fn watcher(&self) -> Arc<Watcher> {
        self.mailboxes.watcher(self.watchers.fetch_add(1, Ordering::Relaxed))
    }

    /// Registers `watcher` for `user` and gives the state from which that user's transitions go on.
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
        shard.watched.entry(name.clone()).or_default().join(watcher);
        // Asked again: what is pending for the user is in the state that is given now.
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
        audience.leave(watcher);
        if audience.is_empty() {
            shard.watched.remove(user);
        }
        watcher.forget(user, at);
    }

    /// Registers `watcher` for everybody, shard by shard, and gives each shard's users online as it
    /// is registered there.
    pub fn watch_all<'a>(
        &'a self,
        watcher: &'a Arc<Watcher>,
    ) -> impl Iterator<Item = Vec<(Name, Presence)>> + 'a {
        let mut everybody = lock(&self.everybody);
        everybody.watchers.insert(watcher.id, watcher.clone());
        watcher.begin_all();
        drop(everybody);
        self.shards.iter().enumerate().map(move |(at, shard)| {
            let shard = lock(shard);
            watcher.join(at, self.seq(), |user| self.shard_of(user) == at);
            let mut online = Vec::with_capacity(shard.roster.online());
            shard.roster.page(0, usize::MAX, true, |user, presence| online.push((user.clone(), presence)));
            online
        })
    }

    /// Ends what [`watch_all`](Hub::watch_all) began; users watched by name stay watched.
    pub fn unwatch_all(&self, watcher: &Watcher) {
        lock(&self.everybody).watchers.remove(&watcher.id);
        watcher.end_all();
    }

    /// A number for a mark that is to be sent into the event stream.
    pub fn next_mark(&self) -> u64 {
        self.marks.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The last number that was given.
    pub fn last_mark(&self) -> u64 {
        self.marks.load(Ordering::Acquire)
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

    /// The state of a user, and the number up to which transitions are in it.
    pub fn get_at(&self, user: &str) -> (Presence, u64) {
        let shard = self.shard(user);
        (shard.roster.get(user), self.seq())
    }

    /// Everybody online, shard by shard, each with the number up to which transitions are in it.
    pub fn online(&self) -> impl Iterator<Item = (Vec<(Name, Presence)>, u64)> {
        self.shards.iter().map(|shard| {
            let shard = lock(shard);
            let mut online = Vec::with_capacity(shard.roster.online());
            shard.roster.page(0, usize::MAX, true, |user, presence| online.push((user.clone(), presence)));
            (online, self.seq())
        })
    }

    /// The live keys of a user that name a session.
    pub fn keys(&self, user: &str) -> Vec<Key> {
        self.shard(user).roster.keys(user)
    }

    /// At most `most` users, online or remembered, from a cursor on, and the cursor that goes on.
    pub fn page(&self, from: Cursor, most: usize, online: bool) -> (Vec<(Name, Presence)>, Option<Cursor>) {
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
        lock(&self.shards[self.shard_of(user)])
    }

    fn shard_of(&self, user: &str) -> usize {
        self.hasher.hash_one(user) as usize % SHARDS
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
        let alice: Name = "alice".into();
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
        let alice: Name = "alice".into();
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

    /// What a socket's reader is told by messages: state by user, in order.
    fn told_by_messages(watcher: &Watcher, told: &mut Vec<(String, bool)>) -> usize {
        let messages = watcher.messages();
        for text in &messages {
            let text = std::str::from_utf8(text).unwrap();
            let protocol::ServerMessage::Transitions { seq, transitions } =
                serde_json::from_str(text).unwrap()
            else {
                panic!("{text}")
            };
            assert_eq!(seq, transitions.last().unwrap().seq);
            told.extend(transitions.into_iter().map(|one| (one.user, one.state == protocol::State::Online)));
        }
        messages.len()
    }

    fn online(presence: Presence) -> bool {
        matches!(presence, Presence::Online { .. })
    }

    proptest::proptest! {
        /// Whatever is watched, by name or all, lossless or not, read often or seldom: a user's told states
        /// alternate from the snapshot's, and whoever has read everything knows the truth.
        #[test]
        fn messages_alternate_and_end_with_the_truth(
            lossless: bool,
            steps in proptest::collection::vec((0u8..20, 0usize..6), 0..300),
        ) {
            let hub = hub();
            let watcher = hub.watcher();
            if lossless {
                watcher.make_lossless(100_000);
            }
            let names: Vec<Name> = (0..6).map(|i| format!("u{i}").into()).collect();
            let (mut truth, mut known) = ([false; 6], [None; 6]);
            let (mut named, mut all) = ([false; 6], false);
            for (action, user) in steps {
                let mut told = Vec::new();
                match action {
                    0..12 => {
                        truth[user] = !truth[user];
                        hub.apply(&change(&names[user], truth[user]));
                    }
                    12 => (known[user], named[user]) = (Some(online(hub.watch(&watcher, &names[user]))), true),
                    13 => {
                        hub.unwatch(&watcher, &names[user]);
                        named[user] = false;
                    }
                    14 => {
                        while told_by_messages(&watcher, &mut told) > 0 {}
                        told.clear();
                        known = [Some(false); 6];
                        for (name, presence) in hub.watch_all(&watcher).flatten() {
                            known[name[1..].parse::<usize>().unwrap()] = Some(online(presence));
                        }
                        all = true;
                    }
                    15 => {
                        while told_by_messages(&watcher, &mut told) > 0 {}
                        hub.unwatch_all(&watcher);
                        all = false;
                    }
                    16 => {
                        hub.ring();
                    }
                    _ => {
                        told_by_messages(&watcher, &mut told);
                    }
                }
                for (user, state) in told {
                    let user: usize = user[1..].parse().unwrap();
                    proptest::prop_assert_eq!(known[user], Some(!state), "u{} is told {}", user, state);
                    known[user] = Some(state);
                }
                for user in 0..6 {
                    if !named[user] && !all {
                        known[user] = None;
                    }
                }
            }
            let mut told = Vec::new();
            while told_by_messages(&watcher, &mut told) > 0 {}
            told.into_iter().for_each(|(user, state)| known[user[1..].parse::<usize>().unwrap()] = Some(state));
            for user in (0..6).filter(|&user| named[user] || all) {
                proptest::prop_assert_eq!(known[user], Some(truth[user]), "u{}", user);
            }
            proptest::prop_assert!(watcher.messages().is_empty());
        }
    }

    #[test]
    fn whoever_watches_everybody_shares_one_text() {
        let hub = hub();
        let watchers = [hub.watcher(), hub.watcher()];
        for watcher in &watchers {
            hub.watch_all(watcher).for_each(drop);
            watcher.messages();
        }
        hub.apply(&change("alice", true));
        hub.apply(&change("bob", true));
        let texts = watchers.each_ref().map(|watcher| watcher.messages());
        assert_eq!(texts[0].len(), 1, "both transitions in one message");
        assert_eq!(texts[0][0].as_ptr(), texts[1][0].as_ptr(), "and one encoding for both readers");
    }

    #[test]
    fn a_reader_of_everybody_who_never_reads_holds_one_change_a_user_and_no_log() {
        let hub = hub();
        let (stuck, lost) = (hub.watcher(), hub.watcher());
        hub.watch_all(&stuck).for_each(drop);
        lost.make_lossless(1_000);
        hub.watch_all(&lost).for_each(drop);
        for i in 0..LOG_KEPT * 8 {
            hub.apply(&change(&format!("u{}", i % 10), (i / 10) % 2 == 0));
        }
        assert_eq!(lost.overflow_cause(), Some(Overflow::Behind));
        let held = lock(&hub.mailboxes.log);
        assert!(held.end() - held.start() <= LOG_KEPT * 9 / 8, "{}", held.end() - held.start());
        drop(held);
        assert!(stuck.take(usize::MAX).len() <= 10);
        assert!(hub.metrics.conflated.get() > 1_000);
    }

    #[test]
    fn beyond_the_limit_of_all_mailboxes_the_largest_are_closed_and_the_others_stay() {
        let hub = Hub::with_mailboxes(Time::from_ms(1), 640, 64 * 1024, Arc::new(Metrics::new()));
        hub.open();
        let (greedy, modest) = (hub.watcher(), hub.watcher());
        let names: Vec<Name> = (0..2_000).map(|i| format!("u{i}").into()).collect();
        for name in &names {
            hub.watch(&greedy, name);
        }
        hub.watch(&modest, &names[0]);
        for name in &names {
            hub.apply(&change(name, true));
            assert!(hub.mailbox_bytes() <= 64 * 1024);
        }
        assert_eq!((greedy.overflow_cause(), modest.overflow_cause()), (Some(Overflow::Crowded), None));
        assert_eq!(modest.take(10).len(), 1);
        drop(greedy);
        names.iter().for_each(|name| hub.unwatch(&modest, name));
        assert_eq!(hub.mailbox_bytes(), 0);
    }

    #[test]
    fn the_bell_of_many_rings_less_often_and_never_forgets_the_last() {
        let hub = hub();
        let watchers: Vec<_> = (0..1_000).map(|_| hub.watcher()).collect();
        watchers.iter().for_each(|watcher| hub.watch_all(watcher).for_each(drop));
        assert_eq!(hub.ring(), None, "nothing was written");
        hub.apply(&change("alice", true));
        assert_eq!(hub.ring(), None, "the first is told at once");
        hub.apply(&change("alice", false));
        let due = hub.ring().expect("the second waits");
        assert!(due > Instant::now() && due < Instant::now() + RING_LATEST);
        std::thread::sleep(due - Instant::now());
        assert_eq!(hub.ring(), None);
        assert_eq!(hub.ring(), None, "and is told once");
    }

    #[test]
    fn a_lossless_watcher_that_fell_behind_is_marked_though_it_ceases_to_watch() {
        let hub = hub();
        let watcher = hub.watcher();
        watcher.make_lossless(2);
        hub.watch_all(&watcher).for_each(drop);
        (0..3).for_each(|i| drop(hub.apply(&change(&format!("u{i}"), true))));
        hub.unwatch_all(&watcher);
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
