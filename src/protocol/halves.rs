//! Halves of surrogate pairs in JSON. A program that cuts a name after a number of UTF-16 units may cut an emoji in two, and writes the
//! rest as `\ud83d`, which is no character. Such a name is refused by itself; the other names of the request are read.

use std::borrow::Cow;

/// The escape in place of a half. No name may contain a control character.
const CONTROL: &[u8] = br"\u0000";

/// The JSON with a control character in place of each half of a surrogate pair.
pub(super) fn replaced(json: &[u8]) -> Cow<'_, [u8]> {
    let (mut out, mut copied, mut at) = (Vec::new(), 0, 0);
    while at < json.len() {
        // Outside of a string, JSON has no backslash.
        if json[at] != b'\\' {
            at += 1;
            continue;
        }
        at += match (unit(&json[at..]), json.get(at + 6..).and_then(unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                out.extend_from_slice(&json[copied..at]);
                out.extend_from_slice(CONTROL);
                copied = at + 6;
                6
            }
            (Some(_), _) => 6,
            (None, _) => 2,
        };
    }
    if copied == 0 {
        return json.into();
    }
    out.extend_from_slice(&json[copied..]);
    out.into()
}

/// The UTF-16 unit of an escape such as `\u00e9` at the start of a text.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(br"\u")?.get(..4)?;
    let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
    is_hex.then(|| u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn halves_alone_are_replaced() {
        for (json, expected) in [
            (r#"["a\ud83d","b"]"#, r#"["a\u0000","b"]"#),
            (r#"["\uDE00x\ud83d"]"#, r#"["\u0000x\u0000"]"#),
            (r#"["\ud83d\ud83d\ude00"]"#, r#"["\u0000\ud83d\ude00"]"#),
            (r#"["\ud83d\u0041"]"#, r#"["\u0000\u0041"]"#),
            (r#"["\\ud83d","\"\ud83d"]"#, r#"["\\ud83d","\"\u0000"]"#),
        ] {
            assert_eq!(std::str::from_utf8(&replaced(json.as_bytes())), Ok(expected));
        }
        for same in [r#"["\ud83d\ude00"]"#, r#"["\\ud83d\n\u00e9"]"#, r"\ud83", r"\", ""] {
            assert!(matches!(replaced(same.as_bytes()), Cow::Borrowed(_)), "{same}");
        }
    }

    proptest! {
        #[test]
        fn strings_of_any_utf16_become_readable(units in proptest::collection::vec(any::<u16>(), 0..12)) {
            let escaped: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let json = format!("[\"{escaped}\"]");
            let read = serde_json::from_slice::<Vec<String>>(&replaced(json.as_bytes())).unwrap();
            let halves = char::decode_utf16(units.iter().copied()).map(|char| char.unwrap_or('\0'));
            prop_assert_eq!(&read[0], &halves.collect::<String>());
        }
    }
}
