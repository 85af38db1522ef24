//! The statuses of users, which any program sets and which are independent of being online.
//!
//! A change of a status goes to the clients that watch the user by name, as the name alone: a slow client is sent the status that
//! holds when it reads. Clients that watch everybody share the list of changes; each keeps its place. Each user is in that list
//! once, with the last change, so it conflates too.

mod pending;

pub(super) use pending::PendingStatuses;

use super::{Hub, Watcher};
use crate::lock::lock;
use crate::presence::Name;
use crate::protocol;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Removals that are remembered, so that clients which were away learn of them.
const REMOVALS: usize = 65_536;
/// Statuses in one message, and its bytes.
const FRAME: (usize, usize) = (256, 32 * 1024);
/// Rings of all clients that watch everybody, per second at most; see [`Hub::ring`].
const RINGS_PER_SECOND: f64 = 30_000.0;
/// The shortest time between two of their rings for statuses.
const RING_EVERY: Duration = Duration::from_millis(50);

/// A status as JSON.
pub type Status = Arc<str>;

/// The statuses of all users.
#[derive(Default)]
pub(super) struct Statuses {
    // Held for a few look-ups. The innermost of the hub's locks.
    book: Mutex<Book>,
    /// The number of the last change that has reached everyone.
    published: AtomicU64,
}

#[derive(Default)]
struct Book {
    entries: HashMap<Name, Entry>,
    /// The number of each user's last change.
    changes: BTreeMap<u64, Name>,
    last: u64,
    /// Removals, the oldest first. One is out of date if its user has a status again.
    removals: VecDeque<(u64, Name)>,
    /// Removals up to this number may be forgotten.
    forgotten: u64,
    count: usize,
}

struct Entry {
    number: u64,
    /// `None`: it was removed.
    status: Option<Status>,
}

/// What a client is to be sent next.
pub enum NextStatuses {
    /// A `statuses` message.
    Message(Bytes),
    /// Nothing: it has every change up to this number.
    UpTo(u64),
}

/// A client asked for changes since a number, and some of them are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten;

impl Book {
    /// Sets or removes a status. Returns whether that changed something.
    fn set(&mut self, user: &Name, json: Option<&str>) -> bool {
        let before = self.entries.get(user).and_then(|entry| entry.status.as_deref());
        if before == json {
            return false;
        }
        self.count = self.count + usize::from(json.is_some()) - usize::from(before.is_some());
        self.last += 1;
        let entry = Entry { number: self.last, status: json.map(Status::from) };
        // The name that is held already is shared.
        let name = self.entries.get_key_value(user).map_or(user, |(name, _)| name).clone();
        if let Some(old) = self.entries.insert(name.clone(), entry) {
            self.changes.remove(&old.number);
        }
        self.changes.insert(self.last, name.clone());
        if json.is_none() {
            self.removals.push_back((self.last, name));
            self.forget();
        }
        true
    }

    /// Forgets the oldest removals if there are too many.
    fn forget(&mut self) {
        while self.removals.len() > REMOVALS {
            let Some((number, user)) = self.removals.pop_front() else { return };
            if self.changes.remove(&number).is_some() {
                self.entries.remove(&user);
                self.forgotten = number;
            }
        }
    }

    fn status(&self, user: &str) -> Option<Status> {
        self.entries.get(user).and_then(|entry| entry.status.clone())
    }
}

impl Hub {
    /// The status of a user, as JSON.
    pub fn status(&self, user: &str) -> Option<Status> {
        lock(&self.statuses.book).status(user)
    }

    /// How many users have a status.
    pub fn count_statuses(&self) -> usize {
        lock(&self.statuses.book).count
    }

    /// The users who have a status.
    pub fn users_with_status(&self) -> Vec<Name> {
        let book = lock(&self.statuses.book);
        let with = |(user, entry): (&Name, &Entry)| entry.status.is_some().then(|| user.clone());
        book.entries.iter().filter_map(with).collect()
    }

    /// Sets a user's status, or removes it. Returns whether that changed something. Only one task calls this, so the numbers are
    /// in the order of the changes. Clients that watch everybody learn of it at the next [`ring_statuses`](Hub::ring_statuses).
    pub fn set_status(&self, user: &Name, json: Option<&str>) -> bool {
        let shard = self.shard(user);
        let number = {
            let mut book = lock(&self.statuses.book);
            if !book.set(user, json) {
                return false;
            }
            book.last
        };
        if let Some(audience) = shard.watched.get(user) {
            audience.watchers().iter().for_each(|watcher| watcher.push_status(user));
        }
        for group in shard.grouped.get(user).into_iter().flatten() {
            group.each_watcher(|watcher| watcher.push_status(user));
        }
        drop(shard);
        self.statuses.published.store(number, Ordering::Release);
        self.readers.relieve();
        true
    }

    /// Rings for the clients that watch everybody. Returns how long to wait before the next ring.
    pub fn ring_statuses(&self) -> Duration {
        let everybody = lock(&self.everybody);
        everybody.watchers.values().for_each(|watcher| watcher.ring());
        RING_EVERY.max(Duration::from_secs_f64(everybody.watchers.len() as f64 / RINGS_PER_SECOND))
    }

    /// The next statuses for a client.
    pub fn next_statuses(&self, watcher: &Watcher) -> NextStatuses {
        // Before the lock: whatever was published is pending now, or was taken.
        let published = self.statuses.published.load(Ordering::Acquire);
        match watcher.change_statuses(|pending| self.take_statuses(pending)) {
            Some(Ok(taken)) if !taken.is_empty() => {
                let statuses = taken.iter().map(|(user, status)| (&**user, status.as_deref()));
                NextStatuses::Message(protocol::join_statuses(statuses).into())
            }
            Some(Err(Forgotten)) => {
                watcher.fall_behind();
                NextStatuses::UpTo(published)
            }
            _ => NextStatuses::UpTo(published),
        }
    }

    fn take_statuses(&self, pending: &mut PendingStatuses) -> Result<Vec<(Name, Option<Status>)>, Forgotten> {
        let book = lock(&self.statuses.book);
        let (mut taken, mut bytes) = (Vec::new(), 0);
        let mut fits = |user: &Name, status: &Option<Status>, count: usize| {
            bytes += user.len() + status.as_deref().map_or(4, str::len) + 24;
            count < FRAME.0 && bytes <= FRAME.1 || count == 0
        };
        while let Some(user) = pending.users.first().cloned() {
            let status = book.status(&user);
            if !fits(&user, &status, taken.len()) {
                return Ok(taken);
            }
            pending.users.pop_first();
            taken.push((user, status));
        }
        if let Some(sent) = &mut pending.all {
            if *sent < book.forgotten {
                return Err(Forgotten);
            }
            for (number, user) in book.changes.range(*sent + 1..) {
                let status = book.status(user);
                if !fits(user, &status, taken.len()) {
                    return Ok(taken);
                }
                *sent = *number;
                taken.push((user.clone(), status));
            }
            *sent = book.last;
        }
        Ok(taken)
    }

    /// The client watches everybody from now on: it is sent every change.
    pub(super) fn begin_all_statuses(&self, watcher: &Watcher) {
        let last = self.statuses.published.load(Ordering::Acquire);
        watcher
            .change_statuses(|pending| pending.all = Some(pending.all.map_or(last, |sent| sent.min(last))));
    }

    /// The client no longer watches everybody. What it was not sent yet is still sent.
    pub(super) fn end_all_statuses(&self, watcher: &Watcher) {
        watcher.change_statuses(|pending| {
            let Some(sent) = pending.all.take() else { return };
            let book = lock(&self.statuses.book);
            pending.users.extend(book.changes.range(sent + 1..).map(|(_, user)| user.clone()));
        });
    }

    /// The client is sent all statuses but those of `known`, which its snapshot has.
    pub fn owe_statuses(&self, watcher: &Watcher, known: &HashSet<Name>) {
        let owed: Vec<Name> =
            self.users_with_status().into_iter().filter(|user| !known.contains(user)).collect();
        if owed.is_empty() {
            return;
        }
        watcher.change_statuses(|pending| pending.users.extend(owed));
        watcher.ring();
    }

    /// The client is sent the statuses of these users, whom no snapshot names.
    pub(super) fn owe_statuses_of(&self, watcher: &Watcher, users: &[&Name]) {
        let owed: Vec<&Name> = {
            let book = lock(&self.statuses.book);
            users.iter().filter(|user| book.status(user).is_some()).copied().collect()
        };
        if !owed.is_empty() {
            watcher.change_statuses(|pending| owed.into_iter().for_each(|user| pending.push(user)));
            watcher.ring();
        }
    }

    /// The client has every change up to a number, and is sent those of `users` that came later.
    ///
    /// # Errors
    /// Some of them are forgotten.
    pub fn owe_statuses_since(
        &self,
        watcher: &Watcher,
        users: &[Name],
        number: u64,
    ) -> Result<(), Forgotten> {
        let changed: Vec<Name> = {
            let book = lock(&self.statuses.book);
            if number < book.forgotten || number > book.last {
                return Err(Forgotten);
            }
            let is_newer = |user: &&Name| book.entries.get(*user).is_some_and(|entry| entry.number > number);
            users.iter().filter(is_newer).cloned().collect()
        };
        watcher.change_statuses(|pending| pending.users.extend(changed));
        Ok(())
    }

    /// The client, which watches everybody, has every change up to a number.
    ///
    /// # Errors
    /// Some of the later changes are forgotten.
    pub fn resume_all_statuses(&self, watcher: &Watcher, number: u64) -> Result<(), Forgotten> {
        {
            let book = lock(&self.statuses.book);
            if number < book.forgotten || number > book.last {
                return Err(Forgotten);
            }
        }
        watcher.change_statuses(|pending| pending.all = Some(number));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
