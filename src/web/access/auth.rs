//! Who a request speaks for, and what that allows.
//!
//! Everything that is not named in `is_public` needs a pass: a route that forgets to ask for one is
//! closed, not open.

use crate::config::Access;
use crate::error::{Error, shown};
use crate::web::access::token::{Grant, Keys, LEEWAY_S, Pattern, Rules};
use crate::web::app::{App, Shared};
use crate::web::failure::Failure;
use crate::web::limits::connections::Peer;
use anyhow::{Context, Result, anyhow, ensure};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use ring::hmac;
use ring::rand::SystemRandom;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// What comes before a token among the subprotocols of a WebSocket.
const SUBPROTOCOL_PREFIX: &str = "bearer.";
/// The most service tokens: the old and the new while they are changed.
const MAX_SERVICE_TOKENS: usize = 16;
/// A shorter service token could be guessed by trying.
const SERVICE_TOKEN_BYTES: usize = 16;

/// What a request or a socket may do.
#[derive(Debug, Clone)]
pub struct Pass(Arc<Holder>);

#[derive(Debug)]
enum Holder {
    /// The daemon asks for no tokens.
    Anyone,
    /// A backend, which may do everything.
    Service(hmac::Tag),
    /// A client with a token.
    Client(Grant),
}

impl Pass {
    fn new(holder: Holder) -> Pass {
        Pass(Arc::new(holder))
    }

    /// The user of a client's token.
    pub fn user(&self) -> Option<&Arc<str>> {
        self.grant()?.user.as_ref()
    }

    /// The client's token, if it is one's.
    pub fn grant(&self) -> Option<&Grant> {
        match &*self.0 {
            Holder::Client(grant) => Some(grant),
            Holder::Anyone | Holder::Service(_) => None,
        }
    }

    /// An error unless it may know everybody's state.
    pub fn check_watch_all(&self) -> Result<(), Error> {
        match self.grant() {
            Some(grant) if !grant.watch.contains(&Pattern::All) => Err(Error::Forbidden(
                "the token does not allow to watch everybody; its claim watch would have to list \"*\""
                    .into(),
            )),
            _ => Ok(()),
        }
    }

    /// An error unless it may know the state of this user.
    pub fn check_watch(&self, user: &str) -> Result<(), Error> {
        match self.grant() {
            Some(grant) if !grant.watch.iter().any(|pattern| pattern.covers(user)) => {
                Err(Error::Forbidden(format!(
                    "the token does not allow to watch {}; its claim watch does not list this user",
                    shown(user)
                )))
            }
            _ => Ok(()),
        }
    }

    /// An error unless it may send heartbeats and goodbyes for this user.
    pub fn check_speak(&self, user: &str) -> Result<(), Error> {
        match self.grant() {
            Some(grant) if grant.user.as_deref() != Some(user) => Err(Error::Forbidden(format!(
                "the token does not allow to speak for {}; a client speaks for its token's sub alone",
                shown(user)
            ))),
            _ => Ok(()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Pass {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Pass, Failure> {
        let pass = parts.extensions.get::<Pass>().cloned();
        pass.ok_or_else(|| Failure(Error::Unauthorized("this request was let through without a pass".into())))
    }
}

/// The door: which tokens it knows, and who is let in.
pub struct Gate {
    access: Access,
    tags: hmac::Key,
    held: Mutex<Arc<Held>>,
    /// How often the keys were read.
    changed: watch::Sender<u64>,
}

/// What is read from the files.
struct Held {
    keys: Option<Keys>,
    /// The service tokens as tags under a key of this process: to compare tags takes the same time
    /// whatever is right in them, and the tokens themselves are not kept.
    service: Vec<hmac::Tag>,
}

impl Held {
    fn read(access: &Access, tags: &hmac::Key) -> Result<Held> {
        let rules = Rules { audience: access.audience.clone(), issuer: access.issuer.clone() };
        let keys = access.jwt_key.as_deref().map(|path| {
            let file = read(path, "--jwt-key", "a secret is made so: openssl rand -hex 32")?;
            Keys::parse(&file, rules).with_context(|| format!("--jwt-key {}", path.display()))
        });
        let service = access.service_token.as_deref().map(|path| {
            let file =
                String::from_utf8(read(path, "--service-token", "a token is made so: openssl rand -hex 32")?)
                    .with_context(|| format!("--service-token {} is not a text", path.display()))?;
            service_tags(&file, tags).with_context(|| format!("--service-token {}", path.display()))
        });
        Ok(Held { keys: keys.transpose()?, service: service.transpose()?.unwrap_or_default() })
    }
}

fn read(path: &Path, flag: &str, advice: &str) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| {
        format!(
            "{flag} {} cannot be read; it has to be there, readable by who runs this; {advice}",
            path.display()
        )
    })
}

impl Gate {
    /// Reads the files that `access` names.
    pub fn new(access: Access) -> Result<Gate> {
        let tags = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| anyhow!("the system gives no random numbers"))?;
        let held = Held::read(&access, &tags)?;
        if let Some(keys) = &held.keys {
            tracing::info!("clients' tokens are verified by {}", keys.algorithms());
        }
        Ok(Gate { access, tags, held: Mutex::new(Arc::new(held)), changed: watch::Sender::new(0) })
    }

    /// Reads the files again; if that fails, what was read before stays.
    pub fn reload(&self) -> Result<()> {
        let held = Arc::new(Held::read(&self.access, &self.tags)?);
        *self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = held;
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Changes whenever the keys were read again.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Does the daemon ask for tokens?
    pub fn asks(&self) -> bool {
        !self.access.is_open()
    }

    /// Is a pass still good: not run out, and its key not taken away?
    pub fn still_good(&self, pass: &Pass) -> bool {
        let held = self.held();
        match &*pass.0 {
            Holder::Anyone => true,
            Holder::Service(tag) => held.service.iter().any(|other| other.as_ref() == tag.as_ref()),
            Holder::Client(grant) => {
                let known = held.keys.as_ref().is_some_and(|keys| keys.has(&grant.key));
                known && now_s() < grant.expires.saturating_add(LEEWAY_S)
            }
        }
    }

    /// What this token allows.
    pub fn check(&self, token: &str) -> Result<Pass, Error> {
        let held = self.held();
        // All are compared, whichever fits.
        let fits = |tag: &&hmac::Tag| hmac::verify(&self.tags, token.as_bytes(), tag.as_ref()).is_ok();
        if let Some(tag) = held.service.iter().filter(fits).last() {
            return Ok(Pass::new(Holder::Service(*tag)));
        }
        let Some(keys) = &held.keys else {
            return Err(Error::InvalidToken(
                "it is not the service token, and clients' tokens are not known here".into(),
            ));
        };
        let grant = keys.verify(token, now_s()).map_err(|why| Error::InvalidToken(why.to_string()))?;
        Ok(Pass::new(Holder::Client(grant)))
    }

    /// What this request may do.
    fn admit(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Pass, Error> {
        if !self.asks() {
            return Ok(Pass::new(Holder::Anyone));
        }
        match presented(method, uri, headers)? {
            Some(token) => self.check(&token),
            None => {
                Err(Error::Unauthorized("a token is needed; send it as Authorization: Bearer TOKEN".into()))
            }
        }
    }

    fn held(&self) -> Arc<Held> {
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

fn service_tags(file: &str, key: &hmac::Key) -> Result<Vec<hmac::Tag>> {
    let lines: Vec<&str> = file.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    ensure!(!lines.is_empty(), "it is empty; put a token there: openssl rand -hex 32");
    ensure!(lines.len() <= MAX_SERVICE_TOKENS, "it has more than {MAX_SERVICE_TOKENS} lines");
    let shortest = lines.iter().map(|line| line.len()).min().unwrap_or_default();
    ensure!(
        shortest >= SERVICE_TOKEN_BYTES,
        "it has a token of {shortest} bytes, which could be guessed; make one: openssl rand -hex 32"
    );
    Ok(lines.iter().map(|line| hmac::sign(key, line.as_bytes())).collect())
}

/// The wall clock, in seconds since the epoch.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The token that a request carries: in the header Authorization, as a second subprotocol, or in the query
/// of a GET.
fn presented(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Option<String>, Error> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    match (all.next(), all.next()) {
        (Some(value), None) => return bearer(value.as_bytes()).map(Some),
        (Some(_), Some(_)) => {
            return Err(Error::Unauthorized("there are two headers Authorization; send one".into()));
        }
        (None, _) => {}
    }
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let offered = offered.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    if let Some(token) = offered.filter_map(|one| one.trim().strip_prefix(SUBPROTOCOL_PREFIX)).next() {
        return Ok(Some(token.to_owned()));
    }
    if method != Method::GET {
        return Ok(None);
    }
    let pairs = uri.query().unwrap_or_default().split('&');
    let token = pairs.filter_map(|pair| pair.strip_prefix("token=")).next();
    Ok(token.map(|token| percent_decode_str(token).decode_utf8_lossy().into_owned()))
}

fn bearer(value: &[u8]) -> Result<String, Error> {
    let text = std::str::from_utf8(value).ok();
    let parts = text.and_then(|text| text.trim().split_once(' '));
    match parts.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) {
        Some((_, token)) => Ok(token.trim().to_owned()),
        None => Err(Error::Unauthorized("the header has to be Authorization: Bearer TOKEN".into())),
    }
}

/// What tells nothing of users: the page itself and its parts, whether the daemon lives, its counts and its description.
fn is_public(path: &str) -> bool {
    path.starts_with(crate::web::console::FOLDER)
        || matches!(
            path,
            "/" | "/keybeat.js"
                | "/docs"
                | "/openapi.json"
                | "/asyncapi.json"
                | "/healthz"
                | "/readyz"
                | "/metrics"
        )
}

/// Lets a request in, with its pass, or not.
pub async fn authenticate(State(app): Shared, mut request: Request, next: Next) -> Response {
    if is_public(request.uri().path()) {
        return next.run(request).await;
    }
    match app.gate.admit(request.method(), request.uri(), request.headers()) {
        Ok(pass) => {
            request.extensions_mut().insert(pass);
            next.run(request).await
        }
        Err(error) => Failure(wrong(&app, &request, error)).into_response(),
    }
}

/// The answer to whoever has shown a wrong token. An address that shows many is told to wait, and loses its
/// connection; a right token is taken from it all the same, since many clients may share one address.
fn wrong(app: &App, request: &Request, error: Error) -> Error {
    let peer = request.extensions().get::<Peer>();
    match (&error, peer) {
        (Error::InvalidToken(_), Some(peer)) => app.take_wrong_token(*peer).err().unwrap_or(error),
        _ => error,
    }
}
