//! The presence decisions: pure state machines that receive the time and do no I/O.
//!
//! - [`Tracker`]: all Redis servers: which exist, whether their streams are alive, which owns a key, what is known.
//! - [`Detector`]: the evidence of one Redis server (events, probes, scans) → changes of keys.
//! - [`Roster`]: changes of keys → users and their transitions.
//!
//! This folder has no clock, task, lock, socket or log, so each rule is a unit test that runs in
//! microseconds. It depends on two small crates, both for memory per user: `hashbrown`, whose
//! `HashTable` stores slot numbers (see `table.rs`), and `arcstr` for names that several tables share.

mod change;
mod detector;
mod key;
mod last_seen;
mod pattern;
mod reads;
mod renewals;
mod roster;
mod slots;
mod table;
mod time;
mod tracker;

pub use change::{Change, Reason, Transition};
pub use detector::{
    Answer, BatchId, Counts, Detector, Digest, End, Input, LONGEST_TTL_MS, Moved, Output, Role, ServerId,
    Settings, Side,
};
pub use key::{Key, MAX_SESSION_BYTES, MAX_USER_BYTES, Name, NameError, SESSION_MARK, check_user};
pub use last_seen::{
    BucketWriter, Noted, SEEN_BUCKETS, Seen, SeenCursor, SeenMerge, SeenQuestion, SeenQueue, seen_bucket,
};
pub use pattern::{KeyError, KeyPattern, PatternError};
pub use reads::Reads;
pub use renewals::Renewals;
pub use roster::{Presence, Roster};
pub use time::Time;
pub use tracker::{
    Action, Candidacy, Cause, DigestMessage, DigestResult, Elsewhere, Event, Fleet, FleetSettings, LEASE_MS,
    LeaseOrder, LeaseReply, LeaseState, LinkId, LinkNotice, Notice, Primary, Request, ServerState, Tracker,
    WrittenKeys,
};
