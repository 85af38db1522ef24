//! Refuses a message whose arrays are nested deeper than any that Redis sends. The decoder calls itself for each level, so that
//! such a message would overflow the stack and end the process.

use anyhow::{Result, ensure};

/// Levels of arrays. `CLUSTER SLOTS` and `COMMAND` have five.
const DEEPEST: usize = 16;

/// An error if the message that the buffer begins with is nested too deeply, as far as it has arrived.
pub(super) fn check(buffer: &[u8]) -> Result<()> {
    // Of each open array, the parts that are still to come.
    let mut open = [0_u64; DEEPEST];
    let (mut depth, mut rest) = (0, buffer);
    while let Some((&kind, after)) = rest.split_first() {
        let Some(end) = after.windows(2).position(|two| two == b"\r\n") else { return Ok(()) };
        let (line, body) = (&after[..end], &after[end + 2..]);
        rest = body;
        match (kind, number(line)) {
            // The decoder refuses it.
            (b'*' | b'$', None) => return Ok(()),
            (b'*', Some(parts @ 1..)) => {
                ensure!(depth < DEEPEST, "the server sent arrays that are nested more than {DEEPEST} deep");
                open[depth] = parts.unsigned_abs();
                depth += 1;
                continue;
            }
            (b'$', Some(length @ 0..)) => {
                let Some(next) =
                    usize::try_from(length).ok().and_then(|length| body.get(length.checked_add(2)?..))
                else {
                    return Ok(());
                };
                rest = next;
            }
            _ => {}
        }
        while depth > 0 {
            open[depth - 1] -= 1;
            if open[depth - 1] > 0 {
                break;
            }
            depth -= 1;
        }
        if depth == 0 {
            return Ok(());
        }
    }
    Ok(())
}

/// The number of a line, as the decoder reads it.
fn number(line: &[u8]) -> Option<i64> {
    std::str::from_utf8(line).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redis_protocol::resp2::decode::decode_range;
    use redis_protocol::resp2::types::RangeFrame;

    #[test]
    fn deep_arrays_are_refused_wherever_they_stand() {
        let nested = |depth: usize, before: &str| format!("*2\r\n{before}").repeat(depth);
        for before in
            ["", ":1\r\n", "$2\r\nab\r\n", "$-1\r\n", "*-1\r\n", "*0\r\n", "+OK\r\n", "*1\r\n:1\r\n"]
        {
            assert!(check(nested(DEEPEST - 1, before).as_bytes()).is_ok(), "{before:?}");
            for depth in [DEEPEST + 1, 100_000] {
                assert!(check(nested(depth, before).as_bytes()).is_err(), "{before:?}");
            }
        }
        assert!(check("*1\r\n".repeat(1_000_000).as_bytes()).is_err());
        // One after the other is not one in the other; the second message is looked at when it is the first.
        assert!(check("*1\r\n:1\r\n".repeat(1_000).as_bytes()).is_ok());
        assert!(check(format!("*100\r\n{}", "*1\r\n:1\r\n".repeat(100)).as_bytes()).is_ok());
        // What looks like an array in a text is text.
        let text = "*1\r\n".repeat(100);
        assert!(check(format!("*1\r\n${}\r\n{text}\r\n", text.len()).as_bytes()).is_ok());
    }

    fn depth(frame: &RangeFrame) -> usize {
        match frame {
            RangeFrame::Array(parts) => 1 + parts.iter().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }

    proptest! {
        #[test]
        fn what_passes_is_no_deeper_than_allowed(
            words in prop::collection::vec(
                prop::sample::select(vec!["*1\r\n", "*2\r\n", "*0\r\n", "*-1\r\n", ":1\r\n", "$1\r\na\r\n", "$-1\r\n", "+a\r\n", "-e\r\n", "*+1\r\n", "$+1\r\nx\r\n"]),
                0..60,
            ),
        ) {
            let bytes = words.concat();
            let decoded = decode_range(bytes.as_bytes()).ok().flatten();
            match check(bytes.as_bytes()) {
                Ok(()) => prop_assert!(decoded.is_none_or(|(frame, _)| depth(&frame) <= DEEPEST + 1)),
                Err(_) => prop_assert!(decoded.is_none_or(|(frame, _)| depth(&frame) > DEEPEST)),
            }
        }
    }
}
