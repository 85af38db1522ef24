//! Time, faults and the end of all things: one seed gives one run.

use super::cluster::{Cluster, Keys, View};
use super::faults::SHORTEST_FREEZE_MS;
use super::link::Question;
use super::programs::{FIRST_TTL, LONGEST_TTL, Program};
use super::redis::{self, Event, NEVER, Redis, Return};
use super::relay::Relay;
use super::scenes::Scene;
use super::times::Times;
use super::watcher::Reader;
use fastrand::Rng;
use keybeat::presence::{End, Key, LinkId, Renewals, Settings, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Past every grant, guess and lag: what was not known before is known after it.
pub const TAINT_MS: u64 = LONGEST_TTL * 3;
/// A run of so many steps goes round in circles.
const STEPS_MOST: u64 = 1_000_000;
/// No faults for so long before all must be right.
const HEAL_MS: u64 = TAINT_MS + LONGEST_TTL;

/// A relay between the links and the tracker that does something wrong, to see that the world can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    No,
    /// The tracker never learns that a connection was lost.
    GapsUnseen,
    /// The run id of a server never changes, and that it was away is not reported.
    RestartsUnseen,
    /// Each canary is answered at once, whatever the stream does.
    CanariesEchoed,
    /// Fences come with the answers, not in the stream.
    FencesJump,
    /// A `del` is taken for an end, though the key may have moved.
    DelBelieved,
    /// A key ends at its old server before it comes to the new one.
    LetsGoFirst,
    /// A replaced keyspace counts from the report, not from the canary's place in the stream.
    ReplacedAtOnce,
    /// A server that does not publish all events is not polled.
    NeverPolls,
    /// Refused writes of a server are not reported.
    OutagesUnseen,
    /// Each canary has come back intact as soon as it is sent.
    ProofsAtOnce,
    /// The tracker never learns that its daemon is to lead.
    LeadsUnseen,
    /// The beats of other daemons come without end.
    BeatsForever,
    /// A slot without an owner still has the one from before.
    OwnersUnseen,
    /// Some pushed names never arrive.
    PushesLost,
}

/// The events that the servers do not publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Silent {
    Nothing,
    /// The settings.
    Sets,
    /// All but what runs out and what is evicted.
    Commands,
    /// All.
    All,
}

impl Silent {
    pub fn any(self) -> bool {
        self != Silent::Nothing
    }

    pub fn tells(self, event: &Event, mode: Mode) -> bool {
        match event {
            _ if mode.tracks() && event.is_of_key() => false,
            Event::New(_) => mode.new && self == Silent::Nothing,
            Event::Fence(..) | Event::Written(..) | Event::EndsIn(..) => true,
            Event::Canary | Event::Exchanged(_) | Event::Leads => true,
            Event::Lease(_) | Event::Digest(_) => true,
            Event::Came(_) | Event::Gone(..) | Event::Tracks(_) => true,
            Event::Set(_) => mode.renewals != Renewals::New && self == Silent::Nothing,
            Event::Retimed(_) => mode.renewals == Renewals::Expire && self == Silent::Nothing,
            Event::Placed(_) | Event::Ended(_, End::Deleted) => self <= Silent::Sets,
            Event::Ended(..) => self != Silent::All,
        }
    }
}

/// How the daemon learns of renewals, and whether the servers publish `new`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    pub renewals: Renewals,
    pub new: bool,
    /// There are other daemons.
    pub shared: bool,
    /// The daemon keeps only users that are chosen: here all are.
    pub chooses: bool,
}

impl Mode {
    /// Does client tracking stand in for events?
    pub fn tracks(self) -> bool {
        self.renewals == Renewals::Tracking
    }

    /// The default at Redis 6.
    pub const SET: Mode = Mode { renewals: Renewals::Set, new: false, shared: false, chooses: false };
    const NEW: Mode = Mode { renewals: Renewals::New, new: true, shared: false, chooses: false };
    /// Each mode by its name.
    pub const ALL: [(&str, Mode); 10] = [
        ("set", Mode { new: true, ..Mode::SET }),
        ("set without new", Mode::SET),
        ("new", Mode::NEW),
        ("expire", Mode { renewals: Renewals::Expire, ..Mode::NEW }),
        ("expire without new", Mode { renewals: Renewals::Expire, ..Mode::SET }),
        ("tracking", Mode { renewals: Renewals::Tracking, ..Mode::SET }),
        ("tracking with others", Mode { renewals: Renewals::Tracking, shared: true, ..Mode::SET }),
        ("set with others", Mode { renewals: Renewals::Set, shared: true, ..Mode::NEW }),
        ("new with others", Mode { shared: true, ..Mode::NEW }),
        ("watched with others", Mode { renewals: Renewals::Set, shared: true, chooses: true, ..Mode::NEW }),
    ];
}

/// The next step.
pub enum Act {
    Program(usize),
    Switch(usize),
    Sweep,
    Replicate,
    Question(u32, Question),
    Connect(LinkId),
    Cut(LinkId),
    Fault,
    Begin(usize, Return),
    /// The extra latencies of the streams and of the answers end.
    EndLag,
    Read(usize),
    /// The cluster's shape changes; one more key of a slot moves; the daemon hears of it.
    Reshape,
    Move(usize),
    View(View),
    /// Another daemon at this node wakes; asks for the keys that have run out.
    Others(usize),
    OthersAsk(usize),
    /// Another daemon begins to announce each key of this node that comes or ends; it announces this one.
    OthersTrack(usize),
    OthersSay(usize, String),
    /// The slot has an owner again.
    Own(usize),
    /// A turn of the node's event loop ends.
    Push(usize),
}

/// The differences between worlds.
#[derive(Debug)]
pub struct Knobs {
    pub mode: Mode,
    pub broken: Broken,
    /// The faults that may happen, as bits; see [`World::fault`].
    pub faults: u32,
    fault_every: u64,
    latency: u64,
    /// The most time between two commands of a pipeline.
    pub pipe_gap: u64,
    /// Programs renew by EXPIRE as well.
    pub expires: bool,
    chaos_ms: u64,
    pub silent: Silent,
    pub settings: Settings,
    /// How late a canary may be.
    pub canary_limit_ms: u64,
    /// Something of the cluster changes so often.
    reshape_every: u64,
    pub scene: Scene,
}

impl Knobs {
    fn new(rng: &mut Rng, mode: Mode, broken: Broken) -> (Knobs, Cluster) {
        let mut kind = rng.u8(..8);
        let silences = [Silent::Sets, Silent::Commands, Silent::All];
        // Some worlds lose no key.
        let most = if rng.u8(..4) == 0 { 9 } else { 14 };
        let mut faults = if rng.u8(..4) == 0 { 0 } else { u32::from(rng.u16(..1 << most)) };
        if broken == Broken::ReplacedAtOnce {
            // Only an exchange while the stream lags can show it.
            (kind, faults) = (5, 1 << 12);
        }
        // Some servers refuse writes, or freeze. A stall would hide that.
        let refuses = broken == Broken::OutagesUnseen || (faults != 0 && rng.u8(..3) == 0);
        if refuses && broken != Broken::ReplacedAtOnce {
            faults = (faults & !(1 << 8)) | u32::from(rng.u16(1..4)) << 14;
        }
        if broken == Broken::ProofsAtOnce {
            (kind, faults) = (5, 1 << 12);
        }
        if broken == Broken::OwnersUnseen {
            (kind, faults) = (1, 1 << 18);
        }
        let settings = Settings {
            first_ttl_ms: FIRST_TTL,
            batch_keys: [1, 2, 512][rng.usize(..3)],
            due_batches: [1, 64][rng.usize(..2)],
            learn_batches: [1, 4][rng.usize(..2)],
            // Half of the worlds have servers whose pages are taken at their word.
            trusted_uptime_ms: if kind.is_multiple_of(2) { TAINT_MS } else { u64::MAX },
            ..Settings::default()
        };
        let cluster = Cluster::new(kind < 4, if kind < 4 { rng.usize(1..=3) } else { 1 });
        let mut knobs = Knobs {
            mode,
            broken,
            faults,
            fault_every: rng.u64(300..8_000),
            latency: [0, 3, 8, 40][rng.usize(..4)],
            pipe_gap: [0, 1, 20][rng.usize(..3)],
            expires: rng.bool(),
            chaos_ms: rng.u64(3_000..40_000),
            silent: if kind.is_multiple_of(4) { silences[rng.usize(..3)] } else { Silent::Nothing },
            settings,
            canary_limit_ms: match faults {
                0 => 8_000,
                // A server that freezes for less than the limit is not noticed.
                faults if faults & (1 << 14 | 1 << 15) != 0 => 1_500,
                _ => [1_500, 8_000][rng.usize(..2)],
            },
            reshape_every: [1_000, 10_000][rng.usize(..2)],
            scene: Scene::Plain,
        };
        if mode.renewals != Renewals::Set || mode.shared {
            // Where an event is missing, the daemon listens to `set`.
            knobs.silent = Silent::Nothing;
        }
        (knobs, cluster)
    }

    /// Slots move often, and nothing else goes wrong.
    pub fn copy_slots(&mut self) {
        (self.faults, self.reshape_every) = (0, 1_000);
    }

    /// Faults come every few seconds, for so long.
    pub fn weary(&mut self, chaos_ms: u64) {
        (self.chaos_ms, self.fault_every, self.canary_limit_ms) = (chaos_ms, 6_000, 1_500);
    }
}

/// The trace of a run, as one number, and in words if wanted.
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

/// The servers, the programs, the network, the daemon.
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
    /// All servers that there ever were; see [`View::members`].
    pub nodes: Vec<Redis>,
    pub cluster: Cluster,
    pub programs: Vec<Program>,
    pub relay: Relay,
    /// The daemon's connections that there ever were.
    pub epochs: u32,
    /// The view of the cluster that the daemon gets when it wakes.
    pub views: Vec<View>,
    /// The keys that the daemon has written itself, with their TTLs; it notes them when it wakes.
    pub own: Vec<(Key, u32)>,
    /// The nodes that have announced each key, and how often it came and went.
    pub holders: BTreeMap<String, BTreeSet<usize>>,
    pub done: BTreeMap<String, (u32, u32)>,
    pub times: Times,
    /// By how much more that is than what was reported, in the first quiet moment.
    pub balance: Option<BTreeMap<String, (i64, i64)>>,
    /// The nodes that refused writes, from when until when.
    pub refusals: Vec<(usize, u64, u64)>,
    pub stalled_until: u64,
    /// A stream was late by more than its usual latency.
    pub lagged: bool,
    due_late: u64,
    pub healing: bool,
    /// Nobody beats any more, and from when on.
    pub frozen: bool,
    pub frozen_at: u64,
}

impl World {
    pub fn new(seed: u64, mode: Mode, broken: Broken, record: bool) -> World {
        let mut rng = Rng::with_seed(seed);
        let now = 1_000_000;
        let (mut knobs, cluster) = Knobs::new(&mut rng, mode, broken);
        if broken == Broken::No && knobs.faults != 0 {
            // They draw from a source of their own, so that the other worlds of a seed stay what they were.
            let mut rng = Rng::with_seed(!seed);
            knobs.faults |= if rng.u8(..3) == 0 { rng.u32(1..8) << 16 } else { 0 };
        }
        if broken == Broken::No {
            knobs.scene = Scene::draw(seed, &mut knobs, &cluster);
        }
        let users = 1..=rng.usize(1..=10);
        let program = |i| Program::new(format!("u{i}"), &mut rng, &knobs);
        let mut programs: Vec<Program> = users.map(program).collect();
        knobs.scene.cast(seed, &knobs, &mut programs);
        let relay = Relay::new(now, knobs.settings.clone(), knobs.canary_limit_ms, mode.chooses);
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
            nodes: cluster.view.members.iter().map(|_| Redis::new()).collect(),
            views: vec![cluster.view.clone()],
            own: Vec::new(),
            cluster,
            programs,
            relay,
            epochs: 0,
            holders: BTreeMap::new(),
            done: BTreeMap::new(),
            times: Times::default(),
            balance: None,
            refusals: Vec::new(),
            stalled_until: 0,
            lagged: false,
            due_late: 0,
            healing: false,
            frozen: false,
            frozen_at: NEVER,
        };
        let mut acts = vec![Act::Fault, Act::Sweep, Act::Replicate];
        acts.extend((0..world.programs.len()).map(Act::Program));
        if world.cluster.on {
            acts.push(Act::Reshape);
        }
        if mode.shared {
            acts.extend((0..world.nodes.len()).map(Act::Others));
        }
        acts.into_iter().for_each(|act| world.later(1..3_000, act));
        world.trail.note(now, format_args!("{:?} {:?}", world.knobs, world.programs));
        world
    }

    /// The whole run: faults, then none, then nobody beats.
    pub fn run(&mut self) {
        self.go(self.knobs.chaos_ms, false);
        self.healing = true;
        self.end_lag();
        // The other daemons live, or die for good.
        let dies = self.rng.bool();
        for node in &mut self.nodes {
            node.lease.heal(dies);
            node.refuses_until = 0;
            // A shorter freeze would go unnoticed.
            node.frozen_until = node.frozen_until.min(self.now + SHORTEST_FREEZE_MS);
        }
        self.relay.servers.iter_mut().for_each(|server| server.link.denied_until = 0);
        self.give_class_back();
        self.go(HEAL_MS, false);
        self.go(LONGEST_TTL, true);
        (self.frozen, self.frozen_at) = (true, self.now);
        self.go(LONGEST_TTL + 4_000, true);
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

    pub fn wire_latency(&mut self, at: usize) -> u64 {
        self.rng.u64(..=self.knobs.latency) + self.relay.servers[at].link.lag.0
    }

    pub fn reply_latency(&mut self, at: usize) -> u64 {
        self.rng.u64(..=self.knobs.latency) + self.relay.servers[at].link.lag.1
    }

    fn end_lag(&mut self) {
        self.relay.servers.iter_mut().for_each(|server| server.link.lag = (0, 0));
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
            if self.steps > STEPS_MOST {
                self.fail(format!("{STEPS_MOST} steps, and no end"));
            }
            self.now = self.now.max(act.min(wake));
            if act > wake {
                self.wake();
                self.due_late = self.rng.u64(..3);
                self.tally();
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
        let told = (!self.views.is_empty() || !self.own.is_empty()).then_some(self.now);
        let arrivals = self.relay.servers.iter().flat_map(|server| {
            let wire = server.link.wire.front().map(|(at, _)| *at);
            [wire, server.link.replies.keys().next().map(|&(at, _)| at)]
        });
        let last = self.relay.last;
        let due = self.relay.tracker.next_due().map(|due| (due.as_ms() + self.due_late).max(last + 1));
        let first = arrivals.chain([told, due, Some(last + 1_000)]).flatten().min().unwrap_or(NEVER);
        first.max(self.stalled_until)
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Program(_) if self.frozen => {}
            Act::Program(i) => {
                let mut own = Vec::new();
                let mut keys =
                    Keys { now: self.now, nodes: &mut self.nodes, cluster: &self.cluster, own: &mut own };
                let wait = self.programs[i].step(&mut keys, &mut self.rng);
                self.own.extend(own);
                self.at(self.now + wait.max(1), Act::Program(i));
            }
            Act::Switch(_) if self.frozen => {}
            Act::Switch(i) => self.switch(i),
            Act::Sweep => {
                let now = self.now;
                for node in self.nodes.iter_mut().filter(|node| node.up && node.frozen_until <= now) {
                    node.sweep(self.now, &mut self.rng);
                }
                self.check_quitters();
                self.later(50..600, Act::Sweep);
            }
            Act::Replicate => {
                self.nodes.iter_mut().filter(|node| node.up).for_each(Redis::replicate);
                self.later(50..1_500, Act::Replicate);
            }
            Act::Question(epoch, question) => self.question(epoch, question),
            Act::Connect(id) => self.connect(id),
            Act::Begin(node, how) => self.begin(node, how),
            Act::Cut(id) => {
                if let Some(at) = self.relay.place_of(id).filter(|_| !self.healing) {
                    self.cut(at);
                }
            }
            Act::EndLag => self.end_lag(),
            Act::Read(i) => self.read(i),
            Act::Move(slot) => self.step_move(slot),
            Act::View(view) => self.views.push(view),
            Act::Others(node) => self.others_wake(node),
            Act::OthersAsk(node) => self.others_ask(node),
            Act::OthersTrack(node) => self.others_track(node),
            Act::OthersSay(node, key) => self.others_say(node, &key),
            Act::Own(slot) => self.own_again(slot),
            Act::Push(node) => self.end_turn(node),
            Act::Fault | Act::Reshape if self.healing => {}
            Act::Fault => {
                self.fault();
                let least = if self.knobs.scene == Scene::Weary { self.knobs.fault_every / 2 } else { 1 };
                self.later(least..self.knobs.fault_every, Act::Fault);
            }
            Act::Reshape => {
                self.reshape();
                self.later(1..self.knobs.reshape_every, Act::Reshape);
            }
        }
    }

    pub fn add_readers(&mut self) {
        let users = self.users();
        for i in 0..self.rng.usize(1..6) {
            self.relay.readers.push(Reader::new(&self.relay.hub, &mut self.rng, &users));
            self.later(1..1_000, Act::Read(i));
        }
    }

    pub fn users(&self) -> Vec<String> {
        self.programs.iter().map(|program| program.user.clone()).collect()
    }

    fn read(&mut self, i: usize) {
        let users = self.users();
        let (stir, reads) = (self.rng.u8(..5) == 0, self.rng.u8(..4) > 0);
        let (relay, now) = (&mut self.relay, self.now);
        let (reader, hub) = (&mut relay.readers[i], &relay.hub);
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
