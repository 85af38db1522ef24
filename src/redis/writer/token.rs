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
    /// Another daemon may still keep it. The key lives just long enough for that daemon's next heartbeat.
    Shorten(SocketValue),
}

impl Departure {
    /// Decides by the value of the key.
    pub fn farewell(&self, value: Option<&[u8]>) -> Farewell {
        let Some(value) = value.and_then(SocketValue::parse) else { return Farewell::Leave };
        let SocketValue { writer, gone } = value;
        match writer {
            Some(writer) if writer != self.own => {
                Farewell::Note(SocketValue { writer: Some(writer), gone: Some(self.own) })
            }
            // The last word is ours, or that of one who has gone.
            _ if self.other.is_none() || self.other == gone => Farewell::Delete,
            _ => Farewell::Shorten(SocketValue { writer: None, gone: Some(self.own) }),
        }
    }
}

impl Farewell {
    /// The command for this key. `short` is the TTL of a key that another daemon may still keep.
    pub fn command(self, redis_key: &str, short: Duration) -> Option<Vec<String>> {
        let words = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect());
        match self {
            Farewell::Delete => words(&["DEL", redis_key]),
            Farewell::Leave => None,
            Farewell::Note(value) => words(&["SET", redis_key, &value.to_string(), "XX", "KEEPTTL"]),
            Farewell::Shorten(value) => {
                let ttl_ms = short.as_millis().to_string();
                words(&["SET", redis_key, &value.to_string(), "XX", "PX", &ttl_ms])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Token = Token(10);
    const B: Token = Token(0xb0b);

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
        let farewell = |other, value: SocketValue| {
            Departure { own: A, other }.farewell(Some(value.to_string().as_bytes()))
        };
        let shorten = Farewell::Shorten(value(None, Some(A)));
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
        let departure = Departure { own: A, other: None };
        assert_eq!(departure.farewell(Some(b"1")), Farewell::Leave, "another program keeps it");
        assert_eq!(departure.farewell(None), Farewell::Leave);
    }
}
