//! Time, faults and the end of all things: one seed gives one run.

use super::daemon::Daemon;
use super::link::{Link, Question};
use super::programs::{FIRST_TTL, LONGEST_TTL, Program};
use super::redis::{self, NEVER, Redis, Return};
use super::watcher::Reader;
use fastrand::Rng;
use keybeat::presence::{Settings, Time};
use std::collections::BTreeMap;
use std::fmt;

/// Past every grant, guess and lag: what was not known before is known after it.
pub const TAINT_MS: u64 = LONGEST_TTL * 3;
/// No faults for so long before all must be right.
const HEAL_MS: u64 = TAINT_MS + LONGEST_TTL;

/// A relay that does not do what the driver does, to see that the world can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    No,
    /// The detector is not told of gaps.
    DeafToGaps,
    /// Fences come with the answers, not in the stream.
    FencesJump,
}

/// What happens next.
pub enum Act {
    Program(usize),
    Sweep,
    Replicate,
    Question(u32, Question),
    Canary(u32),
    Connect,
    Fault,
    Begin(Return),
    EndLosing,
    LoseSome,
    /// The extra latencies of the stream and of the answers end.
    EndLag,
    Read(usize),
}

/// What differs from world to world.
#[derive(Debug)]
pub struct Knobs {
    pub broken: Broken,
    /// The faults that may happen, as bits; see [`World::fault`].
    pub faults: u16,
    fault_every: u64,
    latency: u64,
    /// The most time between two commands of a pipeline.
    pub pipe_gap: u64,
    /// Programs renew by EXPIRE as well.
    pub expires: bool,
    chaos_ms: u64,
}

/// What was seen, as one number, and in words if wanted.
pub struct Trail {
    pub hash: u64,
    pub lines: Option<Vec<String>>,
}

impl Trail {
    pub fn note(&mut self, now: u64, what: fmt::Arguments) {
        let line = format!("{now} {what}");
        self.hash = self.hash.rotate_left(5) ^ redis::hash(&line);
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
    }
}

/// Redis, the programs, the network, the daemon.
pub struct World {
    pub now: u64,
    pub rng: Rng,
    pub order: u64,
    pub knobs: Knobs,
    pub trail: Trail,
    pub failure: Option<String>,
    pub steps: u64,
    /// How often the belief was compared with Redis.
    pub compared: u64,
    pub acts: BTreeMap<(u64, u64), Act>,
    pub redis: Redis,
    pub programs: Vec<Program>,
    pub link: Link,
    pub daemon: Daemon,
    pub run_seen: Option<u32>,
    pub lag: (u64, u64),
    pub stalled_until: u64,
    due_late: u64,
    healing: bool,
    pub frozen: bool,
}

impl World {
    pub fn new(seed: u64, broken: Broken, record: bool) -> World {
        let mut rng = Rng::with_seed(seed);
        let now = 1_000_000;
        let knobs = Knobs {
            broken,
            faults: if rng.u8(..4) == 0 { 0 } else { rng.u16(..) },
            fault_every: rng.u64(300..8_000),
            latency: [0, 3, 8, 40][rng.usize(..4)],
            pipe_gap: [0, 1, 20][rng.usize(..3)],
            expires: rng.bool(),
            chaos_ms: rng.u64(3_000..40_000),
        };
        let settings = Settings {
            first_ttl_ms: FIRST_TTL,
            batch_keys: [1, 2, 512][rng.usize(..3)],
            due_batches: [1, 64][rng.usize(..2)],
            learn_batches: [1, 4][rng.usize(..2)],
            ..Settings::default()
        };
        let users = 1..=rng.usize(1..=10);
        let programs = users.map(|i| Program::new(format!("u{i}"), &mut rng, knobs.expires)).collect();
        let mut world = World {
            now,
            rng,
            order: 0,
            knobs,
            trail: Trail { hash: seed, lines: record.then(Vec::new) },
            failure: None,
            steps: 0,
            compared: 0,
            acts: BTreeMap::new(),
            redis: Redis::new(),
            programs,
            link: Link::default(),
            daemon: Daemon::new(now, settings),
            run_seen: None,
            lag: (0, 0),
            stalled_until: 0,
            due_late: 0,
            healing: false,
            frozen: false,
        };
        let mut acts = vec![Act::Connect, Act::Fault, Act::Sweep, Act::Replicate];
        acts.extend((0..world.programs.len()).map(Act::Program));
        acts.into_iter().for_each(|act| world.later(1..3_000, act));
        world.trail.note(now, format_args!("{:?} {:?}", world.knobs, world.programs));
        world
    }

    /// The whole run: faults, then none, then nobody beats.
    pub fn run(&mut self) {
        self.go(self.knobs.chaos_ms, false);
        self.healing = true;
        self.lag = (0, 0);
        self.go(HEAL_MS, false);
        self.go(LONGEST_TTL, true);
        self.frozen = true;
        self.go(LONGEST_TTL + 2_000, true);
        if self.failure.is_none() {
            self.check_end();
        }
    }

    /// Does nothing happen but lag?
    pub fn quiet(&self) -> bool {
        self.knobs.faults == 0
    }

    pub fn time(&self) -> Time {
        Time::from_ms(self.now)
    }

    pub fn fail(&mut self, why: String) {
        self.trail.note(self.now, format_args!("FAILED: {why}"));
        self.failure.get_or_insert(why);
    }

    pub fn at(&mut self, at: u64, act: Act) {
        self.order += 1;
        self.acts.insert((at, self.order), act);
    }

    pub fn later(&mut self, wait: std::ops::Range<u64>, act: Act) {
        let at = self.now + self.rng.u64(wait);
        self.at(at, act);
    }

    pub fn wire_latency(&mut self) -> u64 {
        self.rng.u64(..=self.knobs.latency) + self.lag.0
    }

    pub fn reply_latency(&mut self) -> u64 {
        self.rng.u64(..=self.knobs.latency) + self.lag.1
    }

    fn go(&mut self, for_ms: u64, compare: bool) {
        let (end, mut next) = (self.now + for_ms, self.now);
        while self.failure.is_none() {
            let act = self.acts.keys().next().map_or(NEVER, |&(at, _)| at);
            let wake = self.next_wake();
            if act.min(wake) > end {
                break;
            }
            self.steps += 1;
            self.now = self.now.max(act.min(wake));
            if act > wake {
                self.wake();
                self.due_late = self.rng.u64(..3);
            } else if let Some((_, act)) = self.acts.pop_first() {
                self.act(act);
                self.publish();
            }
            if compare && self.now >= next && self.compare() {
                next = self.now + 200;
            }
        }
        self.now = end;
    }

    fn next_wake(&self) -> u64 {
        let wire = self.link.wire.front().map(|(at, _)| *at);
        let reply = self.link.replies.keys().next().map(|&(at, _)| at);
        // A driver whose detector waits for a restart has its turn again and again.
        let due = self
            .daemon
            .detector
            .next_due()
            .map(|due| (due.as_ms() + self.due_late).max(self.daemon.last + 1));
        let second = Some(self.daemon.last + 1_000);
        let first = [wire, reply, due, second].into_iter().flatten().min().unwrap_or(NEVER);
        first.max(self.stalled_until)
    }

    fn act(&mut self, act: Act) {
        let now = self.now;
        match act {
            Act::Program(_) if self.frozen => {}
            Act::Program(i) => {
                let wait = self.programs[i].step(&mut self.redis, now, &mut self.rng);
                self.at(now + wait.max(1), Act::Program(i));
            }
            Act::Sweep => {
                if self.redis.up {
                    self.redis.sweep(now, &mut self.rng);
                }
                self.later(50..600, Act::Sweep);
            }
            Act::Replicate => {
                if self.redis.up {
                    self.redis.replicate();
                }
                self.later(50..1_500, Act::Replicate);
            }
            Act::Question(epoch, question) => self.question(epoch, question),
            Act::Canary(epoch) if self.link.on && epoch == self.link.epoch => {
                self.redis.canary = true;
                self.at(now + 1_000, Act::Canary(epoch));
            }
            Act::Canary(_) => {}
            Act::Connect => self.connect(),
            Act::Begin(how) => {
                self.redis.begin(now, how);
                self.trail.note(now, format_args!("Redis begins {how:?} with {:?}", self.redis.keys));
            }
            Act::LoseSome if self.healing => {}
            Act::LoseSome => self.lose_some(),
            Act::EndLosing => {
                self.end_losing();
                self.lose_more();
            }
            Act::EndLag => self.lag = (0, 0),
            Act::Read(i) => self.read(i),
            Act::Fault if self.healing => {}
            Act::Fault => {
                self.fault();
                self.later(1..self.knobs.fault_every, Act::Fault);
            }
        }
    }

    pub fn add_readers(&mut self) {
        let users = self.users();
        for i in 0..self.rng.usize(1..6) {
            self.daemon.readers.push(Reader::new(&self.daemon.hub, &mut self.rng, &users));
            self.later(1..1_000, Act::Read(i));
        }
    }

    pub fn users(&self) -> Vec<String> {
        self.programs.iter().map(|program| program.user.clone()).collect()
    }

    fn read(&mut self, i: usize) {
        let users = self.users();
        let (stir, reads) = (self.rng.u8(..5) == 0, self.rng.u8(..4) > 0);
        let (daemon, now) = (&mut self.daemon, self.now);
        let (reader, hub) = (&mut daemon.readers[i], &daemon.hub);
        let pace = reader.pace;
        let mut read = if reads { reader.read(hub, now) } else { Ok(()) };
        if stir && read.is_ok() {
            read = reader.stir(hub, &mut self.rng, &users, now);
        }
        if let Err(why) = read {
            self.fail(format!("reader {i}: {why}"));
        }
        self.later(1..pace * 2, Act::Read(i));
    }
}
