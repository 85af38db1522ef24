//! One WebSocket's life: hello, then messages in, transitions out, until one side ends it.

use super::asked::Asked;
use super::bells::{Bells, Rang};
use super::frames::{FrameIo, Upgrade};
use super::reader::{Cut, Reader, Snapshot};
use crate::error::Error;
use crate::lock::lock;
use crate::panics::{Panicked, contain};
use crate::presence::Key;
use crate::protocol::{ClientMessage, ServerMessage, close, schema};
use crate::web::access::auth::Pass;
use crate::web::access::token_watch::{self as permit, Permit};
use crate::web::app::{self, App, Shared};
use crate::web::describe::openapi::OfQuestion;
use crate::web::failure::Failure;
use crate::web::limits::connections::{Peer, Place};
use crate::web::limits::refusal_log::Refusal;
use axum::Extension;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, interval_at, timeout};
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tracing::debug;

/// Unanswered pings after which a socket is closed.
const UNANSWERED: u32 = 2;
/// The longest between two pings. A shorter TTL makes it a third of the TTL, so that one lost pong costs nothing.
const PING_MOST: Duration = Duration::from_secs(20);
/// How long a write may take before the client counts as gone.
const STUCK: Duration = Duration::from_secs(60);
/// How long the client may take to answer a close.
const GOODBYE: Duration = Duration::from_secs(1);
/// For the log: the codes of a normal close, and of a lost connection (RFC 6455, 7.4.1).
const NORMAL: u16 = 1000;
const ABNORMAL: u16 = 1006;
/// The route, for the log.
const ROUTE: &str = "/v1/ws";
/// Watches of one socket that may wait for the first reconciliation.
const WAITING: usize = 64;

#[derive(Deserialize)]
pub struct Who {
    user: Option<String>,
    session: Option<String>,
}

/// Changes as a WebSocket
///
/// Subprotocol `keybeat.v1`; the messages are described in [/asyncapi.json](/asyncapi.json).
#[utoipa::path(
    get,
    path = "/v1/ws",
    tag = "streams",
    params(
        ("user" = Option<schema::User>, Query, description = "Whom the socket keeps online for as long as it is open"),
        ("session" = Option<schema::Session>, Query, description = "In which session, with `user`; else in one of its own"),
    ),
    responses((status = 101, description = "The socket is open"), OfQuestion),
    security(("bearer" = []), ("token" = []))
)]
pub async fn upgrade(
    State(app): Shared,
    pass: Pass,
    Extension(peer): Extension<Peer>,
    who: Result<Query<Who>, axum::extract::rejection::QueryRejection>,
    ws: Result<Upgrade, Failure>,
) -> Response {
    let read = || -> Result<_, Error> {
        let Query(who) = who.map_err(|why| Error::InvalidRequest(why.body_text()))?;
        // A client's token says for whom the socket speaks.
        let user = who.user.or_else(|| pass.user().map(ToString::to_string));
        let key = match &user {
            None if who.session.is_some() => {
                let text = "session is given without user; connect with ?user=NAME&session=NAME";
                return Err(Error::InvalidRequest(text.into()));
            }
            None => None,
            Some(user) => {
                pass.check_speak(user)?;
                let own = || format!("ws-{:012x}", fastrand::u64(..1 << 48));
                Some(app::key(user, Some(&who.session.unwrap_or_else(own)))?)
            }
        };
        let ws = ws.map_err(|Failure(error)| error)?;
        let place = app.doors.sockets.enter(peer.0)?;
        if let Some(key) = &key {
            app.take_keys(&pass, &[(key.clone(), None)])?;
        }
        Ok((key, ws, place))
    };
    let (key, ws, place) = match read() {
        Ok(read) => read,
        Err(error) => return Failure(error).into_response(),
    };
    // Above our own limit, so that a message just over it is closed with its code, not cut off.
    let most = app.limits.message_bytes * 2;
    ws.accept(most, move |io| {
        let sockets = app.sockets.clone();
        let permit = Permit::new(pass, &app.limits);
        sockets.track_future(Box::new(Socket::new(app, io, key, permit, place)).live())
    })
}

/// Why a socket ends.
enum Ending {
    /// We close it, with a code and a reason.
    Close(u16, &'static str),
    /// The client closed it in good order.
    Goodbye,
    /// The connection is gone.
    Lost,
}

impl From<Cut> for Ending {
    fn from(cut: Cut) -> Ending {
        let (code, reason) = match cut {
            Cut::TokenExpired => (close::TOKEN_EXPIRED, "token_expired: renew the token, then reconnect"),
            Cut::TooSlow => (close::TOO_SLOW, "too_slow: reconnect and take a new snapshot"),
            Cut::Crowded => (close::TRY_LATER, "try_later: too much waits for slow clients, reconnect later"),
            Cut::GoingAway => (close::GOING_AWAY, "going_away: the daemon stops, reconnect"),
        };
        Ending::Close(code, reason)
    }
}

struct Socket {
    reader: Reader,
    io: FrameIo,
    /// The presence key that the socket keeps alive, and whether it still does.
    key: Option<Key>,
    beats: bool,
    /// Counted among the open sockets until it is dropped.
    _place: Place,
    /// Watches that came before the first reconciliation.
    waiting: Vec<(Option<Value>, ClientMessage)>,
    unanswered: u32,
    /// The metrics count it among the watchers.
    counted: bool,
}

impl Socket {
    fn new(app: Arc<App>, io: FrameIo, key: Option<Key>, permit: Permit, place: Place) -> Socket {
        Socket {
            reader: Reader::new(app, place.address(), permit),
            io,
            beats: key.is_some(),
            key,
            _place: place,
            waiting: Vec::new(),
            unanswered: 0,
            counted: false,
        }
    }

    // A task is as large as the largest of its futures, for as long as it lives. Rare futures therefore have a
    // box of their own, here and in serve; without them the task would be ten times as large.
    async fn live(mut self: Box<Self>) {
        self.reader.app.metrics.sockets.inc();
        let (address, speaks) = (self.reader.address, self.key.is_some());
        debug!(socket = self.reader.number, %address, speaks, "socket opened");
        self.hold_key();
        let served = contain(pin!(self.serve())).await;
        let end = match served {
            Ok(Ok(())) => Ending::Goodbye,
            Ok(Err(end)) => end,
            Err(Panicked) => Ending::Lost,
        };
        Box::pin(self.end(end)).await;
    }

    async fn end(&mut self, end: Ending) {
        if matches!(end, Ending::Close(close::TOO_BIG, _)) {
            self.reader.app.metrics.limited("message_bytes");
        }
        self.forget();
        self.log_end(&end);
        let last = self.release_key();
        match end {
            Ending::Close(code, reason) => self.close(code, reason).await,
            Ending::Goodbye => {
                if last {
                    self.end_key().await;
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
            Ending::Goodbye => (NORMAL, "goodbye"),
            Ending::Lost => (ABNORMAL, "lost"),
        };
        let (address, lasted_ms) = (self.reader.address, self.reader.opened.elapsed().as_millis() as u64);
        debug!(socket = self.reader.number, %address, code, end = name, lasted_ms, "socket closed");
        if matches!(end, Ending::Close(code, _) if !matches!(*code, close::GOING_AWAY | close::NO_PONG)) {
            self.reader.app.refusals.log(&Refusal { address, route: ROUTE, code: name, status: code });
        }
    }

    async fn serve(&mut self) -> Result<(), Ending> {
        let bells = Bells::new(&self.reader.app);
        Box::pin(self.beat()).await;
        Box::pin(self.greet()).await?;
        let every = (self.reader.app.store.ttl() / 3).clamp(Duration::from_millis(100), PING_MOST);
        let mut ping = interval_at(Instant::now() + every, every);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let watcher = self.reader.watcher.clone();
        let mut rare = Box::pin(bells.next());
        loop {
            tokio::select! {
                message = self.io.recv() => Box::pin(self.take(message)).await?,
                () = watcher.rung() => self.flush().await?,
                _ = ping.tick() => Box::pin(self.ping()).await?,
                () = self.reader.permit.due() => Box::pin(self.token_due()).await?,
                (bells, rang) = &mut rare => {
                    rare = Box::pin(bells.next());
                    Box::pin(self.answer(rang)).await?;
                }
            }
        }
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
            Rang::Opened => {
                for (id, message) in std::mem::take(&mut self.waiting) {
                    self.obey(id, message).await?;
                }
                Ok(())
            }
            Rang::Keys => self.token_due().await,
            Rang::Stop => Err(Cut::GoingAway.into()),
        }
    }

    async fn greet(&mut self) -> Result<(), Ending> {
        let hello = self.reader.hello(self.key.as_ref().map(Key::user));
        self.send(hello).await?;
        self.send_status().await
    }

    async fn send_status(&mut self) -> Result<(), Ending> {
        match self.reader.status() {
            Some(status) => self.send(status).await,
            None => Ok(()),
        }
    }

    /// What the client sent.
    async fn take(&mut self, message: Option<Result<Message, WsError>>) -> Result<(), Ending> {
        self.unanswered = 0;
        if matches!(message, Some(Ok(_))) && !self.reader.permit.allows_another() {
            self.reader.app.metrics.limited("messages_per_second");
            return Err(Ending::Close(close::TOO_MANY, "too_many: more messages than allowed, slow down"));
        }
        match message {
            None => Err(Ending::Lost),
            Some(Err(why)) if is_too_long(&why) => Err(too_big()),
            Some(Err(why)) => {
                debug!(socket = self.reader.number, %why, "a socket was lost");
                Err(Ending::Lost)
            }
            Some(Ok(Message::Close(_))) => Err(Ending::Goodbye),
            Some(Ok(Message::Pong(_))) => {
                self.beat().await;
                Ok(())
            }
            Some(Ok(Message::Ping(_) | Message::Frame(_))) => Ok(()),
            Some(Ok(Message::Text(text))) if text.len() > self.reader.app.limits.message_bytes => {
                Err(too_big())
            }
            Some(Ok(Message::Binary(bytes))) if bytes.len() > self.reader.app.limits.message_bytes => {
                Err(too_big())
            }
            Some(Ok(Message::Binary(_))) => {
                self.refuse(
                    None,
                    Error::InvalidRequest("send JSON as a text message, not a binary one".into()),
                )
                .await
            }
            Some(Ok(Message::Text(text))) => {
                let (id, message) = ClientMessage::parse(&text);
                match message {
                    Ok(message) => self.obey(id, message).await,
                    Err(error) => self.refuse(id, error).await,
                }
            }
        }
    }

    async fn obey(&mut self, id: Option<Value>, message: ClientMessage) -> Result<(), Ending> {
        if let Err(error) = self.reader.permit.check(&message) {
            return self.refuse_forbidden(id, error).await;
        }
        let is_watch = matches!(message, ClientMessage::Watch { .. });
        if is_watch && !*self.reader.app.hub.opened().borrow() {
            // Nobody's state is known yet; the answer follows the first comparison.
            if self.waiting.len() == WAITING {
                return self.refuse(id, Error::NotReady).await;
            }
            self.waiting.push((id, message));
            return Ok(());
        }
        let done = match message {
            ClientMessage::Watch { users: None, all: true, lossless, replace: false } => {
                return self.watch_all(id, lossless).await;
            }
            ClientMessage::Watch { users: Some(users), all: false, lossless: false, replace } => {
                return self.watch(id, users, replace).await;
            }
            ClientMessage::Watch { .. } => Err(Error::InvalidRequest(
                "watch takes either users (and with them replace), or all (and with it lossless)".into(),
            )),
            ClientMessage::Unwatch { users: Some(users), all: false } => {
                self.unwatch(&users);
                Ok(())
            }
            ClientMessage::Unwatch { users: None, all: true } => {
                self.flush().await?;
                self.reader.app.hub.unwatch_all(&self.reader.watcher);
                self.reader.all = false;
                self.count_watching();
                Ok(())
            }
            ClientMessage::Unwatch { .. } => {
                Err(Error::InvalidRequest("unwatch takes either users, or all".into()))
            }
            ClientMessage::Heartbeat { user } => self.heartbeat(user).await,
            ClientMessage::Leave => self.leave().await,
            ClientMessage::Ping => return self.send(ServerMessage::Pong { id }.encode()).await,
            ClientMessage::Auth { token } => return self.renew(id, &token.0).await,
        };
        match done {
            Ok(()) => Ok(()),
            Err(error) => self.refuse(id, error).await,
        }
    }

    async fn watch(&mut self, id: Option<Value>, users: Vec<String>, replace: bool) -> Result<(), Ending> {
        let asked = self.sort_out(users, replace)?;
        let users = &asked.accepted;
        if replace {
            let asked: HashSet<&str> = users.iter().map(String::as_str).collect();
            let left = self.reader.watched.keep(|user| asked.contains(user));
            left.iter().for_each(|user| self.reader.app.hub.unwatch(&self.reader.watcher, user));
        }
        // One chunk, however long: all of it answers one message.
        let snapshot = self.reader.watch(users, id, usize::MAX).refusing(asked.answers());
        self.count_watching();
        self.send_snapshot(snapshot).await
    }

    /// Decides for each user of a watch, and counts and logs the refusals.
    fn sort_out(&mut self, users: Vec<String>, replace: bool) -> Result<Asked, Ending> {
        let Reader { app, permit: own, watched, address, .. } = &mut self.reader;
        let held = if replace { 0 } else { watched.len() };
        let asked = Asked::new(app, own.pass(), users, held, |user| !replace && watched.contains(user));
        for (code, status) in asked.count_refused(app) {
            app.refusals.log(&Refusal { address: *address, route: ROUTE, code, status });
        }
        // A watch that names somebody good too is an ordinary list, however many others it names.
        match asked.refused.first().filter(|_| asked.accepted.is_empty()) {
            Some((_, error)) if own.gives_up(error) => {
                Err(Ending::Close(close::FORBIDDEN, permit::FORBIDDEN))
            }
            _ => Ok(asked),
        }
    }

    async fn watch_all(&mut self, id: Option<Value>, lossless: bool) -> Result<(), Ending> {
        // First what follows the earlier snapshots.
        self.flush().await?;
        if lossless {
            self.reader.watcher.make_lossless(self.reader.app.limits.lossless_pending);
        }
        let snapshot = self.reader.watch_all(id);
        self.count_watching();
        self.send_snapshot(snapshot).await
    }

    async fn send_snapshot(&mut self, mut snapshot: Snapshot) -> Result<(), Ending> {
        while let Some(chunk) = snapshot.next() {
            self.send(chunk).await?;
        }
        Ok(())
    }

    fn unwatch(&mut self, users: &[String]) {
        for user in users {
            if self.reader.watched.remove(user) {
                self.reader.app.hub.unwatch(&self.reader.watcher, user);
            }
        }
        self.count_watching();
    }

    fn count_watching(&mut self) {
        let watching = self.reader.all || !self.reader.watched.is_empty();
        if watching != self.counted {
            self.counted = watching;
            self.reader.app.metrics.watchers.inc_by(if watching { 1 } else { -1 });
        }
    }

    async fn heartbeat(&mut self, user: Option<String>) -> Result<(), Error> {
        let own = self.key.as_ref().map(Key::user);
        let key = match user {
            Some(other) if own != Some(&other) => app::key(&other, None)?,
            _ => {
                self.beats = true;
                self.key.clone().ok_or(Error::NoUser)?
            }
        };
        self.reader.app.beat(self.reader.permit.pass(), &[(key, None)]).await
    }

    async fn leave(&mut self) -> Result<(), Error> {
        let key = self.key.clone().ok_or(Error::NoUser)?;
        self.beats = false;
        self.reader.app.end(&[key]).await
    }

    /// Renews the socket's own key: the client has just proven that it is alive.
    async fn beat(&mut self) {
        let Some(key) = self.key.clone().filter(|_| self.beats) else {
            return;
        };
        if let Err(why) = self.reader.app.pulse(self.reader.permit.pass(), key).await {
            debug!(socket = self.reader.number, %why, "a socket's heartbeat was not written");
        }
    }

    /// Two sockets can keep one key: a page that is loaded again, while its old socket is still there.
    fn hold_key(&self) {
        if let Some(key) = &self.key {
            let mut held = lock(&self.reader.app.held);
            *held.entry(key.clone()).or_default() += 1;
        }
    }

    /// Whether this was the last socket that keeps the key.
    fn release_key(&self) -> bool {
        let Some(key) = &self.key else { return true };
        let mut held = lock(&self.reader.app.held);
        let left = held.get_mut(key).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if left == 0 {
            held.remove(key);
        }
        left == 0
    }

    async fn end_key(&mut self) {
        let Some(key) = self.key.clone().filter(|_| self.beats) else {
            return;
        };
        if let Err(why) = self.reader.app.end(&[key]).await {
            debug!(socket = self.reader.number, %why, "a socket's key was not deleted, its TTL will end it");
        }
    }

    async fn ping(&mut self) -> Result<(), Ending> {
        if self.unanswered == UNANSWERED {
            return Err(Ending::Close(close::NO_PONG, "no_pong: two pings were not answered, reconnect"));
        }
        self.unanswered += 1;
        match timeout(STUCK, self.io.send(Message::Ping(Default::default()))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ending::Lost),
            Err(_) => Err(Ending::Close(close::NO_PONG, "no_pong: nothing was read for a minute, reconnect")),
        }
    }

    /// The token may have expired, or its key may be gone; or it is time to warn that it will expire.
    async fn token_due(&mut self) -> Result<(), Ending> {
        match self.reader.token_due()? {
            Some(warning) => self.send(warning).await,
            None => Ok(()),
        }
    }

    /// Takes a new token in place of the one before.
    async fn renew(&mut self, id: Option<Value>, token: &str) -> Result<(), Ending> {
        let speaks = self.key.as_ref().map(Key::user);
        let (watched, all) = (self.reader.watched.iter(), self.reader.all);
        let pass = self.reader.app.gate.check(token);
        match pass.and_then(|pass| self.reader.permit.renew(pass, speaks, watched, all)) {
            Ok(()) => self.send(self.reader.permit.renewed(id).encode()).await,
            Err(error) => self.refuse_forbidden(id, error).await,
        }
    }

    /// Refuses a message. A client that asks again and again for what its token does not allow is closed.
    async fn refuse_forbidden(&mut self, id: Option<Value>, error: Error) -> Result<(), Ending> {
        if self.reader.permit.gives_up(&error) {
            self.reader.app.metrics.refused(error.code());
            return Err(Ending::Close(close::FORBIDDEN, permit::FORBIDDEN));
        }
        self.refuse(id, error).await
    }

    async fn refuse(&mut self, id: Option<Value>, error: Error) -> Result<(), Ending> {
        let (code, status) = (error.code(), error.status());
        self.reader.app.metrics.refused(code);
        self.reader.app.refusals.log(&Refusal { address: self.reader.address, route: ROUTE, code, status });
        self.send(ServerMessage::error(id, &error).encode()).await
    }

    /// Sends what is pending.
    async fn flush(&mut self) -> Result<(), Ending> {
        for round in 0.. {
            let messages = self.reader.pending()?;
            if messages.is_empty() {
                return Ok(());
            }
            self.send_all(messages.into_iter().map(|message| message.text)).await?;
            // A client that never catches up never gets to the bells.
            if round > 0 && self.reader.app.stop.is_cancelled() {
                return Err(Cut::GoingAway.into());
            }
        }
        Ok(())
    }

    async fn send(&mut self, text: String) -> Result<(), Ending> {
        let sent = self.send_all([text.into()]).await;
        // The wait for a slow client takes the bell's rings; the next flush looks again.
        self.reader.watcher.ring();
        sent
    }

    /// Writes messages. Gives up if the client reads nothing at all for a minute, or may no longer be served.
    async fn send_all(&mut self, texts: impl IntoIterator<Item = Bytes>) -> Result<(), Ending> {
        self.io.put(texts);
        // Mostly the kernel takes them at once.
        if let Some(sent) = self.io.flush().now_or_never() {
            return sent.map_err(|_| Ending::Lost);
        }
        let sent = tokio::select! {
            biased;
            sent = timeout(STUCK, self.io.flush()) => sent,
            cut = Box::pin(self.reader.cut()) => return Err(cut.into()),
        };
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ending::Lost),
            Err(_) => Err(Ending::Close(close::NO_PONG, "no_pong: nothing was read for a minute, reconnect")),
        }
    }

    fn forget(&mut self) {
        self.reader.unwatch_everything();
        self.count_watching();
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
        let rest = async { while let Some(Ok(_)) = self.io.recv().await {} };
        if timeout(GOODBYE, rest).await.is_err() {
            debug!(socket = self.reader.number, "a socket did not end its close");
        }
    }
}

fn too_big() -> Ending {
    Ending::Close(close::TOO_BIG, "too_big: the message is longer than allowed")
}

fn is_too_long(why: &WsError) -> bool {
    matches!(why, WsError::Capacity(CapacityError::MessageTooLong { .. }))
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
    fn a_socket_s_task_is_small() {
        let (task, socket) = (size_of_task(Socket::live), size_of::<Socket>());
        assert!(task + socket <= 2048, "a task of {task} B and a socket of {socket} B");
    }
}
