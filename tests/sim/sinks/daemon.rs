//! A daemon: the tracker, the hub and the writer, and the links to the servers of presence keys.

use super::knobs::Knobs;
use super::presence::{
    Action, Answer, BatchId, Candidacy, Cause, Event, Fleet, FleetSettings, Input, Key, LinkId, LinkNotice,
    Notice, Primary, Renewals, Settings, Side, StreamWriter, Time, Tracker,
};
use super::users::{LONGEST_TTL_MS, User};
use super::view::{Moving, Step};
use super::world::{Act, World};
use crate::redis;
use crate::world::{Mode, Silent};
use fastrand::Rng;
use keybeat::hub::Hub;
use keybeat::metrics::Metrics;
use std::collections::VecDeque;
use std::sync::Arc;

/// A server that was started longer ago knows all users.
const TRUSTED_UPTIME_MS: u64 = LONGEST_TTL_MS * 3;
/// The driver looks again after so long, if it has nothing else to do.
const PULSE_MS: u64 = 1_000;
/// A decision of the driver reaches the hub so many milliseconds later at most.
const LATE_STEPS_MS: u64 = 5;

/// One item of a link's event stream.
#[derive(Debug)]
pub enum Item {
    Key(redis::Event),
    Fence(BatchId, Side),
    Canary,
    Mark(u64),
    /// Subscribed: the run, how long it has been running, and whether it took no writes before.
    Up(String, u64, bool),
    Down,
}

/// A command on its way to a server of presence keys.
#[derive(Debug)]
pub enum Command {
    Ask(BatchId, Vec<Key>),
    Scan(u8, u64),
    Canary,
}

/// The connections to one server.
pub struct Link {
    pub id: LinkId,
    pub node: usize,
    pub on: bool,
    pub epoch: u32,
    pub wire: VecDeque<(u64, Item)>,
    pub replies: VecDeque<(u64, LinkNotice)>,
    /// How much later events are for a while.
    pub lag_ms: u64,
    /// Nothing arrives any more, though the connection looks alive.
    pub deaf: bool,
    /// No connection can be made until then.
    pub barred_until: u64,
    /// An attempt to connect failed since the last connection.
    pub barred: bool,
}

/// See the module's head.
pub struct Daemon {
    pub at: usize,
    pub name: String,
    pub tracker: Tracker,
    pub view: Moving,
    pub writer: StreamWriter,
    pub links: Vec<Link>,
    /// The last turn of the driver's loop.
    pub last: u64,
    pub frozen_until: u64,
    /// Each order takes longer until then.
    pub slow_until: u64,
    /// It cannot reach the stream's server until then.
    pub cut_off_until: u64,
    pub leaving: bool,
    pub open: bool,
    /// The number of the order under way.
    pub under_way: Option<u64>,
    /// The number of that order, and its mark, if it is one that has yet to come back.
    pub mark: Option<(u64, u64)>,
    /// The last order failed.
    pub failed: bool,
    /// It follows its own transitions, or compares all users.
    pub follows: bool,
}

impl Daemon {
    pub fn new(at: usize, name: String, now: u64, knobs: &Knobs, rng: &mut Rng) -> Daemon {
        let nodes = knobs.nodes;
        let detector =
            Settings { first_ttl_ms: 3_000, trusted_uptime_ms: TRUSTED_UPTIME_MS, ..Settings::default() };
        let fence_limit_ms = detector.fence_limit_ms.max(knobs.canary_limit_ms);
        let tracker = Tracker::new(FleetSettings {
            detector: Settings { fence_limit_ms, ..detector },
            canary_limit_ms: knobs.canary_limit_ms,
            lease: Candidacy::Stands,
            chooses: false,
            requests: 0,
            slot: Box::new(move |key: &Key| User::node_of(key.as_str(), nodes) as u16),
        });
        let hub = Hub::new(Time::from_ms(now), 64 * 64, Arc::new(Metrics::new()));
        Daemon {
            at,
            tracker,
            view: Moving::new(hub, rng.fork()),
            writer: StreamWriter::new(&name),
            name,
            links: Vec::new(),
            last: now,
            frozen_until: 0,
            slow_until: 0,
            cut_off_until: 0,
            leaving: false,
            open: false,
            under_way: None,
            mark: None,
            failed: false,
            follows: false,
        }
    }

    /// The next turn of the driver's loop.
    pub fn next_wake(&self) -> u64 {
        let arrivals = self
            .links
            .iter()
            .flat_map(|link| [link.wire.front().map(|&(at, _)| at), link.replies.front().map(|&(at, _)| at)]);
        let due = self.tracker.next_due().map(|due| due.as_ms().max(self.last + 1));
        let steps = (!self.view.is_settled()).then_some(self.last + LATE_STEPS_MS);
        let first = arrivals.chain([due, steps, Some(self.last + PULSE_MS)]).flatten().min();
        first.unwrap_or(u64::MAX).max(self.frozen_until)
    }

    /// Has it taken in all that the servers did?
    pub fn has_all(&self) -> bool {
        let idle = |link: &Link| link.on && link.wire.is_empty() && link.replies.is_empty() && !link.deaf;
        let asks = self.tracker.counts().waiting > 0 || !self.view.is_settled();
        !asks && self.tracker.settled() && self.links.iter().all(idle)
    }

    fn place_of(&self, id: LinkId) -> Option<usize> {
        self.links.iter().position(|link| link.id == id)
    }

    /// The messages that have arrived, the earliest first.
    fn next_feed(&mut self, now: u64) -> Option<(usize, Feed)> {
        let first = |link: &Link| {
            let wire = link.wire.front().map(|&(at, _)| (at, true));
            let reply = link.replies.front().map(|&(at, _)| (at, false));
            wire.into_iter().chain(reply).min()
        };
        let ready = self.links.iter().enumerate().filter_map(|(at, link)| Some((first(link)?, at)));
        let ((when, is_event), at) = ready.min()?;
        if when > now {
            return None;
        }
        let link = &mut self.links[at];
        let feed = match is_event {
            true => Feed::Item(link.wire.pop_front()?.1),
            false => Feed::Reply(link.replies.pop_front()?.1),
        };
        Some((at, feed))
    }
}

enum Feed {
    Item(Item),
    Reply(LinkNotice),
}

/// The driver's loop.
impl World {
    /// A daemon begins.
    pub fn start(&mut self, at: usize) {
        if self.daemons[at].is_some() {
            return;
        }
        self.named += 1;
        let name = format!("d{}", self.named);
        self.note(format_args!("{name} starts at {at}"));
        let mut daemon = Daemon::new(at, name, self.now, &self.knobs, &mut self.rng);
        let fleet = fleet(self.knobs.nodes);
        self.handle(&mut daemon, Notice::Topology(fleet));
        self.daemons[at] = Some(daemon);
        let life = self.lives[at];
        self.later(1..200, Act::Tick(at, life));
    }

    /// A daemon ends without a word.
    pub fn kill(&mut self, at: usize) {
        if let Some(daemon) = self.daemons[at].take() {
            self.note(format_args!("{} ends", daemon.name));
            self.lives[at] += 1;
        }
    }

    /// The driver's loop turns.
    pub fn wake(&mut self, at: usize) {
        let Some(mut daemon) = self.daemons[at].take() else { return };
        daemon.last = self.now;
        daemon.view.advance(usize::MAX);
        while let Some((link, feed)) = daemon.next_feed(self.now) {
            self.take(&mut daemon, link, feed);
        }
        self.handle(&mut daemon, Notice::Due);
        if self.rng.u8(..4) > 0 {
            daemon.view.advance(usize::MAX);
        }
        self.daemons[at] = Some(daemon);
        self.look_for_mark(at);
    }

    fn take(&mut self, daemon: &mut Daemon, at: usize, feed: Feed) {
        let (now, id) = (self.time(), daemon.links[at].id);
        let item = match feed {
            Feed::Reply(notice) => return self.handle(daemon, Notice::Link(id, notice)),
            Feed::Item(item) => item,
        };
        self.note(format_args!("{} <- {item:?}", daemon.name));
        let event = match &item {
            Item::Key(event) => match input(event) {
                Some(input) => Event::Key(input),
                None => return,
            },
            Item::Fence(batch, side) => Event::Key(Input::Fence(*batch, *side)),
            Item::Canary => Event::Canary,
            Item::Mark(mark) => Event::Mark(*mark),
            Item::Up(run, uptime_ms, outage) => {
                let up = LinkNotice::Up {
                    run: run.clone(),
                    outage: *outage,
                    uptime_ms: *uptime_ms,
                    silent: false,
                    renewals: Renewals::Set,
                    lease: None,
                    mark: daemon.view.hub.last_mark(),
                };
                return self.handle(daemon, Notice::Link(id, up));
            }
            Item::Down => {
                let down = LinkNotice::Down(Cause::Connection, "cut".into());
                return self.handle(daemon, Notice::Link(id, down));
            }
        };
        daemon.tracker.events(now, id, std::iter::once(event));
        self.drain(daemon);
    }

    fn handle(&mut self, daemon: &mut Daemon, notice: Notice) {
        daemon.tracker.handle(self.time(), notice);
        self.drain(daemon);
    }

    /// Carries out what the tracker has decided.
    fn drain(&mut self, daemon: &mut Daemon) {
        while let Some(action) = daemon.tracker.poll(self.time()) {
            match action {
                Action::Changed(_, change, _) => daemon.view.add(Step::Change(change)),
                Action::Opened => {
                    daemon.open = true;
                    daemon.view.add(Step::Open);
                }
                Action::Passed(mark) => daemon.view.add(Step::Passed(mark)),
                Action::Status(status) => {
                    self.note(format_args!("{} is {status:?}", daemon.name));
                    daemon.view.add(Step::Health(status));
                }
                Action::Ask(link, batch, keys) => self.send(daemon, link, Command::Ask(batch, keys)),
                Action::Scan(link, number, cursor) => self.send(daemon, link, Command::Scan(number, cursor)),
                Action::Canary(link) => self.send(daemon, link, Command::Canary),
                Action::Open { link, primary } => self.open(daemon, link, &primary),
                Action::Close(link, _) => {
                    if let Some(at) = daemon.place_of(link) {
                        self.cut(daemon, at);
                    }
                }
                Action::Compared { .. } => self.book.hide(self.now),
                _ => {}
            }
        }
    }

    fn open(&mut self, daemon: &mut Daemon, id: LinkId, primary: &str) {
        daemon.links.push(Link {
            id,
            node: primary.parse().unwrap_or(0),
            on: false,
            epoch: 0,
            wire: VecDeque::new(),
            replies: VecDeque::new(),
            lag_ms: 0,
            deaf: false,
            barred_until: 0,
            barred: false,
        });
        let (life, link) = (self.lives[daemon.at], daemon.links.len() - 1);
        self.later(1..300, Act::Connect(daemon.at, life, link));
    }

    fn send(&mut self, daemon: &Daemon, id: LinkId, command: Command) {
        let Some(link) = daemon.place_of(id).filter(|&at| daemon.links[at].on) else { return };
        let when = self.now + self.rng.u64(..=self.knobs.latency_ms);
        let life = self.lives[daemon.at];
        self.at(when, Act::Command(daemon.at, life, link, daemon.links[link].epoch, command));
    }

    /// A connection ends: some of what is on its way still comes.
    pub fn cut(&mut self, daemon: &mut Daemon, at: usize) {
        let link = &mut daemon.links[at];
        if !std::mem::take(&mut link.on) {
            return;
        }
        link.wire.truncate(self.rng.usize(..=link.wire.len()));
        link.replies.clear();
        link.deaf = false;
        let last = link.wire.back().map_or(0, |&(when, _)| when);
        link.wire.push_back((last.max(self.now), Item::Down));
        self.note(format_args!("{} loses {at}", daemon.name));
        let life = self.lives[daemon.at];
        self.later(20..1_500, Act::Connect(daemon.at, life, at));
    }
}

/// The servers' side of the links.
impl World {
    /// A daemon tries to connect.
    pub fn connect(&mut self, at: usize, link: usize) {
        let (now, life) = (self.now, self.lives[at]);
        let Some(daemon) = &mut self.daemons[at] else { return };
        let (link_at, link) = (link, &mut daemon.links[link]);
        let node = &self.nodes[link.node];
        if !node.takes_writes(now) || link.barred_until > now {
            link.barred = true;
            return self.later(20..200, Act::Connect(at, life, link_at));
        }
        (link.on, link.epoch) = (true, link.epoch + 1);
        let run = format!("run{}-{}", link.node, node.run);
        let uptime_ms = (now - node.started) / 1_000 * 1_000;
        let outage = std::mem::take(&mut link.barred);
        self.push(at, link_at, Item::Up(run, uptime_ms, outage));
    }

    /// A server publishes something to one link.
    fn push(&mut self, at: usize, link: usize, item: Item) {
        let latency = self.rng.u64(..=self.knobs.latency_ms);
        let Some(daemon) = &mut self.daemons[at] else { return };
        let link = &mut daemon.links[link];
        if link.deaf {
            return;
        }
        let last = link.wire.back().map_or(0, |&(when, _)| when);
        link.wire.push_back((last.max(self.now + latency + link.lag_ms), item));
    }

    /// A server publishes what its keys did.
    pub fn publish(&mut self, node: usize) {
        for event in std::mem::take(&mut self.nodes[node].out) {
            self.book.record(self.now, &event);
            if !Silent::Nothing.tells(&event, Mode::SET) {
                continue;
            }
            for at in 0..self.daemons.len() {
                let Some(daemon) = &self.daemons[at] else { continue };
                if let Some(link) = daemon.links.iter().position(|link| link.node == node && link.on) {
                    self.push(at, link, Item::Key(event.clone()));
                }
            }
        }
    }

    /// A server carries out a command.
    pub fn carry_out(&mut self, at: usize, link: usize, epoch: u32, command: Command) {
        let now = self.now;
        let Some(daemon) = &self.daemons[at] else { return };
        let (node, life) = (daemon.links[link].node, self.lives[at]);
        if !daemon.links[link].on || daemon.links[link].epoch != epoch || !self.nodes[node].up {
            return;
        }
        if !self.nodes[node].takes_writes(now) {
            let until = self.nodes[node].frozen_until.max(now + 1);
            return self.at(until, Act::Command(at, life, link, epoch, command));
        }
        let notice = match command {
            Command::Scan(number, cursor) => {
                let (names, next) = self.nodes[node].scan(now, &mut self.rng, cursor);
                LinkNotice::Page { number, names, next, likely: 0 }
            }
            Command::Canary => {
                self.push(at, link, Item::Canary);
                LinkNotice::Intact { refused: false }
            }
            Command::Ask(batch, keys) => {
                self.push(at, link, Item::Fence(batch, Side::Open));
                let pttl = |key: &Key| self.nodes[node].pttl(now, key.as_str());
                let answers: Vec<Answer> = keys.iter().map(pttl).collect();
                self.publish(node);
                self.push(at, link, Item::Fence(batch, Side::Close));
                LinkNotice::Answers(batch, answers, Vec::new())
            }
        };
        let latency = self.rng.u64(..=self.knobs.latency_ms);
        let Some(daemon) = &mut self.daemons[at] else { return };
        let link = &mut daemon.links[link];
        let up_at =
            link.wire.iter().filter(|(_, item)| matches!(item, Item::Up(..))).map(|&(at, _)| at).max();
        let last = link.replies.back().map_or(0, |&(when, _)| when);
        link.replies.push_back(((now + latency).max(last).max(up_at.unwrap_or(0)), notice));
    }

    /// A mark arrives at a server.
    pub fn mark(&mut self, at: usize, node: usize, mark: u64) {
        let Some(daemon) = &self.daemons[at] else { return };
        if !self.nodes[node].takes_writes(self.now) {
            return;
        }
        if let Some(link) = daemon.links.iter().position(|link| link.node == node && link.on) {
            self.push(at, link, Item::Mark(mark));
        }
    }

    /// The connections of all daemons to a server end.
    pub fn cut_all(&mut self, node: usize) {
        for at in 0..self.daemons.len() {
            let Some(mut daemon) = self.daemons[at].take() else { continue };
            for link in 0..daemon.links.len() {
                if daemon.links[link].node == node {
                    self.cut(&mut daemon, link);
                }
            }
            self.daemons[at] = Some(daemon);
        }
    }
}

fn input(event: &redis::Event) -> Option<Input<'_>> {
    Some(match event {
        redis::Event::Set(key) => Input::Renewed(key.as_bytes()),
        redis::Event::Placed(key) => Input::Placed(key.as_bytes()),
        redis::Event::Ended(key, end) => Input::Ended(key.as_bytes(), *end),
        _ => return None,
    })
}

/// One server, or a cluster in which nothing moves.
fn fleet(nodes: usize) -> Fleet {
    let primary = |node: usize| Primary {
        id: if nodes > 1 { node.to_string() } else { String::new() },
        name: node.to_string(),
        addresses: vec![node.to_string()],
        slots: vec![node as u16..=node as u16],
    };
    let slots = if nodes > 1 { nodes as u16 } else { 0 };
    Fleet { slots, primaries: (0..nodes).map(primary).collect(), unknown: String::new() }
}
