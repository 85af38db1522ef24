//! The bytes below a socket's frames: the daemon's own writes and those of tungstenite take turns, and each frame of the
//! client counts, and so does the memory of a message that it has not ended. Reads go through a buffer on the stack, so that an
//! idle socket holds none.

use crate::hub::Watcher;
use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, RateLimiter};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of one read. A socket whose client waits for a write may keep as many.
const READ: usize = 1024;

/// See the module's head.
pub(super) struct Wire<S> {
    stream: S,
    /// Bytes that were read and that tungstenite has not taken. It takes few at a time.
    ahead: Bytes,
    /// While true, tungstenite's writes wait: a frame is written in part.
    pub(super) held: bool,
    frames: FrameCounter,
    limit: DefaultDirectRateLimiter,
    /// The client sent more frames than allowed. No more is read.
    pub(super) flooded: bool,
    /// Bytes of a frame. tungstenite refuses a longer one at its header.
    most: usize,
    /// Bytes of an unfinished message, as last counted, and who counts them.
    unfinished: usize,
    counter: Option<Arc<Watcher>>,
}

impl<S> Wire<S> {
    /// A client may send so many frames, and `most` bytes in one of them. The bytes `ahead` were read already.
    pub(super) fn new(stream: S, ahead: Bytes, quota: governor::Quota, most: usize) -> Wire<S> {
        let (frames, limit) = (FrameCounter::default(), RateLimiter::direct(quota));
        Wire { stream, ahead, held: false, frames, limit, flooded: false, most, unfinished: 0, counter: None }
    }

    /// From now on the memory of unfinished messages counts as this reader's.
    pub(super) fn count_unfinished(&mut self, counter: Arc<Watcher>) {
        counter.charge_unfinished(self.unfinished);
        self.counter = Some(counter);
    }

    /// Has the client begun a message, and not ended it?
    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished > 0
    }

    /// Whether exactly so many messages have arrived, and no part of another one.
    pub(super) fn has_ended(&self, messages: u64) -> bool {
        let frames = &self.frames;
        self.ahead.is_empty()
            && frames.messages == messages
            && frames.head == 0
            && frames.rest == 0
            && frames.fragments == 0
    }

    /// Counts an unfinished message. Returns whether the reader may go on.
    fn recount(&mut self) -> bool {
        let unfinished = self.frames.unfinished(self.most);
        if std::mem::replace(&mut self.unfinished, unfinished) != unfinished
            && let Some(counter) = &self.counter
        {
            counter.charge_unfinished(unfinished);
            // tungstenite would read the rest before anyone else learns of it.
            return unfinished == 0 || counter.overflow_cause().is_none();
        }
        true
    }

    /// The stream.
    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    /// The stream, for the daemon's own writes.
    pub(super) fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl<S: AsyncRead + Unpin> Wire<S> {
    /// Reads as `AsyncRead` does, but so much at once that a long message takes few calls of the kernel.
    fn poll_read_ahead(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            let mut bytes = [const { MaybeUninit::uninit() }; READ];
            let mut read = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut read))?;
            let (now, later) = read.filled().split_at(read.filled().len().min(buffer.remaining()));
            buffer.put_slice(now);
            self.ahead = Bytes::copy_from_slice(later);
        } else {
            let some = self.ahead.split_to(self.ahead.len().min(buffer.remaining()));
            buffer.put_slice(&some);
            if self.ahead.is_empty() {
                // An empty part would keep the memory of the whole.
                self.ahead = Bytes::new();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.poll_read_ahead(context, buffer))?;
        // tungstenite reads on until a message is complete, so it never reports fragments.
        let frames = self.frames.count(&buffer.filled()[before..]);
        if (0..frames).any(|_| self.limit.check().is_err()) {
            self.flooded = true;
            return Poll::Ready(Err(io::Error::other("more frames than allowed")));
        }
        if !self.recount() {
            return Poll::Ready(Err(io::Error::other("too much memory for unfinished messages")));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // The daemon's own write, which holds it, wakes the task.
        if self.held { Poll::Pending } else { Pin::new(&mut self.stream).poll_write(context, bytes) }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.held { Poll::Pending } else { Pin::new(&mut self.stream).poll_write_vectored(context, parts) }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// An unfinished message of so few bytes is not counted.
const SMALL: u64 = 512;

/// Longer than any message may be.
const LONGEST: u64 = 1 << 32;

/// Counts frames by their headers (RFC 6455, 5.2), however they arrive in pieces.
#[derive(Default)]
struct FrameCounter {
    /// The first byte of the header: whether the frame is the last of its message, and its opcode.
    first: u8,
    /// Bytes of the frames before this one in an unfinished message.
    fragments: u64,
    /// Messages that are complete, pings and pongs included.
    messages: u64,
    /// Bytes of the header that have arrived.
    head: u8,
    /// How many bytes of the header give the length, after the first two.
    extended: u8,
    masked: bool,
    /// Bytes of the payload.
    length: u64,
    /// Bytes of the payload that are still to come.
    rest: u64,
}

impl FrameCounter {
    /// Takes the next bytes. Returns how many headers end in them.
    fn count(&mut self, mut bytes: &[u8]) -> u32 {
        let mut frames = 0;
        while let Some((&byte, after)) = bytes.split_first() {
            if self.rest > 0 {
                let skipped = usize::try_from(self.rest).unwrap_or(usize::MAX).min(bytes.len());
                self.rest -= skipped as u64;
                bytes = &bytes[skipped..];
                if self.rest == 0 {
                    self.end_frame();
                }
                continue;
            }
            bytes = after;
            frames += u32::from(self.take(byte));
        }
        frames
    }

    /// Takes a byte of a header. Returns whether it is the last.
    fn take(&mut self, byte: u8) -> bool {
        self.head += 1;
        match self.head {
            1 => {
                self.first = byte;
                return false;
            }
            2 => {
                self.masked = byte & 0x80 != 0;
                self.length = u64::from(byte & 0x7f);
                self.extended = match self.length {
                    126 => 2,
                    127 => 8,
                    _ => 0,
                };
                if self.extended > 0 {
                    self.length = 0;
                }
            }
            head if head <= 2 + self.extended => self.length = self.length << 8 | u64::from(byte),
            _ => {}
        }
        let is_last = self.head == 2 + self.extended + if self.masked { 4 } else { 0 };
        if is_last {
            (self.head, self.rest) = (0, self.length);
            if self.rest == 0 {
                self.end_frame();
            }
        }
        is_last
    }

    /// A frame is complete.
    fn end_frame(&mut self) {
        let (is_control, is_last) = (self.first & 0x08 != 0, self.first & 0x80 != 0);
        self.messages += u64::from(is_control || is_last);
        if !is_control {
            // tungstenite refuses a longer message.
            self.fragments =
                if is_last { 0 } else { self.fragments.saturating_add(self.length).min(LONGEST) };
        }
    }

    /// Memory of an unfinished message, in bytes: tungstenite makes room for a whole frame at its header, and twice as much
    /// room for fragments as they need, since it appends one after the other.
    fn unfinished(&self, most: usize) -> usize {
        let is_open = self.rest > 0 && self.length <= most as u64;
        let bytes = 2 * self.fragments + if is_open { self.length } else { 0 };
        if bytes > SMALL { usize::try_from(bytes).unwrap_or(most) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let mut bytes = Vec::new();
        for length in [0_usize, 1, 125, 126, 65_535, 65_536, 0] {
            let header = match length {
                0..126 => vec![0x81, 0x80 | length as u8],
                126..65_536 => [&[0x01, 0xfe][..], &(length as u16).to_be_bytes()].concat(),
                _ => [&[0x80, 0xff][..], &(length as u64).to_be_bytes()].concat(),
            };
            bytes.extend(header);
            bytes.extend([1, 2, 3, 4]);
            bytes.extend(vec![0xff; length]);
        }
        for piece in [1, 2, 3, 7, 512, bytes.len()] {
            let mut counter = FrameCounter::default();
            let frames: u32 = bytes.chunks(piece).map(|piece| counter.count(piece)).sum();
            assert_eq!((frames, counter.head, counter.rest), (7, 0, 0), "in pieces of {piece}");
            assert_eq!(counter.messages, 5, "two frames are fragments");
            assert_eq!(counter.unfinished(65_536), 0, "the last fragment has come");
        }
    }

    #[test]
    fn unfinished_messages_are_counted() {
        let frame = |first: u8, length: u16| [&[first, 0xfe][..], &length.to_be_bytes(), &[0; 4]].concat();
        let mut counter = FrameCounter::default();
        for (bytes, expected) in [
            (frame(0x01, 1_000), 1_000),
            (vec![0; 999], 1_000),
            (vec![0], 2_000),
            // A ping between fragments.
            (vec![0x89, 0x80, 0, 0, 0, 0], 2_000),
            (frame(0x00, 600), 2_600),
            (vec![0; 600], 3_200),
            (frame(0x80, 300), 3_500),
            (vec![0; 300], 0),
            (frame(0x81, 400), 0),
        ] {
            counter.count(&bytes);
            assert_eq!(counter.unfinished(65_536), expected);
        }
        let mut counter = FrameCounter::default();
        counter.count(&[&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat());
        assert_eq!(counter.unfinished(65_536), 0, "tungstenite refuses a frame that is too long");
    }
}
