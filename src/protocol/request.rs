//! Messages of clients, and bodies of requests and answers.

use super::{UserObject, schema};
use crate::error::{Error, MAX_ID_BYTES, shown};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// A message that a client sends over a WebSocket.
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
        /// Replaces all users that the socket has watched by name.
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
    /// Asks for a `pong`, which proves that the connection is alive.
    Ping,
    Auth {
        #[schema(inline)]
        token: Secret,
    },
}

/// A text that no log or debug output shows.
#[derive(Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl ClientMessage {
    /// Parses a message. The `id` is returned separately, because an `error` repeats it, too.
    pub fn parse(text: &str) -> (Option<serde_json::Value>, Result<ClientMessage, Error>) {
        let value: serde_json::Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(why) => {
                return (None, Err(Error::InvalidJson(format!("the message is not JSON: {why}"))));
            }
        };
        if !value.is_object() {
            return (None, Err(Error::InvalidRequest("a message must be a JSON object".into())));
        }
        let id = value.get("id").filter(|id| id.is_number() || id.is_string()).cloned();
        if let Some(length) = id
            .as_ref()
            .and_then(serde_json::Value::as_str)
            .map(str::len)
            .filter(|&length| length > MAX_ID_BYTES)
        {
            // Each chunk of a snapshot repeats the id.
            let text = format!("the id has {length} bytes; the limit is {MAX_ID_BYTES}");
            return (None, Err(Error::InvalidRequest(text)));
        }
        if let Err(error) = ClientMessage::check_fields(&value) {
            return (id, Err(error));
        }
        let message = serde_json::from_value(value)
            .map_err(|why| Error::InvalidRequest(format!("the message cannot be parsed: {why}")));
        (id, message)
    }
}

/// The fields of each message, besides `type` and `id`.
const FIELDS: [(&str, &[&str]); 6] = [
    ("watch", &["users", "all", "lossless", "replace"]),
    ("unwatch", &["users", "all"]),
    ("heartbeat", &["user"]),
    ("leave", &[]),
    ("ping", &[]),
    ("auth", &["token"]),
];

impl ClientMessage {
    /// An error that names a field which the message does not have: the client means something that would not happen.
    fn check_fields(message: &serde_json::Value) -> Result<(), Error> {
        let kind = message.get("type").and_then(serde_json::Value::as_str);
        let Some((kind, known)) = FIELDS.iter().find(|(name, _)| Some(*name) == kind) else { return Ok(()) };
        let named = message.as_object().into_iter().flat_map(serde_json::Map::keys);
        let unknown =
            named.map(String::as_str).find(|name| !matches!(*name, "type" | "id") && !known.contains(name));
        match unknown {
            None => Ok(()),
            Some(name) => Err(Error::InvalidRequest(format!(
                "a {kind} has no field {}; its fields are: {}",
                shown(name),
                [&["type", "id"], *known].concat().join(", ")
            ))),
        }
    }
}

/// Body of `PUT /v1/users/{user}/heartbeat`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct HeartbeatBody {
    #[schema(value_type = Option<schema::Session>)]
    pub session: Option<String>,
    #[serde(default, deserialize_with = "whole")]
    #[schema(value_type = Option<schema::TtlMs>)]
    pub ttl_ms: Option<u64>,
}

/// An integer as JSON Schema defines it: 30000.0 is one, and some languages write it like this.
fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(from)? else { return Ok(None) };
    let float = || number.as_f64().filter(|float| float.fract() == 0.0 && (0.0..=1e15).contains(float));
    let whole = number.as_u64().or_else(|| float().map(|float| float as u64));
    whole.map(Some).ok_or_else(|| D::Error::custom(format!("{number} is not a whole number of milliseconds")))
}

/// Body of `DELETE /v1/users/{user}`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct EndBody {
    #[schema(value_type = Option<schema::Session>)]
    pub session: Option<String>,
}

/// Body of `POST /v1/heartbeats`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct HeartbeatsBody {
    #[schema(max_items = 10_000)]
    pub users: Vec<HeartbeatItem>,
}

/// A user, or a user with an optional session and TTL: `"alice"` or
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

/// An item as sent. It is a map, because serde would accept a list for a struct.
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
        #[serde(deny_unknown_fields)]
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
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct QueryBody {
    /// User names. One that breaks the rules has an `error` in the answer.
    #[schema(max_items = 10_000)]
    pub users: Vec<String>,
}

/// Answer to `POST /v1/users/query`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs)]
pub struct QueryAnswer {
    pub users: Vec<QueriedUser>,
    pub seq: u64,
    pub epoch: String,
}

/// The answer about one user: the state, or why the name is refused.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum QueriedUser {
    Known(UserObject),
    Refused {
        /// The name as the client sent it.
        user: String,
        error: ErrorDetail,
    },
}

/// Answer to `DELETE /v1/sockets`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs)]
pub struct ClosedSockets {
    /// Sockets and streams of the user that were open at this daemon.
    pub closed: usize,
}

/// Answer to `POST /v1/heartbeats` if some of them are refused. The others are set.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs)]
pub struct HeartbeatsAnswer {
    pub refused: Vec<RefusedHeartbeat>,
}

/// A heartbeat that is refused.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs)]
pub struct RefusedHeartbeat {
    /// Its position in the request, from 0.
    pub index: usize,
    pub user: String,
    pub code: String,
    pub message: String,
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

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

/// The code and the text of an error.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs)]
pub struct ErrorDetail {
    pub code: String,
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::MAX_USERS;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    proptest! {
        #[test]
        fn any_client_message_is_parsed_or_refused(
            text in ".{0,80}",
            kind in "watch|unwatch|heartbeat|leave|ping|auth|.{0,6}",
            field in "users|all|lossless|replace|user|token|id",
            value in r#"(true|null|-?[0-9]{1,30}|[0-9]e[0-9]{1,3}|"[^"\\]{0,9}"|\[("a",?){0,3}\]|\{\}|.{0,6})"#,
        ) {
            let made = format!(r#"{{"type":"{kind}","{field}":{value}}}"#);
            for text in [text, made] {
                let (id, message) = ClientMessage::parse(&text);
                prop_assert!(id.is_none_or(|id| id.is_number() || id.is_string()));
                if let Err(error) = message {
                    prop_assert_eq!(error.status(), 400);
                }
            }
        }
    }

    #[test]
    fn messages_are_parsed_with_their_id() {
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

    /// utoipa takes only literals, so the limit stands in the schemas once more.
    #[test]
    fn schemas_have_the_limit_of_users() {
        let schemas = [ClientMessage::schema(), HeartbeatsBody::schema(), QueryBody::schema()];
        let text = serde_json::to_string(&schemas).unwrap();
        let limits: Vec<&str> = text.split("\"maxItems\":").skip(1).collect();
        assert_eq!(limits.len(), 4, "{text}");
        assert!(limits.iter().all(|rest| rest.starts_with(&format!("{MAX_USERS}"))), "{text}");
    }

    #[test]
    fn unknown_field_of_a_message_is_named() {
        for (text, named) in [
            (r#"{"type":"watch","user":"a","id":7}"#, r#""user""#),
            (r#"{"type":"watch","users":["a"],"lossles":true,"id":7}"#, "lossles"),
            (r#"{"type":"unwatch","users":["a"],"replace":true,"id":7}"#, "replace"),
            (r#"{"type":"leave","session":"phone","id":7}"#, "session"),
            (r#"{"type":"ping","at":1,"id":7}"#, r#""at""#),
        ] {
            let (id, message) = ClientMessage::parse(text);
            let error = message.unwrap_err();
            assert_eq!((id, error.code()), (Some(json!(7)), "invalid_request"), "{text}");
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn long_id_is_refused_and_not_repeated() {
        let text = |length| format!(r#"{{"type":"ping","id":"{}"}}"#, "x".repeat(length));
        assert_eq!(ClientMessage::parse(&text(MAX_ID_BYTES)).1.unwrap(), ClientMessage::Ping);
        let (id, message) = ClientMessage::parse(&text(MAX_ID_BYTES + 1));
        let error = message.unwrap_err();
        assert_eq!((id, error.code()), (None, "invalid_request"));
        assert!(error.to_string().contains("129 bytes"), "{error}");
    }

    /// Values of any shape, including words of the protocol.
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
        fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let text = String::from_utf8_lossy(&bytes);
            let (id, message) = ClientMessage::parse(&text);
            prop_assert!(id.is_none() || message.is_ok() || text.contains("id"));
            let _ = serde_json::from_slice::<HeartbeatsBody>(&bytes);
            let _ = serde_json::from_slice::<HeartbeatBody>(&bytes);
            let _ = serde_json::from_slice::<QueryBody>(&bytes);
        }

        #[test]
        fn any_json_is_parsed_with_its_id(value in any_json(), id in any::<u64>(), kind in 0usize..6) {
            let (_, message) = ClientMessage::parse(&value.to_string());
            prop_assert!(message.is_err() || value.is_object());
            let _ = serde_json::from_value::<HeartbeatItem>(value.clone());
            let _ = serde_json::from_value::<HeartbeatBody>(value.clone());
            // The same with a known type and an id.
            let mut fields = value.as_object().cloned().unwrap_or_default();
            fields.insert("users".into(), value);
            fields.insert("id".into(), json!(id));
            fields.insert("type".into(), json!(["watch", "unwatch", "heartbeat", "leave", "auth", "ping"][kind]));
            let (answered, message) = ClientMessage::parse(&Value::Object(fields).to_string());
            prop_assert_eq!(answered, Some(json!(id)));
            let kinds = message.map_or(kind, |message| match message {
                ClientMessage::Watch { .. } => 0,
                ClientMessage::Unwatch { .. } => 1,
                ClientMessage::Heartbeat { .. } => 2,
                ClientMessage::Leave => 3,
                ClientMessage::Auth { .. } => 4,
                ClientMessage::Ping => 5,
            });
            prop_assert_eq!(kinds, kind);
        }
    }
}
