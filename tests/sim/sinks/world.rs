//! Time: one seed gives one run.

use super::daemon::{Command, Daemon};
use super::desk::Parcel;
use super::faults::Store;
use super::knobs::{Broken, Knobs};
use super::presence::{BUCKETS, StreamReply, Time};
use super::users::{LONGEST_TTL_MS, User};
use super::verdict::Book;
use crate::redis::{Redis, Return};
use crate::world::Trail;
use fastrand::Rng;
use std::fmt;

/// A run of so many steps goes round in circles.
const STEPS_MOST: u64 = 2_000_000;
/// So many faults at the end of the faults.
const LAST_FAULTS: usize = 3;
/// After the last fault, the users may come and go for so long: past every grant.
const HEAL_MS: u64 = LONGEST_TTL_MS * 4;
/// Then nobody comes or goes for so long.
const STILL_MS: u64 = LONGEST_TTL_MS * 2 + 6_000;
/// The writer compares one SET in ten seconds.
const VERIFIED_MS: u64 = (BUCKETS as u64 + 6) * 10_000;

/// The next step. A daemon is named by its place and its life there.
#[derive(Debug)]
pub enum Act {
    User(usize),
    Sweep,
    Replicate,
    Fault,
    EndLag,
    Start(usize),
    /// A daemon tries to connect one of its links.
    Connect(usize, u32, usize),
    /// A command of a daemon arrives over a link of this epoch.
    Command(usize, u32, usize, u32, Command),
    /// A daemon's mark arrives at a node; the mark that is the order of this number has to be back.
    Mark(usize, u32, usize, u64),
    MarkDue(usize, u32, u64),
    /// A daemon looks for work.
    Tick(usize, u32),
    /// An order arrives at the stream's server; the reply to the order of this number arrives.
    Arrive(Parcel),
    Reply(usize, u32, u64, StreamReply),
    /// A server is back.
    Begin(usize, Return),
    BeginStream(Return),
}

impl Act {
    /// The daemon that does it.
    fn actor(&self) -> Option<(usize, u32)> {
        match *self {
            Act::Connect(at, life, _) | Act::Tick(at, life) => Some((at, life)),
            Act::MarkDue(at, life, _) | Act::Reply(at, life, ..) => Some((at, life)),
            _ => None,
        }
    }
}

/// See the module's head.
pub struct World {
    pub now: u64,
    pub rng: Rng,
    pub steps: u64,
    pub knobs: Knobs,
    pub trail: Trail,
    pub failure: Option<String>,
    order: u64,
    acts: std::collections::BTreeMap<(u64, u64), Act>,
    /// The servers of presence keys.
    pub nodes: Vec<Redis>,
    /// The server of the stream.
    pub store: Store,
    pub users: Vec<User>,
    pub daemons: Vec<Option<Daemon>>,
    /// How many daemons have ended at each place.
    pub lives: Vec<u32>,
    /// How many daemons there were, and how many orders.
    pub named: u32,
    pub ordered: u64,
    pub book: Book,
    /// Nothing goes wrong any more; nobody comes or goes any more.
    pub calm: bool,
    pub still: bool,
    /// Nothing is to happen but the slow comparison.
    pub patient: bool,
}

impl World {
    pub fn new(seed: u64, broken: Broken, record: bool) -> World {
        let mut rng = Rng::with_seed(seed);
        let knobs = Knobs::new(&mut rng, broken);
        let now = 1_000_000;
        let user = |number| User::new(number, knobs.nodes, &mut rng);
        let users = (1..=knobs.users).map(user).collect();
        let mut world = World {
            now,
            rng,
            steps: 0,
            trail: Trail { hash: seed, lines: record.then(Vec::new) },
            failure: None,
            order: 0,
            acts: Default::default(),
            nodes: (0..knobs.nodes).map(|_| Redis::new()).collect(),
            store: Store::new(broken.rules()),
            users,
            daemons: (0..knobs.daemons).map(|_| None).collect(),
            lives: vec![0; knobs.daemons],
            named: 0,
            ordered: 0,
            book: Book::new(now),
            calm: false,
            still: false,
            patient: false,
            knobs,
        };
        let mut acts = vec![Act::Sweep, Act::Replicate, Act::Fault];
        acts.extend((0..world.users.len()).map(Act::User));
        acts.extend((0..world.daemons.len()).map(Act::Start));
        acts.into_iter().for_each(|act| world.later(1..3_000, act));
        world.trail.note(now, format_args!("{:?} {:?}", world.knobs, world.users));
        world
    }

    /// The whole run: faults, then none, then nobody comes or goes.
    pub fn run(&mut self) {
        self.go(self.knobs.chaos_ms);
        // The last faults are not followed by transitions that would correct their effects.
        (0..LAST_FAULTS).for_each(|_| self.fault());
        self.heal();
        self.still = self.knobs.ends_still;
        self.go(HEAL_MS);
        self.still = true;
        self.go(STILL_MS);
        let loses_buckets = self.knobs.loses_buckets;
        if self.failure.is_none() {
            self.check_entries_at_end();
            self.check_end(!loses_buckets);
        }
        if self.failure.is_none() && (loses_buckets || self.rng.u8(..4) == 0) {
            self.tamper();
            self.thin_out();
            self.patient = true;
            self.go(VERIFIED_MS);
            self.check_end(true);
        }
    }

    pub fn time(&self) -> Time {
        Time::from_ms(self.now)
    }

    pub fn note(&mut self, what: fmt::Arguments) {
        self.trail.note(self.now, what);
    }

    pub fn fail(&mut self, why: String) {
        self.note(format_args!("FAILED: {why}"));
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

    /// How long a message takes.
    pub fn latency(&mut self) -> u64 {
        self.rng.u64(..=self.knobs.latency_ms)
    }

    fn go(&mut self, for_ms: u64) {
        let end = self.now + for_ms;
        while self.failure.is_none() {
            let act = self.acts.keys().next().map_or(u64::MAX, |&(at, _)| at);
            let alive = self.daemons.iter().flatten();
            let (wake, who) =
                alive.map(|daemon| (daemon.next_wake(), daemon.at)).min().unwrap_or((u64::MAX, 0));
            if act.min(wake) > end {
                break;
            }
            self.steps += 1;
            if self.steps > STEPS_MOST {
                self.fail(format!("{STEPS_MOST} steps, and no end"));
            }
            self.now = self.now.max(act.min(wake));
            if act > wake {
                self.wake(who);
            } else if let Some((_, act)) = self.acts.pop_first() {
                self.act(act);
            }
            (0..self.nodes.len()).for_each(|node| self.publish(node));
        }
        self.now = end;
    }

    fn act(&mut self, act: Act) {
        if let Some((at, life)) = act.actor() {
            let alive = self.daemons[at].as_ref().filter(|_| self.lives[at] == life);
            let Some(frozen_until) = alive.map(|daemon| daemon.frozen_until) else { return };
            if frozen_until > self.now {
                return self.at(frozen_until, act);
            }
        }
        match act {
            Act::User(at) => self.step_user(at),
            Act::Sweep => {
                let now = self.now;
                for node in self.nodes.iter_mut().filter(|node| node.takes_writes(now)) {
                    node.sweep(now, &mut self.rng);
                }
                self.later(50..600, Act::Sweep);
            }
            Act::Replicate => {
                self.replicate();
                self.later(50..3_000, Act::Replicate);
            }
            Act::Fault if self.calm => {}
            Act::Fault => {
                self.fault();
                self.later(1..self.knobs.fault_every_ms, Act::Fault);
            }
            Act::EndLag => self.end_lag(),
            Act::Start(at) => self.start(at),
            Act::Connect(at, _, link) => self.connect(at, link),
            Act::Command(at, life, link, epoch, command) if self.lives[at] == life => {
                self.carry_out(at, link, epoch, command);
            }
            Act::Mark(at, life, node, mark) if self.lives[at] == life => self.mark(at, node, mark),
            Act::Command(..) | Act::Mark(..) => {}
            Act::MarkDue(at, _, order) => self.mark_due(at, order),
            Act::Tick(at, _) => self.tick(at),
            Act::Arrive(parcel) => self.arrive(parcel),
            Act::Reply(at, _, order, reply) => self.replied(at, order, reply),
            Act::Begin(node, how) => self.begin(node, how),
            Act::BeginStream(how) => self.begin_stream(how),
        }
    }
}
