//! The connection below the frames of a socket. Over TCP without TLS, a courier of the hub may write to it while the socket's task
//! waits. The two take turns: a courier finds out that the task is at work and leaves the change to it, and the task goes on with
//! what the courier could not write.

use super::frame_queue::{FRAMES, FrameQueue};
use crate::lock::lock;
use crate::web::listen;
use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// A connection, for the socket's task.
pub(super) enum Stream {
    /// TCP without TLS.
    Plain(OwnedReadHalf, Arc<Line>),
    /// TLS.
    Other(TokioIo<Upgraded>),
}

/// The writing half of a connection, for the socket's task and for couriers.
pub(super) struct Line {
    half: OwnedWriteHalf,
    turns: Mutex<Turns>,
}

struct Turns {
    /// The socket's task is at work.
    of_task: bool,
    /// tungstenite could not write a frame, or not all of it.
    halted: bool,
    /// The frames that a courier could not write. The task goes on with them.
    rest: FrameQueue,
}

/// A courier's turn: until it is dropped, nobody else writes.
pub(super) struct Turn<'a> {
    stream: &'a TcpStream,
    turns: MutexGuard<'a, Turns>,
}

impl Stream {
    /// The connection of a request that was accepted, and the bytes that came after the request.
    pub(super) fn new(upgraded: Upgraded) -> (Stream, Bytes) {
        match listen::plain(upgraded) {
            Ok((stream, ahead)) => {
                let (reads, half) = stream.into_split();
                let turns = Turns { of_task: true, halted: false, rest: FrameQueue::default() };
                let line = Line { half, turns: Mutex::new(turns) };
                (Stream::Plain(reads, Arc::new(line)), ahead)
            }
            Err(upgraded) => (Stream::Other(TokioIo::new(upgraded)), Bytes::new()),
        }
    }

    /// The writing half, where couriers can use it.
    pub(super) fn line(&self) -> Option<&Arc<Line>> {
        match self {
            Stream::Plain(_, line) => Some(line),
            Stream::Other(_) => None,
        }
    }

    /// Writes frames in the task's turn.
    pub(super) fn poll_write_frames(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(_, line) => line.poll(context, |stream| stream.try_write_vectored(slices)),
            Stream::Other(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }
}

impl Line {
    /// The turn of a courier; `None` if the task is at work, or has to go on with something first.
    pub(super) fn turn(&self) -> Option<Turn<'_>> {
        let turns = match self.turns.try_lock() {
            Ok(turns) => turns,
            Err(TryLockError::Poisoned(turns)) => turns.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let free = !turns.of_task && !turns.halted && turns.rest.is_empty();
        free.then(|| Turn { stream: self.half.as_ref(), turns })
    }

    /// The task is at work from now on. Returns what it has to write first.
    pub(super) fn take(&self) -> FrameQueue {
        let mut turns = lock(&self.turns);
        turns.of_task = true;
        std::mem::take(&mut turns.rest)
    }

    /// The task waits, and has still to write these frames.
    pub(super) fn give(&self, rest: FrameQueue) {
        let mut turns = lock(&self.turns);
        (turns.of_task, turns.rest) = (false, rest);
    }

    /// Writes as soon as the kernel takes something.
    fn poll<T>(
        &self,
        context: &mut Context<'_>,
        mut write: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let stream = self.half.as_ref();
        loop {
            ready!(stream.poll_write_ready(context))?;
            match write(stream) {
                Err(why) if why.kind() == ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    /// A write of tungstenite, which may come while the task waits: it reads a ping and answers it.
    fn poll_answer(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut turns = lock(&self.turns);
        if !turns.rest.is_empty() {
            // The courier that left it has rung the bell, so the task writes it and then this.
            return Poll::Pending;
        }
        let written = self.poll(context, |stream| stream.try_write(bytes));
        turns.halted = !matches!(written, Poll::Ready(Ok(count)) if count == bytes.len());
        written
    }
}

impl Turn<'_> {
    /// Writes one frame. Returns false if the task has to go on with it.
    pub(super) fn send_one(mut self, frame: &Bytes) -> bool {
        let written = self.stream.try_write(frame).unwrap_or(0);
        if written == frame.len() {
            return true;
        }
        self.turns.rest.put_frame(frame.clone());
        self.turns.rest.advance(written);
        false
    }

    /// Writes frames. Returns false if the task has to go on with them.
    pub(super) fn send(mut self, mut frames: FrameQueue) -> bool {
        while !frames.is_empty() {
            let mut slices = [IoSlice::new(&[]); 2 * FRAMES];
            let count = frames.slices(&mut slices);
            match self.stream.try_write_vectored(&slices[..count]) {
                Ok(written @ 1..) => frames.advance(written),
                // The kernel has no room, or the connection is broken: the task finds out.
                Ok(0) | Err(_) => {
                    self.turns.rest = frames;
                    return false;
                }
            }
        }
        true
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(reads, _) => Pin::new(reads).poll_read(context, buffer),
            Stream::Other(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

/// The writes of tungstenite.
impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(_, line) => line.poll_answer(context, bytes),
            Stream::Other(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(..) => Poll::Ready(Ok(())),
            Stream::Other(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(_, line) => {
                let stream: &TcpStream = line.half.as_ref();
                Poll::Ready(socket2::SockRef::from(stream).shutdown(Shutdown::Write))
            }
            Stream::Other(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame_queue::framed;
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    async fn line() -> (Line, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        stream.writable().await.unwrap();
        let (_, half) = stream.into_split();
        let turns = Turns { of_task: true, halted: false, rest: FrameQueue::default() };
        (Line { half, turns: Mutex::new(turns) }, client)
    }

    #[tokio::test]
    async fn courier_has_no_turn_while_the_task_is_at_work() {
        let (line, _client) = line().await;
        assert!(line.turn().is_none());
        line.give(FrameQueue::default());
        let turn = line.turn().expect("the task waits");
        assert!(line.turn().is_none(), "another courier has it");
        drop(turn);
        line.take();
        assert!(line.turn().is_none());
        let mut rest = FrameQueue::default();
        rest.put_ping();
        line.give(rest);
        assert!(line.turn().is_none(), "the task has to write something first");
    }

    #[tokio::test]
    async fn task_goes_on_with_what_the_courier_could_not_write() {
        let (line, mut client) = line().await;
        line.give(FrameQueue::default());
        let frame = framed(&[b'x'; 60_000]);
        let mut frames = 1;
        while line.turn().expect("nothing is left").send_one(&frame) {
            frames += 1;
        }
        assert!(line.turn().is_none(), "the next change would come within a frame");
        let mut rest = line.take();
        let left = rest.bytes();
        assert!((1..=frame.len()).contains(&left) && (left == frame.len() || rest.has_begun()));
        let mut read = vec![0; frames * frame.len() - left];
        client.read_exact(&mut read).await.unwrap();
        line.half.writable().await.unwrap();
        while !rest.is_empty() {
            let mut slices = [IoSlice::new(&[]); 2 * FRAMES];
            let count = rest.slices(&mut slices);
            let written = line.half.as_ref().try_write_vectored(&slices[..count]).unwrap();
            rest.advance(written);
        }
        let mut last = vec![0; left];
        client.read_exact(&mut last).await.unwrap();
        read.extend(last);
        assert!(read.chunks(frame.len()).all(|received| received == frame));
    }
}
