//! The inputs and outputs of a detector.

use crate::{Change, Key, Time};

/// Identifies one batch of questions; never 0.
pub type BatchId = u32;

/// Identifies a server among all that the tracker has ever followed in this run; 0 is none of them.
pub type ServerId = u64;

/// One of the two fences of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Published before the first question.
    Open,
    /// Published after the last question.
    Close,
}

/// Redis' answer to the question for the TTL of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// −2: the key does not exist.
    Absent,
    /// −1: the key has no TTL.
    NoTtl,
    /// The rest of the TTL, in milliseconds.
    Left(u64),
    /// MOVED or ASK: another server owns the key's slot, so this one cannot know.
    Moved,
    /// −2 from a server that imports the slot, which answered MOVED first and then this to ASKING: either the key
    /// is gone, or the named server, which the slot leaves, still has it. A link that never sends ASKING reports
    /// [`Answer::Moved`] until the slot has its new owner.
    NotYet(ServerId),
}

/// How an event ended a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `expired`: the TTL ran out.
    Expired,
    /// `del` and similar events: a program removed the key.
    Deleted,
    /// `evicted`: Redis was short of memory. The user did not leave.
    Evicted,
}

/// The daemon that listens to renewals and asks at deadlines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// Each daemon does it for itself: the server has no lease.
    #[default]
    Alone,
    /// This daemon, for all others.
    Holds,
    /// Another daemon.
    Follows,
}

/// One piece of evidence. Names have user and session, `alice#phone`, as the bytes that Redis sent.
#[derive(Debug, Clone)]
pub enum Input<'a> {
    /// `set`: the key is live, with the TTL that its program uses.
    Renewed(&'a [u8]),
    /// `new`: the key has come into being, by any command.
    Created(&'a [u8]),
    /// A command that keeps or chooses a TTL placed the key here (`restore`, `rename_to`, `copy_to`).
    Placed(&'a [u8]),
    /// `expire`, `persist`: the key has another TTL, or none.
    Retimed(&'a [u8]),
    /// Client tracking pushed the name of the key: a command changed it, or it ran out. The push does not say which.
    Pushed(&'a [u8]),
    /// `set`, or another command created the key, on a server that does not own its slot. It is no heartbeat, so the
    /// detector asks: a slot that moves as a whole is copied there first, and its keys may have ended since.
    Claimed(&'a [u8]),
    /// A daemon says that it wrote the key with this TTL in milliseconds.
    Written(&'a [u8], u32),
    /// The holder of the server's lease says that the key has ended, and that no event did: a detector that follows asks.
    Suspected(&'a [u8]),
    /// The holder of the server's lease says that most keys have this TTL in milliseconds.
    CommonTtl(u32),
    /// The same where names are pushed, of a key that a program deleted.
    Removed(&'a [u8]),
    /// A daemon says that the key ends so many milliseconds from now, unless somebody renews it. It has just set the key, but
    /// the TTL is not the one that the user's program uses.
    EndsIn(&'a [u8], u32),
    /// The key is gone.
    Ended(&'a [u8], End),
    /// A fence came back in the event stream.
    Fence(BatchId, Side),
    /// Redis' answers to a batch, in the order of the questions.
    Answers(BatchId, Vec<Answer>),
    /// The subscription to the server is active and verified.
    Up {
        /// The server's run id.
        run: &'a str,
        /// Keys may be missing although their users are there: the server's data were deleted while the daemon was not
        /// connected, or users could not renew their keys.
        outage: bool,
        /// Until then the server certainly accepted writes, and the detector knows all heartbeats.
        well: Time,
        /// No `set` reports a renewal, so renewals are found only by asking: the server does not publish each `set`, or
        /// the daemon does not subscribe to it.
        polled: bool,
        /// The daemon that asks at deadlines.
        role: Role,
        /// The server's uptime in milliseconds; `u64::MAX` if it is unknown or if the server started without data.
        /// It matters for the first server that a detector meets: users need time to renew keys that the server
        /// loaded from its disk.
        uptime_ms: u64,
    },
    /// Events may be missing although the server is connected.
    Gap,
    /// FLUSHALL, FLUSHDB or SWAPDB replaced the keyspace without an event. The users did not leave: a missing key
    /// keeps its user online until the last heartbeat's deadline.
    Replaced,
    /// The server is out of reach: no verdicts until it is up again.
    Down,
    /// In the event stream: from here on the daemon hears renewals, if its mode has events for them (not `polled`), and asks
    /// at deadlines for all daemons. No event is missing.
    Leads {
        /// No `set` reports a renewal.
        polled: bool,
    },
    /// Another daemon listens to renewals and asks at deadlines.
    Follows,
    /// No event reports renewals from here on, and this daemon asks for its own keys at their deadlines.
    Unheard,
    /// Another daemon names this key, which may be there: the detector asks, whether it knows the key or not.
    Named(&'a [u8]),
    /// Poll for keys that no event reports, on a server that sends no `set` events, or no keyspace events at all.
    ///
    /// A sweep is not a gap: the server stays settled, and events stay valid. SCAN names the keys; the detector asks
    /// for those that it does not know and for those that SCAN did not name. So within one sweep a new user is online
    /// and a deleted one offline; the probe at the deadline still finds users who fall silent.
    /// Ignored while another sweep or a comparison runs. It ends with [`Output::Swept`]; the caller decides when
    /// the next one starts.
    Sweep,
    /// A page of the scan that [`Output::Scan`] asked for: its number, its names, and the next cursor
    /// (0 after the last page).
    Page(u8, Vec<Vec<u8>>, u64),
    /// `del` of a key that may have moved to another server of the cluster. It is no verdict, so the detector asks.
    Doubted(&'a [u8]),
    /// The detector of the named server handed this key over. Valid whether the server is up or down.
    Adopted(&'a Moved, ServerId),
    /// Another detector has adopted the key that [`Output::Moved`] named.
    LetGo(&'a [u8]),
    /// The server leaves the cluster: hand over its next keys. To be repeated while
    /// [`has_unretired`](super::Detector::has_unretired).
    Retired {
        /// The new owners may lack keys, which their users could not renew meanwhile: each gets a grant.
        lossy: bool,
    },
    /// The server refused writes for a moment, no earlier than then, and takes them again. No event is missing.
    Refused(Time),
    /// Users could not renew these keys, no earlier than since then, and can now: their slots had no owner. Valid
    /// whether the server is up or down.
    Barred(&'a [Key], Time),
    /// The canary that was ordered then has come back: its write was accepted, its event was read, and its key was the
    /// one that the daemon had set. So nobody had replaced the keyspace until then, and the stream is alive.
    Proven(Time),
    /// Time has passed.
    Due,
}

impl Input<'_> {
    /// The name of the key that an event or a daemon's message is about.
    pub(crate) fn name(&self) -> Option<&[u8]> {
        use Input::{
            Claimed, Created, Doubted, Ended, EndsIn, Named, Placed, Pushed, Removed, Renewed, Retimed,
            Suspected, Written,
        };
        match self {
            Renewed(name) | Created(name) | Placed(name) | Claimed(name) | Retimed(name)
            | Suspected(name) | Named(name) | Doubted(name) | Pushed(name) | Removed(name) => Some(name),
            Written(name, _) | EndsIn(name, _) => Some(name),
            Ended(name, _) => Some(name),
            _ => None,
        }
    }

    /// Whether it comes from the event stream.
    pub(super) fn is_event(&self) -> bool {
        use Input::{
            Claimed, Created, Doubted, Ended, EndsIn, Fence, Placed, Pushed, Removed, Renewed, Retimed,
            Suspected, Written,
        };
        matches!(
            self,
            Renewed(_)
                | Created(_)
                | Placed(_)
                | Claimed(_)
                | Pushed(_)
                | Retimed(_)
                | Written(..)
                | Suspected(_)
                | Removed(_)
                | EndsIn(..)
                | Ended(..)
                | Doubted(_)
                | Fence(..)
        )
    }
}

/// A finding of the detector, or an order to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A key came or went.
    Changed(Change),
    /// Ask Redis for these keys' TTLs, between two fences.
    Ask(BatchId, Vec<Key>),
    /// Read the page at this cursor for the scan of this number.
    Scan(u8, u64),
    /// The server no longer owns the key. Give it to the detector of the new owner ([`Input::Adopted`]), drain that
    /// detector, and only then confirm to this one ([`Input::LetGo`]). So the user always has a key. If the new owner
    /// is unknown, do nothing: the detector repeats this output every half second.
    Moved(Moved),
    /// Every key was compared with Redis since the last gap.
    Reconciled,
    /// The sweep is complete, and all its questions are answered.
    Swept,
    /// An answer says that a key is absent, and no event does. It counts only after [`Input::Proven`] for a canary that
    /// is ordered later than now.
    Prove,
    /// The other daemons cannot know this TTL, in milliseconds, of a key: it is not the common one.
    Learnt(Key, u32),
    /// Most keys have this TTL in milliseconds, from now on.
    CommonTtl(u32),
    /// A question found that the key has ended, and no event has reported it to the other daemons.
    Unannounced(Key),
    /// A key that was not known to be live. Its name was pushed, or it has `ended`: an event says so while a comparison is under way, or
    /// the answer to a push. Its user may have been there all the time until now.
    Unknown {
        /// The key.
        key: Key,
        /// Whether it has ended.
        ended: bool,
    },
    /// The stream is dead even if its socket is open: subscribe again.
    Restart,
}

/// The state of a key that another server owns now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The key.
    pub key: Key,
    /// The last heartbeat known.
    pub last_seen: Time,
    /// When its TTL or its grant ends.
    pub deadline: Time,
    /// Its TTL in milliseconds, 0 if unknown.
    pub ttl_ms: u32,
    /// Absence proves nothing until the deadline.
    pub granted: bool,
    /// The user's program varies the TTL.
    pub fickle: bool,
    /// The key has not arrived yet, or is gone: a receiver that disowns it hands it back without delay.
    pub not_yet: bool,
}
