//! The loop of a socket, from its hello to its end.

use super::super::bells::{Bells, Rang};
use super::super::frames::FrameIo;
use super::super::reader::Cut;
use super::courier::CourierDoor;
use super::ending::Ending;
use super::state::Socket;
use super::worker::Worker;
use crate::error::Error;
use crate::panics::{Panicked, contain};
use crate::web::pace::together;
use bytes::Bytes;
use serde_json::Value;
use std::convert::Infallible;
use std::pin::pin;
use tokio::time::{Instant, interval_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tracing::debug;

/// Why the task of a socket goes on.
enum Woken {
    Message(Option<Result<Message, WsError>>),
    Rung,
    Ping,
    Token,
    Failed(Option<Value>, Error),
    Rare(Rang),
}

impl Socket {
    // A task is as large as the largest of its futures, for as long as it lives. Rare futures therefore have a
    // box of their own, here and in serve; without them the task would be ten times as large.
    pub(super) async fn live(mut self: Box<Self>) {
        self.reader.app.metrics.sockets.inc();
        let (address, speaks) = (self.reader.address, self.hold.is_some());
        debug!(socket = self.reader.number, %address, speaks, "socket opened");
        let served = contain(pin!(self.serve())).await;
        let end = match served {
            Ok(Err(end)) => end,
            Err(Panicked) => Ending::Lost,
        };
        Box::pin(self.end(end)).await;
    }

    async fn serve(&mut self) -> Result<Infallible, Ending> {
        let bells = Bells::new(&self.reader.app, self.reader.number);
        Box::pin(self.first_beat()).await;
        Box::pin(self.greet()).await?;
        let every = self.reader.app.sessions.period;
        let mut ping = interval_at(together(Instant::now() + every), every);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let watcher = self.reader.watcher.clone();
        let mut rare = Box::pin(bells.next());
        self.open_door();
        loop {
            self.io.give_turn();
            let woken = tokio::select! {
                message = next_message(&mut self.io, &mut self.unread) => Woken::Message(message),
                () = watcher.rung() => Woken::Rung,
                _ = ping.tick() => Woken::Ping,
                () = self.reader.permit.due() => Woken::Token,
                (id, error) = Worker::failed(&mut self.worker) => Woken::Failed(id, error),
                (bells, rang) = &mut rare => {
                    rare = Box::pin(bells.next());
                    Woken::Rare(rang)
                }
            };
            self.io.take_turn();
            match woken {
                Woken::Message(message) => Box::pin(self.take(message)).await?,
                Woken::Rung => self.flush().await?,
                Woken::Ping => Box::pin(self.ping()).await?,
                Woken::Token => Box::pin(self.token_due()).await?,
                Woken::Failed(id, error) => Box::pin(self.refuse(id, error)).await?,
                Woken::Rare(rang) => Box::pin(self.answer(rang)).await?,
            }
        }
    }

    /// Couriers may write to the connection from now on, while the task waits.
    fn open_door(&mut self) {
        let Some(line) = self.io.line() else { return };
        let pass = self.reader.permit.pass().clone();
        let door = CourierDoor::new(self.reader.app.clone(), line.clone(), pass);
        self.reader.watcher.set_direct(Some(door.clone()));
        self.door = Some(door);
    }

    /// One of the bells that ring seldom.
    async fn answer(&mut self, rang: Rang) -> Result<(), Ending> {
        match rang {
            Rang::Health => {
                if self.reader.owes_status() {
                    // What a reconciliation found comes before the message that it is done.
                    self.flush().await?;
                    self.send_status().await?;
                }
                Ok(())
            }
            Rang::Opened => self.answer_waiting().await,
            Rang::Keys => self.token_due().await,
            Rang::Stop => Err(Cut::GoingAway.into()),
        }
    }

    async fn greet(&mut self) -> Result<(), Ending> {
        let greeting = self.reader.greeting(self.hold.as_ref().map(|hold| hold.key().user()));
        self.send_all(greeting.map(Bytes::from)).await
    }

    async fn send_status(&mut self) -> Result<(), Ending> {
        match self.reader.status() {
            Some(status) => self.send(status).await,
            None => Ok(()),
        }
    }

    /// The token may have expired, or its key may be gone; or it is time to warn that it will expire.
    async fn token_due(&mut self) -> Result<(), Ending> {
        match self.reader.token_due()? {
            Some(warning) => self.send(warning).await,
            None => Ok(()),
        }
    }
}

/// The message that was kept, or the next one.
async fn next_message(io: &mut FrameIo, unread: &mut Option<Message>) -> Option<Result<Message, WsError>> {
    match unread.take() {
        Some(message) => Some(Ok(message)),
        None => io.recv().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_task<A, F>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    /// Idle sockets cost what their tasks cost; one future more that is kept across the wait costs each of
    /// them its size.
    #[test]
    fn socket_task_is_small() {
        let (task, socket) = (size_of_task(Socket::live), size_of::<Socket>());
        assert!(task + socket <= 2048, "a task of {task} B and a socket of {socket} B");
    }
}
