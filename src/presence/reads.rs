//! Which keys have to be read again, so that the values that the daemon holds are those in Redis. For keys that seldom
//! change and of which the server reports only that they changed: statuses and groups.
//!
//! A key is read when a change is reported, and once more if another change is reported while the answer is under way: that
//! answer may be older than the second change. A value with a TTL is read again when the TTL ends, because the server reports
//! an expiry only when it deletes the key.
//!
//! After an answer a key may rest, for it is costly to read: changes that are reported in that time are read when it ends. Keys that
//! a client waits for are read before those that are read again.

use super::{Name, Time};
use std::collections::{BTreeSet, HashMap, VecDeque};

/// See the module's head. Time is an argument; nothing here asks Redis.
#[derive(Debug, Default)]
pub struct Reads {
    keys: HashMap<Name, Reading>,
    /// Keys in the state [`State::Waiting`] that a client waits for, in order.
    first: VecDeque<Name>,
    /// The other keys in the state [`State::Waiting`], in order.
    waiting: VecDeque<Name>,
    /// The instants at which a key has to be read again although no change was reported.
    due: BTreeSet<(Time, Name)>,
    /// The instants from which keys in the state [`State::Resting`] may be read again. A key that rests no more may have an entry, too.
    rests: BTreeSet<(Time, Name)>,
}

#[derive(Debug)]
struct Reading {
    state: State,
    due: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The value that is held is the last that Redis reported.
    Settled,
    /// The key is to be read.
    Waiting,
    /// The answer is under way.
    Asked,
    /// The answer is under way, and may be older than a change.
    Outdated,
    /// The key is not read before this time; whether a change was reported since the last answer.
    Resting { until: Time, changed: bool },
}

impl Reads {
    /// A change of a key was reported, or it was found.
    pub fn changed(&mut self, key: &Name) {
        let reading = self.keys.entry(key.clone()).or_insert(Reading { state: State::Settled, due: None });
        match reading.state {
            State::Settled => {
                reading.state = State::Waiting;
                self.waiting.push_back(key.clone());
            }
            State::Asked => reading.state = State::Outdated,
            State::Resting { until, .. } => reading.state = State::Resting { until, changed: true },
            State::Waiting | State::Outdated => {}
        }
    }

    /// A client waits for a key: it is read before those that only changed, and its rest ends.
    pub fn wanted(&mut self, key: &Name) {
        let state = self.keys.get(key).map(|reading| reading.state);
        match state {
            Some(State::Asked | State::Outdated) => return self.changed(key),
            Some(State::Waiting) if self.first.contains(key) => return,
            Some(State::Waiting) => self.waiting.retain(|other| other != key),
            Some(State::Settled | State::Resting { .. }) | None => {}
        }
        let reading = self.keys.entry(key.clone()).or_insert(Reading { state: State::Waiting, due: None });
        reading.state = State::Waiting;
        self.first.push_back(key.clone());
    }

    /// Takes at most `most` keys that are to be read now.
    pub fn take(&mut self, most: usize) -> Vec<Name> {
        let mut taken = self.take_first(most);
        taken.extend(self.waiting.drain(..self.waiting.len().min(most - taken.len())));
        self.ask(taken)
    }

    /// Takes at most `most` keys that a client waits for.
    pub fn take_first(&mut self, most: usize) -> Vec<Name> {
        let taken = self.first.drain(..self.first.len().min(most)).collect();
        self.ask(taken)
    }

    fn ask(&mut self, taken: Vec<Name>) -> Vec<Name> {
        for key in &taken {
            if let Some(reading) = self.keys.get_mut(key) {
                reading.state = State::Asked;
            }
        }
        taken
    }

    /// The answer to a question of [`take`](Reads::take) has come. It holds until `due`, when the key is read again. With `rest` a
    /// change is read only then.
    pub fn answered(&mut self, key: &Name, due: Option<Time>, rest: Option<Time>) {
        let Some(reading) = self.keys.get_mut(key) else { return };
        if let Some(before) = std::mem::replace(&mut reading.due, due) {
            self.due.remove(&(before, key.clone()));
        }
        if let Some(due) = due {
            self.due.insert((due, key.clone()));
        }
        match (reading.state, rest) {
            (State::Asked | State::Outdated, Some(until)) => {
                reading.state = State::Resting { until, changed: reading.state == State::Outdated };
                self.rests.insert((until, key.clone()));
            }
            (State::Outdated, None) => {
                reading.state = State::Waiting;
                self.waiting.push_back(key.clone());
            }
            (State::Asked, None) => self.settle(key),
            (State::Settled | State::Waiting | State::Resting { .. }, _) => {}
        }
    }

    /// The value that is held is the last that Redis reported. A key that is not read again costs no memory.
    fn settle(&mut self, key: &Name) {
        let Some(reading) = self.keys.get_mut(key) else { return };
        match reading.due {
            Some(_) => reading.state = State::Settled,
            None => drop(self.keys.remove(key)),
        }
    }

    /// There was no answer: the key is to be read again.
    pub fn failed(&mut self, key: &Name) {
        let Some(reading) = self.keys.get_mut(key) else { return };
        if matches!(reading.state, State::Asked | State::Outdated) {
            reading.state = State::Waiting;
            self.waiting.push_back(key.clone());
        }
    }

    /// Has the keys read whose time has come.
    pub fn wake(&mut self, now: Time) {
        while let Some((until, key)) = self.rests.first().filter(|(until, _)| *until <= now).cloned() {
            self.rests.pop_first();
            match self.keys.get_mut(&key) {
                Some(reading) if reading.state == (State::Resting { until, changed: true }) => {
                    reading.state = State::Waiting;
                    self.waiting.push_back(key);
                }
                Some(reading) if reading.state == (State::Resting { until, changed: false }) => {
                    self.settle(&key)
                }
                _ => {}
            }
        }
        while let Some((_, key)) = self.due.first().filter(|(due, _)| *due <= now).cloned() {
            self.due.pop_first();
            if let Some(reading) = self.keys.get_mut(&key) {
                reading.due = None;
            }
            self.changed(&key);
        }
    }

    /// When [`wake`](Reads::wake) has to be called next.
    pub fn next_due(&self) -> Option<Time> {
        [self.due.first(), self.rests.first()].into_iter().flatten().map(|(time, _)| *time).min()
    }

    /// Whether a key is to be read now.
    pub fn is_waiting(&self) -> bool {
        !self.first.is_empty() || !self.waiting.is_empty()
    }

    /// How many keys are known here: those that are to be read, now or later.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is to be read, now or later.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        text.into()
    }

    #[test]
    fn changes_while_asked_cause_one_more_read() {
        let (mut reads, key) = (Reads::default(), name("a"));
        reads.changed(&key);
        reads.changed(&key);
        assert_eq!(reads.take(9), std::slice::from_ref(&key));
        assert!(!reads.is_waiting());
        reads.changed(&key);
        reads.changed(&key);
        assert!(!reads.is_waiting(), "the first answer comes before the second question");
        reads.answered(&key, None, None);
        assert_eq!(reads.take(9), std::slice::from_ref(&key));
        reads.answered(&key, None, None);
        assert!(!reads.is_waiting() && reads.is_empty(), "a settled key costs no memory");
    }

    #[test]
    fn key_is_read_when_its_time_ends() {
        let (mut reads, key) = (Reads::default(), name("a"));
        reads.changed(&key);
        reads.take(1);
        reads.answered(&key, Some(Time::from_ms(50)), None);
        assert_eq!(reads.next_due(), Some(Time::from_ms(50)));
        reads.wake(Time::from_ms(49));
        assert!(!reads.is_waiting());
        reads.wake(Time::from_ms(50));
        assert_eq!((reads.take(9), reads.next_due()), (vec![key.clone()], None));
        reads.answered(&key, Some(Time::from_ms(70)), None);
        reads.changed(&key);
        reads.take(1);
        reads.answered(&key, None, None);
        assert_eq!((reads.next_due(), reads.len()), (None, 0), "the new value has no TTL");
    }

    #[test]
    fn failed_read_is_repeated() {
        let (mut reads, key) = (Reads::default(), name("a"));
        reads.changed(&key);
        assert_eq!(reads.take(1), std::slice::from_ref(&key));
        reads.failed(&key);
        reads.failed(&key);
        assert_eq!(reads.take(9), [key]);
    }

    #[test]
    fn resting_key_is_read_once_its_rest_ends() {
        let (mut reads, key) = (Reads::default(), name("a"));
        reads.changed(&key);
        reads.take(1);
        reads.answered(&key, None, Some(Time::from_ms(50)));
        reads.changed(&key);
        reads.changed(&key);
        assert_eq!((reads.is_waiting(), reads.next_due()), (false, Some(Time::from_ms(50))));
        reads.wake(Time::from_ms(49));
        assert!(!reads.is_waiting());
        reads.wake(Time::from_ms(50));
        assert_eq!(reads.take(9), std::slice::from_ref(&key));
        reads.changed(&key);
        reads.answered(&key, None, Some(Time::from_ms(90)));
        assert!(!reads.is_waiting(), "the change while it was asked waits, too");
        reads.wake(Time::from_ms(90));
        reads.take(1);
        reads.answered(&key, None, Some(Time::from_ms(130)));
        reads.wake(Time::from_ms(130));
        assert!(!reads.is_waiting() && reads.is_empty(), "a key that did not change costs no memory");
    }

    #[test]
    fn key_that_a_client_waits_for_comes_first() {
        let (mut reads, [a, b, c]) = (Reads::default(), ["a", "b", "c"].map(name));
        reads.changed(&a);
        reads.changed(&b);
        reads.wanted(&b);
        reads.wanted(&b);
        reads.wanted(&c);
        assert_eq!(reads.take_first(1), std::slice::from_ref(&b));
        assert_eq!((reads.take(9), reads.take(9)), (vec![c.clone(), a], vec![]));
        reads.answered(&c, None, Some(Time::from_ms(50)));
        reads.wanted(&c);
        assert_eq!(reads.take_first(9), std::slice::from_ref(&c), "its rest ends");
        reads.wake(Time::from_ms(50));
        assert!(!reads.is_waiting(), "it is asked already");
        reads.wanted(&c);
        reads.answered(&c, None, None);
        assert_eq!(reads.take(9), [c]);
    }

    /// A server whose values change, whose reports arrive late, and which answers in order.
    #[derive(Default)]
    struct Server {
        values: [u8; 4],
        reports: VecDeque<usize>,
        answers: VecDeque<(usize, u8)>,
    }

    proptest! {
        /// Whatever is delayed, the value held in the end is the last one.
        #[test]
        fn last_value_is_read_in_the_end(steps in prop::collection::vec((0u8..7, 0usize..4), 0..200)) {
            let (mut reads, mut server, mut held) = (Reads::default(), Server::default(), [0; 4]);
            let key = |at: usize| name(&at.to_string());
            let settle = |reads: &mut Reads, server: &mut Server, held: &mut [u8; 4], action: u8, at: usize| match action {
                0 => {
                    server.values[at] = server.values[at].wrapping_add(1);
                    server.reports.push_back(at);
                }
                1 => if let Some(at) = server.reports.pop_front() {
                    reads.changed(&key(at));
                },
                2 => for taken in reads.take(1 + at) {
                    let at: usize = taken.parse().unwrap();
                    server.answers.push_back((at, server.values[at]));
                },
                3 => if let Some((at, value)) = server.answers.pop_front() {
                    held[at] = value;
                    // Half of the keys rest.
                    reads.answered(&key(at), None, at.is_multiple_of(2).then_some(Time::from_ms(9)));
                },
                4 => if let Some((at, _)) = server.answers.pop_front() {
                    reads.failed(&key(at));
                },
                5 => reads.wanted(&key(at)),
                _ => reads.wake(Time::from_ms(9)),
            };
            for (action, at) in steps {
                settle(&mut reads, &mut server, &mut held, action, at);
                prop_assert!(reads.len() <= 4 && server.answers.len() <= 4, "one question for each key");
            }
            for _ in 0..300 {
                for action in [1, 2, 3, 6] {
                    settle(&mut reads, &mut server, &mut held, action, 3);
                }
            }
            prop_assert_eq!(held, server.values);
            prop_assert!(reads.is_empty());
        }
    }
}
