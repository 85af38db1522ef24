//! The belief about all Redis servers together: one [`Detector`](super::Detector) per server, and the decisions that concern more
//! than one server or a server as a whole.
//!
//! `handle(now, notice)` and `events(now, link, …)` take what the links and the topology report; after each of them
//! `poll(now)` is drained for what the driver must do. To the detector the tracker is what quinn's `Endpoint` is to
//! its `Connection`: it decides which servers exist, when events of a server may be missing (a gap), whether its event
//! stream is alive (the canary), who takes over a key that moved (owners), and whether everybody's state is known.
//!
//! - Each period in which events may be missing gives one [`Action::Gap`], and ends with one [`Action::Compared`].
//! - A dead stream gives [`Action::Gap`] and [`Action::Close`] at once. The link reconnects by itself.
//! - A key is adopted by its new server's detector before the old one lets it go.
//! - A user's last key ends only when no older evidence about the user can be unread (`whole_user.rs`).
//! - One daemon per server, the holder of its lease, listens to renewals and asks at deadlines for all (`lease.rs`, `roles.rs`).
//! - The daemons compare digests of their keys, so that no mistake of one of them lasts (`digests.rs`).
//! - The status is up only while each server is connected, compared with Redis, and its canary has come back.

mod canary;
mod chosen;
mod connections;
mod digest_message;
mod digests;
mod gap;
mod held;
mod lease;
mod messages;
mod ownerless;
mod owners;
mod polling;
mod roles;
mod seeking;
mod server;
#[cfg(test)]
mod tests;
mod topology;
mod tracked;
mod tracking;
mod whole_user;

pub use digest_message::{DigestMessage, DigestResult};
pub use gap::Cause;
pub use lease::{Candidacy, LEASE_MS, LeaseOrder, LeaseReply, LeaseState};
pub use messages::{Action, Event, LinkId, LinkNotice, Notice, Request, WrittenKeys};
pub use server::ServerState;
pub use topology::{Elsewhere, Fleet, Primary};

use super::{Counts, Input, Key, Output, Renewals, Role, Settings, Time};
use canary::CURRENT_MS;
use chosen::Chosen;
use held::Held;
use ownerless::Ownerless;
use server::{Phase, Server};
use std::collections::{HashMap, VecDeque};

/// The driver hands in something at least once a second. After a longer silence the process was stopped or starved:
/// what waits in the streams is older than it looks.
const STALL_MS: u64 = 2_500;

/// So long, in milliseconds, a canary that is to prove an absence waits for more of them. It must be sent later than the
/// answers came.
const PROOF_WAITS_MS: u64 = 2;

/// The settings that all servers share.
pub struct FleetSettings {
    /// For each detector.
    pub detector: Settings,
    /// A canary that takes longer, in milliseconds, means a dead stream.
    pub canary_limit_ms: u64,
    /// The daemon's part among those that want a server's lease.
    pub lease: Candidacy,
    /// It keeps only users that are chosen ([`Notice::Choose`]), except where it holds the lease.
    pub chooses: bool,
    /// Requests to other daemons have higher numbers: a number at random, so that an answer is recognized.
    pub requests: u64,
    /// The slot of a key, as the cluster computes it.
    pub slot: Box<dyn Fn(&Key) -> u16 + Send>,
}

/// See the module's head.
pub struct Tracker {
    settings: FleetSettings,
    servers: Vec<Server>,
    /// How many links there were.
    links: LinkId,
    fleet: Fleet,
    ownerless: Ownerless,
    /// The primaries that have the keys of moving slots, as the servers' answers say.
    redirections: HashMap<u16, String>,
    /// When the keys of servers that left are offered again.
    retire_at: Option<Time>,
    /// Totals of servers that were forgotten.
    forgotten: Counts,
    /// The users that it keeps; `None` if it keeps all.
    chosen: Option<Chosen>,
    /// The number of the last request to other daemons.
    requests: u64,
    /// The daemon drains.
    draining: bool,
    /// When something was last handed in.
    last: Time,
    opened: bool,
    /// Ends that wait; see `held.rs`.
    held: Held,
    /// How many changes were reported early, since too many waited.
    early: u64,
    /// A reason for which they wait may be gone.
    may_release: bool,
    /// When the oldest claim of a key came that is not settled.
    claimed: Option<Time>,
    /// When it was last checked whether they have waited for too long.
    holds_checked: Time,
    /// When something may last have been unread in every stream.
    disturbed: Time,
    /// A mark came back, or a server that was waited for is gone.
    marks_changed: bool,
    passed: u64,
    servers_changed: bool,
    status: Option<Result<(), String>>,
    out: VecDeque<Action>,
}

impl Tracker {
    /// A tracker that knows no server yet.
    pub fn new(settings: FleetSettings) -> Tracker {
        Tracker {
            chosen: settings.chooses.then(Chosen::default),
            requests: settings.requests,
            settings,
            servers: Vec::new(),
            links: 0,
            fleet: Fleet::default(),
            ownerless: Ownerless::default(),
            redirections: HashMap::new(),
            retire_at: None,
            forgotten: Counts::default(),
            draining: false,
            last: Time::default(),
            opened: false,
            held: Held::default(),
            early: 0,
            may_release: false,
            claimed: None,
            holds_checked: Time::default(),
            disturbed: Time::default(),
            marks_changed: false,
            passed: 0,
            servers_changed: false,
            status: None,
            out: VecDeque::new(),
        }
    }

    /// Takes in one notice. `now` never goes back.
    pub fn handle(&mut self, now: Time, notice: Notice) {
        self.check_stall(now);
        match notice {
            Notice::Topology(fleet) => self.follow(now, fleet),
            Notice::Draining => {
                self.draining = true;
                self.servers.iter_mut().for_each(|server| server.lease.hurry(now));
                self.due(now);
            }
            Notice::Due => self.due(now),
            Notice::Written(keys) => self.written(now, &keys),
            Notice::Choose(users) => self.choose(users),
            Notice::Dismiss(users) => self.dismiss(now, users),
            Notice::Link(link, notice) => {
                // A link that was ended for good may have sent something before.
                let known = |server: &Server| server.link == link && !server.has_left();
                if let Some(at) = self.servers.iter().position(known) {
                    self.take(now, at, notice);
                }
            }
        }
    }

    /// Takes in a piece of a server's event stream, in its order. `now` never goes back.
    pub fn events<'a>(&mut self, now: Time, link: LinkId, events: impl Iterator<Item = Event<'a>>) {
        self.check_stall(now);
        let Some(at) = self.servers.iter().position(|server| server.link == link && server.is_up()) else {
            return;
        };
        let clustered = self.fleet.clustered();
        let mut requests = Vec::new();
        for event in events {
            if !self.keeps_event(at, &event) {
                continue;
            }
            let event = if clustered { self.doubt(at, event) } else { event };
            let server = &mut self.servers[at];
            match event {
                Event::Key(input) => server.detector.handle(now, input),
                Event::Canary => self.canary_seen(now, at),
                Event::Mark(mark) => {
                    server.passed = server.passed.max(mark);
                    self.marks_changed = true;
                }
                // It may have lost the lease since it subscribed.
                Event::Leads if server.role() == Role::Follows => {}
                Event::Leads => {
                    let polled = server.renewals == Renewals::New;
                    server.detector.handle(now, Input::Leads { polled });
                    server.begin_tracking(now);
                    self.keep_whole(now, at);
                }
                Event::Digest(message) => self.take_digest(now, at, message),
                Event::Tracks { from, since } => server.follow_tracker(now, from, since),
                Event::Beat { from, released: false, daemons, stands_in } => {
                    let turn = server.lease.beat(now, from, daemons, stands_in);
                    self.take_lease_turn(now, at, None, turn);
                }
                Event::Beat { from, released: true, .. } => server.lease.released(now, from),
                Event::Sought { .. } => Tracker::take_request(&mut requests, &event),
                Event::Named(number, name) => self.named(now, at, number, name),
                Event::NamedAll(number, user) => self.named_all(at, number, user),
            }
        }
        self.answer_requests(now, at, requests);
        self.servers[at].stirred = true;
    }

    /// The next thing to do; call until there is none after each [`handle`](Tracker::handle) and
    /// [`events`](Tracker::events).
    pub fn poll(&mut self, now: Time) -> Option<Action> {
        loop {
            if let Some(action) = self.out.pop_front() {
                return Some(action);
            }
            let Some(at) = self.servers.iter().position(|server| server.stirred) else {
                self.conclude(now);
                return self.out.pop_front();
            };
            match self.servers[at].detector.poll(now) {
                Some(output) => self.carry(now, at, output),
                None => self.servers[at].stirred = false,
            }
        }
    }

    /// When to hand in [`Notice::Due`] at the latest.
    pub fn next_due(&self) -> Option<Time> {
        self.servers
            .iter()
            .filter_map(Server::next_due)
            .chain(self.retire_at)
            .chain(self.hold_due())
            .chain(self.leave_due())
            .min()
    }

    /// Has each server been compared with Redis since its last gap, and is everything reported?
    pub fn settled(&self) -> bool {
        self.servers.iter().all(Server::settled) && self.held.is_empty()
    }

    /// How each server is doing.
    pub fn servers(&self) -> Vec<ServerState> {
        self.servers.iter().map(Server::state).collect()
    }

    /// The TTL in milliseconds that a live key is believed to have; `None` if it has none, or is not live.
    pub fn ttl_ms(&self, key: &Key) -> Option<u64> {
        self.servers.iter().find_map(|server| server.detector.ttl_ms(key))
    }

    /// The counts of all detectors, those of forgotten servers included.
    pub fn counts(&self) -> Counts {
        let mut all = self.forgotten;
        for server in &self.servers {
            let counts = server.detector.counts();
            all.keys += counts.keys;
            all.immortal += counts.immortal;
            all.waiting += counts.waiting;
            all.add_totals(counts);
        }
        all.early = self.early;
        all
    }

    /// Events that waited while the process was stopped are older than they look, so their deadlines would be too
    /// late: a gap.
    fn check_stall(&mut self, now: Time) {
        let late = now.since(self.last) > CURRENT_MS && self.turned_late(now);
        let before = std::mem::replace(&mut self.last, now);
        let slept = now.since(before);
        if late {
            self.disturbed = now;
            self.ownerless.turned_late(before, now);
        }
        if slept <= STALL_MS {
            return;
        }
        for at in 0..self.servers.len() {
            if self.servers[at].is_up() {
                self.gap(now, at, Cause::Stalled, format!("{} for {slept} ms", Cause::Stalled.text()));
                self.feed(now, at, Input::Gap);
                if let Phase::Up(canary) = &mut self.servers[at].phase {
                    canary.restart(now);
                }
            }
        }
    }

    fn due(&mut self, now: Time) {
        self.leave_again(now);
        self.retire_again(now);
        self.end_long_holds(now);
        self.hurry(now);
        for at in 0..self.servers.len() {
            self.watch_connection(now, at);
            self.watch_lease(now, at);
            self.watch_digest(now, at);
            if self.servers[at].polling.due(now) {
                self.servers[at].tracked.look_begins();
                self.feed(now, at, Input::Sweep);
            }
            self.feed(now, at, Input::Due);
        }
    }

    fn feed(&mut self, now: Time, at: usize, input: Input) {
        let server = &mut self.servers[at];
        server.detector.handle(now, input);
        server.stirred = true;
    }

    /// Takes all outputs of a detector now.
    fn drain(&mut self, now: Time, at: usize) {
        while let Some(output) = self.servers[at].detector.poll(now) {
            self.carry(now, at, output);
        }
    }

    fn carry(&mut self, now: Time, at: usize, output: Output) {
        let server = &mut self.servers[at];
        let link = server.link;
        match output {
            Output::Changed(change) => self.report(now, at, change),
            Output::Ask(batch, keys) => self.out.push_back(Action::Ask(link, batch, keys)),
            Output::Scan(number, cursor) => self.scan(now, at, number, cursor),
            Output::Prove => self.prove(now, at),
            Output::Learnt(key, ttl_ms) => server.news.ttls.push((key, ttl_ms)),
            Output::CommonTtl(ttl_ms) => self.out.push_back(Action::AnnounceCommonTtl(link, ttl_ms)),
            // Where names are pushed, each change is announced when it is reported.
            Output::Unannounced(_) if server.renewals == Renewals::Tracking => {}
            Output::Unannounced(key) => server.news.ends.push(key),
            Output::Unknown { key, ended } => self.unknown(now, at, &key, ended),
            Output::Restart => self.close(now, at, Cause::Fence),
            Output::Reconciled => self.compared(now, at),
            Output::Swept => {
                server.polling.ended(now);
                self.scanned(at);
                self.swept(now, at);
            }
            Output::Moved(moved) => self.hand_over(now, at, &moved),
        }
    }

    /// A canary that is sent later than now is to come back soon.
    fn prove(&mut self, now: Time, at: usize) {
        if let Phase::Up(canary) = &mut self.servers[at].phase {
            canary.hurry(now.plus(PROOF_WAITS_MS));
        }
    }

    fn compared(&mut self, now: Time, at: usize) {
        let server = &mut self.servers[at];
        let counts = server.detector.counts();
        server.compared += 1;
        server.polling.ended(now);
        self.scanned(at);
        self.begin_announcing(now, at);
        self.may_release = true;
        self.release(now);
        let server = &mut self.servers[at];
        self.out.push_back(Action::Compared {
            link: server.link,
            cause: server.cause,
            after_ms: server.gap_at.take().map_or(0, |began| now.since(began)),
            keys: counts.keys,
        });
        self.open_if_compared();
    }

    fn open_if_compared(&mut self) {
        let compared = self.servers.iter().all(|server| server.compared > 0 || server.has_left());
        if !self.opened && compared && self.fleet.complete() {
            self.opened = true;
            self.out.push_back(Action::Opened);
        }
    }

    /// Once all detectors are drained: what follows from their state.
    fn conclude(&mut self, now: Time) {
        self.seek(now);
        self.forget_the_empty();
        self.spread_news();
        let claimed = self.servers.iter().filter_map(|server| server.detector.oldest_claim()).min();
        self.may_release |= claimed != std::mem::replace(&mut self.claimed, claimed);
        self.release(now);
        self.report_known();
        if std::mem::take(&mut self.marks_changed) && !self.holds() {
            self.pass_marks();
        }
        let obstacle = self.fleet.missing().or_else(|| {
            let unready = self.servers.iter().find(|server| !server.ready());
            unready.map(Server::obstacle_among_others)
        });
        let status = obstacle.map_or(Ok(()), Err);
        let changed = self.status.as_ref() != Some(&status);
        if std::mem::take(&mut self.servers_changed) || changed {
            self.out.push_back(Action::Servers);
        }
        if changed {
            self.out.push_back(Action::Status(status.clone()));
            self.status = Some(status);
        }
    }

    /// A mark is passed when the last of the connected servers has delivered it.
    fn pass_marks(&mut self) {
        let connected = self.servers.iter().filter(|server| server.is_up());
        if let Some(passed) =
            connected.map(|server| server.passed).min().filter(|&passed| passed > self.passed)
        {
            self.passed = passed;
            self.out.push_back(Action::Passed(passed));
        }
    }
}

impl Counts {
    /// Adds what only grows.
    fn add_totals(&mut self, other: Counts) {
        self.probes += other.probes;
        self.lookups += other.lookups;
        self.overtaken += other.overtaken;
        self.invalid += other.invalid;
    }
}
