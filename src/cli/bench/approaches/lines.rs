//! The two kinds of connection: a WebSocket, and requests over a connection that stays open.

use super::counted::Counted;
use super::viewer::{Line, Told, Visit};
use anyhow::{Result, anyhow, ensure};
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Method, Request, header};
use futures_util::{SinkExt, StreamExt};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::task::AbortOnDropHandle;

/// The longest answer, in bytes.
const MOST: usize = 16 * 1024 * 1024;

/// A message with states, from keybeat or from one of the small programs.
#[derive(Deserialize)]
struct FromServer {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    transitions: Vec<StateOfUser>,
    #[serde(default)]
    users: Vec<StateOfUser>,
}

#[derive(Deserialize)]
struct StateOfUser {
    user: String,
    state: String,
}

/// The states in a message of a server; none if it has none.
fn states(text: &[u8]) -> Vec<Told> {
    let Ok(message) = serde_json::from_slice::<FromServer>(text) else { return Vec::new() };
    let all = match &*message.kind {
        "transitions" => message.transitions,
        "snapshot" => message.users,
        _ => Vec::new(),
    };
    let told = |one: StateOfUser| Some((one.user.split_once('-')?.1.parse().ok()?, one.state == "online"));
    all.into_iter().filter_map(told).collect()
}

/// A WebSocket.
pub struct Socket(WebSocketStream<Counted>);

impl Line for Socket {
    async fn open(visit: &Visit, stream: Counted) -> Result<Socket> {
        // The client sends each heartbeat itself, so that all approaches get the same ones.
        let url = format!("ws://{}/v1/ws?user={}&beat=false", visit.at, visit.name());
        let (mut socket, _) = client_async(url, stream).await?;
        let watch = json!({"type": "watch", "users": visit.names()}).to_string();
        socket.send(Message::text(watch)).await?;
        Ok(Socket(socket))
    }

    async fn beat(&mut self, _: &Visit) -> Result<Vec<Told>> {
        self.0.send(Message::text(r#"{"type":"heartbeat"}"#)).await?;
        Ok(Vec::new())
    }

    async fn leave(&mut self, _: &Visit) -> Result<()> {
        Ok(self.0.send(Message::text(r#"{"type":"leave"}"#)).await?)
    }

    async fn next(&mut self) -> Result<Vec<Told>> {
        match self.0.next().await {
            Some(Ok(Message::Text(text))) => Ok(states(text.as_bytes())),
            Some(Ok(Message::Close(frame))) => Err(anyhow!("the server closed the socket: {frame:?}")),
            Some(Ok(_)) => Ok(Vec::new()),
            Some(Err(why)) => Err(why.into()),
            None => Err(anyhow!("the server closed the connection")),
        }
    }
}

/// Requests.
pub struct Requests {
    sender: SendRequest<Body>,
    _connection: AbortOnDropHandle<()>,
}

impl Requests {
    async fn ask(&mut self, method: Method, visit: &Visit, body: String) -> Result<Bytes> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/poll?user={}", visit.name()))
            .header(header::HOST, visit.at.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        let bytes = to_bytes(Body::new(answer.into_body()), MOST).await?;
        ensure!(status.is_success() || status.as_u16() == 503, "the server answered {status}");
        // While the server cannot reach Redis, the page shows what it knows.
        Ok(if status.is_success() { bytes } else { Bytes::new() })
    }
}

impl Line for Requests {
    async fn open(_: &Visit, stream: Counted) -> Result<Requests> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
        Ok(Requests { sender, _connection: connection })
    }

    async fn beat(&mut self, visit: &Visit) -> Result<Vec<Told>> {
        let body = json!({"users": visit.names()}).to_string();
        Ok(states(&self.ask(Method::POST, visit, body).await?))
    }

    async fn leave(&mut self, visit: &Visit) -> Result<()> {
        self.ask(Method::DELETE, visit, String::new()).await.map(drop)
    }

    async fn next(&mut self) -> Result<Vec<Told>> {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_from_both_messages() {
        let transitions = br#"{"type":"transitions","seq":7,"transitions":[{"seq":7,"user":"bench-3","state":"offline","at_ms":1}]}"#;
        assert_eq!(states(transitions), [(3, false)]);
        let snapshot = br#"{"type":"snapshot","users":[{"user":"bench-1","state":"online","sessions":1},
            {"user":"bench-2","state":"offline"}],"more":false}"#;
        assert_eq!(states(snapshot), [(1, true), (2, false)]);
        for other in [&br#"{"type":"status","state":"up"}"#[..], b"not JSON", br#"{"type":"hello"}"#] {
            assert_eq!(states(other), []);
        }
    }
}
