//! The changes that wait for one reader: in its mailbox, and in the log from its place on.

use super::groups::PendingGroups;
use super::log::Log;
use super::mailbox::Mailbox;
use super::statuses::PendingStatuses;
use super::{Encoded, SHARDS};
use crate::presence::Name;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// The place of a shard that its watcher has not joined, and of a reader that needs no log.
pub(super) const NOT_YET: u64 = u64::MAX;

/// How far a reader of everybody has read.
pub(super) struct All {
    /// The place in the log of the entry that it reads next.
    pub(super) next: u64,
    /// While it joins the shards: the number after which each shard's transitions are for it. Its snapshot
    /// covers the earlier ones.
    pub(super) joining: Option<Box<[u64; SHARDS]>>,
    /// Users for whom it asked again, and the number up to which the answer covers them.
    pub(super) given: HashMap<Name, u64>,
}

impl All {
    /// A reader from this place on, which still has to join every shard if `joining`.
    pub(super) fn new(next: u64, joining: bool) -> All {
        All { next, joining: joining.then(|| Box::new([NOT_YET; SHARDS])), given: HashMap::new() }
    }

    pub(super) fn wants(&self, entry: &Encoded) -> bool {
        let after = self.joining.as_ref().map_or(0, |shards| shards[entry.shard()]);
        entry.seq > after && self.given.get(entry.user()).is_none_or(|&given| entry.seq > given)
    }

    /// Is every later entry for this reader?
    pub(super) fn wants_all(&self) -> bool {
        self.joining.is_none() && self.given.is_empty()
    }

    pub(super) fn joined(&self, shard: usize) -> bool {
        self.joining.as_ref().is_none_or(|shards| shards[shard] != NOT_YET)
    }

    /// Once the reader has joined all shards and read the whole log, no later entry is in its snapshots.
    pub(super) fn end_joining(&mut self, log: &Log) {
        let done = |shards: &[u64; SHARDS]| shards.iter().all(|&after| after != NOT_YET);
        if self.next == log.end() {
            self.given = HashMap::new();
            if self.joining.as_ref().is_some_and(|shards| done(shards)) {
                self.joining = None;
            }
        }
    }
}

/// Changes in order, of which none is dropped.
#[derive(Default)]
pub(super) struct Kept {
    queue: VecDeque<Arc<Encoded>>,
    bytes: usize,
}

impl Kept {
    pub(super) fn extend(&mut self, entries: Vec<Arc<Encoded>>) {
        self.bytes += entries.iter().map(|entry| entry.bytes()).sum::<usize>();
        self.queue.extend(entries);
    }

    fn pop(&mut self) -> Option<Arc<Encoded>> {
        let entry = self.queue.pop_front()?;
        self.bytes -= entry.bytes();
        Some(entry)
    }

    /// Takes the changes of the users for whom `wanted` is true.
    fn take_of(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<Arc<Encoded>> {
        let (taken, left): (VecDeque<_>, _) =
            std::mem::take(&mut self.queue).into_iter().partition(|entry| wanted(entry.user()));
        self.queue = left;
        self.bytes -= taken.iter().map(|entry| entry.bytes()).sum::<usize>();
        taken.into()
    }
}

/// The changes that wait for a reader.
#[derive(Default)]
pub(super) struct Backlog {
    pub(super) mailbox: Mailbox<Arc<Encoded>>,
    pub(super) all: Option<All>,
    /// The changes of everybody that a lossless reader had not read when it stopped watching them.
    pub(super) kept: Kept,
    /// Every change is kept, at most so many.
    pub(super) lossless: Option<usize>,
    /// The last number read in the log, or taken from the mailbox.
    pub(super) read_to: u64,
    /// Changes up to this number came by the log, and not by name.
    pub(super) by_log: u64,
    /// No lower number can be resumed from: a snapshot covers it, or changes on both sides cancelled out.
    pub(super) whole_from: u64,
    /// The statuses that the reader is to be sent.
    pub(super) statuses: PendingStatuses,
    /// What the reader is to be sent of groups.
    pub(super) groups: Option<Box<PendingGroups>>,
    /// The last change of a user whom it watches by name or by a group.
    pub(super) by_name: u64,
    /// While a reader that resumes registers: changes are left to the history, the last of them with this number.
    pub(super) held: Option<u64>,
}

impl Backlog {
    /// Drops the pending changes of the users of a shard, because a snapshot of everybody covers them. Such a snapshot does
    /// not name those who are offline, so the changes to offline that the reader does not know are returned.
    pub(super) fn supersede(&mut self, of_shard: impl Fn(&str) -> bool) -> Vec<Arc<Encoded>> {
        let mut covered = self.kept.take_of(&of_shard);
        covered.extend(self.mailbox.take_of(of_shard));
        let mut last: BTreeMap<Name, (Arc<Encoded>, usize)> = BTreeMap::new();
        for entry in covered {
            let count = last.get(entry.user()).map_or(0, |(_, count)| *count);
            last.insert(entry.transition.user.clone(), (entry, count + 1));
        }
        // A user's changes alternate: after an even number the reader knows the last state.
        let left = last.into_values().filter(|(entry, count)| count % 2 == 1 && !entry.transition.online);
        let mut left: Vec<_> = left.map(|(entry, _)| entry).collect();
        left.sort_unstable_by_key(|entry| entry.seq);
        left
    }

    pub(super) fn pending(&self) -> Option<&Arc<Encoded>> {
        self.kept.queue.front().or_else(|| self.mailbox.front())
    }

    /// Memory, in bytes, if nobody else holds the changes.
    pub(super) fn bytes(&self) -> usize {
        self.mailbox.bytes()
            + self.kept.bytes
            + self.statuses.bytes()
            + self.groups.as_ref().map_or(0, |groups| groups.bytes())
    }

    /// Takes the next pending change.
    pub(super) fn pop(&mut self) -> Option<Arc<Encoded>> {
        self.kept.pop().or_else(|| self.mailbox.pop())
    }

    /// Drops the pending changes of a user.
    pub(super) fn forget(&mut self, user: &str) {
        self.kept.take_of(|other| other == user);
        self.mailbox.forget(user);
    }

    /// Drops everything that is pending.
    pub(super) fn clear(&mut self) {
        self.mailbox.clear();
        self.kept = Kept::default();
        self.statuses = PendingStatuses::default();
        self.groups = None;
        self.all = None;
    }
}
