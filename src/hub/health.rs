//! Whether the view is known to match Redis, and how each server is.

use super::{Hub, StreamState, WebhookState};
use crate::lock::lock;
use crate::presence::{ServerState, Time};
use std::collections::BTreeMap;
use std::sync::Mutex;
use tokio::sync::watch;

/// Does the hub's view match Redis?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Every server is subscribed, reconciled and its event stream verified.
    pub up: bool,
    /// Since when.
    pub since: Time,
    /// The cause; empty if `up`.
    pub cause: String,
}

/// Why statuses or groups are not followed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirectoryFaults {
    /// Why statuses are not followed; `None` if they are.
    pub statuses: Option<String>,
    /// Why groups are not followed; `None` if they are.
    pub groups: Option<String>,
}

/// The state that the driver publishes.
pub(super) struct Board {
    /// The first reconciliation is done; until then nobody's state is known.
    pub(super) open: watch::Sender<bool>,
    health: watch::Sender<Health>,
    servers: Mutex<Vec<ServerState>>,
    directory: Mutex<DirectoryFaults>,
    /// How the stream of transitions is.
    pub(super) stream: Mutex<Option<StreamState>>,
    /// How each webhook is, by its URL.
    pub(super) webhooks: Mutex<BTreeMap<String, WebhookState>>,
}

impl Board {
    pub(super) fn new(now: Time) -> Board {
        let health = Health { up: false, since: now, cause: "not connected yet".into() };
        Board {
            open: watch::Sender::new(false),
            health: watch::Sender::new(health),
            servers: Mutex::default(),
            directory: Mutex::default(),
            stream: Mutex::default(),
            webhooks: Mutex::default(),
        }
    }

    fn set(&self, health: Health) {
        self.health.send_if_modified(|held| {
            let changed = held.up != health.up || held.cause != health.cause;
            if changed {
                let since = if held.up == health.up { held.since } else { health.since };
                *held = Health { since, ..health };
            }
            changed
        });
    }
}

impl Hub {
    /// The first reconciliation is done. The present state is the first snapshot, and every later change is a
    /// transition.
    pub fn open(&self) {
        self.board.open.send_replace(true);
    }

    /// Whether the first reconciliation is done, as it changes.
    pub fn opened(&self) -> watch::Receiver<bool> {
        self.board.open.subscribe()
    }

    /// Publishes whether the view matches Redis.
    pub fn set_health(&self, health: Health) {
        self.board.set(health);
    }

    /// The health, as it changes.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.board.health.subscribe()
    }

    /// Publishes how each server is.
    pub fn set_servers(&self, servers: Vec<ServerState>) {
        *lock(&self.board.servers) = servers;
    }

    /// Publishes why statuses or groups are not followed.
    pub fn set_directory_faults(&self, faults: DirectoryFaults) {
        *lock(&self.board.directory) = faults;
    }

    /// Why statuses or groups are not followed.
    pub fn directory_faults(&self) -> DirectoryFaults {
        lock(&self.board.directory).clone()
    }

    /// How each server was when the driver last published it, at most about a second ago.
    pub fn servers(&self) -> Vec<ServerState> {
        lock(&self.board.servers).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::tests::hub;

    #[test]
    fn since_changes_only_with_up() {
        let hub = hub();
        let health = |up, at, cause: &str| Health { up, since: Time::from_ms(at), cause: cause.into() };
        let mut changes = hub.health();
        hub.set_health(health(false, 5, "connecting"));
        assert_eq!(*changes.borrow_and_update(), health(false, 1, "connecting"));
        hub.set_health(health(true, 9, ""));
        assert_eq!(*changes.borrow_and_update(), health(true, 9, ""));
        hub.set_health(health(true, 12, ""));
        assert!(!changes.has_changed().unwrap());
    }
}
