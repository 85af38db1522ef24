//! What the caller wants, what the daemon was asked for, and the messages that lead from one to the other.

use super::told::Told;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A message may have 64 KiB; so much of one is names, as JSON.
const NAMES_BYTES: usize = 48 * 1024;

/// What the caller wants. Not a queue: however often it changes before it is looked at, it is no larger.
#[derive(Debug, Default)]
pub struct Wishes {
    /// Whom to watch by name; the number tells one wish from another after it, with an end between.
    pub names: BTreeMap<String, u64>,
    /// Everybody, and whether lossless.
    pub all: Option<bool>,
    /// Heartbeats to send: of the socket's own user, or of others.
    pub beats: BTreeSet<Option<String>>,
    /// The socket's own user wants to go, before those heartbeats.
    pub leave: bool,
    number: u64,
}

impl Wishes {
    /// Watches these too.
    pub fn watch(&mut self, users: impl IntoIterator<Item = String>) {
        self.number += 1;
        for user in users {
            self.names.entry(user).or_insert(self.number);
        }
    }

    /// Watches these and by name no others.
    pub fn replace(&mut self, users: impl IntoIterator<Item = String>) {
        let kept: BTreeSet<String> = users.into_iter().collect();
        self.names.retain(|user, _| kept.contains(user));
        self.watch(kept);
    }
}

/// What a watch that is not answered yet has asked for.
#[derive(Debug)]
pub enum Question {
    Names(Vec<String>),
    Everybody,
}

/// What this connection's daemon was asked for.
#[derive(Debug, Default)]
pub struct Asked {
    pub names: HashMap<String, u64>,
    all: Option<bool>,
    /// By the `id` of their message.
    pub open: HashMap<u64, Question>,
    next_id: u64,
}

impl Asked {
    /// The messages that lead to what is wished for.
    pub fn catch_up(&mut self, wishes: &mut Wishes, told: &mut Told) -> Vec<String> {
        let mut messages = Vec::new();
        self.everybody(wishes, told, &mut messages);
        let gone = self.names.iter().filter(|(user, number)| wishes.names.get(*user) != Some(number));
        let mut gone: Vec<String> = gone.map(|(user, _)| user.clone()).collect();
        gone.sort();
        for user in &gone {
            self.names.remove(user);
            told.forget(user);
        }
        messages.extend(chunks(gone).map(|some| json!({"type": "unwatch", "users": some}).to_string()));
        let new = wishes.names.iter().filter(|(user, _)| !self.names.contains_key(*user));
        let new: Vec<(String, u64)> = new.map(|(user, number)| (user.clone(), *number)).collect();
        for some in chunks(new.iter().map(|(user, _)| user.clone()).collect()) {
            let id = self.id();
            messages.push(json!({"type": "watch", "users": some, "id": id}).to_string());
            self.open.insert(id, Question::Names(some));
        }
        self.names.extend(new);
        if std::mem::take(&mut wishes.leave) {
            messages.push(json!({"type": "leave"}).to_string());
        }
        for user in std::mem::take(&mut wishes.beats) {
            messages.push(match user {
                Some(user) => json!({"type": "heartbeat", "user": user}).to_string(),
                None => json!({"type": "heartbeat"}).to_string(),
            });
        }
        messages
    }

    fn everybody(&mut self, wishes: &Wishes, told: &mut Told, messages: &mut Vec<String>) {
        if self.all == wishes.all {
            return;
        }
        self.all = wishes.all;
        match wishes.all {
            None => {
                told.forget_all(|user| wishes.names.contains_key(user));
                messages.push(json!({"type": "unwatch", "all": true}).to_string());
            }
            Some(lossless) => {
                let id = self.id();
                let mut message = json!({"type": "watch", "all": true, "id": id});
                if lossless {
                    message["lossless"] = true.into();
                }
                messages.push(message.to_string());
                self.open.insert(id, Question::Everybody);
            }
        }
    }

    /// A watch was refused: it would be again after each return, so it is wished for no more.
    pub fn refused(&mut self, id: u64, wishes: &mut Wishes) -> Vec<String> {
        match self.open.remove(&id) {
            None => Vec::new(),
            Some(Question::Everybody) => {
                (self.all, wishes.all) = (None, None);
                Vec::new()
            }
            Some(Question::Names(users)) => {
                for user in &users {
                    if self.names.remove(user) == wishes.names.get(user).copied() {
                        wishes.names.remove(user);
                    }
                }
                users
            }
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// Lists of names that each fit into a message.
fn chunks(users: Vec<String>) -> impl Iterator<Item = Vec<String>> {
    let mut users = users.into_iter().peekable();
    std::iter::from_fn(move || {
        let (mut some, mut bytes) = (Vec::new(), 0);
        while let Some(user) = users.peek() {
            // As JSON, and a comma.
            bytes += json!(user).to_string().len() + 1;
            if !some.is_empty() && bytes > NAMES_BYTES {
                break;
            }
            some.extend(users.next());
        }
        (!some.is_empty()).then_some(some)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(users: &[&str]) -> Vec<String> {
        users.iter().map(|user| (*user).to_owned()).collect()
    }

    #[test]
    fn messages_lead_from_what_was_asked_for_to_what_is_wished_for() {
        let (mut wishes, mut asked, mut told) = (Wishes::default(), Asked::default(), Told::default());
        wishes.watch(names(&["a", "b"]));
        let mut next = |wishes: &mut Wishes| asked.catch_up(wishes, &mut told);
        assert_eq!(next(&mut wishes), [r#"{"id":1,"type":"watch","users":["a","b"]}"#]);
        assert!(next(&mut wishes).is_empty(), "it was asked for");
        wishes.replace(names(&["b", "c"]));
        let moved = [r#"{"type":"unwatch","users":["a"]}"#, r#"{"id":2,"type":"watch","users":["c"]}"#];
        assert_eq!(next(&mut wishes), moved);
        wishes.names.remove("b");
        wishes.watch(names(&["b"]));
        let again = [r#"{"type":"unwatch","users":["b"]}"#, r#"{"id":3,"type":"watch","users":["b"]}"#];
        assert_eq!(next(&mut wishes), again, "a new wish has a new snapshot");
        (wishes.all, wishes.leave) = (Some(true), true);
        wishes.beats.insert(None);
        let all = r#"{"all":true,"id":4,"lossless":true,"type":"watch"}"#;
        assert_eq!(next(&mut wishes), [all, r#"{"type":"leave"}"#, r#"{"type":"heartbeat"}"#]);
        wishes.all = None;
        assert_eq!(next(&mut wishes), [r#"{"all":true,"type":"unwatch"}"#]);
    }

    #[test]
    fn many_names_are_cut_into_messages_that_the_daemon_takes() {
        let users: Vec<String> = (0..2_000).map(|i| format!("{i}{}", "\"".repeat(120))).collect();
        let cut: Vec<Vec<String>> = chunks(users.clone()).collect();
        assert!(cut.len() > 1 && cut.concat() == users);
        assert!(cut.iter().all(|some| json!({"users": some}).to_string().len() < 60 * 1024));
    }
}
