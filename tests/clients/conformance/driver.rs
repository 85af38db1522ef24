//! Drives the Rust client for the conformance suite of clients. docs/PROTOCOL.md describes what a driver reads and prints.
//! Its argument: url and the client's own options as JSON.

use keybeat::client::{Beat, Client, ClientError, ClientEvent};
use keybeat::protocol::{RedisWord, State};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::BufRead;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Calls that may wait.
const CALLS: usize = 16;

type Failure = Box<dyn std::error::Error>;
type Tokens = Arc<Mutex<VecDeque<String>>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let options = std::env::args().nth(1).ok_or("the options are missing")?;
    let options: Value = serde_json::from_str(&options)?;
    let tokens = Tokens::new(Mutex::new(texts(&options["tokens"]).into()));
    let mut client = start(&options, &tokens)?;
    let mut calls = calls();
    let mut stopped = false;
    loop {
        tokio::select! {
            call = calls.recv() => {
                let Some(call) = call else { return Ok(()) };
                if call["call"] == "close" {
                    client.close().await;
                    print(&json!({"report": "stopped", "reason": ClientError::Closed.to_string()}));
                    print(&json!({"done": true}));
                    return wait_for_the_end(calls).await;
                }
                carry_out(&client, &tokens, &call);
                print(&json!({"done": true}));
            }
            event = client.next(), if !stopped => match event {
                Ok(event) => report(event),
                Err(why) => {
                    stopped = true;
                    print(&json!({"report": "stopped", "reason": why.to_string()}));
                }
            },
        }
    }
}

fn start(options: &Value, tokens: &Tokens) -> Result<Client, Failure> {
    let mut builder = Client::builder(options["url"].as_str().ok_or("the url is missing")?.parse()?);
    if let Some(token) = options["token"].as_str() {
        builder = builder.token(token);
    }
    if options["tokens"].is_array() {
        let tokens = tokens.clone();
        builder = builder.token_from(move || Ok(next_token(&tokens)));
    }
    if let Some(user) = options["user"].as_str() {
        builder = builder.user(user);
    }
    if let Some(session) = options["session"].as_str() {
        builder = builder.session(session);
    }
    match &options["beat"] {
        Value::Bool(false) => builder = builder.beat(Beat::Never),
        Value::String(_) => builder = builder.beat(Beat::Messages),
        _ => {}
    }
    Ok(builder.connect()?)
}

/// The next token; the last one again and again.
fn next_token(tokens: &Tokens) -> Option<String> {
    let mut tokens = tokens.lock().unwrap_or_else(PoisonError::into_inner);
    if tokens.len() > 1 { tokens.pop_front() } else { tokens.front().cloned() }
}

fn carry_out(client: &Client, tokens: &Tokens, call: &Value) {
    let text = |name: &str| call[name].as_str().unwrap_or_default().to_owned();
    match call["call"].as_str().unwrap_or_default() {
        "watch" => client.watch(texts(&call["users"])),
        "unwatch" => client.unwatch(texts(&call["users"])),
        "watch_all" => client.watch_all(),
        "unwatch_all" => client.unwatch_all(),
        "heartbeat" if call["user"].is_string() => client.heartbeat_of(text("user")),
        "heartbeat" => client.heartbeat(),
        "leave" => client.leave(),
        "token" => {
            *tokens.lock().unwrap_or_else(PoisonError::into_inner) = VecDeque::from([text("token")]);
        }
        other => eprintln!("there is no call {other}"),
    }
}

fn report(event: ClientEvent) {
    match event {
        ClientEvent::Snapshot(users) => {
            for user in users {
                state(user.user(), user.online());
            }
        }
        ClientEvent::Transitions(changes) => {
            for change in changes {
                state(&change.user, change.state == State::Online);
            }
        }
        ClientEvent::Status { redis, .. } => {
            print(&json!({"report": if redis == RedisWord::Up { "redis up" } else { "redis down" }}));
        }
        ClientEvent::Refused { code, users, .. } => {
            let words = [vec!["refused".to_owned(), code], users].concat();
            print(&json!({"report": words.join(" ")}));
        }
        // The conformance suite watches no statuses and no groups.
        ClientEvent::Statuses(_)
        | ClientEvent::Group { .. }
        | ClientEvent::Members { .. }
        | ClientEvent::Occupancy { .. }
        | ClientEvent::GroupRefused { .. } => {}
        ClientEvent::Live => print(&json!({"report": "live"})),
        ClientEvent::Waiting { why, retry } => {
            let retry_ms = retry.as_secs_f64() * 1000.0;
            print(&json!({"report": "waiting", "reason": why.to_string(), "retry_ms": retry_ms}));
        }
    }
}

fn state(user: &str, online: bool) {
    print(&json!({"report": format!("{user} {}", if online { "online" } else { "offline" })}));
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// The lines of standard input, read by a thread of their own.
fn calls() -> mpsc::Receiver<Value> {
    let (send, calls) = mpsc::channel(CALLS);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let Ok(call) = serde_json::from_str(&line) else { continue };
            if send.blocking_send(call).is_err() {
                return;
            }
        }
    });
    calls
}

async fn wait_for_the_end(mut calls: mpsc::Receiver<Value>) -> Result<(), Failure> {
    while calls.recv().await.is_some() {}
    Ok(())
}

fn print(line: &Value) {
    println!("{line}");
}
