//! The JavaScript client, as the daemon serves it, in Node. These tests do nothing on a machine whose Node has no
//! WebSockets.

use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, fill};
use crate::common::socket::Socket;
use crate::common::tokens::{Issuer, call};
use crate::common::{PATIENCE, free_port, until};
use serde_json::{Value, json};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

const FLAG: &str = "--experimental-websocket";

struct Client {
    _node: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

/// Whether there is a Node with WebSockets: version 20 has them behind a flag, version 22 without one.
fn node() -> bool {
    let node = std::process::Command::new("node")
        .args([FLAG, "-e", "new WebSocket('ws://127.0.0.1:1').close()"])
        .output();
    let there = node.is_ok_and(|ran| ran.status.success());
    if !there {
        eprintln!("no Node with WebSockets: the JavaScript client is not tested");
    }
    there
}

impl Client {
    fn start(daemon: &Daemon, options: Value) -> Client {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/streams/client.mjs");
        let mut node = Command::new("node")
            .args([FLAG, "--no-warnings", script, &daemon.url(""), &options.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node starts");
        let (stdin, stdout) = (node.stdin.take().expect("piped"), node.stdout.take().expect("piped"));
        Client { _node: node, stdin, lines: BufReader::new(stdout).lines() }
    }

    async fn send(&mut self, call: &str, args: Value) {
        let line = format!("{}\n", json!({"call": call, "args": args}));
        self.stdin.write_all(line.as_bytes()).await.expect("it reads");
    }

    /// Calls a method and returns its answer. No other event may come first.
    async fn call(&mut self, call: &str, args: Value) -> Value {
        self.send(call, args).await;
        self.next("answer").await
    }

    async fn any(&mut self) -> (String, Value) {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("no line in time");
        let line = line.expect("a text").expect("node runs");
        let mut event: Value = serde_json::from_str(&line).unwrap_or_else(|why| panic!("{why}: {line}"));
        (event["type"].as_str().expect("a text").to_owned(), event["detail"].take())
    }

    /// The next event, which has to be of this type. Events of Redis may come before it.
    async fn next(&mut self, kind: &str) -> Value {
        loop {
            let (found, detail) = self.any().await;
            if found == kind {
                return detail;
            }
            assert_eq!(found, "redis", "waiting for {kind}: {detail}");
        }
    }

    async fn state(&mut self, state: &str) -> Value {
        let detail = self.next("state").await;
        assert_eq!(detail["state"], state, "{detail}");
        detail
    }

    /// A client that is live and watches nobody.
    async fn live(daemon: &Daemon, options: Value) -> Client {
        let mut client = Client::start(daemon, options);
        client.state("connecting").await;
        client.state("live").await;
        client
    }

    async fn change(&mut self, user: &str, state: &str) -> Value {
        let detail = self.next("change").await;
        assert_eq!((&detail["user"], &detail["state"]), (&json!(user), &json!(state)), "{detail}");
        detail
    }
}

/// Runs a script beside this file; returns what it printed.
async fn script(name: &str, args: &[&str]) -> (bool, String) {
    let path = format!("{}/tests/it/streams/{name}", env!("CARGO_MANIFEST_DIR"));
    let run = Command::new("node").arg(path).args(args).output();
    let ran = timeout(PATIENCE * 3, run).await.expect("in time").expect("node starts");
    let text = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    (ran.status.success(), text)
}

#[tokio::test]
async fn js_client_keeps_its_rules() {
    if !node() {
        return;
    }
    let (holds, text) = script("rules.mjs", &[]).await;
    assert!(holds && !text.contains("FAILS") && text.contains("holds: "), "{text}");
}

#[tokio::test]
async fn js_client_follows_the_table() {
    if !node() {
        return;
    }
    for seed in ["1", "2", "3", "4"] {
        let (follows, text) = script("table.mjs", &[seed, "500"]).await;
        assert!(follows && text.contains("500 runs follow the table"), "{text}");
    }
}

fn come(redis: &Redis, user: &str) {
    redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "60"]);
}

fn go(redis: &Redis, user: &str) {
    redis.call(&["DEL", &format!("presence:{user}")]);
}

#[tokio::test]
async fn watched_user_is_known_until_unwatched() {
    if !node() {
        return;
    }
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    come(&redis, "bob");
    daemon.until_state("bob", "online").await;
    let mut client = Client::live(&daemon, json!({})).await;
    assert_eq!(client.call("watch", json!([["alice", "bob", "o\"\\é 💚"]])).await, Value::Null);
    client.change("alice", "offline").await;
    assert!(client.change("bob", "online").await["since_ms"].is_u64());
    client.change("o\"\\é 💚", "offline").await;
    come(&redis, "carol");
    come(&redis, "o\"\\é 💚");
    client.change("o\"\\é 💚", "online").await;
    go(&redis, "bob");
    assert!(client.change("bob", "offline").await["last_seen_ms"].is_u64());
    assert_eq!(client.call("get", json!(["bob"])).await["state"], "offline");
    client.call("unwatch", json!([["bob"]])).await;
    come(&redis, "bob");
    come(&redis, "alice");
    client.change("alice", "online").await;
    assert_eq!(client.call("get", json!(["bob"])).await, Value::Null);
    assert_eq!(client.call("users", json!([])).await, json!(["alice", "o\"\\é 💚"]));
}

#[tokio::test]
async fn changes_during_an_outage_are_reported_once() {
    if !node() {
        return;
    }
    let redis = Redis::start();
    let port = free_port();
    let daemon = Daemon::launch_at(port, &["--redis", &redis.url()]);
    daemon.ready().await;
    for user in ["stays", "goes"] {
        come(&redis, user);
        daemon.until_state(user, "online").await;
    }
    let mut named = Client::live(&daemon, json!({})).await;
    let mut all = Client::live(&daemon, json!({})).await;
    named.call("watch", json!([["stays", "goes", "comes"]])).await;
    for (user, state) in [("stays", "online"), ("goes", "online"), ("comes", "offline")] {
        named.change(user, state).await;
    }
    all.call("watchAll", json!([])).await;
    let mut here =
        [all.next("change").await["user"].to_string(), all.next("change").await["user"].to_string()];
    here.sort();
    assert_eq!(here, ["\"goes\"", "\"stays\""]);
    daemon.kill();
    for client in [&mut named, &mut all] {
        assert!(client.state("waiting").await["retry_ms"].as_f64().expect("a time") <= 15_000.0);
    }
    go(&redis, "goes");
    come(&redis, "comes");
    let daemon = Daemon::launch_at(port, &["--redis", &redis.url()]);
    for client in [&mut named, &mut all] {
        let mut changes = Vec::new();
        loop {
            match client.any().await {
                (kind, detail) if kind == "state" && detail["state"] == "live" => break,
                (kind, detail) if kind == "change" => {
                    changes.push(format!("{} {}", detail["user"], detail["state"]))
                }
                (kind, _) => assert!(kind == "state" || kind == "redis", "{kind}"),
            }
        }
        changes.sort();
        assert_eq!(changes, [r#""comes" "online""#, r#""goes" "offline""#]);
    }
    go(&redis, "stays");
    named.change("stays", "offline").await;
    all.change("stays", "offline").await;
    assert_eq!(all.call("users", json!([])).await, json!(["comes"]));
    all.send("unwatchAll", json!([])).await;
    all.next("answer").await;
    assert_eq!(all.call("users", json!([])).await, json!([]));
    drop(daemon);
}

#[tokio::test]
async fn many_names_are_split_into_messages() {
    if !node() {
        return;
    }
    let redis = Redis::start();
    fill(&redis, "presence:é-", 2_000);
    let daemon = Daemon::start(&redis).await;
    let mut client = Client::live(&daemon, json!({})).await;
    let users: Vec<String> = (0..2_000)
        .map(|i| format!("é-{i}"))
        .chain((0..200).map(|i| format!("{i}{}", "é".repeat(120))))
        .collect();
    client.send("watch", json!([users])).await;
    client.next("answer").await;
    let mut online = 0;
    for _ in &users {
        online += usize::from(client.next("change").await["state"] == "online");
    }
    assert_eq!(online, 2_000);
}

#[tokio::test]
async fn token_is_renewed_and_a_bad_one_stops() {
    if !node() {
        return;
    }
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()]).await;
    let script = call(&daemon, "GET", "/keybeat.js", None, &[]).await;
    assert_eq!(
        (script.status, &script.headers["content-type"]),
        (200, &"text/javascript; charset=utf-8".parse().expect("a value"))
    );
    let wrong = Issuer::new().token("alice", &["bob"]);
    for (options, word) in [
        (json!({}), "unauthorized"),
        (json!({"token": wrong}), "invalid_token"),
        (json!({"token": "a b"}), "invalid_token"),
    ] {
        let mut client = Client::start(&daemon, options);
        client.state("connecting").await;
        let reason = client.state("stopped").await["reason"].to_string();
        assert!(reason.contains(word), "{reason}");
    }
    // Long enough that the clients connect before it expires; after that, the leeway is longer.
    let short = issuer.token_for("alice", &["bob"], 3);
    let mut fixed = Client::live(&daemon, json!({"token": short})).await;
    let mut renewing =
        Client::live(&daemon, json!({"tokens": [short, issuer.token("alice", &["bob"])]})).await;
    assert!(fixed.state("stopped").await["reason"].to_string().contains("token_expired"));
    // The other client stays connected, although its first token has expired at the same time.
    renewing.call("watch", json!([["carol"]])).await;
    assert_eq!(renewing.next("refused").await["code"], "forbidden");
    renewing.call("watch", json!([["bob"]])).await;
    renewing.change("bob", "offline").await;
    // The client does not repeat the refused watch.
    renewing.send("reconnect", json!([])).await;
    renewing.state("connecting").await;
    renewing.next("answer").await;
    renewing.state("live").await;
    come(&redis, "bob");
    renewing.change("bob", "online").await;
}

#[tokio::test]
async fn own_user_is_online_until_leave_or_close() {
    if !node() {
        return;
    }
    let mut redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let mut client = Client::live(&daemon, json!({"user": "al ice", "session": "phone"})).await;
    let keys = |redis: &Redis, wanted: &'static [&'static str]| {
        let held = redis.presence_keys();
        (held == wanted).then_some(())
    };
    until("it is online", async || keys(&redis, &["presence:al ice#phone"])).await;
    assert_eq!(client.call("leave", json!([])).await, true);
    until("it left", async || keys(&redis, &[])).await;
    assert_eq!(client.call("heartbeat", json!([])).await, true);
    until("it is back", async || keys(&redis, &["presence:al ice#phone"])).await;
    client.send("close", json!([])).await;
    assert_eq!(client.state("stopped").await["reason"], "closed");
    client.next("answer").await;
    until("it is offline", async || keys(&redis, &[])).await;
    client.send("reconnect", json!([])).await;
    client.state("connecting").await;
    client.next("answer").await;
    client.state("live").await;
    redis.kill();
    assert_eq!(client.next("redis").await["redis"], "down");
    redis.run();
    assert_eq!(client.next("redis").await["redis"], "up");
}

#[tokio::test]
async fn ping_is_answered_with_a_pong() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let mut socket = Socket::connect(daemon.port, "").await;
    socket.hello().await;
    socket.send(json!({"type": "ping", "id": 3})).await;
    socket.send(json!({"type": "ping"})).await;
    let pongs = [socket.next().await, socket.next().await];
    assert_eq!(pongs, [json!({"type": "pong", "id": 3}), json!({"type": "pong"})]);
}

#[tokio::test]
async fn pages_refer_to_files_below_their_own_address() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    for page in ["/", "/docs", "/console/console.js", "/console/docs.js"] {
        let answer = call(&daemon, "GET", page, None, &[]).await;
        let text = answer.body.as_str().expect("a text");
        for absolute in ["href=\"/", "src=\"/", "from '/", "fetch('/", "location.origin"] {
            assert!(!text.contains(absolute), "{page}: {absolute}");
        }
    }
}

#[tokio::test]
async fn js_client_chooses_what_keeps_its_user_online() {
    if !node() {
        return;
    }
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--ttl", "500ms"]).await;
    let mut watcher = daemon.watch_all().await.0;
    let options = |beat: Value| json!({"user": "alice", "session": "tab", "beat": beat});
    let mut hidden = Client::live(&daemon, options(json!(false))).await;
    let mut spoken = Client::live(&daemon, options(json!("message"))).await;
    hidden.call("watch", json!([["bob"]])).await;
    hidden.change("bob", "offline").await;
    assert_eq!(redis.presence_keys(), [""; 0]);
    spoken.call("watch", json!([["bob"]])).await;
    for (state, reason) in [("online", "heartbeat"), ("offline", "expired")] {
        let seen = &watcher.transitions().await[0];
        assert_eq!((&seen["state"], &seen["reason"]), (&json!(state), &json!(reason)));
    }
}

#[tokio::test]
async fn js_client_knows_statuses_and_groups() {
    if !node() {
        return;
    }
    let redis = Redis::start();
    redis.call(&["SADD", "presence-group:g", "bob"]);
    let daemon = Daemon::start(&redis).await;
    let mut client = Client::live(&daemon, json!({"user": "me"})).await;
    client.call("watch", json!([["alice"]])).await;
    client.change("alice", "offline").await;
    redis.call(&["SET", "presence-status:alice", r#"{"text":"away"}"#]);
    let away = json!({"text": "away"});
    assert_eq!(client.next("status").await, json!({"user": "alice", "status": away}));
    assert_eq!(client.call("status", json!(["alice"])).await, away);
    redis.call(&["DEL", "presence-status:alice"]);
    assert_eq!(client.next("status").await, json!({"user": "alice", "status": null}));
    assert_eq!(client.call("setStatus", json!([{"text": "here"}])).await, json!(true));
    until("the status is set", async || {
        (daemon.get("/v1/users/me").await["status"]["text"] == "here").then_some(())
    })
    .await;
    client.call("watchGroups", json!([["g"]])).await;
    let group = client.next("group").await;
    assert_eq!((&group["group"], &group["members"], &group["users"]), (&json!("g"), &json!(1), &json!([])));
    redis.call(&["SADD", "presence-group:g", "carl"]);
    let members = client.next("members").await;
    assert_eq!((&members["joined"][0]["user"], &members["left"]), (&json!("carl"), &json!([])));
    client.call("watchGroups", json!([["g"], {"count": true}])).await;
    assert_eq!(client.next("occupancy").await, json!({"group": "g", "members": 2, "online": 0}));
    redis.call(&["SET", "presence-group:text", "1"]);
    client.call("watchGroups", json!([["text"]])).await;
    let refused = client.next("refused").await;
    assert_eq!((&refused["code"], &refused["group"]), (&json!("invalid_group"), &json!("text")));
}
