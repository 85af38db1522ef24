//! Messages of clients, and bodies of requests and answers.

use super::shape::{Fault, Field, Form, Need, Shape, described, milliseconds};
use super::{UserObject, schema};
use crate::error::{Error, MAX_ID_BYTES, shown};
use serde::de::{DeserializeOwned, Error as _};
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
            Err(why) => return (None, Err(not_json("the message", &why))),
        };
        match checked_id(value.get("id")) {
            Ok(id) => (id, ClientMessage::read(text, value)),
            Err(error) => (None, Err(error)),
        }
    }

    fn read(text: &str, value: serde_json::Value) -> Result<ClientMessage, Error> {
        let kind = value.get("type");
        let shape = SHAPES.iter().find(|(name, _)| kind.and_then(serde_json::Value::as_str) == Some(*name));
        match shape {
            Some((_, shape)) => {
                shape.check(text.as_bytes()).map_err(|fault| refused("the message", fault))?
            }
            None if value.is_object() => return Err(unknown_type(kind)),
            None => {
                let text =
                    format!("the message is {}; it must be a JSON object, such as {PING}", described(&value));
                return Err(Error::InvalidRequest(text));
            }
        }
        serde_json::from_value(value)
            .map_err(|why| Error::InvalidRequest(format!("the message cannot be read: {why}")))
    }
}

/// The shortest message.
const PING: &str = r#"{"type":"ping"}"#;

/// The shape of each message. Type and `id` are checked before.
static SHAPES: [(&str, Shape); 6] = [
    ("watch", message("a watch", &[TYPE, ID, USERS, ALL, LOSSLESS, REPLACE])),
    ("unwatch", message("an unwatch", &[TYPE, ID, USERS, ALL])),
    ("heartbeat", message("a heartbeat", &[TYPE, ID, Field("user", Form::Text, Need::Nullable)])),
    ("leave", message("a leave", &[TYPE, ID])),
    ("ping", message("a ping", &[TYPE, ID])),
    ("auth", message("an auth", &[TYPE, ID, Field("token", Form::Secret, Need::Required)])),
];
const TYPE: Field = Field("type", Form::Any, Need::Required);
const ID: Field = Field("id", Form::Any, Need::Nullable);
const USERS: Field = Field("users", Form::Texts, Need::Nullable);
const ALL: Field = Field("all", Form::Boolean, Need::Optional);
const LOSSLESS: Field = Field("lossless", Form::Boolean, Need::Optional);
const REPLACE: Field = Field("replace", Form::Boolean, Need::Optional);

const fn message(owner: &'static str, fields: &'static [Field]) -> Shape {
    Shape { name: "the message", owner, example: PING, fields }
}

fn unknown_type(kind: Option<&serde_json::Value>) -> Error {
    let kind = match kind {
        None => "missing".to_owned(),
        Some(serde_json::Value::String(text)) => shown(text),
        Some(other) => described(other),
    };
    let known: Vec<&str> = SHAPES.iter().map(|(name, _)| *name).collect();
    Error::InvalidRequest(format!("type is {kind}; it must be one of {}", known.join(", ")))
}

/// The `id` of a message; null is none.
fn checked_id(id: Option<&serde_json::Value>) -> Result<Option<serde_json::Value>, Error> {
    use serde_json::Value::{Null, Number, String};
    match id {
        None | Some(Null) => Ok(None),
        // Each chunk of a snapshot repeats the id.
        Some(String(text)) if text.len() > MAX_ID_BYTES => Err(Error::InvalidRequest(format!(
            "the id has {} bytes; the limit is {MAX_ID_BYTES}",
            text.len()
        ))),
        Some(Number(_) | String(_)) => Ok(id.cloned()),
        Some(other) => Err(Error::InvalidRequest(format!(
            "the id is {}; it must be a number or a string of at most {MAX_ID_BYTES} bytes",
            described(other)
        ))),
    }
}

/// The body of a request.
pub trait RequestBody: DeserializeOwned {
    /// What it may contain.
    const SHAPE: &'static Shape;

    /// Parses it. Errors: `invalid_json`, `invalid_request`.
    fn parse(text: &[u8]) -> Result<Self, Error> {
        if text.trim_ascii().is_empty() {
            let example = Self::SHAPE.example;
            return Err(Error::InvalidJson(format!(
                "the body is empty; it must be a JSON object, such as {example}"
            )));
        }
        Self::SHAPE.check(text).map_err(|fault| refused("the body", fault))?;
        serde_json::from_slice(text)
            .map_err(|why| Error::InvalidRequest(format!("the body cannot be read: {why}")))
    }
}

const fn body(example: &'static str, fields: &'static [Field]) -> Shape {
    Shape { name: "the body", owner: "this request", example, fields }
}

fn refused(what: &str, fault: Fault) -> Error {
    match fault {
        Fault::NotJson(why) => not_json(what, &why),
        Fault::Shape(text) => Error::InvalidRequest(text),
    }
}

fn not_json(what: &str, why: &serde_json::Error) -> Error {
    Error::InvalidJson(format!("{what} is not JSON: {why}"))
}

const SESSION: Field = Field("session", Form::Text, Need::Nullable);

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

impl RequestBody for HeartbeatBody {
    const SHAPE: &'static Shape = &body(
        r#"{"session":"phone","ttl_ms":30000}"#,
        &[SESSION, Field("ttl_ms", Form::Milliseconds, Need::Nullable)],
    );
}

/// An integer as JSON Schema defines it: 30000.0 is one, and some languages write it like this.
fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(from)? else { return Ok(None) };
    let whole = number.as_u64().or_else(|| number.as_f64().and_then(whole_number));
    whole.map(Some).ok_or_else(|| D::Error::custom(format!("{number} is not {}", milliseconds())))
}

/// The integer that a number without a fraction is.
pub(super) fn whole_number(float: f64) -> Option<u64> {
    (float.fract() == 0.0 && (0.0..=1e15).contains(&float)).then_some(float as u64)
}

/// Body of `DELETE /v1/users/{user}`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct EndBody {
    #[schema(value_type = Option<schema::Session>)]
    pub session: Option<String>,
}

impl RequestBody for EndBody {
    const SHAPE: &'static Shape = &body(r#"{"session":"phone"}"#, &[SESSION]);
}

/// Body of `POST /v1/heartbeats`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct HeartbeatsBody {
    #[schema(max_items = 10_000)]
    pub users: Vec<HeartbeatItem>,
}

impl RequestBody for HeartbeatsBody {
    const SHAPE: &'static Shape = &body(USERS_BODY, &[Field("users", Form::Heartbeats, Need::Required)]);
}

const USERS_BODY: &str = r#"{"users":["alice"]}"#;

/// A user, or a user with an optional session and TTL: `"alice"` or
/// `{"user":"alice","session":"phone","ttl_ms":30000}`.
#[derive(Debug, Deserialize)]
#[serde(from = "RawItem")]
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

/// An item as sent.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawItem {
    User(String),
    Object {
        user: String,
        session: Option<String>,
        #[serde(default, deserialize_with = "whole")]
        ttl_ms: Option<u64>,
    },
}

impl From<RawItem> for HeartbeatItem {
    fn from(raw: RawItem) -> HeartbeatItem {
        match raw {
            RawItem::User(user) => HeartbeatItem { user, session: None, ttl_ms: None },
            RawItem::Object { user, session, ttl_ms } => HeartbeatItem { user, session, ttl_ms },
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

impl RequestBody for QueryBody {
    const SHAPE: &'static Shape = &body(USERS_BODY, &[Field("users", Form::Texts, Need::Required)]);
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
            let _ = HeartbeatsBody::parse(&bytes);
            let _ = HeartbeatBody::parse(&bytes);
            let _ = QueryBody::parse(&bytes);
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
