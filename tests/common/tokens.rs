//! An issuer of tokens, and requests and sockets that use them.

use super::PATIENCE;
use super::daemon::Daemon;
use super::socket::Socket;
use jsonwebtoken::{EncodingKey, Header, encode};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::{self};

/// Signs tokens with a secret in a file.
pub struct Issuer {
    folder: TempDir,
    secret: String,
}

pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

impl Issuer {
    pub fn new() -> Issuer {
        let mut issuer = Issuer { folder: tempfile::tempdir().expect("a folder"), secret: String::new() };
        issuer.rotate();
        issuer
    }

    /// Replaces the secret in the file.
    pub fn rotate(&mut self) {
        self.secret = format!("secret-{:032x}", fastrand::u128(..));
        std::fs::write(self.secret_file(), format!("{}\n", self.secret)).expect("a file");
    }

    pub fn secret(&self) -> &str {
        &self.secret
    }

    pub fn secret_file(&self) -> String {
        self.path("secret")
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Writes a file to the folder of the key file and returns its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).expect("a file");
        self.path(name)
    }

    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    pub fn sign(&self, claims: &Value) -> String {
        encode(&Header::default(), claims, &EncodingKey::from_secret(self.secret.as_bytes()))
            .expect("a token")
    }

    /// A token of `user` that may watch `watch`, or everybody for `["*"]`, and expires after `seconds`.
    pub fn token_for(&self, user: &str, watch: &[&str], seconds: u64) -> String {
        let watch = if watch == ["*"] { json!("*") } else { json!(watch) };
        self.sign(&json!({"sub": user, "watch": watch, "exp": now_s() + seconds}))
    }

    pub fn token(&self, user: &str, watch: &[&str]) -> String {
        self.token_for(user, watch, 3600)
    }
}

/// The answer to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

/// Sends a request with extra headers.
pub async fn call(
    daemon: &Daemon,
    method: &str,
    path: &str,
    body: Option<Value>,
    headers: &[(&str, &str)],
) -> Answer {
    let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
    let mut request = http.request(method.parse().expect("a method"), daemon.url(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.expect("the daemon answers");
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let text = answer.text().await.expect("a body");
    Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
}

/// Sends a request with a token.
pub async fn call_as(daemon: &Daemon, token: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
    call(daemon, method, path, body, &[("authorization", &format!("Bearer {token}"))]).await
}

/// A WebSocket handshake with extra headers.
pub fn handshake(daemon: &Daemon, query: &str, headers: &[(&str, &str)]) -> Request {
    let url = format!("ws://127.0.0.1:{}/v1/ws{query}", daemon.port);
    let mut request = url.into_client_request().expect("a URL");
    request.headers_mut().insert("sec-websocket-protocol", "keybeat.v1".parse().expect("a value"));
    for (name, value) in headers {
        let name = name.parse::<tungstenite::http::HeaderName>().expect("a name");
        request.headers_mut().insert(name, value.parse().expect("a value"));
    }
    request
}

/// Opens a socket. The error is the status and code of the refusal.
pub async fn try_socket(
    daemon: &Daemon,
    query: &str,
    headers: &[(&str, &str)],
) -> Result<Socket, (u16, String)> {
    match tokio_tungstenite::connect_async(handshake(daemon, query, headers)).await {
        Ok((ws, answer)) => {
            assert_eq!(answer.headers()["sec-websocket-protocol"], "keybeat.v1");
            Ok(Socket { ws })
        }
        Err(tungstenite::Error::Http(answer)) => {
            let body: Value =
                serde_json::from_slice(answer.body().as_deref().unwrap_or_default()).unwrap_or_default();
            let code = body["error"]["code"].as_str().unwrap_or_default().to_owned();
            Err((answer.status().as_u16(), code))
        }
        Err(other) => panic!("{other}"),
    }
}

/// Opens a socket with a token. Returns the socket and its hello.
pub async fn socket_as(daemon: &Daemon, token: &str, query: &str) -> (Socket, Value) {
    let bearer = format!("Bearer {token}");
    let mut socket = try_socket(daemon, query, &[("authorization", &bearer)])
        .await
        .unwrap_or_else(|why| panic!("{why:?}"));
    let hello = socket.hello().await;
    (socket, hello)
}
