//! The daemon as `src/driver.rs` makes it, with the real detector and hub in it.

use super::link::{Feed, Question};
use super::redis::{Event, NEVER};
use super::watcher::Reader;
use super::world::{Broken, TAINT_MS, World};
use keybeat::hub::Hub;
use keybeat::metrics::Metrics;
use keybeat::presence::{Change, Detector, Input, Output, Settings, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// As the driver has it.
const STALL_MS: u64 = 2_500;

/// The driver's state, and the book that is kept of it.
pub struct Daemon {
    pub detector: Detector,
    pub hub: Hub,
    pub connected: bool,
    pub open: bool,
    pub last: u64,
    pub readers: Vec<Reader>,
    said: Vec<(String, bool)>,
    live: BTreeSet<String>,
    /// The keys that Redis had at the point of the stream that was read last, and the transitions that
    /// led there since the last comparison.
    pub shadow: BTreeSet<String>,
    due: Vec<(String, bool)>,
    /// Nothing is missing: each transition is the one that Redis made there.
    pub exact: bool,
    /// Not exact before, since what cannot be known has to run out first.
    pub tainted_until: u64,
    /// How often a steady user may be seen to blink, for Redis lost the key and said nothing.
    pub debt: BTreeMap<String, u32>,
}

impl Daemon {
    pub fn new(now: u64, settings: Settings) -> Daemon {
        Daemon {
            detector: Detector::new(settings),
            hub: Hub::new(Time::from_ms(now), 64 * 64, Arc::new(Metrics::new())),
            connected: false,
            open: false,
            last: now,
            readers: Vec::new(),
            said: Vec::new(),
            live: BTreeSet::new(),
            shadow: BTreeSet::new(),
            due: Vec::new(),
            exact: false,
            tainted_until: 0,
            debt: BTreeMap::new(),
        }
    }

    /// The book takes in one event of the stream.
    fn record(&mut self, event: &Event) {
        let (key, live) = match event {
            Event::Set(key) | Event::Placed(key) => (key, true),
            Event::Ended(key, _) => (key, false),
            Event::Fence(..) => return,
            Event::Flushed => return self.shadow.clear(),
        };
        let user = user_of(key);
        let before = is_online(&self.shadow, user);
        if live {
            self.shadow.insert(key.clone())
        } else {
            self.shadow.remove(key)
        };
        if before != is_online(&self.shadow, user) {
            self.due.push((user.to_owned(), live));
        }
    }

    pub fn online(&self) -> BTreeSet<String> {
        users_of(self.live.iter())
    }
}

pub fn user_of(key: &str) -> &str {
    key.split('#').next().unwrap_or(key)
}

pub fn users_of<'a>(keys: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
    keys.map(|key| user_of(key).to_owned()).collect()
}

fn is_online(keys: &BTreeSet<String>, user: &str) -> bool {
    keys.range(user.to_owned()..).next().is_some_and(|key| user_of(key) == user)
}

impl World {
    /// The driver's loop wakes once.
    pub fn wake(&mut self) {
        let slept = self.now - self.daemon.last;
        self.daemon.last = self.now;
        if slept > STALL_MS && self.daemon.connected {
            self.gap("stalled");
        }
        while let Some(feed) = self.next_feed() {
            self.take(feed);
            self.settle();
        }
        self.daemon.detector.handle(self.time(), Input::Due);
        self.settle();
        if self.daemon.open && self.daemon.readers.is_empty() {
            self.add_readers();
        }
    }

    fn next_feed(&mut self) -> Option<Feed> {
        let wire = self.link.wire.front().map(|(at, _)| *at);
        let reply = self.link.replies.keys().next().map(|&(at, _)| at);
        let first = [wire, reply].into_iter().flatten().min().filter(|&at| at <= self.now)?;
        if wire == Some(first) {
            return self.link.wire.pop_front().map(|(_, feed)| feed);
        }
        self.link.replies.pop_first().map(|(_, feed)| feed)
    }

    fn take(&mut self, feed: Feed) {
        if !matches!(feed, Feed::Event(Event::Flushed)) {
            self.trail.note(self.now, format_args!("<- {feed:?}"));
        }
        let now = self.time();
        match feed {
            Feed::Event(event) => self.take_events(event),
            Feed::Answers(id, answers) => self.daemon.detector.handle(now, Input::Answers(id, answers)),
            Feed::Page(number, names, next) => {
                self.daemon.detector.handle(now, Input::Page(number, names, next));
            }
            Feed::Up(run, flushed, uptime_ms, held) => {
                let before = self.run_seen.replace(run);
                let lossy = before.map_or(uptime_ms < TAINT_MS, |before| before != run);
                if before.is_none() && run > 1 && uptime_ms > TAINT_MS {
                    self.excuse_unseen();
                }
                if lossy || flushed {
                    self.taint();
                }
                self.daemon.connected = true;
                self.daemon.exact = false;
                self.daemon.shadow = held;
                let run = format!("run{run}");
                self.daemon.detector.handle(now, Input::Up { run: &run, flushed, uptime_ms });
            }
            Feed::Down => {
                self.daemon.connected = false;
                self.daemon.exact = false;
                self.daemon.detector.handle(now, Input::Down);
            }
            Feed::Lagged(lost) => {
                lost.iter().for_each(|event| self.daemon.record(event));
                self.daemon.due.clear();
                self.gap("lagged");
            }
        }
    }

    /// A chunk of what has arrived; the outputs are drained after it, as the driver does.
    fn take_events(&mut self, first: Event) {
        let (now, mut next, mut left) = (self.time(), Some(first), self.rng.u8(1..10));
        while let Some(event) = next.take() {
            self.daemon.record(&event);
            if !self.daemon.detector.settled() {
                // What a gap hid may have been the last heartbeat before an eviction.
                self.lost(&event);
            }
            let input = match &event {
                Event::Set(key) => Some(Input::Renewed(key.as_bytes())),
                Event::Placed(key) => Some(Input::Placed(key.as_bytes())),
                Event::Ended(key, end) => Some(Input::Ended(key.as_bytes(), *end)),
                Event::Fence(id, side) => Some(Input::Fence(*id, *side)),
                Event::Flushed => None,
            };
            if let Some(input) = input {
                self.daemon.detector.handle(now, input);
            }
            left -= 1;
            let ready = |front: &(u64, Feed)| front.0 <= self.now && matches!(front.1, Feed::Event(_));
            if left > 0
                && self.link.wire.front().is_some_and(ready)
                && let Some((_, Feed::Event(event))) = self.link.wire.pop_front()
            {
                self.trail.note(self.now, format_args!("<- {event:?}"));
                next = Some(event);
            }
        }
    }

    fn gap(&mut self, cause: &str) {
        self.trail.note(self.now, format_args!("gap: {cause}"));
        self.daemon.exact = false;
        if self.knobs.broken != Broken::DeafToGaps {
            self.daemon.detector.handle(self.time(), Input::Gap);
        }
    }

    /// Drains the outputs, then compares what was said with the book.
    fn settle(&mut self) {
        while let Some(output) = self.daemon.detector.poll(self.time()) {
            self.trail.note(self.now, format_args!("-> {output:?}"));
            match output {
                Output::Changed(change) => self.change(&change),
                Output::Ask(id, keys) => {
                    let names = keys.iter().map(|key| key.as_str().to_owned()).collect();
                    self.order(Question::Ask(id, names, Vec::new(), 0));
                }
                Output::Scan(number, cursor) => self.order(Question::Scan(number, cursor)),
                Output::Restart => {
                    if self.quiet() {
                        self.fail("no fence was late, and the stream is said to be dead".into());
                    }
                    self.cut();
                }
                Output::Moved(moved) => self.fail(format!("{moved:?}, and there is one server")),
                Output::Reconciled if !self.daemon.open => {
                    self.daemon.open = true;
                    self.daemon.hub.open();
                }
                Output::Reconciled | Output::Swept => {}
            }
        }
        let (said, due) = (std::mem::take(&mut self.daemon.said), std::mem::take(&mut self.daemon.due));
        if self.daemon.exact {
            if said != due {
                self.fail(format!("Redis made {due:?}, said was {said:?}"));
            }
        } else if self.daemon.detector.settled() && self.now >= self.daemon.tainted_until {
            self.forget_the_unnamed();
            let (held, believed) = (users_of(self.daemon.shadow.iter()), self.daemon.online());
            if held != believed {
                self.fail(format!("compared, and {believed:?} are believed online, in Redis are {held:?}"));
            }
            self.daemon.exact = true;
        }
    }

    /// A key that was not known and that the scan did not name has ended by then, though the event is still
    /// on its way: the belief may be ahead there.
    fn forget_the_unnamed(&mut self) {
        let mut ends = BTreeSet::new();
        for (_, feed) in &self.link.wire {
            if let Feed::Event(Event::Ended(key, _)) = feed {
                ends.insert(key);
            }
        }
        let live = &self.daemon.live;
        self.daemon.shadow.retain(|key| live.contains(key) || !ends.contains(key));
    }

    fn change(&mut self, change: &Change) {
        let (key, user) = (change.key.as_str(), change.key.user());
        let daemon = &mut self.daemon;
        let fresh = if change.live { daemon.live.insert(key.to_owned()) } else { daemon.live.remove(key) };
        let now = Time::from_ms(self.now);
        let timely =
            change.at <= now && change.last_seen <= now && change.deadline.is_none_or(|at| at <= now);
        let transition = daemon.hub.apply(change);
        let up = daemon.connected;
        if let Some(transition) = &transition {
            daemon.said.push((user.to_owned(), transition.online));
            let seq = daemon.hub.seq();
            daemon.readers.iter_mut().for_each(|reader| reader.note(seq, user, transition.online));
        }
        if !fresh || !timely || !up {
            self.fail(format!("{change:?} with fresh={fresh} timely={timely} up={up}"));
        }
        if transition.is_some_and(|transition| !transition.online) {
            self.check_blink(user);
        }
    }

    /// A user whose program keeps beating is never seen offline, but once for each time that Redis
    /// lost the key without a word to a daemon that listened.
    fn check_blink(&mut self, user: &str) {
        let steady = self.programs.iter().any(|program| program.user == user && program.steady(self.now));
        if !steady || self.frozen {
            return;
        }
        match self.daemon.debt.get_mut(user) {
            Some(debt) if *debt > 0 => *debt -= 1,
            _ => self.fail(format!("the steady {user} was seen offline")),
        }
    }

    /// A daemon that starts right after a replica took over cannot know that it did: a user first seen by the old
    /// copy there ends with that copy.
    fn excuse_unseen(&mut self) {
        let online = self.daemon.online();
        for program in self.programs.iter().filter(|program| !online.contains(&program.user)) {
            *self.daemon.debt.entry(program.user.clone()).or_default() += 1;
        }
    }

    /// Each user may be seen to blink once.
    pub fn excuse_all(&mut self) {
        for program in &self.programs {
            *self.daemon.debt.entry(program.user.clone()).or_default() += 1;
        }
    }

    pub fn taint(&mut self) {
        self.daemon.exact = false;
        self.daemon.tainted_until = if self.knobs.expires { NEVER } else { self.now + TAINT_MS };
    }
}
