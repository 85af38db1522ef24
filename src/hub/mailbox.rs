//! The mailbox of one reader.
//!
//! A mailbox conflates: it holds at most one pending change for each user, the newest, and none that leads back
//! to what the reader already knows. A user's transitions alternate, so a second pending change always cancels
//! the first.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::LazyLock;

/// Up to this many changes, a search through the queue is as fast as a table, and needs none.
const FEW: usize = 8;

/// The largest cost of a place in the queue and its entry in the table, in bytes.
const PLACE_BYTES: usize = 40;

/// One hasher for all mailboxes, so that none has to hold its own.
static HASHER: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);

/// A change that can wait in a mailbox.
pub(super) trait Pending {
    /// Whose change it is.
    fn user(&self) -> &str;
    /// Memory, in bytes, if nobody else holds it.
    fn bytes(&self) -> usize;
}

/// The fate of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits for the reader.
    Queued,
    /// It and the pending change led back to what the reader knows; both are gone.
    Cancelled,
}

/// The pending changes of one reader. An empty mailbox holds no memory.
pub(super) struct Mailbox<T> {
    queue: VecDeque<Option<T>>,
    /// The place of each user's pending change, counted from the first ever pushed; empty up to `FEW` changes.
    places: HashTable<u64>,
    popped: u64,
    pending: usize,
    bytes: usize,
}

impl<T: Pending> Default for Mailbox<T> {
    fn default() -> Mailbox<T> {
        Mailbox { queue: VecDeque::new(), places: HashTable::new(), popped: 0, pending: 0, bytes: 0 }
    }
}

impl<T: Pending> Mailbox<T> {
    /// Memory of the pending changes, in bytes, if nobody else holds them.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many changes are pending.
    pub(super) fn len(&self) -> usize {
        self.pending
    }

    /// The oldest change.
    pub(super) fn front(&self) -> Option<&T> {
        self.queue.iter().find_map(Option::as_ref)
    }

    /// Adds a change.
    pub(super) fn push(&mut self, change: T) -> Pushed {
        if self.forget(change.user()) {
            return Pushed::Cancelled;
        }
        self.pending += 1;
        self.bytes += PLACE_BYTES + change.bytes();
        self.queue.push_back(Some(change));
        if !self.places.is_empty() {
            self.index(self.queue.len() - 1);
        } else if self.queue.len() > FEW {
            self.index_all();
        }
        Pushed::Queued
    }

    /// Takes the oldest change.
    pub(super) fn pop(&mut self) -> Option<T> {
        loop {
            let entry = self.queue.front_mut()?.take();
            if let Some(change) = &entry {
                self.unindex(0, change.user());
            }
            self.queue.pop_front();
            self.popped += 1;
            if let Some(change) = entry {
                self.uncount(&change);
                return Some(change);
            }
        }
    }

    /// Drops the pending change of a user. Returns whether there was one.
    pub(super) fn forget(&mut self, user: &str) -> bool {
        let Some(at) = self.find(user) else {
            return false;
        };
        let Some(change) = self.queue[at].take() else {
            return false;
        };
        self.unindex(at, user);
        self.uncount(&change);
        self.trim();
        true
    }

    /// Takes the changes of the users for whom `wanted` is true.
    pub(super) fn take_of(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<T> {
        let taken: Vec<T> = self
            .queue
            .iter_mut()
            .filter(|entry| entry.as_ref().is_some_and(|change| wanted(change.user())))
            .filter_map(Option::take)
            .collect();
        if !taken.is_empty() {
            self.compact();
            taken.iter().for_each(|change| self.uncount(change));
        }
        taken
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        *self = Mailbox::default();
    }

    fn find(&self, user: &str) -> Option<usize> {
        let of_user = |entry: &Option<T>| entry.as_ref().is_some_and(|change| change.user() == user);
        if self.places.is_empty() {
            return self.queue.iter().position(of_user);
        }
        let place = self.places.find(HASHER.hash_one(user), |&place| of_user(self.entry(place)))?;
        Some((place - self.popped) as usize)
    }

    fn entry(&self, place: u64) -> &Option<T> {
        self.queue.get((place - self.popped) as usize).unwrap_or(&None)
    }

    /// Counts a change that no longer waits. The last change frees all memory.
    fn uncount(&mut self, change: &T) {
        self.pending -= 1;
        self.bytes -= PLACE_BYTES + change.bytes();
        if self.pending == 0 {
            self.clear();
        }
    }

    fn index_all(&mut self) {
        self.places.clear();
        for at in 0..self.queue.len() {
            self.index(at);
        }
    }

    fn index(&mut self, at: usize) {
        let (queue, popped) = (&self.queue, self.popped);
        let hash = |&place: &u64| {
            let change = queue.get((place - popped) as usize).and_then(Option::as_ref);
            change.map_or(0, |change| HASHER.hash_one(change.user()))
        };
        let place = popped + at as u64;
        if queue[at].is_some() {
            self.places.insert_unique(hash(&place), place, hash);
        }
    }

    fn unindex(&mut self, at: usize, user: &str) {
        let place = self.popped + at as u64;
        if let Ok(entry) = self.places.find_entry(HASHER.hash_one(user), |&other| other == place) {
            entry.remove();
        }
    }

    /// Drops cancelled places once they outnumber the pending ones, so that a user who flaps for hours costs a
    /// reader that never reads no memory.
    fn trim(&mut self) {
        if self.queue.len() >= 32 && self.queue.len() >= self.pending * 2 {
            self.compact();
        }
    }

    fn compact(&mut self) {
        self.queue.retain(Option::is_some);
        self.queue.shrink_to(self.queue.len() * 2);
        self.places = HashTable::new();
        if self.queue.len() > FEW {
            self.index_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Change(&'static str, bool);

    impl Pending for Change {
        fn user(&self) -> &str {
            self.0
        }

        fn bytes(&self) -> usize {
            self.0.len()
        }
    }

    const USERS: [&str; 24] = [
        "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t",
        "u", "v", "w", "x",
    ];

    proptest! {
        /// Compares with a model of two arrays: what the reader knows, and what is true.
        #[test]
        fn reader_that_catches_up_knows_the_truth(
            among in 1usize..24,
            steps in prop::collection::vec((0usize..24, 0usize..30), 0..600),
        ) {
            let mut mailbox = Mailbox::default();
            let (mut truth, mut known) = ([false; 24], [false; 24]);
            let mut read = |mailbox: &mut Mailbox<Change>| {
                let taken = mailbox.pop();
                if let Some(Change(user, state)) = &taken {
                    let user = USERS.iter().position(|other| other == user).unwrap();
                    assert_ne!(known[user], *state, "a reader gets only what it does not know");
                    known[user] = *state;
                }
                (taken.is_some(), known)
            };
            for (user, action) in steps {
                let user = user % among;
                if action < 10 {
                    read(&mut mailbox);
                } else {
                    truth[user] = !truth[user];
                    mailbox.push(Change(USERS[user], truth[user]));
                    prop_assert!(mailbox.pending <= among, "one pending change for each user");
                    prop_assert!(mailbox.queue.len() <= 2 * 32, "and little memory for cancelled ones");
                }
                let bytes = mailbox.queue.iter().flatten().count() * (PLACE_BYTES + 1);
                prop_assert_eq!(mailbox.bytes(), bytes);
            }
            while read(&mut mailbox).0 {}
            prop_assert_eq!(read(&mut mailbox).1, truth);
            prop_assert_eq!((mailbox.bytes(), mailbox.queue.capacity()), (0, 0), "empty, it holds no memory");
        }
    }

    #[test]
    fn forgotten_users_are_not_reported() {
        let mut mailbox = Mailbox::default();
        USERS.iter().for_each(|&user| assert_eq!(mailbox.push(Change(user, true)), Pushed::Queued));
        assert!(mailbox.forget("a"));
        assert!(!mailbox.forget("a"));
        assert_eq!(mailbox.take_of(|user| user >= "d").len(), 21);
        assert_eq!((mailbox.pending, mailbox.front()), (2, Some(&Change("b", true))));
        let left: Vec<Change> = std::iter::from_fn(|| mailbox.pop()).collect();
        assert_eq!(left, [Change("b", true), Change("c", true)]);
        mailbox.push(Change("z", true));
        mailbox.take_of(|_| true);
        assert!(mailbox.front().is_none() && mailbox.bytes() == 0);
    }
}
