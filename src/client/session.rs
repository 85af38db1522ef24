//! The client's task: one connection after another. It does the I/O and keeps the time; [`Watches`] decides the rest.

use super::address::{Stream, cause};
use super::error::refused_query;
use super::reconnect::{Advice, Backoff, Silence, renewal_wait};
use super::watches::Watches;
use super::{Builder, ClientError, ClientEvent, Watching};
use crate::protocol::{NO_HANDSHAKE, SUBPROTOCOL, ServerMessage, TokenWord};
use futures_util::{SinkExt, StreamExt};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error as Ws, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// Time limit of the WebSocket handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the daemon may take to read a message.
const READ: Duration = Duration::from_secs(15);
/// How long the daemon may take to answer the client's close.
const GOODBYE: Duration = Duration::from_secs(2);

type ClientSocket = WebSocketStream<Box<dyn Stream>>;

/// How a connection ended.
enum SessionEnd {
    /// The client reconnects, with the longest wait if `later`.
    Lost { why: ClientError, later: bool },
    /// The client stops.
    Stop(ClientError),
}

struct Task {
    builder: Builder,
    shared: Arc<Watching>,
    events: mpsc::Sender<ClientEvent>,
    watches: Watches,
    backoff: Backoff,
    /// The token that the client has shown last.
    shown: Option<String>,
    /// Events for the caller. While there are any, the client does not read from the socket.
    waiting: VecDeque<ClientEvent>,
}

/// Runs until the client is dropped or has to stop; returns why.
pub async fn run(builder: Builder, shared: Arc<Watching>, events: mpsc::Sender<ClientEvent>) -> ClientError {
    let (watches, backoff, waiting) = (Watches::default(), Backoff::default(), VecDeque::new());
    let mut task = Task { builder, shared, events, watches, backoff, shown: None, waiting };
    loop {
        let (why, later) = match task.connection().await {
            SessionEnd::Lost { why, later } => (why, later),
            SessionEnd::Stop(why) => {
                task.report_the_rest().await;
                return why;
            }
        };
        let retry = task.backoff.wait(Instant::now(), later, fastrand::f64());
        // At most one such event waits for the caller.
        if matches!(task.waiting.back(), Some(ClientEvent::Waiting { .. })) {
            task.waiting.pop_back();
        }
        task.waiting.push_back(ClientEvent::Waiting { why, retry });
        if task.pause(retry).await.is_err() {
            return ClientError::Closed;
        }
    }
}

impl Task {
    async fn connection(&mut self) -> SessionEnd {
        let events = self.events.clone();
        let connected = tokio::select! {
            connected = self.connect() => connected,
            () = events.closed() => return SessionEnd::Stop(ClientError::Closed),
        };
        let mut socket = match connected {
            Ok(socket) => socket,
            Err(end) => return end,
        };
        let end = Connection::new(self).follow(&mut socket).await;
        let Err(end) = end;
        if matches!(end, SessionEnd::Stop(_)) {
            // A proper close takes the socket's user offline at once.
            drop(timeout(GOODBYE, goodbye(&mut socket)).await);
        }
        end
    }

    async fn connect(&mut self) -> Result<ClientSocket, SessionEnd> {
        let lost = |why| SessionEnd::Lost { why, later: false };
        let request = self.request()?;
        let stream = match self.builder.address.connect(self.builder.trust.as_ref()).await {
            Ok(stream) => stream,
            Err(why @ (ClientError::Untrusted { .. } | ClientError::Invalid(_))) => {
                return Err(SessionEnd::Stop(why));
            }
            Err(why) => return Err(lost(why)),
        };
        let address = self.builder.address.to_string();
        let Ok(shaken) = timeout(HANDSHAKE, client_async(request, stream)).await else {
            return Err(lost(ClientError::Silent { address, after: HANDSHAKE }));
        };
        match shaken {
            Ok((socket, _)) => Ok(socket),
            Err(Ws::Http(answer)) => {
                let body = String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned();
                let status = answer.status().as_u16();
                if let Some(why) = refused_query(&body).filter(|_| status == 400) {
                    return Err(SessionEnd::Stop(ClientError::Invalid(why)));
                }
                Err(match status {
                    // The source may return a better token soon: this one had just expired, or is not valid yet.
                    401 if self.builder.renews => lost(ClientError::Refused(message_of(&body))),
                    401 | 403 => SessionEnd::Stop(ClientError::Refused(message_of(&body))),
                    429 | 503 => {
                        let why = format!("{} ({status})", message_of(&body));
                        SessionEnd::Lost { why: ClientError::Lost { address, why }, later: true }
                    }
                    _ => lost(unexpected(address, answer.status(), &body)),
                })
            }
            Err(why) => {
                let other = || ClientError::NoDaemon { address, why: why.to_string() };
                Err(lost(cause(&why).unwrap_or_else(other)))
            }
        }
    }

    fn request(&mut self) -> Result<Request, SessionEnd> {
        let Builder { address, user, session, beat, .. } = &self.builder;
        let invalid = |why: String| SessionEnd::Stop(ClientError::Invalid(why));
        let mut url = address.ws_url();
        let mut mark = '?';
        let values = [user.as_deref(), session.as_deref(), beat.parameter()];
        for (name, value) in ["user", "session", "beat"].into_iter().zip(values) {
            if let Some(value) = value {
                url += &format!("{mark}{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
                mark = '&';
            }
        }
        let mut request = url.as_str().into_client_request().map_err(|why| invalid(why.to_string()))?;
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
        let no_token = |why: String| SessionEnd::Lost {
            why: ClientError::Invalid(format!("no token is available: {why}")),
            later: false,
        };
        let token = self.token().map_err(no_token)?;
        self.shown.clone_from(&token);
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
                let why = "the token contains characters that an HTTP header cannot have";
                // A source may return a better token next time.
                if self.builder.renews { no_token(why.into()) } else { invalid(why.into()) }
            })?;
            headers.insert("authorization", value);
        }
        Ok(request)
    }

    fn token(&self) -> Result<Option<String>, String> {
        let Some(source) = &self.builder.token else { return Ok(None) };
        source().map_err(|why| why.to_string())
    }

    /// Waits and reports events in the meantime. Fails when the client was dropped.
    async fn pause(&mut self, lasts: Duration) -> Result<(), ()> {
        let end = sleep(lasts);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return Ok(()),
                () = self.events.closed() => return Err(()),
                permit = self.events.reserve(), if !self.waiting.is_empty() => {
                    let (Ok(permit), Some(event)) = (permit, self.waiting.pop_front()) else { return Err(()) };
                    permit.send(event);
                }
            }
        }
    }

    async fn report_the_rest(&mut self) {
        while let Some(event) = self.waiting.pop_front() {
            if self.events.send(event).await.is_err() {
                return;
            }
        }
    }

    fn lost(&self, why: impl Into<String>) -> SessionEnd {
        let address = self.builder.address.to_string();
        SessionEnd::Lost { why: ClientError::Lost { address, why: why.into() }, later: false }
    }

    fn later(&self, why: impl Into<String>) -> SessionEnd {
        let address = self.builder.address.to_string();
        SessionEnd::Lost { why: ClientError::Lost { address, why: why.into() }, later: true }
    }

    /// The advice of the close frame.
    fn closed(&self, frame: Option<CloseFrame>) -> SessionEnd {
        let Some(frame) = frame else { return self.lost("the daemon closed the connection") };
        let (code, reason) = (u16::from(frame.code), frame.reason.to_string());
        let said = format!("the daemon closed the connection: {code} {reason}");
        match Advice::of(code) {
            Advice::GiveUp => SessionEnd::Stop(ClientError::Refused(reason)),
            Advice::TooBig => SessionEnd::Stop(ClientError::TooBig(reason)),
            Advice::Renew if !self.builder.renews => SessionEnd::Stop(ClientError::TokenExpired(reason)),
            Advice::Renew | Advice::Reconnect => self.lost(said),
            Advice::Later => self.later(said),
        }
    }
}

/// One connection's life.
struct Connection<'a> {
    task: &'a mut Task,
    live: bool,
    silence: Silence,
    /// When to call the token source again, and when the token that was shown expires (milliseconds since the epoch).
    renewal: Option<(Instant, u64)>,
}

impl Connection<'_> {
    fn new(task: &mut Task) -> Connection<'_> {
        Connection { task, live: false, silence: Silence::new(Instant::now()), renewal: None }
    }

    async fn follow(&mut self, socket: &mut ClientSocket) -> Result<std::convert::Infallible, SessionEnd> {
        let (shared, events) = (self.task.shared.clone(), self.task.events.clone());
        self.task.watches.reconnected(&shared.desired());
        self.catch_up(socket).await?;
        loop {
            let reads = self.task.waiting.is_empty();
            let silent = sleep_until(self.silence.due(self.live).into());
            let renewal = self.renewal;
            tokio::select! {
                permit = events.reserve(), if !reads => {
                    let Ok(permit) = permit else { return Err(SessionEnd::Stop(ClientError::Closed)) };
                    if let Some(event) = self.task.waiting.pop_front() {
                        permit.send(event);
                    }
                    // The daemon was not silent: the client did not read.
                    self.silence = Silence::new(Instant::now());
                }
                message = socket.next(), if reads => {
                    self.silence = Silence::new(Instant::now());
                    self.message(message, socket).await?;
                }
                () = shared.changed.notified() => self.catch_up(socket).await?,
                () = events.closed() => return Err(SessionEnd::Stop(ClientError::Closed)),
                () = silent, if reads => self.ping(socket).await?,
                expires_ms = renewal_due(renewal) => self.renew(socket, expires_ms).await?,
            }
        }
    }

    /// Requests what the caller wants and was not requested yet.
    async fn catch_up(&mut self, socket: &mut ClientSocket) -> Result<(), SessionEnd> {
        let (refusals, messages) = {
            let mut desired = self.task.shared.desired();
            (desired.refuse_too_long(), self.task.watches.catch_up(&mut desired))
        };
        self.task.waiting.extend(refusals);
        for message in messages {
            self.send(socket, message).await?;
        }
        self.answered();
        Ok(())
    }

    async fn send(&mut self, socket: &mut ClientSocket, message: String) -> Result<(), SessionEnd> {
        match timeout(READ, socket.send(Message::text(message))).await {
            Ok(Ok(())) => Ok(()),
            // The daemon's last messages are still to be read.
            Ok(Err(Ws::ConnectionClosed | Ws::AlreadyClosed | Ws::Protocol(_))) => Ok(()),
            Ok(Err(why)) => Err(self.task.lost(format!("the connection was lost: {why}"))),
            Err(_) => Err(self.task.lost(format!("the daemon read nothing for {READ:?}"))),
        }
    }

    async fn message(
        &mut self,
        message: Option<Result<Message, Ws>>,
        socket: &mut ClientSocket,
    ) -> Result<(), SessionEnd> {
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(frame))) => return Err(self.task.closed(frame)),
            Some(Ok(_)) => return Ok(()),
            Some(Err(why)) => return Err(self.task.lost(format!("the connection was lost: {why}"))),
            None => return Err(self.task.lost("the daemon closed the connection")),
        };
        // A message of an unknown type is for newer clients.
        let Ok(message) = serde_json::from_str(&text) else { return Ok(()) };
        self.take(message, socket).await
    }

    async fn take(&mut self, message: ServerMessage, socket: &mut ClientSocket) -> Result<(), SessionEnd> {
        match message {
            ServerMessage::Token { state: TokenWord::Expiring, expires_ms, .. } => {
                self.renew(socket, expires_ms).await?;
            }
            ServerMessage::Token { state: TokenWord::Renewed, .. } => self.renewal = None,
            _ => {}
        }
        if self.task.watches.is_not_ready(&message) {
            return Err(self.task.later("the daemon has not compared Redis yet"));
        }
        let events = self.task.watches.take(message, &mut self.task.shared.desired(), now_ms());
        self.task.waiting.extend(events);
        self.answered();
        Ok(())
    }

    /// Pings a silent daemon; after an unanswered ping the connection is lost.
    async fn ping(&mut self, socket: &mut ClientSocket) -> Result<(), SessionEnd> {
        if self.silence.is_dead(Instant::now()) {
            return Err(self.task.lost("the daemon does not answer"));
        }
        self.send(socket, json!({"type": "ping", "id": "ping"}).to_string()).await
    }

    /// Shows a new token. A source that still returns the old one is called again later, and so is one whose new token the
    /// daemon refuses. Without a new token the daemon closes the connection with 4001.
    async fn renew(&mut self, socket: &mut ClientSocket, expires_ms: u64) -> Result<(), SessionEnd> {
        if !self.task.builder.renews {
            return Ok(());
        }
        let left = Duration::from_millis(expires_ms.saturating_sub(now_ms()));
        self.renewal = Some((Instant::now() + renewal_wait(left), expires_ms));
        let token = self.task.token().ok().flatten();
        if let Some(token) = token.filter(|token| self.task.shown.as_ref() != Some(token)) {
            self.send(socket, json!({"type": "auth", "id": "auth", "token": token}).to_string()).await?;
            self.task.shown = Some(token);
        }
        Ok(())
    }

    /// Reports `Live` once the daemon has answered every watch.
    fn answered(&mut self) {
        if !self.live && self.task.watches.all_answered() {
            self.live = true;
            self.task.backoff.live(Instant::now());
            self.task.waiting.push_back(ClientEvent::Live);
        }
    }
}

/// Closes the connection, and waits for the answer.
async fn goodbye(socket: &mut ClientSocket) {
    if socket.close(None).await.is_ok() {
        while let Some(Ok(_)) = socket.next().await {}
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Waits until the token source is to be called again; returns when the token expires.
async fn renewal_due(renewal: Option<(Instant, u64)>) -> u64 {
    match renewal {
        Some((due, expires_ms)) => {
            sleep_until(due.into()).await;
            expires_ms
        }
        None => std::future::pending().await,
    }
}

/// The error of an answer that a daemon does not give to this client, unless a proxy in between changes the request.
fn unexpected(address: String, status: StatusCode, body: &str) -> ClientError {
    match error_of(body) {
        Some(why) if why.starts_with(NO_HANDSHAKE) => ClientError::NoHandshake { address, why },
        Some(why) => ClientError::NoDaemon { address, why: format!("it answered {status}: {why}") },
        None => ClientError::NoDaemon { address, why: format!("it answered {status}") },
    }
}

/// The message of an error's body; all of the body if it has none.
fn message_of(body: &str) -> String {
    error_of(body).unwrap_or_else(|| body.to_owned())
}

fn error_of(body: &str) -> Option<String> {
    let value: Value = serde_json::from_str(body).ok()?;
    Some(value["error"]["message"].as_str()?.to_owned())
}
