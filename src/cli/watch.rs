//! `keybeat watch`

use super::address::Untrusted;
use super::{Source, WatchArgs, daemon::Daemon, logging, serve};
use crate::config::{Access, Config, Limits};
use crate::keyspace::client::Target;
use crate::metrics::Metrics;
use crate::presence::Presence;
use crate::protocol::{ReasonWord, ServerMessage, State, TokenWord, TransitionObject, UserObject, close};
use crate::server;
use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error as Ws, Message};

/// Waits between attempts: doubling up to the last, each with full jitter.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// A daemon pings at least every 20 s; silence for longer is a connection that died without a word.
const SILENCE: Duration = Duration::from_secs(60);

pub async fn run(args: WatchArgs) -> Result<ExitCode> {
    logging::start_quiet();
    let stop = serve::stop_signal()?;
    let view = View { json: args.json, known: HashMap::new() };
    let watch = async {
        match args.source.source()? {
            Source::Daemon(daemon) => from_daemon(view, &args, &daemon).await,
            Source::Redis(target) => from_redis(view, &args, &target).await,
        }
    };
    tokio::select! {
        done = watch => done?,
        () = stop => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// What was printed, so that after a reconnection exactly what was missed is.
struct View {
    json: bool,
    known: HashMap<String, bool>,
}

impl View {
    fn print(&mut self, transition: &TransitionObject) -> Result<()> {
        let online = transition.state == State::Online;
        self.known.insert(transition.user.clone(), online);
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string(transition)?)?;
        } else {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(transition.at_ms);
            let state = if online { "online " } else { "offline" };
            let reason = format!("{:?}", transition.reason).to_lowercase();
            writeln!(
                out,
                "{}  {state}  {}  ({reason})",
                humantime::format_rfc3339_millis(at),
                transition.user
            )?;
        }
        Ok(out.flush()?)
    }

    /// Takes in a snapshot: the first is where we start, a later one tells what was missed.
    fn reset(&mut self, users: Vec<UserObject>, first: bool, seq: u64) -> Result<()> {
        let mut now: HashMap<String, UserObject> =
            users.into_iter().map(|object| (object.user().to_owned(), object)).collect();
        for (user, online) in self.known.clone() {
            let object = now.remove(&user);
            let online_now = object.as_ref().is_some_and(UserObject::online);
            if online != online_now {
                self.print(&missed(user, object, seq))?;
            }
        }
        for (user, object) in now {
            if !first && object.online() {
                self.print(&missed(user, Some(object), seq))?;
            } else {
                self.known.insert(user, object.online());
            }
        }
        Ok(())
    }
}

/// The transition that was missed by a user whose state is now another.
fn missed(user: String, object: Option<UserObject>, seq: u64) -> TransitionObject {
    let (state, since_ms, last_seen_ms) = match object {
        Some(UserObject::Online { since_ms, .. }) => (State::Online, Some(since_ms), None),
        Some(UserObject::Offline { last_seen_ms, .. }) => (State::Offline, None, last_seen_ms),
        None => (State::Offline, None, None),
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let at_ms = since_ms.unwrap_or(now);
    TransitionObject { seq, user, state, at_ms, since_ms, last_seen_ms, reason: ReasonWord::Reconciled }
}

async fn from_daemon(mut view: View, args: &WatchArgs, daemon: &Daemon) -> Result<()> {
    let mut wait = BACKOFF.0;
    let (mut first, mut said) = (true, false);
    loop {
        let mut connected = false;
        let Err(why) = follow(&mut view, args, daemon, &mut first, &mut connected).await;
        if is_io(&why) || why.is::<Refused>() || why.is::<Untrusted>() {
            return Err(why);
        }
        if connected {
            (wait, said) = (BACKOFF.0, false);
        }
        // Once an outage, not with each attempt.
        if !std::mem::replace(&mut said, true) {
            eprintln!("keybeat: {why:#}; trying again until it is back");
        }
        tokio::time::sleep(wait.mul_f64(fastrand::f64())).await;
        wait = (wait * 2).min(BACKOFF.1);
    }
}

/// The daemon lets us in with no such token, however often we come.
#[derive(Debug, thiserror::Error)]
#[error("the daemon refused: {0}; name a file with another token: --token-file FILE")]
struct Refused(String);

/// The message of an error's body.
fn message_of(body: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    value["error"]["message"].as_str().unwrap_or(body).to_owned()
}

/// Standard output is gone.
fn is_io(why: &anyhow::Error) -> bool {
    why.root_cause()
        .downcast_ref::<std::io::Error>()
        .is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}

/// One connection's life.
async fn follow(
    view: &mut View,
    args: &WatchArgs,
    daemon: &Daemon,
    first: &mut bool,
    connected: &mut bool,
) -> Result<std::convert::Infallible> {
    let url = daemon.ws_url();
    let mut request = url.as_str().into_client_request()?;
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("keybeat.v1"));
    if let Some(token) = daemon.token()? {
        let value =
            HeaderValue::from_str(&format!("Bearer {token}")).context("the token cannot be a header")?;
        request.headers_mut().insert("authorization", value);
    }
    let (mut socket, _) = match tokio_tungstenite::client_async(request, daemon.connect().await?).await {
        Ok(connected) => connected,
        Err(Ws::Http(answer)) if matches!(answer.status().as_u16(), 401 | 403) => {
            let body = String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned();
            return Err(Refused(message_of(&body)).into());
        }
        Err(why) => {
            let why = anyhow::Error::new(why);
            return Err(
                why.context(format!("what answers at {url} is no daemon; name one: --url http://HOST:PORT"))
            );
        }
    };
    let watch = if args.users.is_empty() {
        json!({"type": "watch", "all": true, "lossless": true})
    } else {
        json!({"type": "watch", "users": args.users})
    };
    socket.send(Message::text(watch.to_string())).await?;
    let mut users = Vec::new();
    loop {
        let Ok(message) = tokio::time::timeout(SILENCE, socket.next()).await else {
            bail!("the daemon has said nothing for {SILENCE:?}");
        };
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == close::FORBIDDEN => {
                return Err(Refused(frame.reason.to_string()).into());
            }
            Some(Ok(Message::Close(frame))) => {
                bail!(
                    "the daemon closed the connection: {}",
                    frame.map_or("".into(), |frame| frame.to_string())
                )
            }
            Some(Ok(_)) => continue,
            Some(Err(why)) => return Err(why).context("the connection to the daemon was lost"),
            None => bail!("the daemon closed the connection"),
        };
        match serde_json::from_str(&text).context("a message of the daemon cannot be read")? {
            ServerMessage::Snapshot { users: some, more, seq, .. } => {
                users.extend(some);
                if !more {
                    *connected = true;
                    view.reset(std::mem::take(&mut users), std::mem::take(first), seq)?;
                }
            }
            ServerMessage::Transitions { transitions, .. } => {
                transitions.iter().try_for_each(|transition| view.print(transition))?;
            }
            ServerMessage::Status { redis, .. } => {
                eprintln!("keybeat: the daemon says that Redis is {}", format!("{redis:?}").to_lowercase());
            }
            ServerMessage::Error { code, message, .. } if code == "forbidden" => {
                return Err(Refused(message).into());
            }
            ServerMessage::Error { message, .. } => bail!("the daemon refused: {message}"),
            ServerMessage::Token { state: TokenWord::Expiring, .. } => {
                // The file may hold a newer one; if not, the daemon will say so.
                if let Some(token) = daemon.token()? {
                    let renewal = json!({"type": "auth", "token": token});
                    socket.send(Message::text(renewal.to_string())).await?;
                }
            }
            ServerMessage::Token { state: TokenWord::Renewed, .. } => {}
            ServerMessage::Hello { .. } => {}
        }
    }
}

/// Without a daemon: the same belief, held in this process.
async fn from_redis(mut view: View, args: &WatchArgs, target: &Target) -> Result<()> {
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        prefix: args.source.prefix.clone(),
        ttl: Duration::from_secs(30),
        configure_redis: true,
        probes: true,
        access: Access::default(),
        tls: None,
        limits: Limits::default(),
    };
    let belief = server::believe(&config, target, Arc::new(Metrics::new()));
    belief.hub.opened().wait_for(|&open| open).await?;
    let watcher = belief.hub.watcher();
    let mut objects = Vec::new();
    let mut add = |user: &str, presence: Presence| objects.push(UserObject::new(user, presence, false));
    if args.users.is_empty() {
        watcher.make_lossless(config.limits.lossless_pending);
        belief.hub.watch_all(&watcher).flatten().for_each(|(user, presence)| add(&user, presence));
    }
    for user in &args.users {
        let user: Arc<str> = user.as_str().into();
        add(&user, belief.hub.watch(&watcher, &user));
    }
    view.reset(objects, true, 0)?;
    loop {
        watcher.rung().await;
        if watcher.overflowed() {
            bail!("transitions came faster than they could be printed");
        }
        for told in watcher.take(usize::MAX) {
            view.print(&serde_json::from_str(&told.json)?)?;
        }
    }
}
