//! The state that the caller wants.

use std::collections::{BTreeMap, BTreeSet};

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
}
