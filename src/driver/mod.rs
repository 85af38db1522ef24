//! The loop around the detectors, one a server: their only owner, and the only caller of the clock.

mod clock;
mod pulse;
mod server;
mod shards;

pub use clock::Clock;
pub use server::Template;

use crate::hub::{Health, Hub};
use crate::metrics::Metrics;
use crate::presence::{Change, End, Input, Output, Reason, Time};
use crate::redis::cluster::Topology;
use crate::redis::link::parser::{Events, Item};
use crate::redis::link::{Feed, Order};
use crate::traces;
use pulse::Pulse;
use server::{CANARY_EVERY_MS, Server};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, watch};
use tracing::{Span, info, warn};

/// The loop wakes at least once a second. If it slept longer than this, the process was stopped or
/// starved: what waits in the stream is older than it looks.
const STALL_MS: u64 = 2_500;
/// Pieces of the feed taken before outputs and deadlines have their turn.
const TURN: usize = 16;
/// Chunks of events that may wait for the driver. A link that finds the queue full reads no more, and what it does
/// not read waits in the server, up to its limit for a subscriber: then it ends the connection, which is a gap.
const FEED: usize = 256;

/// See the module's head.
pub struct Driver {
    template: Template,
    servers: Vec<Server>,
    /// What the links say, each with the number of the link.
    feed: mpsc::Receiver<(u64, Feed)>,
    feeder: mpsc::Sender<(u64, Feed)>,
    links: u64,
    topology: watch::Receiver<Arc<Topology>>,
    /// The topology that the servers follow.
    current: Arc<Topology>,
    /// Which nodes have the keys of slots that are on their way, as the nodes that they leave say.
    redirections: HashMap<u16, String>,
    retire_at: Option<Time>,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    clock: Clock,
    last: Time,
    /// When those who watch everybody are to be rung.
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
        let pulse = Pulse::new(template.pulse, clock.now());
        Driver {
            template,
            servers: Vec::new(),
            feed,
            feeder,
            links: 0,
            topology,
            current: Arc::default(),
            redirections: HashMap::new(),
            retire_at: None,
            hub,
            metrics,
            clock,
            last: clock.now(),
            ring_at: None,
            pulse,
        }
    }

    /// Changes as long as the loop turns, at least once a second; ends with it.
    pub fn pulse(&self) -> watch::Receiver<Time> {
        self.pulse.listen()
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        self.reshape();
        loop {
            let wake = self.wake_at();
            let fed = tokio::select! {
                fed = self.feed.recv() => fed,
                Ok(()) = self.topology.changed() => {
                    self.reshape();
                    None
                }
                () = tokio::time::sleep_until(wake) => None,
            };
            self.check_stall();
            if let Some(fed) = fed {
                self.take(fed);
                for _ in 1..TURN {
                    let Ok(fed) = self.feed.try_recv() else {
                        break;
                    };
                    self.take(fed);
                }
            }
            self.tick();
            self.pulse.turn(self.last);
        }
    }

    fn wake_at(&self) -> tokio::time::Instant {
        let due = self.servers.iter().filter_map(Server::next_due).chain(self.retire_at).min();
        let pulse = self.pulse.due();
        let wake = self.clock.instant(due.map_or(pulse, |due| due.min(pulse)));
        self.ring_at.map_or(wake, |ring| wake.min(ring.into()))
    }

    /// A process that was stopped finds events that are older than they look, so their deadlines
    /// would be too late: a gap.
    fn check_stall(&mut self) {
        let now = self.clock.now();
        let slept = now.since(self.last);
        self.last = now;
        if slept <= STALL_MS {
            return;
        }
        let why = format!("the daemon was stopped or starved for {slept} ms");
        for at in 0..self.servers.len() {
            if self.servers[at].connected {
                self.gap(at, "stalled", &why, Input::Gap);
                self.servers[at].canary.restart(now);
            }
        }
    }

    fn gap(&mut self, at: usize, cause: &'static str, why: &str, gap: Input) {
        self.tell_gap(at, cause, why);
        self.servers[at].detector.handle(self.clock.now(), gap);
    }

    /// Counts a gap, and says it once.
    fn tell_gap(&mut self, at: usize, cause: &'static str, why: &str) {
        self.metrics.gap(cause);
        let server = &mut self.servers[at];
        server.gap = cause;
        server.gaps += 1;
        server.begin_gap(self.clock.now());
        warn!(server = server.node.shown(), cause, why, "gap");
    }

    fn replaced(&mut self, at: usize) {
        if std::mem::take(&mut self.servers[at].replaced) {
            let why = "the keys are others than a moment ago (FLUSHALL, FLUSHDB, SWAPDB?)";
            self.gap(at, "replaced", why, Input::Replaced);
        }
    }

    fn take(&mut self, (link, feed): (u64, Feed)) {
        // What a link that has ended said last is not looked at.
        let Some(at) = self.servers.iter().position(|server| server.id == link && !server.leaves()) else {
            return;
        };
        let now = self.clock.now();
        let server = &mut self.servers[at];
        let changes = matches!(feed, Feed::Up { .. } | Feed::Down { .. });
        match feed {
            Feed::Events(events) => self.take_events(at, now, &events),
            Feed::Answers(batch, mut answers, redirections) => {
                self.redirect(at, &mut answers, redirections);
                self.servers[at].detector.handle(now, Input::Answers(batch, answers));
            }
            Feed::Page(number, page, likely) => {
                server.detector.expect(likely);
                server.detector.handle(now, Input::Page(number, page.names, page.next));
            }
            Feed::Up { run, flushed, uptime_ms, silent } => {
                server.connected = true;
                server.begin_gap(now);
                server.canary.restart(now);
                // What was written before is found by the comparison that begins.
                server.passed = self.hub.last_mark();
                server.sweeps.up(now, silent.any());
                let flushed = std::mem::take(&mut server.replaced) || flushed;
                server.detector.handle(now, Input::Up { run: &run, flushed, uptime_ms });
            }
            Feed::Replaced => {
                // Events of keys from before may still be on their way, and come before the canary's.
                server.replaced = true;
                if !server.canary.awaited() {
                    self.replaced(at);
                }
            }
            Feed::Down { cause, why } => {
                if server.connected {
                    self.tell_gap(at, cause, &why);
                }
                let server = &mut self.servers[at];
                server.connected = false;
                server.sweeps.down();
                server.cause = why;
                server.detector.handle(now, Input::Down);
                self.pass_mark();
            }
        }
        self.drain(at);
        if changes {
            self.publish_servers();
        }
    }

    fn take_events(&mut self, at: usize, now: Time, events: &Events) {
        self.metrics.events.inc_by(events.len() as u64);
        let clustered = self.current.clustered;
        for item in events.items() {
            let server = &mut self.servers[at];
            match item {
                // It may have moved to another node.
                Item::Input(Input::Ended(name, End::Deleted)) if clustered => {
                    server.detector.handle(now, Input::Doubted(name));
                }
                Item::Input(input) => server.detector.handle(now, input),
                Item::Canary => {
                    if let Some(lag) = server.canary.seen(now) {
                        self.metrics.event_lag.observe_ms(lag as f64);
                    }
                    self.replaced(at);
                }
                Item::Mark(mark) => {
                    server.passed = server.passed.max(mark);
                    self.drain(at);
                    self.pass_mark();
                }
            }
        }
    }

    /// A mark is passed when the last of the servers that can be heard has brought it.
    fn pass_mark(&self) {
        // Also when one that is waited for is gone.
        let heard = self.servers.iter().filter(|server| server.connected);
        if let Some(passed) = heard.map(|server| server.passed).min() {
            self.hub.pass_mark(passed);
        }
    }

    /// Deadlines, canaries, and what is to be said of the state of things.
    fn tick(&mut self) {
        let now = self.clock.now();
        if self.retire_at.is_some_and(|due| due <= now) {
            self.retire_again(now);
        }
        for at in 0..self.servers.len() {
            self.tick_canary(at, now);
            if self.servers[at].sweeps.due(now) {
                self.servers[at].detector.handle(now, Input::Sweep);
            }
            self.servers[at].detector.handle(now, Input::Due);
            self.drain(at);
        }
        self.ring_at = self.hub.ring(Instant::now());
        self.publish_status(now);
    }

    fn tick_canary(&mut self, at: usize, now: Time) {
        let server = &mut self.servers[at];
        if !server.connected {
            return;
        }
        if server.canary.dead(now) {
            self.restart(at, "canary");
        } else if server.canary.due(now) {
            server.order(Order::Canary);
            self.publish_counts();
        }
    }

    fn restart(&mut self, at: usize, cause: &'static str) {
        // Until the link says that it is down; it will, and begin anew.
        let server = &mut self.servers[at];
        server.canary.restart(self.clock.now().plus(CANARY_EVERY_MS));
        server.order(Order::Restart(cause));
    }

    /// Does what a detector wants done, and says what it has found out.
    fn drain(&mut self, at: usize) {
        let now = self.clock.now();
        while let Some(output) = self.servers[at].detector.poll(now) {
            match output {
                Output::Changed(change) => self.change(at, &change),
                Output::Ask(batch, keys) => self.servers[at].order(Order::Ask(batch, keys)),
                Output::Scan(number, cursor) => self.servers[at].order(Order::Scan(number, cursor)),
                Output::Restart => self.restart(at, "fence"),
                Output::Reconciled => self.compared(at),
                Output::Swept => self.servers[at].sweeps.ended(now),
                Output::Moved(moved) => self.hand_over(at, &moved),
            }
        }
    }

    fn change(&mut self, at: usize, change: &Change) {
        let Some(transition) = self.hub.apply(change) else { return };
        if change.reason == Reason::Reconciled {
            self.metrics.repair(self.servers[at].gap);
            self.servers[at].repaired += 1;
        }
        let counter = if transition.online { &self.metrics.went_online } else { &self.metrics.went_offline };
        counter.inc();
        if let Some(deadline) = change.deadline {
            self.metrics.detection_lag.observe_ms(self.clock.now_ms() - deadline.as_ms() as f64);
        }
    }

    fn compared(&mut self, at: usize) {
        let now = self.clock.now();
        let server = &mut self.servers[at];
        let counts = server.detector.counts();
        let repaired = std::mem::take(&mut server.repaired);
        traces::compared(&std::mem::replace(&mut server.span, Span::none()), repaired, counts.keys);
        info!(
            server = server.node.shown(),
            cause = server.gap,
            repaired,
            after_ms = server.gap_at.take().map(|began| now.since(began)),
            keys = counts.keys,
            without_ttl = counts.immortal,
            "compared with Redis"
        );
        server.compared = true;
        server.sweeps.ended(now);
        self.open_if_compared();
    }

    /// What is held once all servers were compared is the first snapshot.
    fn open_if_compared(&self) {
        if !*self.hub.opened().borrow() && self.all_compared() {
            self.hub.open();
        }
    }

    fn publish_status(&mut self, now: Time) {
        let cause = self.in_the_way();
        let up = cause.is_none();
        let held = self.hub.health();
        let cause = cause.unwrap_or_default();
        if held.borrow().up == up && held.borrow().cause == cause {
            return;
        }
        self.publish_servers();
        self.hub.set_health(Health { up, since: now, cause });
    }

    fn publish_servers(&self) {
        self.hub.set_servers(self.servers.iter().map(Server::state).collect());
    }

    fn publish_counts(&mut self) {
        self.publish_servers();
        let metrics = &self.metrics;
        let mut immortal = 0;
        for server in &mut self.servers {
            let counts = server.detector.counts();
            let before = std::mem::replace(&mut server.counted, counts);
            metrics.probes.inc_by(counts.probes - before.probes);
            metrics.lookups.inc_by(counts.lookups - before.lookups);
            metrics.overtaken.inc_by(counts.overtaken - before.overtaken);
            metrics.invalid_keys.inc_by(counts.invalid - before.invalid);
            immortal += counts.immortal;
        }
        metrics.immortal_keys.set(immortal as i64);
        metrics.swept_servers.set(self.servers.iter().filter(|server| server.sweeps.always()).count() as i64);
        let (users, sessions) = self.hub.count();
        metrics.users_online.set(users as i64);
        metrics.sessions.set(sessions as i64);
        metrics.mailbox_bytes.set(self.hub.mailbox_bytes() as i64);
    }
}
