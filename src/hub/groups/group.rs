//! One watched group: its members, and the clients that watch it.

use super::super::couriers::Couriers;
use super::super::{Encoded, Watcher};
use crate::lock::lock;
use crate::presence::Name;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// What is known of a group's members.
#[derive(Debug, Default)]
pub(super) enum Members {
    /// The group is not read yet.
    #[default]
    Unread,
    /// The members.
    Known(HashSet<Name>),
    /// So many that nobody asked for them.
    TooLarge(usize),
    /// The key is no SET.
    Invalid,
}

/// A client that watches the members.
pub(super) struct FullWatcher {
    pub(super) watcher: Arc<Watcher>,
    /// It was sent the members, and is sent what changes.
    pub(super) begun: bool,
}

/// A client that watches the counts.
pub(super) struct CountWatcher {
    pub(super) watcher: Arc<Watcher>,
    /// The counts that it was sent last.
    pub(super) sent: Option<(usize, usize)>,
    /// The second in which it was sent the first ones.
    pub(super) from_tick: u64,
}

/// The clients of a group, by their numbers.
#[derive(Default)]
pub(super) struct GroupWatchers {
    pub(super) full: HashMap<u64, FullWatcher>,
    pub(super) counting: HashMap<u64, CountWatcher>,
    /// The counts at the last tick.
    pub(super) counts: Option<(usize, usize)>,
    /// A client was left out at the last tick, because it had counts of the same second.
    pub(super) late: bool,
}

impl GroupWatchers {
    pub(super) fn is_empty(&self) -> bool {
        self.full.is_empty() && self.counting.is_empty()
    }

    /// The clients that are sent changes of members.
    pub(super) fn begun(&self) -> impl Iterator<Item = &Arc<Watcher>> {
        self.full.values().filter(|full| full.begun).map(|full| &full.watcher)
    }

    pub(super) fn has_begun(&self, id: u64) -> bool {
        self.full.get(&id).is_some_and(|full| full.begun)
    }
}

/// See the module's head.
pub(in crate::hub) struct Group {
    pub(super) name: Name,
    /// Held through a whole edit, and while a client is sent the members. The outermost lock of a group.
    members: Mutex<Members>,
    /// Members online; changed with the shard of the member locked.
    online: AtomicUsize,
    /// Locked after a shard, and before a watcher.
    watchers: Mutex<GroupWatchers>,
}

impl Group {
    pub(super) fn new(name: Name) -> Group {
        Group { name, members: Mutex::default(), online: AtomicUsize::new(0), watchers: Mutex::default() }
    }

    pub(super) fn members(&self) -> MutexGuard<'_, Members> {
        lock(&self.members)
    }

    pub(super) fn watchers(&self) -> MutexGuard<'_, GroupWatchers> {
        lock(&self.watchers)
    }

    pub(super) fn online(&self) -> usize {
        self.online.load(Ordering::Acquire)
    }

    /// A member came online or went offline.
    pub(in crate::hub) fn count(&self, online: bool) {
        if online {
            self.online.fetch_add(1, Ordering::AcqRel);
        } else {
            self.online.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// A transition of a member, for every client that is sent changes of the members.
    pub(in crate::hub) fn push(&self, entry: &Arc<Encoded>, couriers: &Couriers) {
        couriers.wake(self.watchers().begun().filter(|watcher| watcher.push(entry)));
    }

    /// Calls `each` with every client that is sent changes of the members.
    pub(in crate::hub) fn each_watcher(&self, each: impl FnMut(&Arc<Watcher>)) {
        self.watchers().begun().for_each(each);
    }
}
