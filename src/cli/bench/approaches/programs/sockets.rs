//! The common part of the programs with sockets: a client connects as a user, watches its contacts, and sends heartbeats.

use super::watchers::{Watcher, Watchers, snapshot};
use anyhow::Result;
use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// How long a server waits for a client to take its messages.
const WRITE: Duration = Duration::from_secs(5);

/// The handling of clients' messages by an approach. An error means that Redis was out of reach; the message is lost.
pub trait Program: Send + Sync + 'static {
    /// The sockets that watch.
    fn watchers(&self) -> &Watchers;
    /// A user is offline so long after the last heartbeat.
    fn ttl(&self) -> Duration;
    /// A client has sent its user's heartbeat.
    fn beat(&self, user: &str) -> impl Future<Output = Result<()>> + Send;
    /// A client says that its user leaves.
    fn leave(&self, user: &str) -> impl Future<Output = Result<()>> + Send;
    /// The server that has the user's socket has received no heartbeat for a TTL.
    fn silent(&self, user: &str) -> impl Future<Output = Result<()>> + Send;
    /// A client watches these users from now on. Returns those who are online; `None` if the program does not know.
    fn watch(&self, users: &[String]) -> impl Future<Output = Result<Option<Vec<String>>>> + Send;
}

/// A message of a client, as keybeat reads it.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum FromClient {
    Heartbeat,
    Leave,
    Watch { users: Vec<String> },
}

#[derive(Deserialize)]
struct WhoConnects {
    user: String,
}

struct Served<P> {
    program: Arc<P>,
    sockets: AtomicU64,
}

/// The path of keybeat's WebSocket, served by this program.
pub fn router<P: Program>(program: Arc<P>) -> Router {
    let served = Arc::new(Served { program, sockets: AtomicU64::new(0) });
    Router::new().route("/v1/ws", get(upgrade::<P>)).with_state(served)
}

async fn upgrade<P: Program>(
    State(served): State<Arc<Served<P>>>,
    Query(who): Query<WhoConnects>,
    socket: WebSocketUpgrade,
) -> Response {
    let (id, program) = (served.sockets.fetch_add(1, Relaxed), served.program.clone());
    socket.on_upgrade(move |socket| live(program, who.user, id, socket))
}

/// The life of a socket, and the user's timer after it.
async fn live<P: Program>(program: Arc<P>, user: String, id: u64, socket: WebSocket) {
    let (watcher, messages) = Watcher::new(id);
    let mut life = Life { program, user, watcher, watched: Vec::new(), silent_at: None };
    life.follow(socket, messages).await;
    life.program.watchers().remove(&life.watcher, &life.watched);
    // A broken connection is not a user who leaves: the timer decides.
    if let Some(silent_at) = life.silent_at {
        sleep_until(silent_at).await;
        drop(life.program.silent(&life.user).await);
    }
}

struct Life<P> {
    program: Arc<P>,
    user: String,
    watcher: Watcher,
    watched: Vec<String>,
    /// When the user has been silent for a TTL.
    silent_at: Option<Instant>,
}

impl<P: Program> Life<P> {
    async fn follow(&mut self, socket: WebSocket, mut messages: tokio::sync::mpsc::Receiver<Message>) {
        let (mut sink, mut source) = socket.split();
        let too_slow = self.watcher.too_slow.clone();
        loop {
            let silent_at = self.silent_at;
            let silence = async {
                match silent_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = messages.recv() => {
                    let Some(message) = message else { return };
                    // All messages that wait go out with one write.
                    let write = async {
                        sink.feed(message).await?;
                        while let Ok(message) = messages.try_recv() {
                            sink.feed(message).await?;
                        }
                        sink.flush().await
                    };
                    if !matches!(timeout(WRITE, write).await, Ok(Ok(()))) { return }
                }
                received = source.next() => match received {
                    Some(Ok(Message::Text(text))) => self.take(&text).await,
                    Some(Ok(_)) => {}
                    _ => return,
                },
                () = silence => {
                    self.silent_at = None;
                    drop(self.program.silent(&self.user).await);
                }
                () = too_slow.cancelled() => return,
            }
        }
    }

    /// What Redis refuses is lost: the next heartbeat comes soon, and a client asks again when it reconnects.
    async fn take(&mut self, text: &str) {
        match serde_json::from_str(text) {
            Ok(FromClient::Heartbeat) => {
                drop(self.program.beat(&self.user).await);
                // Not before: the program checks with an instant of its own.
                self.silent_at = Some(Instant::now() + self.program.ttl());
            }
            Ok(FromClient::Leave) => {
                self.silent_at = None;
                drop(self.program.leave(&self.user).await);
            }
            // Watch first, then read: a change in between is sent after the snapshot.
            Ok(FromClient::Watch { users }) => {
                self.watcher.hold();
                self.program.watchers().add(&self.watcher, &users);
                let online = self.program.watch(&users).await.ok().flatten();
                let snapshot = online.map(|online| Message::Text(snapshot(&users, &online).into()));
                self.watcher.release(snapshot);
                self.watched.extend(users);
            }
            Err(_) => {}
        }
    }
}
