//! What one reader still has to be told.
//!
//! By default it conflates: at most one pending change a user, the newest, and none that leads back
//! to what the reader already knows. Since a user's transitions alternate, a second pending change
//! always cancels the first. A lossless mailbox keeps everything, up to a limit.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It waits to be read.
    Queued,
    /// It and the one that waited lead back to what the reader knows: neither waits now.
    Cancelled,
    /// A lossless mailbox is full: the reader has to start again from a snapshot.
    Full,
}

/// The pending changes of one reader.
pub struct Mailbox<T> {
    queue: VecDeque<Option<(Arc<str>, T)>>,
    /// Conflating: where a user's pending change stands, counted from the first ever pushed.
    places: HashMap<Arc<str>, u64>,
    popped: u64,
    pending: usize,
    lossless: Option<usize>,
}

impl<T> Mailbox<T> {
    /// A mailbox that conflates. Its memory is bounded by the number of users watched.
    pub fn conflating() -> Mailbox<T> {
        Mailbox::with(None)
    }

    /// A mailbox that keeps every change, `most` at a time.
    pub fn lossless(most: usize) -> Mailbox<T> {
        Mailbox::with(Some(most))
    }

    fn with(lossless: Option<usize>) -> Mailbox<T> {
        Mailbox { queue: VecDeque::new(), places: HashMap::new(), popped: 0, pending: 0, lossless }
    }

    /// How many changes wait.
    pub fn len(&self) -> usize {
        self.pending
    }

    /// Does none wait?
    pub fn is_empty(&self) -> bool {
        self.pending == 0
    }

    /// Puts in a change of `user`.
    pub fn push(&mut self, user: &Arc<str>, change: T) -> Pushed {
        if let Some(most) = self.lossless {
            if self.pending >= most {
                return Pushed::Full;
            }
        } else if let Some(place) = self.places.remove(user) {
            self.queue[(place - self.popped) as usize] = None;
            self.pending -= 1;
            self.trim();
            return Pushed::Cancelled;
        } else {
            self.places.insert(user.clone(), self.popped + self.queue.len() as u64);
        }
        self.queue.push_back(Some((user.clone(), change)));
        self.pending += 1;
        Pushed::Queued
    }

    /// Takes the oldest change.
    pub fn pop(&mut self) -> Option<T> {
        loop {
            let entry = self.queue.pop_front()?;
            self.popped += 1;
            if let Some((user, change)) = entry {
                self.places.remove(&user);
                self.pending -= 1;
                return Some(change);
            }
        }
    }

    /// Forgets what waits for a user who is no longer watched.
    pub fn forget(&mut self, user: &str) {
        if self.lossless.is_some() {
            self.queue.retain(|entry| entry.as_ref().is_some_and(|(of, _)| &**of != user));
            self.pending = self.queue.len();
        } else if let Some(place) = self.places.remove(user) {
            self.queue[(place - self.popped) as usize] = None;
            self.pending -= 1;
            self.trim();
        }
    }

    /// Cancelled places are given back once they outnumber the pending ones, so that a user who
    /// flaps for hours before a reader who never reads costs no memory.
    fn trim(&mut self) {
        if self.queue.len() < 32 || self.queue.len() < self.pending * 2 {
            return;
        }
        self.queue.retain(Option::is_some);
        self.popped = 0;
        for (i, (user, _)) in self.queue.iter().flatten().enumerate() {
            self.places.insert(user.clone(), i as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the obvious model: what the reader knows, and what is true.
        #[test]
        fn a_reader_who_catches_up_knows_the_truth(steps in prop::collection::vec((0usize..4, 0usize..3), 0..400)) {
            let users: Vec<Arc<str>> = (0..4).map(|i| format!("u{i}").into()).collect();
            let mut mailbox = Mailbox::conflating();
            let (mut truth, mut known) = ([false; 4], [false; 4]);
            let mut read = |mailbox: &mut Mailbox<(usize, bool)>| {
                let told = mailbox.pop();
                if let Some((user, state)) = told {
                    assert_ne!(known[user], state, "a reader is told only what it does not know");
                    known[user] = state;
                }
                (told.is_some(), known)
            };
            for (user, action) in steps {
                if action == 0 {
                    read(&mut mailbox);
                } else {
                    truth[user] = !truth[user];
                    mailbox.push(&users[user], (user, truth[user]));
                    prop_assert!(mailbox.len() <= 4, "one pending change a user");
                    prop_assert!(mailbox.queue.len() <= 32, "and no memory beside");
                }
            }
            while read(&mut mailbox).0 {}
            prop_assert_eq!(read(&mut mailbox).1, truth);
        }
    }

    #[test]
    fn a_lossless_mailbox_keeps_all_or_says_so() {
        let user: Arc<str> = "a".into();
        let mut mailbox = Mailbox::lossless(3);
        let pushed: Vec<_> = (0..4).map(|i| mailbox.push(&user, i)).collect();
        assert_eq!(pushed, [Pushed::Queued, Pushed::Queued, Pushed::Queued, Pushed::Full]);
        assert_eq!(std::iter::from_fn(|| mailbox.pop()).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_user_no_longer_watched_is_not_reported() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut mailbox = Mailbox::conflating();
        mailbox.push(&a, 1);
        mailbox.push(&b, 2);
        mailbox.forget("a");
        assert_eq!((mailbox.pop(), mailbox.pop()), (Some(2), None));
        let mut mailbox = Mailbox::lossless(9);
        (0..3).for_each(|i| assert_eq!(mailbox.push(if i == 1 { &b } else { &a }, i), Pushed::Queued));
        mailbox.forget("a");
        assert_eq!((mailbox.len(), mailbox.pop(), mailbox.pop()), (1, Some(1), None));
    }
}
