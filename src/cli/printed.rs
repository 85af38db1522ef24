//! Text from elsewhere on a terminal: names, and the words of a server. A terminal obeys the control characters in it, so they
//! are written as escapes: `\u{1b}`.

use anyhow::Result;
use serde::Serialize;
use std::borrow::Cow;

/// Does a terminal obey this character, or does it change the order of others?
fn is_obeyed(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text for one line.
pub fn text(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return text.into();
    }
    let escaped = |char: char| match is_obeyed(char) {
        true => char.escape_default().to_string(),
        false => char.to_string(),
    };
    text.chars().map(escaped).collect::<String>().into()
}

/// An error and its causes. It keeps its line breaks.
pub fn error(why: &anyhow::Error) -> String {
    let lines = format!("{why:#}");
    lines.lines().map(text).collect::<Vec<_>>().join("\n")
}

/// A JSON object for one line. serde escapes the control characters of ASCII only, but for DEL.
pub fn json(value: &impl Serialize) -> Result<String> {
    let json = serde_json::to_string(value)?;
    if !json.contains(is_obeyed) {
        return Ok(json);
    }
    // All of them are inside of strings, and below U+10000.
    let escaped = |char: char| match is_obeyed(char) {
        true => format!("\\u{:04x}", char as u32),
        false => char.to_string(),
    };
    Ok(json.chars().map(escaped).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escape_sequences_become_visible() {
        for (raw, printed) in [
            ("plain é 日本 👍", "plain é 日本 👍"),
            ("\u{1b}[2J\u{7}", "\\u{1b}[2J\\u{7}"),
            ("a\u{9b}31m\r\nb\t", "a\\u{9b}31m\\r\\nb\\t"),
            ("\u{202e}evil\u{2069}", "\\u{202e}evil\\u{2069}"),
        ] {
            assert_eq!(text(raw), printed);
            let json = json(&raw).unwrap();
            assert!(!json.contains(is_obeyed), "{json}");
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), raw, "programs read the same text");
        }
        assert_eq!(error(&anyhow::anyhow!("one\ntwo\u{1b}[0m")), "one\ntwo\\u{1b}[0m");
    }

    proptest! {
        #[test]
        fn no_text_is_obeyed(raw in ".*") {
            prop_assert!(!text(&raw).contains(is_obeyed));
            prop_assert_eq!(serde_json::from_str::<String>(&json(&raw).unwrap()).unwrap(), raw);
        }
    }
}
