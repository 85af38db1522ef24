//! The fence rule under every interleaving of two sessions, six operations, fences and answers,
//! including event streams that lag by more than the TTL.
//!
//! A tiny Redis executes the operations. Its events, the detector's questions and the answers then wait,
//! and any of them may move next. In every order the detector must report exactly what Redis did, key by
//! key, never before Redis did it. A state that another order reached with as many operations left is not explored
//! again.

use super::*;
use hashbrown::{DefaultHashBuilder, HashMap};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, Hasher};

const TTL: u64 = 10;
const KEYS: [&str; 2] = ["a", "a#b"];

#[derive(Clone, Copy, Debug, Hash)]
enum Event {
    Created(usize),
    Set(usize),
    Expired(usize),
    Deleted(usize),
    Fence(BatchId, bool),
}

#[derive(Clone, Copy, Debug, Hash)]
enum Question {
    Fence(BatchId, bool),
    Ttl(BatchId, usize),
}

#[derive(Clone)]
struct World {
    now: u64,
    /// Redis: the live keys and their deadlines; one that has passed is deleted on access.
    keys: [Option<u64>; KEYS.len()],
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
            keys: [None; KEYS.len()],
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
        let was = self.keys[key].take().is_some();
        if was {
            self.owed.push_back((key, false));
            self.stream.push_back(event(key));
        }
        was
    }

    fn ran_out(&self, key: usize) -> bool {
        self.keys[key].is_some_and(|deadline| deadline < self.now)
    }

    fn expire(&mut self, key: usize) {
        if self.ran_out(key) {
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
                Output::Learnt(..)
                | Output::Unannounced(_)
                | Output::CommonTtl(_)
                | Output::Unknown { .. } => {}
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
            let there = |&key: &usize| self.keys[key].is_some();
            if there(&0) {
                steps.push(Step::Delete(0));
            }
            if (0..KEYS.len()).filter(there).any(|key| !self.ran_out(key)) {
                steps.push(Step::Tick);
            }
            if (0..KEYS.len()).any(|key| self.ran_out(key)) {
                steps.push(Step::Sweep);
            }
        }
        if let Some(question) = self.questions.front() {
            steps.push(Step::Ask);
            // Without further operations it makes no difference to anything else when Redis answers, but for an end that
            // nobody may report earlier.
            let ends = matches!(question, &Question::Ttl(_, key) if self.ran_out(key));
            if operations == 0 && !ends {
                return steps;
            }
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
                if self.keys[key].replace(self.now + TTL).is_none() {
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
                    let left = self.keys[key].map(|deadline| deadline - self.now);
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
            if self.detector.counts().keys == 0 && self.keys == [None; KEYS.len()] {
                assert!(self.owed.is_empty(), "done, but never reported: {:?}", self.owed);
                assert_eq!(self.detector.table.len(), 0, "a slot was not given back");
                return;
            }
            self.now += 1;
        }
        panic!("keys {:?}, but the detector still holds {}", self.keys, self.detector.counts().keys);
    }

    /// Everything that decides what can still happen. Instants count from now and batches from the last one, so states that
    /// differ in nothing else are one.
    fn fingerprint(&self, hasher: &DefaultHashBuilder) -> u64 {
        let mut hash = hasher.build_hasher();
        let World { now, keys, owed, stream, questions, answers, detector, unheard } = self;
        let last = detector.asks.last();
        // For how long a key has been out of time makes no difference.
        keys.map(|deadline| deadline.map(|deadline| (deadline + 1).saturating_sub(*now))).hash(&mut hash);
        owed.hash(&mut hash);
        (stream.len(), questions.len(), answers.len()).hash(&mut hash);
        stream.iter().for_each(|event| event.counted_from(last).hash(&mut hash));
        questions.iter().for_each(|question| question.counted_from(last).hash(&mut hash));
        answers.iter().for_each(|(&id, answers)| (last - id, answers).hash(&mut hash));
        detector.hash(Time::from_ms(*now), &mut hash);
        // Early questions come at round instants.
        unheard.then_some(*now).hash(&mut hash);
        hash.finish()
    }
}

impl Detector {
    /// Hashes what decides the future of the two keys. A field that is left out never changes here, counts without deciding
    /// anything, or follows from the others.
    fn hash(&self, now: Time, hash: &mut impl Hasher) {
        let Detector {
            table,
            deadlines,
            asks,
            pass: None,
            unasked: None,
            recreated: None,
            up: true,
            restart_sent: false,
            retired: 0,
            checks,
            fickle,
            // No command retimes a key.
            last_set: _,
            // Each `set` comes later.
            missed: _,
            settings: _,
            pass_number: _,
            run: _,
            grants: _,
            outages: _,
            polled: _,
            tracked: _,
            role: _,
            led_since: _,
            origins: _,
            claims: _,
            // Only grants depend on it.
            usual: _,
            counts: _,
            vote: _,
            digest: _,
            out: _,
        } = self
        else {
            panic!("a pass, a move or a lost fence")
        };
        for key in KEYS {
            let at = table.find(key.as_bytes());
            let slot = at.map(|at| &table[at]);
            slot.map(|slot| slot.facts(now, asks.last())).hash(hash);
            fickle.has(key).hash(hash);
            // So the buckets hold nothing else that counts.
            let filed = slot.filter(|slot| slot.is_filed());
            assert!(filed.is_none_or(|slot| deadlines.has(at.unwrap(), slot.filed())), "{key} has no bucket");
        }
        asks.hash(now, table, hash);
        checks.hash(hash);
    }
}

impl Event {
    fn counted_from(&self, last: BatchId) -> Event {
        if let &Event::Fence(id, open) = self { Event::Fence(last - id, open) } else { *self }
    }
}

impl Question {
    fn counted_from(&self, last: BatchId) -> Question {
        match *self {
            Question::Fence(id, open) => Question::Fence(last - id, open),
            Question::Ttl(id, key) => Question::Ttl(last - id, key),
        }
    }
}

/// A depth-first walk over all orders.
#[derive(Default)]
struct Walk {
    trail: Vec<Step>,
    hasher: DefaultHashBuilder,
    /// The fingerprint of each state, and one more than the most operations that were left there.
    seen: HashMap<u64, usize>,
}

/// Prints the steps that led to a failure; the panic message does not contain them.
impl Drop for Walk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("steps to the failure: {:?}", self.trail);
        }
    }
}

impl Walk {
    fn explore(&mut self, mut world: World, operations: usize) {
        let most = self.seen.entry(world.fingerprint(&self.hasher)).or_default();
        if *most > operations {
            return;
        }
        *most = operations + 1;
        let steps = world.steps(operations);
        let Some((&last, others)) = steps.split_last() else { return world.come_to_rest() };
        for &step in others {
            self.follow(world.clone(), step, operations);
        }
        self.follow(world, last, operations);
    }

    fn follow(&mut self, mut world: World, step: Step, operations: usize) {
        self.trail.push(step);
        assert!(self.trail.len() < 200, "the detector does not stop asking");
        world.walk(step);
        let operation = matches!(step, Step::Set(_) | Step::Delete(_) | Step::Tick | Step::Sweep);
        self.explore(world, operations - usize::from(operation));
        self.trail.pop();
    }
}

fn explore_all(unheard: bool, operations: usize) {
    let mut walk = Walk::default();
    walk.explore(World::new(unheard), operations);
    eprintln!("{} states", walk.seen.len());
    assert!(walk.seen.len() > 10_000, "only {} states: the walk is broken", walk.seen.len());
}

#[test]
fn every_interleaving_reports_what_redis_did() {
    explore_all(false, 6);
}

#[test]
fn every_interleaving_without_set_reports_what_redis_did() {
    explore_all(true, 5);
}
