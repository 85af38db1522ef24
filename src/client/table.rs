//! The client against `tests/clients/table.json`, with random sequences of calls, answers and lost connections.

use super::ClientEvent;
use super::desired::Desired;
use super::watches::Watches;
use crate::protocol::{ReasonWord, ServerMessage, State, TransitionObject, UserObject};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const USERS: [&str; 3] = ["alice", "bob", "carol"];

#[derive(Deserialize)]
struct StateTable {
    state: Map<String, Value>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    event: String,
    #[serde(default, rename = "if")]
    conditions: Map<String, Value>,
    #[serde(default)]
    then: Map<String, Value>,
    send: Option<String>,
    report: Option<String>,
}

/// The next step. A number picks a user.
#[derive(Debug, Clone)]
enum Step {
    Watch(usize),
    Unwatch(usize),
    /// The user's state changes in Redis.
    Flip(usize),
    Connect,
    Lose,
    /// The client receives the next message of the daemon.
    Receive,
    /// The daemon refuses the next watch.
    Refuse,
    /// The same, because too many watches wait.
    Fill,
}

/// A daemon that answers at once, and whose messages wait until the client receives them.
#[derive(Default)]
struct DaemonModel {
    online: BTreeSet<String>,
    watched: BTreeSet<String>,
    sent: VecDeque<ServerMessage>,
    refuses: bool,
    /// It refuses the next watch because too many wait for the first comparison.
    full: bool,
}

impl DaemonModel {
    fn object(&self, user: &str) -> UserObject {
        let user = user.to_owned();
        if self.online.contains(&user) {
            UserObject::Online { user, since_ms: Some(1), sessions: 1, status: None, stale: false }
        } else {
            UserObject::Offline { user, last_seen_ms: None, status: None, stale: false }
        }
    }

    fn flip(&mut self, user: &str) {
        let online = self.online.insert(user.to_owned());
        if !online {
            self.online.remove(user);
        }
        if self.watched.contains(user) {
            let state = if online { State::Online } else { State::Offline };
            let change = TransitionObject {
                seq: 1,
                user: user.to_owned(),
                state,
                at_ms: 1,
                since_ms: None,
                last_seen_ms: None,
                reason: ReasonWord::Heartbeat,
            };
            self.sent.push_back(ServerMessage::Transitions { seq: 1, transitions: vec![change] });
        }
    }

    fn take(&mut self, message: &Value) {
        let users = message["users"].as_array().into_iter().flatten();
        let users: Vec<String> = users.map(|user| user.as_str().expect("a name").to_owned()).collect();
        let id = message.get("id").cloned();
        match message["type"].as_str() {
            Some("unwatch") => self.watched.retain(|user| !users.contains(user)),
            Some("watch") if std::mem::take(&mut self.full) => {
                let (code, message) = ("not_ready".to_owned(), String::new());
                self.sent.push_back(ServerMessage::Error { id, code, message, group: None });
            }
            Some("watch") if std::mem::take(&mut self.refuses) => {
                let (code, message) = ("forbidden".to_owned(), String::new());
                self.sent.push_back(ServerMessage::Error { id, code, message, group: None });
            }
            _ => {
                let objects = users.iter().map(|user| self.object(user)).collect();
                self.watched.extend(users);
                let (epoch, seq, more) = (String::new(), 1, false);
                self.sent.push_back(ServerMessage::Snapshot {
                    id,
                    epoch,
                    seq,
                    group: None,
                    members: None,
                    online: None,
                    users: objects,
                    more,
                    refused: Vec::new(),
                });
            }
        }
    }
}

/// The client, the daemon, and what the table says of each user.
struct World {
    table: StateTable,
    states: BTreeMap<String, Map<String, Value>>,
    /// The `id` of each user's latest watch on this connection.
    latest: BTreeMap<String, Value>,
    /// The users of each watch on this connection, by its `id`.
    asked: Vec<(Value, Vec<String>)>,
    daemon: DaemonModel,
    desired: Desired,
    watches: Watches,
}

/// Of each user: the messages sent or the events reported.
type Effects = BTreeSet<(String, String)>;

impl World {
    fn new() -> World {
        let text = include_str!("../../tests/clients/table.json");
        let table: StateTable = serde_json::from_str(text).expect("the table");
        let states = USERS.map(|user| (user.to_owned(), table.state.clone())).into();
        let (latest, asked, daemon) = (BTreeMap::new(), Vec::new(), DaemonModel::default());
        World {
            table,
            states,
            latest,
            asked,
            daemon,
            desired: Desired::default(),
            watches: Watches::default(),
        }
    }

    fn is_up(&self) -> bool {
        self.states["alice"]["connection"] == "up"
    }

    /// Applies the table; returns what the user's client has to send and to report.
    fn expect(&mut self, user: &str, event: &str, sends: &mut Effects, reports: &mut Effects) {
        let state = self.states.get_mut(user).expect("one of USERS");
        let holds = |row: &&Row| {
            row.event == event && row.conditions.iter().all(|(field, value)| state[field] == *value)
        };
        let row = self.table.rows.iter().find(holds).unwrap_or_else(|| panic!("no row for {event}"));
        sends.extend(row.send.iter().map(|send| (user.to_owned(), send.clone())));
        reports.extend(row.report.iter().map(|report| (user.to_owned(), report.clone())));
        state.extend(row.then.clone());
    }

    /// The table's events of a message from the daemon.
    fn events_of(&self, message: &ServerMessage) -> Vec<(String, String)> {
        let word = |online| if online { "online" } else { "offline" };
        match message {
            ServerMessage::Snapshot { id, users, .. } => {
                let event = |object: &UserObject| match self.latest.get(object.user()) == id.as_ref() {
                    true => format!("snapshot {}", word(object.online())),
                    false => "old snapshot".to_owned(),
                };
                users.iter().map(|object| (object.user().to_owned(), event(object))).collect()
            }
            ServerMessage::Transitions { transitions, .. } => {
                let event =
                    |change: &TransitionObject| format!("transition {}", word(change.state == State::Online));
                transitions.iter().map(|change| (change.user.clone(), event(change))).collect()
            }
            ServerMessage::Error { id, .. } => {
                let asked = self.asked.iter().find(|(asked, _)| Some(asked) == id.as_ref());
                let users = &asked.expect("a watch").1;
                let old = |user: &String| self.latest.get(user) != id.as_ref();
                let event = |user| if old(user) { "old refused" } else { "refused" };
                users.iter().map(|user| (user.clone(), event(user).to_owned())).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The client sends what the caller wants; returns who is in these messages.
    fn catch_up(&mut self) -> Effects {
        let mut sent = Effects::new();
        for text in self.watches.catch_up(&mut self.desired) {
            let message: Value = serde_json::from_str(&text).expect("JSON");
            let kind = message["type"].as_str().expect("a type");
            let users = message["users"].as_array().expect("names").iter();
            let users: Vec<String> = users.map(|user| user.as_str().expect("a name").to_owned()).collect();
            for user in &users {
                sent.insert((user.clone(), kind.to_owned()));
                match kind {
                    "watch" => drop(self.latest.insert(user.clone(), message["id"].clone())),
                    _ => drop(self.latest.remove(user)),
                }
            }
            self.asked.push((message["id"].clone(), users));
            self.daemon.take(&message);
        }
        sent
    }

    fn step(&mut self, step: &Step) {
        let (mut sends, mut reports) = (Effects::new(), Effects::new());
        let mut reported = Effects::new();
        match *step {
            Step::Watch(user) => {
                self.desired.watch([USERS[user].to_owned()]);
                self.expect(USERS[user], "watch", &mut sends, &mut reports);
            }
            Step::Unwatch(user) => {
                self.desired.names.remove(USERS[user]);
                self.expect(USERS[user], "unwatch", &mut sends, &mut reports);
            }
            Step::Flip(user) => self.daemon.flip(USERS[user]),
            Step::Refuse => self.daemon.refuses = self.is_up(),
            Step::Fill => self.daemon.full = self.is_up(),
            Step::Connect if !self.is_up() => {
                self.watches.reconnected(&self.desired);
                self.latest.clear();
                self.asked.clear();
                USERS.iter().for_each(|user| self.expect(user, "connected", &mut sends, &mut reports));
            }
            Step::Lose if self.is_up() => return self.lose("lost"),
            Step::Receive => {
                let Some(message) = self.daemon.sent.pop_front() else { return };
                if self.watches.is_not_ready(&message) {
                    return self.lose("not ready");
                }
                for (user, event) in self.events_of(&message) {
                    self.expect(&user, &event, &mut sends, &mut reports);
                }
                let events = self.watches.take(message, &mut self.desired, 1);
                reported = events.into_iter().flat_map(gists).collect();
            }
            Step::Connect | Step::Lose => {}
        }
        let sent = if self.is_up() { self.catch_up() } else { Effects::new() };
        assert_eq!(
            (sent, reported),
            (sends, reports),
            "{step:?}: sent and reported, as it is and as the table says"
        );
    }

    /// The connection ends. The client neither sends nor reports anything.
    fn lose(&mut self, event: &str) {
        (self.daemon.sent, self.daemon.watched) = Default::default();
        let (mut sends, mut reports) = (Effects::new(), Effects::new());
        USERS.iter().for_each(|user| self.expect(user, event, &mut sends, &mut reports));
        assert!(sends.is_empty() && reports.is_empty(), "{event}");
    }

    /// Once every message has arrived, the client knows what is true of the users who are watched, and nothing else.
    fn settle(&mut self) {
        self.daemon.full = false;
        while !self.is_up() || !self.daemon.sent.is_empty() {
            self.step(&Step::Connect);
            self.step(&Step::Receive);
        }
        for (user, state) in &self.states {
            let online = if self.daemon.online.contains(user) { "online" } else { "offline" };
            let wanted = if state["desired"] == true { online } else { "unknown" };
            assert_eq!(state["known"], wanted, "{user}");
        }
        assert!(self.watches.all_answered());
    }
}

fn gists(event: ClientEvent) -> Vec<(String, String)> {
    let word = |online| if online { "online" } else { "offline" };
    match event {
        ClientEvent::Snapshot(users) => {
            let gist = |user: &UserObject| (user.user().to_owned(), format!("first {}", word(user.online())));
            users.iter().map(gist).collect()
        }
        ClientEvent::Transitions(changes) => changes
            .into_iter()
            .map(|change| (change.user, word(change.state == State::Online).into()))
            .collect(),
        ClientEvent::Refused { users, .. } => {
            users.into_iter().map(|user| (user, "refused".to_owned())).collect()
        }
        _ => Vec::new(),
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let user = 0..USERS.len();
    prop_oneof![
        3 => user.clone().prop_map(Step::Watch),
        2 => user.clone().prop_map(Step::Unwatch),
        3 => user.prop_map(Step::Flip),
        2 => Just(Step::Connect),
        1 => Just(Step::Lose),
        5 => Just(Step::Receive),
        1 => Just(Step::Refuse),
        1 => Just(Step::Fill),
    ]
}

proptest! {
    #[test]
    fn client_follows_the_table(steps in prop::collection::vec(any_step(), 0..60)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
        world.settle();
    }
}
