//! The client's state machine, without I/O: the caller's calls and the daemon's messages go in, messages for the daemon
//! and events for the caller come out. `tests/clients/table.json` has its rules for one user as a table.

use super::Event;
use super::desired::Desired;
use super::known::{Known, News};
use super::requested::{Question, Requested};
use crate::protocol::{RedisWord, ServerMessage, UserObject};
use serde_json::Value;
use std::collections::HashMap;

/// What was requested of the daemon, and what was reported to the caller.
#[derive(Debug, Default)]
pub struct Watches {
    requested: Requested,
    known: Known,
    /// The parts of snapshots that are not complete yet, by the `id` of their watch.
    parts: HashMap<u64, Vec<UserObject>>,
    /// Whether Redis was reported as down.
    down: bool,
}

impl Watches {
    /// Begins a connection, whose daemon was asked for nothing yet.
    pub fn reconnected(&mut self, desired: &Desired) {
        self.requested.reconnected(desired, &mut self.known);
        self.parts.clear();
    }

    /// The messages that ask for what the caller wants and does not have yet.
    pub fn catch_up(&mut self, desired: &mut Desired) -> Vec<String> {
        let messages = self.requested.catch_up(desired, &mut self.known);
        let open = &self.requested.open;
        self.parts.retain(|id, _| open.contains_key(id));
        messages
    }

    /// Whether the daemon has answered every watch.
    pub fn all_answered(&self) -> bool {
        self.requested.open.is_empty()
    }

    /// Takes a message of the daemon; returns the events for the caller. `now_ms` is the time of changes that the
    /// message does not date, in milliseconds since the Unix epoch.
    pub fn take(&mut self, message: ServerMessage, desired: &mut Desired, now_ms: u64) -> Vec<Event> {
        match message {
            ServerMessage::Snapshot { id, users, more, seq, .. } => match id.as_ref().and_then(Value::as_u64)
            {
                Some(id) => self.snapshot(id, users, more, seq, now_ms),
                None => Vec::new(),
            },
            ServerMessage::Transitions { transitions, .. } => {
                let names = &self.requested.names;
                let news = self.known.transitions(transitions, |user| names.contains_key(user));
                if news.is_empty() { Vec::new() } else { vec![Event::Transitions(news)] }
            }
            ServerMessage::Status { redis, since_ms } => self.status(redis, since_ms),
            ServerMessage::Error { id, code, message } => {
                let id = id.as_ref().and_then(Value::as_u64);
                let refused = |id| self.requested.refused(id, desired, &mut self.known);
                let users = id.map(refused).unwrap_or_default();
                vec![Event::Refused { code, message, users }]
            }
            ServerMessage::Token { .. } | ServerMessage::Hello { .. } => Vec::new(),
        }
    }

    fn status(&mut self, redis: RedisWord, since_ms: u64) -> Vec<Event> {
        self.down = redis == RedisWord::Down;
        vec![Event::Status { redis, since_ms }]
    }

    fn snapshot(&mut self, id: u64, users: Vec<UserObject>, more: bool, seq: u64, now_ms: u64) -> Vec<Event> {
        if !self.requested.open.contains_key(&id) {
            return Vec::new();
        }
        self.parts.entry(id).or_default().extend(users);
        if more {
            return Vec::new();
        }
        let users = self.parts.remove(&id).unwrap_or_default();
        let first = self.known.is_first_of_everybody();
        let (News { fresh, missed }, begins) = match self.requested.open.remove(&id) {
            Some(Question::Names(asked)) => (self.named(users, asked, seq, now_ms), false),
            _ => {
                let names = &self.requested.names;
                (self.known.everybody(users, |user| names.contains_key(user), seq, now_ms), first)
            }
        };
        let mut events = Vec::new();
        // "Nobody is online" is an answer too.
        if !fresh.is_empty() || begins {
            events.push(Event::Snapshot(fresh));
        }
        if !missed.is_empty() {
            events.push(Event::Transitions(missed));
        }
        events
    }

    /// A snapshot of users by name. A user who was unwatched since, or watched again by a later message, is not in it.
    fn named(&mut self, users: Vec<UserObject>, asked: Vec<(String, u64)>, seq: u64, now_ms: u64) -> News {
        let asked: HashMap<String, u64> = asked.into_iter().collect();
        let is_latest = |object: &UserObject| {
            let number = asked.get(object.user());
            number.is_some_and(|&number| self.requested.is_latest(object.user(), number))
        };
        let users = users.into_iter().filter(is_latest).collect();
        self.known.named(users, seq, now_ms)
    }
}
