//! Random histories against a slow and obvious model of Redis, faults included.
//!
//! Without loss, the detector must report exactly what Redis did. When events are lost, or servers disappear,
//! restart or are flushed, it must never report the same change of a key twice, never report a user offline whose
//! program keeps sending heartbeats, and after recovery believe exactly what Redis holds.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};

const TTL: u64 = 1_000;
const KEYS: usize = 4;
/// The interval between sweeps of a server that does not report each `set`, in milliseconds.
const SWEEP_MS: u64 = 300;
/// Renewed in every step, except for half a TTL after a restart: must never go offline.
const STEADY: &str = "steady";

#[derive(Debug, Clone)]
enum Op {
    Set(usize),
    Delete(usize),
    /// Renews without an event that is listened to.
    Expire(usize),
    Persist(usize),
    Evict(usize),
    Wait(u64),
    /// Delivers this many events; the others lag.
    Deliver(usize),
    /// Loses the events under way, and reports a gap.
    Lose,
    /// The connection is lost for this many milliseconds; the server keeps running.
    Cut(u64),
    /// The server restarts after this many milliseconds, empty (`true`) or with its data.
    Restart(bool, u64),
    Flush,
    /// A new daemon starts without any state.
    Daemon,
}

/// Nothing is lost, but events may be late.
fn quiet_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..KEYS).prop_map(Op::Set),
        3 => (0..KEYS).prop_map(Op::Delete),
        2 => (0..KEYS).prop_map(Op::Expire),
        8 => (0..TTL * 3 / 2).prop_map(Op::Wait),
        6 => (1usize..12).prop_map(Op::Deliver),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        25 => quiet_op(),
        1 => (0..KEYS).prop_map(Op::Persist),
        1 => (0..KEYS).prop_map(Op::Evict),
        1 => Just(Op::Lose),
        1 => (0..TTL / 2).prop_map(Op::Cut),
        2 => (any::<bool>(), 0..TTL * 3).prop_map(|(empty, ms)| Op::Restart(empty, ms)),
        1 => Just(Op::Flush),
        1 => Just(Op::Daemon),
    ]
}

/// The events that the server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hears {
    All,
    /// All but `set`, whose `new` reports the key that comes into being.
    Changes,
    /// Only `expired`.
    Expired,
    /// No keyspace event: only fences.
    Nothing,
}

fn hears() -> impl Strategy<Value = Hears> {
    prop_oneof![
        2 => Just(Hears::All),
        2 => Just(Hears::Changes),
        1 => Just(Hears::Expired),
        1 => Just(Hears::Nothing),
    ]
}

enum Event {
    Created(String),
    Set(String),
    Ended(String, End),
    Fence(BatchId, Side),
}

struct World {
    hears: Hears,
    now: u64,
    /// Redis: deadlines of live keys; `u64::MAX` has none.
    keys: BTreeMap<String, u64>,
    stream: VecDeque<Event>,
    detector: Detector,
    connected: bool,
    /// When everything was read and compared last.
    well: u64,
    runs: u32,
    /// When the server was started.
    started: u64,
    /// The steady user sends no heartbeat until then.
    pause_until: u64,
    /// The last report of each key.
    said: HashMap<String, bool>,
    log: Vec<(String, bool)>,
    truth: Vec<(String, bool)>,
}

fn detector() -> Detector {
    let settings = Settings {
        first_ttl_ms: TTL,
        batch_keys: 2,
        fence_limit_ms: 1 << 40,
        trusted_uptime_ms: 2 * TTL,
        ..Settings::default()
    };
    Detector::new(settings)
}

impl World {
    fn new(hears: Hears) -> World {
        let mut world = World {
            hears,
            now: 10_000,
            keys: BTreeMap::new(),
            stream: VecDeque::new(),
            detector: detector(),
            connected: false,
            well: 0,
            runs: 0,
            started: 0,
            pause_until: 0,
            said: HashMap::new(),
            log: Vec::new(),
            truth: Vec::new(),
        };
        world.connect(false);
        world
    }

    fn feed(&mut self, input: Input) {
        let now = Time::from_ms(self.now);
        self.detector.handle(now, input);
        self.drain();
    }

    fn drain(&mut self) {
        let now = Time::from_ms(self.now);
        while let Some(output) = self.detector.poll(now) {
            match output {
                Output::Changed(change) => {
                    let key = change.key.as_str().to_owned();
                    let before = self.said.insert(key.clone(), change.live).unwrap_or(false);
                    assert_ne!(before, change.live, "{key} was reported twice");
                    assert!(change.at <= now && change.last_seen <= now, "{change:?} at {now:?}");
                    assert!(change.live || key != STEADY, "a steady user blinked: {change:?} at {now:?}");
                    self.log.push((key, change.live));
                }
                Output::Ask(id, keys) => self.ask(id, &keys),
                Output::Scan(number, _) => {
                    let names: Vec<String> = self.keys.keys().cloned().collect();
                    names.iter().for_each(|name| self.expire(name));
                    let names = self.keys.keys().map(|name| name.clone().into_bytes()).collect();
                    self.detector.handle(now, Input::Page(number, names, 0));
                }
                Output::Reconciled | Output::Swept | Output::Learnt(..) => {}
                Output::Unannounced(_) | Output::CommonTtl(_) | Output::Unknown { .. } => {}
                Output::Prove => self.detector.handle(now, Input::Proven(now.plus(1))),
                Output::Moved(moved) => panic!("{moved:?} in one server"),
                Output::Restart => panic!("no fence is lost without a gap"),
            }
        }
    }

    fn publish(&mut self, event: Event) {
        let told = match (self.hears, &event) {
            (Hears::All, _) => true,
            (Hears::Changes, event) => !matches!(event, Event::Set(_)),
            (Hears::Expired, event) => matches!(event, Event::Fence(..) | Event::Ended(_, End::Expired)),
            (Hears::Nothing, event) => matches!(event, Event::Fence(..)),
        };
        if told {
            self.stream.push_back(event);
        }
    }

    /// The answers arrive at once and overtake every event under way.
    fn ask(&mut self, id: BatchId, keys: &[Key]) {
        self.publish(Event::Fence(id, Side::Open));
        let mut answers = Vec::new();
        for key in keys {
            self.expire(key.as_str());
            answers.push(match self.keys.get(key.as_str()) {
                None => Answer::Absent,
                Some(&u64::MAX) => Answer::NoTtl,
                Some(deadline) => Answer::Left(deadline - self.now),
            });
        }
        self.publish(Event::Fence(id, Side::Close));
        self.detector.handle(Time::from_ms(self.now), Input::Answers(id, answers));
    }

    fn expire(&mut self, key: &str) {
        if self.keys.get(key).is_some_and(|&deadline| deadline < self.now) {
            self.end(key, End::Expired);
        }
    }

    fn end(&mut self, key: &str, end: End) {
        if self.keys.remove(key).is_some() {
            self.truth.push((key.to_owned(), false));
            self.publish(Event::Ended(key.to_owned(), end));
        }
    }

    fn set(&mut self, key: &str) {
        self.expire(key);
        if self.keys.insert(key.to_owned(), self.now + TTL).is_none() {
            self.truth.push((key.to_owned(), true));
            self.publish(Event::Created(key.to_owned()));
        }
        self.publish(Event::Set(key.to_owned()));
    }

    fn beat(&mut self) {
        if self.now >= self.pause_until {
            self.set(STEADY);
        }
    }

    fn deliver(&mut self) -> bool {
        if !self.connected {
            return false;
        }
        match self.stream.pop_front() {
            None => return false,
            Some(Event::Created(key)) => self.feed(Input::Created(key.as_bytes())),
            Some(Event::Set(key)) => self.feed(Input::Renewed(key.as_bytes())),
            Some(Event::Ended(key, end)) => self.feed(Input::Ended(key.as_bytes(), end)),
            Some(Event::Fence(id, side)) => self.feed(Input::Fence(id, side)),
        }
        true
    }

    fn connect(&mut self, outage: bool) {
        self.connected = true;
        // A new subscription receives only new events.
        self.stream.clear();
        let run = format!("run{}", self.runs);
        let uptime_ms = self.now - self.started;
        let (well, polled) = (Time::from_ms(self.well), self.hears != Hears::All);
        self.feed(Input::Up { run: &run, outage, well, polled, role: Role::Alone, uptime_ms });
    }

    fn is_swept(&self) -> bool {
        matches!(self.hears, Hears::Expired | Hears::Nothing)
    }

    fn cut(&mut self) {
        self.note_well();
        self.connected = false;
        self.stream.clear();
        self.feed(Input::Down);
    }

    fn note_well(&mut self) {
        let overdue = self.detector.next_due().is_some_and(|due| due.as_ms() <= self.now);
        if self.connected && self.stream.is_empty() && self.detector.settled() && !overdue {
            self.well = self.now;
        }
    }

    /// Time passes in small steps; the steady user sends heartbeats, and a detector that is due gets its input.
    fn wait(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(50) {
            // Where renewals are found by polling, a stream that lags by a TTL hides them.
            while self.hears != Hears::All && self.deliver() {}
            self.note_well();
            self.now = (self.now / 50 + 1) * 50;
            self.beat();
            if self.is_swept() && self.now.is_multiple_of(SWEEP_MS) {
                self.feed(Input::Sweep);
            }
            if self.detector.next_due().is_some_and(|due| due.as_ms() <= self.now) {
                self.feed(Input::Due);
            }
        }
    }

    fn apply(&mut self, op: &Op) {
        let name = |key: &usize| format!("u{key}");
        match op {
            Op::Set(key) => self.set(&name(key)),
            Op::Delete(key) => {
                self.expire(&name(key));
                self.end(&name(key), End::Deleted);
            }
            Op::Expire(key) => {
                self.expire(&name(key));
                let until = self.now + TTL;
                self.keys.entry(name(key)).and_modify(|deadline| *deadline = until);
            }
            Op::Persist(key) => {
                self.expire(&name(key));
                self.keys.entry(name(key)).and_modify(|deadline| *deadline = u64::MAX);
            }
            Op::Evict(key) => {
                if self.keys.remove(&name(key)).is_some() {
                    self.publish(Event::Ended(name(key), End::Evicted));
                }
            }
            Op::Wait(ms) => self.wait(*ms),
            Op::Deliver(count) => (0..*count).for_each(|_| {
                self.deliver();
            }),
            Op::Lose => {
                self.stream.clear();
                self.feed(Input::Gap);
            }
            Op::Cut(ms) => {
                self.cut();
                self.wait(*ms);
                self.connect(false);
            }
            Op::Restart(empty, ms) => self.restart(*empty, *ms),
            Op::Flush => {
                self.keys.clear();
                self.feed(Input::Gap);
                self.cut();
                self.connect(true);
            }
            Op::Daemon => {
                self.detector = detector();
                self.well = 0;
                self.said.clear();
                self.connect(false);
            }
        }
    }

    fn restart(&mut self, empty: bool, ms: u64) {
        self.cut();
        if empty {
            self.keys.clear();
        }
        self.now += ms;
        self.started = self.now;
        self.pause_until = self.now + TTL / 2;
        let now = self.now;
        // Keys that expired while the server was down are not loaded.
        self.keys.retain(|_, deadline| *deadline >= now);
        self.runs += 1;
        self.connect(false);
    }

    /// No more faults: everything arrives, and time passes beyond every deadline and grant.
    fn heal(&mut self) {
        for _ in 0..(TTL * 8 / 50) {
            while self.deliver() {}
            self.wait(50);
        }
        while self.deliver() {}
    }

    fn believed(&self) -> Vec<String> {
        let mut live: Vec<_> =
            self.said.iter().filter(|(_, live)| **live).map(|(key, _)| key.clone()).collect();
        live.sort();
        live
    }
}

fn run(hears: Hears, ops: &[Op]) -> World {
    let mut world = World::new(hears);
    world.set(STEADY);
    for op in ops {
        world.apply(op);
        world.beat();
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn healed_belief_is_what_redis_holds(
        hears in hears(),
        ops in prop::collection::vec(op(), 0..60),
    ) {
        let mut world = run(hears, &ops);
        world.heal();
        let held: Vec<String> = world.keys.keys().cloned().collect();
        prop_assert_eq!(world.believed(), held);
        prop_assert!(world.detector.settled());
        prop_assert_eq!(world.detector.counts().keys as usize, world.keys.len());
    }

    #[test]
    fn without_loss_reports_what_redis_did(
        unheard in any::<bool>(),
        ops in prop::collection::vec(quiet_op(), 0..80),
    ) {
        let mut world = run(if unheard { Hears::Changes } else { Hears::All }, &ops);
        let said = world.log.len();
        prop_assert_eq!(&world.log[..], &world.truth[..said], "reported what Redis had not done");
        world.heal();
        prop_assert_eq!(&world.log, &world.truth);
    }
}
