//! The reports of the detector and the roster: changes of keys, transitions of users.

use super::{Key, Name, Time};

/// Why a key came or went. A user's transition has the reason of the key that caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A heartbeat made the key live.
    Heartbeat,
    /// The TTL ran out.
    Expired,
    /// A program deleted the key.
    Deleted,
    /// A comparison with Redis found the change.
    Reconciled,
}

/// One change of a key, as the [`Detector`](super::Detector) of its server reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Key,
    /// Whether the key is live now.
    pub live: bool,
    /// When it changed.
    pub at: Time,
    /// The last heartbeat known.
    pub last_seen: Time,
    /// Why it changed.
    pub reason: Reason,
    /// The instant when the TTL ran out; `None` unless the key expired and the instant was known in
    /// time. Detection lag is measured from here.
    pub deadline: Option<Time>,
}

/// A user who went from offline to online or back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The user's name.
    pub user: Name,
    /// Whether the user is online now.
    pub online: bool,
    /// When the transition happened.
    pub at: Time,
    /// Online: the start of the presence. Offline: the last heartbeat.
    pub mark: Time,
    /// Why the last or first key changed.
    pub reason: Reason,
}
