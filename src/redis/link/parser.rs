//! From a message of the event stream to an input of the detector: a pure parser, and a chunk of its results.

use crate::presence::{BatchId, DigestMessage, End, Input, Side};
use crate::redis::names::{FENCE_OPERATION, Names};
use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};

/// The meaning of one message of the event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A key was set.
    Renewed,
    /// A key has come into being, by any command.
    Created,
    /// A key has another TTL, or none.
    Retimed,
    /// A key was placed by RESTORE, RENAME, COPY or MOVE.
    Placed,
    /// Client tracking pushed the key's name.
    Pushed,
    /// A key ended.
    Ended(End),
    /// A fence of a batch of questions.
    Fence(BatchId, Side),
    /// The daemon's own canary.
    Canary,
    /// A mark that the writer published.
    Mark(u64),
    /// Another daemon says that it wrote the key with this TTL in milliseconds.
    Written(u32),
    /// The holder of the lease says that the key has ended.
    Suspected,
    /// The holder of the lease says that most keys have this TTL in milliseconds.
    CommonTtl(u32),
    /// The message about digests at this place of the chunk's list.
    Digest(u32),
    /// The holder of the lease announces that a program has deleted the key.
    Removed,
    /// Another daemon, whose name follows, publishes each key that comes or ends, since then.
    Tracks(u64),
    /// From here on the stream has the events that report renewals.
    Leads,
    /// Another daemon, whose name follows, holds the lease or has given it up.
    Lease(Beat),
    /// A daemon asks, in a request of this number, for the names of a user's keys; its name, a line end and the user follow.
    Sought(u64),
    /// The answer to this daemon's request of this number names a key.
    Named(u64),
    /// The answer to this daemon's request of this number has named all keys of the user whose name follows.
    NamedAll(u64),
    /// A daemon says that the key ends so many milliseconds from now, unless somebody renews it.
    EndsIn(u32),
}

impl Kind {
    /// Is it an event of a key, which the server itself publishes?
    pub(super) fn is_event(self) -> bool {
        use Kind::{Created, Ended, Placed, Renewed, Retimed};
        matches!(self, Renewed | Created | Retimed | Placed | Ended(_))
    }
}

/// A daemon's statement about its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// It holds the lease; else it has given the lease up.
    pub held: bool,
    /// How many daemons follow the server; 0 if that is not known.
    pub daemons: u32,
    /// It keeps only some users elsewhere.
    pub stands_in: bool,
}

/// A mark that the daemon publishes into the event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Proves that a new subscription is active.
    Hello,
    /// One end of a batch of questions.
    Fence(BatchId, Side),
    /// The canary of a server that cannot have a canary key.
    Canary,
}

/// Signs marks, so that a mark of another client is not taken for ours.
///
/// Any subscriber of the channel can read the marks, so a shared secret in them would not stay secret. Each
/// mark carries a code of its own instead: SipHash, with a key that never leaves the process. Nobody can compute the
/// code before the mark is published, and a repeated mark comes after the first and changes nothing.
#[derive(Debug, Clone, Default)]
pub struct Seal(RandomState);

impl Seal {
    fn seal(&self, text: &str) -> String {
        format!("{text}:{:016x}", self.0.hash_one(text))
    }

    fn open<'a>(&self, sealed: &'a str) -> Option<&'a str> {
        let (text, _) = sealed.rsplit_once(':')?;
        (self.seal(text) == sealed).then_some(text)
    }

    /// The payload of a mark that the writer of the daemon named `daemon` publishes.
    pub fn store_mark(&self, daemon: &str, mark: u64) -> String {
        self.seal(&format!("{daemon}:{mark}"))
    }
}

/// Parses the stream of one connection. Marks name the connection and are signed, so that neither
/// another daemon's mark nor a forged one is taken for ours.
#[derive(Debug, Clone)]
pub struct Parser {
    names: Names,
    canary_key: Vec<u8>,
    daemon: String,
    daemons_operation: String,
    stream: String,
    seal: Seal,
}

/// The result for one message.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// Evidence, and the name of the key, `alice#phone`; empty if the evidence has no key.
    Evidence(Kind, Cow<'a, [u8]>),
    /// The new subscription is active.
    Hello,
    /// An event of the canary's key.
    CanaryKey,
    /// A message of the daemons' channel, of this daemon or of another one, or forged.
    Daemons(&'a [u8]),
    /// Not ours: no presence key, or of another daemon.
    Foreign,
}

impl Parsed<'_> {
    /// Evidence without a key.
    pub fn marked(kind: Kind) -> Parsed<'static> {
        Parsed::Evidence(kind, Cow::Borrowed(b""))
    }
}

impl Parser {
    /// A parser for one connection, named `stream`, of the daemon named `daemon`.
    pub fn new(names: Names, daemon: &str, stream: String, seal: Seal) -> Parser {
        let canary_key = names.canary_key(daemon).into_bytes();
        let daemons_operation = names.daemons_operation();
        Parser { names, canary_key, daemon: daemon.to_owned(), daemons_operation, stream, seal }
    }

    /// Parses one message: the operation that the channel names, and its payload.
    pub fn parse<'a>(&self, operation: &str, payload: &'a [u8]) -> Parsed<'a> {
        if operation == FENCE_OPERATION {
            return self.parse_mark(payload);
        }
        if self.is_canary(payload) {
            return Parsed::CanaryKey;
        }
        let kind = match operation {
            "set" => Kind::Renewed,
            "expired" => Kind::Ended(End::Expired),
            "del" | "rename_from" | "move_from" => Kind::Ended(End::Deleted),
            "evicted" => Kind::Ended(End::Evicted),
            "expire" | "persist" => Kind::Retimed,
            "new" => Kind::Created,
            "restore" | "rename_to" | "copy_to" | "move_to" => Kind::Placed,
            _ if operation == self.daemons_operation => return Parsed::Daemons(payload),
            _ => return Parsed::Foreign,
        };
        self.names.name(payload).map_or(Parsed::Foreign, |name| Parsed::Evidence(kind, name))
    }

    /// Parses a name that client tracking pushed.
    pub fn parse_pushed<'a>(&self, key: &'a [u8]) -> Parsed<'a> {
        if self.is_canary(key) {
            return Parsed::CanaryKey;
        }
        self.names.name(key).map_or(Parsed::Foreign, |name| Parsed::Evidence(Kind::Pushed, name))
    }

    /// Is this our canary key? At a node of a cluster a number follows, which puts the key into a slot of the node.
    fn is_canary(&self, payload: &[u8]) -> bool {
        let rest = payload.strip_prefix(&self.canary_key[..]);
        rest.is_some_and(|rest| rest.first().is_none_or(|&next| next == b':'))
    }

    /// The payload of a mark.
    pub fn mark(&self, mark: Mark) -> String {
        let stream = &self.stream;
        self.seal.seal(&match mark {
            Mark::Hello => format!("{stream}:h"),
            Mark::Canary => format!("{stream}:k"),
            Mark::Fence(batch, Side::Open) => format!("{stream}:{batch}:o"),
            Mark::Fence(batch, Side::Close) => format!("{stream}:{batch}:c"),
        })
    }

    fn parse_mark<'a>(&self, payload: &[u8]) -> Parsed<'a> {
        let read = || {
            let text = self.seal.open(std::str::from_utf8(payload).ok()?)?;
            if let Some(mark) = text.strip_prefix(&self.daemon) {
                let mark = mark.strip_prefix(':')?.parse().ok()?;
                return Some(Parsed::marked(Kind::Mark(mark)));
            }
            let rest = text.strip_prefix(&self.stream)?;
            let rest = rest.strip_prefix(':')?;
            if rest == "h" {
                return Some(Parsed::Hello);
            }
            if rest == "k" {
                return Some(Parsed::marked(Kind::Canary));
            }
            let (batch, side) = rest.split_once(':')?;
            let side = match side {
                "o" => Side::Open,
                "c" => Side::Close,
                _ => return None,
            };
            Some(Parsed::marked(Kind::Fence(batch.parse().ok()?, side)))
        };
        read().unwrap_or(Parsed::Foreign)
    }
}

/// One item of a chunk.
pub enum Item<'a> {
    /// An input for the detector.
    Input(Input<'a>),
    /// The canary arrived.
    Canary,
    /// A mark of the writer arrived.
    Mark(u64),
    /// From here on the stream has the events that report renewals.
    Leads,
    /// A daemon sends this about the digest of the server's keys.
    Digest(&'a DigestMessage),
    /// The daemon of this name holds the lease or has given it up.
    Lease(&'a str, Beat),
    /// The daemon of this name asks for the names of this user's keys, in a request of this number.
    Sought(&'a str, u64, &'a str),
    /// The answer to the request of this number names a key.
    Named(u64, &'a str),
    /// The answer to the request of this number has named all keys of this user.
    NamedAll(u64, &'a str),
    /// The daemon of this name publishes each key that comes or ends, since then.
    Tracks(&'a str, u64),
}

/// A chunk of evidence in the order of the stream. One buffer holds all names: they are copied out of the read
/// buffer without an allocation for each.
#[derive(Debug, Default)]
pub struct Events {
    bytes: Vec<u8>,
    list: Vec<(Kind, u32)>,
    digests: Vec<DigestMessage>,
}

impl Events {
    /// Appends one piece of evidence.
    pub fn push(&mut self, kind: Kind, name: &[u8]) {
        self.bytes.extend_from_slice(name);
        self.list.push((kind, self.bytes.len() as u32));
    }

    /// Appends a message about digests.
    pub fn push_digest(&mut self, message: DigestMessage) {
        self.push(Kind::Digest(self.digests.len() as u32), b"");
        self.digests.push(message);
    }

    /// The number of pieces.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Is it empty?
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Does it hold renewals and nothing else?
    pub fn has_only_renewals(&self) -> bool {
        self.list.iter().all(|(kind, _)| matches!(kind, Kind::Renewed | Kind::Retimed))
    }

    /// Each piece in turn.
    pub fn items(&self) -> impl Iterator<Item = Item<'_>> {
        let mut start = 0;
        self.list.iter().map(move |&(kind, end)| {
            let name = &self.bytes[start..end as usize];
            start = end as usize;
            Item::Input(match kind {
                Kind::Renewed => Input::Renewed(name),
                Kind::Created => Input::Created(name),
                Kind::Retimed => Input::Retimed(name),
                Kind::Placed => Input::Placed(name),
                Kind::Pushed => Input::Pushed(name),
                Kind::Ended(end) => Input::Ended(name, end),
                Kind::Fence(batch, side) => Input::Fence(batch, side),
                Kind::Canary => return Item::Canary,
                Kind::Mark(mark) => return Item::Mark(mark),
                Kind::Written(ttl_ms) => Input::Written(name, ttl_ms),
                Kind::Suspected => Input::Suspected(name),
                Kind::CommonTtl(ttl_ms) => Input::CommonTtl(ttl_ms),
                Kind::Digest(place) => return Item::Digest(&self.digests[place as usize]),
                Kind::Removed => Input::Removed(name),
                Kind::Tracks(since) => return Item::Tracks(text(name), since),
                Kind::Leads => return Item::Leads,
                Kind::Lease(beat) => return Item::Lease(text(name), beat),
                Kind::Sought(number) => {
                    let (from, user) = text(name).split_once('\n').unwrap_or_default();
                    return Item::Sought(from, number, user);
                }
                Kind::Named(number) => return Item::Named(number, text(name)),
                Kind::NamedAll(number) => return Item::NamedAll(number, text(name)),
                Kind::EndsIn(left_ms) => Input::EndsIn(name, left_ms),
            })
        })
    }
}

/// A text that was taken from a JSON message.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::KeyPattern;
    use proptest::prelude::*;

    fn parser() -> Parser {
        Parser::new(
            Names::new(&KeyPattern::of_prefix("presence:"), 0),
            "d1",
            "s3cret".into(),
            Seal::default(),
        )
    }

    #[test]
    fn operations_have_their_meaning() {
        let parser = parser();
        for (operation, kind) in [
            ("set", Kind::Renewed),
            ("expired", Kind::Ended(End::Expired)),
            ("del", Kind::Ended(End::Deleted)),
            ("rename_from", Kind::Ended(End::Deleted)),
            ("rename_to", Kind::Placed),
            ("new", Kind::Created),
            ("expire", Kind::Retimed),
            ("persist", Kind::Retimed),
            ("evicted", Kind::Ended(End::Evicted)),
        ] {
            let parsed = parser.parse(operation, b"presence:alice");
            assert_eq!(parsed, Parsed::Evidence(kind, b"alice".as_slice().into()), "{operation}");
        }
        assert_eq!(parser.parse("lpush", b"presence:alice"), Parsed::Foreign);
        assert_eq!(parser.parse("keybeat-daemons:presence:", b"{}"), Parsed::Daemons(b"{}"));
        assert_eq!(parser.parse("keybeat-daemons:presence:eu:", b"{}"), Parsed::Foreign);
        assert_eq!(parser.parse("set", b"session:alice"), Parsed::Foreign);
        for (operation, key) in [("set", &b"presence:#canary:#:d1"[..]), ("del", b"presence:#canary:#:d1:77")]
        {
            assert_eq!(parser.parse(operation, key), Parsed::CanaryKey);
        }
        for other in [&b"presence:#canary:#:d2"[..], b"presence:#canary:#:d1-x:3", b"presence:#canary:#:d"] {
            assert_eq!(parser.parse("set", other), Parsed::Foreign);
        }
    }

    #[test]
    fn pushed_names_are_keys_of_users_or_the_canary() {
        let parser = parser();
        for (key, parsed) in [
            (&b"presence:alice"[..], Parsed::Evidence(Kind::Pushed, b"alice".as_slice().into())),
            (b"presence:#canary:#:d1", Parsed::CanaryKey),
            (b"presence:#canary:#:d2", Parsed::Foreign),
            (b"session:alice", Parsed::Foreign),
        ] {
            assert_eq!(parser.parse_pushed(key), parsed, "{key:?}");
        }
    }

    #[test]
    fn forged_marks_are_foreign() {
        let parser = parser();
        for mark in
            [Mark::Hello, Mark::Canary, Mark::Fence(7, Side::Open), Mark::Fence(u32::MAX, Side::Close)]
        {
            let expected = match mark {
                Mark::Hello => Parsed::Hello,
                Mark::Canary => Parsed::marked(Kind::Canary),
                Mark::Fence(batch, side) => Parsed::marked(Kind::Fence(batch, side)),
            };
            let payload = parser.mark(mark);
            assert_eq!(parser.parse(FENCE_OPERATION, payload.as_bytes()), expected);
            // A forger knows everything that other marks show, but not the key.
            let other = Parser { seal: Seal::default(), ..parser.clone() }.mark(mark);
            let moved = payload
                .replace(":7:", ":8:")
                .replace(":h:", ":1:o:")
                .replace(":k:", ":h:")
                .replace(":c:", ":o:");
            for forged in [payload.replace("s3cret", "guess"), other, moved] {
                assert_eq!(parser.parse(FENCE_OPERATION, forged.as_bytes()), Parsed::Foreign, "{forged}");
            }
        }
        let stored = parser.seal.store_mark("d1", 9);
        let passed = Parsed::marked(Kind::Mark(9));
        assert_eq!(parser.parse(FENCE_OPERATION, stored.as_bytes()), passed);
        for odd in ["s3cret", "s3cret:", "s3cret:x:o", "s3cret:1:x", "s3cret:-1:o", "s3creth"] {
            assert_eq!(parser.parse(FENCE_OPERATION, odd.as_bytes()), Parsed::Foreign, "{odd}");
            let sealed = parser.seal.seal(odd);
            assert_eq!(parser.parse(FENCE_OPERATION, sealed.as_bytes()), Parsed::Foreign, "{odd}");
        }
        for forged in ["d1:9", "d1:18446744073709551615", "d1:9:0000000000000000"] {
            assert_eq!(parser.parse(FENCE_OPERATION, forged.as_bytes()), Parsed::Foreign, "{forged}");
        }
    }

    #[test]
    fn request_for_keys_has_daemon_and_user() {
        let mut events = Events::default();
        events.push(Kind::Sought(7), b"d2\nalice");
        events.push(Kind::Named(7), b"alice#tab");
        events.push(Kind::NamedAll(7), b"alice");
        events.push(Kind::Lease(Beat { held: true, daemons: 2, stands_in: true }), b"d2");
        let items: Vec<Item> = events.items().collect();
        assert!(matches!(
            items[..],
            [
                Item::Sought("d2", 7, "alice"),
                Item::Named(7, "alice#tab"),
                Item::NamedAll(7, "alice"),
                Item::Lease("d2", Beat { held: true, daemons: 2, stands_in: true }),
            ]
        ));
    }

    proptest! {
        #[test]
        fn parser_never_panics(operation in ".*", payload in prop::collection::vec(any::<u8>(), 0..80)) {
            let parser = parser();
            parser.parse(&operation, &payload);
            parser.parse(FENCE_OPERATION, &payload);
            parser.parse("set", &payload);
        }
    }
}
