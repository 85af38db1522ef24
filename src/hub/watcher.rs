//! One reader of transitions, and what all readers together may hold.

use super::log::{self, FRAME, FRAME_BYTES, Log};
use super::{SHARDS, Told, lock};
use crate::metrics::Metrics;
use crate::presence::{Mailbox, Name, Pending, Pushed};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use tokio::sync::Notify;

/// Not yet: the place of a shard that its watcher has not come to.
const NOT_YET: u64 = u64::MAX;
/// Bytes handed to a socket for one write.
const WRITE_BYTES: usize = 64 * 1024;
/// Once all mailboxes hold too much, the largest are closed until they hold seven eighths of it.
const RELIEF: (usize, usize) = (7, 8);

impl Pending for Arc<Told> {
    fn user(&self) -> &str {
        &self.user
    }

    fn bytes(&self) -> usize {
        self.cost()
    }
}

/// Why a reader has to start again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// It asked for every transition and fell too far behind.
    Behind,
    /// All mailboxes together hold too much, and this one was among the largest.
    Crowded,
}

/// What all mailboxes share.
pub(super) struct Mailboxes {
    bytes: AtomicUsize,
    most: usize,
    pub(super) log: Mutex<Log>,
    watchers: Mutex<HashMap<u64, Weak<Watcher>>>,
    metrics: Arc<Metrics>,
}

impl Mailboxes {
    pub(super) fn new(most: usize, metrics: Arc<Metrics>) -> Mailboxes {
        Mailboxes {
            bytes: AtomicUsize::new(0),
            most,
            log: Mutex::default(),
            watchers: Mutex::default(),
            metrics,
        }
    }

    pub(super) fn watcher(self: &Arc<Mailboxes>, id: u64) -> Arc<Watcher> {
        let watcher = Arc::new(Watcher {
            id,
            state: Mutex::default(),
            overflow: AtomicU8::new(0),
            bell: Notify::new(),
            shared: self.clone(),
        });
        lock(&self.watchers).insert(id, Arc::downgrade(&watcher));
        watcher
    }

    /// What all mailboxes and the log hold, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed) + lock(&self.log).bytes()
    }

    /// Closes the largest mailboxes if all together hold too much. Not to be called with a shard's,
    /// a reader's or the log's lock held.
    pub(super) fn relieve(&self) {
        if self.bytes.load(Ordering::Relaxed) <= self.most {
            return;
        }
        let watchers: Vec<_> = lock(&self.watchers).values().filter_map(Weak::upgrade).collect();
        let mut sizes: Vec<_> =
            watchers.iter().map(|watcher| (lock(&watcher.state).mailbox.bytes(), watcher)).collect();
        sizes.sort_unstable_by_key(|&(bytes, watcher)| std::cmp::Reverse((bytes, watcher.id)));
        for (_, watcher) in sizes {
            if self.bytes.load(Ordering::Relaxed) <= self.most / RELIEF.1 * RELIEF.0 {
                return;
            }
            watcher.overflow(Overflow::Crowded);
        }
    }
}

/// How far a reader of everybody has read.
struct All {
    /// The place in the log of what it reads next.
    next: u64,
    /// While it joins the shards: the number after which each shard's transitions are for it. What
    /// came before is in the snapshot.
    joining: Option<Box<[u64; SHARDS]>>,
    /// Users who were asked for again, and the number up to which their state has been given.
    given: HashMap<Name, u64>,
}

impl All {
    fn wants(&self, told: &Told) -> bool {
        let after = self.joining.as_ref().map_or(0, |shards| shards[told.shard as usize]);
        told.seq > after && self.given.get(&told.user).is_none_or(|&given| told.seq > given)
    }

    /// Is everything that is written from here on for this reader?
    fn wants_all(&self) -> bool {
        self.joining.is_none() && self.given.is_empty()
    }

    fn joined(&self, shard: usize) -> bool {
        self.joining.as_ref().is_none_or(|shards| shards[shard] != NOT_YET)
    }

    /// Once all shards are joined and all that is written is read, nothing is left to be left out.
    fn end_joining(&mut self, log: &Log) {
        let done = |shards: &[u64; SHARDS]| shards.iter().all(|&after| after != NOT_YET);
        if self.next == log.end() {
            self.given = HashMap::new();
            if self.joining.as_ref().is_some_and(|shards| done(shards)) {
                self.joining = None;
            }
        }
    }
}

#[derive(Default)]
struct State {
    mailbox: Mailbox<Arc<Told>>,
    all: Option<All>,
    /// What a lossless reader had still to read of everybody when it ceased to watch them.
    kept: VecDeque<Arc<Told>>,
    /// Every change is kept, so many at most.
    lossless: Option<usize>,
    /// Changes up to this number came by the log, and not by name.
    by_log: u64,
}

/// One reader of transitions. What it still has to be told is in its mailbox, by user, and for whoever
/// watches everybody in the log that all such readers share, from its place on.
pub struct Watcher {
    pub(super) id: u64,
    // A std mutex: held for a push or a drain, never across an await. Taken after a shard's, before the log's.
    state: Mutex<State>,
    overflow: AtomicU8,
    bell: Notify,
    shared: Arc<Mailboxes>,
}

impl Watcher {
    /// Waits until something is pending, or the reader has to start again.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Has the reader to start again, and why?
    pub fn overflow_cause(&self) -> Option<Overflow> {
        match self.overflow.load(Ordering::Acquire) {
            1 => Some(Overflow::Behind),
            2 => Some(Overflow::Crowded),
            _ => None,
        }
    }

    /// Has the reader to start again?
    pub fn overflowed(&self) -> bool {
        if self.overflow_cause().is_none() && self.behind() {
            self.overflow(Overflow::Behind);
        }
        self.overflow_cause().is_some()
    }

    /// Rings for itself, so that what came while its reader was busy is looked for again.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// Keep every change from now on, at most `pending` at a time: for whoever watches everybody.
    pub fn make_lossless(&self, pending: usize) {
        lock(&self.state).lossless = Some(pending);
    }

    /// Takes at most `most` pending changes, the oldest first.
    pub fn take(&self, most: usize) -> Vec<Arc<Told>> {
        let mut state = lock(&self.state);
        if state.lossless.is_some() && state.all.is_some() {
            return self.read(&mut state, most, usize::MAX);
        }
        self.fold(&mut state);
        self.pop(&mut state, most, usize::MAX)
    }

    /// Takes what is pending as messages, as many as are good in one write; empty if nothing is.
    pub fn messages(&self) -> Vec<Bytes> {
        let mut state = lock(&self.state);
        let mut messages = Vec::new();
        let mut bytes = 0;
        while bytes < WRITE_BYTES {
            let Some(message) = self.message(&mut state) else { break };
            bytes += message.len();
            messages.push(message);
        }
        messages
    }

    fn message(&self, state: &mut State) -> Option<Bytes> {
        let lossless = state.lossless.is_some();
        if let Some(all) = &mut state.all {
            let batch = {
                let mut log = lock(&self.shared.log);
                all.end_joining(&log);
                let keeps_up = lossless || log.end() - all.next <= FRAME as u64;
                let nothing_before = state.mailbox.is_empty() && state.kept.is_empty();
                if all.next == log.end() && nothing_before {
                    return None;
                }
                let whole = all.wants_all() && nothing_before && keeps_up;
                let batch = log.since(all.next).next().filter(|batch| whole && batch.first == all.next);
                batch.cloned()
            };
            if let Some(batch) = batch {
                all.next = batch.end();
                state.by_log = batch.told.last().map_or(state.by_log, |last| last.seq);
                return Some(batch.text.clone());
            }
        }
        let told = if lossless && state.all.is_some() {
            self.read(state, FRAME, FRAME_BYTES)
        } else {
            self.fold(state);
            self.pop(state, FRAME, FRAME_BYTES)
        };
        (!told.is_empty()).then(|| log::message(&told))
    }

    /// Reads on in the log, change by change.
    fn read(&self, state: &mut State, most: usize, most_bytes: usize) -> Vec<Arc<Told>> {
        // What was pending by name when everybody was asked for comes first.
        let mut told = self.pop(state, most, most_bytes);
        let Some(all) = &mut state.all else { return told };
        let mut bytes = told.iter().map(|told| told.json.len()).sum::<usize>();
        let mut log = lock(&self.shared.log);
        let mut next = all.next;
        'batches: for batch in log.since(next) {
            for one in &batch.told[(next - batch.first) as usize..] {
                if told.len() == most || bytes >= most_bytes {
                    break 'batches;
                }
                next += 1;
                if all.wants(one) {
                    bytes += one.json.len();
                    state.by_log = one.seq;
                    told.push(one.clone());
                }
            }
        }
        all.next = next;
        all.end_joining(&log);
        told
    }

    /// Brings what stands in the log into the mailbox, where it is conflated.
    fn fold(&self, state: &mut State) {
        let Some(all) = &mut state.all else { return };
        let batches: Vec<_> = lock(&self.shared.log).since(all.next).cloned().collect();
        let before = state.mailbox.bytes();
        for batch in &batches {
            for one in &batch.told[(all.next - batch.first) as usize..] {
                if !all.wants(one) {
                    continue;
                }
                state.by_log = one.seq;
                if state.mailbox.push(one.clone()) == Pushed::Cancelled {
                    self.shared.metrics.conflated.inc();
                }
            }
            all.next = batch.end();
        }
        all.end_joining(&lock(&self.shared.log));
        self.recount(before, state.mailbox.bytes());
    }

    fn pop(&self, state: &mut State, most: usize, most_bytes: usize) -> Vec<Arc<Told>> {
        let before = state.mailbox.bytes();
        let (mut told, mut bytes) = (Vec::new(), 0);
        while told.len() < most && bytes < most_bytes {
            let one = state.kept.pop_front().or_else(|| state.mailbox.pop());
            let Some(one) = one else { break };
            bytes += one.json.len();
            told.push(one);
        }
        self.recount(before, state.mailbox.bytes());
        told
    }

    fn recount(&self, before: usize, after: usize) {
        if after >= before {
            self.shared.bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.shared.bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Is told of a user whom it watches by name.
    pub(super) fn push(&self, told: &Arc<Told>) {
        let mut state = lock(&self.state);
        // Whoever watches everybody reads it in the log.
        let in_log = state.all.as_ref().is_some_and(|all| all.joined(told.shard as usize));
        if in_log || told.seq <= state.by_log || self.overflow_cause().is_some() {
            return;
        }
        let before = state.mailbox.bytes();
        let pushed = state.mailbox.push(told.clone());
        self.recount(before, state.mailbox.bytes());
        drop(state);
        match pushed {
            Pushed::Queued => self.bell.notify_one(),
            Pushed::Cancelled => {
                self.shared.metrics.conflated.inc();
            }
        }
    }

    /// Begins to watch everybody; the shards are to be joined one by one.
    pub(super) fn begin_all(&self) {
        let mut state = lock(&self.state);
        // By the log from here on, in the order of the numbers.
        let next = lock(&self.shared.log).end();
        state.all = Some(All { next, joining: Some(Box::new([NOT_YET; SHARDS])), given: HashMap::new() });
    }

    /// Joins a shard whose lock is held: what it did up to `seq` is in the snapshot.
    pub(super) fn join(&self, shard: usize, seq: u64, of_shard: impl Fn(&str) -> bool) {
        let mut state = lock(&self.state);
        let before = state.mailbox.bytes();
        state.mailbox.retain(|user| !of_shard(user));
        state.kept.retain(|told| !of_shard(&told.user));
        self.recount(before, state.mailbox.bytes());
        if let Some(shards) = state.all.as_mut().and_then(|all| all.joining.as_mut()) {
            shards[shard] = seq;
        }
    }

    /// Ends to watch everybody: what is pending stays so, in the mailbox. Nothing is left of a reader that
    /// has fallen too far behind.
    pub(super) fn end_all(&self) {
        if self.overflowed() {
            return;
        }
        let mut state = lock(&self.state);
        if state.lossless.is_some() {
            let rest = self.read(&mut state, usize::MAX, usize::MAX);
            state.kept.extend(rest);
        } else {
            self.fold(&mut state);
        }
        state.all = None;
    }

    /// Forgets what is pending for a user, whose shard's lock is held: the user's state up to `seq` is
    /// given now.
    pub(super) fn give(&self, user: &Name, shard: usize, seq: u64) {
        let mut state = lock(&self.state);
        if let Some(all) = state.all.as_mut().filter(|all| all.joined(shard)) {
            all.given.insert(user.clone(), seq);
        }
        self.forget_in(&mut state, user);
    }

    /// A user is no longer watched by name.
    pub(super) fn forget(&self, user: &str, shard: usize) {
        let mut state = lock(&self.state);
        if !state.all.as_ref().is_some_and(|all| all.joined(shard)) {
            self.forget_in(&mut state, user);
        }
    }

    fn forget_in(&self, state: &mut State, user: &str) {
        state.kept.retain(|told| &*told.user != user);
        let before = state.mailbox.bytes();
        state.mailbox.forget(user);
        self.recount(before, state.mailbox.bytes());
    }

    fn behind(&self) -> bool {
        let state = lock(&self.state);
        let (Some(most), Some(all)) = (state.lossless, &state.all) else {
            return false;
        };
        lock(&self.shared.log).end() - all.next > most as u64
    }

    fn overflow(&self, why: Overflow) {
        let mut state = lock(&self.state);
        let code = if why == Overflow::Behind { 1 } else { 2 };
        if self.overflow.compare_exchange(0, code, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        self.empty(&mut state);
        drop(state);
        self.bell.notify_one();
    }

    fn empty(&self, state: &mut MutexGuard<State>) {
        let before = state.mailbox.bytes();
        state.mailbox.clear();
        state.kept.clear();
        state.all = None;
        self.recount(before, 0);
    }

    /// The place up to which the log need not be kept for this reader. One that conflates and is
    /// more than `lag` behind takes what is there into its mailbox; one that has to keep every change
    /// and is too far behind has to start again.
    pub(super) fn settle(&self, lag: u64) -> u64 {
        if self.overflowed() {
            return NOT_YET;
        }
        let mut state = lock(&self.state);
        let Some(all) = &state.all else { return NOT_YET };
        let next = all.next;
        let behind = lock(&self.shared.log).end() - next;
        if state.lossless.is_none() && behind > lag {
            self.fold(&mut state);
        }
        state.all.as_ref().map_or(NOT_YET, |all| all.next)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let held = lock(&self.state).mailbox.bytes();
        self.recount(held, 0);
        lock(&self.shared.watchers).remove(&self.id);
    }
}
