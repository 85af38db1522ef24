//! The book that is kept of the daemon: what it said, what it should have said, and what it may be excused.

use super::link::{Link, Up};
use super::programs::{FIRST_TTL, Kind, Program};
use super::redis::{Event, NEVER};
use super::relay::Server;
use super::verdict::SWEPT_MS;
use super::world::{TAINT_MS, World};
use keybeat::presence::{Change, End, Renewals};
use std::collections::{BTreeMap, BTreeSet};

/// The end of a session waits for at least so long for a server that is out of reach.
const AWAY_MS: u64 = 1_200;

#[derive(Default)]
pub struct Book {
    /// Transitions since the last comparison.
    pub said: Vec<(String, bool)>,
    /// The keys that are believed live, each with the server that believes it.
    live: BTreeSet<(String, u64)>,
    /// How often each key was said to come and to go, whatever server had it.
    counts: BTreeMap<String, (u32, u32)>,
    /// The keys that Redis had at the point of the stream that was read last, and the transitions that
    /// led there since the last comparison.
    shadow: BTreeSet<String>,
    pub due: Vec<(String, bool)>,
    /// Nothing is missing: each transition is the one that Redis made there.
    pub exact: bool,
    /// Not exact before, since what cannot be known has to run out first.
    tainted_until: u64,
    /// How often a steady user may be seen to blink, for Redis lost the key and said nothing.
    pub debt: BTreeMap<String, u32>,
    /// Users whose key the daemon was told to be gone, since that server had thrown it away then without a
    /// word.
    excused: BTreeMap<String, (usize, u64)>,
    /// Nodes whose exchange was noticed, and when; the excuses of before end once all is said that was found out.
    pub to_forgive: Vec<(usize, u64)>,
}

impl Book {
    /// Takes in one event of the stream.
    pub fn record(&mut self, event: &Event) {
        let (key, live) = match event {
            Event::New(key) | Event::Set(key) | Event::Retimed(key) | Event::Placed(key) => (key, true),
            Event::Ended(key, _) => (key, false),
            Event::Fence(..) | Event::Written(..) | Event::EndsIn(..) | Event::Canary => return,
            Event::Leads | Event::Lease(_) | Event::Digest(_) => return,
            Event::Came(_) | Event::Gone(..) | Event::Tracks(_) => return,
            Event::Exchanged(keys) => return self.shadow.clone_from(keys),
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

    /// A key came or went at a server; says whether that is news.
    pub fn note(&mut self, server: u64, change: &Change) -> bool {
        let key = change.key.as_str().to_owned();
        let before = self.is_live(&key);
        let entry = (key.clone(), server);
        let fresh = if change.live { self.live.insert(entry) } else { self.live.remove(&entry) };
        if before != self.is_live(&key) {
            let (came, went) = self.counts.entry(key).or_default();
            *if change.live { came } else { went } += 1;
        }
        fresh
    }

    /// Is the key that an end names believed live at this server?
    pub fn knows(&self, event: &Event, server: u64) -> bool {
        matches!(event, Event::Ended(key, _) if self.live.contains(&(key.clone(), server)))
    }

    fn is_live(&self, key: &str) -> bool {
        self.live.range((key.to_owned(), 0)..).next().is_some_and(|(other, _)| other == key)
    }

    /// How often the key was reported to come and to go.
    pub fn said_of(&self, key: &str) -> (u32, u32) {
        self.counts.get(key).copied().unwrap_or_default()
    }

    /// The keys of a user that are believed live.
    pub fn keys_of(&self, user: &str) -> impl Iterator<Item = &String> {
        let keys = self.live.range((user.to_owned(), 0)..).map(|(key, _)| key);
        keys.take_while(move |key| key.starts_with(user)).filter(move |key| user_of(key) == user)
    }

    pub fn online(&self) -> BTreeSet<String> {
        users_of(self.live.iter().map(|(key, _)| key))
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
    /// Drains the outputs, then compares what was said with the book. Of several servers, or one that does
    /// not tell all, no point of the stream says who is online.
    pub fn settle(&mut self) {
        self.drain();
        if self.relay.tracker.settled() {
            for (node, noticed) in std::mem::take(&mut self.relay.book.to_forgive) {
                self.forgive_until(node, noticed);
            }
        }
        let book = &mut self.relay.book;
        let (said, due) = (std::mem::take(&mut book.said), std::mem::take(&mut book.due));
        if !self.is_told_all() {
            return;
        }
        if self.relay.book.exact {
            if said != due {
                self.fail(format!("Redis made {due:?}, said was {said:?}"));
            }
        } else if self.hears_all() && self.now >= self.relay.book.tainted_until {
            self.forget_the_unnamed();
            let book = &mut self.relay.book;
            let (held, believed) = (users_of(book.shadow.iter()), book.online());
            book.exact = true;
            if held != believed {
                self.fail(format!("compared, and {believed:?} are believed online, in Redis are {held:?}"));
            }
        }
    }

    /// Is each server compared, and its stream alive?
    fn hears_all(&self) -> bool {
        let deaf = |link: &Link| link.deaf.is_some() || link.was_deaf.is_some();
        let deaf = self.relay.servers.iter().any(|server| deaf(&server.link));
        self.relay.tracker.settled() && !deaf
    }

    pub fn is_told_all(&self) -> bool {
        !self.cluster.on && !self.knobs.silent.any() && !self.knobs.mode.tracks()
    }

    /// A key that was not known and that the scan did not name has ended by then, though the event is still
    /// on its way: the belief may be ahead there.
    fn forget_the_unnamed(&mut self) {
        let ends: BTreeSet<_> = self.relay.servers.iter().flat_map(|server| server.link.ends()).collect();
        let mut shadow = std::mem::take(&mut self.relay.book.shadow);
        shadow.retain(|key| self.relay.book.is_live(key) || !ends.contains(key));
        self.relay.book.shadow = shadow;
    }

    /// The subscription stands: from here on the book knows what is held.
    pub fn enter_up(&mut self, at: usize, up: &Up, outage: bool) {
        let before = self.relay.servers[at].run_seen.replace(up.run);
        let lossy = before.map_or(up.uptime_ms < TAINT_MS, |before| before != up.run);
        if before.is_none() && up.took_over && up.uptime_ms > TAINT_MS {
            self.excuse_unseen();
        }
        if lossy || outage {
            self.taint();
            self.relay.book.to_forgive.push((self.relay.servers[at].node, up.at));
        }
        self.relay.book.exact = false;
        self.relay.book.shadow.clone_from(&up.held);
    }

    /// A user whose program keeps beating is never seen offline, but once for each time that Redis
    /// lost the key without a word to a daemon that listened.
    pub fn check_blink(&mut self, user: &str) {
        let found = self.programs.iter().find(|program| program.user == user && program.steady(self.now));
        // A short TTL may run out before a canary shows that the server refuses writes.
        let in_time = |program: &Program| !self.refuses() || program.ttl() >= FIRST_TTL;
        let steady = found
            .is_some_and(|program| in_time(program) && (program.kind != Kind::Mover || self.sees_sessions()));
        // Before all servers have been compared nobody is told.
        if !steady || self.frozen || !self.relay.open || self.relay.book.excused.remove(user).is_some() {
            return;
        }
        match self.relay.book.debt.get_mut(user) {
            Some(debt) if *debt > 0 => *debt -= 1,
            _ => self.fail(format!("the steady {user} was seen offline")),
        }
    }

    /// Is a new session known before the old one ends? Not if its key can be lost, its stream is deaf, or nobody announces it; nor, in
    /// a cluster, if its server is new, or out of reach for longer than ends wait.
    fn sees_sessions(&self) -> bool {
        let link = |server: &Server| server.link.deaf.is_none() && server.link.was_deaf.is_none();
        // A daemon that is stopped learns late that a server is out of reach.
        let away_since = |server: &Server| server.away_since.min(server.ended_at);
        let near = |server: &Server| server.connected || self.now - away_since(server) < AWAY_MS;
        let servers = &self.relay.servers;
        // A stream that is deaf to one class may deliver the end without the start.
        let heard = servers.iter().all(link);
        let known =
            !self.cluster.on || (servers.iter().all(near) && self.relay.viewed == self.cluster.view.number);
        // Where one daemon announces changes for all, a session that begins after its death is found when another one announces.
        let known = heard && known && !self.just_followed(SWEPT_MS);
        // Where a stream lags, a key may be moved on before the question about it is answered: its server cannot say any more that it
        // was there.
        let known = known && !(self.lagged && self.cluster.to.iter().any(Option::is_some));
        known && !self.loses() && !self.knobs.silent.any()
    }

    /// Where each coming and going is announced, no more are said, however keys move.
    pub fn check_count(&mut self, change: &Change) {
        let key = change.key.as_str();
        let said = self.relay.book.said_of(key);
        let done = self.done.get(key).copied().unwrap_or_default();
        if self.accounts() && (said.0 > done.0 || said.1 > done.1) {
            self.fail(format!("{key} came and went {done:?} times, and {said:?} times it is said"));
        }
    }

    /// A daemon that starts right after a replica took over cannot know that it did: a user first seen by the old
    /// copy there ends with that copy.
    fn excuse_unseen(&mut self) {
        let online = self.relay.book.online();
        for program in self.programs.iter().filter(|program| !online.contains(&program.user)) {
            *self.relay.book.debt.entry(program.user.clone()).or_default() += 1;
        }
    }

    /// A key ran out early, since its server exchanged it: no daemon can know that before it notices the exchange.
    pub fn excuse_unsaid(&mut self, key: &str) {
        // Its slot may have moved since.
        let unsaid = |node: usize| self.nodes[node].unsaid.get(key).map(|&when| (node, when));
        if let Some(unsaid) = (0..self.nodes.len()).find_map(unsaid) {
            self.relay.book.excused.insert(user_of(key).to_owned(), unsaid);
        }
    }

    /// A flush until then is known.
    pub fn forgive_until(&mut self, node: usize, until: u64) {
        self.nodes[node].unsaid.retain(|_, when| *when > until);
        self.relay.book.excused.retain(|_, &mut (of, when)| of != node || when > until);
    }

    /// Without the event of an eviction the key counts as gone.
    pub fn lost(&mut self, event: &Event) {
        if let Event::Ended(key, End::Evicted) = event {
            *self.relay.book.debt.entry(user_of(key).to_owned()).or_default() += 1;
        }
    }

    pub fn taint(&mut self) {
        let book = &mut self.relay.book;
        book.exact = false;
        let mode = self.knobs.mode;
        let unheard = self.knobs.expires && (mode.renewals != Renewals::Expire || mode.shared);
        book.tainted_until = if unheard { NEVER } else { self.now + TAINT_MS };
    }
}
