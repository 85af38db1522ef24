//! WebSocket frames: tungstenite reads, and writes pings and closes; texts are written past it, without a copy.
//!
//! tungstenite copies each message into a buffer of its socket, and that buffer keeps its largest size for as long
//! as the socket lives: a snapshot of 1,000 users would cost 100 KB forever.

use super::frame_queue::{FRAMES, FrameQueue};
use super::line::{Line, Stream};
use super::wire::Wire;
use crate::error::Error;
use crate::hub::Watcher;
use crate::panics::contain;
use crate::protocol::{NO_HANDSHAKE, SUBPROTOCOL};
use crate::web::failure::Failure;
use crate::web::limits::quota::per_second;
use axum::body::Body;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{FromRequestParts, WebSocketUpgrade};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncReadExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};
use tracing::debug;

/// Bytes. With tungstenite's default of 128 KiB a socket costs 134 KB. A longer message is taken in several pieces, from the bytes that
/// [`Wire`] has read.
const READ_BUFFER: usize = 64;
/// A message of more bytes leaves a buffer that is worth giving back.
const BULKY: usize = 4096;

/// A valid request for a WebSocket.
pub struct Upgrade {
    on_upgrade: OnUpgrade,
    key: HeaderValue,
    speaks_ours: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Upgrade, Failure> {
        let refuse = |why: String| Failure(Error::InvalidRequest(format!("{NO_HANDSHAKE}: {why}")));
        let on_upgrade = parts.extensions.get::<OnUpgrade>().cloned();
        // axum's own extractor checks the request.
        drop(
            WebSocketUpgrade::from_request_parts(parts, state)
                .await
                .map_err(|why| refuse(explained(&why)))?,
        );
        let key = parts.headers.get(header::SEC_WEBSOCKET_KEY).cloned();
        let (Some(on_upgrade), Some(key)) = (on_upgrade, key) else {
            return Err(refuse("over HTTP/1.1".into()));
        };
        let offered = parts.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
        let mut words = offered.iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
        let speaks_ours = words.any(|word| word.trim_ascii() == SUBPROTOCOL.as_bytes());
        Ok(Upgrade { on_upgrade, key, speaks_ours })
    }
}

/// The reason why a request is no handshake. A proxy removes the headers of a single connection unless its configuration forwards them.
fn explained(why: &WebSocketUpgradeRejection) -> String {
    use WebSocketUpgradeRejection::{InvalidConnectionHeader, InvalidUpgradeHeader};
    let text = why.body_text();
    match why {
        InvalidConnectionHeader(_) | InvalidUpgradeHeader(_) => {
            format!("{text}; a proxy in between must forward the headers Connection and Upgrade")
        }
        _ => text,
    }
}

impl Upgrade {
    /// Accepts the request, and runs `live` with the socket. A message may have `most` bytes, and `frames` may come per second.
    pub fn accept<F>(
        self,
        most: usize,
        frames: u32,
        live: impl FnOnce(FrameIo) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Upgrade { on_upgrade, key, speaks_ours } = self;
        tokio::spawn(contain(Box::pin(async move {
            match on_upgrade.await {
                // In another task: this one keeps the memory of the upgrade for as long as it lives.
                Ok(upgraded) => {
                    drop(tokio::spawn(contain(Box::pin(live(FrameIo::new(upgraded, most, frames).await)))));
                }
                Err(why) => debug!(%why, "a WebSocket upgrade failed"),
            }
        })));
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let mut add = |name: HeaderName, value| response.headers_mut().insert(name, value);
        add(header::CONNECTION, HeaderValue::from_static("upgrade"));
        add(header::UPGRADE, HeaderValue::from_static("websocket"));
        // Base64, so it is always a valid header value.
        if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
            add(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if speaks_ours {
            add(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        }
        response
    }
}

/// The frames of one connection.
pub struct FrameIo {
    /// `None` only while tungstenite is replaced.
    ws: Option<Tungstenite>,
    /// Bytes of a message.
    most: usize,
    /// Messages that were read, and whether the last ones included a long one.
    received: u64,
    bulky: bool,
    /// The frames still to be written.
    out: FrameQueue,
    /// Bytes that were written past tungstenite.
    written: u64,
    /// tungstenite could not read on: the next bytes may be in the middle of a frame.
    broken: bool,
}

/// An event during a write that has to wait for the client.
pub enum Moved {
    /// Everything is written, or the connection is broken.
    Flushed(io::Result<()>),
    /// The client has taken some bytes.
    Progress,
    /// A message has come meanwhile.
    Read(Option<Result<Message, tungstenite::Error>>),
}

impl FrameIo {
    async fn new(upgraded: Upgraded, most: usize, frames: u32) -> FrameIo {
        let (stream, ahead) = Stream::new(upgraded);
        let wire = Wire::new(stream, ahead, per_second(frames), most);
        let ws = Some(over(wire, most).await);
        FrameIo { ws, most, received: 0, bulky: false, out: FrameQueue::default(), written: 0, broken: false }
    }

    /// The writing half of the connection, where couriers can use it.
    pub(super) fn line(&self) -> Option<&Arc<Line>> {
        self.ws.as_ref()?.get_ref().stream().line()
    }

    /// The socket's task is at work: no courier writes from now on. The next flush goes on with what one could not write.
    pub fn take_turn(&mut self) {
        let Some(ws) = &mut self.ws else { return };
        let wire = ws.get_mut();
        if let Some(line) = wire.stream().line() {
            self.out.follow(line.take());
            wire.held = self.out.has_begun();
        }
    }

    /// The socket's task waits: couriers may write.
    pub fn give_turn(&mut self) {
        if let Some(line) = self.line().cloned() {
            line.give(std::mem::take(&mut self.out));
        }
    }

    /// The next message. The caller has dropped the one before.
    pub async fn recv(&mut self) -> Option<Result<Message, tungstenite::Error>> {
        if self.bulky && self.ws.as_ref().is_some_and(|ws| ws.get_ref().has_ended(self.received)) {
            self.bulky = false;
            self.drop_buffers();
        }
        let message = self.ws.as_mut()?.next().await;
        self.note(&message);
        message
    }

    fn note(&mut self, message: &Option<Result<Message, tungstenite::Error>>) {
        match message {
            Some(Ok(message)) => {
                self.received += 1;
                self.bulky |= message.len() > BULKY;
            }
            Some(Err(_)) => self.broken = true,
            None => {}
        }
    }

    /// Replaces tungstenite, whose buffers keep their largest size and may hold an unfinished message.
    fn drop_buffers(&mut self) {
        let flushed = self.ws.as_mut().and_then(|ws| ws.flush().now_or_never());
        if !matches!(flushed, Some(Ok(()))) {
            // An answer to a ping may be written in part.
            return;
        }
        if let Some(ws) = self.ws.take() {
            self.ws = over(ws.into_inner(), self.most).now_or_never();
        }
    }

    /// From now on the memory of unfinished messages counts as this reader's.
    pub fn count_unfinished(&mut self, counter: Arc<Watcher>) {
        if let Some(ws) = &mut self.ws {
            ws.get_mut().count_unfinished(counter);
        }
    }

    /// Queues texts for the next flush.
    pub fn put(&mut self, texts: impl IntoIterator<Item = Bytes>) {
        self.out.put(texts);
    }

    /// The bytes still to be written.
    pub fn queued_bytes(&self) -> usize {
        self.out.bytes()
    }

    /// Queues a ping before all frames of which nothing is written yet, unless one is queued already.
    pub fn put_ping(&mut self) {
        self.out.put_ping();
    }

    /// Has the client sent more frames than allowed? Nothing more is read then.
    pub fn flooded(&self) -> bool {
        self.ws.as_ref().is_some_and(|ws| ws.get_ref().flooded)
    }

    /// Writes what was queued, many frames at a time. It may be dropped before it ends; the next call continues.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Goes on with a write that has to wait for the client, and reads a message meanwhile if `reads` is true.
    pub async fn moved(&mut self, reads: bool) -> Moved {
        let before = self.written;
        poll_fn(|cx| {
            if let Poll::Ready(flushed) = self.poll_flush(cx) {
                return Poll::Ready(Moved::Flushed(flushed));
            }
            if self.written > before {
                return Poll::Ready(Moved::Progress);
            }
            if reads
                && let Some(ws) = &mut self.ws
                && let Poll::Ready(message) = ws.poll_next_unpin(cx)
            {
                self.note(&message);
                return Poll::Ready(Moved::Read(message));
            }
            Poll::Pending
        })
        .await
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            if !self.out.has_begun() {
                // The answers to pings go between two frames.
                ready!(open(&mut self.ws)?.poll_flush_unpin(cx)).map_err(io::Error::other)?;
            }
            let written = ready!(self.poll_write(cx))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written as u64;
            self.out.advance(written);
            open(&mut self.ws)?.get_mut().held = self.out.has_begun();
        }
        Poll::Ready(Ok(()))
    }

    /// One write. The slices (1 KB) are built for each attempt: if they lived across an await they would be part of
    /// every socket's task.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); 2 * FRAMES];
        let count = self.out.slices(&mut slices);
        open(&mut self.ws)?.get_mut().stream_mut().poll_write_frames(cx, &slices[..count])
    }

    /// Reads until the other side has ended, which also sends the answer to its close. After a frame that cannot be read, and
    /// within an unfinished message, the bytes are thrown away.
    pub async fn finish(&mut self) {
        while !self.reads_raw() && matches!(self.recv().await, Some(Ok(_))) {}
        let mut rest = [0; 4096];
        while self.reads_raw()
            && let Some(ws) = &mut self.ws
            && ws.get_mut().stream_mut().read(&mut rest).await.is_ok_and(|read| read > 0)
        {}
    }

    fn reads_raw(&self) -> bool {
        let is_unfinished = self.ws.as_ref().is_some_and(|ws| ws.get_ref().is_unfinished());
        self.broken || self.flooded() || is_unfinished
    }

    /// Sends a close, after what was queued.
    pub async fn send(&mut self, message: Message) -> io::Result<()> {
        if self.reads_raw() {
            self.drop_buffers();
        }
        self.flush().await?;
        open(&mut self.ws)?.send(message).await.map_err(io::Error::other)
    }
}

type Tungstenite = WebSocketStream<Wire<Stream>>;

/// A new tungstenite over an open connection.
async fn over(wire: Wire<Stream>, most: usize) -> Tungstenite {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(most))
        .max_frame_size(Some(most));
    WebSocketStream::from_raw_socket(wire, Role::Server, Some(config)).await
}

fn open(ws: &mut Option<Tungstenite>) -> io::Result<&mut Tungstenite> {
    ws.as_mut().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
}
