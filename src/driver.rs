//! The loop around the tracker: it carries what the links report to the tracker, and what the tracker decides to the
//! links, the hub, logs, metrics and traces. It holds the daemon's only clock, and decides nothing.

mod clock;
mod directory;
mod links;
mod meters;
mod notices;
mod pulse;
mod refusals;

pub use clock::Clock;
pub use directory::DirectoryDriver;

use crate::config::Hold;
use crate::hub::{Health, Hub, Wishes};
use crate::metrics::Metrics;
use crate::presence::{
    Action, Candidacy, Cause, Change, FleetSettings, Key, LinkId, Name, Notice, Reason, Request, Settings,
    Time, Tracker, WrittenKeys,
};
use crate::redis::channel::Message;
use crate::redis::cluster::{Topology, slot};
use crate::redis::link::{Feed, LinkSettings, Order};
use crate::redis::writer::TtlQuestion;
use futures_util::FutureExt;
use links::Links;
use meters::Meters;
use pulse::Pulse;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Pieces of the feed that the loop takes before deadlines have their turn.
const TURN: usize = 16;
/// Chunks of events that may wait for the driver. A link that finds the queue full reads no more. What it does not
/// read waits in the server, up to the server's limit for a subscriber; then the server ends the connection, which is
/// a gap.
const FEED: usize = 256;

/// The settings that all servers share.
#[derive(Clone)]
pub struct Template {
    /// For each link; the driver fills in which server, and which node.
    pub link: LinkSettings,
    /// For each detector.
    pub detector: Settings,
    /// A canary that takes longer means a dead stream.
    pub canary: Duration,
    /// The daemon's part among those that want a server's lease.
    pub lease: Candidacy,
    /// The users that it keeps.
    pub hold: Hold,
    /// How often the loop gives a sign of life; once a second if this is none.
    pub pulse: Option<Duration>,
}

/// See the module's head.
pub struct Driver {
    tracker: Tracker,
    links: Links,
    feed: mpsc::Receiver<(LinkId, Feed)>,
    topology: watch::Receiver<Arc<Topology>>,
    /// Keys that this daemon has written, with their TTLs in milliseconds.
    written: mpsc::Receiver<WrittenKeys>,
    /// Requests that need the TTLs of keys.
    asked: mpsc::Receiver<TtlQuestion>,
    hub: Arc<Hub>,
    meters: Meters,
    clock: Clock,
    /// When the hub wants to be called again.
    ring_at: Option<Instant>,
    pulse: Pulse,
    /// Cancelled when other daemons are to do this one's work.
    leaving: CancellationToken,
    /// How many times a keyspace was replaced.
    replaced: watch::Sender<u64>,
}

impl Driver {
    /// A driver of the servers that `topology` names.
    pub fn new(
        template: Template,
        (topology, written, asked): (
            watch::Receiver<Arc<Topology>>,
            mpsc::Receiver<WrittenKeys>,
            mpsc::Receiver<TtlQuestion>,
        ),
        hub: Arc<Hub>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Driver {
        let (feeder, feed) = mpsc::channel(FEED);
        let names = template.link.names.clone();
        let canary_limit_ms = template.canary.as_millis() as u64;
        // A stream whose canaries may be late may have late fences too.
        let fence_limit_ms = template.detector.fence_limit_ms.max(canary_limit_ms);
        let tracker = Tracker::new(FleetSettings {
            detector: Settings { fence_limit_ms, ..template.detector },
            canary_limit_ms,
            lease: template.lease,
            chooses: template.hold == Hold::Watched,
            requests: fastrand::u64(..1 << 53),
            slot: Box::new(move |key: &Key| slot(names.redis_key(key.as_str()).as_bytes())),
        });
        let pulse = Pulse::new(template.pulse, clock.now());
        let links = Links::new(template.link, topology.clone(), feeder);
        let meters = Meters::new(metrics);
        let leaving = CancellationToken::new();
        Driver {
            tracker,
            links,
            feed,
            topology,
            written,
            asked,
            hub,
            meters,
            clock,
            ring_at: None,
            pulse,
            leaving,
            replaced: watch::Sender::default(),
        }
    }

    /// Changes each time FLUSHALL, FLUSHDB or SWAPDB replaced the keyspace of a server.
    pub fn replaced(&self) -> watch::Receiver<u64> {
        self.replaced.subscribe()
    }

    /// Changes as long as the loop turns, at least once a second; ends with it.
    pub fn pulse(&self) -> watch::Receiver<Time> {
        self.pulse.listen()
    }

    /// To be cancelled when other daemons are to do this one's work.
    pub fn leaving(&self) -> CancellationToken {
        self.leaving.clone()
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        self.follow();
        let (leaving, hub) = (self.leaving.clone(), self.hub.clone());
        let mut left = pin!(leaving.cancelled().fuse());
        loop {
            let wake = self.wake_at();
            tokio::select! {
                Some(fed) = self.feed.recv() => self.take_turn(fed),
                Ok(()) = self.topology.changed() => self.follow(),
                Some(keys) = self.written.recv() => self.handle(Notice::Written(keys)),
                Some(question) = self.asked.recv() => self.answer_ttls(question),
                () = &mut left => self.handle(Notice::Draining),
                () = hub.wished() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
            self.take_wishes();
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
        let fleet = topology.fleet();
        self.links.follow(topology);
        self.handle(Notice::Topology(fleet));
    }

    /// Passes on which users clients watch from now on, and which they no longer watch.
    fn take_wishes(&mut self) {
        let Wishes { chosen, dismissed } = self.hub.take_wishes(self.clock.now());
        if !chosen.is_empty() {
            self.handle(Notice::Choose(chosen));
        }
        if !dismissed.is_empty() {
            self.handle(Notice::Dismiss(dismissed));
        }
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
        match feed {
            Feed::Events(events) => {
                self.meters.metrics.events.inc_by(events.len() as u64);
                self.tracker.events(self.clock.now(), link, events.items().map(notices::event));
                return self.carry_out();
            }
            Feed::Up { .. } => self.links.begin_gap(link, Cause::Start),
            _ => {}
        }
        if let Some(notice) = notices::notice(feed, self.hub.last_mark()) {
            self.handle(Notice::Link(link, notice));
        }
    }

    fn carry_out(&mut self) {
        let now = self.clock.now();
        while let Some(action) = self.tracker.poll(now) {
            match action {
                Action::Changed(link, change, cause) => self.change(link, &change, cause),
                Action::Ask(link, batch, keys) => self.links.order(link, Order::Ask(batch, keys)),
                Action::Scan(link, number, cursor) => self.links.order(link, Order::Scan(number, cursor)),
                Action::Canary(link) => self.links.order(link, Order::Canary),
                Action::Announce(link, keys) => self.links.order(link, Order::Announce(ttls(&keys))),
                Action::AnnounceEnds(link, keys) => {
                    self.links.order(link, Order::Announce(Message::Gone { keys: texts(&keys) }));
                }
                Action::AnnounceCommonTtl(link, ttl_ms) => {
                    self.links.order(link, Order::AnnounceCommonTtl(ttl_ms));
                }
                Action::AnnounceDigest(link, message) => {
                    self.links.order(link, Order::AnnounceDigest(message));
                }
                Action::Digested(result) => self.meters.metrics.digest(result.label()),
                Action::Dropped(keys) => self.hub.drop_keys(&keys),
                Action::Known(users) => self.hub.know(&users),
                Action::Seek(link, number, users) => self.links.order(link, Order::Find(number, users)),
                Action::Answer(link, request) => self.answer(link, request),
                Action::AnnounceCame(link, keys) => {
                    self.links.order(link, Order::Announce(Message::Came { keys: texts(&keys) }));
                }
                Action::AnnounceDeleted(link, keys) => {
                    self.links.order(link, Order::Announce(Message::Deleted { keys: texts(&keys) }));
                }
                Action::AnnounceTracks(link, since) => self.links.order(link, Order::Tracks(since.as_ms())),
                Action::Lease(link, order) => self.links.order(link, Order::Lease(order)),
                Action::Listen(link, on) => {
                    self.links.listens(link, on);
                    self.links.order(link, Order::Listen(on));
                }
                Action::Open { link, primary } => self.links.open(link, &primary),
                Action::Close(link, cause) => self.links.order(link, Order::Restart(cause)),
                Action::Forget(link) => self.links.forget(link),
                Action::Gap { link, cause, why } => {
                    self.meters.metrics.gap(cause.label());
                    if cause == Cause::Replaced {
                        self.replaced.send_modify(|count| *count += 1);
                    }
                    self.links.gap(link, cause, &why);
                }
                Action::Compared { link, cause, after_ms, keys } => {
                    self.links.compared(link, cause, after_ms, keys);
                }
                Action::Opened => self.hub.open(),
                Action::Passed(mark) => self.hub.pass_mark(mark),
                Action::EventLag(ms) => self.meters.metrics.event_lag.observe_ms(ms as f64),
                Action::Servers => {
                    let servers = self.tracker.servers();
                    self.meters.publish(&servers, self.tracker.counts(), &self.hub);
                    self.hub.set_servers(servers);
                }
                Action::Status(status) => {
                    let (up, cause) = (status.is_ok(), status.err().unwrap_or_default());
                    self.hub.set_health(Health { up, since: now, cause });
                }
            }
        }
    }

    /// Answers a request for TTLs. The client may have gone.
    fn answer_ttls(&self, TtlQuestion { keys, answer }: TtlQuestion) {
        drop(answer.send(keys.iter().map(|key| self.tracker.ttl_ms(key)).collect()));
    }

    /// Names the keys of users to another daemon.
    fn answer(&mut self, link: LinkId, request: Request) {
        let keys_of = |user: &Name| self.tracker.keys_at(link, user, self.hub.keys(user));
        let keys = request.users.iter().flat_map(keys_of).collect();
        self.links.order(link, Order::Answer(request, keys));
    }

    fn change(&mut self, link: LinkId, change: &Change, cause: Cause) {
        let Some(transition) = self.hub.apply(change) else { return };
        if change.reason == Reason::Reconciled {
            self.links.repaired(link);
        }
        self.meters.count(change, transition.online, cause, self.clock.now_ms());
    }
}

fn texts(keys: &[Key]) -> Vec<String> {
    keys.iter().map(|key| key.as_str().to_owned()).collect()
}

fn ttls(keys: &[(Key, u32)]) -> Message {
    Message::Ttls { keys: keys.iter().map(|(key, ttl_ms)| (key.as_str().to_owned(), *ttl_ms)).collect() }
}
