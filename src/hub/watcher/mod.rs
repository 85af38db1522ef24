//! One reader of transitions: what it still has to be sent, and in which messages (`messages.rs`).

mod messages;

use super::Encoded;
use super::backlog::{All, Backlog, NOT_YET};
use super::groups::{Next as NextOfGroup, PendingGroups};
use super::mailbox::Pushed;
use super::readers::{Member, Readers};
use super::statuses::PendingStatuses;
use crate::lock::lock;
use crate::presence::Name;
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// Why a reader ends. But for the last cause it starts again with a new snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// It fell too far behind: it asked for every transition and did not read them, or the full log dropped
    /// transitions that were not in its mailbox yet.
    Behind,
    /// All mailboxes together hold too much, and its own was among the largest.
    Crowded,
    /// It must not start again: an operator has ended it.
    Dismissed,
}

/// One `transitions` message.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The message.
    pub text: Bytes,
    /// A reader that has this message has everything up to this number, and can resume there. `None` if there
    /// is no such number: of two changes that cancelled out, one came before this message's last transition
    /// and one after it.
    pub resume: Option<u64>,
}

/// A connection to which a courier can write while the reader's own task waits.
pub trait Direct: Send + Sync {
    /// Sends what is pending for the reader. Returns false if the reader's task has to go on with it.
    fn deliver(&self, reader: &Watcher) -> bool;
}

/// The next thing that a courier sends a reader.
pub enum Next {
    /// Nothing is pending.
    Nothing,
    /// This transition alone.
    One(Arc<Encoded>),
    /// The messages that [`Watcher::messages`] takes.
    Messages,
    /// The reader's task has something else to do first.
    Task,
}

/// One reader of transitions. A reader of users by name has its pending changes in a mailbox, one for each user.
/// A reader of everybody has them in the log that all such readers share, from its place on.
pub struct Watcher {
    pub(super) id: u64,
    // A std mutex: held for a push or a slice of the log, never across an await. Taken after a shard's lock and
    // before the log's.
    backlog: Mutex<Backlog>,
    overflow: AtomicU8,
    /// Bytes that the reader's connection holds for it, besides the backlog.
    held: AtomicUsize,
    /// Bytes of a message that the reader's client has begun and not ended.
    unfinished: AtomicUsize,
    bell: Notify,
    /// The reader's connection, where a courier may write to it.
    direct: Mutex<Option<Arc<dyn Direct>>>,
    has_direct: AtomicBool,
    /// It waits for a courier.
    called: AtomicBool,
    /// The bell has rung for the log, and the reader has not read since.
    unread: AtomicBool,
    readers: Arc<Readers>,
}

impl Watcher {
    pub(super) fn new(readers: &Arc<Readers>) -> Arc<Watcher> {
        let (id, readers) = (readers.next_id(), readers.clone());
        let (backlog, overflow, bell) = (Mutex::default(), AtomicU8::new(0), Notify::new());
        let (held, unfinished) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (direct, [has_direct, called, unread]) = (Mutex::default(), [false; 3].map(AtomicBool::new));
        let watcher = Watcher {
            id,
            backlog,
            overflow,
            held,
            unfinished,
            bell,
            direct,
            has_direct,
            called,
            unread,
            readers,
        };
        let watcher = Arc::new(watcher);
        let member: Arc<dyn Member> = watcher.clone();
        watcher.readers.add(id, Arc::downgrade(&member));
        watcher
    }

    /// Waits until something is pending, or the reader has to start again.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Why the reader has to start again, as far as that is known.
    pub fn overflow_cause(&self) -> Option<Overflow> {
        match self.overflow.load(Ordering::Acquire) {
            1 => Some(Overflow::Behind),
            2 => Some(Overflow::Crowded),
            3 => Some(Overflow::Dismissed),
            _ => None,
        }
    }

    /// Does the reader have to start again? Looks how far behind it is.
    pub fn overflowed(&self) -> bool {
        if self.overflow_cause().is_none() {
            let mut backlog = lock(&self.backlog);
            if self.is_behind(&backlog) {
                self.overflow_locked(&mut backlog, Overflow::Behind);
            }
        }
        self.overflow_cause().is_some()
    }

    fn is_behind(&self, backlog: &Backlog) -> bool {
        let Some(all) = &backlog.all else { return false };
        let log = lock(&self.readers.log);
        let most = backlog.lossless.unwrap_or(usize::MAX);
        all.next < log.start() || log.end() - all.next > most as u64
    }

    /// Rings the bell, so that the reader looks for what came while it was busy.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// Couriers may write to this connection from now on; with `None` they may not.
    pub fn set_direct(&self, direct: Option<Arc<dyn Direct>>) {
        self.has_direct.store(direct.is_some(), Ordering::Release);
        *lock(&self.direct) = direct;
    }

    /// Something is pending. Returns whether a courier has to come; else rings the bell, unless one is called already.
    pub(super) fn calls_courier(&self) -> bool {
        if self.has_direct.load(Ordering::Acquire) {
            return !self.called.swap(true, Ordering::AcqRel);
        }
        self.ring();
        false
    }

    /// A courier has come.
    pub(super) fn deliver(&self) {
        // Before it looks for changes: whatever comes from now on calls another one.
        self.called.swap(false, Ordering::AcqRel);
        let direct = lock(&self.direct).clone();
        if !direct.is_some_and(|direct| direct.deliver(self)) {
            self.ring();
        }
    }

    /// Something is new in the log.
    pub(super) fn announce(&self) {
        if !self.unread.swap(true, Ordering::Relaxed) {
            self.readers.count_unread(true);
        }
    }

    /// The reader reads now.
    fn begin_to_read(&self) {
        if self.unread.swap(false, Ordering::Relaxed) {
            self.readers.count_unread(false);
        }
    }

    /// Ends this reader for good: it gets nothing more.
    pub fn dismiss(&self) {
        self.overflow_locked(&mut lock(&self.backlog), Overflow::Dismissed);
    }

    /// Counts what the reader's connection holds for it besides its pending changes: messages that the client has not
    /// read. One limit covers the sum for all readers.
    pub fn charge(&self, bytes: usize) {
        self.count(&self.held, bytes);
    }

    /// Counts the message that the reader's client has begun and not ended, under the same limit.
    pub fn charge_unfinished(&self, bytes: usize) {
        self.count(&self.unfinished, bytes);
    }

    fn count(&self, counted: &AtomicUsize, bytes: usize) {
        {
            // A reader that has to start again counts no more.
            let _backlog = lock(&self.backlog);
            if self.overflow_cause().is_some() {
                return;
            }
            let before = counted.swap(bytes, Ordering::AcqRel);
            self.readers.recount(before, bytes);
            if bytes <= before {
                return;
            }
        }
        self.readers.relieve();
    }

    /// Keeps every change of everybody from now on, at most `pending` at a time.
    pub fn make_lossless(&self, pending: usize) {
        lock(&self.backlog).lossless = Some(pending);
    }

    /// The number from which a reader with nothing left to read can resume.
    pub fn resume_at(&self) -> Option<u64> {
        let seq = self.readers.seq();
        self.resume(&lock(&self.backlog), seq)
    }

    /// The number from which a reader that has taken everything but this backlog can resume. `seq` was published
    /// before the backlog was locked.
    fn resume(&self, backlog: &Backlog, seq: u64) -> Option<u64> {
        let at_end = backlog.all.as_ref().is_none_or(|all| all.next == lock(&self.readers.log).end());
        let read = if at_end { seq.max(backlog.read_to).max(backlog.whole_from) } else { backlog.read_to };
        let to = backlog.pending().map_or(read, |next| read.min(next.seq - 1));
        Some(to).filter(|&to| to >= backlog.whole_from)
    }

    /// A change of a user whom it watches by name. Returns whether it is pending now.
    pub(super) fn push(&self, entry: &Arc<Encoded>) -> bool {
        let mut backlog = lock(&self.backlog);
        if let Some(held) = &mut backlog.held {
            *held = entry.seq;
            return false;
        }
        // One that watches a user in several ways is passed the change as often.
        if entry.seq <= backlog.by_name {
            return false;
        }
        backlog.by_name = entry.seq;
        // A reader of everybody reads it in the log.
        let in_log = backlog.all.as_ref().is_some_and(|all| all.joined(entry.shard()));
        if in_log || entry.seq <= backlog.by_log || self.overflow_cause().is_some() {
            return false;
        }
        let before = backlog.bytes();
        let pushed = backlog.mailbox.push(entry.clone());
        self.readers.recount(before, backlog.bytes());
        if pushed == Pushed::Cancelled {
            backlog.whole_from = backlog.whole_from.max(entry.seq);
            self.readers.metrics.conflated.inc();
            return false;
        }
        true
    }

    /// Leaves changes by name to the history, until [`release`](Watcher::release).
    pub(super) fn hold(&self) {
        lock(&self.backlog).held = Some(0);
    }

    /// Takes changes by name again. Returns the number of the last change that the history has to provide.
    pub(super) fn release(&self) -> u64 {
        let mut backlog = lock(&self.backlog);
        let until = self.readers.seq().max(backlog.held.take().unwrap_or(0));
        backlog.whole_from = backlog.whole_from.max(until);
        until
    }

    /// Begins to watch everybody. If `joining`, the reader joins the shards one by one; else it knows every
    /// transition before the present end of the log, whose number is `seq`.
    pub(super) fn begin_all(&self, joining: bool, seq: u64) {
        let mut backlog = lock(&self.backlog);
        let next = lock(&self.readers.log).end();
        backlog.all = Some(All::new(next, joining));
        backlog.whole_from = backlog.whole_from.max(seq);
    }

    /// Joins a shard whose lock is held. The snapshot covers the shard's changes up to `seq`, except for those that are
    /// returned.
    pub(super) fn join(&self, shard: usize, seq: u64, of_shard: impl Fn(&str) -> bool) -> Vec<Arc<Encoded>> {
        let mut backlog = lock(&self.backlog);
        let before = backlog.bytes();
        let left = backlog.supersede(of_shard);
        self.readers.recount(before, backlog.bytes());
        backlog.whole_from = backlog.whole_from.max(seq);
        if let Some(shards) = backlog.all.as_mut().and_then(|all| all.joining.as_mut()) {
            shards[shard] = seq;
        }
        left
    }

    /// Stops watching everybody. What is pending stays pending, in the mailbox; nothing is left of a reader that
    /// has to start again.
    pub(super) fn end_all(&self) {
        self.keep_unread();
        lock(&self.backlog).all = None;
    }

    /// The changes of everybody that the reader has not read wait in its own queue from now on.
    pub(super) fn keep_unread(&self) {
        if self.overflowed() {
            return;
        }
        let mut backlog = lock(&self.backlog);
        if backlog.all.is_none() {
            return;
        }
        if backlog.lossless.is_some() {
            let rest = self.read(&mut backlog, usize::MAX, usize::MAX);
            let before = backlog.bytes();
            backlog.kept.extend(rest);
            self.readers.recount(before, backlog.bytes());
        } else {
            self.fold(&mut backlog, usize::MAX);
        }
    }

    /// The reader is given a user's state, which covers changes up to `seq`; the lock of the user's shard is held.
    pub(super) fn give(&self, user: &Name, shard: usize, seq: u64) {
        let mut backlog = lock(&self.backlog);
        if backlog.held.is_some() {
            return;
        }
        if let Some(all) = backlog.all.as_mut().filter(|all| all.joined(shard)) {
            all.given.insert(user.clone(), seq);
        }
        backlog.whole_from = backlog.whole_from.max(seq);
        self.forget_locked(&mut backlog, user);
    }

    /// The reader no longer watches a user by name.
    pub(super) fn forget(&self, user: &str, shard: usize) {
        self.change_statuses(|pending| pending.forget(user));
        let mut backlog = lock(&self.backlog);
        if !backlog.all.as_ref().is_some_and(|all| all.joined(shard)) {
            self.forget_locked(&mut backlog, user);
        }
    }

    fn forget_locked(&self, backlog: &mut Backlog, user: &str) {
        let before = backlog.bytes();
        backlog.forget(user);
        self.readers.recount(before, backlog.bytes());
    }

    /// The status of a user whom it watches by name has changed.
    pub(super) fn push_status(&self, user: &Name) {
        self.change_statuses(|pending| pending.push(user));
        self.bell.notify_one();
    }

    /// Changes which statuses the reader is sent; `None` if the reader has to start again.
    pub(super) fn change_statuses<T>(&self, change: impl FnOnce(&mut PendingStatuses) -> T) -> Option<T> {
        let mut backlog = lock(&self.backlog);
        if self.overflow_cause().is_some() {
            return None;
        }
        let before = backlog.bytes();
        let changed = change(&mut backlog.statuses);
        self.readers.recount(before, backlog.bytes());
        Some(changed)
    }

    /// Changes what the reader is sent of groups; `None` if the reader has to start again.
    pub(super) fn change_groups<T>(&self, change: impl FnOnce(&mut PendingGroups) -> T) -> Option<T> {
        let mut backlog = lock(&self.backlog);
        if self.overflow_cause().is_some() {
            return None;
        }
        let before = backlog.bytes();
        let groups = backlog.groups.get_or_insert_default();
        let changed = change(groups);
        if groups.bytes() == 0 {
            backlog.groups = None;
        }
        self.readers.recount(before, backlog.bytes());
        Some(changed)
    }

    /// Takes the next news of groups.
    pub(super) fn pop_group(&self) -> Option<NextOfGroup> {
        if !self.owes_groups() {
            return None;
        }
        self.change_groups(PendingGroups::pop).flatten()
    }

    /// Whether news of groups wait.
    pub fn owes_groups(&self) -> bool {
        lock(&self.backlog).groups.is_some()
    }

    /// The reader fell too far behind.
    pub(super) fn fall_behind(&self) {
        self.overflow_locked(&mut lock(&self.backlog), Overflow::Behind);
    }

    /// The reader has to start again: it gets nothing more.
    fn overflow_locked(&self, backlog: &mut Backlog, why: Overflow) {
        let code = match why {
            Overflow::Behind => 1,
            Overflow::Crowded => 2,
            Overflow::Dismissed => 3,
        };
        // The first cause counts, but a dismissal is final.
        if self
            .overflow
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |held| {
                (held == 0 || code == 3).then_some(code)
            })
            .is_err()
        {
            return;
        }
        let charged = self.held.swap(0, Ordering::AcqRel) + self.unfinished.swap(0, Ordering::AcqRel);
        self.readers.recount(backlog.bytes() + charged, 0);
        backlog.clear();
        self.bell.notify_one();
    }

    /// The place before which this reader does not need the log. A reader that conflates and is more than `lag`
    /// entries behind first moves one message of the log into its mailbox; then the second value says whether
    /// it is still so far behind.
    pub(super) fn settle(&self, lag: u64) -> (u64, bool) {
        if self.overflowed() {
            return (NOT_YET, false);
        }
        let mut backlog = lock(&self.backlog);
        let behind = |backlog: &Backlog| {
            let next = backlog.all.as_ref().map_or(NOT_YET, |all| all.next);
            (next, lock(&self.readers.log).end().saturating_sub(next) > lag)
        };
        let (next, folds) = behind(&backlog);
        if backlog.lossless.is_some() || !folds {
            return (next, false);
        }
        self.fold(&mut backlog, 1);
        behind(&backlog)
    }
}

impl Member for Watcher {
    fn queued_bytes(&self) -> usize {
        let charged = self.held.load(Ordering::Acquire) + self.unfinished.load(Ordering::Acquire);
        lock(&self.backlog).bytes() + charged
    }

    fn crowd_out(&self) {
        self.overflow_locked(&mut lock(&self.backlog), Overflow::Crowded);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.begin_to_read();
        self.readers.recount(self.queued_bytes(), 0);
        self.readers.remove(self.id);
    }
}
