//! The frames that still have to be written to a socket. A server does not mask its frames, so one text serves all sockets, each
//! with its own header.

use bytes::Bytes;
use std::collections::VecDeque;
use std::io::IoSlice;

/// Frames in one write.
pub(super) const FRAMES: usize = 32;
/// The first byte of a frame: FIN, and the opcode of a text.
const TEXT: u8 = 0x81;
/// The header of a ping without payload.
const PING: &[u8] = &[0x89, 0];

/// See the module's head.
#[derive(Default)]
pub(super) struct FrameQueue {
    /// The bytes still to be written: a header, its text, the next header, …
    out: VecDeque<Bytes>,
    /// The first frame has been written in part.
    begun: bool,
}

impl FrameQueue {
    /// Queues texts.
    pub(super) fn put(&mut self, texts: impl IntoIterator<Item = Bytes>) {
        for text in texts {
            self.out.push_back(frame_header(text.len()));
            self.out.push_back(text);
        }
    }

    /// Queues a frame with its header.
    pub(super) fn put_frame(&mut self, frame: Bytes) {
        let text = frame.len() - 1;
        self.out.push_back(frame.slice(..text));
        self.out.push_back(frame.slice(text..));
    }

    /// Queues a ping before all frames of which nothing is written yet, unless one is queued already.
    pub(super) fn put_ping(&mut self) {
        if self.out.iter().any(|bytes| **bytes == *PING) {
            return;
        }
        let at = if self.out.len() % 2 == 1 { 1 } else { 2 * usize::from(self.begun) };
        self.out.insert(at, Bytes::from_static(PING));
        self.out.insert(at + 1, Bytes::new());
    }

    /// The bytes still to be written.
    pub(super) fn bytes(&self) -> usize {
        self.out.iter().map(Bytes::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Is the first frame written in part?
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The next bytes, for one write.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; 2 * FRAMES]) -> usize {
        let pairs = slices.iter_mut().zip(&self.out);
        pairs.map(|(slice, bytes)| *slice = IoSlice::new(bytes)).count()
    }

    /// So many bytes are written.
    pub(super) fn advance(&mut self, mut written: usize) {
        while let Some(front) = self.out.front_mut() {
            if written < front.len() {
                *front = front.slice(written..);
                break;
            }
            written -= front.len();
            self.out.pop_front();
        }
        if self.out.is_empty() {
            // An idle socket holds no memory for it.
            self.out = VecDeque::new();
        }
        // Part of a header, or a header without all of its text.
        self.begun = written > 0 || self.out.len() % 2 == 1;
    }

    /// Queues what is left of another queue before this one, of which nothing is written yet.
    pub(super) fn follow(&mut self, mut first: FrameQueue) {
        first.out.append(&mut self.out);
        *self = first;
    }
}

/// A text with its header.
pub(super) fn framed(text: &[u8]) -> Bytes {
    [&frame_header(text.len()), text].concat().into()
}

/// The header of a text frame.
fn frame_header(length: usize) -> Bytes {
    match (u16::try_from(length), length) {
        (Ok(short), 0..126) => Bytes::copy_from_slice(&[TEXT, short as u8]),
        (Ok(middle), _) => {
            let [a, b] = middle.to_be_bytes();
            Bytes::copy_from_slice(&[TEXT, 126, a, b])
        }
        (Err(_), long) => {
            let mut header = vec![TEXT, 127];
            header.extend((long as u64).to_be_bytes());
            header.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_header_has_the_length() {
        for (length, header) in [
            (0, &[0x81, 0][..]),
            (125, &[0x81, 125]),
            (126, &[0x81, 126, 0, 126]),
            (65_535, &[0x81, 126, 255, 255]),
            (65_536, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            assert_eq!(frame_header(length), header, "{length}");
        }
    }

    fn taken(queue: &mut FrameQueue, most: usize) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 2 * FRAMES];
        let count = queue.slices(&mut slices);
        let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).take(most).collect();
        queue.advance(bytes.len());
        bytes
    }

    #[test]
    fn ping_never_goes_into_a_frame() {
        let texts = || ["abc", "de"].map(Bytes::from);
        for written in 0..=8 {
            let mut queue = FrameQueue::default();
            queue.put(texts());
            let mut all = taken(&mut queue, written);
            queue.put_ping();
            queue.put_ping();
            let mut later = FrameQueue::default();
            later.put([Bytes::from("f")]);
            later.follow(queue);
            all.extend(taken(&mut later, usize::MAX));
            assert!(later.is_empty() && !later.has_begun());
            let mut texts = Vec::new();
            let mut pings = 0;
            let mut rest = &all[..];
            while let [opcode, length, after @ ..] = rest {
                let (payload, next) = after.split_at(*length as usize);
                match *opcode {
                    TEXT => texts.push(payload),
                    _ => pings += u32::from([*opcode, *length] == *PING),
                }
                rest = next;
            }
            assert_eq!(
                (texts, pings),
                (vec![&b"abc"[..], b"de", b"f"], 1),
                "after {written} bytes: {all:x?}"
            );
        }
    }
}
