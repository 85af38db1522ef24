//! Cuts long texts in a long message while the message arrives, so that keys with enormous names cost neither memory nor
//! the connection. No valid key is as long as what remains, so the detector counts the cut names as invalid.

use bytes::BytesMut;

/// A longer text in an array is cut to this many bytes.
const KEPT: usize = 4096;

/// Cuts the texts of the array that the buffer begins with, as far as it has arrived. A text alone is left as it is: INFO
/// and CLUSTER NODES are long. Returns how many of the bytes that arrive next belong to a text that was cut.
pub(super) fn cut_long_texts(buffer: &mut BytesMut) -> usize {
    if buffer.first() != Some(&b'*') {
        return 0;
    }
    let mut kept = BytesMut::with_capacity(buffer.len());
    let mut rest = &buffer[..];
    let mut missing = 0;
    while let Some((line, body)) = line(rest) {
        let length = text_length(line).unwrap_or(0);
        if length <= KEPT {
            // The text and the end of its line.
            let end = line.len() + text_length(line).map_or(0, |length| length + 2);
            let end = end.min(rest.len());
            kept.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        if body.len() < KEPT {
            break;
        }
        kept.extend_from_slice(format!("${KEPT}\r\n").as_bytes());
        kept.extend_from_slice(&body[..KEPT]);
        let arrived = length.min(body.len());
        missing = length - arrived;
        let end = (arrived + 2).min(body.len());
        kept.extend_from_slice(&body[arrived..end]);
        rest = &body[end..];
    }
    kept.extend_from_slice(rest);
    *buffer = kept;
    missing
}

/// The first line with its end, and what follows.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")? + 2;
    Some(bytes.split_at(end))
}

/// The length of the text that follows a line.
fn text_length(line: &[u8]) -> Option<usize> {
    let digits = line.strip_prefix(b"$")?.strip_suffix(b"\r\n")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_message_is_the_same_wherever_it_was_split() {
        let long = "x".repeat(10_000);
        let text = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        let whole = format!("*4\r\n{}{}:7\r\n$-1\r\n{}", text("a"), text(&long), text(&long));
        let cut = text(&long[..KEPT]);
        let expected = format!("*4\r\n{}{cut}:7\r\n$-1\r\n{cut}", text("a"));
        for at in 0..whole.len() {
            let mut buffer = BytesMut::from(&whole.as_bytes()[..at]);
            let skip = cut_long_texts(&mut buffer);
            assert!(skip <= whole.len() - at, "{at}");
            buffer.extend_from_slice(&whole.as_bytes()[at + skip..]);
            assert_eq!(cut_long_texts(&mut buffer), 0, "{at}");
            assert!(buffer == expected.as_bytes(), "{at}");
        }
    }

    #[test]
    fn text_outside_an_array_stays() {
        let mut info = BytesMut::from(&b"$9000\r\n"[..]);
        info.extend_from_slice(&[b'i'; 9000]);
        let before = info.clone();
        assert_eq!(cut_long_texts(&mut info), 0);
        assert_eq!(info, before);
    }
}
