//! Writes of a socket, and how long a client may read nothing.

use super::super::frames::Moved;
use super::super::reader::Cut;
use super::ending::Ending;
use super::state::Socket;
use crate::hub::NextStatuses;
use crate::protocol::close;
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::{Instant, interval_at, sleep_until};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::Error as WsError;

impl Socket {
    /// Sends what is pending.
    pub(super) async fn flush(&mut self) -> Result<(), Ending> {
        if self.io.queued_bytes() > 0 {
            // A courier could not write it.
            self.send_all([]).await?;
        }
        for round in 0.. {
            // Members come before their transitions.
            if self.reader.watcher.owes_groups() && Box::pin(self.send_group_message()).await? {
                continue;
            }
            let messages = self.reader.pending()?;
            if !messages.is_empty() {
                self.send_all(messages.into_iter().map(|message| message.text)).await?;
            } else if let NextStatuses::Message(statuses) = self.reader.statuses()? {
                self.send_all([statuses]).await?;
            } else if !self.reader.watcher.owes_groups() {
                return Ok(());
            }
            // A client that never catches up never gets to the bells.
            if round > 0 && self.reader.app.shutdown.is_stopping() {
                return Err(Cut::GoingAway.into());
            }
        }
        Ok(())
    }

    pub(super) async fn send(&mut self, text: impl Into<Bytes>) -> Result<(), Ending> {
        let sent = self.send_all([text.into()]).await;
        // The wait for a slow client takes the bell's rings; the next flush looks again.
        self.reader.watcher.ring();
        sent
    }

    /// Writes messages. Gives up if the client reads nothing at all for `--write-timeout`, or may no longer be served.
    pub(super) async fn send_all(&mut self, texts: impl IntoIterator<Item = Bytes>) -> Result<(), Ending> {
        self.io.put(texts);
        // Mostly the kernel takes them at once.
        match self.io.flush().now_or_never() {
            Some(flushed) => flushed.map_err(|_| Ending::Lost),
            None => {
                // Both wait for the client, and count in the memory for all queues.
                self.reader.watcher.charge(self.io.queued_bytes() + self.snapshot_bytes);
                Box::pin(self.send_slowly()).await?;
                self.reader.watcher.charge(0);
                Ok(())
            }
        }
    }

    /// Writes as fast as the client reads. Each part that it takes is a sign of life, and so are its pongs, which are read
    /// meanwhile.
    async fn send_slowly(&mut self) -> Result<(), Ending> {
        let (period, most) = (self.reader.app.sessions.period, self.reader.app.limits.write_timeout);
        let mut ping = interval_at(Instant::now() + period, period);
        let mut progress = Instant::now();
        loop {
            let moved = tokio::select! {
                biased;
                moved = self.io.moved(self.unread.is_none()) => moved,
                cut = Box::pin(self.reader.cut()) => return Err(cut.into()),
                _ = ping.tick() => {
                    self.io.put_ping();
                    continue;
                }
                () = sleep_until(progress + most) => {
                    self.reader.app.metrics.limited("write_timeout");
                    let reason = "no_pong: the client read nothing for too long, reconnect";
                    return Err(Ending::Close(close::NO_PONG, reason));
                }
            };
            match moved {
                Moved::Flushed(flushed) => return flushed.map_err(|_| Ending::Lost),
                Moved::Progress => {
                    progress = Instant::now();
                    self.sign_of_life();
                }
                Moved::Read(message) => self.read_aside(message)?,
            }
        }
    }

    /// A message that came while a write had to wait: one that needs an answer is kept until then.
    fn read_aside(&mut self, message: Option<Result<Message, WsError>>) -> Result<(), Ending> {
        match message {
            Some(Ok(Message::Close(frame))) => Err(Ending::goodbye(frame.as_ref())),
            Some(Ok(message)) => {
                self.sign_of_life();
                self.unread = matches!(message, Message::Text(_) | Message::Binary(_)).then_some(message);
                Ok(())
            }
            Some(Err(why)) => Err(self.broken(&why)),
            None => Err(Ending::Lost),
        }
    }
}
