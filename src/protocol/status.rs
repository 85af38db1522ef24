//! Statuses of users: any JSON, written by any program.

use super::{JsonText, UserObject};
use crate::error::{Error, MAX_STATUS_BYTES};
use serde_json::Value;
use std::fmt::Display;

/// The status that a stored value is, as JSON without spaces. A text that is not JSON, or has a number that no client can read, is a
/// JSON string; null is no status.
pub fn status_json(stored: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stored);
    match JsonText::parse(&text) {
        Ok(json) if json.value().is_null() => None,
        Ok(json) => Some(json.into_text()),
        Err(_) => Some(Value::from(text).to_string()),
    }
}

/// The status that a client sends, as JSON without spaces; `None` removes the status.
///
/// # Errors
/// `invalid_json`; `too_large` for more than [`MAX_STATUS_BYTES`].
pub fn checked_status(sent: &[u8]) -> Result<Option<String>, Error> {
    if sent.len() > MAX_STATUS_BYTES {
        return Err(Error::StatusTooLarge(sent.len()));
    }
    let not_json = |why: &dyn Display| {
        Error::InvalidJson(format!(r#"the status is not JSON: {why}; write for example {{"text":"away"}}"#))
    };
    let sent = std::str::from_utf8(sent).map_err(|why| not_json(&why))?;
    checked_status_json(JsonText::parse(sent).map_err(|why| not_json(&why))?)
}

/// The same for a status that is parsed already.
///
/// # Errors
/// `too_large`.
pub fn checked_status_json(status: JsonText) -> Result<Option<String>, Error> {
    if status.value().is_null() {
        return Ok(None);
    }
    let json = status.into_text();
    match json.len() {
        length if length > MAX_STATUS_BYTES => Err(Error::StatusTooLarge(length)),
        _ => Ok(Some(json)),
    }
}

/// A `statuses` message from statuses that are JSON already; `None` reports a removal.
pub fn join_statuses<'a>(statuses: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let mut text = String::from(r#"{"type":"statuses","statuses":["#);
    for (i, (user, status)) in statuses.enumerate() {
        if i > 0 {
            text.push(',');
        }
        text.push_str(r#"{"user":"#);
        text.push_str(&Value::from(user).to_string());
        text.push_str(r#","status":"#);
        text.push_str(status.unwrap_or("null"));
        text.push('}');
    }
    text.push_str("]}");
    text
}

impl UserObject {
    /// The same with a status, which is JSON.
    pub fn with_status(mut self, json: Option<&str>) -> UserObject {
        let (UserObject::Online { status, .. } | UserObject::Offline { status, .. }) = &mut self;
        *status = json.and_then(|json| JsonText::parse(json).ok());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ServerMessage, StatusObject};
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn stored_text_becomes_json() {
        for (stored, json) in [
            (&b"{\"text\" : \"away\"}\n"[..], Some(r#"{"text":"away"}"#)),
            (b"away", Some(r#""away""#)),
            (b"7", Some("7")),
            (b"", Some(r#""""#)),
            (b"{\"a\":", Some(r#""{\"a\":""#)),
            (b"a\xff", Some("\"a\u{fffd}\"")),
            (b" null ", None),
            (b"123456789012345678901", Some("123456789012345678901")),
            (b"{\"b\":1.0, \"a\":1E5}", Some(r#"{"b":1.0,"a":1E5}"#)),
            (b"1e400", Some(r#""1e400""#)),
        ] {
            assert_eq!(status_json(stored).as_deref(), json, "{stored:?}");
        }
    }

    #[test]
    fn user_object_has_the_written_status() {
        let object: UserObject =
            serde_json::from_str(r#"{"state":"offline","user":"a","last_seen_ms":null}"#).unwrap();
        let text = serde_json::to_string(&object.with_status(Some("[1.0,123456789012345678901]"))).unwrap();
        assert!(text.contains(r#""status":[1.0,123456789012345678901]"#), "{text}");
    }

    #[test]
    fn joined_statuses_parse_as_one_message() {
        let text = join_statuses([("al\"ice", Some(r#"{"a":1}"#)), ("bob", None)].into_iter());
        let statuses = vec![
            StatusObject { user: "al\"ice".into(), status: json!({"a": 1}) },
            StatusObject { user: "bob".into(), status: Value::Null },
        ];
        assert_eq!(
            serde_json::from_str::<ServerMessage>(&text).unwrap(),
            ServerMessage::Statuses { statuses }
        );
    }

    #[test]
    fn status_of_a_client_is_checked() {
        let code = |sent: &[u8]| checked_status(sent).map_err(|error| (error.code(), error.status()));
        assert_eq!(code(br#" {"a" : 1} "#), Ok(Some(r#"{"a":1}"#.into())));
        assert_eq!(code(b"null"), Ok(None));
        for bad in [&b""[..], b"away", b"1 2", b"\xff"] {
            assert_eq!(code(bad), Err(("invalid_json", 400)), "{bad:?}");
        }
        let text = |length: usize| format!("\"{}\"", "x".repeat(length - 2)).into_bytes();
        assert!(code(&text(1024)).is_ok());
        assert_eq!(code(&text(1025)), Err(("too_large", 413)));
        let grows = JsonText::parse(&json!("\u{1}".repeat(1_000)).to_string()).unwrap();
        assert_eq!(checked_status_json(grows).unwrap_err().code(), "too_large", "escaped it is longer");
    }

    proptest! {
        #[test]
        fn any_bytes_become_json_or_none(stored in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Some(json) = status_json(&stored) {
                prop_assert_eq!(status_json(json.as_bytes()), Some(json.clone()), "it is canonical");
            }
        }
    }
}
