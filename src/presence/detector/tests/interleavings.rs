//! The fence rule under every interleaving of two sessions, six operations, fences and answers,
//! including event streams that lag by more than the TTL.
//!
//! A tiny Redis executes the operations. Its events, the detector's questions and the answers then wait,
//! and any of them may move next. In every order the detector must report exactly what Redis did, key by
//! key, never before Redis did it. A state that another order reached before is not explored again.

use super::*;
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

const TTL: u64 = 10;
const KEYS: [&str; 2] = ["a", "a#b"];

#[derive(Clone, Debug, Hash)]
enum Event {
    Created(usize),
    Set(usize),
    Expired(usize),
    Deleted(usize),
    Fence(BatchId, bool),
}

#[derive(Clone, Debug, Hash)]
enum Question {
    Fence(BatchId, bool),
    Ttl(BatchId, usize),
}

#[derive(Clone)]
struct World {
    now: u64,
    /// Redis: the live keys and their deadlines; one that has passed is deleted on access.
    keys: BTreeMap<usize, u64>,
    /// The changes in Redis that the detector has not reported.
    owed: VecDeque<(usize, bool)>,
    stream: VecDeque<Event>,
    questions: VecDeque<Question>,
    answers: BTreeMap<BatchId, (usize, Vec<Option<u64>>)>,
    detector: Detector,
    /// No `set` is heard.
    unheard: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Set(usize),
    Delete(usize),
    /// More than one TTL passes.
    Tick,
    /// Redis deletes expired keys, as its background cycle would.
    Sweep,
    Ask,
    Deliver,
    Answer(BatchId),
    Due,
}

impl World {
    fn new(unheard: bool) -> World {
        let settings = Settings { first_ttl_ms: TTL, fence_limit_ms: 1 << 40, ..Settings::default() };
        let mut world = World {
            now: 1000,
            keys: BTreeMap::new(),
            owed: VecDeque::new(),
            stream: VecDeque::new(),
            questions: VecDeque::new(),
            answers: BTreeMap::new(),
            detector: Detector::new(settings),
            unheard,
        };
        let (well, uptime_ms) = (Time::from_ms(0), u64::MAX);
        world.feed(Input::Up {
            run: "r",
            outage: false,
            well,
            polled: unheard,
            role: Role::Alone,
            uptime_ms,
        });
        world.feed(Input::Page(world.detector.pass_number, vec![], 0));
        world
    }

    fn end(&mut self, key: usize, event: fn(usize) -> Event) -> bool {
        let was = self.keys.remove(&key).is_some();
        if was {
            self.owed.push_back((key, false));
            self.stream.push_back(event(key));
        }
        was
    }

    fn expire(&mut self, key: usize) {
        if self.keys.get(&key).is_some_and(|&deadline| deadline < self.now) {
            self.end(key, Event::Expired);
        }
    }

    fn feed(&mut self, input: Input) {
        let now = Time::from_ms(self.now);
        self.detector.handle(now, input);
        while let Some(output) = self.detector.poll(now) {
            match output {
                Output::Changed(change) => {
                    let key = KEYS.iter().position(|&key| key == change.key.as_str()).unwrap();
                    assert_eq!(self.owed.pop_front(), Some((key, change.live)), "reported, but not done");
                }
                Output::Ask(id, keys) => {
                    self.answers.insert(id, (keys.len(), Vec::new()));
                    self.questions.push_back(Question::Fence(id, true));
                    for key in keys {
                        let key = KEYS.iter().position(|&known| known == key.as_str()).unwrap();
                        self.questions.push_back(Question::Ttl(id, key));
                    }
                    self.questions.push_back(Question::Fence(id, false));
                }
                Output::Scan(..) | Output::Reconciled | Output::Swept => {}
                Output::Learnt(..) | Output::Unannounced(_) => {}
                Output::Prove => self.detector.handle(now, Input::Proven(now.plus(1))),
                Output::Moved(moved) => panic!("{moved:?} in one server"),
                Output::Restart => panic!("no fence was lost"),
            }
        }
    }

    /// Everything that can move next; operations only while some are left.
    fn steps(&self, operations: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        if operations > 0 {
            steps.extend([Step::Set(0), Step::Set(1)]);
            // The others only if they change anything.
            let ran_out = |&deadline: &u64| deadline < self.now;
            if self.keys.contains_key(&0) {
                steps.push(Step::Delete(0));
            }
            if !self.keys.values().all(ran_out) {
                steps.push(Step::Tick);
            }
            if self.keys.values().any(ran_out) {
                steps.push(Step::Sweep);
            }
        }
        if !self.questions.is_empty() {
            steps.push(Step::Ask);
        }
        if !self.stream.is_empty() {
            steps.push(Step::Deliver);
        }
        let whole = self.answers.iter().filter(|(_, (count, got))| got.len() == *count);
        steps.extend(whole.map(|(&id, _)| Step::Answer(id)));
        if self.detector.next_due().is_some_and(|due| due.as_ms() <= self.now) {
            steps.push(Step::Due);
        }
        steps
    }

    fn walk(&mut self, step: Step) {
        match step {
            Step::Set(key) => {
                self.expire(key);
                if self.keys.insert(key, self.now + TTL).is_none() {
                    self.owed.push_back((key, true));
                    self.stream.push_back(Event::Created(key));
                }
                if !self.unheard {
                    self.stream.push_back(Event::Set(key));
                }
            }
            Step::Delete(key) => {
                self.expire(key);
                self.end(key, Event::Deleted);
            }
            Step::Tick => self.now += TTL + 1,
            Step::Sweep => (0..KEYS.len()).for_each(|key| self.expire(key)),
            Step::Due => self.feed(Input::Due),
            Step::Ask => match self.questions.pop_front().unwrap() {
                Question::Fence(id, open) => self.stream.push_back(Event::Fence(id, open)),
                Question::Ttl(id, key) => {
                    self.expire(key);
                    let left = self.keys.get(&key).map(|deadline| deadline - self.now);
                    self.answers.get_mut(&id).unwrap().1.push(left);
                }
            },
            Step::Answer(id) => {
                let (_, got) = self.answers.remove(&id).unwrap();
                let answers = got.into_iter().map(|left| left.map_or(Answer::Absent, Answer::Left));
                self.feed(Input::Answers(id, answers.collect()));
            }
            Step::Deliver => match self.stream.pop_front().unwrap() {
                Event::Created(key) => self.feed(Input::Created(KEYS[key].as_bytes())),
                Event::Set(key) => self.feed(Input::Renewed(KEYS[key].as_bytes())),
                Event::Expired(key) => self.feed(Input::Ended(KEYS[key].as_bytes(), End::Expired)),
                Event::Deleted(key) => self.feed(Input::Ended(KEYS[key].as_bytes(), End::Deleted)),
                Event::Fence(id, open) => {
                    self.feed(Input::Fence(id, if open { Side::Open } else { Side::Close }));
                }
            },
        }
    }

    /// No more operations: everything under way arrives, and time passes until no key is left.
    fn come_to_rest(&mut self) {
        for _ in 0..200 {
            while let Some(&step) = self.steps(0).first() {
                self.walk(step);
            }
            if self.detector.counts().keys == 0 && self.keys.is_empty() {
                assert!(self.owed.is_empty(), "done, but never reported: {:?}", self.owed);
                assert_eq!(self.detector.table.len(), 0, "a slot was not given back");
                return;
            }
            self.now += 1;
        }
        panic!("keys {:?}, but the detector still holds {}", self.keys, self.detector.counts().keys);
    }

    fn fingerprint(&self, operations: usize) -> u64 {
        let mut hash = DefaultHasher::new();
        (operations, self.now, &self.keys, &self.owed, &self.stream).hash(&mut hash);
        (&self.questions, &self.answers, self.detector.asks.waiting()).hash(&mut hash);
        for key in KEYS {
            let at = self.detector.table.find(key.as_bytes());
            at.map(|at| self.detector.table[at].facts()).hash(&mut hash);
        }
        (&self.detector.checks, self.detector.missed, self.detector.asks.fingerprint()).hash(&mut hash);
        self.detector.deadlines.next().hash(&mut hash);
        hash.finish()
    }
}

fn explore(world: &World, operations: usize, seen: &mut HashSet<u64>, trail: &mut Vec<Step>) {
    if !seen.insert(world.fingerprint(operations)) {
        return;
    }
    if operations == 0 {
        world.clone().come_to_rest();
    }
    for step in world.steps(operations) {
        let mut next = world.clone();
        trail.push(step);
        next.walk(step);
        let operation = matches!(step, Step::Set(_) | Step::Delete(_) | Step::Tick | Step::Sweep);
        explore(&next, operations - usize::from(operation), seen, trail);
        trail.pop();
    }
}

/// Prints the steps that led to a failure; the panic message does not contain them.
struct Trail(Vec<Step>);

impl Drop for Trail {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("steps to the failure: {:?}", self.0);
        }
    }
}

fn explore_all(unheard: bool, operations: usize) {
    let (mut seen, mut trail) = (HashSet::new(), Trail(Vec::new()));
    explore(&World::new(unheard), operations, &mut seen, &mut trail.0);
    eprintln!("{} states", seen.len());
    assert!(seen.len() > 10_000, "only {} states: the walk is broken", seen.len());
}

#[test]
fn every_interleaving_reports_what_redis_did() {
    explore_all(false, 6);
}

#[test]
fn every_interleaving_without_set_reports_what_redis_did() {
    explore_all(true, 5);
}
