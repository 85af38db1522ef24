//! The user that a request speaks for, and the rights of the request.
//!
//! Every path needs a pass unless [`Guard::is_public`] names it, so a route that forgets to ask for one is closed, not open.

use crate::config::Access;
use crate::error::{Error, shown};
use crate::lock::lock;
use crate::presence::{KeyPattern, check_user};
use crate::web::access::close_order::{self, CarriedOut};
use crate::web::access::files;
use crate::web::access::revoked::Revoked;
use crate::web::access::service_token::{Scope, ServiceToken};
use crate::web::access::token::{Grant, KeySet};
use crate::web::failure::Failure;
use crate::web::limits::connections::Peer;
use crate::web::limits::quota::Quotas;
use crate::web::query_string::parameters;
use anyhow::{Result, anyhow};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use ring::hmac;
use ring::rand::SystemRandom;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tracing::info;

/// Precedes the token in a WebSocket's list of subprotocols.
const SUBPROTOCOL_PREFIX: &str = "bearer.";
/// Why a revoked token is not accepted.
pub const REVOKED: &str = "it was revoked";

/// The pass of everybody, where the daemon requires no tokens: an idle socket holds no memory of its own for it.
static ANYONE: LazyLock<Pass> = LazyLock::new(|| Pass::new(Holder::Anyone));

/// The rights of a request or a socket.
#[derive(Debug, Clone)]
pub struct Pass(Arc<Holder>);

#[derive(Debug)]
enum Holder {
    /// The daemon requires no tokens.
    Anyone,
    /// A backend with a service token.
    Service(ServiceToken),
    /// A client with a token, and the name under which its limits count.
    Client(Grant, Arc<str>),
}

impl Pass {
    fn new(holder: Holder) -> Pass {
        Pass(Arc::new(holder))
    }

    /// The user of a client's token.
    pub fn user(&self) -> Option<&Arc<str>> {
        self.grant()?.user.as_ref()
    }

    /// The name of a backend's token. One without a name is `unnamed`.
    pub fn service_name(&self) -> Option<&str> {
        match &*self.0 {
            Holder::Service(token) => Some(token.name.as_deref().unwrap_or("unnamed")),
            Holder::Anyone | Holder::Client(..) => None,
        }
    }

    /// The rights of a client's token; none for a backend, and where the daemon requires no tokens.
    pub fn grant(&self) -> Option<&Grant> {
        match &*self.0 {
            Holder::Client(grant, _) => Some(grant),
            Holder::Anyone | Holder::Service(_) => None,
        }
    }

    /// The name under which the limits of a client count: the user of its token, or the token itself if it has none.
    pub fn owner(&self) -> Option<&Arc<str>> {
        match &*self.0 {
            Holder::Client(_, owner) => Some(owner),
            Holder::Anyone | Holder::Service(_) => None,
        }
    }

    /// An error if a backend's token lacks this scope. A client's token has no scopes.
    fn check_scope(&self, scope: Scope) -> Result<(), Error> {
        match &*self.0 {
            Holder::Service(token) if !token.has(scope) => {
                let name = token.name.as_deref().unwrap_or_default();
                let scope = format!("{scope:?}").to_lowercase();
                Err(Error::Forbidden(format!("the service token {name} does not have the scope {scope}")))
            }
            _ => Ok(()),
        }
    }

    /// An error if the pass is a backend's token without the scope `read`. Calls that name several users check it first: without
    /// the scope the call is refused, not each of its names.
    pub fn check_read(&self) -> Result<(), Error> {
        self.check_scope(Scope::Read)
    }

    /// The same for the scope `write`.
    pub fn check_write(&self) -> Result<(), Error> {
        self.check_scope(Scope::Write)
    }

    /// An error if the pass is a backend's token that could neither watch nor send heartbeats on a socket.
    pub fn check_socket(&self) -> Result<(), Error> {
        self.check_read().or_else(|refused| self.check_write().map_err(|_| refused))
    }

    /// An error unless the pass allows administrative calls.
    pub fn check_admin(&self) -> Result<(), Error> {
        self.check_scope(Scope::Admin)?;
        match self.grant() {
            Some(_) => {
                Err(Error::Forbidden("only a service token with the scope admin allows this call".into()))
            }
            None => Ok(()),
        }
    }

    /// An error unless the pass allows to watch everybody.
    pub fn check_watch_all(&self) -> Result<(), Error> {
        self.check_scope(Scope::Read)?;
        match self.grant() {
            Some(grant) if !grant.watch.covers_everybody() => Err(Error::Forbidden(
                "the token does not allow to watch everybody; its claim must be \"watch\":\"*\", a text and not a list".into(),
            )),
            _ => Ok(()),
        }
    }

    /// An error unless the pass allows to watch this user.
    pub fn check_watch(&self, user: &str) -> Result<(), Error> {
        self.check_scope(Scope::Read)?;
        match self.grant() {
            Some(grant) if !grant.may_watch(user) => Err(Error::Forbidden(format!(
                "the token does not allow to watch {}; its claim watch does not list this user",
                shown(user)
            ))),
            _ => Ok(()),
        }
    }

    /// An error unless a client may watch this group: an invalid name, or one that the pass does not allow.
    pub fn check_group(&self, group: &str) -> Result<(), Error> {
        check_user(group).map_err(|why| Error::group(group, why))?;
        self.check_scope(Scope::Read)?;
        match self.grant() {
            Some(grant) if !grant.groups.covers(group) => Err(Error::Forbidden(format!(
                "the token does not allow to watch the group {}; its claim groups does not list it",
                shown(group)
            ))),
            _ => Ok(()),
        }
    }

    /// An error unless a client may name this user in a query or watch: an invalid name, or one that the pass does not allow.
    pub fn check_asked(&self, pattern: &KeyPattern, user: &str) -> Result<(), Error> {
        pattern.check_user(user).map_err(|why| Error::user(user, why))?;
        self.check_watch(user)
    }

    /// An error unless the pass allows heartbeats and goodbyes of this user.
    pub fn check_speak(&self, user: &str) -> Result<(), Error> {
        self.check_scope(Scope::Write)?;
        match self.grant() {
            Some(grant) if grant.user.as_deref() != Some(user) => Err(Error::Forbidden(format!(
                "the token does not allow to speak for {}; a client speaks only for the sub of its token",
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
        pass.ok_or_else(|| Failure(Error::Unauthorized("this request has no pass".into())))
    }
}

/// Checks tokens against the keys and service tokens of the files.
pub struct Gate {
    access: Access,
    tags: hmac::Key,
    loaded: Mutex<Arc<Loaded>>,
    /// Orders of other daemons.
    orders: CarriedOut,
    /// How often the files were read again.
    changed: watch::Sender<u64>,
}

/// The contents of the files.
struct Loaded {
    keys: Option<KeySet>,
    service: Vec<ServiceToken>,
    revoked: Revoked,
}

/// Why a pass that was good is no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassEnd {
    /// The token has expired, or its key or service token is gone from the files.
    Expired,
    /// `--revoked` names it.
    Revoked,
}

impl Loaded {
    fn read(access: &Access, tags: &hmac::Key) -> Result<Loaded> {
        Ok(Loaded {
            keys: files::keys(access)?,
            service: files::service_tokens(access, tags)?,
            revoked: files::revoked(access)?,
        })
    }

    fn log(&self) {
        if let Some(keys) = &self.keys {
            info!("clients' tokens are verified by {}", keys.names());
        }
    }
}

fn random_key() -> Result<hmac::Key> {
    hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
        .map_err(|_| anyhow!("the system gives no random numbers"))
}

impl Gate {
    /// Reads the files that `access` names.
    pub fn new(access: Access) -> Result<Gate> {
        let tags = random_key()?;
        let loaded = Loaded::read(&access, &tags)?;
        loaded.log();
        let (loaded, changed) = (Mutex::new(Arc::new(loaded)), watch::Sender::new(0));
        Ok(Gate { access, tags, loaded, orders: CarriedOut::default(), changed })
    }

    /// The faults of the files that `access` names.
    pub fn faults(access: &Access) -> Vec<anyhow::Error> {
        let service = random_key().and_then(|tags| files::service_tokens(access, &tags));
        [
            files::public_keys(access).err(),
            files::secret(access).err(),
            service.err(),
            files::revoked(access).err(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Reads the files again, and returns what puts them into use. On an error, and until then, the gate keeps what it had.
    pub fn prepare(&self) -> Result<impl FnOnce() + '_> {
        let next = Loaded::read(&self.access, &self.tags)?;
        if let (Some(keys), Some(next)) = (&self.loaded().keys, &next.keys) {
            keys.check_same_kinds(next)?;
        }
        Ok(move || {
            next.log();
            *lock(&self.loaded) = Arc::new(next);
            self.changed.send_modify(|count| *count += 1);
        })
    }

    /// Changes each time the files were read again.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Does the daemon require tokens?
    pub fn requires_tokens(&self) -> bool {
        !self.access.is_open()
    }

    /// Is a pass still good: its token has not expired and is not revoked, and its key or service token is still in the files?
    pub fn still_good(&self, pass: &Pass) -> Result<(), PassEnd> {
        let (good, revoked) = match &*pass.0 {
            // Without the lock, since each delivery asks.
            Holder::Anyone => return Ok(()),
            Holder::Service(token) => (self.loaded().service.iter().any(|other| other.equals(token)), false),
            Holder::Client(grant, _) => {
                let loaded = self.loaded();
                let known = loaded.keys.as_ref().is_some_and(|keys| keys.has(&grant.key));
                (known && now_s() < grant.ends, loaded.revoked.names(grant))
            }
        };
        match (good, revoked) {
            // Also of an expired token: a new one would be revoked too.
            (_, true) => Err(PassEnd::Revoked),
            (good, false) => good.then_some(()).ok_or(PassEnd::Expired),
        }
    }

    /// The proof by which an operator's order to close the sockets of a user is accepted by the other daemons on this channel.
    /// `None` without a service token: no daemon could check such an order.
    pub fn prove_close(&self, pass: &Pass, channel: &str, user: &str) -> Option<String> {
        match &*pass.0 {
            Holder::Service(token) if token.has(Scope::Admin) => {
                let proof = close_order::prove(&token.order_key, channel, user, now_ms());
                self.orders.remember(&proof);
                Some(proof)
            }
            _ => None,
        }
    }

    /// May a message on this channel close the sockets of a user? It may do so once, if an operator's token that this daemon
    /// knows too has proven it.
    pub fn accepts_close(&self, channel: &str, user: &str, proof: &str) -> bool {
        let loaded = self.loaded();
        let operators = loaded.service.iter().filter(|token| token.has(Scope::Admin));
        self.orders.accepts(operators.map(|token| &token.order_key), channel, user, proof, now_ms())
    }

    /// The rights of this token. Error: `invalid_token`.
    pub fn check(&self, token: &str) -> Result<Pass, Error> {
        let loaded = self.loaded();
        // Compares with all of them, so that the time does not show which one fits.
        let fits = |service: &&ServiceToken| service.is(token, &self.tags);
        if let Some(service) = loaded.service.iter().filter(fits).last() {
            return Ok(Pass::new(Holder::Service(service.clone())));
        }
        let Some(keys) = &loaded.keys else {
            return Err(Error::InvalidToken(
                "it is not a service token, and this daemon accepts no clients' tokens".into(),
            ));
        };
        let grant = keys.verify(token, now_s()).map_err(|why| Error::InvalidToken(why.to_string()))?;
        if loaded.revoked.names(&grant) {
            return Err(Error::InvalidToken(REVOKED.into()));
        }
        let owner = grant.user.clone().unwrap_or_else(|| nameless(token));
        Ok(Pass::new(Holder::Client(grant, owner)))
    }

    /// The rights of this request. Errors: `unauthorized` without a token, `invalid_token` with a wrong one.
    fn admit(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Pass, Error> {
        if !self.requires_tokens() {
            return Ok(ANYONE.clone());
        }
        match presented(method, uri, headers)? {
            Some(token) => self.check(&token),
            None => {
                Err(Error::Unauthorized("a token is needed; send it as Authorization: Bearer TOKEN".into()))
            }
        }
    }

    fn loaded(&self) -> Arc<Loaded> {
        lock(&self.loaded).clone()
    }
}

/// A name for a token without a user: the end of its signature, after a character that no user has in the name.
fn nameless(token: &str) -> Arc<str> {
    let from = token.len().saturating_sub(40);
    format!("\n{}", token.get(from..).unwrap_or(token)).into()
}

/// The wall clock, in seconds since the epoch.
pub fn now_s() -> u64 {
    now_ms() / 1000
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// The token of a request: from the header Authorization, the subprotocols, or the query of a GET.
fn presented(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Option<String>, Error> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    match (all.next(), all.next()) {
        (Some(value), None) => return bearer(value.as_bytes()).map(Some),
        (Some(_), Some(_)) => {
            return Err(Error::Unauthorized("there are two Authorization headers; send one".into()));
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
    let token = parameters(uri.query().unwrap_or_default()).find(|(name, _)| name == "token");
    // Without `decoded`: a token may contain +.
    Ok(token.map(|(_, token)| percent_decode_str(token).decode_utf8_lossy().into_owned()))
}

fn bearer(value: &[u8]) -> Result<String, Error> {
    let text = std::str::from_utf8(value).ok();
    let parts = text.and_then(|text| text.trim().split_once(' '));
    match parts.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) {
        Some((_, token)) => Ok(token.trim().to_owned()),
        None => Err(Error::Unauthorized("the Authorization header must be: Bearer TOKEN".into())),
    }
}

/// The state of [`authenticate`].
#[derive(Clone)]
pub struct Guard {
    /// Checks tokens.
    pub gate: Arc<Gate>,
    /// Counts wrong tokens per address, and requests per user.
    pub quotas: Arc<Quotas>,
    /// The paths that need no token.
    pub is_public: fn(&str) -> bool,
}

/// Gives a request its pass, or refuses it.
pub async fn authenticate(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    if (guard.is_public)(request.uri().path()) {
        return next.run(request).await;
    }
    match guard.gate.admit(request.method(), request.uri(), request.headers()) {
        Ok(pass) => {
            if let Err(error) = guard.quotas.take_request(pass.owner()) {
                return Failure(error).into_response();
            }
            request.extensions_mut().insert(pass.clone());
            let mut response = next.run(request).await;
            // For the audit.
            response.extensions_mut().insert(pass);
            response
        }
        Err(error) => Failure(guard.count(&request, error)).into_response(),
    }
}

impl Guard {
    /// The answer to a request without a pass. An address that sends many wrong tokens gets 429 and loses its connection.
    /// A right token from that address still passes, because many clients may share one address.
    fn count(&self, request: &Request, error: Error) -> Error {
        match (&error, request.extensions().get()) {
            (Error::InvalidToken(_), Some(&Peer(address))) => {
                self.quotas.take_wrong_token(address).err().unwrap_or(error)
            }
            _ => error,
        }
    }
}
