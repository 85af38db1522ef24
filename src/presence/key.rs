//! Presence keys: the rules for user and session names.

use std::fmt;

/// The longest user name, in bytes of UTF-8.
pub const MAX_USER_BYTES: usize = 256;
/// The longest session name, in bytes of UTF-8.
pub const MAX_SESSION_BYTES: usize = 64;
/// The longest name of a key, in bytes.
pub(super) const MAX_KEY_BYTES: usize = MAX_USER_BYTES + SESSION_MARK.len_utf8() + MAX_SESSION_BYTES;
/// Separates user and session in the name of a key: `alice#phone`.
pub const SESSION_MARK: char = '#';

/// Why a name cannot be a user or a session. The text completes "a user name …".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// The name is empty.
    Empty,
    /// The name has more bytes than allowed.
    TooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The limit in bytes.
        most: usize,
    },
    /// The name contains `#`, which separates user and session in a key.
    Mark,
    /// The name contains a control character.
    Control,
    /// The name is not UTF-8; only a Redis key can cause this.
    NotUtf8,
    /// The literal that follows the name in the key pattern occurs in it.
    EndsEarly,
    /// The key pattern has no session.
    NotInPattern,
    /// There is no session, and the key pattern requires one.
    Missing,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Empty => write!(f, "must not be empty"),
            NameError::TooLong { bytes, most } => {
                write!(f, "has {bytes} bytes; at most {most} are allowed")
            }
            NameError::Mark => {
                write!(f, "must not contain '#', which separates user and session in a key")
            }
            NameError::Control => write!(f, "must not contain control characters"),
            NameError::NotUtf8 => write!(f, "must be UTF-8"),
            NameError::EndsEarly => {
                write!(f, "must not contain the text that follows it in the daemon's --key-pattern")
            }
            NameError::NotInPattern => {
                write!(f, "is not possible: the daemon's --key-pattern has no <session>; leave it out")
            }
            NameError::Missing => {
                write!(f, "is missing: the daemon's --key-pattern requires a <session>; add one")
            }
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

/// Checks a user name: 1 to 256 bytes, no control character, no `#`.
pub fn check_user(name: &str) -> Result<(), NameError> {
    check(name, MAX_USER_BYTES)
}

/// Checks a session name: 1 to 64 bytes, no control character, no `#`.
pub fn check_session(name: &str) -> Result<(), NameError> {
    check(name, MAX_SESSION_BYTES)
}

/// A name or key. Clones share the text; each costs one word.
pub type Name = arcstr::ArcStr;

/// The name of a presence key: `alice`, or with a session `alice#phone`, whatever the key pattern is.
///
/// Clones share the text, so the detector and the roster keep one copy of a name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Name);

impl Key {
    /// The key of a user, or of one session of the user.
    ///
    /// # Errors
    /// The rule that a name breaks.
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

    /// Parses the name of a key. Redis allows any bytes in it.
    ///
    /// # Errors
    /// The rule that the name breaks.
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

    /// The same as bytes, as Redis sends them.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The user's name.
    pub fn user(&self) -> &str {
        split(&self.0).0
    }

    /// The session's name, if the key has one.
    pub fn session(&self) -> Option<&str> {
        split(&self.0).1
    }

    /// The user's name; it shares the text of a key without a session.
    pub(crate) fn shared_user(&self) -> Name {
        match self.session() {
            None => self.0.clone(),
            Some(_) => self.user().into(),
        }
    }
}

/// The user and the session of `alice#phone`.
pub(super) fn split(name: &str) -> (&str, Option<&str>) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_splits_into_user_and_session() {
        let bare = Key::parse(b"alice").unwrap();
        assert_eq!((bare.user(), bare.session()), ("alice", None));
        let phone = Key::parse(b"alice#phone").unwrap();
        assert_eq!((phone.user(), phone.session()), ("alice", Some("phone")));
        assert_eq!(phone, Key::new("alice", Some("phone")).unwrap());
    }

    #[test]
    fn invalid_name_is_refused_with_its_rule() {
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
        let longest = format!("{}#{}", "x".repeat(256), "s".repeat(64));
        assert_eq!(longest.len(), MAX_KEY_BYTES);
        assert!(Key::parse(longest.as_bytes()).is_ok());
    }
}
