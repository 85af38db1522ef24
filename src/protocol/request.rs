//! Bodies of requests and answers.

use super::shape::{Fault, Field, Form, Need, Shape, milliseconds};
use super::{UserObject, halves, schema};
use crate::error::Error;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// The body of a request.
pub trait RequestBody: DeserializeOwned {
    /// The allowed contents.
    const SHAPE: &'static Shape;

    /// Parses it. Errors: `invalid_json`, `invalid_request`, `too_many_users`.
    fn parse(text: &[u8]) -> Result<Self, Error> {
        if text.trim_ascii().is_empty() {
            let example = Self::SHAPE.example;
            return Err(Error::InvalidJson(format!(
                "the body is empty; it must be a JSON object, such as {example}"
            )));
        }
        let read = Self::read(text);
        if !matches!(read, Err(Error::InvalidJson(_))) {
            return read;
        }
        match halves::replaced(text) {
            Cow::Owned(readable) => Self::read(&readable),
            Cow::Borrowed(_) => read,
        }
    }

    /// Parses a body that is not empty. Errors: as [`RequestBody::parse`].
    fn read(text: &[u8]) -> Result<Self, Error> {
        Self::SHAPE.check(text).map_err(|fault| refused("the body", fault))?;
        serde_json::from_slice(text)
            .map_err(|why| Error::InvalidRequest(format!("the body cannot be read: {why}")))
    }
}

const fn body(example: &'static str, fields: &'static [Field]) -> Shape {
    Shape { name: "the body", owner: "this request", example, fields }
}

pub(super) fn refused(what: &str, fault: Fault) -> Error {
    match fault {
        Fault::NotJson(why) => not_json(what, &why),
        Fault::Shape(text) => Error::InvalidRequest(text),
        Fault::TooLong(list) => Error::TooManyUsers { list },
    }
}

pub(super) fn not_json(what: &str, why: &serde_json::Error) -> Error {
    Error::InvalidJson(format!("{what} is not JSON: {why}"))
}

const SESSION: Field = Field("session", Form::Text, Need::Nullable);
/// The session that a request ends. Null would end all of them, although the client names a session.
const ONE_SESSION: Field = Field("session", Form::Text, Need::Optional);

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
    #[schema(value_type = Option<schema::Session>, nullable = false)]
    pub session: Option<String>,
}

impl RequestBody for EndBody {
    const SHAPE: &'static Shape = &body(r#"{"session":"phone"}"#, &[ONE_SESSION]);
}

/// Body of a request that needs none: a field in it is meant for another request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoBody {}

impl RequestBody for NoBody {
    const SHAPE: &'static Shape = &body("{}", &[]);
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
    const SHAPE: &'static Shape = &body(USERS_BODY, &[Field("users", Form::Users, Need::Required)]);
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

/// Answer to `GET /v1/users/{user}`.
#[derive(Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct UserAnswer {
    #[serde(flatten)]
    pub user: UserObject,
    /// With `?sessions=true`: the live sessions, as many as `sessions` counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub sessions_list: Option<Vec<SessionObject>>,
}

/// A live session of a user.
#[derive(Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct SessionObject {
    /// Null for the key that names no session.
    #[schema(value_type = Option<schema::Session>, required = true)]
    pub session: Option<String>,
    /// Milliseconds left of the key's TTL; null if the key has no TTL. 0 if Redis no longer has the key: the session ends now, or
    /// at the deadline of its last heartbeat if Redis lost the key.
    #[schema(required = true)]
    pub ttl_left_ms: Option<u64>,
    /// The whole TTL in milliseconds, as far as the daemon has learnt it; null if the key has none, or it is not known.
    #[schema(required = true)]
    pub ttl_ms: Option<u64>,
    /// The key in Redis.
    pub key: String,
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

/// Answer to `GET /v1/groups/{group}`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs)]
pub struct GroupAnswer {
    #[schema(value_type = schema::User)]
    pub group: String,
    /// How many members there are.
    pub members: usize,
    /// How many of them are online.
    pub online: usize,
    /// Members in the order of their bytes.
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
    use super::super::ClientMessage;
    use super::*;
    use crate::error::MAX_USERS;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// utoipa takes only literals, so the limit stands in the schemas once more.
    #[test]
    fn half_of_an_emoji_in_a_name_leaves_the_other_names() {
        let body =
            HeartbeatsBody::parse(br#"{"users":["a\ud83d",{"user":"b","session":"\ude00"},"c"]}"#).unwrap();
        let names: Vec<_> = body.users.iter().map(|item| (&*item.user, item.session.as_deref())).collect();
        assert_eq!(names, [("a\0", None), ("b", Some("\0")), ("c", None)]);
        let still_wrong = HeartbeatsBody::parse(br#"{"users":["a\ud83d",]}"#).unwrap_err();
        assert_eq!(still_wrong.code(), "invalid_json");
    }

    #[test]
    fn schemas_have_the_limit_of_users() {
        let schemas = [ClientMessage::schema(), HeartbeatsBody::schema(), QueryBody::schema()];
        let text = serde_json::to_string(&schemas).unwrap();
        let limits: Vec<&str> = text.split("\"maxItems\":").skip(1).collect();
        assert_eq!(limits.len(), 6, "{text}");
        assert!(limits.iter().all(|rest| rest.starts_with(&format!("{MAX_USERS}"))), "{text}");
    }

    #[test]
    fn list_over_the_limit_is_read_no_further() {
        let names = |count: usize| vec![r#""a""#; count].join(",");
        let too_many = |error: Error| {
            let text = "the list users has more than 10000 names; split it";
            assert_eq!((error.code(), &*error.to_string()), ("too_many_users", text));
        };
        let whole = format!(r#"{{"users":[{}]}}"#, names(MAX_USERS));
        assert_eq!(HeartbeatsBody::parse(whole.as_bytes()).unwrap().users.len(), MAX_USERS);
        assert_eq!(QueryBody::parse(whole.as_bytes()).unwrap().users.len(), MAX_USERS);
        // The rest is not JSON: a parser that went on would report that.
        for rest in [" nonsense", ",5] nonsense"] {
            let text = format!(r#"{{"users":[{}{rest}"#, names(MAX_USERS + 1));
            too_many(HeartbeatsBody::parse(text.as_bytes()).unwrap_err());
            too_many(QueryBody::parse(text.as_bytes()).unwrap_err());
        }
        // An earlier fault does not make the parser read all.
        let text = format!(r#"{{"user":1,"users":[5,{}"#, names(MAX_USERS));
        too_many(QueryBody::parse(text.as_bytes()).unwrap_err());
    }

    #[test]
    fn null_names_no_session_to_end() {
        let refused = EndBody::parse(br#"{"session":null}"#).unwrap_err();
        assert_eq!(refused.code(), "invalid_request");
        assert_eq!(refused.to_string(), "session is null; it must be a string, or be left out");
        assert_eq!(EndBody::parse(b"{}").unwrap().session, None);
        // Many languages write null for what is absent, and here both mean the same.
        let body = HeartbeatBody::parse(br#"{"session":null,"ttl_ms":null}"#).unwrap();
        assert_eq!((body.session, body.ttl_ms), (None, None));
        let list = HeartbeatsBody::parse(br#"{"users":[{"user":"a","session":null,"ttl_ms":null}]}"#);
        assert_eq!(list.unwrap().users[0].session, None);
        assert_eq!(HeartbeatsBody::parse(br#"{"users":null}"#).unwrap_err().code(), "invalid_request");
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
        fn any_json_is_parsed_with_its_id(value in any_json(), id in any::<u64>(), kind in 0usize..7) {
            let (_, message) = ClientMessage::parse(&value.to_string());
            prop_assert!(message.is_err() || value.is_object());
            let _ = serde_json::from_value::<HeartbeatItem>(value.clone());
            let _ = serde_json::from_value::<HeartbeatBody>(value.clone());
            // The same with a known type and an id.
            let mut fields = value.as_object().cloned().unwrap_or_default();
            fields.insert("users".into(), value);
            fields.insert("id".into(), json!(id));
            fields.insert("type".into(), json!(["watch", "unwatch", "heartbeat", "leave", "auth", "ping", "set_status"][kind]));
            let (answered, message) = ClientMessage::parse(&Value::Object(fields).to_string());
            prop_assert_eq!(answered, Some(json!(id)));
            let kinds = message.map_or(kind, |message| match message {
                ClientMessage::Watch { .. } => 0,
                ClientMessage::Unwatch { .. } => 1,
                ClientMessage::Heartbeat { .. } => 2,
                ClientMessage::Leave => 3,
                ClientMessage::Auth { .. } => 4,
                ClientMessage::Ping => 5,
                ClientMessage::SetStatus { .. } => 6,
            });
            prop_assert_eq!(kinds, kind);
        }
    }
}
