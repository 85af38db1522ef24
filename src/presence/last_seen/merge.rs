//! Reads the times of all buckets together, newest first, in pieces.
//!
//! The order is by time, then by bucket, then by name backwards, as Redis orders members with one score when it reads from the
//! highest. So a place in the list is a time and a user: of the buckets before the user's, everything with that time is read; of
//! those after it, nothing; of the user's own, the names behind the user's.

use super::{SEEN_BUCKETS, Seen, seen_bucket};
use crate::{Name, Time, check_user};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt;

/// A place in the list: behind this user with this time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenCursor {
    seen: Time,
    user: Name,
}

impl SeenCursor {
    /// Parses the output of [`Display`](fmt::Display).
    pub fn parse(text: &str) -> Option<SeenCursor> {
        let (seen, user) = text.split_once('-')?;
        let digits = !seen.is_empty() && seen.len() <= 16 && seen.bytes().all(|byte| byte.is_ascii_digit());
        let seen = seen.parse().ok().filter(|_| digits)?;
        check_user(user).ok()?;
        Some(SeenCursor { seen: Time::from_ms(seen), user: user.into() })
    }
}

impl fmt::Display for SeenCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.seen.as_ms(), self.user)
    }
}

/// A question about a bucket: its times from the newest that is not after `newest`, at most `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenQuestion {
    /// The bucket.
    pub bucket: usize,
    /// The newest time that is wanted.
    pub newest: Time,
    /// How many times are wanted.
    pub count: usize,
}

/// The part of a bucket that is read, and where it goes on.
#[derive(Debug)]
struct Bucket {
    read: VecDeque<Seen>,
    /// Everything newer was read.
    newest: Time,
    /// Of the times that equal `newest`: the names from the highest to this one were read.
    behind: Option<Name>,
    /// How many times to ask for.
    count: usize,
    ended: bool,
}

/// See the module's head.
#[derive(Debug)]
pub struct SeenMerge {
    buckets: Vec<Bucket>,
    /// How many times one question asks for.
    count: usize,
}

impl SeenMerge {
    /// Reads on from a place, or from the newest. A question asks for `count` times.
    pub fn new(from: Option<&SeenCursor>, count: usize) -> SeenMerge {
        let bucket = |at: usize| {
            let (newest, behind, ended) = match from {
                None => (Time::from_ms(1 << 53), None, false),
                Some(SeenCursor { seen, user }) => match at.cmp(&seen_bucket(user)) {
                    // Nothing is older than 0.
                    Ordering::Less => (seen.minus(1), None, *seen == Time::default()),
                    Ordering::Equal => (*seen, Some(user.clone()), false),
                    Ordering::Greater => (*seen, None, false),
                },
            };
            Bucket { read: VecDeque::new(), newest, behind, count, ended }
        };
        SeenMerge { buckets: (0..SEEN_BUCKETS).map(bucket).collect(), count }
    }

    /// The questions that must be answered before [`pop`](SeenMerge::pop) can go on.
    pub fn questions(&self) -> Vec<SeenQuestion> {
        let open = self.buckets.iter().enumerate().filter(|(_, one)| one.read.is_empty() && !one.ended);
        open.map(|(bucket, one)| SeenQuestion { bucket, newest: one.newest, count: one.count }).collect()
    }

    /// The answer to a question: times in the order of Redis, newest first. `members` is how many there were, those with invalid
    /// names included.
    pub fn answer(&mut self, question: SeenQuestion, times: Vec<Seen>, members: usize) {
        let bucket = &mut self.buckets[question.bucket];
        let (newest, behind) = (bucket.newest, bucket.behind.take());
        let last = times.last().cloned();
        let is_read =
            |(user, seen): &Seen| *seen == newest && behind.as_ref().is_some_and(|last| user >= last);
        bucket.read = times.into_iter().filter(|one| !is_read(one)).collect();
        bucket.ended = members < question.count;
        // Where more members than were asked for have one time, or no valid name, only a longer answer goes further.
        bucket.count = if bucket.read.is_empty() { question.count.saturating_mul(4) } else { self.count };
        (bucket.newest, bucket.behind) = match last {
            Some((user, seen)) if !bucket.read.is_empty() => (seen, Some(user)),
            _ => (newest, behind),
        };
    }

    /// The next user; `None` after the last one, or while there are questions.
    pub fn pop(&mut self) -> Option<Seen> {
        let mut best: Option<usize> = None;
        for (at, bucket) in self.buckets.iter().enumerate() {
            let Some((_, seen)) = bucket.read.front() else {
                if bucket.ended {
                    continue;
                }
                return None;
            };
            let newest = best.and_then(|best| self.buckets[best].read.front()).map(|(_, seen)| *seen);
            if newest.is_none_or(|newest| *seen > newest) {
                best = Some(at);
            }
        }
        self.buckets[best?].read.pop_front()
    }

    /// Whether there may be more users.
    pub fn is_open(&self) -> bool {
        self.buckets.iter().any(|bucket| !bucket.ended || !bucket.read.is_empty())
    }

    /// The place behind this user.
    pub fn behind((user, seen): &Seen) -> SeenCursor {
        SeenCursor { seen: *seen, user: user.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The buckets of Redis.
    #[derive(Default)]
    struct Server {
        buckets: Vec<BTreeSet<(Time, Name)>>,
        answered: usize,
    }

    impl Server {
        fn of(users: &[Seen]) -> Server {
            let mut server = Server { buckets: vec![BTreeSet::new(); SEEN_BUCKETS], answered: 0 };
            for (user, seen) in users {
                server.buckets[seen_bucket(user)].insert((*seen, user.clone()));
            }
            server
        }

        fn answer(&mut self, question: SeenQuestion) -> Vec<Seen> {
            let newer = self.buckets[question.bucket].iter().rev();
            let wanted = newer.filter(|(seen, _)| *seen <= question.newest).take(question.count);
            let times: Vec<Seen> = wanted.map(|(seen, user)| (user.clone(), *seen)).collect();
            self.answered += times.len();
            times
        }

        /// All pages of so many users, with questions of `count` times.
        fn pages(&mut self, size: usize, count: usize) -> Vec<Seen> {
            let (mut all, mut from) = (Vec::new(), None);
            loop {
                let mut merge = SeenMerge::new(from.as_ref(), count);
                let mut page = Vec::new();
                while page.len() < size {
                    for question in merge.questions() {
                        let times = self.answer(question);
                        let members = times.len();
                        merge.answer(question, times, members);
                    }
                    match merge.pop() {
                        Some(one) => page.push(one),
                        None if merge.questions().is_empty() => break,
                        None => {}
                    }
                }
                let Some(last) = page.last() else { return all };
                let place = SeenMerge::behind(last).to_string();
                from = SeenCursor::parse(&place);
                assert!(from.is_some(), "{place}");
                all.extend(page);
            }
        }
    }

    #[test]
    fn cursor_reads_back_as_itself() {
        for text in ["1690000000000-alice", "0-a-b", "7-日本 語"] {
            assert_eq!(SeenCursor::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "7", "7-", "-a", "x-a", "+7-a", "7-a#b", "7-a\nb", "12345678901234567-a"] {
            assert_eq!(SeenCursor::parse(text), None, "{text}");
        }
    }

    #[test]
    fn page_reads_little_more_than_its_users() {
        let users: Vec<Seen> =
            (0..20_000).map(|i| (Name::from(format!("u{i}")), Time::from_ms(i * 7 % 20_000))).collect();
        let mut server = Server::of(&users);
        let mut merge = SeenMerge::new(None, 1_000 / SEEN_BUCKETS + 8);
        let mut page = Vec::new();
        while page.len() < 1_000 {
            for question in merge.questions() {
                let times = server.answer(question);
                let members = times.len();
                merge.answer(question, times, members);
            }
            page.extend(merge.pop());
        }
        assert!(page.is_sorted_by(|one, other| one.1 >= other.1));
        assert!(server.answered < 3_000, "{} times were read for 1,000 users", server.answered);
    }

    #[test]
    fn invalid_members_end_no_bucket() {
        let mut merge = SeenMerge::new(None, 2);
        let question = merge.questions()[0];
        for other in &merge.questions()[1..] {
            merge.answer(*other, Vec::new(), 0);
        }
        merge.answer(question, Vec::new(), 2);
        let again = merge.questions();
        assert_eq!((again.len(), again[0].count), (1, 8), "two members without a valid name came");
        let alice = (Name::from("alice"), Time::from_ms(7));
        merge.answer(again[0], vec![alice.clone()], 3);
        assert_eq!((merge.pop(), merge.pop(), merge.questions()), (Some(alice), None, vec![]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// All pages together have every user once, newest first, however many have the same time.
        #[test]
        fn pages_have_every_user_once(
            times in prop::collection::vec(0u64..4, 0..200),
            size in 5usize..50,
            count in 1usize..6,
        ) {
            let named = |(i, seen): (usize, &u64)| (Name::from(format!("u{i}")), Time::from_ms(*seen));
            let users: Vec<Seen> = times.iter().enumerate().map(named).collect();
            let listed = Server::of(&users).pages(size, count);
            prop_assert!(listed.is_sorted_by(|one, other| one.1 >= other.1));
            let names = |users: &[Seen]| users.iter().map(|(user, _)| user.clone()).collect::<BTreeSet<_>>();
            prop_assert_eq!((listed.len(), names(&listed)), (users.len(), names(&users)));
        }
    }
}
