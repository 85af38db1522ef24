//! Reads the pushes of RESP3 that client tracking makes, piece by piece, so that a push of a million names needs no
//! buffer of its size. Everything else that the server sends on such a connection is passed over.

use anyhow::{Context, Result, bail};

/// The start of a push about changed keys.
const INVALIDATE: &[u8] = b">2\r\n$10\r\ninvalidate\r\n";
/// The start of the confirmation of a subscription.
const SUBSCRIBED: &[u8] = b">3\r\n$9\r\nsubscribe\r\n";
/// A longer name is cut to this many bytes. No valid key is as long.
const LONGEST_NAME: usize = 4096;
/// Parts of one value. HELLO's reply has fewer than 100.
const PARTS_MOST: u64 = 1 << 20;

/// One piece of what the server sends.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::redis) enum Push<'a> {
    /// A key of this name has changed.
    Key(&'a [u8]),
    /// There are no more names in this push.
    End,
    /// Every key may have changed: a database was flushed.
    All,
    /// A subscription is confirmed.
    Subscribed,
    /// The server refused a command.
    Refused(&'a [u8]),
    /// Something else.
    Other,
}

/// Where the reader is in the bytes of one connection.
#[derive(Default)]
pub(in crate::redis) struct PushReader {
    /// So many names of a push are still to come.
    names: u64,
    /// The last name of a push was read.
    ends: bool,
    /// So many of the next bytes belong to a name that was cut.
    skip: usize,
}

impl PushReader {
    /// How many of the bytes are done with, and the piece that they are; `(0, None)` if more bytes are needed.
    ///
    /// # Errors
    /// The server does not send RESP3.
    pub(in crate::redis) fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<(usize, Option<Push<'a>>)> {
        if self.skip > 0 {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            return Ok((skipped, None));
        }
        if std::mem::take(&mut self.ends) {
            return Ok((0, Some(Push::End)));
        }
        if self.names > 0 {
            return self.name(bytes);
        }
        match bytes.strip_prefix(INVALIDATE) {
            Some(rest) => self.begin(rest),
            None if INVALIDATE.starts_with(bytes) => Ok((0, None)),
            None => other(bytes),
        }
    }

    /// The list of names begins, or there is none.
    fn begin<'a>(&mut self, rest: &[u8]) -> Result<(usize, Option<Push<'a>>)> {
        let Some((line, length)) = line(rest) else { return Ok((0, None)) };
        let length = INVALIDATE.len() + length;
        match line {
            [b'_', ..] => Ok((length, Some(Push::All))),
            [b'*', count @ ..] => {
                self.names = number(count)?.unwrap_or(0);
                self.ends = self.names == 0;
                Ok((length, None))
            }
            _ => bail!("the server pushed neither names nor null"),
        }
    }

    fn name<'a>(&mut self, bytes: &'a [u8]) -> Result<(usize, Option<Push<'a>>)> {
        let Some((line, start)) = line(bytes) else { return Ok((0, None)) };
        let [b'$', count @ ..] = line else { bail!("the server pushed a name that is no text") };
        let length = usize::try_from(number(count)?.context("the server pushed null in place of a name")?)?;
        let whole =
            start.checked_add(length).and_then(|end| end.checked_add(2)).context("a name is too long")?;
        let kept = length.min(LONGEST_NAME);
        if bytes.len() < if kept < length { start + kept } else { whole } {
            return Ok((0, None));
        }
        self.names -= 1;
        self.ends = self.names == 0;
        self.skip = whole.saturating_sub(bytes.len());
        Ok((whole.min(bytes.len()), Some(Push::Key(&bytes[start..start + kept]))))
    }
}

/// A value that is no push of names.
fn other(bytes: &[u8]) -> Result<(usize, Option<Push<'_>>)> {
    let Some(length) = whole(bytes)? else { return Ok((0, None)) };
    let push = match bytes {
        [b'-', why @ ..] => Push::Refused(&why[..length - 3]),
        _ if bytes.starts_with(SUBSCRIBED) => Push::Subscribed,
        _ => Push::Other,
    };
    Ok((length, Some(push)))
}

/// The length of the value that the bytes begin with, if it is complete. It counts parts and calls nothing again for those
/// inside, so no nesting is too deep.
fn whole(bytes: &[u8]) -> Result<Option<usize>> {
    let (mut open, mut end) = (1_u64, 0);
    while open > 0 {
        let Some((line, length)) = line(&bytes[end..]) else { return Ok(None) };
        end += length;
        open -= 1;
        let Some((kind, rest)) = line.split_first() else { bail!("the server does not speak RESP3") };
        match kind {
            b'*' | b'~' | b'>' => open += number(rest)?.unwrap_or(0).min(PARTS_MOST + 1),
            b'%' => open += 2 * number(rest)?.unwrap_or(0).min(PARTS_MOST),
            b'$' | b'!' | b'=' => {
                let Some(length) = number(rest)? else { continue };
                let after =
                    usize::try_from(length)?.checked_add(2).and_then(|length| end.checked_add(length));
                end = after.context("a text is too long")?;
                if end > bytes.len() {
                    return Ok(None);
                }
            }
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {}
            _ => bail!("the server does not speak RESP3"),
        }
        if open > PARTS_MOST {
            bail!("the server sent a value of more than {PARTS_MOST} parts");
        }
    }
    Ok(Some(end))
}

/// The first line without its end, and its length with it.
fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    Some((bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]), end + 1))
}

/// A length; `None` if it is negative, which means null.
fn number(digits: &[u8]) -> Result<Option<u64>> {
    let text = std::str::from_utf8(digits).ok();
    let number = text
        .and_then(|text| text.parse::<i64>().ok())
        .context("the server sent a length that is no number")?;
    Ok(u64::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The pieces in words, with the bytes in two parts.
    fn read(parts: [&[u8]; 2]) -> Vec<String> {
        let (mut reader, mut buffer, mut read) = (PushReader::default(), Vec::new(), Vec::new());
        for part in parts {
            buffer.extend_from_slice(part);
            loop {
                let (done, push) = reader.next(&buffer).unwrap();
                let stays = done == 0 && push.is_none();
                read.extend(push.map(|push| match push {
                    Push::Key(name) if name.len() > 9 => format!("{} bytes", name.len()),
                    Push::Key(name) => String::from_utf8_lossy(name).into_owned(),
                    Push::Refused(why) => format!("refused: {}", String::from_utf8_lossy(why)),
                    other => format!("{other:?}"),
                }));
                buffer.drain(..done);
                if stays {
                    break;
                }
            }
        }
        assert!(buffer.is_empty(), "{buffer:?}");
        read
    }

    fn push(names: &[&str]) -> Vec<u8> {
        let names: String = names.iter().map(|name| format!("${}\r\n{name}\r\n", name.len())).collect();
        [INVALIDATE, format!("*{}\r\n", names.matches('$').count()).as_bytes(), names.as_bytes()].concat()
    }

    #[test]
    fn pushes_are_read_wherever_they_are_cut() {
        let hello = b"%2\r\n$5\r\nproto\r\n:3\r\n$7\r\nmodules\r\n*1\r\n%1\r\n$4\r\nname\r\n$1\r\nx\r\n";
        let subscribed = [SUBSCRIBED, b"$1\r\nx\r\n:1\r\n"].concat();
        let long = "n".repeat(5_000);
        let all = [
            &hello[..],
            b"+OK\r\n",
            &subscribed,
            &push(&["a", "b\n"]),
            INVALIDATE,
            b"_\r\n",
            &push(&[&long, "c"]),
            b"-NOPERM no\r\n",
            &push(&["d"]),
        ]
        .concat();
        let expected = "Other,Other,Subscribed,a,b\n,End,All,4096 bytes,c,End,refused: NOPERM no,d,End";
        for cut in 0..=all.len() {
            assert_eq!(read([&all[..cut], &all[cut..]]).join(","), expected, "cut at {cut}");
        }
    }

    #[test]
    fn other_protocols_are_errors() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"$x\r\n",
            b"*99999999\r\n",
            b">2\r\n$10\r\ninvalidate\r\n:1\r\n",
        ] {
            assert!(PushReader::default().next(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        let mut reader = PushReader::default();
        let start = [INVALIDATE, b"*1\r\n"].concat();
        assert!(reader.next(&start).unwrap().1.is_none());
        assert!(reader.next(b"$9223372036854775807\r\n").is_ok_and(|(_, push)| push.is_none()));
        assert!(reader.next(b":1\r\n").is_err());
    }

    proptest! {
        #[test]
        fn reader_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for bytes in [bytes.clone(), [INVALIDATE, b"*3\r\n", &bytes].concat()] {
                let (mut reader, mut rest) = (PushReader::default(), &bytes[..]);
                while let Ok((done, push)) = reader.next(rest) {
                    if done == 0 && push.is_none() {
                        break;
                    }
                    rest = &rest[done..];
                }
            }
        }
    }
}
