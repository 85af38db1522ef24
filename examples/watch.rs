//! Prints the state of users, and each change of it, as a daemon tells them over its WebSocket:
//!
//!     cargo run --example watch -- alice bob
//!
//! `KEYBEAT_URL` names another daemon than `http://127.0.0.1:7400`, `KEYBEAT_TOKEN` is a token for it. When the
//! connection is lost the client comes back by itself, and tells what has changed meanwhile.

use anyhow::{Context, bail};
use keybeat::client::{Client, Event};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let users: Vec<String> = std::env::args().skip(1).collect();
    if users.is_empty() {
        bail!("name the users to watch");
    }
    let daemon = std::env::var("KEYBEAT_URL").unwrap_or_else(|_| "http://127.0.0.1:7400".into());
    let mut builder = Client::builder(daemon.parse()?);
    if let Ok(token) = std::env::var("KEYBEAT_TOKEN") {
        builder = builder.token(token);
    }
    let mut client = builder.connect()?;
    client.watch(users);
    loop {
        match client.next().await.context("the daemon is not asked again")? {
            // How things are with those of whom nothing was told before.
            Event::Snapshot(users) => {
                for user in users {
                    println!("{} is {}", user.user(), if user.online() { "online" } else { "offline" });
                }
            }
            // How they change from there.
            Event::Transitions(transitions) => {
                for change in transitions {
                    println!("{} is {:?} ({:?})", change.user, change.state, change.reason);
                }
            }
            Event::Status { redis, .. } => println!("Redis is {redis:?}"),
            Event::Waiting { why, retry } => eprintln!("{why}; trying again in {retry:.1?}"),
            Event::Refused { message, .. } => bail!("the daemon refused: {message}"),
            Event::Live => {}
        }
    }
}
