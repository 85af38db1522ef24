//! Prints the state of users and each change of it, as a daemon sends them over its WebSocket:
//!
//!     cargo run --no-default-features --features client --example watch -- alice bob
//!
//! `KEYBEAT_URL` is the daemon's address, by default `http://127.0.0.1:7400`; `KEYBEAT_TOKEN` is a token for it. The
//! client reconnects after a lost connection and reports what changed in between.

use keybeat::client::{Client, ClientEvent};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let users: Vec<String> = std::env::args().skip(1).collect();
    if users.is_empty() {
        return Err("name the users to watch".into());
    }
    let daemon = std::env::var("KEYBEAT_URL").unwrap_or_else(|_| "http://127.0.0.1:7400".into());
    let mut builder = Client::builder(daemon.parse()?);
    if let Ok(token) = std::env::var("KEYBEAT_TOKEN") {
        builder = builder.token(token);
    }
    let mut client = builder.connect()?;
    client.watch(users);
    loop {
        match client.next().await? {
            // The state of users that the client reports for the first time.
            ClientEvent::Snapshot(users) => {
                for user in users {
                    println!("{} is {}", user.user(), if user.online() { "online" } else { "offline" });
                }
            }
            // Every change after that.
            ClientEvent::Transitions(transitions) => {
                for change in transitions {
                    println!("{} is {:?} ({:?})", change.user, change.state, change.reason);
                }
            }
            ClientEvent::Status { redis, .. } => println!("Redis is {redis:?}"),
            ClientEvent::Waiting { why, retry } => eprintln!("{why}; trying again in {retry:.1?}"),
            ClientEvent::Refused { message, .. } => {
                return Err(format!("the daemon refused: {message}").into());
            }
            ClientEvent::Statuses(statuses) => {
                for one in statuses {
                    println!("the status of {} is {}", one.user, one.status);
                }
            }
            // Live, and what concerns groups.
            _ => {}
        }
    }
}
