//! The loop around the detectors: their only owner, and the only caller of the clock.

use crate::hub::{Hub, Status};
use crate::keyspace::event::{Events, Item};
use crate::keyspace::link::{Feed, Link, Order};
use crate::metrics::Metrics;
use crate::presence::{Canary, Change, Counts, Detector, Input, Output, Reason, Settings, Time};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tracing::{info, warn};

/// A canary a second.
const CANARY_EVERY_MS: u64 = 1_000;
/// The loop wakes at least once a second. If it slept longer than this, the process was stopped or
/// starved: what waits in the stream is older than it looks.
const STALL_MS: u64 = 2_500;
/// Pieces of a feed taken before outputs and deadlines have their turn.
const TURN: usize = 16;
/// Chunks of events that may wait for the driver; a link that finds it full waits, and fred's ring
/// behind it overruns, which is a gap.
pub const FEED: usize = 64;

/// The wall clock read once, monotonic after that.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: Duration,
    start: Instant,
}

impl Clock {
    /// Reads the wall clock, for the only time.
    pub fn start() -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { wall, start: Instant::now() }
    }

    /// Now, to the millisecond.
    pub fn now(&self) -> Time {
        Time::from_ms((self.wall + self.start.elapsed()).as_millis() as u64)
    }

    /// Now, in milliseconds with their fraction.
    fn now_ms(&self) -> f64 {
        (self.wall + self.start.elapsed()).as_secs_f64() * 1000.0
    }

    /// When `time` is.
    fn instant(&self, time: Time) -> tokio::time::Instant {
        let ahead = Duration::from_millis(time.as_ms()).saturating_sub(self.wall);
        (self.start + ahead).into()
    }
}

/// One server: its link and what is believed of it.
pub struct Server {
    link: Link,
    feed: mpsc::Receiver<Feed>,
    detector: Detector,
    canary: Canary,
    counted: Counts,
    connected: bool,
    compared: bool,
    cause: String,
    /// Why the last comparison was needed.
    gap: &'static str,
}

impl Server {
    /// A server of which nothing is known yet. `canary` is how late one may be.
    pub fn new(link: Link, feed: mpsc::Receiver<Feed>, settings: Settings, canary: Duration) -> Server {
        Server {
            link,
            feed,
            detector: Detector::new(settings),
            canary: Canary::new(CANARY_EVERY_MS, canary.as_millis() as u64),
            counted: Counts::default(),
            connected: false,
            compared: false,
            cause: "not connected yet".into(),
            gap: "start",
        }
    }

    fn ready(&self) -> bool {
        self.connected && self.detector.settled() && self.canary.proven()
    }

    /// What is in the way of being ready.
    fn in_the_way(&self) -> &str {
        match (self.connected, self.detector.settled()) {
            (false, _) => &self.cause,
            (true, false) => "comparing with Redis",
            (true, true) => "no canary has come back yet",
        }
    }

    fn next_due(&self) -> Option<Time> {
        let canary = self.connected.then(|| self.canary.next_due());
        [self.detector.next_due(), canary].into_iter().flatten().min()
    }
}

/// See the module's head.
pub struct Driver {
    server: Server,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    clock: Clock,
    last: Time,
    /// When those who watch everybody are to be rung.
    ring_at: Option<Instant>,
}

impl Driver {
    /// A driver of one server.
    pub fn new(server: Server, hub: Arc<Hub>, metrics: Arc<Metrics>, clock: Clock) -> Driver {
        Driver { server, hub, metrics, clock, last: clock.now(), ring_at: None }
    }

    /// Runs until it is dropped or its link is gone.
    pub async fn run(mut self) {
        loop {
            let second = self.last.plus(1_000);
            let wake = self.server.next_due().map_or(second, |due| due.min(second));
            let wake = self.wake_at(wake);
            let feed = tokio::select! {
                feed = self.server.feed.recv() => match feed {
                    Some(feed) => Some(feed),
                    None => return,
                },
                () = tokio::time::sleep_until(wake) => None,
            };
            self.check_stall();
            if let Some(feed) = feed {
                self.take(feed);
                for _ in 1..TURN {
                    let Ok(feed) = self.server.feed.try_recv() else {
                        break;
                    };
                    self.take(feed);
                }
            }
            self.tick();
        }
    }

    fn wake_at(&self, wake: Time) -> tokio::time::Instant {
        let wake = self.clock.instant(wake);
        self.ring_at.map_or(wake, |ring| wake.min(ring.into()))
    }

    /// A process that was stopped finds events that are older than they look, so their deadlines
    /// would be too late: a gap.
    fn check_stall(&mut self) {
        let now = self.clock.now();
        let slept = now.since(self.last);
        self.last = now;
        if slept > STALL_MS && self.server.connected {
            warn!("the daemon was stopped or starved for {slept} ms; comparing with Redis");
            self.gap("stalled");
            self.server.canary.restart(now);
        }
    }

    fn gap(&mut self, cause: &'static str) {
        self.metrics.gap(cause);
        self.server.gap = cause;
        self.server.detector.handle(self.clock.now(), Input::Gap);
    }

    fn take(&mut self, feed: Feed) {
        let now = self.clock.now();
        match feed {
            Feed::Events(events) => self.take_events(now, &events),
            Feed::Answers(batch, answers) => {
                self.server.detector.handle(now, Input::Answers(batch, answers));
            }
            Feed::Page(number, page) => {
                self.server.detector.handle(now, Input::Page(number, page.names, page.next));
            }
            Feed::Up { run, flushed, uptime_ms } => {
                self.server.connected = true;
                self.server.canary.restart(now);
                self.server.detector.handle(now, Input::Up { run: &run, flushed, uptime_ms, deaf: false });
            }
            Feed::Lagged(lost) => {
                warn!(
                    "{lost} events were lost since they came faster than they could be read; comparing with Redis"
                );
                self.gap("lagged");
            }
            Feed::Down { cause, why } => {
                if self.server.connected {
                    self.metrics.gap(cause);
                    self.server.gap = cause;
                }
                self.server.connected = false;
                self.server.cause = why;
                self.server.detector.handle(now, Input::Down);
            }
        }
        self.drain();
    }

    fn take_events(&mut self, now: Time, events: &Events) {
        self.metrics.events.inc_by(events.len() as u64);
        for item in events.items() {
            match item {
                Item::Input(input) => self.server.detector.handle(now, input),
                Item::Canary => {
                    if let Some(lag) = self.server.canary.seen(now) {
                        self.metrics.event_lag.observe_ms(lag as f64);
                    }
                }
                Item::Mark(mark) => {
                    self.drain();
                    self.hub.pass_mark(mark);
                }
            }
        }
    }

    /// Deadlines, the canary, and what is to be said of the state of things.
    fn tick(&mut self) {
        let now = self.clock.now();
        if self.server.connected {
            if self.server.canary.dead(now) {
                self.restart("canary");
            } else if self.server.canary.due(now) {
                self.order(Order::Canary);
                self.publish_counts();
            }
        }
        self.server.detector.handle(now, Input::Due);
        self.drain();
        self.ring_at = self.hub.ring();
        self.publish_status(now);
    }

    fn restart(&mut self, cause: &'static str) {
        // Until the link says that it is down; it will, and begin anew.
        self.server.canary.restart(self.clock.now().plus(CANARY_EVERY_MS));
        self.order(Order::Restart(cause));
    }

    fn order(&mut self, order: Order) {
        if !self.server.link.order(order) {
            warn!("an order to the link did not fit its queue; it is taken for a gap");
        }
    }

    fn drain(&mut self) {
        let now = self.clock.now();
        while let Some(output) = self.server.detector.poll(now) {
            match output {
                Output::Changed(change) => self.change(&change),
                Output::Ask(batch, keys) => self.order(Order::Ask(batch, keys)),
                Output::Scan(number, cursor) => self.order(Order::Scan(number, cursor)),
                Output::Restart => self.restart("fence"),
                Output::Reconciled => self.compared(),
                Output::Swept => {}
                // Of one server alone; a key that no other adopts stays.
                Output::Moved(_) => {}
            }
        }
    }

    fn change(&mut self, change: &Change) {
        let transition = self.hub.apply(change);
        if !self.server.compared {
            return;
        }
        if change.reason == Reason::Reconciled {
            self.metrics.repair(self.server.gap);
        }
        let Some(transition) = transition else { return };
        let counter = if transition.online { &self.metrics.went_online } else { &self.metrics.went_offline };
        counter.inc();
        if let Some(deadline) = change.deadline {
            self.metrics.detection_lag.observe_ms(self.clock.now_ms() - deadline.as_ms() as f64);
        }
    }

    fn compared(&mut self) {
        let counts = self.server.detector.counts();
        info!(keys = counts.keys, without_ttl = counts.immortal, "compared with Redis");
        if !self.server.compared {
            self.server.compared = true;
            self.hub.open();
        }
    }

    fn publish_status(&mut self, now: Time) {
        let up = self.server.ready();
        let held = self.hub.status();
        let cause = if up { "" } else { self.server.in_the_way() };
        if held.borrow().up == up && held.borrow().cause == cause {
            return;
        }
        self.hub.set_status(Status { up, since: now, cause: cause.to_owned() });
    }

    fn publish_counts(&mut self) {
        let counts = self.server.detector.counts();
        let before = std::mem::replace(&mut self.server.counted, counts);
        let metrics = &self.metrics;
        metrics.probes.inc_by(counts.probes - before.probes);
        metrics.lookups.inc_by(counts.lookups - before.lookups);
        metrics.overtaken.inc_by(counts.overtaken - before.overtaken);
        metrics.invalid_keys.inc_by(counts.invalid - before.invalid);
        metrics.immortal_keys.set(counts.immortal as i64);
        let (users, sessions) = self.hub.count();
        metrics.users_online.set(users as i64);
        metrics.sessions.set(sessions as i64);
        metrics.mailbox_bytes.set(self.hub.mailbox_bytes() as i64);
    }
}
