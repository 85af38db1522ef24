//! Entries of the stream as a webhook receives them.

use crate::presence::{HookEvent, check_user};
use crate::redis::stream::GroupEntry;

/// The event of an entry; `None` if the entry is none of keybeat.
pub(super) fn event(entry: &GroupEntry) -> Option<HookEvent> {
    let field =
        |name: &str| entry.fields.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
    let user = field("user").filter(|user| check_user(user).is_ok())?;
    let state = field("state").filter(|state| ["online", "offline"].contains(state))?;
    let mark = if state == "online" { "since_ms" } else { "last_seen_ms" };
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut json = format!(r#"{{"id":{},"user":{},"state":"{state}""#, quoted(&entry.id), quoted(user));
    for name in ["at_ms", mark] {
        let number: Option<u64> = field(name).and_then(|value| value.parse().ok());
        if let Some(number) = number {
            json.push_str(&format!(r#","{name}":{number}"#));
        }
    }
    let reason = field("reason").unwrap_or_default();
    json.push_str(&format!(r#","reason":{}}}"#, quoted(reason)));
    Some(HookEvent { id: entry.id.clone(), user: user.into(), json })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_has_the_fields_of_the_interface() {
        let entry = |fields: &[(&str, &str)]| GroupEntry {
            id: "1690000000000-0".into(),
            fields: fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        };
        let fields = [
            ("user", r#"al"ice"#),
            ("state", "offline"),
            ("at_ms", "20"),
            ("last_seen_ms", "10"),
            ("reason", "expired"),
        ];
        let json = r#"{"id":"1690000000000-0","user":"al\"ice","state":"offline","at_ms":20,"last_seen_ms":10,"reason":"expired"}"#;
        assert_eq!(event(&entry(&fields)).unwrap().json, json);
        for other in [&fields[..1], &fields[1..], &[("user", "a#b"), ("state", "online")], &[]] {
            assert_eq!(event(&entry(other)), None, "{other:?}");
        }
    }
}
