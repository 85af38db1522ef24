//! The reports of a link to the driver, and the driver's orders.

use crate::presence::{
    Answer, BatchId, Cause, DigestMessage, Key, LeaseOrder, LeaseReply, Name, Renewals, Request,
};
use crate::redis::channel::Message;
use crate::redis::cluster::Redirection;
use crate::redis::link::parser::Events;
use crate::redis::scan::ScanPage;
use anyhow::{Result, anyhow};
use tokio::sync::mpsc;

/// A report of a link.
pub enum Feed {
    /// The link is subscribed, and the subscription is verified.
    Up {
        /// The server's run id.
        run: String,
        /// The server's data were deleted since the last connection, or it took no writes.
        outage: bool,
        /// How long the server has been running, in milliseconds; `u64::MAX` if it started without data.
        uptime_ms: u64,
        /// The events that the server does not publish: such keys have to be found by polling.
        silent: Silent,
        /// How the daemon learns of renewals, where it is to listen to them.
        renewals: Renewals,
        /// The content of the lease's key; `None` if each daemon listens for itself.
        lease: Option<LeaseReply>,
    },
    /// The server is unreachable, or cannot be used.
    Down {
        /// The cause of the gap that follows.
        cause: Cause,
        /// The reason in words.
        why: String,
    },
    /// Evidence, in the order of the stream.
    Events(Events),
    /// The server has carried out the canary that was ordered last.
    Canary(CanaryReply),
    /// The finding of an order about the lease's key.
    Lease(LeaseReply),
    /// The keyspace may have been replaced: only the next canary knows.
    Suspect,
    /// The answers to a batch, and the redirections among them: each with the index of its answer.
    Answers(BatchId, Vec<Answer>, Vec<(usize, Redirection)>),
    /// A page of the scan with this number. With the first page, an estimate of how many keys all pages will have;
    /// 0 with the others.
    Page(u8, ScanPage, usize),
}

/// The meaning of the replies to a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CanaryReply {
    /// The keyspace is the same as at the canary before.
    Intact {
        /// The server has refused writes since then.
        refused: bool,
    },
    /// The keyspace was replaced without an event (FLUSHALL, FLUSHDB or SWAPDB).
    Replaced,
}

/// The events that a server does not publish because `notify-keyspace-events` lacks them and cannot be changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Silent {
    /// `set`.
    pub set: bool,
    /// `del`.
    pub del: bool,
    /// `new`, which Redis 6 does not know. Without it the daemon does not poll.
    pub new: bool,
}

impl Silent {
    /// Is an event missing that the daemon has to poll for?
    pub fn needs_polling(self) -> bool {
        self.set || self.del
    }

    /// The operation whose event shows that the server publishes more than it did.
    pub(super) fn operation(self) -> Option<&'static str> {
        match self {
            Silent { set: true, .. } => Some("set"),
            Silent { del: true, .. } => Some("del"),
            _ => None,
        }
    }

    /// Is any event missing?
    pub(super) fn any(self) -> bool {
        self.needs_polling() || self.new
    }
}

/// An order of the driver.
pub enum Order {
    /// Ask for the TTLs of these keys between two fences.
    Ask(BatchId, Vec<Key>),
    /// Read a page of the scan with this number, at this cursor.
    Scan(u8, u64),
    /// Renew the canary.
    Canary,
    /// Publish this to the other daemons.
    Announce(Message),
    /// Publish that most keys of the server have this TTL in milliseconds.
    AnnounceCommonTtl(u32),
    /// Publish this about the digest of the server's keys.
    AnnounceDigest(DigestMessage),
    /// Ask the holder of the lease for the names of these users' keys, in a request of this number.
    Find(u64, Vec<Name>),
    /// Answer another daemon's request, with the keys of each user.
    Answer(Request, Vec<Key>),
    /// Publish to them that this daemon publishes each key of the server that comes or ends, since then.
    Tracks(u64),
    /// Do this with the key of the lease.
    Lease(LeaseOrder),
    /// Subscribe to the events that report renewals, or unsubscribe.
    Listen(bool),
    /// Close the connections and reconnect, for this cause.
    Restart(Cause),
}

/// Sends a link's reports into a channel that all links share.
#[derive(Clone)]
pub struct Feeder {
    /// The number of the link.
    pub link: u64,
    /// The channel to the driver.
    pub feed: mpsc::Sender<(u64, Feed)>,
}

impl Feeder {
    /// Waits while the channel is full.
    ///
    /// # Errors
    /// The driver has ended.
    pub(super) async fn send(&self, feed: Feed) -> Result<()> {
        self.feed.send((self.link, feed)).await.map_err(|_| anyhow!("the daemon is stopping"))
    }
}

/// Why a connection of a link ended; the driver receives it as [`Feed::Down`].
pub(super) struct Ended {
    pub(super) cause: Cause,
    pub(super) why: anyhow::Error,
}

impl Ended {
    /// The driver has ended, or has dropped the link.
    pub(super) fn stopping() -> Ended {
        Ended { cause: Cause::Connection, why: anyhow!("the daemon is stopping") }
    }
}

impl From<anyhow::Error> for Ended {
    fn from(why: anyhow::Error) -> Ended {
        Ended { cause: Cause::Connection, why }
    }
}
