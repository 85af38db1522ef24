//! WebSocket frames: tungstenite reads, and writes pings and closes; texts are written past it, without a copy.
//!
//! tungstenite copies each message into a buffer of its socket, and that buffer keeps its largest size for as long
//! as the socket lives: a snapshot of 1,000 users would cost 100 KB forever. A server does not mask its frames, so
//! one text serves all sockets, each with its own header.

use crate::error::Error;
use crate::panics::contain;
use crate::protocol::SUBPROTOCOL;
use crate::web::failure::Failure;
use axum::body::Body;
use axum::extract::{FromRequestParts, WebSocketUpgrade};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};
use tracing::debug;

/// Bytes. With tungstenite's default of 128 KiB a socket costs 134 KB. A longer message is read in several pieces.
const READ_BUFFER: usize = 512;
/// Frames in one write.
const FRAMES: usize = 32;
/// The first byte of a frame: FIN, and the opcode of a text.
const TEXT: u8 = 0x81;

/// A valid request for a WebSocket.
pub struct Upgrade {
    on_upgrade: OnUpgrade,
    key: HeaderValue,
    speaks_ours: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Upgrade, Failure> {
        let refuse = |why: String| Failure(Error::InvalidRequest(format!("/v1/ws speaks WebSocket: {why}")));
        let on_upgrade = parts.extensions.get::<OnUpgrade>().cloned();
        // axum's own extractor checks the request.
        drop(
            WebSocketUpgrade::from_request_parts(parts, state)
                .await
                .map_err(|why| refuse(why.body_text()))?,
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

impl Upgrade {
    /// Accepts the request, and runs `live` with the socket. A message may have `most` bytes.
    pub fn accept<F>(self, most: usize, live: impl FnOnce(FrameIo) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Upgrade { on_upgrade, key, speaks_ours } = self;
        tokio::spawn(contain(Box::pin(async move {
            match on_upgrade.await {
                // In another task: this one keeps the memory of the upgrade for as long as it lives.
                Ok(upgraded) => {
                    drop(tokio::spawn(contain(Box::pin(live(FrameIo::new(upgraded, most).await)))));
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
    ws: WebSocketStream<TokioIo<Upgraded>>,
    /// What is still to be written: a header, its text, the next header, …
    out: VecDeque<Bytes>,
}

impl FrameIo {
    async fn new(upgraded: Upgraded, most: usize) -> FrameIo {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(most))
            .max_frame_size(Some(most));
        let io = TokioIo::new(upgraded);
        let ws = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        FrameIo { ws, out: VecDeque::new() }
    }

    /// The next message. Call it only when every text is written: the answer to a ping would go between the bytes of
    /// a text.
    pub async fn recv(&mut self) -> Option<Result<Message, tungstenite::Error>> {
        self.ws.next().await
    }

    /// Queues texts for the next flush.
    pub fn put(&mut self, texts: impl IntoIterator<Item = Bytes>) {
        for text in texts {
            self.out.push_back(frame_header(text.len()));
            self.out.push_back(text);
        }
    }

    /// Writes what was queued, many frames at a time. It may be dropped before it ends; the next call continues.
    pub async fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.ws.flush().await.map_err(io::Error::other)?;
        while !self.out.is_empty() {
            let written = std::future::poll_fn(|cx| self.poll_write(cx)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.advance(written);
        }
        self.out = VecDeque::new();
        Ok(())
    }

    /// One write. The slices (1 KB) are built for each attempt: if they lived across an await they would be part of
    /// every socket's task.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); 2 * FRAMES];
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(&self.out) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        Pin::new(self.ws.get_mut()).poll_write_vectored(cx, &slices[..count])
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(front) = self.out.front_mut() {
            if written < front.len() {
                *front = front.slice(written..);
                return;
            }
            written -= front.len();
            self.out.pop_front();
        }
    }

    /// Sends a ping or a close, after what was queued.
    pub async fn send(&mut self, message: Message) -> io::Result<()> {
        self.flush().await?;
        self.ws.send(message).await.map_err(io::Error::other)
    }
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
}
