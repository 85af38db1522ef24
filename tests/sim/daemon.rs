//! The daemon as `src/driver/mod.rs` makes it, with the real detectors and hub in it.

use super::book::Book;
use super::cluster::View;
use super::link::{Ask, Feed, Question, Up};
use super::redis::Event;
use super::server::Server;
use super::watcher::Reader;
use super::world::{Broken, World};
use keybeat::hub::Hub;
use keybeat::metrics::Metrics;
use keybeat::presence::{Change, End, Input, Output, Time};
use std::collections::BTreeMap;
use std::sync::Arc;

/// As the driver has it.
const STALL_MS: u64 = 2_500;

/// The driver's state, and the book that is kept of it.
pub struct Daemon {
    pub servers: Vec<Server>,
    /// How many there ever were.
    pub ids: u64,
    pub view: View,
    pub redirections: BTreeMap<usize, usize>,
    pub retire_at: Option<Time>,
    pub hub: Hub,
    pub open: bool,
    pub last: u64,
    pub readers: Vec<Reader>,
    pub book: Book,
}

impl Daemon {
    pub fn new(now: u64) -> Daemon {
        Daemon {
            servers: Vec::new(),
            ids: 0,
            view: View::default(),
            redirections: BTreeMap::new(),
            retire_at: None,
            hub: Hub::new(Time::from_ms(now), 64 * 64, Arc::new(Metrics::new())),
            open: false,
            last: now,
            readers: Vec::new(),
            book: Book::default(),
        }
    }

    pub fn settled(&self) -> bool {
        self.servers.iter().all(|server| server.detector.settled())
    }
}

impl World {
    /// The driver's loop wakes once.
    pub fn wake(&mut self) {
        let slept = self.now - self.daemon.last;
        self.daemon.last = self.now;
        for view in std::mem::take(&mut self.views) {
            self.follow(view);
        }
        for at in 0..self.daemon.servers.len() {
            if slept > STALL_MS && self.daemon.servers[at].connected {
                self.gap(at, "stalled", Input::Gap);
                let now = self.time();
                self.daemon.servers[at].canary.restart(now);
            }
        }
        while let Some((at, feed)) = self.next_feed() {
            self.take(at, feed);
            self.settle(at);
        }
        self.tick();
        if self.daemon.open && self.daemon.readers.is_empty() {
            self.add_readers();
        }
    }

    /// What has arrived, the earliest first.
    fn next_feed(&mut self) -> Option<(usize, Feed)> {
        let first = |server: &Server| {
            let wire = server.link.wire.front().map(|(when, _)| (*when, true));
            let reply = server.link.replies.keys().next().map(|&(when, _)| (when, false));
            // Of two at once, what is in the stream.
            [wire, reply].into_iter().flatten().min_by_key(|&(when, wire)| (when, !wire))
        };
        let servers = self.daemon.servers.iter().enumerate();
        let all = servers.filter_map(|(at, server)| first(server).map(|(when, wire)| (when, at, wire)));
        let (_, at, wire) = all.min().filter(|&(when, ..)| when <= self.now)?;
        let link = &mut self.daemon.servers[at].link;
        let feed = if wire {
            link.wire.pop_front().map(|(_, feed)| feed)
        } else {
            link.replies.pop_first().map(|(_, feed)| feed)
        };
        feed.map(|feed| (at, feed))
    }

    fn take(&mut self, at: usize, feed: Feed) {
        if !matches!(feed, Feed::Event(Event::Exchanged(_))) {
            let id = self.daemon.servers[at].id;
            self.trail.note(self.now, format_args!("{id} <- {feed:?}"));
        }
        let now = self.time();
        let server = &mut self.daemon.servers[at];
        match feed {
            Feed::Event(event) => self.take_events(at, event),
            Feed::Answers(id, mut answers, redirections) => {
                self.redirect(&mut answers, redirections);
                self.daemon.servers[at].detector.handle(now, Input::Answers(id, answers));
            }
            Feed::Page(number, names, next) => {
                server.detector.handle(now, Input::Page(number, names, next));
            }
            Feed::Up(up) => self.rise(at, up),
            Feed::Down => {
                server.down();
                server.detector.handle(now, Input::Down);
                self.daemon.book.exact = false;
            }
            Feed::Lagged(lost) => {
                lost.iter().for_each(|event| self.daemon.book.record(event));
                self.daemon.book.due.clear();
                self.gap(at, "lagged", Input::Gap);
            }
            Feed::Replaced(noticed) => {
                server.replaced = Some(noticed);
                if !server.canary.awaited() || self.knobs.broken == Broken::ReplacedAtOnce {
                    self.replaced(at);
                }
            }
        }
    }

    fn rise(&mut self, at: usize, up: Up) {
        let flushed = self.daemon.servers[at].replaced.take().is_some() || up.flushed;
        self.enter_up(at, &up, flushed);
        let (now, sweeps) = (self.time(), self.knobs.silent.any());
        let server = &mut self.daemon.servers[at];
        server.up(now, sweeps);
        let run = format!("run{}-{}", server.node, up.run);
        server.detector.handle(now, Input::Up { run: &run, flushed, uptime_ms: up.uptime_ms });
    }

    /// A chunk of what has arrived; the outputs are drained after it, as the driver does.
    fn take_events(&mut self, at: usize, first: Event) {
        let (mut next, mut left) = (Some(first), self.rng.u8(1..10));
        while let Some(event) = next.take() {
            self.daemon.book.record(&event);
            if !self.daemon.servers[at].detector.settled() {
                // What a gap hid may have been the last heartbeat before an eviction.
                self.lost(&event);
            }
            self.take_event(at, &event);
            left -= 1;
            let ready = |front: &(u64, Feed)| front.0 <= self.now && matches!(front.1, Feed::Event(_));
            let wire = &mut self.daemon.servers[at].link.wire;
            if left > 0
                && wire.front().is_some_and(ready)
                && let Some((_, Feed::Event(event))) = wire.pop_front()
            {
                self.trail.note(self.now, format_args!("<- {event:?}"));
                next = Some(event);
            }
        }
    }

    fn take_event(&mut self, at: usize, event: &Event) {
        let now = self.time();
        let doubts = self.cluster.on && self.knobs.broken != Broken::DelBelieved;
        let server = &mut self.daemon.servers[at];
        let input = match event {
            Event::Set(key) => Input::Renewed(key.as_bytes()),
            Event::Placed(key) => Input::Placed(key.as_bytes()),
            // It may have moved to another node.
            Event::Ended(key, End::Deleted) if doubts => Input::Doubted(key.as_bytes()),
            Event::Ended(key, end) => Input::Ended(key.as_bytes(), *end),
            Event::Fence(id, side) => Input::Fence(*id, *side),
            Event::Canary => {
                server.canary.seen(now);
                return self.replaced(at);
            }
            Event::Exchanged(_) => return,
        };
        server.detector.handle(now, input);
    }

    fn gap(&mut self, at: usize, cause: &str, input: Input) {
        self.trail.note(self.now, format_args!("gap: {cause}"));
        self.daemon.book.exact = false;
        if self.knobs.broken != Broken::DeafToGaps {
            let now = self.time();
            self.daemon.servers[at].detector.handle(now, input);
        }
    }

    fn replaced(&mut self, at: usize) {
        if let Some(noticed) = self.daemon.servers[at].replaced.take() {
            // Not before what was found out until here is said.
            self.daemon.book.to_forgive = Some(noticed);
            self.gap(at, "replaced", Input::Replaced);
        }
    }

    /// Does what a detector wants done.
    pub fn drain(&mut self, at: usize) {
        let now = self.time();
        while let Some(output) = self.daemon.servers[at].detector.poll(now) {
            let id = self.daemon.servers[at].id;
            self.trail.note(self.now, format_args!("{id} -> {output:?}"));
            match output {
                Output::Changed(change) => self.change(at, &change),
                Output::Ask(batch, keys) => {
                    let names = keys.iter().map(|key| key.as_str().to_owned()).collect();
                    self.order(at, Question::Ask(Ask::new(batch, names)));
                }
                Output::Scan(number, cursor) => self.order(at, Question::Scan(number, cursor)),
                Output::Restart => self.restart(at, "fence"),
                Output::Moved(moved) => {
                    if !self.cluster.on {
                        self.fail(format!("{moved:?}, and there is one server"));
                    }
                    self.hand_over(at, &moved);
                }
                Output::Reconciled => {
                    let server = &mut self.daemon.servers[at];
                    server.compared = true;
                    server.sweeps.ended(now);
                    self.open_if_compared();
                }
                Output::Swept => self.daemon.servers[at].sweeps.ended(now),
            }
        }
    }

    fn change(&mut self, at: usize, change: &Change) {
        let user = change.key.user();
        let (now, daemon) = (self.time(), &mut self.daemon);
        let server = &daemon.servers[at];
        let fresh = daemon.book.note(server.id, change);
        let timely =
            change.at <= now && change.last_seen <= now && change.deadline.is_none_or(|at| at <= now);
        let transition = daemon.hub.apply(change);
        // Keys change hands whether a server is in reach or not, but nobody comes or goes by that.
        let up = server.connected || (self.cluster.on && transition.is_none());
        if let Some(transition) = &transition {
            daemon.book.said.push((user.to_owned(), transition.online));
            let seq = daemon.hub.seq();
            daemon.readers.iter_mut().for_each(|reader| reader.note(seq, user, transition.online));
        }
        if !fresh || !timely || !up {
            self.fail(format!("{change:?} with fresh={fresh} timely={timely} up={up}"));
        }
        // A session that ends while the steady one is not known yet: another server has it, and servers have no order
        // between them, or no `set` is told, and the next sweep finds it.
        let unheard = (self.cluster.on || self.knobs.silent.any()) && change.key.as_str().ends_with("#b");
        if transition.is_some_and(|transition| !transition.online) && !unheard {
            self.check_blink(user);
        }
        self.check_count(change);
    }
}
