//! Drives the Rust client for the conformance suite of clients. docs/PROTOCOL.md describes what a driver reads and prints.
//! Its argument: url and the client's own options as JSON.

use keybeat::client::{Beat, Client, ClientError, ClientEvent};
use keybeat::protocol::{RedisWord, State, UserObject};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
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
    let mut printer = Printer::default();
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
                Ok(event) => printer.report(event),
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
        "watch_group" if call["count"] == true => client.watch_group_counts(text("group")),
        "watch_group" => client.watch_group(text("group")),
        "unwatch_group" => client.unwatch_group(&text("group")),
        "set_status" => client.set_status(call["status"].clone()),
        "heartbeat" if call["user"].is_string() => client.heartbeat_of(text("user")),
        "heartbeat" => client.heartbeat(),
        "leave" => client.leave(),
        "token" => {
            *tokens.lock().unwrap_or_else(PoisonError::into_inner) = VecDeque::from([text("token")]);
        }
        other => eprintln!("there is no call {other}"),
    }
}

/// Prints reports. The client's lists of users have their statuses; the suite wants a report of each that is new.
#[derive(Default)]
struct Printer {
    statuses: HashMap<String, Value>,
}

impl Printer {
    fn report(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Snapshot(users) => {
                for user in &users {
                    self.statuses.remove(user.user());
                    state(user.user(), user.online());
                    self.status(user.user(), user.status());
                }
            }
            ClientEvent::Transitions(changes) => {
                for change in changes {
                    state(&change.user, change.state == State::Online);
                }
            }
            ClientEvent::Statuses(statuses) => {
                statuses.iter().for_each(|one| self.status(&one.user, one.value()));
            }
            ClientEvent::Group { group, members, online, users } => {
                users.iter().for_each(|user| self.status(user.user(), user.status()));
                let mut names: Vec<&str> = users.iter().map(UserObject::user).collect();
                names.sort_unstable();
                line(&[vec!["group", &group, &format!("{online}/{members}")], names].concat());
            }
            ClientEvent::Members { group, joined, left } => self.members(&group, &joined, &left),
            ClientEvent::Occupancy { group, members, online } => {
                line(&["occupancy", &group, &format!("{online}/{members}")]);
            }
            ClientEvent::GroupRefused { group, code, .. } => line(&["refused", &code, "group", &group]),
            ClientEvent::Refused { code, users, .. } => {
                let users = users.iter().map(String::as_str).collect();
                line(&[vec!["refused", &code], users].concat());
            }
            ClientEvent::Status { redis, .. } => {
                line(&[if redis == RedisWord::Up { "redis up" } else { "redis down" }]);
            }
            ClientEvent::Live => line(&["live"]),
            ClientEvent::Waiting { why, retry } => {
                let retry_ms = retry.as_secs_f64() * 1000.0;
                print(&json!({"report": "waiting", "reason": why.to_string(), "retry_ms": retry_ms}));
            }
        }
    }

    fn members(&mut self, group: &str, joined: &[UserObject], left: &[String]) {
        joined.iter().for_each(|user| self.status(user.user(), user.status()));
        let mut came: Vec<String> =
            joined.iter().map(|user| format!("+{}:{}", user.user(), word(user.online()))).collect();
        let mut went: Vec<String> = left.iter().map(|user| format!("-{user}")).collect();
        came.sort_unstable();
        went.sort_unstable();
        let words = ["members", group].into_iter();
        line(&words.chain(came.iter().chain(&went).map(String::as_str)).collect::<Vec<_>>());
    }

    fn status(&mut self, user: &str, status: Option<&Value>) {
        let status = status.cloned().unwrap_or_default();
        let before = self.statuses.insert(user.to_owned(), status.clone()).unwrap_or_default();
        if before != status {
            line(&["status", user, &status.to_string()]);
        }
    }
}

fn line(words: &[&str]) {
    print(&json!({"report": words.join(" ")}));
}

fn word(online: bool) -> &'static str {
    if online { "online" } else { "offline" }
}

fn state(user: &str, online: bool) {
    line(&[user, word(online)]);
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
