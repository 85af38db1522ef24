//! The inputs and outputs of the tracker.

use super::digest_message::{DigestMessage, DigestResult};
use super::gap::Cause;
use super::lease::{LeaseOrder, LeaseReply};
use super::topology::{Elsewhere, Fleet};
use crate::{Answer, BatchId, Change, Input, Key, Name, Renewals, ServerId, Time};

/// Identifies a link among all that there ever were in this run, and the server that it belongs to.
pub type LinkId = ServerId;

/// Keys that a daemon has written, with their TTLs in milliseconds.
pub type WrittenKeys = Vec<(Key, u32)>;

/// A request for the names of users' keys, as the daemon receives it that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The daemon that asks.
    pub from: String,
    /// The number that the answer repeats.
    pub number: u64,
    /// The users.
    pub users: Vec<Name>,
}

/// Something that the tracker must know.
pub enum Notice {
    /// These primaries there are now.
    Topology(Fleet),
    /// A link reports.
    Link(LinkId, LinkNotice),
    /// This daemon has written these keys with these TTLs in milliseconds.
    Written(WrittenKeys),
    /// Clients watch these users from now on. Only for a tracker that keeps chosen users.
    Choose(Vec<Name>),
    /// No client watches these users any longer.
    Dismiss(Vec<Name>),
    /// The daemon drains: other daemons are to do its work.
    Draining,
    /// Time has passed. Due at [`super::Tracker::next_due`], and at least once a second.
    Due,
}

/// A link's report about its server.
pub enum LinkNotice {
    /// Subscribed.
    Up {
        /// The server's run id.
        run: String,
        /// Its data were deleted since the last connection, or it took no writes.
        outage: bool,
        /// How long it has been running, in milliseconds; `u64::MAX` if it started without data.
        uptime_ms: u64,
        /// It does not publish all events, so it must be polled.
        silent: bool,
        /// How the daemon learns of renewals there.
        renewals: Renewals,
        /// The content of the lease's key; `None` if the server can have no lease. A link that finds no key and may take the
        /// lease has taken it.
        lease: Option<LeaseReply>,
        /// The last mark that was sent to any server.
        mark: u64,
    },
    /// There is no connection, for this reason.
    Down(Cause, String),
    /// Answers to a batch of questions, and what they say about keys of other servers.
    Answers(BatchId, Vec<Answer>, Vec<Elsewhere>),
    /// A page of the scan.
    Page {
        /// The scan's number.
        number: u8,
        /// Names of keys, `alice#phone`.
        names: Vec<Vec<u8>>,
        /// The cursor of the next page; 0 after the last.
        next: u64,
        /// How many keys all pages together are likely to name; 0 if that is not known.
        likely: usize,
    },
    /// The server has carried out the canary, whose key was the one that the daemon had set.
    Intact {
        /// It has refused writes since the canary before, and takes them again.
        refused: bool,
    },
    /// The finding of an order about the lease's key.
    Lease(LeaseReply),
    /// The keyspace may have been replaced: the next canary is due now.
    Suspect,
    /// The server has carried out the canary: the keyspace is another than a moment ago (FLUSHALL, FLUSHDB or SWAPDB).
    Replaced,
}

/// One item of a server's event stream.
pub enum Event<'a> {
    /// For the server's detector.
    Key(Input<'a>),
    /// The canary came back.
    Canary,
    /// A mark came back.
    Mark(u64),
    /// From here on the stream has the events that report renewals, or names are pushed.
    Leads,
    /// Another daemon publishes each key that comes or ends, without a gap since then.
    Tracks {
        /// The daemon.
        from: &'a str,
        /// On its own clock, in milliseconds.
        since: u64,
    },
    /// Another daemon of this name holds the server's lease, or has given it up.
    Beat {
        /// The daemon.
        from: &'a str,
        /// It has given the lease up.
        released: bool,
        /// How many daemons follow the server; 0 if that is not known.
        daemons: u64,
        /// It keeps only some users elsewhere, and gives the lease to a daemon that keeps all.
        stands_in: bool,
    },
    /// Another daemon asks for the names of a user's keys at this server.
    Sought {
        /// The daemon.
        from: &'a str,
        /// The number that the answer is to repeat.
        number: u64,
        /// The user.
        user: &'a str,
    },
    /// The answer to this daemon's request of this number names a key, `alice#phone`.
    Named(u64, &'a str),
    /// The answer to this daemon's request of this number has named all keys of this user.
    NamedAll(u64, &'a str),
    /// A daemon, perhaps this one, sends this about the digest of the server's keys.
    Digest(&'a DigestMessage),
}

/// Something that the driver must do or make known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A key came or went at a server. The cause is that of the server's last gap.
    Changed(LinkId, Change, Cause),
    /// Ask for the TTL of these keys, between two fences.
    Ask(LinkId, BatchId, Vec<Key>),
    /// Read the page of the scan of this number at this cursor.
    Scan(LinkId, u8, u64),
    /// Send the canary.
    Canary(LinkId),
    /// Announce to the other daemons that this one has written these keys with these TTLs in milliseconds, which are shorter than
    /// was believed.
    Announce(LinkId, WrittenKeys),
    /// Announce to the other daemons that most keys have this TTL in milliseconds.
    AnnounceCommonTtl(LinkId, u32),
    /// Announce to the other daemons that these keys have ended, and that no event reported it.
    AnnounceEnds(LinkId, Vec<Key>),
    /// Send this about the digest of the server's keys to all daemons, this one included.
    AnnounceDigest(LinkId, DigestMessage),
    /// Two digests were compared.
    Digested(DigestResult),
    /// Forget these live keys, without a transition: nobody watches their users any longer.
    Dropped(Vec<Key>),
    /// The keys of these users are found: their state is known.
    Known(Vec<Name>),
    /// Ask the holder of the server's lease for the names of these users' keys, in a request of this number.
    Seek(LinkId, u64, Vec<Name>),
    /// Answer another daemon's request with [`super::Tracker::keys_at`] of each user.
    Answer(LinkId, Request),
    /// Announce to the other daemons that these keys have come into being, where no event reports it.
    AnnounceCame(LinkId, Vec<Key>),
    /// Announce to them that a program has deleted these keys, where no event reports it.
    AnnounceDeleted(LinkId, Vec<Key>),
    /// Announce to them that this daemon has announced each key that comes or ends, since then.
    AnnounceTracks(LinkId, Time),
    /// Do this with the key of the server's lease.
    Lease(LinkId, LeaseOrder),
    /// Subscribe to the events that report renewals, and report where they begin ([`Event::Leads`]); or unsubscribe.
    Listen(LinkId, bool),
    /// Start a link to the primary of this id.
    Open {
        /// The link's name.
        link: LinkId,
        /// The primary's id.
        primary: String,
    },
    /// End the connection, for this cause. The link reports [`LinkNotice::Down`], then reconnects.
    Close(LinkId, Cause),
    /// End the link for good: its server left the cluster.
    Forget(LinkId),
    /// Events of this server may be missing from here on, until [`Action::Compared`].
    Gap {
        /// The server.
        link: LinkId,
        /// Why.
        cause: Cause,
        /// Why, for people.
        why: String,
    },
    /// Nothing is missing any longer: the server's keys have been compared with Redis.
    Compared {
        /// The server.
        link: LinkId,
        /// Why that was necessary.
        cause: Cause,
        /// How long events may have been missing, in milliseconds.
        after_ms: u64,
        /// How many keys are live there.
        keys: u64,
    },
    /// Each server has been compared once: the keys held now are the first snapshot.
    Opened,
    /// Everything that Redis did before this mark was sent is taken in.
    Passed(u64),
    /// A canary took so many milliseconds from order to arrival.
    EventLag(u64),
    /// [`super::Tracker::servers`] or [`super::Tracker::counts`] have changed.
    Servers,
    /// Everybody's state is known, or why it is not.
    Status(Result<(), String>),
}
