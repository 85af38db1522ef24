//! A daemon as the commands speak to it.

use super::access::TokenArgs;
use super::address::{AddressArgs, advised};
use crate::client::{Address, Client, Error, Stream};
use crate::config::{DEFAULT_LISTEN, Limits};
use crate::presence::Key;
use crate::protocol::{QueryAnswer, UserObject};
use anyhow::{Context, Result, anyhow, bail};
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes: room for 10,000 users with the longest names.
const MOST: usize = 16 * 1024 * 1024;

/// Where a daemon is, and how to ask it.
pub struct Daemon {
    address: Address,
    trust: Option<TlsConnector>,
    token: TokenArgs,
}

impl Daemon {
    /// The daemon that was named, or the one that would listen here.
    pub fn new(args: &AddressArgs, token: TokenArgs) -> Result<Daemon> {
        let local = || Address::parse(&format!("http://{DEFAULT_LISTEN}")).map_err(|why| anyhow!(why));
        let address = args.url.clone().map_or_else(local, Ok)?;
        let trust = address.trust(args.ca.as_deref(), "--ca")?;
        Ok(Daemon { address, trust, token })
    }

    /// Its address.
    pub fn shown(&self) -> String {
        self.address.to_string()
    }

    /// A client of its WebSocket.
    pub fn client(&self) -> Result<Client> {
        let token = self.token.clone();
        Client::builder(self.address.clone())
            .trusting(self.trust.clone())
            .token_from(move || token.token().map_err(|why| format!("{why:#}").into()))
            .connect()
            .map_err(advised)
    }

    /// A new connection to it.
    async fn connect(&self) -> Result<Box<dyn Stream>> {
        self.address.connect(self.trust.as_ref()).await.map_err(advised)
    }

    /// The state of each of these users.
    pub async fn query(&self, users: &[String]) -> Result<Vec<UserObject>> {
        let mut objects = Vec::new();
        for some in users.chunks(Limits::default().users_per_request) {
            let body = self.post("/v1/users/query", json!({ "users": some })).await?;
            let answer: QueryAnswer =
                serde_json::from_slice(&body).context("the daemon's answer cannot be read")?;
            objects.extend(answer.users);
        }
        Ok(objects)
    }

    /// Sends a heartbeat for each of these keys.
    pub async fn beat(&self, keys: &[Key], ttl: Duration) -> Result<()> {
        let ttl_ms = ttl.as_millis() as u64;
        let item = |key: &Key| json!({"user": key.user(), "session": key.session(), "ttl_ms": ttl_ms});
        let items: Vec<Value> = keys.iter().map(item).collect();
        for some in items.chunks(Limits::default().users_per_request) {
            self.post("/v1/heartbeats", json!({ "users": some })).await?;
        }
        Ok(())
    }

    /// The token to show, if there is one.
    pub fn token(&self) -> Result<Option<String>> {
        self.token.token()
    }

    async fn post(&self, path: &str, body: Value) -> Result<Vec<u8>> {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// The answer's body; an error where the daemon refuses.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Vec<u8>> {
        let (status, bytes) = self.call(method, path, body).await?;
        if status.is_success() {
            return Ok(bytes);
        }
        let text = String::from_utf8_lossy(&bytes);
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let message = answer["error"]["message"].as_str().unwrap_or(&text);
        let hint = if status == 401 { "; name a file with a token: --token-file FILE" } else { "" };
        bail!("the daemon at {} refused: {message} ({status}){hint}", self.address)
    }

    /// One request on a connection of its own: commands ask seldom.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, Vec<u8>)> {
        let mut request = Request::builder().method(method).uri(self.address.path(path));
        request = request.header(header::HOST, self.address.host()).header(header::CONNECTION, "close");
        if let Some(token) = self.token()? {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        let request = request.body(body).context("the token cannot be a header")?;
        let stream = self.connect().await?;
        let answered = timeout(ANSWER, exchange(stream, request)).await;
        answered.map_err(|_| advised(Error::Silent { address: self.shown(), after: ANSWER }))?.with_context(
            || format!("{} did not answer as a daemon does; name one: --url http://HOST:PORT", self.address),
        )
    }
}

async fn exchange(stream: Box<dyn Stream>, request: Request<Body>) -> Result<(StatusCode, Vec<u8>)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let bytes = to_bytes(Body::new(answer.into_body()), MOST).await?;
    connection.abort();
    Ok((status, bytes.to_vec()))
}
