//! The orders of the writer of a stream, their results, and its view of the users.

use crate::fnv::fnv1a;
use crate::{Name, Presence, Reason, Time, Transition};

/// How many SETs hold the users whom the stream says are online. One of 1,000,000 users has about 16,000 members.
pub const BUCKETS: usize = 64;

/// The bucket of a user, the same at all daemons.
pub fn bucket_of(user: &str) -> usize {
    (fnv1a(user.as_bytes()) % BUCKETS as u64) as usize
}

/// One entry of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEntry {
    /// The user.
    pub user: Name,
    /// Whether the user is online from now on.
    pub online: bool,
    /// When that happened, or when it was noticed.
    pub at: Time,
    /// Online: the start of the presence. Offline: the last heartbeat. `None` if it is unknown.
    pub mark: Option<Time>,
    /// The cause.
    pub reason: Reason,
}

impl StreamEntry {
    /// The entry of a transition.
    pub(super) fn of(transition: &Transition) -> StreamEntry {
        StreamEntry {
            user: transition.user.clone(),
            online: transition.online,
            at: transition.at,
            // The epoch stands for a presence that nobody saw begin.
            mark: Some(transition.mark).filter(|&mark| mark > Time::default()),
            reason: transition.reason,
        }
    }

    /// The entry of a user whose state the stream lacks.
    pub(super) fn missing(user: &Name, online: bool, now: Time, view: &dyn StreamView) -> StreamEntry {
        let mark = match view.presence(user) {
            Presence::Online { since, .. } if online => since,
            Presence::Offline { last_seen } if !online => last_seen,
            // The next transition has come already, and follows.
            _ => None,
        };
        StreamEntry { user: user.clone(), online, at: now, mark, reason: Reason::Reconciled }
    }
}

/// The conditions of a valid write: the holder of the lease, and the number that follows the last write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Names the daemon and this term as writer.
    pub token: String,
    /// Counts the writes of this term, from 1 on.
    pub number: u64,
    /// The view has not been current for a while: a daemon whose view is current may take the lease.
    pub stale: bool,
    /// The stream is known to exist, or not to exist.
    pub exists: bool,
}

/// Work to do in Redis. One order at a time is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamOrder {
    /// Take the lease if it is free or stale.
    Take {
        /// See [`Batch::token`].
        token: String,
    },
    /// Wait until the view has everything that Redis did until now.
    Mark,
    /// Read a bucket.
    Read {
        /// Its number.
        bucket: usize,
    },
    /// Read a page of the stream's own entries.
    Recall {
        /// The id of the last entry read.
        after: Option<String>,
    },
    /// Write these members into a bucket.
    Rebuild {
        /// The proof of the lease.
        batch: Batch,
        /// Its number.
        bucket: usize,
        /// Some of its members.
        members: Vec<Name>,
        /// These are the first: what is there goes.
        first: bool,
        /// These are the last: the bucket is whole.
        last: bool,
    },
    /// Add entries, and renew the lease.
    Write {
        /// The proof of the lease.
        batch: Batch,
        /// The entries; none to renew the lease alone.
        entries: Vec<StreamEntry>,
    },
    /// Give up the lease.
    Release {
        /// See [`Batch::token`].
        token: String,
    },
}

/// The result of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamReply {
    /// The lease is this daemon's.
    Held {
        /// The number of the last write under this token.
        number: u64,
        /// Does the stream exist?
        exists: bool,
    },
    /// The lease is another daemon's.
    Other,
    /// The view has everything.
    Marked,
    /// All members of a bucket.
    Members {
        /// The users.
        members: Vec<Name>,
        /// False if the bucket is absent or was not completed.
        whole: bool,
    },
    /// A page of the stream.
    Page {
        /// Users, and whether they are online, in the order of the entries.
        states: Vec<(Name, bool)>,
        /// The id of the last entry; `None` after the last page.
        next: Option<String>,
    },
    /// A write is done.
    Done {
        /// Entries added.
        written: u64,
        /// Entries dropped, since their users were in that state already.
        repeated: u64,
    },
    /// A bucket of the write is not whole; nothing was written.
    BucketLost(usize),
    /// The stream does not exist any more; nothing was written.
    Gone,
    /// Nobody holds the lease; nothing was written.
    Lost,
    /// The number does not follow the last write, or the stream is there again: the server lost writes. Nothing was written.
    Changed,
    /// The lease is given up.
    Released,
    /// The server could not be asked or did not answer: perhaps it is done, perhaps not.
    Failed,
}

/// The users as this daemon sees them.
pub trait StreamView {
    /// The number of the last transition.
    fn seq(&self) -> u64;
    /// At most `most` transitions after this number; `None` if some of them are no longer kept.
    fn transitions(&self, after: u64, most: usize) -> Option<Vec<Transition>>;
    /// The users online whose bucket `wanted` accepts.
    fn online(&self, wanted: &dyn Fn(usize) -> bool) -> Vec<Name>;
    /// The state of a user.
    fn presence(&self, user: &str) -> Presence;
    /// Does the view match Redis, as far as is known?
    fn is_current(&self) -> bool;
}
