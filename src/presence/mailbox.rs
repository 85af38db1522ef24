//! The changes that wait for one reader.
//!
//! The mailbox conflates: at most one pending change per user, the newest, and none that leads back to
//! the state that the reader knows. A user's transitions alternate, so a second pending change always
//! cancels the first.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::LazyLock;

/// Up to this many changes, a linear search is as fast as a table.
const FEW: usize = 8;

/// Upper bound in bytes for one place in the queue and its entry in the table.
const PLACE_BYTES: usize = 40;

/// All mailboxes share one hasher; an own one would cost each mailbox 8 bytes or more.
static HASHER: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);

/// A change that a mailbox can queue.
pub trait Pending {
    /// The user's name.
    fn user(&self) -> &str;
    /// Its memory in bytes, if no other mailbox shares it.
    fn bytes(&self) -> usize;
}

/// The outcome of [`Mailbox::push`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The change waits for the reader.
    Queued,
    /// The change and the pending one cancel each other: neither waits now.
    Cancelled,
}

/// The pending changes of one reader. An empty mailbox holds no heap memory.
pub struct Mailbox<T> {
    queue: VecDeque<Option<T>>,
    /// Each user's place in the queue, counted from the first change ever pushed. Empty up to [`FEW`] changes.
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
    /// The number of pending changes.
    pub fn len(&self) -> usize {
        self.pending
    }

    /// Whether no change is pending.
    pub fn is_empty(&self) -> bool {
        self.pending == 0
    }

    /// The memory of the pending changes in bytes, if no other mailbox shares them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Queues a change, or cancels it against the user's pending one.
    pub fn push(&mut self, change: T) -> Pushed {
        if self.forget(change.user()) {
            return Pushed::Cancelled;
        }
        self.pending += 1;
        self.bytes += PLACE_BYTES + change.bytes();
        self.queue.push_back(Some(change));
        if !self.places.is_empty() {
            self.note_place(self.queue.len() - 1);
        } else if self.queue.len() > FEW {
            self.note_all();
        }
        Pushed::Queued
    }

    /// Takes the oldest pending change.
    pub fn pop(&mut self) -> Option<T> {
        loop {
            let entry = self.queue.front_mut()?.take();
            if let Some(change) = &entry {
                self.drop_place(0, change.user());
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
    pub fn forget(&mut self, user: &str) -> bool {
        let Some(at) = self.find(user) else {
            return false;
        };
        let Some(change) = self.queue[at].take() else {
            return false;
        };
        self.drop_place(at, user);
        self.uncount(&change);
        self.trim();
        true
    }

    /// Drops the changes of all users for whom `keep` returns false.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let dropped: Vec<T> = self
            .queue
            .iter_mut()
            .filter(|entry| entry.as_ref().is_some_and(|change| !keep(change.user())))
            .filter_map(Option::take)
            .collect();
        if dropped.is_empty() {
            return;
        }
        self.compact();
        dropped.iter().for_each(|change| self.uncount(change));
    }

    /// Drops all changes and frees the memory.
    pub fn clear(&mut self) {
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

    /// Uncounts a change that no longer waits. After the last one, frees the memory.
    fn uncount(&mut self, change: &T) {
        self.pending -= 1;
        self.bytes -= PLACE_BYTES + change.bytes();
        if self.pending == 0 {
            self.clear();
        }
    }

    fn note_all(&mut self) {
        self.places.clear();
        for at in 0..self.queue.len() {
            self.note_place(at);
        }
    }

    fn note_place(&mut self, at: usize) {
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

    fn drop_place(&mut self, at: usize, user: &str) {
        let place = self.popped + at as u64;
        if let Ok(entry) = self.places.find_entry(HASHER.hash_one(user), |&other| other == place) {
            entry.remove();
        }
    }

    /// Frees cancelled places once they outnumber the pending ones. Otherwise a user who flaps for
    /// hours would fill the mailbox of a reader that never reads.
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
            self.note_all();
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
        /// Compares with an obvious model: the state that the reader knows, and the true state.
        #[test]
        fn reader_that_catches_up_knows_all(
            among in 1usize..24,
            steps in prop::collection::vec((0usize..24, 0usize..30), 0..600),
        ) {
            let mut mailbox = Mailbox::default();
            let (mut truth, mut known) = ([false; 24], [false; 24]);
            let mut read = |mailbox: &mut Mailbox<Change>| {
                let popped = mailbox.pop();
                if let Some(Change(user, state)) = &popped {
                    let user = USERS.iter().position(|other| other == user).unwrap();
                    assert_ne!(known[user], *state, "the reader knows this state already");
                    known[user] = *state;
                }
                (popped.is_some(), known)
            };
            for (user, action) in steps {
                let user = user % among;
                if action < 10 {
                    read(&mut mailbox);
                } else {
                    truth[user] = !truth[user];
                    mailbox.push(Change(USERS[user], truth[user]));
                    prop_assert!(mailbox.len() <= among, "one pending change per user");
                    prop_assert!(mailbox.queue.len() <= 2 * 32, "cancelled places are freed");
                }
                let bytes = mailbox.queue.iter().flatten().count() * (PLACE_BYTES + 1);
                prop_assert_eq!(mailbox.bytes(), bytes);
            }
            while read(&mut mailbox).0 {}
            prop_assert_eq!(read(&mut mailbox).1, truth);
            prop_assert_eq!((mailbox.bytes(), mailbox.queue.capacity()), (0, 0), "an empty mailbox holds no memory");
        }
    }

    #[test]
    fn unwatched_users_are_dropped() {
        let mut mailbox = Mailbox::default();
        USERS.iter().for_each(|&user| assert_eq!(mailbox.push(Change(user, true)), Pushed::Queued));
        assert!(mailbox.forget("a"));
        assert!(!mailbox.forget("a"));
        mailbox.retain(|user| user < "d");
        assert_eq!(mailbox.len(), 2);
        let left: Vec<Change> = std::iter::from_fn(|| mailbox.pop()).collect();
        assert_eq!(left, [Change("b", true), Change("c", true)]);
        mailbox.push(Change("z", true));
        mailbox.retain(|_| false);
        assert!(mailbox.is_empty() && mailbox.bytes() == 0);
    }
}
