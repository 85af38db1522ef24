//! What goes over the wire: the only place that knows JSON.

use crate::error::Error;
use crate::presence::{Presence, Reason, Time, Transition};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

pub mod schema;

/// The subprotocol of the WebSocket.
pub const SUBPROTOCOL: &str = "keybeat.v1";

/// The close codes, which tell a client what to do.
pub mod close {
    /// The daemon stops: reconnect with backoff and jitter.
    pub const GOING_AWAY: u16 = 1001;
    /// A message over the limit: do not repeat it.
    pub const TOO_BIG: u16 = 1009;
    /// A limit of the daemon is reached: reconnect later.
    pub const TRY_LATER: u16 = 1013;
    /// The token has run out, or its key is gone: renew it, then reconnect.
    pub const TOKEN_EXPIRED: u16 = 4001;
    /// The token does not allow this: give up.
    pub const FORBIDDEN: u16 = 4003;
    /// A lossless client fell behind: reconnect and take a new snapshot.
    pub const TOO_SLOW: u16 = 4008;
    /// Two pings were not answered: reconnect.
    pub const NO_PONG: u16 = 4009;
    /// More messages than allowed: slow down.
    pub const TOO_MANY: u16 = 4029;
}

/// A user as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum UserObject {
    Online {
        #[schema(value_type = schema::User)]
        user: String,
        since_ms: u64,
        sessions: u32,
        /// The server that would know is out of reach or not compared yet.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stale: bool,
    },
    Offline {
        #[schema(value_type = schema::User)]
        user: String,
        /// Null where the daemon has not seen the user.
        #[schema(required = true)]
        last_seen_ms: Option<u64>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stale: bool,
    },
}

impl UserObject {
    /// The object of a user whose presence is `presence`.
    pub fn new(user: &str, presence: Presence, stale: bool) -> UserObject {
        let user = user.to_owned();
        match presence {
            Presence::Online { since, sessions } => {
                UserObject::Online { user, since_ms: since.as_ms(), sessions, stale }
            }
            Presence::Offline { last_seen } => {
                UserObject::Offline { user, last_seen_ms: last_seen.map(Time::as_ms), stale }
            }
        }
    }

    /// Is the user online?
    pub fn online(&self) -> bool {
        matches!(self, UserObject::Online { .. })
    }

    /// The user's name.
    pub fn user(&self) -> &str {
        match self {
            UserObject::Online { user, .. } | UserObject::Offline { user, .. } => user,
        }
    }
}

/// A transition as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs)]
pub struct TransitionObject {
    pub seq: u64,
    #[schema(value_type = schema::User)]
    pub user: String,
    #[schema(inline)]
    pub state: State,
    pub at_ms: u64,
    /// Of who is online.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub since_ms: Option<u64>,
    /// Of who is offline.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub last_seen_ms: Option<u64>,
    #[schema(inline)]
    pub reason: ReasonWord,
}

/// `online` or `offline`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum State {
    Online,
    Offline,
}

/// Why: a heartbeat, an expiry, a deletion, or found by comparison after a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ReasonWord {
    Heartbeat,
    Expired,
    Deleted,
    Reconciled,
}

impl From<Reason> for ReasonWord {
    fn from(reason: Reason) -> ReasonWord {
        match reason {
            Reason::Heartbeat => ReasonWord::Heartbeat,
            Reason::Expired => ReasonWord::Expired,
            Reason::Deleted => ReasonWord::Deleted,
            Reason::Reconciled => ReasonWord::Reconciled,
        }
    }
}

impl TransitionObject {
    /// The object of the transition with number `seq`.
    pub fn new(seq: u64, transition: &Transition) -> TransitionObject {
        let mark = Some(transition.mark.as_ms());
        TransitionObject {
            seq,
            user: transition.user.to_string(),
            state: if transition.online { State::Online } else { State::Offline },
            at_ms: transition.at.as_ms(),
            since_ms: mark.filter(|_| transition.online),
            last_seen_ms: mark.filter(|_| !transition.online),
            reason: transition.reason.into(),
        }
    }
}

/// Is Redis within reach, compared and proven?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum RedisWord {
    Up,
    Down,
}

/// What is said of a socket's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum TokenWord {
    Expiring,
    Renewed,
}

/// What the daemon sends over a WebSocket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ServerMessage {
    Hello {
        protocol: u32,
        epoch: String,
        seq: u64,
        ttl_ms: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<schema::User>, nullable = false)]
        user: Option<String>,
    },
    Snapshot {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<schema::MessageId>, nullable = false)]
        id: Option<serde_json::Value>,
        epoch: String,
        seq: u64,
        users: Vec<UserObject>,
        more: bool,
    },
    Transitions {
        seq: u64,
        transitions: Vec<TransitionObject>,
    },
    Status {
        #[schema(inline)]
        redis: RedisWord,
        since_ms: u64,
    },
    /// Of the token that the socket has shown: it runs out soon, or it was renewed.
    Token {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<schema::MessageId>, nullable = false)]
        id: Option<serde_json::Value>,
        #[schema(inline)]
        state: TokenWord,
        expires_ms: u64,
    },
    Error {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<schema::MessageId>, nullable = false)]
        id: Option<serde_json::Value>,
        code: String,
        message: String,
    },
}

impl ServerMessage {
    /// The message's JSON.
    pub fn encode(&self) -> String {
        encode(self)
    }

    /// The message for an error, in answer to the message that had `id`.
    pub fn error(id: Option<serde_json::Value>, error: &Error) -> ServerMessage {
        ServerMessage::Error { id, code: error.code().into(), message: error.to_string() }
    }
}

fn encode<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("these types have string keys and no fallible serializer")
}

/// One transition as JSON: encoded once, shared by all who watch the user.
pub fn encode_transition(seq: u64, transition: &Transition) -> String {
    encode(&TransitionObject::new(seq, transition))
}

/// A `transitions` message of transitions that are JSON already, the last of which has number `seq`.
pub fn join_transitions<'a>(seq: u64, encoded: impl Iterator<Item = &'a str>) -> String {
    let mut text = format!(r#"{{"type":"transitions","seq":{seq},"transitions":["#);
    for (i, one) in encoded.enumerate() {
        if i > 0 {
            text.push(',');
        }
        text.push_str(one);
    }
    text.push_str("]}");
    text
}

/// What a client sends over a WebSocket.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ClientMessage {
    Watch {
        #[serde(default)]
        #[schema(value_type = Option<Vec<schema::User>>, max_items = 10_000)]
        users: Option<Vec<String>>,
        #[serde(default)]
        all: bool,
        #[serde(default)]
        lossless: bool,
        /// In place of what was watched by name so far.
        #[serde(default)]
        replace: bool,
    },
    Unwatch {
        #[serde(default)]
        #[schema(value_type = Option<Vec<schema::User>>, max_items = 10_000)]
        users: Option<Vec<String>>,
        #[serde(default)]
        all: bool,
    },
    Heartbeat {
        #[serde(default)]
        #[schema(value_type = Option<schema::User>)]
        user: Option<String>,
    },
    Leave,
    Auth {
        #[schema(inline)]
        token: Secret,
    },
}

/// A text that is shown nowhere.
#[derive(Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl ClientMessage {
    /// Reads a message; its `id` comes first, since an error's answer carries it too.
    pub fn parse(text: &str) -> (Option<serde_json::Value>, Result<ClientMessage, Error>) {
        let value: serde_json::Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(why) => {
                return (None, Err(Error::InvalidJson(format!("this message is not JSON: {why}"))));
            }
        };
        if !value.is_object() {
            return (None, Err(Error::InvalidRequest("a message must be a JSON object".into())));
        }
        let id = value.get("id").filter(|id| id.is_number() || id.is_string()).cloned();
        let message = serde_json::from_value(value)
            .map_err(|why| Error::InvalidRequest(format!("this message cannot be read: {why}")));
        (id, message)
    }
}

/// Body of `PUT /v1/users/{user}/heartbeat`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[allow(missing_docs)]
pub struct HeartbeatBody {
    #[schema(value_type = Option<schema::Session>)]
    pub session: Option<String>,
    #[serde(default, deserialize_with = "whole")]
    #[schema(value_type = Option<schema::TtlMs>)]
    pub ttl_ms: Option<u64>,
}

/// A whole number as JSON Schema has it: 30000.0 is one too, and what some languages write.
fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(from)? else { return Ok(None) };
    let float = || number.as_f64().filter(|float| float.fract() == 0.0 && (0.0..=1e15).contains(float));
    let whole = number.as_u64().or_else(|| float().map(|float| float as u64));
    whole.map(Some).ok_or_else(|| D::Error::custom(format!("{number} is no whole number of milliseconds")))
}

/// Body of `POST /v1/heartbeats`.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(missing_docs)]
pub struct HeartbeatsBody {
    #[schema(max_items = 10_000)]
    pub users: Vec<HeartbeatItem>,
}

/// A user, or a user with a session and perhaps a TTL: `"alice"` or
/// `{"user":"alice","session":"phone","ttl_ms":30000}`.
#[derive(Debug, Deserialize)]
#[serde(try_from = "RawItem")]
#[allow(missing_docs)]
pub struct HeartbeatItem {
    pub user: String,
    pub session: Option<String>,
    pub ttl_ms: Option<u64>,
}

impl PartialSchema for HeartbeatItem {
    fn schema() -> RefOr<Schema> {
        schema::heartbeat_item()
    }
}

impl ToSchema for HeartbeatItem {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push(("User".into(), schema::User::schema()));
        schemas.push(("Session".into(), schema::Session::schema()));
        schemas.push(("TtlMs".into(), schema::TtlMs::schema()));
    }
}

/// An item as it was sent. A map and not a struct, since serde would take a list for a struct.
#[derive(Deserialize)]
#[serde(untagged, expecting = "each user must be a string or an object {\"user\":…,\"session\":…}")]
enum RawItem {
    User(String),
    Object(serde_json::Map<String, serde_json::Value>),
}

impl TryFrom<RawItem> for HeartbeatItem {
    type Error = serde_json::Error;

    fn try_from(raw: RawItem) -> Result<HeartbeatItem, serde_json::Error> {
        #[derive(Deserialize)]
        struct Fields {
            user: String,
            session: Option<String>,
            #[serde(default, deserialize_with = "whole")]
            ttl_ms: Option<u64>,
        }
        match raw {
            RawItem::User(user) => Ok(HeartbeatItem { user, session: None, ttl_ms: None }),
            RawItem::Object(fields) => {
                let Fields { user, session, ttl_ms } = serde_json::from_value(fields.into())?;
                Ok(HeartbeatItem { user, session, ttl_ms })
            }
        }
    }
}

/// Body of `POST /v1/users/query`.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(missing_docs)]
pub struct QueryBody {
    #[schema(value_type = Vec<schema::User>, max_items = 10_000)]
    pub users: Vec<String>,
}

/// Answer to `POST /v1/users/query`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs)]
pub struct QueryAnswer {
    pub users: Vec<UserObject>,
    pub seq: u64,
    pub epoch: String,
}

/// Answer to `GET /v1/users`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs)]
pub struct ListAnswer {
    pub users: Vec<UserObject>,
    /// Null after the last page.
    #[schema(required = true)]
    pub next_cursor: Option<String>,
}

/// Every error's body.
#[derive(Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct ErrorDetail {
    pub code: &'static str,
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn transition(online: bool) -> Transition {
        Transition {
            user: "alice".into(),
            online,
            at: Time::from_ms(20),
            mark: Time::from_ms(10),
            reason: if online { Reason::Heartbeat } else { Reason::Expired },
        }
    }

    #[test]
    fn what_is_sent_is_what_the_interface_says() {
        let alice = Presence::Online { since: Time::from_ms(5), sessions: 2 };
        assert_eq!(
            encode(&UserObject::new("alice", alice, false)),
            r#"{"state":"online","user":"alice","since_ms":5,"sessions":2}"#
        );
        let bob = Presence::Offline { last_seen: None };
        assert_eq!(
            encode(&UserObject::new("bob", bob, true)),
            r#"{"state":"offline","user":"bob","last_seen_ms":null,"stale":true}"#
        );
        assert_eq!(
            encode_transition(15, &transition(true)),
            r#"{"seq":15,"user":"alice","state":"online","at_ms":20,"since_ms":10,"reason":"heartbeat"}"#
        );
        assert_eq!(
            encode_transition(14, &transition(false)),
            r#"{"seq":14,"user":"alice","state":"offline","at_ms":20,"last_seen_ms":10,"reason":"expired"}"#
        );
    }

    #[test]
    fn joined_transitions_are_a_message_that_can_be_read() {
        let one = [encode_transition(14, &transition(true)), encode_transition(15, &transition(false))];
        let text = join_transitions(15, one.iter().map(String::as_str));
        let ServerMessage::Transitions { seq, transitions } = serde_json::from_str(&text).unwrap() else {
            panic!("{text}")
        };
        assert_eq!((seq, transitions.len()), (15, 2));
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_client_sends_is_read_or_refused(
            text in ".{0,80}",
            kind in "watch|unwatch|heartbeat|leave|auth|.{0,6}",
            field in "users|all|lossless|replace|user|token|id",
            value in r#"(true|null|-?[0-9]{1,30}|[0-9]e[0-9]{1,3}|"[^"\\]{0,9}"|\[("a",?){0,3}\]|\{\}|.{0,6})"#,
        ) {
            let made = format!(r#"{{"type":"{kind}","{field}":{value}}}"#);
            for text in [text, made] {
                let (id, message) = ClientMessage::parse(&text);
                proptest::prop_assert!(id.is_none_or(|id| id.is_number() || id.is_string()));
                if let Err(error) = message {
                    proptest::prop_assert_eq!(error.status(), 400);
                }
            }
        }
    }

    #[test]
    fn a_message_is_read_or_refused_with_its_id() {
        let (id, message) = ClientMessage::parse(r#"{"type":"watch","users":["a"],"id":7}"#);
        assert_eq!(id, Some(7.into()));
        let users = Some(vec!["a".to_owned()]);
        assert_eq!(
            message.unwrap(),
            ClientMessage::Watch { users, all: false, lossless: false, replace: false }
        );
        let (id, message) = ClientMessage::parse(r#"{"type":"sing","id":"x"}"#);
        assert_eq!(id, Some("x".into()));
        assert_eq!(message.unwrap_err().code(), "invalid_request");
        for bad in ["", "{", "nonsense", "[1]", "null", r#"{"type":"watch","users":"a"}"#] {
            assert!(ClientMessage::parse(bad).1.is_err(), "{bad}");
        }
    }

    /// Values of any shape, with the words of the protocol among them.
    fn any_json() -> impl Strategy<Value = Value> {
        let word = "type|id|users|user|all|lossless|replace|token|session|ttl_ms|watch|heartbeat|auth|.{0,6}";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            word.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(word, inner, 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let text = String::from_utf8_lossy(&bytes);
            let (id, message) = ClientMessage::parse(&text);
            prop_assert!(id.is_none() || message.is_ok() || text.contains("id"));
            let _ = serde_json::from_slice::<HeartbeatsBody>(&bytes);
            let _ = serde_json::from_slice::<HeartbeatBody>(&bytes);
            let _ = serde_json::from_slice::<QueryBody>(&bytes);
        }

        #[test]
        fn any_json_is_read_or_refused_with_its_id(value in any_json(), id in any::<u64>(), kind in 0usize..5) {
            let (_, message) = ClientMessage::parse(&value.to_string());
            prop_assert!(message.is_err() || value.is_object());
            let _ = serde_json::from_value::<HeartbeatItem>(value.clone());
            let _ = serde_json::from_value::<HeartbeatBody>(value.clone());
            // With a type that is known, and an id.
            let mut fields = value.as_object().cloned().unwrap_or_default();
            fields.insert("users".into(), value);
            fields.insert("id".into(), json!(id));
            fields.insert("type".into(), json!(["watch", "unwatch", "heartbeat", "leave", "auth"][kind]));
            let (told, message) = ClientMessage::parse(&Value::Object(fields).to_string());
            prop_assert_eq!(told, Some(json!(id)));
            let kinds = message.map_or(kind, |message| match message {
                ClientMessage::Watch { .. } => 0,
                ClientMessage::Unwatch { .. } => 1,
                ClientMessage::Heartbeat { .. } => 2,
                ClientMessage::Leave => 3,
                ClientMessage::Auth { .. } => 4,
            });
            prop_assert_eq!(kinds, kind);
        }
    }
}
