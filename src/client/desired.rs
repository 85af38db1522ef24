//! The state that the caller wants.

use super::ClientEvent;
use std::collections::{BTreeMap, BTreeSet};

/// The daemon's limit for a name, in bytes.
const NAME_BYTES: usize = 256;
/// The daemon's limit for a status, in bytes of JSON.
const STATUS_BYTES: usize = 1_024;

/// The state that the caller wants. It is not a queue: it does not grow while the task is busy or disconnected.
#[derive(Debug, Default)]
pub struct Desired {
    /// The users to watch by name. The number is another one when a user is unwatched and watched again.
    pub names: BTreeMap<String, u64>,
    /// Whether to watch everybody.
    pub all: Option<WatchAll>,
    /// The groups to watch, each with whether only its counts are wanted.
    pub groups: BTreeMap<String, bool>,
    /// Heartbeats to send: of the socket's own user (`None`), or of others.
    pub beats: BTreeSet<Option<String>>,
    /// The socket's own user leaves, before those heartbeats.
    pub leave: bool,
    /// The status to set for the socket's own user.
    pub status: Option<serde_json::Value>,
    number: u64,
}

/// A watch of everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchAll {
    /// Whether each transition is reported, and not only the newest of each user.
    pub lossless: bool,
    /// Another number after each end.
    pub number: u64,
}

impl Desired {
    /// Watches everybody.
    pub fn watch_all(&mut self, lossless: bool) {
        self.number += 1;
        let number = self.all.map_or(self.number, |all| all.number);
        self.all = Some(WatchAll { lossless, number });
    }

    /// Watches these users too.
    pub fn watch(&mut self, users: impl IntoIterator<Item = String>) {
        self.number += 1;
        for user in users {
            self.names.entry(user).or_insert(self.number);
        }
    }

    /// Watches these users and, by name, no others.
    pub fn replace(&mut self, users: impl IntoIterator<Item = String>) {
        let kept: BTreeSet<String> = users.into_iter().collect();
        self.names.retain(|user, _| kept.contains(user));
        self.watch(kept);
    }

    /// Drops names and a status that are too long for the daemon, and returns the refusals. A message of more than 64 KiB
    /// would end the client: the daemon closes the connection with 1009.
    pub fn refuse_too_long(&mut self) -> Vec<ClientEvent> {
        let mut refusals = Vec::new();
        self.names.retain(|user, _| {
            if is_long(user) {
                refusals.push(refused_user(user, vec![user.clone()]));
            }
            !is_long(user)
        });
        self.beats.retain(|user| {
            let long = user.as_deref().filter(|user| is_long(user));
            refusals.extend(long.map(|user| refused_user(user, Vec::new())));
            long.is_none()
        });
        self.groups.retain(|group, _| {
            if is_long(group) {
                let (code, message) = ("invalid_group".to_owned(), long_name("group", group));
                refusals.push(ClientEvent::GroupRefused { group: group.clone(), code, message });
            }
            !is_long(group)
        });
        let bytes = self.status.as_ref().map_or(0, |status| status.to_string().len());
        if bytes > STATUS_BYTES {
            self.status = None;
            let message =
                format!("the status has {bytes} bytes; at most {STATUS_BYTES} bytes of JSON are allowed");
            refusals.push(ClientEvent::Refused { code: "too_large".to_owned(), message, users: Vec::new() });
        }
        refusals
    }
}

fn is_long(name: &str) -> bool {
    name.len() > NAME_BYTES
}

/// The refusal of a user's name. `users` are those who are not watched now.
fn refused_user(user: &str, users: Vec<String>) -> ClientEvent {
    ClientEvent::Refused { code: "invalid_user".to_owned(), message: long_name("user", user), users }
}

fn long_name(kind: &str, name: &str) -> String {
    format!("the {kind} name has {} bytes; at most {NAME_BYTES} are allowed", name.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_long_wishes_are_refused() {
        let (long, longest) = ("é".repeat(129), "é".repeat(128));
        let mut desired = Desired::default();
        desired.watch([long.clone(), longest.clone()]);
        desired.beats.extend([Some(long.clone()), Some(longest.clone()), None]);
        desired.groups.extend([(long, false), (longest, true)]);
        desired.status = Some("x".repeat(1_023).into());
        let refusals = desired.refuse_too_long();
        let named = |event: &ClientEvent| match event {
            ClientEvent::Refused { code, users, .. } => (code.clone(), users.len()),
            ClientEvent::GroupRefused { code, .. } => (code.clone(), 0),
            other => (format!("{other:?}"), 0),
        };
        let named: Vec<(String, usize)> = refusals.iter().map(named).collect();
        let codes: [(&str, usize); 4] =
            [("invalid_user", 1), ("invalid_user", 0), ("invalid_group", 0), ("too_large", 0)];
        assert_eq!(named, codes.map(|(code, users)| (code.to_owned(), users)));
        assert_eq!((desired.names.len(), desired.beats.len(), desired.groups.len()), (1, 2, 1));
        assert!(desired.status.is_none());
        desired.status = Some("x".repeat(1_022).into());
        assert!(desired.refuse_too_long().is_empty() && desired.status.is_some());
    }
}
