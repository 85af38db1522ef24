//! The users who are online, their watchers, and the changes that each reader still has to receive.
//!
//! The hub is split by a hash of the user into 64 shards, each behind a short lock. To watch is to register and
//! to copy the state under the same lock. So no transition is missing between a snapshot and what follows, and
//! none comes twice; and a reader of everybody never stops the rest for longer than one shard.
//!
//! ```text
//! fanout    a transition is encoded once (Encoded), and goes
//!   → audience, mailbox   to the mailboxes of those who watch its user by name
//!   → log                 into the log that all readers of everybody share
//!   → history             into the latest transitions, for readers that come back
//! couriers  tasks that write to the connections of many readers
//! groups    SETs of users, and their watchers
//! statuses  any JSON per user, which is no transition
//! watcher   a reader of mailbox and log; readers, what all of them share
//! health    does the view match Redis?
//! sinks     the state of stream and webhooks, for stats
//! interest  which users to keep, where not all are kept
//! barrier   has the view reached a certain point?
//! ```

mod audience;
mod backlog;
mod barrier;
mod couriers;
mod fanout;
mod groups;
mod health;
mod history;
mod interest;
mod log;
mod mailbox;
mod readers;
mod sinks;
mod statuses;
mod watcher;

pub use fanout::JoinedShard;
pub use groups::{GroupBegin, GroupEnd, GroupNeed, GroupNews, GroupState};
pub use health::{DirectoryFaults, Health};
pub use history::{Cursor, Gone, KEPT, Missed};
pub use interest::{KNOWN_WITHIN, Kept, Wishes};
pub use log::message as transitions_message;
pub use sinks::{StreamState, WebhookState};
pub use statuses::{Forgotten, NextStatuses, Status};
pub use watcher::{Delivery, Direct, Next as NextDelivery, Overflow, Watcher};

use crate::lock::lock;
use crate::metrics::Metrics;
use crate::presence::{Key, Name, Presence, Roster, Time, Transition};
use crate::protocol::{self, TransitionObject};
use audience::Audience;
use barrier::Barrier;
use bytes::Bytes;
use couriers::Couriers;
use fanout::Everybody;
use groups::{Group, Groups};
use health::Board;
use history::History;
use interest::Interest;
use mailbox::Pending;
pub use readers::QueuedAnswer;
use readers::Readers;
use statuses::Statuses;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use tokio::sync::Notify;

/// As many as Centrifuge's hub has: enough that two cores rarely wait for each other.
const SHARDS: usize = 64;

/// A transition with its number, shared by all who are sent it. The first of them encodes it.
#[derive(Debug)]
pub struct Encoded {
    /// The transition's number.
    pub seq: u64,
    /// The transition.
    pub transition: Transition,
    json: OnceLock<Box<str>>,
    /// The frame with this transition alone.
    frame: OnceLock<Bytes>,
    shard: u8,
}

impl Encoded {
    fn new(seq: u64, transition: &Transition, shard: usize) -> Encoded {
        let (json, frame) = (OnceLock::new(), OnceLock::new());
        Encoded { seq, transition: transition.clone(), json, frame, shard: shard as u8 }
    }

    /// A frame with the `transitions` message of this transition alone. The first reader that needs it calls `make` with the message.
    pub fn frame(self: &Arc<Encoded>, make: impl FnOnce(&[u8]) -> Bytes) -> &Bytes {
        self.frame.get_or_init(|| make(&log::message(std::slice::from_ref(self))))
    }

    /// The transition as JSON, as it stands in a `transitions` message.
    pub fn json(&self) -> &str {
        self.json.get_or_init(|| protocol::encode_transition(self.seq, &self.transition).into())
    }

    /// The user of the transition.
    pub fn user(&self) -> &str {
        &self.transition.user
    }

    /// The transition as clients see it.
    pub fn object(&self) -> TransitionObject {
        TransitionObject::new(self.seq, &self.transition)
    }

    fn shard(&self) -> usize {
        self.shard.into()
    }

    /// Memory, in bytes: the text, as much again and the rest of a message for the frame, the name as if nobody else held it, and
    /// four allocations with their heads.
    fn bytes(&self) -> usize {
        std::mem::size_of::<Encoded>() + 2 * self.json().len() + 64 + self.user().len() + 4 * 16
    }
}

impl Pending for Arc<Encoded> {
    fn user(&self) -> &str {
        Encoded::user(self)
    }

    fn bytes(&self) -> usize {
        Encoded::bytes(self)
    }
}

struct Shard {
    roster: Roster,
    watched: HashMap<Name, Audience>,
    /// The watched groups of each user.
    grouped: HashMap<Name, Vec<Arc<Group>>>,
}

impl Shard {
    fn online(&self) -> Vec<(Name, Presence)> {
        let mut online = Vec::with_capacity(self.roster.online());
        self.roster.page(
            0,
            usize::MAX,
            |_, online| online,
            |user, presence| online.push((user.clone(), presence)),
        );
        online
    }
}

/// See the module's head.
pub struct Hub {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    epoch: String,
    board: Board,
    barrier: Barrier,
    readers: Arc<Readers>,
    // The order of locks: groups (see their module), a shard, this one, the history or a watcher, the log, the statuses.
    everybody: Mutex<Everybody>,
    history: History,
    /// The users to keep; `None` if all are kept.
    interest: Option<Interest>,
    statuses: Statuses,
    groups: Groups,
    couriers: Couriers,
    /// The log has to be trimmed.
    long_log: Notify,
}

impl Hub {
    /// An empty hub that remembers `remember` users offline, without a limit for its mailboxes. `now` is when it
    /// began.
    pub fn new(now: Time, remember: usize, metrics: Arc<Metrics>) -> Hub {
        Hub::with_mailboxes(now, remember, usize::MAX, metrics)
    }

    /// The same, with a limit in bytes for all mailboxes together, and the same limit for the log.
    pub fn with_mailboxes(now: Time, remember: usize, most: usize, metrics: Arc<Metrics>) -> Hub {
        let shard = || Shard {
            roster: Roster::new(remember / SHARDS),
            watched: HashMap::new(),
            grouped: HashMap::new(),
        };
        Hub {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            hasher: RandomState::new(),
            epoch: format!("{:x}-{:08x}", now.as_ms(), fastrand::u32(..)),
            board: Board::new(now),
            barrier: Barrier::new(),
            readers: Arc::new(Readers::new(most, metrics)),
            everybody: Mutex::new(Everybody::new()),
            history: History::default(),
            interest: None,
            statuses: Statuses::default(),
            groups: Groups::default(),
            couriers: Couriers::default(),
            long_log: Notify::new(),
        }
    }

    /// Names this run of this daemon.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The number of the last transition that all its readers can read.
    pub fn seq(&self) -> u64 {
        self.readers.seq()
    }

    /// The state of a user.
    pub fn get(&self, user: &str) -> Presence {
        self.shard(user).roster.get(user)
    }

    /// The live keys of a user that name a session.
    pub fn keys(&self, user: &str) -> Vec<Key> {
        self.shard(user).roster.keys(user)
    }

    /// The state of a user and all live keys, as many as the state has sessions.
    pub fn live_keys(&self, user: &str) -> (Presence, Vec<Key>) {
        self.shard(user).roster.live_keys(user)
    }

    /// At most `most` users from a cursor on, and the cursor of the next page: those that `wanted` accepts by name and by whether
    /// they are online. Offline users are those who are remembered.
    pub fn page(
        &self,
        from: PageCursor,
        most: usize,
        mut wanted: impl FnMut(&str, bool) -> bool,
    ) -> (Vec<(Name, Presence)>, Option<PageCursor>) {
        let mut users = Vec::new();
        let mut slot = from.slot;
        for shard in from.shard as usize..SHARDS {
            let left = most - users.len();
            let next = lock(&self.shards[shard])
                .roster
                .page(slot, left, &mut wanted, |user, presence| users.push((user.clone(), presence)));
            if let Some(slot) = next {
                return (users, Some(PageCursor { shard: shard as u32, slot }));
            }
            slot = 0;
        }
        (users, None)
    }

    /// How many users are online, and with how many keys.
    pub fn count(&self) -> (usize, u64) {
        self.shards.iter().fold((0, 0), |(users, sessions), shard| {
            let shard = lock(shard);
            (users + shard.roster.online(), sessions + shard.roster.sessions())
        })
    }

    /// Identifies a list within this epoch.
    pub fn digest(&self, list: &impl std::hash::Hash) -> u64 {
        self.hasher.hash_one(list)
    }

    fn shard(&self, user: &str) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.shard_of(user)])
    }

    fn shard_of(&self, user: &str) -> usize {
        self.hasher.hash_one(user) as usize % SHARDS
    }
}

/// Where a page of users ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PageCursor {
    shard: u32,
    slot: u32,
}

impl PageCursor {
    /// Parses the output of [`Display`](std::fmt::Display).
    pub fn parse(text: &str) -> Option<PageCursor> {
        let (shard, slot) = text.split_once('-')?;
        let cursor = PageCursor { shard: shard.parse().ok()?, slot: slot.parse().ok()? };
        Some(cursor).filter(|cursor| (cursor.shard as usize) < SHARDS)
    }
}

impl std::fmt::Display for PageCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.shard, self.slot)
    }
}

#[cfg(test)]
mod tests;
