//! The state that all watchers share: the log, the number of the last transition, and how many bytes may wait for clients.

use super::log::Log;
use crate::lock::lock;
use crate::metrics::Metrics;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// Once too much waits, the clients for whom most waits are closed until seven eighths of the limit are left.
const RELIEF: (usize, usize) = (7, 8);

/// A client, as far as the limit of all queues concerns it.
pub(super) trait Member: Send + Sync {
    /// The size of all that waits for it, in bytes.
    fn queued_bytes(&self) -> usize;
    /// Drops what waits for it: too much waits for all of them together.
    fn crowd_out(&self);
}

/// An answer that a client has not read yet. It counts until it is dropped.
pub struct QueuedAnswer {
    readers: Arc<Readers>,
    id: u64,
    bytes: AtomicUsize,
    end: Box<dyn Fn() + Send + Sync>,
}

impl QueuedAnswer {
    /// Counts an answer of so many bytes. `end` closes its connection if too much waits for all clients.
    pub(super) fn new(
        readers: &Arc<Readers>,
        bytes: usize,
        end: Box<dyn Fn() + Send + Sync>,
    ) -> Arc<QueuedAnswer> {
        let (id, counted) = (readers.next_id(), AtomicUsize::new(bytes));
        let answer = Arc::new(QueuedAnswer { readers: readers.clone(), id, bytes: counted, end });
        let member: Arc<dyn Member> = answer.clone();
        readers.add(id, Arc::downgrade(&member));
        readers.recount(0, bytes);
        readers.relieve();
        answer
    }
}

impl Member for QueuedAnswer {
    fn queued_bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    fn crowd_out(&self) {
        self.readers.recount(self.bytes.swap(0, Ordering::AcqRel), 0);
        self.readers.metrics.crowded.inc();
        (self.end)();
    }
}

impl Drop for QueuedAnswer {
    fn drop(&mut self) {
        self.readers.recount(self.queued_bytes(), 0);
        self.readers.remove(self.id);
    }
}

pub(super) struct Readers {
    /// The number of the last transition that is in every mailbox it belongs to, in the log and in the history.
    seq: AtomicU64,
    bytes: AtomicUsize,
    /// Readers of everybody who have not read since their bell rang.
    unread: AtomicUsize,
    most: usize,
    pub(super) log: Mutex<Log>,
    next_id: AtomicU64,
    members: Mutex<HashMap<u64, Weak<dyn Member>>>,
    pub(super) metrics: Arc<Metrics>,
}

impl Readers {
    /// So many bytes may wait for all clients together, and the log may hold as many.
    pub(super) fn new(most: usize, metrics: Arc<Metrics>) -> Readers {
        Readers {
            seq: AtomicU64::new(0),
            bytes: AtomicUsize::new(0),
            unread: AtomicUsize::new(0),
            most,
            log: Mutex::new(Log::new(most)),
            next_id: AtomicU64::new(0),
            members: Mutex::default(),
            metrics,
        }
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq.load(Ordering::Acquire)
    }

    /// Publishes a number. Only the driver applies changes, so the numbers come in order.
    pub(super) fn publish(&self, seq: u64) {
        let before = self.seq.swap(seq, Ordering::AcqRel);
        debug_assert_eq!(before + 1, seq, "one thread applies changes");
    }

    /// How many readers of everybody have not read since their bell rang.
    pub(super) fn unread(&self) -> usize {
        self.unread.load(Ordering::Relaxed)
    }

    /// A reader has something to read, or has read it.
    pub(super) fn count_unread(&self, unread: bool) {
        if unread {
            self.unread.fetch_add(1, Ordering::Relaxed);
        } else {
            self.unread.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A number for a new reader.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn add(&self, id: u64, member: Weak<dyn Member>) {
        lock(&self.members).insert(id, member);
    }

    pub(super) fn remove(&self, id: u64) {
        lock(&self.members).remove(&id);
    }

    /// Of `before` bytes that waited for a client, `after` wait now.
    pub(super) fn recount(&self, before: usize, after: usize) {
        if after >= before {
            self.bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// The size of all that waits for clients, without the log, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Closes the clients for whom most waits if too much waits for all together. The caller holds no lock of a shard, a
    /// watcher or the log.
    pub(super) fn relieve(&self) {
        if self.bytes.load(Ordering::Relaxed) <= self.most {
            return;
        }
        let held: Vec<_> =
            lock(&self.members).iter().filter_map(|(id, member)| Some((*id, member.upgrade()?))).collect();
        let mut sizes: Vec<_> =
            held.iter().map(|(id, member)| (member.queued_bytes(), *id, member)).collect();
        sizes.sort_unstable_by_key(|&(bytes, id, _)| std::cmp::Reverse((bytes, id)));
        for (_, _, member) in sizes {
            if self.bytes.load(Ordering::Relaxed) <= self.most / RELIEF.1 * RELIEF.0 {
                return;
            }
            member.crowd_out();
        }
    }
}
