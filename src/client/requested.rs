//! The requests to this connection's daemon, and the messages that make them match the caller's wishes.

use super::desired::{Desired, WatchAll};
use super::known::Known;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};

/// A message may have 64 KiB. This many bytes of it may be names, as JSON.
const NAMES_BYTES: usize = 48 * 1024;

/// The content of an unanswered watch.
#[derive(Debug)]
pub enum Question {
    Names(Vec<(String, u64)>),
    Group(String),
    Everybody,
}

impl Question {
    fn is_of(&self, group: &str) -> bool {
        matches!(self, Question::Group(name) if name == group)
    }
}

/// The watches requested of the daemon on this connection.
#[derive(Debug, Default)]
pub struct Requested {
    /// The users, each with its number in [`Desired`].
    pub names: HashMap<String, u64>,
    all: Option<WatchAll>,
    groups: BTreeMap<String, bool>,
    /// Unanswered watches by the `id` of their message.
    pub open: HashMap<u64, Question>,
    next_id: u64,
}

impl Requested {
    /// A new connection: its daemon was asked for nothing yet. What the caller has unwatched since is forgotten.
    pub fn reconnected(&mut self, desired: &Desired, known: &mut Known) {
        self.withdraw(desired, known);
        self.withdraw_all(desired, known);
        self.names.clear();
        self.open.clear();
        self.all = None;
        self.groups.clear();
        known.forget_groups();
    }

    /// The messages that ask for what the caller wants and does not have yet.
    pub fn catch_up(&mut self, desired: &mut Desired, known: &mut Known) -> Vec<String> {
        let mut messages = Vec::new();
        self.everybody(desired, known, &mut messages);
        let gone = self.withdraw(desired, known);
        messages.extend(
            chunks(gone, String::as_str).map(|some| json!({"type": "unwatch", "users": some}).to_string()),
        );
        let new = desired.names.iter().filter(|(user, _)| !self.names.contains_key(*user));
        let new: Vec<(String, u64)> = new.map(|(user, number)| (user.clone(), *number)).collect();
        self.names.extend(new.iter().cloned());
        for some in chunks(new, |(user, _)| user) {
            let id = self.id();
            let users: Vec<&str> = some.iter().map(|(user, _)| user.as_str()).collect();
            messages.push(json!({"type": "watch", "users": users, "id": id}).to_string());
            self.open.insert(id, Question::Names(some));
        }
        self.ask_groups(desired, known, &mut messages);
        if std::mem::take(&mut desired.leave) {
            messages.push(json!({"type": "leave"}).to_string());
        }
        if let Some(status) = desired.status.take() {
            messages.push(json!({"type": "set_status", "status": status}).to_string());
        }
        for user in std::mem::take(&mut desired.beats) {
            messages.push(match user {
                Some(user) => json!({"type": "heartbeat", "user": user}).to_string(),
                None => json!({"type": "heartbeat"}).to_string(),
            });
        }
        messages
    }

    /// Drops the users whom the caller has unwatched since they were requested; returns them.
    fn withdraw(&mut self, desired: &Desired, known: &mut Known) -> Vec<String> {
        let gone = self.names.iter().filter(|(user, number)| desired.names.get(*user) != Some(number));
        let mut gone: Vec<String> = gone.map(|(user, _)| user.clone()).collect();
        gone.sort();
        for user in &gone {
            self.names.remove(user);
            known.forget(user);
        }
        gone
    }

    fn ask_groups(&mut self, desired: &Desired, known: &mut Known, messages: &mut Vec<String>) {
        let gone: Vec<String> =
            self.groups.keys().filter(|group| !desired.groups.contains_key(*group)).cloned().collect();
        for group in &gone {
            self.groups.remove(group);
            self.forget_answer(group, known);
            messages.push(json!({"type": "unwatch", "groups": [group]}).to_string());
        }
        for (group, count) in &desired.groups {
            match self.groups.insert(group.clone(), *count) {
                Some(before) if before == *count => continue,
                // Only the answer to the latest watch of a group counts.
                Some(_) => self.forget_answer(group, known),
                None => {}
            }
            let id = self.id();
            let mut message = json!({"type": "watch", "groups": [group], "id": id});
            if *count {
                message["count"] = true.into();
            }
            messages.push(message.to_string());
            self.open.insert(id, Question::Group(group.clone()));
        }
    }

    fn forget_answer(&mut self, group: &str, known: &mut Known) {
        self.open.retain(|_, question| !question.is_of(group));
        known.forget_group(group);
    }

    /// Whether a message about a group, with this `id`, follows from its latest watch: as the answer, or after it.
    pub fn is_about_latest(&self, group: &str, id: Option<u64>) -> bool {
        let open = self.open.iter().find(|(_, question)| question.is_of(group)).map(|(id, _)| *id);
        self.groups.contains_key(group) && open == id
    }

    /// Whether the counts of this group are watched.
    pub fn counts(&self, group: &str) -> bool {
        self.groups.get(group) == Some(&true)
    }

    /// The daemon does not watch a group, or not any more: the caller wants it no more. False if the error answers a watch that was
    /// replaced.
    pub fn refused_group(
        &mut self,
        group: &str,
        id: Option<u64>,
        desired: &mut Desired,
        known: &mut Known,
    ) -> bool {
        if !self.is_about_latest(group, id) {
            return false;
        }
        let count = self.groups.remove(group);
        if desired.groups.get(group) == count.as_ref() {
            desired.groups.remove(group);
        }
        self.forget_answer(group, known);
        true
    }

    /// The group whose unanswered watch has this `id`.
    pub fn group_of(&self, id: u64) -> Option<&str> {
        match self.open.get(&id)? {
            Question::Group(group) => Some(group),
            _ => None,
        }
    }

    fn everybody(&mut self, desired: &Desired, known: &mut Known, messages: &mut Vec<String>) {
        if self.all == desired.all {
            return;
        }
        self.withdraw_all(desired, known);
        self.all = desired.all;
        self.open.retain(|_, question| !matches!(question, Question::Everybody));
        match desired.all {
            None => messages.push(json!({"type": "unwatch", "all": true}).to_string()),
            Some(WatchAll { lossless, .. }) => {
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

    /// Forgets everybody when the caller has ended the watch of everybody since it was requested.
    fn withdraw_all(&mut self, desired: &Desired, known: &mut Known) {
        let number = |all: Option<WatchAll>| all.map(|all| all.number);
        if self.all.is_some() && number(self.all) != number(desired.all) {
            known.forget_all(|user| desired.names.contains_key(user));
        }
    }

    /// Whether `user` is watched by name, and `number` is its latest request.
    pub fn is_latest(&self, user: &str, number: u64) -> bool {
        self.names.get(user) == Some(&number)
    }

    /// The daemon refused a watch. It would refuse it on each connection, so the caller wants it no more. Returns the
    /// users who are no longer watched.
    pub fn refused(&mut self, id: u64, desired: &mut Desired, known: &mut Known) -> Vec<String> {
        match self.open.remove(&id) {
            None | Some(Question::Group(_)) => Vec::new(),
            Some(Question::Everybody) => {
                (self.all, desired.all) = (None, None);
                known.forget_all(|user| desired.names.contains_key(user));
                Vec::new()
            }
            Some(Question::Names(users)) => {
                let mut drop = |(user, number): &(String, u64)| self.drop_user(user, *number, desired, known);
                users.into_iter().filter(|one| drop(one)).map(|(user, _)| user).collect()
            }
        }
    }

    /// The daemon refused one user of a watch and accepted the others. Whether that user was still wanted.
    pub fn refused_user(&mut self, id: u64, user: &str, desired: &mut Desired, known: &mut Known) -> bool {
        let Some(Question::Names(asked)) = self.open.get(&id) else { return false };
        let number = asked.iter().find(|(name, _)| name == user).map(|(_, number)| *number);
        number.is_some_and(|number| self.drop_user(user, number, desired, known))
    }

    /// Drops a user whom the daemon refused. False if the user was unwatched since, or watched again.
    fn drop_user(&mut self, user: &str, number: u64, desired: &mut Desired, known: &mut Known) -> bool {
        if !self.is_latest(user, number) {
            return false;
        }
        self.names.remove(user);
        known.forget(user);
        if desired.names.get(user) == Some(&number) {
            desired.names.remove(user);
        }
        true
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// Lists of items whose names fit into a message each.
fn chunks<T>(items: Vec<T>, name: impl Fn(&T) -> &str) -> impl Iterator<Item = Vec<T>> {
    let mut items = items.into_iter().peekable();
    std::iter::from_fn(move || {
        let (mut some, mut bytes) = (Vec::new(), 0);
        while let Some(item) = items.peek() {
            // As JSON, with a comma.
            bytes += json!(name(item)).to_string().len() + 1;
            if !some.is_empty() && bytes > NAMES_BYTES {
                break;
            }
            some.extend(items.next());
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
    fn messages_request_what_is_desired() {
        let (mut desired, mut requested, mut known) =
            (Desired::default(), Requested::default(), Known::default());
        desired.watch(names(&["a", "b"]));
        let mut next = |desired: &mut Desired| requested.catch_up(desired, &mut known);
        assert_eq!(next(&mut desired), [r#"{"id":1,"type":"watch","users":["a","b"]}"#]);
        assert!(next(&mut desired).is_empty(), "both were requested");
        desired.replace(names(&["b", "c"]));
        let moved = [r#"{"type":"unwatch","users":["a"]}"#, r#"{"id":2,"type":"watch","users":["c"]}"#];
        assert_eq!(next(&mut desired), moved);
        desired.names.remove("b");
        desired.watch(names(&["b"]));
        let again = [r#"{"type":"unwatch","users":["b"]}"#, r#"{"id":3,"type":"watch","users":["b"]}"#];
        assert_eq!(next(&mut desired), again, "a new watch gets a new snapshot");
        desired.watch_all(true);
        desired.leave = true;
        desired.beats.insert(None);
        let all = r#"{"all":true,"id":4,"lossless":true,"type":"watch"}"#;
        assert_eq!(next(&mut desired), [all, r#"{"type":"leave"}"#, r#"{"type":"heartbeat"}"#]);
        desired.all = None;
        assert_eq!(next(&mut desired), [r#"{"all":true,"type":"unwatch"}"#]);
    }

    #[test]
    fn chunks_of_names_fit_into_messages() {
        let users: Vec<String> = (0..2_000).map(|i| format!("{i}{}", "\"".repeat(120))).collect();
        let cut: Vec<Vec<String>> = chunks(users.clone(), String::as_str).collect();
        assert!(cut.len() > 1 && cut.concat() == users);
        assert!(cut.iter().all(|some| json!({"users": some}).to_string().len() < 60 * 1024));
    }
}
