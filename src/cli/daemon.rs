//! HTTP requests of the commands to a daemon.

use super::access::TokenArgs;
use super::address::{AddressArgs, advised};
use crate::client::{self, Address, Beat, Client, ClientError, Stream};
use crate::config::DEFAULT_LISTEN;
use crate::error::MAX_USERS;
use crate::presence::Key;
use crate::protocol::{GroupAnswer, HeartbeatsAnswer, QueriedUser, QueryAnswer};
use anyhow::{Context, Result, anyhow, bail};
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Time limit of a request.
const ANSWER: Duration = Duration::from_secs(10);
/// Maximum size of an answer, in bytes: holds 10,000 users with the longest names.
const MOST: usize = 16 * 1024 * 1024;

/// A daemon and how to reach it.
pub struct DaemonApi {
    address: Address,
    trust: Option<TlsConnector>,
    token: TokenArgs,
}

impl DaemonApi {
    /// The daemon that `--url` names, or the one at the default address.
    ///
    /// # Errors
    /// The CA certificates cannot be read.
    pub fn new(args: &AddressArgs, token: TokenArgs) -> Result<DaemonApi> {
        let local = || Address::parse(&format!("http://{DEFAULT_LISTEN}")).map_err(|why| anyhow!(why));
        let address = args.url.clone().map_or_else(local, Ok)?;
        let trust = address.trust(args.ca.as_deref(), "--ca")?;
        Ok(DaemonApi { address, trust, token })
    }

    /// The address, for messages.
    pub fn shown(&self) -> String {
        self.address.to_string()
    }

    /// Connects a client to the WebSocket of the daemon.
    pub fn client(&self) -> Result<Client> {
        let token = self.token.clone();
        // To look puts nobody online, not even the user whose token this is.
        let beat = if token.names_user() { Beat::Never } else { Beat::default() };
        let builder = Client::builder(self.address.clone()).trusting(self.trust.clone()).beat(beat);
        let builder = if token.is_file() {
            builder.token_from(move || token.token().map_err(|why| format!("{why:#}").into()))
        } else {
            match token.token()? {
                Some(token) => builder.token(token),
                None => builder,
            }
        };
        builder.connect().map_err(advised)
    }

    /// Opens a new connection.
    async fn connect(&self) -> Result<Box<dyn Stream>> {
        self.address.connect(self.trust.as_ref()).await.map_err(advised)
    }

    /// The state of each of these users.
    pub async fn query(&self, users: &[String]) -> Result<Vec<QueriedUser>> {
        let mut objects = Vec::new();
        for some in users.chunks(MAX_USERS) {
            let body = self.post("/v1/users/query", json!({ "users": some })).await?;
            let answer: QueryAnswer =
                serde_json::from_slice(&body).context("cannot parse the answer of the daemon")?;
            objects.extend(answer.users);
        }
        Ok(objects)
    }

    /// A page of the members of a group: those after `cursor`.
    pub async fn group(&self, group: &str, cursor: &str) -> Result<GroupAnswer> {
        let [group, cursor] = [group, cursor].map(|text| utf8_percent_encode(text, NON_ALPHANUMERIC));
        let body = self.ask(Method::GET, &format!("/v1/groups/{group}?cursor={cursor}"), None).await?;
        serde_json::from_slice(&body).context("cannot parse the answer of the daemon")
    }

    /// Sends a heartbeat for each of these keys.
    pub async fn beat(&self, keys: &[Key], ttl: Duration) -> Result<()> {
        let ttl_ms = ttl.as_millis() as u64;
        let item = |key: &Key| json!({"user": key.user(), "session": key.session(), "ttl_ms": ttl_ms});
        let items: Vec<Value> = keys.iter().map(item).collect();
        for some in items.chunks(MAX_USERS) {
            let body = self.post("/v1/heartbeats", json!({ "users": some })).await?;
            if body.is_empty() {
                continue;
            }
            let answer: HeartbeatsAnswer =
                serde_json::from_slice(&body).context("cannot parse the answer of the daemon")?;
            if let Some(first) = answer.refused.first() {
                bail!(
                    "the daemon refused {} of {} heartbeats: {}",
                    answer.refused.len(),
                    some.len(),
                    first.message
                );
            }
        }
        Ok(())
    }

    /// The token to send, if there is one.
    pub fn token(&self) -> Result<Option<String>> {
        self.token.token()
    }

    async fn post(&self, path: &str, body: Value) -> Result<Vec<u8>> {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// Sends a request and returns the body of the answer.
    ///
    /// # Errors
    /// The daemon cannot be reached, or it refuses the request.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Vec<u8>> {
        let (status, bytes) = self.call(method, path, body).await?;
        if status.is_success() {
            return Ok(bytes);
        }
        let text = String::from_utf8_lossy(&bytes);
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let Some(message) = answer["error"]["message"].as_str() else {
            return Err(self.foreign(status));
        };
        let hint = if status == 401 { "; name a file with a token: --token-file FILE" } else { "" };
        bail!("the daemon at {} refused the request: {message} ({status}){hint}", self.address)
    }

    /// The error of an answer that no daemon gives.
    fn foreign(&self, status: StatusCode) -> anyhow::Error {
        if matches!(status.as_u16(), 502..=504) {
            return anyhow!(
                "a proxy at {} reaches no daemon: it answered {status}; start a daemon (keybeat serve) where the proxy looks for one",
                self.address
            );
        }
        advised(ClientError::NoDaemon { address: self.shown(), why: format!("it answered {status}") })
    }

    /// Sends one request on its own connection; commands send few requests.
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
        let request =
            request.body(body).context("the token contains characters that an HTTP header cannot contain")?;
        let stream = self.connect().await?;
        let answered = timeout(ANSWER, exchange(stream, request)).await;
        let answered =
            answered.map_err(|_| advised(ClientError::Silent { address: self.shown(), after: ANSWER }))?;
        answered.map_err(|why| match client::cause(why.as_ref()) {
            Some(cause) => advised(cause),
            None => why.context(format!(
                "{} is not a keybeat daemon; name one: --url http://HOST:PORT",
                self.address
            )),
        })
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
