//! Prints the state of users, and each change of it, as a daemon tells them over its WebSocket:
//!
//!     cargo run --example watch -- alice bob
//!
//! `KEYBEAT_URL` names another daemon than `http://127.0.0.1:7400`. A program that is to last
//! connects again when the socket ends, with backoff and jitter, and begins with the new snapshot.

use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let users: Vec<String> = std::env::args().skip(1).collect();
    if users.is_empty() {
        bail!("name the users to watch");
    }
    let daemon = std::env::var("KEYBEAT_URL").unwrap_or_else(|_| "http://127.0.0.1:7400".into());
    let url = format!("{}/v1/ws", daemon.replacen("http", "ws", 1));
    let mut request = url.as_str().into_client_request()?;
    request.headers_mut().insert("sec-websocket-protocol", "keybeat.v1".parse()?);
    let (mut socket, _) =
        connect_async(request).await.with_context(|| format!("no daemon answers at {url}"))?;
    let watch = json!({"type": "watch", "users": users, "id": 1});
    socket.send(Message::text(watch.to_string())).await?;
    while let Some(message) = socket.next().await {
        let received = match message? {
            Message::Text(received) => received,
            Message::Close(Some(frame)) => {
                bail!("closed by the daemon: {} {}", frame.code, frame.reason)
            }
            _ => continue,
        };
        let message: Value = serde_json::from_str(&received)?;
        // A snapshot says how things are, transitions how they change from there.
        match text(&message, "type") {
            "snapshot" => print(&message["users"]),
            "transitions" => print(&message["transitions"]),
            "status" => println!("Redis is {}", text(&message, "redis")),
            "error" => bail!("the daemon refused: {}", text(&message, "message")),
            _ => {}
        }
    }
    bail!("the connection ended")
}

fn print(changes: &Value) {
    for change in changes.as_array().into_iter().flatten() {
        // A user of a snapshot has no reason: nothing has happened.
        println!("{} is {} {}", text(change, "user"), text(change, "state"), text(change, "reason"));
    }
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}
