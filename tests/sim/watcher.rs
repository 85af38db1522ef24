//! Readers of the hub as clients are: a snapshot, then transitions in JSON, and what must hold of both.

use fastrand::Rng;
use keybeat::hub::{Hub, Watcher};
use keybeat::presence::Presence;
use keybeat::protocol::{State, TransitionObject};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

fn is_online(presence: Presence) -> bool {
    matches!(presence, Presence::Online { .. })
}

/// The request of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Named,
    All,
    /// All, each change, so many pending at most.
    Lossless(usize),
}

/// One reader.
pub struct Reader {
    pub style: Style,
    /// Reads so often, in milliseconds, and so much at a time.
    pub pace: u64,
    most: usize,
    watcher: Arc<Watcher>,
    /// The states that it knows; a reader by name knows only the watched users.
    view: BTreeMap<String, bool>,
    watching_all: bool,
    seq: u64,
    /// Lossless: what it has still to be told.
    owed: VecDeque<(u64, String, bool)>,
    overflow: bool,
}

impl Reader {
    pub fn new(hub: &Hub, rng: &mut Rng, users: &[String]) -> Reader {
        let style = match rng.u8(..4) {
            0 | 1 => Style::Named,
            2 => Style::All,
            _ => Style::Lossless(rng.usize(1..=12)),
        };
        let pace = [5, 40, 700, 6_000][rng.usize(..4)];
        let mut reader = Reader {
            style,
            pace,
            most: if rng.bool() { usize::MAX } else { rng.usize(1..4) },
            watcher: hub.watcher(),
            view: BTreeMap::new(),
            watching_all: false,
            seq: 0,
            owed: VecDeque::new(),
            overflow: false,
        };
        match style {
            Style::Named => {
                let some: Vec<_> = users.iter().filter(|_| rng.u8(..4) > 0).cloned().collect();
                some.iter().for_each(|user| reader.watch(hub, user));
            }
            Style::All | Style::Lossless(_) => reader.watch_all(hub),
        }
        reader
    }

    fn watch(&mut self, hub: &Hub, user: &str) {
        let online = is_online(hub.watch(&self.watcher, &user.into()));
        self.view.insert(user.to_owned(), online);
    }

    fn watch_all(&mut self, hub: &Hub) {
        if let Style::Lossless(pending) = self.style {
            self.watcher.make_lossless(pending);
        }
        self.watching_all = true;
        let online = hub.watch_all(&self.watcher).flatten();
        self.view = online.map(|(user, presence)| (user.to_string(), is_online(presence))).collect();
    }

    /// The hub made a transition.
    pub fn note(&mut self, seq: u64, user: &str, online: bool) {
        let Style::Lossless(pending) = self.style else { return };
        if !self.watching_all {
        } else if self.owed.len() >= pending {
            self.overflow = true;
        } else {
            self.owed.push_back((seq, user.to_owned(), online));
        }
    }

    /// Reads as much as it does at a time.
    pub fn read(&mut self, hub: &Hub, now: u64) -> Result<(), String> {
        if self.overflow != self.watcher.overflowed() {
            return Err(format!("overflowed() is {}", !self.overflow));
        }
        if self.overflow {
            // As a client does that was closed with 4008.
            hub.unwatch_all(&self.watcher);
            self.watcher = hub.watcher();
            (self.overflow, self.seq) = (false, 0);
            self.owed.clear();
            self.watch_all(hub);
            return Ok(());
        }
        let told = self.watcher.take(self.most);
        let mut named = BTreeSet::new();
        for one in &told {
            let said: TransitionObject =
                serde_json::from_str(one.json()).map_err(|why| format!("{}: {why}", one.json()))?;
            self.take(one.seq, &said, now).map_err(|why| format!("{why}: {}", one.json()))?;
            if !named.insert(said.user) && !matches!(self.style, Style::Lossless(_)) {
                return Err(format!("two changes of one user were pending, the second {}", one.json()));
            }
        }
        if told.len() < self.most { self.check_drained(hub) } else { Ok(()) }
    }

    fn take(&mut self, seq: u64, said: &TransitionObject, now: u64) -> Result<(), String> {
        let online = said.state == State::Online;
        let mark = if online { said.since_ms } else { said.last_seen_ms };
        if seq != said.seq || seq <= self.seq {
            return Err(format!("number {seq} after {}", self.seq));
        }
        self.seq = seq;
        if said.since_ms.is_some() == said.last_seen_ms.is_some() || said.at_ms > now || mark > Some(now) {
            return Err("its times are wrong".into());
        }
        if let Style::Lossless(_) = self.style {
            let owed = self.owed.pop_front();
            if owed != Some((seq, said.user.clone(), online)) {
                return Err(format!("{owed:?} was to be told"));
            }
        }
        let before = self.view.insert(said.user.clone(), online);
        match (before, self.style) {
            (None, Style::Named) => Err("not watched".into()),
            (before, _) if before.unwrap_or(false) == online => Err("told twice".into()),
            _ => Ok(()),
        }
    }

    /// A reader who has been told everything knows what the hub knows.
    fn check_drained(&self, hub: &Hub) -> Result<(), String> {
        if let Some(owed) = self.owed.front() {
            return Err(format!("{owed:?} was never told"));
        }
        if self.style != Style::Named && !self.watching_all {
            return Ok(());
        }
        if let Some((user, online)) = self.view.iter().find(|(user, on)| is_online(hub.get(user)) != **on) {
            return Err(format!("all is read, and {user} is believed online={online}"));
        }
        let online = self.view.values().filter(|&&online| online).count();
        if self.watching_all && online != hub.count().0 {
            return Err(format!("all is read, and {online} of {} users are believed online", hub.count().0));
        }
        Ok(())
    }

    /// Unwatches, watches again, takes a new snapshot.
    pub fn stir(&mut self, hub: &Hub, rng: &mut Rng, users: &[String], now: u64) -> Result<(), String> {
        if self.style == Style::Named {
            let user = &users[rng.usize(..users.len())];
            if rng.bool() && self.view.remove(user).is_some() {
                hub.unwatch(&self.watcher, user);
            } else {
                self.watch(hub, user);
            }
            return Ok(());
        }
        // As the socket does: first what is still to be said after the first snapshot.
        hub.unwatch_all(&self.watcher);
        let most = std::mem::replace(&mut self.most, usize::MAX);
        self.watching_all = false;
        let read = self.read(hub, now);
        self.most = most;
        if !self.watching_all {
            self.watch_all(hub);
        }
        read
    }

    /// Reads all that there is; gives who is believed online among those it knows of.
    pub fn drain(&mut self, hub: &Hub, now: u64) -> Result<&BTreeMap<String, bool>, String> {
        let most = std::mem::replace(&mut self.most, usize::MAX);
        let read = self.read(hub, now);
        self.most = most;
        read.map(|()| &self.view)
    }
}
