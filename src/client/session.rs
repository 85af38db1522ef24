//! The client's task: one connection after another, and what each of them brings.

use super::address::Stream;
use super::advice::{Advice, Backoff};
use super::told::{News, Told};
use super::wishes::{Asked, Question};
use super::{Builder, Error, Event, Shared};
use crate::protocol::{SUBPROTOCOL, ServerMessage, TokenWord, UserObject};
use futures_util::{SinkExt, StreamExt};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error as Ws, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// A daemon pings at least every 20 s; silence for longer is a connection that died without a word.
const SILENCE: Duration = Duration::from_secs(60);
/// How long the daemon may take to answer the first request, as long as each of the commands' requests.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the daemon may be silent before the snapshots are there, and a message may wait to be sent.
const ANSWER: Duration = Duration::from_secs(15);
/// How long the daemon may take to answer our goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<Box<dyn Stream>>;

/// How a connection ended.
enum End {
    /// Another may follow: at once in its turn, or later.
    Lost { why: Error, later: bool },
    /// None will.
    Stop(Error),
}

struct Task {
    builder: Builder,
    shared: Arc<Shared>,
    tell: mpsc::Sender<Event>,
    told: Told,
    backoff: Backoff,
    /// What is to be told. While there is something, nothing is read from the socket.
    waiting: VecDeque<Event>,
}

/// Goes on until the client is dropped, or the daemon says that it is in vain; gives why.
pub async fn run(builder: Builder, shared: Arc<Shared>, tell: mpsc::Sender<Event>) -> Error {
    let (told, backoff, waiting) = (Told::default(), Backoff::default(), VecDeque::new());
    let mut task = Task { builder, shared, tell, told, backoff, waiting };
    loop {
        let (why, later) = match task.connection().await {
            End::Lost { why, later } => (why, later),
            End::Stop(why) => {
                task.tell_the_rest().await;
                return why;
            }
        };
        let retry = task.backoff.wait(Instant::now(), later, fastrand::f64());
        // However long nobody listens, one such event waits.
        if matches!(task.waiting.back(), Some(Event::Waiting { .. })) {
            task.waiting.pop_back();
        }
        task.waiting.push_back(Event::Waiting { why, retry });
        if task.pause(retry).await.is_err() {
            return Error::Closed;
        }
    }
}

impl Task {
    async fn connection(&mut self) -> End {
        let tell = self.tell.clone();
        let connected = tokio::select! {
            connected = self.connect() => connected,
            () = tell.closed() => return End::Stop(Error::Closed),
        };
        let mut socket = match connected {
            Ok(socket) => socket,
            Err(end) => return end,
        };
        let end = Connection::new(self).follow(&mut socket).await;
        let Err(end) = end;
        if matches!(end, End::Stop(_)) {
            // So that the user of the socket goes at once.
            drop(timeout(GOODBYE, goodbye(&mut socket)).await);
        }
        end
    }

    async fn connect(&self) -> Result<Socket, End> {
        let lost = |why| End::Lost { why, later: false };
        let request = self.request()?;
        let stream = match self.builder.address.connect(self.builder.trust.as_ref()).await {
            Ok(stream) => stream,
            Err(why @ (Error::Untrusted { .. } | Error::Invalid(_))) => return Err(End::Stop(why)),
            Err(why) => return Err(lost(why)),
        };
        let address = self.builder.address.to_string();
        let Ok(shaken) = timeout(HANDSHAKE, client_async(request, stream)).await else {
            return Err(lost(Error::Silent { address, after: HANDSHAKE }));
        };
        match shaken {
            Ok((socket, _)) => Ok(socket),
            Err(Ws::Http(answer)) => {
                let body = String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned();
                let status = answer.status().as_u16();
                Err(match status {
                    401 | 403 => End::Stop(Error::Refused(message_of(&body))),
                    429 | 503 => {
                        let why = format!("{} ({status})", message_of(&body));
                        End::Lost { why: Error::Unreachable { address, why }, later: true }
                    }
                    _ => lost(Error::NoDaemon { address, why: format!("it answered {}", answer.status()) }),
                })
            }
            Err(why) => Err(lost(Error::NoDaemon { address, why: why.to_string() })),
        }
    }

    fn request(&self) -> Result<Request, End> {
        let Builder { address, user, session, .. } = &self.builder;
        let invalid = |why: String| End::Stop(Error::Invalid(why));
        let mut url = address.ws_url();
        let mut mark = '?';
        for (name, value) in [("user", user), ("session", session)] {
            if let Some(value) = value {
                url += &format!("{mark}{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
                mark = '&';
            }
        }
        let mut request = url.as_str().into_client_request().map_err(|why| invalid(why.to_string()))?;
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
        let token = self.token().map_err(|why| End::Lost {
            why: Error::Invalid(format!("the token is not to be had: {why}")),
            later: false,
        })?;
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let value = value.map_err(|_| invalid("the token cannot be a header".into()))?;
            headers.insert("authorization", value);
        }
        Ok(request)
    }

    fn token(&self) -> Result<Option<String>, String> {
        let Some(source) = &self.builder.token else { return Ok(None) };
        source().map_err(|why| why.to_string())
    }

    /// Waits, telling meanwhile; an error once the client is gone.
    async fn pause(&mut self, lasts: Duration) -> Result<(), ()> {
        let end = sleep(lasts);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return Ok(()),
                () = self.tell.closed() => return Err(()),
                permit = self.tell.reserve(), if !self.waiting.is_empty() => {
                    let (Ok(permit), Some(event)) = (permit, self.waiting.pop_front()) else { return Err(()) };
                    permit.send(event);
                }
            }
        }
    }

    async fn tell_the_rest(&mut self) {
        while let Some(event) = self.waiting.pop_front() {
            if self.tell.send(event).await.is_err() {
                return;
            }
        }
    }

    fn lost(&self, why: impl Into<String>) -> End {
        let address = self.builder.address.to_string();
        End::Lost { why: Error::Unreachable { address, why: why.into() }, later: false }
    }

    /// What a close code says to do.
    fn closed(&self, frame: Option<CloseFrame>) -> End {
        let Some(frame) = frame else { return self.lost("it closed the connection") };
        let (code, reason) = (u16::from(frame.code), frame.reason.to_string());
        let said = format!("it closed the connection: {code} {reason}");
        match Advice::of(code) {
            Advice::GiveUp => End::Stop(Error::Refused(reason)),
            Advice::TooBig => End::Stop(Error::TooBig(reason)),
            Advice::Renew if !self.builder.renews => End::Stop(Error::TokenExpired(reason)),
            Advice::Renew | Advice::Return => self.lost(said),
            Advice::Later => {
                let address = self.builder.address.to_string();
                End::Lost { why: Error::Unreachable { address, why: said }, later: true }
            }
        }
    }
}

/// One connection's life.
struct Connection<'a> {
    task: &'a mut Task,
    asked: Asked,
    /// What has come of snapshots that are not whole, by the `id` of their watch.
    parts: HashMap<u64, Vec<UserObject>>,
    live: bool,
    heard: Instant,
}

impl Connection<'_> {
    fn new(task: &mut Task) -> Connection<'_> {
        let (asked, parts) = (Asked::default(), HashMap::new());
        Connection { task, asked, parts, live: false, heard: Instant::now() }
    }

    async fn follow(&mut self, socket: &mut Socket) -> Result<std::convert::Infallible, End> {
        self.catch_up(socket).await?;
        let (shared, tell) = (self.task.shared.clone(), self.task.tell.clone());
        loop {
            let reads = self.task.waiting.is_empty();
            let patience = if self.live { SILENCE } else { ANSWER };
            let silent = sleep(patience.saturating_sub(self.heard.elapsed()));
            tokio::select! {
                permit = tell.reserve(), if !reads => {
                    let Ok(permit) = permit else { return Err(End::Stop(Error::Closed)) };
                    if let Some(event) = self.task.waiting.pop_front() {
                        permit.send(event);
                    }
                    // While nothing was read, nothing could be heard.
                    self.heard = Instant::now();
                }
                message = socket.next(), if reads => {
                    self.heard = Instant::now();
                    self.message(message, socket).await?;
                }
                () = shared.changed.notified() => self.catch_up(socket).await?,
                () = tell.closed() => return Err(End::Stop(Error::Closed)),
                () = silent, if reads => return Err(self.task.lost(format!("it has said nothing for {patience:?}"))),
            }
        }
    }

    /// Asks for what is wished for and was not yet.
    async fn catch_up(&mut self, socket: &mut Socket) -> Result<(), End> {
        let messages = self.asked.catch_up(&mut self.task.shared.wishes(), &mut self.task.told);
        let open = &self.asked.open;
        self.parts.retain(|id, _| open.contains_key(id));
        for message in messages {
            self.send(socket, message).await?;
        }
        self.answered();
        Ok(())
    }

    async fn send(&mut self, socket: &mut Socket, message: String) -> Result<(), End> {
        match timeout(ANSWER, socket.send(Message::text(message))).await {
            Ok(Ok(())) => Ok(()),
            // What it said before it went is still to be read.
            Ok(Err(Ws::ConnectionClosed | Ws::AlreadyClosed | Ws::Protocol(_))) => Ok(()),
            Ok(Err(why)) => Err(self.task.lost(format!("the connection was lost: {why}"))),
            Err(_) => Err(self.task.lost(format!("it has read nothing for {ANSWER:?}"))),
        }
    }

    async fn message(
        &mut self,
        message: Option<Result<Message, Ws>>,
        socket: &mut Socket,
    ) -> Result<(), End> {
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(frame))) => return Err(self.task.closed(frame)),
            Some(Ok(_)) => return Ok(()),
            Some(Err(why)) => return Err(self.task.lost(format!("the connection was lost: {why}"))),
            None => return Err(self.task.lost("it closed the connection")),
        };
        // A message of a kind that is not known yet is for other clients.
        let Ok(message) = serde_json::from_str(&text) else { return Ok(()) };
        self.take(message, socket).await
    }

    async fn take(&mut self, message: ServerMessage, socket: &mut Socket) -> Result<(), End> {
        match message {
            ServerMessage::Snapshot { id, users, more, seq, .. } => {
                if let Some(id) = id.as_ref().and_then(Value::as_u64) {
                    self.snapshot(id, users, more, seq);
                }
            }
            ServerMessage::Transitions { transitions, .. } => {
                let names = &self.asked.names;
                let news = self.task.told.transitions(transitions, |user| names.contains_key(user));
                if !news.is_empty() {
                    self.task.waiting.push_back(Event::Transitions(news));
                }
            }
            ServerMessage::Status { redis, since_ms } => {
                self.task.waiting.push_back(Event::Status { redis, since_ms });
            }
            ServerMessage::Error { id, code, message } => self.refused(id, code, message),
            ServerMessage::Token { state: TokenWord::Expiring, .. } => {
                // Where there is none, the daemon will say so.
                if let (true, Ok(Some(token))) = (self.task.builder.renews, self.task.token()) {
                    self.send(socket, json!({"type": "auth", "token": token}).to_string()).await?;
                }
            }
            ServerMessage::Token { .. } | ServerMessage::Hello { .. } => {}
        }
        Ok(())
    }

    fn snapshot(&mut self, id: u64, users: Vec<UserObject>, more: bool, seq: u64) {
        if !self.asked.open.contains_key(&id) {
            return;
        }
        self.parts.entry(id).or_default().extend(users);
        if more {
            return;
        }
        let users = self.parts.remove(&id).unwrap_or_default();
        let now_ms =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let (names, told) = (&self.asked.names, &mut self.task.told);
        let first = told.is_first_of_everybody();
        let (News { fresh, missed }, begins) = match self.asked.open.remove(&id) {
            Some(Question::Everybody) => {
                (told.everybody(users, |user| names.contains_key(user), seq, now_ms), first)
            }
            _ => {
                // Whose watch was withdrawn meanwhile is not told.
                let users = users.into_iter().filter(|object| names.contains_key(object.user())).collect();
                (told.named(users, seq, now_ms), false)
            }
        };
        // That nobody is online is an answer too.
        if !fresh.is_empty() || begins {
            self.task.waiting.push_back(Event::Snapshot(fresh));
        }
        if !missed.is_empty() {
            self.task.waiting.push_back(Event::Transitions(missed));
        }
        self.answered();
    }

    fn refused(&mut self, id: Option<Value>, code: String, message: String) {
        let id = id.as_ref().and_then(Value::as_u64);
        let users = id.map(|id| self.asked.refused(id, &mut self.task.shared.wishes())).unwrap_or_default();
        self.task.waiting.push_back(Event::Refused { code, message, users });
        self.answered();
    }

    /// Live, once all is answered.
    fn answered(&mut self) {
        if !self.live && self.asked.open.is_empty() {
            self.live = true;
            self.task.backoff.live(Instant::now());
            self.task.waiting.push_back(Event::Live);
        }
    }
}

/// Says goodbye, and waits for the answer.
async fn goodbye(socket: &mut Socket) {
    if socket.close(None).await.is_ok() {
        while let Some(Ok(_)) = socket.next().await {}
    }
}

/// The message of an error's body.
fn message_of(body: &str) -> String {
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    value["error"]["message"].as_str().unwrap_or(body).to_owned()
}
