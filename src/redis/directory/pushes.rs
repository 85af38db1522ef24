//! The pushes of a connection with client tracking, as RESP3. No I/O.

use anyhow::{Result, bail};
use std::str;

/// Values inside each other; a push of the server has three.
const DEEPEST: usize = 8;

/// What one message of the server is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed<'a> {
    /// Keys of these names changed.
    Changed(Vec<&'a [u8]>),
    /// A database was flushed: every key changed.
    Everything,
    /// The server confirmed the subscription.
    Subscribed,
    /// The server refused a command, with its error.
    Refused(&'a [u8]),
    /// Any other reply.
    Other,
}

/// A value as it lies in the buffer.
#[derive(Debug)]
enum Value<'a> {
    Text(&'a [u8]),
    Error(&'a [u8]),
    Null,
    List(Vec<Value<'a>>),
    Number,
}

/// The first message and its length; `None` if it is not complete.
///
/// # Errors
/// It is not RESP3.
pub(super) fn first(bytes: &[u8]) -> Result<Option<(Pushed<'_>, usize)>> {
    let Some((value, length)) = value(bytes, DEEPEST)? else { return Ok(None) };
    let pushed = match value {
        Value::Error(why) => Pushed::Refused(why),
        Value::List(parts) => match &parts[..] {
            [Value::Text(b"subscribe"), ..] => Pushed::Subscribed,
            [Value::Text(b"invalidate"), Value::Null] => Pushed::Everything,
            [Value::Text(b"invalidate"), Value::List(names)] => Pushed::Changed(
                names
                    .iter()
                    .filter_map(|name| if let Value::Text(name) = name { Some(*name) } else { None })
                    .collect(),
            ),
            _ => Pushed::Other,
        },
        _ => Pushed::Other,
    };
    Ok(Some((pushed, length)))
}

fn value(bytes: &[u8], deepest: usize) -> Result<Option<(Value<'_>, usize)>> {
    let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let Some((&kind, rest)) = bytes[..end].split_first() else {
        bail!("the server does not speak RESP3: it sent an empty line");
    };
    let start = end + 2;
    match kind {
        b'+' => Ok(Some((Value::Text(rest), start))),
        b'-' => Ok(Some((Value::Error(rest), start))),
        b'_' => Ok(Some((Value::Null, start))),
        b':' | b',' | b'#' | b'(' => Ok(Some((Value::Number, start))),
        b'$' | b'=' | b'!' => {
            let Some(length) = length(rest)? else { return Ok(Some((Value::Null, start))) };
            let Some(text) = bytes.get(start..start + length) else { return Ok(None) };
            let whole = start + length + 2;
            let value = if kind == b'!' { Value::Error(text) } else { Value::Text(text) };
            Ok((bytes.len() >= whole).then_some((value, whole)))
        }
        b'*' | b'>' | b'~' => {
            let Some(count) = length(rest)? else { return Ok(Some((Value::Null, start))) };
            list(bytes, start, count, deepest)
        }
        b'%' => list(bytes, start, 2 * length(rest)?.unwrap_or(0), deepest),
        _ => bail!("the server does not speak RESP3: {:?}", String::from_utf8_lossy(&bytes[..end.min(40)])),
    }
}

fn list(bytes: &[u8], start: usize, count: usize, deepest: usize) -> Result<Option<(Value<'_>, usize)>> {
    if deepest == 0 {
        bail!("the server sent lists inside each other, more than {DEEPEST} deep");
    }
    // The server names the count; memory is only taken for values that have come.
    let (mut parts, mut at) = (Vec::with_capacity(count.min(bytes.len() / 3)), start);
    for _ in 0..count {
        let Some((part, length)) = value(&bytes[at..], deepest - 1)? else { return Ok(None) };
        parts.push(part);
        at += length;
    }
    Ok(Some((Value::List(parts), at)))
}

/// A length; `None` for the null of RESP2.
fn length(digits: &[u8]) -> Result<Option<usize>> {
    match str::from_utf8(digits).ok().and_then(|text| text.parse::<i64>().ok()) {
        Some(-1) => Ok(None),
        Some(length) if (0..=1 << 30).contains(&length) => Ok(Some(length as usize)),
        _ => bail!("the server sent a wrong length: {:?}", String::from_utf8_lossy(digits)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHANGED: &[u8] = b">2\r\n$10\r\ninvalidate\r\n*2\r\n$3\r\ns:a\r\n$5\r\ns:\r\nb\r\n";
    const FLUSHED: &[u8] = b">2\r\n$10\r\ninvalidate\r\n_\r\n";

    #[test]
    fn pushes_and_replies_are_read() {
        for (bytes, expected) in [
            (CHANGED, Pushed::Changed(vec![b"s:a", b"s:\r\nb"])),
            (FLUSHED, Pushed::Everything),
            (b">3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n", Pushed::Subscribed),
            (b"-NOPERM no\r\n", Pushed::Refused(b"NOPERM no")),
            (b"+PONG\r\n", Pushed::Other),
            (b"%1\r\n$5\r\nproto\r\n:3\r\n", Pushed::Other),
            (b"*-1\r\n", Pushed::Other),
        ] {
            for end in 0..bytes.len() {
                assert_eq!(first(&bytes[..end]).unwrap(), None, "{end} bytes are not all");
            }
            let followed = [bytes, b"+"].concat();
            assert_eq!(first(&followed).unwrap(), Some((expected, bytes.len())));
        }
    }

    #[test]
    fn nonsense_of_a_server_is_an_error() {
        for bytes in [&b"HTTP/1.1 400\r\n"[..], b"\r\n", b"$x\r\n", b"$-2\r\n", &b"*1\r\n".repeat(20)] {
            assert!(first(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(
            prop_oneof![Just(b'*'), Just(b'>'), Just(b'$'), Just(b'\r'), Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..60)
        ) {
            if let Ok(Some((_, length))) = first(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
