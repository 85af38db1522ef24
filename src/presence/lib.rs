//! The presence decisions: pure state machines that receive the time and do no I/O.
//!
//! - [`Tracker`]: all Redis servers: which exist, whether their streams are alive, which owns a key, what is known.
//! - [`Detector`]: the evidence of one Redis server (events, probes, scans) → changes of keys.
//! - [`Roster`]: changes of keys → users and their transitions.
//! - [`Delivery`]: entries of the stream → batches for a webhook, in order per user.
//! - [`StreamWriter`]: transitions → entries of a Redis Stream, by one daemon at a time.
//!
//! This crate has no clock, task, lock, socket or log, so each rule is a unit test that runs in
//! microseconds. It depends on three small crates: for memory per user `hashbrown`, whose `HashTable`
//! stores slot numbers (see `table.rs`), and `arcstr` for names that several tables share; `thiserror`
//! for the texts of errors.
//!
//! As a crate of its own it cannot import the rest of keybeat, and the tests' build optimizes it more than the rest.

mod change;
mod delivery;
mod detector;
mod fnv;
mod key;
mod last_seen;
mod pattern;
mod reads;
mod renewals;
mod roster;
mod slots;
mod stream;
mod table;
mod time;
mod tracker;

pub use change::{Change, Reason, Transition};
pub use delivery::{BATCH_EVENTS, Delivery, HookEvent, Parcel, Undelivered};
pub use detector::{
    Answer, BatchId, Counts, Detector, Digest, End, Input, LONGEST_TTL_MS, Moved, Output, Role, ServerId,
    Settings, Side,
};
pub use fnv::fnv1a;
pub use key::{Key, MAX_SESSION_BYTES, MAX_USER_BYTES, Name, NameError, SESSION_MARK, check_user};
pub use last_seen::{
    BucketWriter, Noted, SEEN_BUCKETS, Seen, SeenCursor, SeenMerge, SeenQuestion, SeenQueue, seen_bucket,
};
pub use pattern::{KeyError, KeyPattern, PatternError};
pub use reads::Reads;
pub use renewals::Renewals;
pub use roster::{Presence, Roster};
pub use stream::{
    BUCKETS, Batch, StreamCounts, StreamEntry, StreamOrder, StreamReply, StreamRole, StreamView,
    StreamWriter, bucket_of,
};
pub use time::Time;
pub use tracker::{
    Action, Candidacy, Cause, DigestMessage, DigestResult, Elsewhere, Event, Fleet, FleetSettings, LEASE_MS,
    LeaseOrder, LeaseReply, LeaseState, LinkId, LinkNotice, Notice, Primary, Request, ServerState, Tracker,
    WrittenKeys,
};
