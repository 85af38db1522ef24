//! The pattern of the presence keys, such as `user:<user>:online`: how keys are read and written.
//!
//! A pattern is literal text with one `<user>`, and at most one `<session>` after it, which brackets make optional. A
//! name ends where the literal that follows it first occurs. So every name that [`KeyPattern::key`] accepts, and every
//! name that [`KeyPattern::name`] reads, stands for exactly one key.

use super::key::{self, Key, NameError, SESSION_MARK};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

const USER: &str = "<user>";
const SESSION: &str = "<session>";

/// The name of a key whose user or session contains `#` although the pattern does not. No key has this name.
const INVALID: &[u8] = b"#";

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPattern {
    text: String,
    /// The literal before the user. It is never empty.
    before: String,
    /// The literal after the user. It is empty if a bracket follows the user, or nothing.
    middle: String,
    session: Option<SessionPart>,
    /// The literal at the end, after the bracket.
    after: String,
}

/// `<session>` and the literals that belong to it: those within its brackets, or one to the end of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SessionPart {
    optional: bool,
    open: String,
    close: String,
}

/// Why a text cannot be a key pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the texts describe the variants
pub enum PatternError {
    #[error("<user> is missing; write for example user:<user>:online")]
    NoUser,
    #[error("{0} occurs twice; write it once")]
    Twice(&'static str),
    #[error(
        "nothing is before <user>, so every key of the database could be a presence key; write for example presence:<user>"
    )]
    NothingBefore,
    #[error("<session> is before <user>; write it after, for example presence:<user>[:<session>]")]
    SessionFirst,
    #[error(
        "nothing is between <user> and <session>, so nothing ends the user's name; write for example <user>:<session>"
    )]
    NothingBetween,
    #[error("a bracket around <session> has no counterpart; write for example [:<session>]")]
    Bracket,
    #[error("<{0}> is unknown; a pattern has <user> and <session>")]
    Unknown(String),
}

/// The name that a key cannot have, and the rule that it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// The user's.
    User(NameError),
    /// The session's.
    Session(NameError),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::User(why) => write!(f, "a user name {why}"),
            KeyError::Session(why) => write!(f, "a session name {why}"),
        }
    }
}

/// How the pattern is made.
impl KeyPattern {
    /// The pattern `PREFIX<user>[#<session>]`, where the prefix is literal text.
    pub fn of_prefix(prefix: &str) -> KeyPattern {
        KeyPattern {
            text: format!("{prefix}{USER}[{SESSION_MARK}{SESSION}]"),
            before: prefix.to_owned(),
            middle: String::new(),
            session: Some(SessionPart { optional: true, open: SESSION_MARK.into(), close: String::new() }),
            after: String::new(),
        }
    }

    /// The same text as typed, or the pattern of a prefix.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The literal with which every presence key begins.
    pub fn before(&self) -> &str {
        &self.before
    }

    /// The literal with which every presence key ends; empty if keys end in different ways.
    pub fn ending(&self) -> &str {
        match &self.session {
            None => &self.middle,
            Some(part) if part.optional => &self.after,
            Some(part) => &part.close,
        }
    }

    /// Whether the name of a key is the rest of the key after the prefix.
    pub fn is_prefix(&self) -> bool {
        let marks = self.session.as_ref().is_some_and(|part| {
            part.optional && part.open == SESSION_MARK.to_string() && part.close.is_empty()
        });
        marks && self.middle.is_empty() && self.after.is_empty()
    }

    /// Whether a key can name a session.
    pub fn has_sessions(&self) -> bool {
        self.session.is_some()
    }

    /// Whether every key names a session.
    pub fn needs_session(&self) -> bool {
        self.session.as_ref().is_some_and(|part| !part.optional)
    }
}

impl FromStr for KeyPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<KeyPattern, PatternError> {
        let (before, rest) = text.split_once(USER).ok_or(PatternError::NoUser)?;
        if rest.contains(USER) {
            return Err(PatternError::Twice(USER));
        }
        if before.contains(SESSION) {
            return Err(PatternError::SessionFirst);
        }
        if before.is_empty() {
            return Err(PatternError::NothingBefore);
        }
        let (middle, session, after) = session_part(rest)?;
        let part = session.as_ref();
        let literals = [
            before,
            middle,
            part.map_or("", |part| part.open.as_str()),
            part.map_or("", |part| part.close.as_str()),
        ];
        if let Some(name) = literals.iter().chain([&after]).find_map(|literal| unknown_name(literal)) {
            return Err(PatternError::Unknown(name.to_owned()));
        }
        let own = str::to_owned;
        let (text, before, middle, after) = (own(text), own(before), own(middle), own(after));
        Ok(KeyPattern { text, before, middle, session, after })
    }
}

/// Reads the part of a pattern that follows `<user>`: the literal after the user, the session, the literal at the end.
fn session_part(rest: &str) -> Result<(&str, Option<SessionPart>, &str), PatternError> {
    let Some((between, tail)) = rest.split_once(SESSION) else { return Ok((rest, None, "")) };
    if tail.contains(SESSION) {
        return Err(PatternError::Twice(SESSION));
    }
    let (middle, open, close, after) = match (between.rsplit_once('['), tail.split_once(']')) {
        (Some((middle, open)), Some((close, after))) => (middle, open, close, after),
        (None, None) => (between, "", tail, ""),
        _ => return Err(PatternError::Bracket),
    };
    if middle.is_empty() && open.is_empty() {
        return Err(PatternError::NothingBetween);
    }
    let optional = between.contains('[');
    let part = SessionPart { optional, open: open.to_owned(), close: close.to_owned() };
    Ok((middle, Some(part), after))
}

/// A word in angle brackets.
fn unknown_name(literal: &str) -> Option<&str> {
    let mut words = literal.split('<').skip(1).filter_map(|rest| rest.split_once('>'));
    let is_word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphabetic() || c == '_');
    words.find_map(|(word, _)| is_word(word).then_some(word))
}

/// Keys and names.
impl KeyPattern {
    /// The name of a key as the rest of the core knows it: `alice`, or `alice#phone`. `None` for a key that does not match.
    /// A name that breaks the rules of names is returned, and [`Key::parse`] refuses it.
    pub fn name<'a>(&self, redis_key: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let rest = redis_key.strip_prefix(self.before.as_bytes())?;
        if self.is_prefix() {
            return Some(Cow::Borrowed(rest));
        }
        let (user, session) = self.split(rest)?;
        let has_mark = |name: &[u8]| name.contains(&(SESSION_MARK as u8));
        if has_mark(user) || session.is_some_and(has_mark) {
            return Some(Cow::Borrowed(INVALID));
        }
        Some(match session {
            None => Cow::Borrowed(user),
            Some(session) => Cow::Owned([user, &[SESSION_MARK as u8], session].concat()),
        })
    }

    /// User and session in the part of a key after the first literal.
    fn split<'a>(&self, rest: &'a [u8]) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        let Some(part) = &self.session else { return Some((whole(rest, &self.middle)?, None)) };
        let close = part.close.clone() + &self.after;
        if !self.middle.is_empty() {
            let (user, rest) = cut(rest, &self.middle)?;
            if part.optional && rest == self.after.as_bytes() {
                return Some((user, None));
            }
            return Some((user, Some(whole(rest.strip_prefix(part.open.as_bytes())?, &close)?)));
        }
        // The bracket follows the user directly.
        let named = cut(rest, &part.open).and_then(|(user, rest)| Some((user, Some(whole(rest, &close)?))));
        let (user, session) = match named {
            Some(named) => named,
            None => (whole(rest, &self.after)?, None),
        };
        self.ends_user(user).then_some((user, session))
    }

    /// Whether each literal that may follow the user ends this name, and not an earlier one.
    fn ends_user(&self, user: &[u8]) -> bool {
        match &self.session {
            Some(part) if self.middle.is_empty() => ends(user, &part.open) && ends(user, &self.after),
            _ => ends(user, &self.middle),
        }
    }

    fn ends_session(&self, session: &[u8]) -> bool {
        let Some(part) = &self.session else { return false };
        ends(session, &(part.close.clone() + &self.after))
    }

    /// The key of Redis for a name, `alice` or `alice#phone`, that [`key`](KeyPattern::key) accepts.
    pub fn redis_key(&self, name: &str) -> String {
        if self.is_prefix() {
            return [&*self.before, name].concat();
        }
        let (user, session) = key::split(name);
        let mut text = [&*self.before, user, &self.middle].concat();
        if let (Some(part), Some(session)) = (&self.session, session) {
            for piece in [&*part.open, session, &part.close] {
                text.push_str(piece);
            }
        }
        text + &self.after
    }

    /// Checks a user's name, also against the literal that follows it.
    ///
    /// # Errors
    /// The rule that the name breaks.
    pub fn check_user(&self, user: &str) -> Result<(), NameError> {
        key::check_user(user)?;
        if self.ends_user(user.as_bytes()) { Ok(()) } else { Err(NameError::EndsEarly) }
    }

    /// The key of a user, or of one session of the user.
    ///
    /// # Errors
    /// The rule that one of the names breaks.
    pub fn key(&self, user: &str, session: Option<&str>) -> Result<Key, KeyError> {
        self.check_user(user).map_err(KeyError::User)?;
        match session {
            None if self.needs_session() => return Err(KeyError::Session(NameError::Missing)),
            Some(_) if !self.has_sessions() => return Err(KeyError::Session(NameError::NotInPattern)),
            None => {}
            Some(session) => {
                key::check_session(session).map_err(KeyError::Session)?;
                if !self.ends_session(session.as_bytes()) {
                    return Err(KeyError::Session(NameError::EndsEarly));
                }
            }
        }
        Key::new(user, session).map_err(KeyError::User)
    }
}

impl fmt::Display for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The texts before and after the first occurrence of a literal that is not empty.
fn cut<'a>(text: &'a [u8], literal: &str) -> Option<(&'a [u8], &'a [u8])> {
    let at = text.windows(literal.len().max(1)).position(|part| part == literal.as_bytes())?;
    Some((&text[..at], &text[at + literal.len()..]))
}

/// The text before a literal that ends it, and that occurs nowhere else.
fn whole<'a>(text: &'a [u8], literal: &str) -> Option<&'a [u8]> {
    if literal.is_empty() {
        return Some(text);
    }
    let (name, rest) = cut(text, literal)?;
    rest.is_empty().then_some(name)
}

/// Whether a literal that follows a name first occurs at the end of the name.
fn ends(name: &[u8], literal: &str) -> bool {
    let text = [name, literal.as_bytes()].concat();
    literal.is_empty() || cut(&text, literal).is_some_and(|(before, _)| before.len() == name.len())
}

#[cfg(test)]
mod tests;
