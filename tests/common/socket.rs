//! A WebSocket client.

use super::PATIENCE;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

pub struct Socket {
    pub ws: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    /// Connects. `query` follows `/v1/ws`, such as `?user=alice`.
    pub async fn connect(port: u16, query: &str) -> Socket {
        let mut request = format!("ws://127.0.0.1:{port}/v1/ws{query}").into_client_request().expect("a URL");
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("keybeat.v1"));
        let (ws, answer) = tokio_tungstenite::connect_async(request).await.expect("the daemon accepts");
        assert_eq!(answer.headers()["sec-websocket-protocol"], "keybeat.v1");
        Socket { ws }
    }

    /// The client's own port.
    pub fn local_port(&self) -> u16 {
        match self.ws.get_ref() {
            tokio_tungstenite::MaybeTlsStream::Plain(stream) => {
                stream.local_addr().expect("it is connected").port()
            }
            _ => panic!("without TLS"),
        }
    }

    pub async fn send(&mut self, message: Value) {
        self.send_text(&message.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.ws.send(Message::text(text)).await.expect("the daemon reads");
    }

    /// The next JSON message.
    pub async fn next(&mut self) -> Value {
        match self.next_or_close().await {
            Ok(value) => value,
            Err((code, reason)) => panic!("closed: {code} {reason}"),
        }
    }

    /// The first two messages: the hello, which is returned, and the status.
    pub async fn hello(&mut self) -> Value {
        let (hello, status) = (self.next().await, self.next().await);
        assert_eq!(
            (&hello["type"], &status["type"]),
            (&"hello".into(), &"status".into()),
            "{hello} {status}"
        );
        hello
    }

    /// Connects. None if no daemon answers.
    pub async fn try_connect(port: u16) -> Option<Socket> {
        let (ws, _) = tokio_tungstenite::connect_async(format!("ws://127.0.0.1:{port}/v1/ws")).await.ok()?;
        Some(Socket { ws })
    }

    /// The next JSON message. None if the connection has ended.
    pub async fn next_if_open(&mut self) -> Option<Value> {
        loop {
            match self.ws.next().await? {
                Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).expect("JSON")),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next JSON message, without a time limit.
    pub async fn next_patiently(&mut self) -> Value {
        loop {
            match self.ws.next().await {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).expect("JSON"),
                Some(Ok(_)) => {}
                other => panic!("the connection ended: {other:?}"),
            }
        }
    }

    /// The next JSON message, or the code and reason of the close.
    pub async fn next_or_close(&mut self) -> Result<Value, (u16, String)> {
        // One deadline for the whole wait, because pings keep coming.
        let end = Instant::now() + PATIENCE;
        loop {
            let message = timeout_at(end, self.ws.next()).await.expect("no message in time");
            match message {
                Some(Ok(Message::Text(text))) => {
                    return Ok(serde_json::from_str(&text).expect("JSON"));
                }
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Err((frame.code.into(), frame.reason.to_string()));
                }
                Some(Ok(Message::Close(None))) | None => return Err((1005, String::new())),
                Some(Ok(_)) => {}
                Some(Err(why)) => return Err((1006, why.to_string())),
            }
        }
    }

    /// The users of a whole snapshot. Panics if another message comes between its chunks.
    pub async fn snapshot(&mut self) -> Vec<Value> {
        let mut users = Vec::new();
        loop {
            let message = self.next().await;
            assert_eq!(message["type"], "snapshot", "{message}");
            let some = message["users"].as_array().expect("users").clone();
            assert!(message["more"] == false || some.len() == 1000, "chunks of 1,000");
            users.extend(some);
            if message["more"] == false {
                return users;
            }
        }
    }

    /// The transitions of the next `transitions` message. Skips `status` messages.
    pub async fn transitions(&mut self) -> Vec<Value> {
        loop {
            let message = self.next().await;
            match message["type"].as_str() {
                Some("transitions") => {
                    return message["transitions"].as_array().expect("a list").clone();
                }
                Some("status") => {}
                _ => panic!("{message}"),
            }
        }
    }
}
