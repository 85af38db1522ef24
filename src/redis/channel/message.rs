//! The messages between daemons as JSON: pure encoding and decoding.
//!
//! `{"v":1,"from":"<daemon>","type":"ttls","keys":[["alice#phone",4000]]}`. A daemon ignores versions and types that it
//! does not know, so old and new daemons can follow the same server.

use serde::{Deserialize, Serialize};

/// The version that this daemon writes and reads.
const VERSION: u8 = 1;
/// A longer payload is not read, in bytes.
const LONGEST: usize = 64 * 1024;
/// Keys in one message. A key has at most 321 bytes, so a message stays below [`LONGEST`] also where JSON escapes them.
const KEYS_MOST: usize = 90;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Message {
    /// The daemon has written these keys with these TTLs in milliseconds, which are shorter than was believed. A key is
    /// without its prefix.
    Ttls {
        /// Each key with its TTL.
        keys: Vec<(String, u32)>,
    },
    /// Most keys of a server have this TTL in milliseconds. Where a key has another one, the holder of the server's lease announces it.
    CommonTtl {
        /// The server's id in a cluster; empty for a server that stands alone.
        server: String,
        /// The TTL.
        ttl_ms: u32,
    },
    /// These keys end so many milliseconds from now, unless somebody renews them. The daemon has just set them, with TTLs that
    /// their programs do not use. A key is without its prefix.
    Ends {
        /// Each key with the rest of its TTL.
        keys: Vec<(String, u32)>,
    },
    /// These keys have ended, and no event reported it. A daemon that does not ask at deadlines asks for them.
    Gone {
        /// The keys, without their prefix.
        keys: Vec<String>,
    },
    /// These keys have come into being. The sender tracks the keys of a server that publishes no events, and has asked for them.
    Came {
        /// The keys, without their prefix.
        keys: Vec<String>,
    },
    /// A program has deleted these keys, and no event reported it.
    Deleted {
        /// The keys, without their prefix.
        keys: Vec<String>,
    },
    /// The sender tracks the keys of a server that publishes no events, and publishes each that comes or ends, since then. It repeats that
    /// once a second.
    Tracks {
        /// The server's id in a cluster; empty for a server that stands alone.
        server: String,
        /// An instant in milliseconds, on the sender's clock alone: another one means that something may be missing in between.
        since: u64,
    },
    /// The sender holds the lease of a server, which it says once a second, or has given it up.
    Lease {
        /// The server's id in a cluster; empty for a server that stands alone.
        server: String,
        /// It holds the lease.
        held: bool,
        /// How many daemons received its last beat; 0 if that is not known.
        #[serde(default, skip_serializing_if = "is_unknown")]
        daemons: u64,
        /// It keeps only some users elsewhere, and gives the lease to a daemon that keeps all.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stands_in: bool,
    },
    /// Note the digest of a server's keys at this place of its stream, under this number.
    DigestMark {
        /// The server's id in a cluster; empty for a server that stands alone.
        server: String,
        /// The number.
        number: u64,
    },
    /// The sender's digest at the mark of this number.
    Digest {
        /// As in the mark.
        server: String,
        /// The mark's number.
        number: u64,
        /// For each bucket, how many keys it has and the XOR of their names' hashes.
        buckets: Vec<(u32, u64)>,
    },
    /// The sender's digest differs from the last one that was published.
    DigestDiffers {
        /// As in the mark.
        server: String,
        /// It also differed before, so the sender polls the server.
        again: bool,
    },
    /// The sender keeps only some users, and asks the holder of the server's lease for the names of these users' keys.
    Find {
        /// The server's id, as in `lease`.
        server: String,
        /// The number that the answer repeats.
        number: u64,
        /// The users.
        users: Vec<String>,
    },
    /// The answer to `find`: the keys of users at that server, as the sender knew them after it had read the request.
    Found {
        /// The server's id, as in `lease`.
        server: String,
        /// The daemon that asked.
        to: String,
        /// The number of its request.
        number: u64,
        /// Keys, without their prefix.
        keys: Vec<String>,
        /// The users whose keys have all been named, in this message or in those before it.
        users: Vec<String>,
    },
    /// Close the sockets and streams of a user.
    CloseSockets {
        /// The user's name.
        user: String,
        /// Shows that the sender may order it: anybody who may publish can forge the rest of a message.
        proof: String,
    },
}

/// A message, and which daemon sent it.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    /// The daemon's name.
    pub from: String,
    /// The message.
    pub message: Message,
}

fn is_unknown(count: &u64) -> bool {
    *count == 0
}

#[derive(Serialize)]
struct Written<'a> {
    v: u8,
    from: &'a str,
    #[serde(flatten)]
    message: &'a Message,
}

#[derive(Deserialize)]
struct Head {
    v: u8,
    from: String,
}

impl Message {
    /// The payloads that carry the message: several, if it names many keys.
    pub(super) fn encode(&self, from: &str) -> Vec<String> {
        let text = |message: &Message| {
            serde_json::to_string(&Written { v: VERSION, from, message }).unwrap_or_default()
        };
        match self {
            Message::Ttls { keys } => {
                let parts = keys.chunks(KEYS_MOST).map(|keys| Message::Ttls { keys: keys.to_vec() });
                parts.map(|part| text(&part)).collect()
            }
            Message::Ends { keys } => {
                let parts = keys.chunks(KEYS_MOST).map(|keys| Message::Ends { keys: keys.to_vec() });
                parts.map(|part| text(&part)).collect()
            }
            Message::Gone { keys } => {
                let parts = keys.chunks(KEYS_MOST).map(|keys| Message::Gone { keys: keys.to_vec() });
                parts.map(|part| text(&part)).collect()
            }
            Message::Find { server, number, users } => {
                let parts = users.chunks(KEYS_MOST).map(|users| Message::Find {
                    server: server.clone(),
                    number: *number,
                    users: users.to_vec(),
                });
                parts.map(|part| text(&part)).collect()
            }
            Message::Found { server, to, number, keys, users } => {
                let part = |keys: &[String], users: &[String]| Message::Found {
                    server: server.clone(),
                    to: to.clone(),
                    number: *number,
                    keys: keys.to_vec(),
                    users: users.to_vec(),
                };
                let keys = keys.chunks(KEYS_MOST).map(|keys| part(keys, &[]));
                let users = users.chunks(KEYS_MOST).map(|users| part(&[], users));
                keys.chain(users).map(|part| text(&part)).collect()
            }
            Message::Came { keys } => {
                let parts = keys.chunks(KEYS_MOST).map(|keys| Message::Came { keys: keys.to_vec() });
                parts.map(|part| text(&part)).collect()
            }
            Message::Deleted { keys } => {
                let parts = keys.chunks(KEYS_MOST).map(|keys| Message::Deleted { keys: keys.to_vec() });
                parts.map(|part| text(&part)).collect()
            }
            other => vec![text(other)],
        }
    }

    /// Whether the daemon that publishes it is to receive it too, in its place in the event stream.
    pub(super) fn is_for_sender(&self) -> bool {
        matches!(self, Message::Ends { .. } | Message::DigestMark { .. })
    }

    /// Reads a payload; `None` if it is not a message of this version and of a known type.
    pub(super) fn decode(payload: &[u8]) -> Option<Received> {
        if payload.len() > LONGEST {
            return None;
        }
        let head: Head = serde_json::from_slice(payload).ok()?;
        if head.v != VERSION {
            return None;
        }
        let message = serde_json::from_slice(payload).ok()?;
        Some(Received { from: head.from, message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ttls(keys: &[(&str, u32)]) -> Message {
        Message::Ttls { keys: keys.iter().map(|&(key, ttl)| (key.to_owned(), ttl)).collect() }
    }

    #[test]
    fn message_has_version_sender_and_type() {
        let [text] = &ttls(&[("alice#phone", 4_000)]).encode("d1")[..] else { panic!("one payload") };
        assert_eq!(text, r#"{"v":1,"from":"d1","type":"ttls","keys":[["alice#phone",4000]]}"#);
        let read = Message::decode(text.as_bytes());
        assert_eq!(read, Some(Received { from: "d1".into(), message: ttls(&[("alice#phone", 4_000)]) }));
    }

    #[test]
    fn unknown_messages_are_ignored() {
        for text in [
            r#"{"v":2,"from":"d1","type":"ttls","keys":[]}"#,
            r#"{"v":1,"from":"d1","type":"later","keys":[]}"#,
            r#"{"v":1,"from":"d1","type":"digest","server":"","number":1,"buckets":[[1]]}"#,
            r#"{"v":1,"from":"d1","type":"ttls","keys":[["a",-1]]}"#,
            r#"{"v":1,"type":"ttls","keys":[]}"#,
            r#"{"from":"d1","type":"ttls","keys":[]}"#,
            "[]",
            "",
        ] {
            assert_eq!(Message::decode(text.as_bytes()), None, "{text}");
        }
        let more = r#"{"v":1,"from":"d1","type":"ttls","keys":[["a",5]],"more":true}"#;
        assert_eq!(Message::decode(more.as_bytes()).unwrap().message, ttls(&[("a", 5)]), "a new field");
        let text = r#"{"v":1,"from":"d1","type":"ends","keys":[["a",5]]}"#;
        let ends = Message::Ends { keys: vec![("a".into(), 5)] };
        assert_eq!(ends.encode("d1"), [text]);
        assert_eq!(Message::decode(text.as_bytes()).unwrap().message, ends);
        let beat = r#"{"v":1,"from":"d1","type":"lease","server":"","held":true}"#;
        let held = Message::Lease { server: String::new(), held: true, daemons: 0, stands_in: false };
        assert_eq!(held.encode("d1"), [beat], "as daemons write it that know no stand-in");
        assert_eq!(Message::decode(beat.as_bytes()).unwrap().message, held);
        let long = format!(r#"{{"v":1,"from":"{}","type":"ttls","keys":[]}}"#, "d".repeat(LONGEST));
        assert_eq!(Message::decode(long.as_bytes()), None);
    }

    #[test]
    fn many_keys_take_several_messages() {
        // The longest key, of characters that JSON escapes with a second byte.
        let key = "\"".repeat(321);
        let keys = Message::Ttls { keys: vec![(key, u32::MAX); 200] };
        let payloads = keys.encode("0123456789abcdef");
        let count = |text: &String| match Message::decode(text.as_bytes()).unwrap().message {
            Message::Ttls { keys } => keys.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(payloads.iter().map(count).collect::<Vec<_>>(), [90, 90, 20]);
    }

    #[test]
    fn answer_names_all_keys_before_its_users() {
        let names = |name: char, count| (0..count).map(|i| format!("{name}{i}")).collect::<Vec<_>>();
        let (server, to) = (String::new(), "d1".to_owned());
        let found = Message::Found { server, to, number: 7, keys: names('k', 100), users: names('u', 3) };
        let read = |text: &String| match Message::decode(text.as_bytes()).unwrap().message {
            Message::Found { keys, users, number: 7, .. } => (keys.len(), users.len()),
            other => panic!("{other:?}"),
        };
        assert_eq!(found.encode("d2").iter().map(read).collect::<Vec<_>>(), [(90, 0), (10, 0), (0, 3)]);
        let find = Message::Find { server: "s".into(), number: 7, users: names('u', 91) };
        assert_eq!(find.encode("d1").len(), 2);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(payload in prop::collection::vec(any::<u8>(), 0..200), text in ".*") {
            Message::decode(&payload);
            Message::decode(text.as_bytes());
        }
    }
}
