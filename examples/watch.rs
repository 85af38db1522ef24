//! Prints the state of users, and each change of it, as a daemon tells them over its WebSocket:
//!
//!     cargo run --example watch -- alice bob
//!
//! `KEYBEAT_URL` names another daemon than `http://127.0.0.1:7400`. When the socket ends it connects again,
//! with backoff and jitter, so that thousands who lost the same daemon do not all come back in the same
//! moment; and it begins with the new snapshot.

use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// The shortest wait before the next attempt, and the longest, which doubling ends at.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// The close codes after which another attempt would end the same way: too_big and forbidden.
const FINAL: [u16; 2] = [1009, 4003];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let users: Vec<String> = std::env::args().skip(1).collect();
    if users.is_empty() {
        bail!("name the users to watch");
    }
    let (least, most) = BACKOFF;
    let mut ceiling = least;
    loop {
        let mut connected = false;
        let why = match follow(&users, &mut connected).await {
            Ok(Ended::ForGood(why)) => bail!(why),
            Ok(Ended::ForNow(why)) => why,
            Err(why) => format!("{why:#}"),
        };
        ceiling = if connected { least } else { ceiling };
        ceiling = (ceiling * 2).min(most);
        // Anywhere between the shortest wait and the ceiling.
        let wait = least + (ceiling - least).mul_f64(fastrand::f64());
        eprintln!("{why}; trying again in {wait:.1?}");
        tokio::time::sleep(wait).await;
    }
}

/// How a socket ended, and what was said of it.
enum Ended {
    ForNow(String),
    ForGood(String),
}

/// One connection, to its end.
async fn follow(users: &[String], connected: &mut bool) -> anyhow::Result<Ended> {
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
                let why = format!("closed by the daemon: {} {}", frame.code, frame.reason);
                let for_good = FINAL.contains(&frame.code.into());
                return Ok(if for_good { Ended::ForGood(why) } else { Ended::ForNow(why) });
            }
            _ => continue,
        };
        let message: Value = serde_json::from_str(&received)?;
        // A snapshot says how things are, transitions how they change from there.
        match text(&message, "type") {
            "snapshot" => {
                *connected = true;
                print(&message["users"]);
            }
            "transitions" => print(&message["transitions"]),
            "status" => println!("Redis is {}", text(&message, "redis")),
            "error" => {
                return Ok(Ended::ForGood(format!("the daemon refused: {}", text(&message, "message"))));
            }
            _ => {}
        }
    }
    Ok(Ended::ForNow("the connection ended".into()))
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
