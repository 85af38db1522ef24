//! The latest transitions, for readers that come back: an event stream that resumes, a sink.
//!
//! Each reader keeps a [`Cursor`]. The history keeps the latest 16,384 transitions without a hole. A reader
//! whose next transition is no longer kept gets [`Gone`], and has to take a new snapshot.

use super::log::{FRAME, message};
use super::watcher::Delivery;
use super::{Encoded, Hub, Watcher};
use crate::lock::lock;
use crate::presence::Name;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Transitions kept: about 4 MB, or 12 MB if every name has its full length.
pub const KEPT: usize = 16_384;

/// The transitions that a reader wants are not kept: they are too old, or of another run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// One reader's place: the number of the last transition that it has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(u64);

impl Cursor {
    /// The number of the last transition that the reader has read.
    pub fn seq(self) -> u64 {
        self.0
    }
}

/// The latest transitions, in the order of their numbers and without a hole. Nothing is kept before the first
/// [`begin`](History::begin), so that a hub without such readers holds no memory for them.
#[derive(Default)]
pub(super) struct History {
    begun: AtomicBool,
    ring: Mutex<Ring>,
    /// Changes with each transition.
    grown: watch::Sender<()>,
}

#[derive(Default)]
struct Ring {
    /// The number before the first transition that is kept.
    after: u64,
    entries: VecDeque<Arc<Encoded>>,
}

impl Ring {
    fn end(&self) -> u64 {
        self.after + self.entries.len() as u64
    }
}

impl History {
    /// Keeps every transition after number `seq`, unless it has begun before.
    pub(super) fn begin(&self, seq: u64) {
        let mut ring = lock(&self.ring);
        if !self.begun.swap(true, Ordering::AcqRel) {
            ring.after = seq;
        }
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Keeps the next transition, and drops the oldest if there are too many.
    pub(super) fn push(&self, entry: Arc<Encoded>) {
        let mut ring = lock(&self.ring);
        debug_assert_eq!(entry.seq, ring.end() + 1, "the history has no hole");
        if ring.entries.len() == KEPT {
            ring.entries.pop_front();
            ring.after += 1;
        }
        ring.entries.push_back(entry);
        drop(ring);
        self.grown.send_replace(());
    }

    /// A cursor after number `seq`.
    fn after(&self, seq: u64) -> Result<Cursor, Gone> {
        let ring = lock(&self.ring);
        let kept = self.has_begun() && (ring.after..=ring.end()).contains(&seq);
        kept.then_some(Cursor(seq)).ok_or(Gone)
    }

    /// The number of the last transition.
    fn end(&self) -> u64 {
        lock(&self.ring).end()
    }

    /// Reads on: at most `most` transitions, none if the reader has read all.
    fn read(&self, cursor: &mut Cursor, most: usize) -> Result<Vec<Arc<Encoded>>, Gone> {
        let ring = lock(&self.ring);
        let skip = cursor.0.checked_sub(ring.after).filter(|_| cursor.0 <= ring.end()).ok_or(Gone)?;
        let read: Vec<_> = ring.entries.range(skip as usize..).take(most).cloned().collect();
        cursor.0 += read.len() as u64;
        Ok(read)
    }
}

/// The changes that a resuming watcher has missed: the transitions between its return and its last message. Its mailbox
/// has those that follow.
#[derive(Debug)]
pub struct Missed {
    cursor: Cursor,
    until: u64,
}

impl Missed {
    /// Has everything been read?
    pub fn is_read(&self) -> bool {
        self.cursor.0 >= self.until
    }
}

impl Hub {
    /// Begins to keep the latest transitions, if the hub does not yet.
    pub fn begin_history(&self) {
        // The driver looks whether the history has begun, and writes into it, with this lock held.
        let everybody = lock(&self.everybody);
        self.history.begin(everybody.written);
    }

    /// A cursor after number `seq`, where a reader of the history begins.
    pub fn cursor(&self, seq: u64) -> Result<Cursor, Gone> {
        self.history.after(seq)
    }

    /// Changes when the history has more transitions.
    pub fn history_grown(&self) -> watch::Receiver<()> {
        self.history.grown.subscribe()
    }

    /// At most `most` transitions after the cursor, which moves on; none if there are no more yet.
    pub fn read_history(&self, cursor: &mut Cursor, most: usize) -> Result<Vec<Arc<Encoded>>, Gone> {
        self.history.read(cursor, most)
    }

    /// Registers `watcher`, which knows every transition up to number `seq`, for everybody.
    pub fn resume_all(&self, watcher: &Arc<Watcher>, seq: u64) -> Result<Missed, Gone> {
        let mut everybody = lock(&self.everybody);
        let cursor = self.history.after(seq)?;
        // The driver writes into log and history with this lock held, so both end at the same transition.
        everybody.watchers.insert(watcher.id, watcher.clone());
        let until = self.history.end();
        watcher.begin_all(false, until);
        Ok(Missed { cursor, until })
    }

    /// Registers `watcher`, which knows every transition of these users up to number `seq`, for them. Returns
    /// their names, each shared by all who watch the user.
    pub fn resume<'a>(
        &self,
        watcher: &Arc<Watcher>,
        users: impl Iterator<Item = &'a str>,
        seq: u64,
    ) -> Result<(Vec<Name>, Missed), Gone> {
        let cursor = self.history.after(seq)?;
        watcher.hold();
        let names = users.map(|user| self.watch_shared(watcher, user).0).collect();
        Ok((names, Missed { cursor, until: watcher.release() }))
    }

    /// The next message of what a reader has missed, with the users for whom `wants` is true; none once all is
    /// read.
    pub fn missed(
        &self,
        missed: &mut Missed,
        wants: impl Fn(&str) -> bool,
    ) -> Result<Option<Delivery>, Gone> {
        while !missed.is_read() {
            let most = (missed.until - missed.cursor.0).min(FRAME as u64);
            let mut read = self.history.read(&mut missed.cursor, most as usize)?;
            read.retain(|entry| wants(entry.user()));
            if !read.is_empty() {
                return Ok(Some(Delivery { text: message(&read), resume: Some(missed.cursor.0) }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::tests::{change, hub, online, received};
    use std::collections::BTreeMap;

    fn seqs(hub: &Hub, after: u64) -> Result<Vec<u64>, Gone> {
        let read = hub.cursor(after).and_then(|mut cursor| hub.read_history(&mut cursor, 3))?;
        Ok(read.iter().map(|entry| entry.seq).collect())
    }

    #[test]
    fn history_begins_with_its_first_reader() {
        let hub = hub();
        hub.apply(&change("u1", true));
        assert_eq!(hub.cursor(1), Err(Gone), "nothing is kept yet");
        hub.begin_history();
        hub.begin_history();
        assert_eq!([seqs(&hub, 0), seqs(&hub, 1), seqs(&hub, 2)], [Err(Gone), Ok(vec![]), Err(Gone)]);
        hub.apply(&change("u1", false));
        assert_eq!([seqs(&hub, 0), seqs(&hub, 1)], [Err(Gone), Ok(vec![2])]);
    }

    #[test]
    fn history_keeps_the_latest_without_holes() {
        let hub = hub();
        hub.begin_history();
        let last = KEPT as u64 + 10;
        let mut lagging = hub.cursor(0).unwrap();
        for user in 1..=last {
            hub.apply(&change(&format!("u{user}"), true));
        }
        assert_eq!([seqs(&hub, 9), seqs(&hub, last + 1)], [Err(Gone), Err(Gone)]);
        assert_eq!([seqs(&hub, 10), seqs(&hub, last - 1)], [Ok(vec![11, 12, 13]), Ok(vec![last])]);
        assert_eq!(seqs(&hub, last), Ok(vec![]));
        assert_eq!(hub.read_history(&mut lagging, 1).map(drop), Err(Gone), "this reader was too slow");
    }

    #[test]
    fn resume_ends_where_the_mailbox_begins() {
        let hub = hub();
        hub.begin_history();
        ["a", "b", "c"].iter().for_each(|user| drop(hub.apply(&change(user, true))));
        for all in [false, true] {
            let seq = hub.seq();
            ["a", "b"].iter().for_each(|user| drop(hub.apply(&change(user, false))));
            let watcher = hub.watcher();
            let mut missed = match all {
                true => hub.resume_all(&watcher, seq).unwrap(),
                false => hub.resume(&watcher, ["a", "b", "c"].into_iter(), seq).unwrap().1,
            };
            ["a", "b"].iter().for_each(|user| drop(hub.apply(&change(user, true))));
            let first = hub.missed(&mut missed, |user| user != "b").unwrap().unwrap();
            assert_eq!(received(&first.text), [("a".to_owned(), false)]);
            assert_eq!((first.resume, missed.is_read()), (Some(seq + 2), true));
            let rest = watcher.messages();
            assert_eq!(received(&rest[0].text), [("a".to_owned(), true), ("b".to_owned(), true)]);
            assert_eq!((rest.len(), rest[0].resume), (1, Some(seq + 4)));
        }
    }

    #[test]
    fn too_old_a_number_resumes_nothing() {
        let hub = hub();
        let watcher = hub.watcher();
        assert_eq!(hub.resume_all(&watcher, 0).map(drop), Err(Gone), "the history has not begun");
        hub.begin_history();
        assert_eq!(hub.resume(&watcher, ["a"].into_iter(), 1).map(drop), Err(Gone), "a number of the future");
        hub.apply(&change("a", true));
        assert!(watcher.messages().is_empty(), "the watcher is registered nowhere");
    }

    #[test]
    fn no_number_between_cancelled_changes_resumes() {
        let hub = hub();
        let watcher = hub.watcher();
        for user in ["a", "b", "c"] {
            hub.watch(&watcher, &user.into());
        }
        // The reader is sent b (2) and c (3), and never that a came (1) and went (4).
        for (user, live) in [("a", true), ("b", true), ("c", true), ("a", false)] {
            hub.apply(&change(user, live));
        }
        let first = watcher.message_of(1).unwrap();
        assert_eq!((received(&first.text), first.resume), (vec![("b".to_owned(), true)], None));
        let second = watcher.message_of(1).unwrap();
        assert_eq!((received(&second.text), second.resume), (vec![("c".to_owned(), true)], Some(4)));
    }

    #[test]
    fn number_of_an_idle_reader_moves_on() {
        let hub = hub();
        let watcher = hub.watcher();
        hub.watch(&watcher, &"a".into());
        assert_eq!(watcher.resume_at(), Some(0));
        (0..5).for_each(|user| drop(hub.apply(&change(&format!("u{user}"), true))));
        assert!(watcher.messages().is_empty());
        assert_eq!(watcher.resume_at(), Some(5));
    }

    /// A client that leaves at any message and comes back with the number of the last.
    struct Returning<'a> {
        hub: &'a Hub,
        watcher: Arc<Watcher>,
        names: Vec<Name>,
        all: bool,
        missed: Option<Missed>,
        resume: Option<u64>,
        known: BTreeMap<String, bool>,
    }

    impl Returning<'_> {
        fn come(hub: &Hub, all: bool) -> Returning<'_> {
            let watcher = hub.watcher();
            let (names, known) = (Vec::new(), BTreeMap::new());
            let mut client = Returning { hub, watcher, names, all, missed: None, resume: None, known };
            client.begin();
            client
        }

        fn begin(&mut self) {
            let names: Vec<String> =
                (0..6).filter(|i| self.all || i % 2 == 0).map(|i| format!("u{i}")).collect();
            let users = names.iter().map(String::as_str);
            let resumed = self.resume.map(|seq| match self.all {
                true => self.hub.resume_all(&self.watcher, seq).map(|missed| (Vec::new(), missed)),
                false => self.hub.resume(&self.watcher, users, seq),
            });
            if let Some(Ok((names, missed))) = resumed {
                (self.names, self.missed) = (names, Some(missed));
                return;
            }
            self.known = names.iter().map(|name| (name.clone(), false)).collect();
            if self.all {
                let users = self.hub.watch_all(&self.watcher).flatten();
                self.known.extend(users.map(|(name, presence)| (name.to_string(), online(presence))));
            } else {
                self.names = names.iter().map(|name| name.as_str().into()).collect();
                for name in &self.names {
                    let presence = self.hub.watch(&self.watcher, name);
                    self.known.insert(name.to_string(), online(presence));
                }
            }
        }

        fn leave(&mut self) {
            self.hub.unwatch_all(&self.watcher);
            self.names.iter().for_each(|name| self.hub.unwatch(&self.watcher, name));
            (self.watcher, self.missed) = (self.hub.watcher(), None);
        }

        /// Reads one message of at most `most` transitions; false if there is none.
        fn read(&mut self, most: usize) -> bool {
            let names = &self.names;
            let wants = |user: &str| self.all || names.iter().any(|name| *name == *user);
            let missed = self.missed.as_mut().and_then(|missed| self.hub.missed(missed, wants).unwrap());
            let Some(message) = missed.or_else(|| self.watcher.message_of(most)) else {
                self.resume = self.watcher.resume_at();
                return false;
            };
            self.resume = message.resume;
            for (user, state) in received(&message.text) {
                let before = self.known.insert(user.clone(), state);
                assert_eq!(before, Some(!state), "{user} alternates");
            }
            true
        }
    }

    proptest::proptest! {
        /// A reader that leaves after any message and resumes misses nothing and gets nothing twice.
        #[test]
        fn reader_resumes_anywhere(
            all: bool,
            steps in proptest::collection::vec((0u8..20, 0usize..6), 0..300),
        ) {
            let hub = hub();
            hub.begin_history();
            let mut truth = [false; 6];
            let mut client = Returning::come(&hub, all);
            for (action, user) in steps {
                match action {
                    0..12 => {
                        truth[user] = !truth[user];
                        hub.apply(&change(&format!("u{user}"), truth[user]));
                    }
                    12..14 => {
                        client.leave();
                        // Some time passes before it comes back.
                        for (user, online) in truth[..user].iter_mut().enumerate() {
                            *online = !*online;
                            hub.apply(&change(&format!("u{user}"), *online));
                        }
                        client.begin();
                    }
                    14 => hub.settle_all(1),
                    _ => drop(client.read(1 + user)),
                }
            }
            while client.read(2) {}
            for (user, state) in client.known {
                proptest::prop_assert_eq!(truth[user[1..].parse::<usize>().unwrap()], state, "{}", user);
            }
        }
    }
}
