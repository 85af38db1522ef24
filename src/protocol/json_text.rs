//! JSON that the daemon passes on as it was written, so that a number keeps all its digits.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// See the module's head. A client that reads it has the value.
#[derive(Debug, Clone)]
pub struct JsonText {
    value: Value,
    /// As it was written, without spaces between its parts; `None` if it came in a message.
    text: Option<Box<RawValue>>,
}

impl JsonText {
    /// JSON of a program.
    ///
    /// # Errors
    /// It is not JSON, or it has a number that no client can read.
    pub fn parse(json: &str) -> serde_json::Result<JsonText> {
        let value = serde_json::from_str(json)?;
        let text = RawValue::from_string(compact(json))?;
        Ok(JsonText { value, text: Some(text) })
    }

    /// The value; its numbers have the precision of a double, or are whole numbers of 64 bits.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The JSON.
    pub fn into_text(self) -> String {
        self.text.map_or_else(|| self.value.to_string(), |text| Box::<str>::from(text).into())
    }
}

impl From<Value> for JsonText {
    fn from(value: Value) -> JsonText {
        JsonText { value, text: None }
    }
}

impl PartialEq for JsonText {
    fn eq(&self, other: &JsonText) -> bool {
        self.value == other.value
    }
}

impl Eq for JsonText {}

impl Serialize for JsonText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.text {
            Some(text) => text.serialize(serializer),
            None => self.value.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JsonText, D::Error> {
        Value::deserialize(deserializer).map(JsonText::from)
    }
}

/// The same JSON without spaces between its parts. A line break would end an event of an event stream.
fn compact(json: &str) -> String {
    let (mut text, mut quoted, mut escaped) = (String::with_capacity(json.len()), false, false);
    for sign in json.chars() {
        if quoted || !matches!(sign, ' ' | '\t' | '\r' | '\n') {
            text.push(sign);
        }
        quoted ^= sign == '"' && !escaped;
        escaped = quoted && sign == '\\' && !escaped;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn written_digits_are_kept() {
        for json in [
            "123456789012345678901234567890",
            "1.0",
            "1E5",
            "0.10000000000000000555111512312578",
            r#"{"b":1.50,"a":[-0,"\\\" \u0041"]}"#,
        ] {
            let text = JsonText::parse(json).unwrap();
            assert_eq!(serde_json::to_string(&text).unwrap(), json);
            assert_eq!(text.into_text(), json);
        }
    }

    #[test]
    fn spaces_between_parts_are_left_out() {
        let text = JsonText::parse("\r\n{ \"a b\" :\t[1, \"\\\\\" , \" \\\" \"] }").unwrap();
        assert_eq!(text.clone().into_text(), r#"{"a b":[1,"\\"," \" "]}"#);
        assert_eq!(text.value(), &json!({"a b": [1, "\\", " \" "]}));
        for bad in ["", "1e400", "{", "1 2", "'x'"] {
            assert!(JsonText::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn received_json_has_its_value() {
        let text: JsonText = serde_json::from_str(r#"{"a": 1.0}"#).unwrap();
        assert_eq!((text.value(), text.clone().into_text()), (&json!({"a": 1.0}), r#"{"a":1.0}"#.to_owned()));
    }
}
