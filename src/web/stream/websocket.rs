//! One WebSocket's life: hello, then messages in, transitions out, until one side ends it.

use crate::error::Error;
use crate::hub::{Overflow, Status, Watcher};
use crate::lock::lock;
use crate::panics::{Panicked, contain};
use crate::presence::{Key, check_user};
use crate::protocol::{ClientMessage, RedisWord, ServerMessage, UserObject, close, schema};
use crate::web::access::auth::Pass;
use crate::web::access::token_watch::{self as permit, Permit};
use crate::web::app::{self, App, Shared};
use crate::web::describe::openapi::OfQuestion;
use crate::web::failure::Failure;
use crate::web::limits::connections::{Peer, Place};
use crate::web::limits::refusal_log::Refusal;
use crate::web::stream::frames::{Upgrade, Wire};
use crate::web::stream::names::NameSet;
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
use tokio::sync::watch;
use tokio::time::{Instant, interval_at, timeout};
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Users in one chunk of the snapshot of everybody.
const CHUNK: usize = 1_000;
/// Pings that may be unanswered.
const UNANSWERED: u32 = 2;
/// The longest between two pings. With a TTL it is a third of that, so that a pong lost costs nothing.
const PING_MOST: Duration = Duration::from_secs(20);
/// How long a client may take in nothing at all before it counts as gone.
const STUCK: Duration = Duration::from_secs(60);
/// How long the other side may take to answer a close.
const GOODBYE: Duration = Duration::from_secs(1);
/// The codes of a close in good order, and of none at all (RFC 6455, 7.4.1), for the log.
const NORMAL: u16 = 1000;
const ABNORMAL: u16 = 1006;
/// What the log calls the place.
const ROUTE: &str = "/v1/ws";
/// Watches that may wait for the first comparison with Redis.
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
    ws.accept(most, move |wire| {
        let sockets = app.sockets.clone();
        let permit = Permit::new(pass, &app.limits);
        sockets.track_future(Box::new(Socket::new(app, wire, key, permit, place)).live())
    })
}

/// Why a socket ends.
enum End {
    /// We close it, with a code and a reason.
    Close(u16, &'static str),
    /// The client closed it in good order.
    Goodbye,
    /// The connection is gone.
    Lost,
}

/// What all sockets listen to, and what rings seldom. They wait for it in one future that outlives a
/// transition: to take each from the list of those who wait and to put it there again would cost every
/// delivery four locks that all sockets share.
struct Bells {
    status: watch::Receiver<Status>,
    opened: watch::Receiver<bool>,
    keys: watch::Receiver<u64>,
    stop: CancellationToken,
}

/// Which of them rang.
enum Rang {
    Status,
    Opened,
    Keys,
    Stop,
}

impl Bells {
    fn new(app: &App) -> Bells {
        let (status, opened) = (app.hub.status(), app.hub.opened());
        Bells { status, opened, keys: app.gate.changed(), stop: app.stop.clone() }
    }

    async fn next(mut self) -> (Bells, Rang) {
        let rang = tokio::select! {
            Ok(()) = self.status.changed() => Rang::Status,
            Ok(()) = self.opened.changed() => Rang::Opened,
            Ok(()) = self.keys.changed() => Rang::Keys,
            () = self.stop.cancelled() => Rang::Stop,
        };
        (self, rang)
    }
}

struct Socket {
    app: Arc<App>,
    /// Tells it from others in the log.
    number: u64,
    opened: Instant,
    wire: Wire,
    /// The presence key that the socket keeps alive, and whether it still does.
    key: Option<Key>,
    beats: bool,
    /// What the socket may do, and until when.
    permit: Permit,
    place: Place,
    watcher: Arc<Watcher>,
    watched: NameSet,
    all: bool,
    /// Watches that came before the first comparison with Redis.
    waiting: Vec<(Option<Value>, ClientMessage)>,
    unanswered: u32,
    /// Counted among those who watch somebody.
    counted: bool,
}

impl Socket {
    fn new(app: Arc<App>, wire: Wire, key: Option<Key>, permit: Permit, place: Place) -> Socket {
        let watcher = app.hub.watcher();
        Socket {
            beats: key.is_some(),
            number: app.number(),
            opened: Instant::now(),
            app,
            wire,
            key,
            permit,
            place,
            watcher,
            watched: NameSet::default(),
            all: false,
            waiting: Vec::new(),
            unanswered: 0,
            counted: false,
        }
    }

    // A task is as large as all that any of its ways may have to keep, for as long as it lives. What is rare
    // has therefore a box of its own, here and in serve, and the task is a tenth of what it would be.
    async fn live(mut self: Box<Self>) {
        self.app.metrics.sockets.inc();
        let (address, speaks) = (self.place.address(), self.key.is_some());
        debug!(socket = self.number, %address, speaks, "socket opened");
        self.hold_key();
        let served = contain(pin!(self.serve())).await;
        let end = match served {
            Ok(Ok(())) => End::Goodbye,
            Ok(Err(end)) => end,
            Err(Panicked) => End::Lost,
        };
        Box::pin(self.end(end)).await;
    }

    async fn end(&mut self, end: End) {
        if matches!(end, End::Close(close::TOO_BIG, _)) {
            self.app.metrics.limited("message_bytes");
        }
        self.forget();
        self.tell_end(&end);
        let last = self.release_key();
        match end {
            End::Close(code, reason) => self.close(code, reason).await,
            End::Goodbye => {
                if last {
                    self.end_key().await;
                }
                self.finish_close().await;
            }
            End::Lost => {}
        }
        self.app.metrics.sockets.dec();
    }

    /// Why it ended, and after how long; one whom we turned away is also a refusal.
    fn tell_end(&self, end: &End) {
        let (code, name) = match *end {
            End::Close(code, reason) => (code, reason.split(':').next().unwrap_or(reason)),
            End::Goodbye => (NORMAL, "goodbye"),
            End::Lost => (ABNORMAL, "lost"),
        };
        let (address, lasted_ms) = (self.place.address(), self.opened.elapsed().as_millis() as u64);
        debug!(socket = self.number, %address, code, end = name, lasted_ms, "socket closed");
        if matches!(end, End::Close(code, _) if !matches!(*code, close::GOING_AWAY | close::NO_PONG)) {
            self.app.refusals.log(&Refusal { address, route: ROUTE, code: name, status: code });
        }
    }

    async fn serve(&mut self) -> Result<(), End> {
        let mut bells = Bells::new(&self.app);
        Box::pin(self.beat()).await;
        Box::pin(self.hello()).await?;
        let mut up = bells.status.borrow_and_update().up;
        if !up {
            Box::pin(self.tell_status()).await?;
        }
        let every = (self.app.store.ttl() / 3).clamp(Duration::from_millis(100), PING_MOST);
        let mut ping = interval_at(Instant::now() + every, every);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let watcher = self.watcher.clone();
        let mut rare = Box::pin(bells.next());
        loop {
            tokio::select! {
                message = self.wire.recv() => Box::pin(self.take(message)).await?,
                () = watcher.rung() => self.flush().await?,
                _ = ping.tick() => Box::pin(self.ping()).await?,
                () = self.permit.due() => Box::pin(self.check_token()).await?,
                (bells, rang) = &mut rare => {
                    rare = Box::pin(bells.next());
                    Box::pin(self.hear(rang, &mut up)).await?;
                }
            }
        }
    }

    /// What rings seldom.
    async fn hear(&mut self, rang: Rang, up: &mut bool) -> Result<(), End> {
        match rang {
            Rang::Status => {
                let now = self.app.hub.status().borrow().up;
                if now != *up {
                    *up = now;
                    // What a comparison has found comes before the word that it is done.
                    self.flush().await?;
                    self.tell_status().await?;
                }
                Ok(())
            }
            Rang::Opened => {
                for (id, message) in std::mem::take(&mut self.waiting) {
                    self.obey(id, message).await?;
                }
                Ok(())
            }
            Rang::Keys => self.check_token().await,
            Rang::Stop => Err(End::Close(close::GOING_AWAY, "going_away: the daemon stops, reconnect")),
        }
    }

    async fn hello(&mut self) -> Result<(), End> {
        let hello = ServerMessage::Hello {
            protocol: 1,
            epoch: self.app.hub.epoch().to_owned(),
            seq: self.app.hub.seq(),
            ttl_ms: self.app.store.ttl().as_millis() as u64,
            user: self.key.as_ref().map(|key| key.user().to_owned()),
        };
        self.send(hello.encode()).await
    }

    async fn tell_status(&mut self) -> Result<(), End> {
        let status = self.app.hub.status().borrow().clone();
        let redis = if status.up { RedisWord::Up } else { RedisWord::Down };
        self.send(ServerMessage::Status { redis, since_ms: status.since.as_ms() }.encode()).await
    }

    /// What the client sent.
    async fn take(&mut self, message: Option<Result<Message, WsError>>) -> Result<(), End> {
        self.unanswered = 0;
        if matches!(message, Some(Ok(_))) && !self.permit.allows_another() {
            self.app.metrics.limited("messages_per_second");
            return Err(End::Close(close::TOO_MANY, "too_many: more messages than allowed, slow down"));
        }
        match message {
            None => Err(End::Lost),
            Some(Err(why)) if is_too_long(&why) => Err(too_big()),
            Some(Err(why)) => {
                debug!(socket = self.number, %why, "a socket was lost");
                Err(End::Lost)
            }
            Some(Ok(Message::Close(_))) => Err(End::Goodbye),
            Some(Ok(Message::Pong(_))) => {
                self.beat().await;
                Ok(())
            }
            Some(Ok(Message::Ping(_) | Message::Frame(_))) => Ok(()),
            Some(Ok(Message::Text(text))) if text.len() > self.app.limits.message_bytes => Err(too_big()),
            Some(Ok(Message::Binary(bytes))) if bytes.len() > self.app.limits.message_bytes => Err(too_big()),
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

    async fn obey(&mut self, id: Option<Value>, message: ClientMessage) -> Result<(), End> {
        if let Err(error) = self.permit.check(&message) {
            return self.refuse_forbidden(id, error).await;
        }
        let is_watch = matches!(message, ClientMessage::Watch { .. });
        if is_watch && !*self.app.hub.opened().borrow() {
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
                self.app.hub.unwatch_all(&self.watcher);
                self.all = false;
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

    async fn watch(&mut self, id: Option<Value>, users: Vec<String>, replace: bool) -> Result<(), End> {
        if let Some((user, why)) = users.iter().find_map(|user| Some((user, check_user(user).err()?))) {
            return self.refuse(id, Error::user(user, why)).await;
        }
        let asked: HashSet<&str> = users.iter().map(String::as_str).collect();
        let held = if replace { 0 } else { self.watched.len() };
        let new = asked.iter().filter(|&&user| replace || !self.watched.contains(user)).count();
        let (count, most) = (held + new, self.app.limits.watches_per_socket);
        if count > most {
            self.app.metrics.limited("watches_per_socket");
            return self.refuse(id, Error::TooManyWatches { count, most }).await;
        }
        if replace {
            let left = self.watched.keep(|user| asked.contains(user));
            left.iter().for_each(|user| self.app.hub.unwatch(&self.watcher, user));
        }
        let stale = self.stale();
        let seq = self.app.hub.seq();
        let mut objects = Vec::with_capacity(users.len());
        let mut names = Vec::with_capacity(users.len());
        for user in &users {
            let (name, presence) = self.app.hub.watch_shared(&self.watcher, user);
            objects.push(UserObject::new(user, presence, stale));
            names.push(name);
        }
        self.watched.extend(names);
        self.count_watching();
        self.snapshot(id, seq, objects, false).await
    }

    async fn watch_all(&mut self, id: Option<Value>, lossless: bool) -> Result<(), End> {
        // First what is still to be said of the snapshots before.
        self.flush().await?;
        if lossless {
            self.watcher.make_lossless(self.app.limits.lossless_pending);
        }
        self.all = true;
        self.count_watching();
        let stale = self.stale();
        let seq = self.app.hub.seq();
        let (hub, watcher) = (self.app.hub.clone(), self.watcher.clone());
        let mut objects = Vec::with_capacity(CHUNK);
        for online in hub.watch_all(&watcher) {
            for (user, presence) in online {
                if objects.len() == CHUNK {
                    let chunk = std::mem::replace(&mut objects, Vec::with_capacity(CHUNK));
                    self.snapshot(id.clone(), seq, chunk, true).await?;
                }
                objects.push(UserObject::new(&user, presence, stale));
            }
        }
        self.snapshot(id, seq, objects, false).await
    }

    async fn snapshot(
        &mut self,
        id: Option<Value>,
        seq: u64,
        users: Vec<UserObject>,
        more: bool,
    ) -> Result<(), End> {
        let epoch = self.app.hub.epoch().to_owned();
        self.send(ServerMessage::Snapshot { id, epoch, seq, users, more }.encode()).await
    }

    fn unwatch(&mut self, users: &[String]) {
        for user in users {
            if self.watched.remove(user) {
                self.app.hub.unwatch(&self.watcher, user);
            }
        }
        self.count_watching();
    }

    fn count_watching(&mut self) {
        let watching = self.all || !self.watched.is_empty();
        if watching != self.counted {
            self.counted = watching;
            self.app.metrics.watchers.inc_by(if watching { 1 } else { -1 });
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
        self.app.beat(self.permit.pass(), &[(key, None)]).await
    }

    async fn leave(&mut self) -> Result<(), Error> {
        let key = self.key.clone().ok_or(Error::NoUser)?;
        self.beats = false;
        self.app.end(&[key]).await
    }

    /// Renews the socket's own key: the client has just proven that it is alive.
    async fn beat(&mut self) {
        let Some(key) = self.key.clone().filter(|_| self.beats) else {
            return;
        };
        if let Err(why) = self.app.pulse(self.permit.pass(), key).await {
            debug!(socket = self.number, %why, "a socket's heartbeat was not written");
        }
    }

    /// Two sockets can keep one key: a page that is loaded again, while its old socket is still there.
    fn hold_key(&self) {
        if let Some(key) = &self.key {
            let mut held = lock(&self.app.held);
            *held.entry(key.clone()).or_default() += 1;
        }
    }

    /// Whether this was the last socket that keeps the key.
    fn release_key(&self) -> bool {
        let Some(key) = &self.key else { return true };
        let mut held = lock(&self.app.held);
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
        if let Err(why) = self.app.end(&[key]).await {
            debug!(socket = self.number, %why, "a socket's key was not deleted, its TTL will end it");
        }
    }

    async fn ping(&mut self) -> Result<(), End> {
        if self.unanswered == UNANSWERED {
            return Err(End::Close(close::NO_PONG, "no_pong: two pings were not answered, reconnect"));
        }
        self.unanswered += 1;
        match timeout(STUCK, self.wire.say(Message::Ping(Default::default()))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Lost),
            Err(_) => Err(End::Close(close::NO_PONG, "no_pong: nothing was read for a minute, reconnect")),
        }
    }

    /// The socket's token may have run out, or its key may be gone; or it is time to say that it will.
    async fn check_token(&mut self) -> Result<(), End> {
        if !self.app.gate.still_good(self.permit.pass()) {
            return Err(End::Close(close::TOKEN_EXPIRED, "token_expired: renew the token, then reconnect"));
        }
        match self.permit.warning() {
            Some(word) => self.send(word.encode()).await,
            None => Ok(()),
        }
    }

    /// Takes another token in place of the one that was shown before.
    async fn renew(&mut self, id: Option<Value>, token: &str) -> Result<(), End> {
        let speaks = self.key.as_ref().map(Key::user);
        let watched = self.watched.iter();
        let pass = self.app.gate.check(token);
        match pass.and_then(|pass| self.permit.renew(pass, speaks, watched, self.all)) {
            Ok(()) => self.send(self.permit.renewed(id).encode()).await,
            Err(error) => self.refuse_forbidden(id, error).await,
        }
    }

    /// Refuses; one that asks again and again for what its token does not allow has to give up.
    async fn refuse_forbidden(&mut self, id: Option<Value>, error: Error) -> Result<(), End> {
        if self.permit.gives_up(&error) {
            self.app.metrics.refused(error.code());
            return Err(End::Close(close::FORBIDDEN, permit::FORBIDDEN));
        }
        self.refuse(id, error).await
    }

    async fn refuse(&mut self, id: Option<Value>, error: Error) -> Result<(), End> {
        let (code, status) = (error.code(), error.status());
        self.app.metrics.refused(code);
        self.app.refusals.log(&Refusal { address: self.place.address(), route: ROUTE, code, status });
        self.send(ServerMessage::error(id, &error).encode()).await
    }

    /// Sends what is pending.
    async fn flush(&mut self) -> Result<(), End> {
        loop {
            self.check_overflow()?;
            let messages = self.watcher.messages();
            if messages.is_empty() {
                return Ok(());
            }
            self.send_all(messages).await?;
        }
    }

    fn check_overflow(&self) -> Result<(), End> {
        if !self.watcher.overflowed() {
            return Ok(());
        }
        Err(match self.watcher.overflow_cause() {
            Some(Overflow::Crowded) => {
                self.app.metrics.crowded.inc();
                End::Close(close::TRY_LATER, "try_later: too much waits for slow clients, reconnect later")
            }
            _ => {
                self.app.metrics.too_slow.inc();
                End::Close(close::TOO_SLOW, "too_slow: reconnect and take a new snapshot")
            }
        })
    }

    async fn send(&mut self, text: String) -> Result<(), End> {
        let sent = self.send_all(vec![text.into()]).await;
        // What rang meanwhile is read by the next flush.
        self.watcher.ring();
        sent
    }

    /// Sends, for as long as the client takes in anything at all and its mailbox can wait.
    async fn send_all(&mut self, texts: Vec<Bytes>) -> Result<(), End> {
        self.wire.put(texts);
        // Mostly it is taken in at once.
        if let Some(sent) = self.wire.flush().now_or_never() {
            return sent.map_err(|_| End::Lost);
        }
        let watcher = self.watcher.clone();
        let overflow = async {
            while !watcher.overflowed() {
                watcher.rung().await;
            }
        };
        let sent = tokio::select! {
            biased;
            sent = timeout(STUCK, self.wire.flush()) => sent,
            () = overflow => {
                self.check_overflow()?;
                return Ok(());
            }
        };
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Lost),
            Err(_) => Err(End::Close(close::NO_PONG, "no_pong: nothing was read for a minute, reconnect")),
        }
    }

    fn stale(&self) -> bool {
        !self.app.hub.status().borrow().up
    }

    fn forget(&mut self) {
        for user in std::mem::take(&mut self.watched).keep(|_| false) {
            self.app.hub.unwatch(&self.watcher, &user);
        }
        if std::mem::take(&mut self.all) {
            self.app.hub.unwatch_all(&self.watcher);
        }
        self.count_watching();
    }

    /// Closes with a code, and waits a moment for the answer: without it the code could be lost.
    async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
        match timeout(GOODBYE, self.wire.say(Message::Close(Some(frame)))).await {
            Ok(Ok(())) => self.finish_close().await,
            _ => debug!(socket = self.number, code, "a socket did not take its close"),
        }
    }

    /// Reads until the other side has ended, which also sends the answer to its own close.
    async fn finish_close(&mut self) {
        let rest = async { while let Some(Ok(_)) = self.wire.recv().await {} };
        if timeout(GOODBYE, rest).await.is_err() {
            debug!(socket = self.number, "a socket did not end its close");
        }
    }
}

fn too_big() -> End {
    End::Close(close::TOO_BIG, "too_big: the message is longer than allowed")
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
