//! The end of a socket: what is released, logged and sent.

use super::ending::Ending;
use super::messages::ROUTE;
use super::state::Socket;
use crate::panics::contain;
use crate::protocol::close;
use crate::web::limits::refusal_log::Refusal;
use std::time::Duration;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tracing::debug;

/// How long the client may take to answer a close.
const GOODBYE: Duration = Duration::from_secs(1);
/// For the log: the code of a lost connection (RFC 6455, 7.4.1).
const ABNORMAL: u16 = 1006;

impl Socket {
    pub(super) async fn end(&mut self, end: Ending) {
        if matches!(end, Ending::Close(close::TOO_BIG, _)) {
            self.reader.app.metrics.limited("message_bytes");
        }
        self.reader.watcher.set_direct(None);
        self.io.take_turn();
        self.forget();
        self.log_end(&end);
        let hold = self.hold.take();
        match end {
            // Its key is left to its TTL.
            Ending::Close(code, reason) => self.close(code, reason).await,
            Ending::Goodbye(code) => {
                // In a task of its own: a client opens its next socket when this one is closed, and keeps the session.
                if let Some(hold) = hold {
                    // The page of the socket reloads or navigates.
                    let returns = code == close::GOING_AWAY;
                    let grace = if returns { self.reader.app.sessions.close_grace } else { Duration::ZERO };
                    self.reader.app.sockets.spawn(contain(Box::pin(hold.close(grace))));
                }
                self.finish_close().await;
            }
            Ending::Lost => {}
        }
        self.reader.app.metrics.sockets.dec();
    }

    /// Logs why the socket ended, and after how long. If the daemon turned it away, that is also a refusal.
    fn log_end(&self, end: &Ending) {
        let (code, name) = match *end {
            Ending::Close(code, reason) => (code, reason.split(':').next().unwrap_or(reason)),
            Ending::Goodbye(code) => (code, "goodbye"),
            Ending::Lost => (ABNORMAL, "lost"),
        };
        let (address, lasted_ms) = (self.reader.address, self.reader.opened.elapsed().as_millis() as u64);
        debug!(socket = self.reader.number, %address, code, end = name, lasted_ms, "socket closed");
        if matches!(end, Ending::Close(code, _) if !matches!(*code, close::GOING_AWAY | close::NO_PONG)) {
            self.reader.app.refusals.log(&Refusal { address, route: ROUTE, code: name, status: code });
        }
    }

    /// Closes with a code, and waits a moment for the answer: without it the code could be lost.
    async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
        match timeout(GOODBYE, self.io.send(Message::Close(Some(frame)))).await {
            Ok(Ok(())) => self.finish_close().await,
            _ => debug!(socket = self.reader.number, code, "a socket did not take its close"),
        }
    }

    /// Reads until the other side has ended, which also sends the answer to its own close.
    async fn finish_close(&mut self) {
        if timeout(GOODBYE, self.io.finish()).await.is_err() {
            debug!(socket = self.reader.number, "a socket did not end its close");
        }
    }
}
