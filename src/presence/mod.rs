//! What is hard, decided here: a pure core that is handed the time and opens nothing.
//!
//! [`Detector`] turns the evidence of one Redis server (events, probes, scans) into keys that come
//! and go; [`Roster`] turns keys into users and their transitions; [`Mailbox`] decides what a slow
//! reader still has to be told; [`Canary`] decides whether an event stream is alive, and [`Sweeps`]
//! when keys are to be looked for that no event tells of. There is no clock, task, lock, socket or
//! error type in this folder, so each rule is a unit test that runs in microseconds.
//!
//! The one dependency is `hashbrown`: a table of slot numbers costs 10 bytes a key where the
//! standard map, which must hold the name again, costs 50.

mod canary;
mod deadlines;
mod detector;
mod mailbox;
mod roster;
mod slots;
mod sweeps;
mod time;

pub use canary::Canary;
pub use detector::{
    Answer, BatchId, Counts, Detector, End, Input, LONGEST_TTL_MS, Moved, Output, ServerId, Settings, Side,
};
pub use mailbox::{Mailbox, Pending, Pushed};
pub use roster::{Presence, Roster};
pub use sweeps::Sweeps;
pub use time::Time;

use std::fmt;

/// The longest user name, in bytes of UTF-8.
pub const MAX_USER_BYTES: usize = 256;
/// The longest session name, in bytes of UTF-8.
pub const MAX_SESSION_BYTES: usize = 64;
/// What stands between user and session in a key: `alice#phone`.
pub const SESSION_MARK: char = '#';

/// Why a name cannot be a user or a session. The text completes "a user name …".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// Nothing at all.
    Empty,
    /// More bytes than allowed.
    TooLong {
        /// How many bytes it has.
        bytes: usize,
        /// How many it may have.
        most: usize,
    },
    /// It has a `#`, which parts user and session in a key.
    Mark,
    /// It has a control character.
    Control,
    /// It is not UTF-8 (only a Redis key can be so).
    NotUtf8,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Empty => write!(f, "must not be empty"),
            NameError::TooLong { bytes, most } => {
                write!(f, "has {bytes} bytes; at most {most} are allowed")
            }
            NameError::Mark => {
                write!(f, "must not contain '#', which parts user and session in a key")
            }
            NameError::Control => write!(f, "must not contain control characters"),
            NameError::NotUtf8 => write!(f, "must be UTF-8"),
        }
    }
}

fn check(name: &str, most: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > most {
        return Err(NameError::TooLong { bytes: name.len(), most });
    }
    if name.contains(SESSION_MARK) {
        return Err(NameError::Mark);
    }
    if name.chars().any(char::is_control) {
        return Err(NameError::Control);
    }
    Ok(())
}

/// Is this a user name: 1 to 256 bytes, no control character, no `#`?
pub fn check_user(name: &str) -> Result<(), NameError> {
    check(name, MAX_USER_BYTES)
}

/// Is this a session name: 1 to 64 bytes, no control character, no `#`?
pub fn check_session(name: &str) -> Result<(), NameError> {
    check(name, MAX_SESSION_BYTES)
}

/// A name or key, shared by all who hold it: one word for each.
pub type Name = arcstr::ArcStr;

/// A presence key without its prefix: `alice`, or with a session `alice#phone`.
///
/// A clone shares the text, so detector and roster hold one copy of a name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Name);

impl Key {
    /// The key of a user, and of one of the user's sessions.
    pub fn new(user: &str, session: Option<&str>) -> Result<Key, NameError> {
        check_user(user)?;
        Ok(match session {
            None => Key(user.into()),
            Some(session) => {
                check_session(session)?;
                Key(format!("{user}{SESSION_MARK}{session}").into())
            }
        })
    }

    /// Reads what follows the prefix in a Redis key, which can be any bytes.
    pub fn parse(name: &[u8]) -> Result<Key, NameError> {
        let name = std::str::from_utf8(name).map_err(|_| NameError::NotUtf8)?;
        let (user, session) = split(name);
        check_user(user)?;
        session.map_or(Ok(()), check_session)?;
        Ok(Key(name.into()))
    }

    /// `alice` or `alice#phone`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The user's name.
    pub fn user(&self) -> &str {
        split(&self.0).0
    }

    /// The session's name, if the key has one.
    pub fn session(&self) -> Option<&str> {
        split(&self.0).1
    }

    /// The user's name, shared with this key where the key has no session.
    pub(crate) fn shared_user(&self) -> Name {
        match self.session() {
            None => self.0.clone(),
            Some(_) => self.user().into(),
        }
    }
}

fn split(name: &str) -> (&str, Option<&str>) {
    match name.split_once(SESSION_MARK) {
        None => (name, None),
        Some((user, session)) => (user, Some(session)),
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a key, and with it perhaps its user, came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A heartbeat made it live.
    Heartbeat,
    /// Its TTL ran out.
    Expired,
    /// Somebody deleted it.
    Deleted,
    /// A comparison with Redis after a gap found it so.
    Reconciled,
}

/// One change of a key, as the [`Detector`] of its server believes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which key.
    pub key: Key,
    /// Whether it is live now.
    pub live: bool,
    /// When it changed.
    pub at: Time,
    /// The last heartbeat known.
    pub last_seen: Time,
    /// Why it changed.
    pub reason: Reason,
    /// When its TTL ran out, where it ended by that and the instant had been learnt in time: what
    /// detection lag is measured against.
    pub deadline: Option<Time>,
}

/// A user who went from offline to online or back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Who.
    pub user: Name,
    /// Where to.
    pub online: bool,
    /// When.
    pub at: Time,
    /// Online: since when; offline: when last heard of.
    pub mark: Time,
    /// Why.
    pub reason: Reason,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_user_and_perhaps_a_session() {
        let bare = Key::parse(b"alice").unwrap();
        assert_eq!((bare.user(), bare.session()), ("alice", None));
        let phone = Key::parse(b"alice#phone").unwrap();
        assert_eq!((phone.user(), phone.session()), ("alice", Some("phone")));
        assert_eq!(phone, Key::new("alice", Some("phone")).unwrap());
    }

    #[test]
    fn a_name_that_breaks_a_rule_is_refused_with_the_rule() {
        let long = "x".repeat(257);
        for (name, why) in [
            (&b""[..], NameError::Empty),
            (b"#phone", NameError::Empty),
            (b"alice#", NameError::Empty),
            (b"alice#a#b", NameError::Mark),
            (b"al\nice", NameError::Control),
            ("al\u{85}ice".as_bytes(), NameError::Control),
            (b"al\xffice", NameError::NotUtf8),
            (long.as_bytes(), NameError::TooLong { bytes: 257, most: 256 }),
        ] {
            assert_eq!(Key::parse(name), Err(why), "{name:?}");
        }
        assert!(Key::parse("x".repeat(256).as_bytes()).is_ok());
        assert!(Key::new("a", Some(&"s".repeat(64))).is_ok());
        assert!(Key::new("a", Some(&"s".repeat(65))).is_err());
        assert!(Key::new("日本 語", None).is_ok());
    }
}
