//! Messages that a client sends over a WebSocket.

use super::request::{not_json, refused};
use super::schema;
use super::shape::{Field, Form, Need, Shape, described};
use super::{JsonText, halves};
use crate::error::{Error, MAX_ID_BYTES, shown};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// A message that a client sends over a WebSocket.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
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
        #[serde(default)]
        #[schema(value_type = Option<Vec<schema::User>>, max_items = 10_000)]
        groups: Option<Vec<String>>,
        /// With `groups`: the counts instead of the members.
        #[serde(default)]
        count: bool,
    },
    Unwatch {
        #[serde(default)]
        #[schema(value_type = Option<Vec<schema::User>>, max_items = 10_000)]
        users: Option<Vec<String>>,
        #[serde(default)]
        all: bool,
        #[serde(default)]
        #[schema(value_type = Option<Vec<schema::User>>, max_items = 10_000)]
        groups: Option<Vec<String>>,
    },
    Heartbeat {
        #[serde(default)]
        #[schema(value_type = Option<schema::User>)]
        user: Option<String>,
    },
    Leave,
    /// Sets the status of the socket's user; null removes it.
    SetStatus {
        #[schema(value_type = schema::Status)]
        status: JsonText,
    },
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
        let why = match serde_json::from_str(text) {
            Ok(value) => return ClientMessage::identified(text, value),
            Err(why) => not_json("the message", &why),
        };
        ClientMessage::of_names(text).unwrap_or((None, Err(why)))
    }

    fn identified(
        text: &str,
        value: serde_json::Value,
    ) -> (Option<serde_json::Value>, Result<ClientMessage, Error>) {
        match checked_id(value.get("id")) {
            Ok(id) => (id, ClientMessage::read(text, value)),
            Err(error) => (None, Err(error)),
        }
    }

    /// A message with names that have halves of surrogate pairs. A status or a token is never changed, and neither is an id.
    fn of_names(text: &str) -> Option<(Option<serde_json::Value>, Result<ClientMessage, Error>)> {
        let readable = halves::replaced(text.as_bytes());
        let readable = std::str::from_utf8(&readable).ok()?;
        let (id, message) = ClientMessage::identified(readable, serde_json::from_str(readable).ok()?);
        let is_whole = !id.as_ref().and_then(serde_json::Value::as_str).is_some_and(|id| id.contains('\0'));
        let has_names = matches!(
            message,
            Ok(ClientMessage::Watch { .. } | ClientMessage::Unwatch { .. } | ClientMessage::Heartbeat { .. })
        );
        (is_whole && has_names).then_some((id, message))
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
        let message = serde_json::from_value(value)
            .map_err(|why| Error::InvalidRequest(format!("the message cannot be read: {why}")))?;
        Ok(match message {
            ClientMessage::SetStatus { status } => {
                ClientMessage::SetStatus { status: written_status(text).unwrap_or(status) }
            }
            message => message,
        })
    }
}

/// The status in a message, as the client wrote it.
fn written_status(message: &str) -> Option<JsonText> {
    #[derive(Deserialize)]
    struct Written<'a> {
        #[serde(borrow)]
        status: &'a RawValue,
    }
    let written: Written<'_> = serde_json::from_str(message).ok()?;
    JsonText::parse(written.status.get()).ok()
}

/// The shortest message.
const PING: &str = r#"{"type":"ping"}"#;

/// The shape of each message. Type and `id` are checked before.
static SHAPES: [(&str, Shape); 7] = [
    ("watch", message("a watch", &[TYPE, ID, USERS, ALL, LOSSLESS, REPLACE, GROUPS, COUNT])),
    ("unwatch", message("an unwatch", &[TYPE, ID, USERS, ALL, GROUPS])),
    ("heartbeat", message("a heartbeat", &[TYPE, ID, Field("user", Form::Text, Need::Nullable)])),
    ("leave", message("a leave", &[TYPE, ID])),
    ("set_status", message("a set_status", &[TYPE, ID, Field("status", Form::Any, Need::Required)])),
    ("ping", message("a ping", &[TYPE, ID])),
    ("auth", message("an auth", &[TYPE, ID, Field("token", Form::Secret, Need::Required)])),
];
const TYPE: Field = Field("type", Form::Any, Need::Required);
const ID: Field = Field("id", Form::Any, Need::Nullable);
const USERS: Field = Field("users", Form::Texts, Need::Nullable);
const GROUPS: Field = Field("groups", Form::Texts, Need::Nullable);
const COUNT: Field = Field("count", Form::Boolean, Need::Optional);
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

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
            ClientMessage::Watch {
                users,
                all: false,
                lossless: false,
                replace: false,
                groups: None,
                count: false
            }
        );
        let (id, message) = ClientMessage::parse(r#"{"type":"sing","id":"x"}"#);
        assert_eq!(id, Some("x".into()));
        assert_eq!(message.unwrap_err().code(), "invalid_request");
        for bad in ["", "{", "nonsense", "[1]", "null", r#"{"type":"watch","users":"a"}"#] {
            assert!(ClientMessage::parse(bad).1.is_err(), "{bad}");
        }
    }

    #[test]
    fn half_of_an_emoji_in_a_name_leaves_the_other_names() {
        let (id, message) = ClientMessage::parse(r#"{"type":"watch","users":["a\ud83d","b"],"id":7}"#);
        let Ok(ClientMessage::Watch { users, .. }) = message else { panic!("{message:?}") };
        assert_eq!((id, users), (Some(json!(7)), Some(vec!["a\0".to_owned(), "b".to_owned()])));
        for text in [
            r#"{"type":"set_status","status":"a\ud83d"}"#,
            r#"{"type":"auth","token":"a\ud83d"}"#,
            r#"{"type":"unwatch","users":["a"],"id":"\ud83d"}"#,
        ] {
            let (id, message) = ClientMessage::parse(text);
            assert_eq!((id, message.unwrap_err().code()), (None, "invalid_json"), "{text}");
        }
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
    fn status_is_kept_as_it_was_written() {
        let (_, message) = ClientMessage::parse(
            r#"{"status": {"n": 1E5, "big":12345678901234567890123},"type":"set_status"}"#,
        );
        let Ok(ClientMessage::SetStatus { status }) = message else { panic!("{message:?}") };
        assert_eq!(status.into_text(), r#"{"n":1E5,"big":12345678901234567890123}"#);
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
}
