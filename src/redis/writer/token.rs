//! The values that sockets write to presence keys. They say which daemon's socket wrote last, so that a daemon deletes no
//! key that another one keeps.

use std::fmt;
use std::time::Duration;

/// How the value of a socket begins. A value of any other program does not look so.
const MARK: &str = "ws";

/// Names one session at one daemon, for as long as it has sockets there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token(u64);

impl Token {
    /// A new name.
    pub fn random() -> Token {
        Token(fastrand::u64(..))
    }

    fn parse(text: &str) -> Option<Token> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u64::from_str_radix(text, 16).ok().map(Token)).flatten()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The value of a key that a socket wrote last: `ws:WRITER`, `ws:WRITER:GONE` or `ws:-:GONE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketValue {
    /// The session whose socket keeps the key; none if the last writer has gone and another daemon may still keep it.
    pub writer: Option<Token>,
    /// The session whose sockets have gone since.
    pub gone: Option<Token>,
}

impl SocketValue {
    /// The value of a heartbeat.
    pub fn of(writer: Token) -> SocketValue {
        SocketValue { writer: Some(writer), gone: None }
    }

    /// Parses a value; none if no socket wrote it.
    pub fn parse(value: &[u8]) -> Option<SocketValue> {
        let rest = std::str::from_utf8(value).ok()?.strip_prefix(MARK)?.strip_prefix(':')?;
        let (writer, gone) = match rest.split_once(':') {
            Some((writer, gone)) => (writer, Some(Token::parse(gone)?)),
            None => (rest, None),
        };
        let writer = if writer == "-" { None } else { Some(Token::parse(writer)?) };
        Some(SocketValue { writer, gone })
    }
}

impl fmt::Display for SocketValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.writer, self.gone) {
            (Some(writer), None) => write!(f, "{MARK}:{writer}"),
            (Some(writer), Some(gone)) => write!(f, "{MARK}:{writer}:{gone}"),
            (None, Some(gone)) => write!(f, "{MARK}:-:{gone}"),
            (None, None) => write!(f, "{MARK}:-"),
        }
    }
}

/// A session whose last socket at this daemon has closed.
#[derive(Debug, Clone, Copy)]
pub struct Departure {
    /// The session at this daemon.
    pub own: Token,
    /// Another daemon whose sockets kept the session a moment ago.
    pub other: Option<Token>,
    /// How long the user still counts as online, in case the page comes back; zero deletes the key.
    pub grace: Duration,
}

/// The fate of the key of such a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// It is deleted.
    Delete,
    /// It is left as it is: some other program wrote it last, or it is gone.
    Leave,
    /// Another daemon keeps it. The value says who has gone; the TTL stays.
    Note(SocketValue),
    /// The page may come back, or another daemon may still keep the session: the key gets this TTL, if it has a longer one.
    Shorten(SocketValue, Duration),
}

/// A command for the key of such a session.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The command, its key second.
    pub words: Vec<String>,
    /// The rest of the key's TTL after the command, in milliseconds; none if the key has none, or is deleted.
    pub left_ms: Option<u32>,
}

impl Departure {
    /// Decides by the value of the key. `short` is long enough for the next heartbeat of another daemon.
    pub fn farewell(&self, value: Option<&[u8]>, short: Duration) -> Farewell {
        let Some(value) = value.and_then(SocketValue::parse) else { return Farewell::Leave };
        let SocketValue { writer, gone } = value;
        let left = SocketValue { writer: None, gone: Some(self.own) };
        match writer {
            Some(writer) if writer != self.own => {
                Farewell::Note(SocketValue { writer: Some(writer), gone: Some(self.own) })
            }
            // The last word is ours, or that of one who has gone.
            _ if self.other.is_some() && self.other != gone => Farewell::Shorten(left, short.max(self.grace)),
            _ if self.grace.is_zero() => Farewell::Delete,
            _ => Farewell::Shorten(left, self.grace),
        }
    }
}

impl Farewell {
    /// The command for this key, whose TTL has `left_ms` left; none for a key without a TTL.
    pub fn change(self, redis_key: &str, left_ms: Option<u64>) -> Option<KeyChange> {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let left = |ms: u64| u32::try_from(ms).unwrap_or(u32::MAX);
        // With KEEPTTL, not with what was left when it was read: no write makes a TTL longer.
        let keep = |value: SocketValue| KeyChange {
            words: words(&["SET", redis_key, &value.to_string(), "XX", "KEEPTTL"]),
            left_ms: left_ms.map(left),
        };
        match self {
            Farewell::Delete => Some(KeyChange { words: words(&["DEL", redis_key]), left_ms: None }),
            Farewell::Leave => None,
            Farewell::Note(value) => Some(keep(value)),
            Farewell::Shorten(value, ttl) => {
                let ttl_ms = (ttl.as_millis() as u64).max(1);
                if left_ms.is_some_and(|left_ms| left_ms <= ttl_ms) {
                    return Some(keep(value));
                }
                let words = words(&["SET", redis_key, &value.to_string(), "XX", "PX", &ttl_ms.to_string()]);
                Some(KeyChange { words, left_ms: Some(left(ttl_ms)) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Token = Token(10);
    const B: Token = Token(0xb0b);
    const SHORT: Duration = Duration::from_secs(12);

    fn value(writer: Option<Token>, gone: Option<Token>) -> SocketValue {
        SocketValue { writer, gone }
    }

    #[test]
    fn values_are_read_as_written_and_others_are_not() {
        for value in [SocketValue::of(A), value(Some(A), Some(B)), value(None, Some(B))] {
            assert_eq!(SocketValue::parse(value.to_string().as_bytes()), Some(value));
        }
        assert_eq!(SocketValue::of(B).to_string(), "ws:0000000000000b0b");
        for text in [
            "1",
            "",
            "ws",
            "ws:",
            "ws:1",
            "ws:+000000000000b0b",
            "ws:0000000000000b0b:",
            "xs:0000000000000b0b",
        ] {
            assert_eq!(SocketValue::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn only_the_last_writer_deletes_a_key() {
        let grace = Duration::ZERO;
        let farewell = |other, value: SocketValue| {
            Departure { own: A, other, grace }.farewell(Some(value.to_string().as_bytes()), SHORT)
        };
        let shorten = Farewell::Shorten(value(None, Some(A)), SHORT);
        for (other, held, expected) in [
            (None, SocketValue::of(A), Farewell::Delete),
            (None, SocketValue::of(B), Farewell::Note(value(Some(B), Some(A)))),
            (Some(B), SocketValue::of(B), Farewell::Note(value(Some(B), Some(A)))),
            // Both have written: the other one may still be there, unless it said that it has gone.
            (Some(B), SocketValue::of(A), shorten),
            (Some(B), value(Some(A), Some(B)), Farewell::Delete),
            (Some(B), value(None, Some(B)), Farewell::Delete),
            (Some(B), value(None, Some(Token(3))), shorten),
        ] {
            assert_eq!(farewell(other, held), expected, "{other:?} {held}");
        }
        let departure = Departure { own: A, other: None, grace };
        assert_eq!(departure.farewell(Some(b"1"), SHORT), Farewell::Leave, "another program keeps it");
        assert_eq!(departure.farewell(None, SHORT), Farewell::Leave);
    }

    #[test]
    fn page_that_may_come_back_gets_the_grace() {
        let gone = value(None, Some(A));
        for (grace_s, other, held, expected) in [
            (5, None, SocketValue::of(A), Farewell::Shorten(gone, Duration::from_secs(5))),
            (5, Some(B), value(Some(A), Some(B)), Farewell::Shorten(gone, Duration::from_secs(5))),
            (5, None, SocketValue::of(B), Farewell::Note(value(Some(B), Some(A)))),
            // The other daemon's next heartbeat may come later than the page.
            (5, Some(B), SocketValue::of(A), Farewell::Shorten(gone, SHORT)),
            (15, Some(B), SocketValue::of(A), Farewell::Shorten(gone, Duration::from_secs(15))),
        ] {
            let departure = Departure { own: A, other, grace: Duration::from_secs(grace_s) };
            let farewell = departure.farewell(Some(held.to_string().as_bytes()), SHORT);
            assert_eq!(farewell, expected, "{grace_s} {other:?} {held}");
        }
    }

    #[test]
    fn ttl_only_becomes_shorter() {
        let change = |left_ms| Farewell::Shorten(value(None, Some(A)), SHORT).change("k", left_ms).unwrap();
        let value = "ws:-:000000000000000a";
        for left_ms in [None, Some(30_000), Some(12_001)] {
            let changed = change(left_ms);
            assert_eq!(changed.words, ["SET", "k", value, "XX", "PX", "12000"], "{left_ms:?}");
            assert_eq!(changed.left_ms, Some(12_000));
        }
        for left_ms in [12_000, 3] {
            let changed = change(Some(left_ms));
            assert_eq!(changed.words, ["SET", "k", value, "XX", "KEEPTTL"]);
            assert_eq!(changed.left_ms, Some(left_ms as u32));
        }
    }
}
