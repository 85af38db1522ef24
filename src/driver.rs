//! The loop around the tracker: it carries what the links report to the tracker, and what the tracker decides to the
//! links, the hub, logs, metrics and traces. It holds the daemon's only clock, and decides nothing.

mod clock;
mod links;
mod pulse;

pub use clock::Clock;

use crate::hub::{Health, Hub};
use crate::metrics::Metrics;
use crate::presence::{
    Action, Cause, Change, Counts, Elsewhere, Event, Fleet, FleetSettings, Key, LinkId, LinkNotice, Notice,
    Primary, Reason, Settings, Time, Tracker,
};
use crate::redis::cluster::{self, Topology, slot};
use crate::redis::link::parser::Item;
use crate::redis::link::{Feed, LinkSettings, Order};
use links::Links;
use pulse::Pulse;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Pieces of the feed that the loop takes before deadlines have their turn.
const TURN: usize = 16;
/// Chunks of events that may wait for the driver. A link that finds the queue full reads no more. What it does not
/// read waits in the server, up to the server's limit for a subscriber; then the server ends the connection, which is
/// a gap.
const FEED: usize = 256;

/// What all servers have in common.
#[derive(Clone)]
pub struct Template {
    /// For each link; the driver fills in which server, and which node.
    pub link: LinkSettings,
    /// For each detector.
    pub detector: Settings,
    /// A canary that takes longer means a dead stream.
    pub canary: Duration,
    /// How often the loop gives a sign of life; once a second if this is none.
    pub pulse: Option<Duration>,
}

/// See the module's head.
pub struct Driver {
    tracker: Tracker,
    links: Links,
    feed: mpsc::Receiver<(LinkId, Feed)>,
    topology: watch::Receiver<Arc<Topology>>,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    /// What the metrics have counted already.
    counted: Counts,
    clock: Clock,
    /// When the hub wants to be called again.
    ring_at: Option<Instant>,
    pulse: Pulse,
}

impl Driver {
    /// A driver of the servers that `topology` names.
    pub fn new(
        template: Template,
        topology: watch::Receiver<Arc<Topology>>,
        hub: Arc<Hub>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Driver {
        let (feeder, feed) = mpsc::channel(FEED);
        let names = template.link.names.clone();
        let tracker = Tracker::new(FleetSettings {
            detector: template.detector,
            canary_limit_ms: template.canary.as_millis() as u64,
            slot: Box::new(move |key: &Key| slot(names.redis_key(key.as_str()).as_bytes())),
        });
        let pulse = Pulse::new(template.pulse, clock.now());
        let links = Links::new(template.link, topology.clone(), feeder);
        let (counted, ring_at) = (Counts::default(), None);
        Driver { tracker, links, feed, topology, hub, metrics, counted, clock, ring_at, pulse }
    }

    /// Changes as long as the loop turns, at least once a second; ends with it.
    pub fn pulse(&self) -> watch::Receiver<Time> {
        self.pulse.listen()
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        self.follow();
        loop {
            let wake = self.wake_at();
            tokio::select! {
                Some(fed) = self.feed.recv() => self.take_turn(fed),
                Ok(()) = self.topology.changed() => self.follow(),
                () = tokio::time::sleep_until(wake) => {}
            }
            self.handle(Notice::Due);
            self.ring_at = self.hub.ring(Instant::now());
            self.pulse.turn(self.clock.now());
        }
    }

    fn wake_at(&self) -> tokio::time::Instant {
        let pulse = self.pulse.due();
        let due = self.tracker.next_due();
        let wake = self.clock.instant(due.map_or(pulse, |due| due.min(pulse)));
        self.ring_at.map_or(wake, |ring| wake.min(ring.into()))
    }

    fn follow(&mut self) {
        let topology = self.topology.borrow_and_update().clone();
        let fleet = fleet(&topology);
        self.links.follow(topology);
        self.handle(Notice::Topology(fleet));
    }

    fn take_turn(&mut self, first: (LinkId, Feed)) {
        self.take(first);
        for _ in 1..TURN {
            let Ok(fed) = self.feed.try_recv() else { break };
            self.take(fed);
        }
    }

    fn handle(&mut self, notice: Notice) {
        self.tracker.handle(self.clock.now(), notice);
        self.carry_out();
    }

    fn take(&mut self, (link, feed): (LinkId, Feed)) {
        let notice = match feed {
            Feed::Events(events) => {
                self.metrics.events.inc_by(events.len() as u64);
                self.tracker.events(self.clock.now(), link, events.items().map(event));
                return self.carry_out();
            }
            Feed::Answers(batch, answers, redirections) => {
                let elsewhere = redirections.into_iter().map(|(place, told)| Elsewhere {
                    place,
                    slot: told.slot,
                    address: told.address,
                });
                LinkNotice::Answers(batch, answers, elsewhere.collect())
            }
            Feed::Page(number, page, likely) => {
                LinkNotice::Page { number, names: page.names, next: page.next, likely }
            }
            Feed::Up { ref run, flushed, uptime_ms, silent } => {
                self.links.begin_gap(link, Cause::Start);
                let (silent, mark) = (silent.needs_polling(), self.hub.last_mark());
                LinkNotice::Up { run, flushed, uptime_ms, silent, mark }
            }
            Feed::Replaced => LinkNotice::Replaced,
            Feed::Down { cause, why } => {
                LinkNotice::Down(Cause::from_label(cause).unwrap_or(Cause::Connection), why)
            }
        };
        self.handle(Notice::Link(link, notice));
    }

    fn carry_out(&mut self) {
        let now = self.clock.now();
        while let Some(action) = self.tracker.poll(now) {
            match action {
                Action::Changed(link, change, cause) => self.change(link, &change, cause),
                Action::Ask(link, batch, keys) => self.links.order(link, Order::Ask(batch, keys)),
                Action::Scan(link, number, cursor) => self.links.order(link, Order::Scan(number, cursor)),
                Action::Canary(link) => self.links.order(link, Order::Canary),
                Action::Open { link, primary } => self.links.open(link, &primary),
                Action::Close(link, cause) => self.links.order(link, Order::Restart(cause.label())),
                Action::Forget(link) => self.links.forget(link),
                Action::Gap { link, cause, why } => {
                    self.metrics.gap(cause.label());
                    self.links.gap(link, cause, &why);
                }
                Action::Compared { link, cause, after_ms, keys, without_ttl } => {
                    self.links.compared(link, cause, after_ms, keys, without_ttl);
                }
                Action::Opened => self.hub.open(),
                Action::Passed(mark) => self.hub.pass_mark(mark),
                Action::EventLag(ms) => self.metrics.event_lag.observe_ms(ms as f64),
                Action::Servers => self.publish(),
                Action::Status(status) => {
                    let (up, cause) = (status.is_ok(), status.err().unwrap_or_default());
                    self.hub.set_health(Health { up, since: now, cause });
                }
            }
        }
    }

    fn change(&mut self, link: LinkId, change: &Change, cause: Cause) {
        let Some(transition) = self.hub.apply(change) else { return };
        if change.reason == Reason::Reconciled {
            self.metrics.repair(cause.label());
            self.links.repaired(link);
        }
        let counter = if transition.online { &self.metrics.went_online } else { &self.metrics.went_offline };
        counter.inc();
        if let Some(deadline) = change.deadline {
            self.metrics.detection_lag.observe_ms(self.clock.now_ms() - deadline.as_ms() as f64);
        }
    }

    fn publish(&mut self) {
        let (servers, counts) = (self.tracker.servers(), self.tracker.counts());
        let (metrics, before) = (&self.metrics, std::mem::replace(&mut self.counted, counts));
        metrics.probes.inc_by(counts.probes - before.probes);
        metrics.lookups.inc_by(counts.lookups - before.lookups);
        metrics.overtaken.inc_by(counts.overtaken - before.overtaken);
        metrics.early_reports.inc_by(counts.early - before.early);
        metrics.invalid_keys.inc_by(counts.invalid - before.invalid);
        metrics.immortal_keys.set(counts.immortal as i64);
        metrics.swept_servers.set(servers.iter().filter(|server| server.polled).count() as i64);
        let (users, sessions) = self.hub.count();
        metrics.users_online.set(users as i64);
        metrics.sessions.set(sessions as i64);
        metrics.mailbox_bytes.set(self.hub.mailbox_bytes() as i64);
        self.hub.set_servers(servers);
    }
}

fn event(item: Item) -> Event {
    match item {
        Item::Input(input) => Event::Key(input),
        Item::Canary => Event::Canary,
        Item::Mark(mark) => Event::Mark(mark),
    }
}

fn fleet(topology: &Topology) -> Fleet {
    let primaries = topology.nodes.iter().map(|node| Primary {
        id: node.id.clone(),
        name: node.shown().to_owned(),
        addresses: node.addresses.clone(),
        slots: node.slots.clone(),
    });
    Fleet {
        slots: if topology.clustered { cluster::SLOTS } else { 0 },
        primaries: primaries.collect(),
        unknown: topology.unknown.clone(),
    }
}
