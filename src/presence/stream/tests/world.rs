//! Users who come and go, daemons that see it sooner or later, and the messages between daemons and server.

use super::server::Server;
use crate::stream::{BUCKETS, StreamOrder, StreamReply, StreamView, StreamWriter, bucket_of};
use crate::{Name, Presence, Reason, Time, Transition};
use std::collections::{BTreeMap, BTreeSet};

/// Transitions that a daemon keeps.
const KEPT: usize = 12;

/// All transitions, in their order.
#[derive(Default)]
pub(super) struct Truth {
    pub(super) transitions: Vec<(String, bool)>,
}

impl Truth {
    pub(super) fn online_after(&self, count: usize) -> BTreeSet<String> {
        let mut online = BTreeSet::new();
        for (user, state) in &self.transitions[..count] {
            if *state {
                online.insert(user.clone())
            } else {
                online.remove(user)
            };
        }
        online
    }

    pub(super) fn toggle(&mut self, user: &str) {
        let online = self.online_after(self.transitions.len()).contains(user);
        self.transitions.push((user.to_owned(), !online));
    }
}

/// A daemon's view of the truth.
pub(super) struct Sight<'a> {
    truth: &'a Truth,
    began: usize,
    seen: usize,
    current: bool,
}

impl<'a> Sight<'a> {
    fn of(truth: &'a Truth, daemon: &Daemon) -> Sight<'a> {
        Sight { truth, began: daemon.began, seen: daemon.seen, current: daemon.current }
    }
}

impl StreamView for Sight<'_> {
    fn seq(&self) -> u64 {
        (self.seen - self.began) as u64
    }

    fn transitions(&self, after: u64, most: usize) -> Option<Vec<Transition>> {
        let first = self.began + after as usize;
        if first > self.seen || self.seen - first > KEPT {
            return None;
        }
        let list = self.truth.transitions[first..self.seen].iter().take(most);
        let at = Time::from_ms(1);
        let transition = |(user, online): &(String, bool)| Transition {
            user: user.as_str().into(),
            online: *online,
            at,
            mark: at,
            reason: if *online { Reason::Heartbeat } else { Reason::Expired },
        };
        Some(list.map(transition).collect())
    }

    fn online(&self, wanted: &dyn Fn(usize) -> bool) -> Vec<Name> {
        let online = self.truth.online_after(self.seen);
        online.iter().filter(|user| wanted(bucket_of(user))).map(|user| user.as_str().into()).collect()
    }

    fn presence(&self, user: &str) -> Presence {
        match self.truth.online_after(self.seen).contains(user) {
            true => Presence::Online { since: Some(Time::from_ms(1)), sessions: 1 },
            false => Presence::Offline { last_seen: None },
        }
    }

    fn is_current(&self) -> bool {
        self.current
    }
}

pub(super) struct Daemon {
    pub(super) writer: StreamWriter,
    pub(super) began: usize,
    pub(super) seen: usize,
    pub(super) current: bool,
}

/// The fate of an order and of its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Answered,
    /// Done, but the reply is lost.
    Unanswered,
    /// Never arrives.
    Dropped,
    /// Arrives at some later time.
    Late,
    /// The server refuses a command of the script after so many entries.
    Refused(usize),
}

pub(super) struct World {
    pub(super) now: Time,
    pub(super) truth: Truth,
    pub(super) server: Server,
    pub(super) daemons: Vec<Daemon>,
    pub(super) late: Vec<StreamOrder>,
    named: usize,
}

impl World {
    pub(super) fn new(daemons: usize) -> World {
        let mut world = World {
            now: Time::from_ms(1_000),
            truth: Truth::default(),
            server: Server::new(),
            daemons: Vec::new(),
            late: Vec::new(),
            named: 0,
        };
        for _ in 0..daemons {
            let daemon = world.started();
            world.daemons.push(daemon);
        }
        world
    }

    fn started(&mut self) -> Daemon {
        self.named += 1;
        let seen = self.truth.transitions.len();
        Daemon { writer: StreamWriter::new(&format!("d{}", self.named)), began: seen, seen, current: true }
    }

    /// The daemon is killed, and another one starts in its place.
    pub(super) fn restart(&mut self, at: usize) {
        self.daemons[at] = self.started();
    }

    pub(super) fn see(&mut self, at: usize, most: usize) {
        let daemon = &mut self.daemons[at];
        daemon.seen = self.truth.transitions.len().min(daemon.seen.saturating_add(most));
    }

    /// The daemon has one turn. Returns whether it had something to do.
    pub(super) fn turn(&mut self, at: usize, fate: impl FnOnce(&StreamOrder) -> Fate) -> bool {
        let World { now, truth, server, daemons, late, .. } = self;
        let daemon = &mut daemons[at];
        let sight = Sight::of(truth, daemon);
        let Some(order) = daemon.writer.next(*now, &sight) else { return false };
        let fate = fate(&order);
        let reply = match fate {
            Fate::Answered | Fate::Unanswered => server.execute(*now, &order),
            Fate::Refused(most) => server.execute_some(*now, &order, most),
            Fate::Dropped | Fate::Late => StreamReply::Failed,
        };
        if order == StreamOrder::Mark && fate == Fate::Answered {
            daemon.seen = truth.transitions.len();
        }
        if fate == Fate::Late {
            late.push(order);
        }
        let answered = matches!(fate, Fate::Answered | Fate::Refused(_));
        let reply = if answered { reply } else { StreamReply::Failed };
        let sight = Sight::of(truth, daemon);
        daemon.writer.replied(*now, reply, &sight);
        true
    }

    /// All is well for a while.
    pub(super) fn calm(&mut self) {
        for daemon in &mut self.daemons {
            daemon.current = true;
        }
        // Each bucket is compared once.
        for _ in 0..BUCKETS as u64 * 12 {
            self.now = self.now.plus(1_000);
            for at in 0..self.daemons.len() {
                self.see(at, usize::MAX);
                while self.turn(at, |_| Fate::Answered) {}
            }
        }
    }

    /// The state that each user's last entry gives. Panics unless the entries of each user alternate.
    pub(super) fn reported(&self) -> BTreeSet<String> {
        let mut states: BTreeMap<&str, bool> = BTreeMap::new();
        for written in &self.server.entries {
            let (user, online) = (written.user(), written.entry.online);
            let before = states.insert(user, online).unwrap_or(false);
            assert_ne!(before, online, "{user} twice in a row, by {} at {:?}", written.token, written.at);
        }
        states.into_iter().filter(|(_, online)| *online).map(|(user, _)| user.to_owned()).collect()
    }

    pub(super) fn check_right(&self) {
        let online = self.truth.online_after(self.truth.transitions.len());
        assert_eq!(self.reported(), online, "the stream");
        assert_eq!(self.server.online(), online, "the SETs");
    }

    /// Nothing was invented: no user has more entries than transitions.
    pub(super) fn check_true(&self) {
        let count = |user: &str| self.truth.transitions.iter().filter(|(name, _)| name == user).count();
        let mut entries: BTreeMap<&str, usize> = BTreeMap::new();
        self.server.entries.iter().for_each(|written| *entries.entry(written.user()).or_default() += 1);
        for (user, entries) in entries {
            assert!(entries <= count(user), "{user} has {entries} entries and {} transitions", count(user));
        }
    }
}
