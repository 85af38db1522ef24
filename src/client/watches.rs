//! The client's state machine, without I/O: the caller's calls and the daemon's messages go in, messages for the daemon
//! and events for the caller come out. `tests/clients/table.json` has its rules for one user as a table.

use super::ClientEvent;
use super::desired::Desired;
use super::known::{Known, News};
use super::requested::{Question, Requested};
use crate::protocol::{RedisWord, RefusedUser, ServerMessage, UserObject};
use serde_json::Value;
use std::collections::HashMap;

/// The code of an error that passes: the daemon has not compared Redis yet, and too many watches wait for it.
const NOT_READY: &str = "not_ready";

/// The requests to the daemon, and the reports to the caller.
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

    /// Whether this message says that the daemon cannot answer a watch yet.
    pub fn is_not_ready(&self, message: &ServerMessage) -> bool {
        let ServerMessage::Error { id: Some(id), code, .. } = message else { return false };
        code == NOT_READY && id.as_u64().is_some_and(|id| self.requested.open.contains_key(&id))
    }

    /// Whether the daemon has answered every watch.
    pub fn all_answered(&self) -> bool {
        self.requested.open.is_empty()
    }

    /// Takes a message of the daemon; returns the events for the caller. `now_ms` is the time of changes that the
    /// message does not date, in milliseconds since the Unix epoch.
    pub fn take(&mut self, message: ServerMessage, desired: &mut Desired, now_ms: u64) -> Vec<ClientEvent> {
        match message {
            ServerMessage::Status { redis, since_ms } => self.status(redis, since_ms),
            ServerMessage::Snapshot { id, group: Some(group), members, online, users, more, .. } => {
                let id = id.as_ref().and_then(Value::as_u64);
                self.group_snapshot(id, group, (members, online), users, more)
            }
            // Otherwise it is older than the snapshot.
            ServerMessage::Members { group, joined, left } if self.known.has_group(&group) => {
                self.known.learn_statuses(&joined);
                vec![ClientEvent::Members { group, joined, left }]
            }
            ServerMessage::Members { .. } => Vec::new(),
            ServerMessage::Occupancy { id, group, members, online } => {
                let id = id.as_ref().and_then(Value::as_u64);
                self.occupancy(id, group, members, online)
            }
            ServerMessage::Snapshot { id, users, more, seq, refused, .. } => {
                let Some(id) = id.as_ref().and_then(Value::as_u64) else { return Vec::new() };
                let refused = self.refused_users(id, refused, desired);
                let mut events = self.snapshot(id, users, more, seq, now_ms);
                events.extend(refused);
                events
            }
            ServerMessage::Transitions { transitions, .. } => {
                let names = &self.requested.names;
                let news = self.known.transitions(transitions, |user| names.contains_key(user));
                if news.is_empty() { Vec::new() } else { vec![ClientEvent::Transitions(news)] }
            }
            ServerMessage::Statuses { statuses } => {
                let names = &self.requested.names;
                let news = self.known.statuses(statuses, |user| names.contains_key(user));
                if news.is_empty() { Vec::new() } else { vec![ClientEvent::Statuses(news)] }
            }
            // An older daemon does not know `ping`; after a refused `auth` the client renews again.
            ServerMessage::Error { id: Some(Value::String(_)), .. } => Vec::new(),
            ServerMessage::Error { id, code, message, group } => {
                let id = id.as_ref().and_then(Value::as_u64);
                vec![self.error(id, code, message, group, desired)]
            }
            ServerMessage::Token { .. } | ServerMessage::Hello { .. } | ServerMessage::Pong { .. } => {
                Vec::new()
            }
        }
    }

    /// Reports a change of Redis. The daemon sends its status after each hello, so the client often knows it.
    fn status(&mut self, redis: RedisWord, since_ms: u64) -> Vec<ClientEvent> {
        let down = redis == RedisWord::Down;
        let is_news = std::mem::replace(&mut self.down, down) != down;
        Vec::from_iter(is_news.then_some(ClientEvent::Status { redis, since_ms }))
    }

    fn occupancy(
        &mut self,
        id: Option<u64>,
        group: String,
        members: usize,
        online: usize,
    ) -> Vec<ClientEvent> {
        if !self.requested.counts(&group) || !self.requested.is_about_latest(&group, id) {
            return Vec::new();
        }
        id.and_then(|id| self.requested.open.remove(&id));
        vec![ClientEvent::Occupancy { group, members, online }]
    }

    fn error(
        &mut self,
        id: Option<u64>,
        code: String,
        message: String,
        group: Option<String>,
        desired: &mut Desired,
    ) -> ClientEvent {
        let asked = || id.and_then(|id| self.requested.group_of(id)).map(str::to_owned);
        if let Some(group) = group.or_else(asked) {
            if self.requested.refused_group(&group, id, desired, &mut self.known) {
                return ClientEvent::GroupRefused { group, code, message };
            }
            return ClientEvent::Refused { code, message, users: Vec::new() };
        }
        let users = id.map(|id| self.requested.refused(id, desired, &mut self.known)).unwrap_or_default();
        ClientEvent::Refused { code, message, users }
    }

    /// Reports the users that the daemon refused of a watch, each with its reason.
    fn refused_users(
        &mut self,
        id: u64,
        refused: Vec<RefusedUser>,
        desired: &mut Desired,
    ) -> Vec<ClientEvent> {
        let mut events = Vec::new();
        for RefusedUser { user, code, message } in refused {
            if self.requested.refused_user(id, &user, desired, &mut self.known) {
                events.push(ClientEvent::Refused { code, message, users: vec![user] });
            }
        }
        events
    }

    fn snapshot(
        &mut self,
        id: u64,
        users: Vec<UserObject>,
        more: bool,
        seq: u64,
        now_ms: u64,
    ) -> Vec<ClientEvent> {
        if !self.requested.open.contains_key(&id) {
            return Vec::new();
        }
        self.parts.entry(id).or_default().extend(users);
        if more {
            return Vec::new();
        }
        let users = self.parts.remove(&id).unwrap_or_default();
        let first = self.known.is_first_of_everybody();
        let (News { fresh, missed, statuses }, begins) = match self.requested.open.remove(&id) {
            Some(Question::Names(asked)) => (self.named(users, asked, seq, now_ms), false),
            _ => {
                let names = &self.requested.names;
                (self.known.everybody(users, |user| names.contains_key(user), seq, now_ms), first)
            }
        };
        let mut events = Vec::new();
        // "Nobody is online" is an answer too.
        if !fresh.is_empty() || begins {
            events.push(ClientEvent::Snapshot(fresh));
        }
        if !missed.is_empty() {
            events.push(ClientEvent::Transitions(missed));
        }
        if !statuses.is_empty() {
            events.push(ClientEvent::Statuses(statuses));
        }
        events
    }

    /// A snapshot of a group, which is complete with its last chunk.
    fn group_snapshot(
        &mut self,
        id: Option<u64>,
        group: String,
        (members, online): (Option<usize>, Option<usize>),
        users: Vec<UserObject>,
        more: bool,
    ) -> Vec<ClientEvent> {
        let asked = id.filter(|id| matches!(self.requested.open.get(id), Some(Question::Group(_))));
        let Some(id) = asked else { return Vec::new() };
        self.parts.entry(id).or_default().extend(users);
        if more {
            return Vec::new();
        }
        self.requested.open.remove(&id);
        let users = self.parts.remove(&id).unwrap_or_default();
        self.known.group(&group, &users);
        let (members, online) = (members.unwrap_or_default(), online.unwrap_or_default());
        vec![ClientEvent::Group { group, members, online, users }]
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn take(watches: &mut Watches, message: Value) -> Vec<ClientEvent> {
        let message = serde_json::from_value(message).unwrap();
        watches.take(message, &mut Desired::default(), 7)
    }

    #[test]
    fn only_a_changed_status_is_reported() {
        let (mut watches, mut reported) = (Watches::default(), Vec::new());
        // As after each hello of four connections, and once more.
        for redis in ["up", "down", "down", "up", "up"] {
            reported.extend(take(&mut watches, json!({"type": "status", "redis": redis, "since_ms": 5})));
        }
        let status = |redis| ClientEvent::Status { redis, since_ms: 5 };
        assert_eq!(reported, [status(RedisWord::Down), status(RedisWord::Up)]);
    }

    #[test]
    fn groups_are_reported_with_their_members() {
        let (mut watches, mut desired) = (Watches::default(), Desired::default());
        desired.groups.insert("g".into(), false);
        let messages = watches.catch_up(&mut desired);
        assert_eq!(messages, [r#"{"groups":["g"],"id":1,"type":"watch"}"#]);
        let mut take =
            |message: Value| watches.take(serde_json::from_value(message).unwrap(), &mut desired, 7);
        let alice = json!({"user": "alice", "state": "online", "since_ms": 5, "sessions": 1});
        let snapshot = json!({"type": "snapshot", "id": 1, "epoch": "", "seq": 1, "group": "g", "members": 2, "online": 1,
            "users": [alice], "more": false});
        let events = take(snapshot);
        assert!(
            matches!(&events[..], [ClientEvent::Group { members: 2, online: 1, users, .. }] if users.len() == 1)
        );
        let change = |user: &str, state: &str| {
            json!({"type": "transitions", "seq": 2, "transitions": [
                {"seq": 2, "user": user, "state": state, "at_ms": 6, "since_ms": 6, "reason": "heartbeat"}]})
        };
        // A member who was offline is not in the snapshot.
        assert_eq!(take(change("bob", "online")).len(), 1);
        assert_eq!(take(change("alice", "offline")).len(), 1);
        let members = take(json!({"type": "members", "group": "g", "joined": [], "left": ["bob"]}));
        assert!(matches!(&members[..], [ClientEvent::Members { left, .. }] if left == &["bob"]));
        let ended = take(json!({"type": "error", "code": "too_large_group", "message": "", "group": "g"}));
        assert!(matches!(&ended[..], [ClientEvent::GroupRefused { .. }]) && desired.groups.is_empty());
        assert!(
            watches
                .take(serde_json::from_value(change("carl", "online")).unwrap(), &mut desired, 7)
                .is_empty()
        );
    }

    #[test]
    fn refused_ping_or_auth_is_not_reported() {
        let mut watches = Watches::default();
        for (id, count) in [(json!("ping"), 0), (json!("auth"), 0), (json!(9), 1), (Value::Null, 1)] {
            let error = json!({"type": "error", "id": id, "code": "invalid_request", "message": ""});
            assert_eq!(take(&mut watches, error).len(), count, "{id}");
        }
    }

    #[test]
    fn daemon_that_is_not_ready_refuses_no_watch() {
        let (mut watches, mut desired) = (Watches::default(), Desired::default());
        desired.watch(["alice".to_owned()]);
        watches.catch_up(&mut desired);
        let error = |id| {
            serde_json::from_value(json!({"type": "error", "id": id, "code": "not_ready", "message": ""}))
        };
        assert!(watches.is_not_ready(&error(1).unwrap()));
        assert!(!watches.is_not_ready(&error(2).unwrap()));
    }
}
