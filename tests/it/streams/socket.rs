//! WebSocket: what each message brings, how each socket ends, and what becomes of its key.

use crate::api::http::{in_path, odd_names};
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, fill};
use crate::common::socket::Socket;
use crate::common::{PATIENCE, now_ms, until};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc::{self, error::TryRecvError};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};

pub(super) async fn start() -> (Redis, Daemon) {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    (redis, daemon)
}

async fn start_with_ttl(ttl: &str) -> (Redis, Daemon) {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--ttl", ttl]).await;
    (redis, daemon)
}

/// A socket that watches these users, past its snapshot.
pub(super) async fn watch(daemon: &Daemon, users: &[&str]) -> Socket {
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "users": users})).await;
    assert_eq!(socket.snapshot().await.len(), users.len());
    socket
}

/// The next transition, which has to come alone.
pub(super) async fn one(socket: &mut Socket) -> Value {
    let transitions = socket.transitions().await;
    assert_eq!(transitions.len(), 1, "{transitions:?}");
    transitions[0].clone()
}

/// The transitions of a user, read all the time, so that this socket's pings are answered too.
pub(super) struct Told(mpsc::UnboundedReceiver<Value>);

impl Told {
    pub(super) async fn of(daemon: &Daemon, user: &str) -> Told {
        let mut socket = watch(daemon, &[user]).await;
        let (sender, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(message) = socket.next_or_close().await {
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Told(told)
    }

    /// The next transition, which has to come alone.
    pub(super) async fn one(&mut self) -> Value {
        let message =
            timeout(PATIENCE, self.0.recv()).await.expect("in time").expect("the watcher's socket is open");
        let transitions = message["transitions"].as_array().unwrap_or_else(|| panic!("{message}"));
        assert_eq!(transitions.len(), 1, "{message}");
        transitions[0].clone()
    }

    /// State and reason of each transition that has come and was not taken. Other messages are skipped.
    pub(super) fn transitions(&mut self) -> Vec<String> {
        let messages = std::iter::from_fn(|| self.0.try_recv().ok());
        let each = |message: Value| message["transitions"].as_array().cloned().unwrap_or_default();
        let gist = |one: Value| gist(&one)[1..].join(" ");
        messages.flat_map(each).map(gist).collect()
    }

    pub(super) fn none(&mut self) {
        assert_eq!(self.0.try_recv(), Err(TryRecvError::Empty));
    }
}

/// User, state and reason of a transition.
pub(super) fn gist(transition: &Value) -> [&str; 3] {
    ["user", "state", "reason"].map(|name| transition[name].as_str().expect("a text"))
}

fn fields(object: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = object.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// Waits until the daemon counts so many sockets.
async fn until_sockets(daemon: &Daemon, count: usize) {
    until(&format!("{count} sockets"), async || {
        (daemon.get("/v1/stats").await["sockets"] == count).then_some(())
    })
    .await;
}

/// A WebSocket client that does nothing by itself: no pong, no answer to a close.
pub(super) struct Raw {
    pub(super) stream: TcpStream,
}

impl Raw {
    pub(super) async fn connect(port: u16, query: &str) -> Raw {
        Raw::connect_with(port, query, None).await
    }

    /// Connects with a receive buffer of this size.
    pub(super) async fn connect_with(port: u16, query: &str, buffer: Option<u32>) -> Raw {
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Some(bytes) = buffer {
            socket.set_recv_buffer_size(bytes).expect("a buffer");
        }
        let stream = socket.connect(([127, 0, 0, 1], port).into()).await.expect("the daemon listens");
        let mut raw = Raw { stream };
        let request = format!(
            "GET /v1/ws{query} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        raw.stream.write_all(request.as_bytes()).await.expect("the daemon reads");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(raw.byte().await.expect("a response"));
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        raw
    }

    async fn byte(&mut self) -> std::io::Result<u8> {
        timeout(PATIENCE, self.stream.read_u8()).await.expect("waited in vain for a byte")
    }

    /// The next frame: opcode and payload.
    pub(super) async fn frame(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let opcode = self.byte().await? & 0xf;
        let length = match self.byte().await? & 0x7f {
            126 => self.stream.read_u16().await? as usize,
            127 => self.stream.read_u64().await? as usize,
            short => short as usize,
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        Ok((opcode, payload))
    }

    /// Reads until the close, without an answer to anything: how many pings came, the code, the reason.
    pub(super) async fn closed(&mut self) -> (usize, u16, String) {
        let mut pings = 0;
        loop {
            match self.frame().await.expect("a close frame before the end") {
                (0x8, payload) => {
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    return (pings, code, String::from_utf8_lossy(&payload[2..]).into_owned());
                }
                (0x9, _) => pings += 1,
                _ => {}
            }
        }
    }

    /// Sends a frame of a text, masked with zeros: the first of a message has opcode 1, the others 0.
    pub(super) async fn send(&mut self, opcode: u8, last: bool, payload: &[u8]) -> std::io::Result<()> {
        let mut frame = vec![opcode | if last { 0x80 } else { 0 }, 0x80 | 127];
        frame.extend((payload.len() as u64).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(payload);
        self.stream.write_all(&frame).await
    }
}

// --- hello, snapshots, transitions -----------------------------------------------------------------

#[tokio::test]
async fn hello_has_all_fields() {
    let (redis, daemon) = start_with_ttl("7s").await;
    redis.call(&["SET", "presence:bob", "1", "EX", "60"]);
    daemon.until_state("bob", "online").await;
    let stats = daemon.get("/v1/stats").await;
    let mut nobody = Socket::connect(daemon.port, "").await;
    let [hello, status] = [nobody.next().await, nobody.next().await];
    let expected =
        json!({"type": "hello", "protocol": 1, "epoch": stats["epoch"], "seq": 1, "ttl_ms": 7_000});
    assert_eq!(hello, expected, "it speaks for nobody");
    assert_eq!((&status["type"], &status["redis"]), (&json!("status"), &json!("up")), "{status}");
    assert!(status["since_ms"].is_u64(), "{status}");
    let mut alice = Socket::connect(daemon.port, "?user=alice&session=phone").await;
    let hello = alice.next().await;
    assert_eq!((&hello["user"], &hello["epoch"]), (&json!("alice"), &stats["epoch"]), "{hello}");
}

#[tokio::test]
async fn subprotocol_is_chosen_among_others() {
    let (_redis, daemon) = start().await;
    let url = format!("ws://127.0.0.1:{}/v1/ws", daemon.port);
    let mut request = url.into_client_request().expect("a URL");
    request.headers_mut().insert("sec-websocket-protocol", "other.v2, keybeat.v1".parse().expect("a header"));
    let (_ws, answer) = tokio_tungstenite::connect_async(request).await.expect("the daemon accepts");
    assert_eq!(answer.headers()["sec-websocket-protocol"], "keybeat.v1");
}

#[tokio::test]
async fn watch_gets_snapshot_then_transitions() {
    let (redis, daemon) = start().await;
    redis.call(&["SET", "presence:bob", "1", "EX", "60"]);
    daemon.until_state("bob", "online").await;
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "users": ["alice", "bob"], "id": 1})).await;
    let snapshot = socket.next().await;
    let epoch = daemon.get("/v1/stats").await["epoch"].clone();
    let users = [daemon.get("/v1/users/alice").await, daemon.get("/v1/users/bob").await];
    assert_eq!((&users[0]["state"], &users[1]["state"]), (&json!("offline"), &json!("online")));
    let expected =
        json!({"type": "snapshot", "id": 1, "epoch": epoch, "seq": 1, "users": users, "more": false});
    assert_eq!(snapshot, expected);

    let before = now_ms();
    redis.call(&["SET", "presence:alice", "1", "PX", "300"]);
    let message = socket.next().await;
    assert_eq!((&message["type"], &message["seq"]), (&json!("transitions"), &json!(2)), "{message}");
    assert_eq!(fields(&message), ["seq", "transitions", "type"]);
    let online = &message["transitions"][0];
    assert_eq!(fields(online), ["at_ms", "reason", "seq", "since_ms", "state", "user"]);
    assert_eq!((gist(online), &online["seq"]), (["alice", "online", "heartbeat"], &json!(2)));

    let offline = one(&mut socket).await;
    assert_eq!(fields(&offline), ["at_ms", "last_seen_ms", "reason", "seq", "state", "user"]);
    assert_eq!((gist(&offline), &offline["seq"]), (["alice", "offline", "expired"], &json!(3)));
    redis.call(&["DEL", "presence:bob"]);
    let deleted = one(&mut socket).await;
    assert_eq!(gist(&deleted), ["bob", "offline", "deleted"]);

    let after = now_ms();
    for time in [
        &online["at_ms"],
        &online["since_ms"],
        &offline["last_seen_ms"],
        &offline["at_ms"],
        &deleted["at_ms"],
    ] {
        let at = time.as_u64().expect("a time");
        assert!((before - 200..=after + 200).contains(&at), "{at} is not between {before} and {after}");
    }
    let at = offline["at_ms"].as_u64().expect("a time");
    assert!((before + 200..before + 2_300).contains(&at), "300 ms and little more after {before}, not {at}");
}

#[tokio::test]
async fn id_comes_back_unchanged() {
    let (_redis, daemon) = start().await;
    let mut socket = daemon.socket("").await;
    for id in [
        json!(0),
        json!(-7),
        json!(1.5),
        json!(9_007_199_254_740_993_u64),
        json!(""),
        json!("日本"),
        json!("7"),
        json!("x".repeat(128)),
    ] {
        socket.send(json!({"type": "watch", "users": ["alice"], "id": id})).await;
        assert_eq!(socket.next().await["id"], id);
        socket.send(json!({"type": "watch", "id": id})).await;
        let error = socket.next().await;
        assert_eq!((&error["type"], &error["id"]), (&json!("error"), &id), "{error}");
    }
    socket.send(json!({"type": "watch", "users": ["alice"]})).await;
    let snapshot = socket.next().await;
    assert_eq!(snapshot.get("id"), None, "none was given: {snapshot}");
    socket.send(json!({"type": "watch", "all": true, "id": "x".repeat(60_000)})).await;
    let error = socket.next().await;
    assert_eq!(
        (&error["code"], error.get("id")),
        (&json!("invalid_request"), None),
        "each chunk would repeat it"
    );
}

#[tokio::test]
async fn watch_all_comes_in_chunks_of_a_thousand() {
    let (redis, daemon) = start().await;
    fill(&redis, "presence:u", 2_501);
    until("all are online", async || (daemon.get("/v1/stats").await["users_online"] == 2_501).then_some(()))
        .await;
    redis.call(&["DEL", "presence:u0"]);
    daemon.until_state("u0", "offline").await;
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "all": true, "id": "everybody"})).await;
    let (mut sizes, mut names) = (Vec::new(), Vec::new());
    loop {
        let chunk = socket.next().await;
        assert_eq!(
            (&chunk["type"], &chunk["id"], &chunk["seq"]),
            (&json!("snapshot"), &json!("everybody"), &json!(2_502))
        );
        let users = chunk["users"].as_array().expect("a list");
        assert!(users.iter().all(|user| user["state"] == "online"));
        names.extend(users.iter().map(|user| user["user"].as_str().expect("a name").to_owned()));
        sizes.push((users.len(), chunk["more"].as_bool().expect("a bool")));
        if chunk["more"] == false {
            break;
        }
    }
    assert_eq!(sizes, [(1_000, true), (1_000, true), (500, false)]);
    names.sort();
    names.dedup();
    assert!(names.len() == 2_500 && !names.contains(&"u0".to_owned()));
    redis.call(&["SET", "presence:u0", "1"]);
    assert_eq!(gist(&one(&mut socket).await), ["u0", "online", "heartbeat"]);
}

#[tokio::test]
async fn watch_all_without_users_is_one_empty_chunk() {
    let (redis, daemon) = start().await;
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "all": true})).await;
    let chunk = socket.next().await;
    assert_eq!((&chunk["users"], &chunk["more"]), (&json!([]), &json!(false)));
    redis.call(&["SET", "presence:alice", "1"]);
    assert_eq!(gist(&one(&mut socket).await), ["alice", "online", "heartbeat"]);
}

/// A client's picture from all messages, and the rule that it relies on: transitions alternate.
#[derive(Default)]
pub(super) struct Known(pub(super) HashMap<String, bool>);

impl Known {
    pub(super) fn snapshot(&mut self, users: &[Value]) {
        for user in users {
            self.0.insert(user["user"].as_str().expect("a name").to_owned(), user["state"] == "online");
        }
    }

    fn transition(&mut self, transition: &Value) {
        let online = transition["state"] == "online";
        let was =
            self.0.insert(transition["user"].as_str().expect("a name").to_owned(), online).unwrap_or(false);
        assert_ne!(was, online, "not what the client already knows: {transition}");
    }

    pub(super) fn take(&mut self, message: &Value) {
        match message["type"].as_str() {
            Some("snapshot") => self.snapshot(message["users"].as_array().expect("a list")),
            Some("transitions") => {
                message["transitions"]
                    .as_array()
                    .expect("a list")
                    .iter()
                    .for_each(|transition| self.transition(transition));
            }
            // A flood may hold up the canary for longer than it may be late.
            Some("status") => {}
            _ => panic!("{message}"),
        }
    }
}

/// Flaps 50 users until it is ended; then all of them are offline.
struct Flapping {
    stop: Arc<AtomicBool>,
    thread: tokio::task::JoinHandle<Redis>,
}

impl Flapping {
    fn begin(redis: Redis) -> Flapping {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = tokio::task::spawn_blocking(move || {
            let mut client = redis.client();
            let keys: Vec<String> = (0..50).map(|i| format!("presence:flapper-{i}")).collect();
            while !told.load(Ordering::Relaxed) {
                client.pipeline(&keys.iter().map(|key| vec!["SET", key, "1"]).collect::<Vec<_>>());
                client.pipeline(&keys.iter().map(|key| vec!["DEL", key]).collect::<Vec<_>>());
                // Some 10,000 changes a second: a lossless client that cannot keep up is closed.
                std::thread::sleep(Duration::from_millis(10));
            }
            redis
        });
        Flapping { stop, thread }
    }

    async fn end(mut self) -> Redis {
        self.stop.store(true, Ordering::Relaxed);
        (&mut self.thread).await.expect("flapping ends")
    }
}

impl Drop for Flapping {
    fn drop(&mut self) {
        // Where the test has failed its runtime waits for the thread, and nobody would learn why it failed.
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transitions_follow_the_last_snapshot_chunk() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    fill(&redis, "presence:u", 10_000);
    until("all are online", async || (daemon.get("/v1/stats").await["users_online"] == 10_000).then_some(()))
        .await;
    let flapping = Flapping::begin(redis);
    for lossless in [false, true, false, true] {
        let (mut socket, mut known) = (daemon.socket("").await, Known::default());
        socket.send(json!({"type": "watch", "all": true, "lossless": lossless})).await;
        known.snapshot(&socket.snapshot().await);
        for _ in 0..50 {
            known.take(&socket.next().await);
        }
    }
    flapping.end().await;
}

#[tokio::test]
async fn unwatch_stops_what_watch_began() {
    let (redis, daemon) = start().await;
    let mut socket = watch(&daemon, &["alice", "bob", "carol"]).await;
    socket.send(json!({"type": "unwatch", "users": ["alice", "nobody"]})).await;
    // Its snapshot says that what came before it was read.
    socket.send(json!({"type": "watch", "users": ["bob"]})).await;
    assert_eq!(socket.snapshot().await.len(), 1);
    for user in ["alice", "bob", "carol"] {
        redis.call(&["SET", &format!("presence:{user}"), "1"]);
    }
    let mut told = Vec::new();
    while told.len() < 2 {
        told.extend(socket.transitions().await);
    }
    assert_eq!(told.iter().map(|told| gist(told)[0]).collect::<Vec<_>>(), ["bob", "carol"]);
}

#[tokio::test]
async fn watch_with_replace_is_the_whole_list() {
    let (redis, daemon) = start().await;
    let mut socket = watch(&daemon, &["alice", "bob"]).await;
    socket.send(json!({"type": "watch", "users": ["bob", "carol"], "replace": true, "id": 2})).await;
    let snapshot = socket.next().await;
    let users: Vec<&Value> = snapshot["users"].as_array().expect("a list").iter().collect();
    assert_eq!((&snapshot["id"], users.len()), (&json!(2), 2), "{snapshot}");
    for user in ["alice", "bob", "carol"] {
        redis.call(&["SET", &format!("presence:{user}"), "1"]);
    }
    let mut told = Vec::new();
    while told.len() < 2 {
        told.extend(socket.transitions().await);
    }
    assert_eq!([&told[0]["user"], &told[1]["user"]], ["bob", "carol"], "alice is no longer watched");
    // The limit is of the list that there is afterwards.
    let many: Vec<String> = (0..5_000).map(|i| format!("u{i}")).collect();
    let others: Vec<String> = (5_000..12_000).map(|i| format!("u{i}")).collect();
    for users in [&many, &others] {
        socket.send(json!({"type": "watch", "users": users, "replace": true})).await;
        let answer = socket.snapshot().await;
        assert_eq!(answer.len(), users.len());
    }
    socket.send(json!({"type": "watch", "all": true, "replace": true})).await;
    assert_eq!(socket.next().await["code"], "invalid_request");
}

#[tokio::test]
async fn second_watch_repeats_no_transition() {
    let (redis, daemon) = start().await;
    for ask in [json!({"type": "watch", "users": ["alice"]}), json!({"type": "watch", "all": true})] {
        let mut socket = daemon.socket("").await;
        let mut known = Known::default();
        for round in 0..100 {
            // Sometimes in the middle of a change, sometimes not.
            let command = if round % 2 == 0 {
                vec!["SET", "presence:alice", "1"]
            } else {
                vec!["DEL", "presence:alice"]
            };
            redis.call(&command);
            socket.send(ask.clone()).await;
            loop {
                let message = socket.next().await;
                if message["type"] == "snapshot" && ask["all"] == true && message["users"] == json!([]) {
                    known.0.clear();
                }
                known.take(&message);
                if message["type"] == "snapshot" {
                    break;
                }
            }
        }
        redis.call(&["SET", "presence:alice", "1"]);
        redis.call(&["SET", "presence:alice#last", "1"]);
        redis.call(&["DEL", "presence:alice", "presence:alice#last"]);
        daemon.until_state("alice", "offline").await;
        while known.0.get("alice") != Some(&false) {
            known.take(&socket.next().await);
        }
    }
}

#[tokio::test]
async fn two_watches_send_each_transition_once() {
    let (redis, daemon) = start().await;
    let mut socket = watch(&daemon, &["alice"]).await;
    socket.send(json!({"type": "watch", "all": true})).await;
    assert!(socket.snapshot().await.is_empty());
    redis.call(&["SET", "presence:alice", "1"]);
    assert_eq!(gist(&one(&mut socket).await), ["alice", "online", "heartbeat"]);
    redis.call(&["DEL", "presence:alice"]);
    assert_eq!(gist(&one(&mut socket).await), ["alice", "offline", "deleted"]);
}

#[tokio::test]
async fn odd_names_pass_a_socket_unchanged() {
    let (redis, daemon) = start().await;
    let names = odd_names();
    let mut socket = watch(&daemon, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for name in &names {
        let query = format!("?user={}&session={}", in_path(name), in_path("<i> 'é'/?"));
        let mut own = Socket::connect(daemon.port, &query).await;
        assert_eq!(own.next().await["user"], **name);
        assert_eq!(redis.presence_keys(), [format!("presence:{name}#<i> 'é'/?")]);
        assert_eq!(one(&mut socket).await["user"], **name);
        own.ws.close(None).await.expect("a close");
        assert_eq!(gist(&one(&mut socket).await), [name, "offline", "deleted"]);
    }
}

#[tokio::test]
async fn sockets_get_status_and_repairs_of_an_outage() {
    let (mut redis, daemon) = start().await;
    redis.call(&["SET", "presence:alice", "1", "PX", "700"]);
    daemon.until_state("alice", "online").await;
    let mut socket = watch(&daemon, &["alice"]).await;
    let before = now_ms();
    redis.kill();
    let status = socket.next().await;
    assert_eq!((&status["type"], &status["redis"]), (&json!("status"), &json!("down")), "{status}");
    assert!(
        (before - 200..=now_ms() + 200).contains(&status["since_ms"].as_u64().expect("a time")),
        "{status}"
    );
    let mut late = Socket::connect(daemon.port, "").await;
    assert_eq!(
        [late.next().await["redis"].clone(), late.next().await["redis"].clone()],
        [Value::Null, json!("down")]
    );
    redis.run();
    assert_eq!(late.next().await["redis"], "up");
    let told = [socket.next().await, socket.next().await];
    let up = told.iter().find(|message| message["type"] == "status").unwrap_or_else(|| panic!("{told:?}"));
    let gone =
        told.iter().find(|message| message["type"] == "transitions").unwrap_or_else(|| panic!("{told:?}"));
    assert_eq!(
        (&up["redis"], &gone["transitions"][0]["state"]),
        (&json!("up"), &json!("offline")),
        "{told:?}"
    );
}

#[tokio::test]
async fn missed_transitions_arrive_before_status_up() {
    let (redis, daemon) = start().await;
    let mut socket = watch(&daemon, &["alice", "bob"]).await;
    let mut client = redis.client();
    for round in 0..20 {
        let [comes, goes] = if round % 2 == 0 { ["alice", "bob"] } else { ["bob", "alice"] };
        let (set, del) = (format!("presence:{comes}"), format!("presence:{goes}"));
        // In one write, so that all of it happens before the daemon is back.
        client.pipeline(&[
            vec!["CLIENT", "KILL", "TYPE", "pubsub"],
            vec!["SET", &set, "1"],
            vec!["DEL", &del],
        ]);
        let status = socket.next().await;
        assert_eq!(status["redis"], "down", "round {round}: {status}");
        let mut told = Vec::new();
        loop {
            let message = socket.next().await;
            if message["type"] == "status" {
                assert_eq!(message["redis"], "up", "{message}");
                break;
            }
            told.extend(message["transitions"].as_array().expect("a list").clone());
        }
        told.sort_by_key(|transition| transition["user"] != *comes);
        let expected = [[comes, "online", "reconciled"], [goes, "offline", "reconciled"]];
        let missed = if round == 0 { &expected[..1] } else { &expected[..] };
        let told: Vec<_> = told.iter().map(gist).collect();
        if told != missed {
            panic!("round {round}: before \"up\" {told:?}, after it {}", socket.next().await);
        }
    }
}

// --- a socket that speaks for a user ----------------------------------------------------------------

#[tokio::test]
async fn socket_holds_its_session_key_until_closed() {
    let (redis, daemon) = start().await;
    let mut watcher = watch(&daemon, &["alice"]).await;
    let mut phone = daemon.socket("?user=alice&session=phone").await;
    assert_eq!(redis.presence_keys(), ["presence:alice#phone"], "from the hello on");
    assert!((1..=30_000).contains(&redis.call(&["PTTL", "presence:alice#phone"]).number()));
    assert_eq!(gist(&one(&mut watcher).await), ["alice", "online", "heartbeat"]);
    phone.ws.close(None).await.expect("a close");
    assert_eq!(gist(&one(&mut watcher).await), ["alice", "offline", "deleted"], "not when the TTL ends");
    assert_eq!(redis.presence_keys(), [""; 0]);
}

#[tokio::test]
async fn two_sockets_without_a_session_never_share_a_key() {
    let (redis, daemon) = start().await;
    let mut watcher = watch(&daemon, &["alice"]).await;
    let mut first = daemon.socket("?user=alice").await;
    let mut second = daemon.socket("?user=alice").await;
    let keys = redis.presence_keys();
    assert!(keys.len() == 2 && keys.iter().all(|key| key.starts_with("presence:alice#")), "{keys:?}");
    assert_eq!(gist(&one(&mut watcher).await), ["alice", "online", "heartbeat"]);
    first.ws.close(None).await.expect("a close");
    until("one session is left", async || {
        let alice = daemon.get("/v1/users/alice").await;
        assert_eq!(alice["state"], "online");
        (alice["sessions"] == 1).then_some(())
    })
    .await;
    second.ws.close(None).await.expect("a close");
    assert_eq!(gist(&one(&mut watcher).await), ["alice", "offline", "deleted"], "and nothing before it");
}

#[tokio::test]
async fn two_sockets_of_a_session_keep_it() {
    // As when a page is loaded again, and the new socket is there before the old one has gone.
    let (redis, daemon) = start().await;
    let mut watcher = watch(&daemon, &["alice"]).await;
    let mut old = daemon.socket("?user=alice&session=tab").await;
    let mut new = daemon.socket("?user=alice&session=tab").await;
    assert_eq!(gist(&one(&mut watcher).await), ["alice", "online", "heartbeat"]);
    old.ws.close(None).await.expect("a close");
    until_sockets(&daemon, 2).await;
    assert_eq!(redis.presence_keys(), ["presence:alice#tab"], "the new socket is still open");
    new.ws.close(None).await.expect("a close");
    assert_eq!(gist(&one(&mut watcher).await), ["alice", "offline", "deleted"]);
    assert_eq!(redis.presence_keys(), [""; 0]);
}

#[tokio::test]
async fn open_socket_restores_its_user_after_a_redis_restart() {
    let (mut redis, daemon) = start_with_ttl("1s").await;
    let reading = keep_reading(daemon.socket("?user=alice&session=tab").await);
    daemon.until_state("alice", "online").await;
    redis.kill();
    daemon.not_ready().await;
    redis.run();
    until("the key is there again", async || (redis.presence_keys() == ["presence:alice#tab"]).then_some(()))
        .await;
    daemon.until_state("alice", "online").await;
    reading.abort();
}

#[tokio::test]
async fn socket_answers_without_redis_within_3_s() {
    let (mut redis, daemon) = start().await;
    redis.kill();
    daemon.not_ready().await;
    let began = Instant::now();
    let mut alice = Socket::connect(daemon.port, "?user=alice&session=tab").await;
    assert_eq!(alice.next().await["type"], "hello");
    let hello = began.elapsed();
    assert_eq!(alice.next().await["redis"], "down");
    let began = Instant::now();
    alice.send(json!({"type": "heartbeat", "id": 1})).await;
    let error = alice.next().await;
    assert_eq!(
        (&error["type"], &error["code"], &error["id"]),
        (&json!("error"), &json!("redis_unavailable"), &json!(1))
    );
    let error = began.elapsed();
    let most = Duration::from_secs(3);
    assert!(hello < most && error < most, "hello after {hello:?}, the error after {error:?}");
}

#[tokio::test]
async fn unwatch_before_the_first_comparison_holds() {
    let mut redis = Redis::start();
    redis.kill();
    let daemon = Daemon::launch(&["--redis", &redis.url()]);
    daemon.not_ready().await;
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "users": ["alice", "bob"], "id": 1})).await;
    socket.send(json!({"type": "watch", "all": true, "id": 2})).await;
    socket.send(json!({"type": "unwatch", "users": ["bob", "carol"]})).await;
    socket.send(json!({"type": "unwatch", "all": true})).await;
    socket.send(json!({"type": "watch", "users": ["dora"], "id": 3})).await;
    socket.send(json!({"type": "ping", "id": 4})).await;
    assert_eq!(socket.next().await, json!({"type": "pong", "id": 4}), "the daemon has read all of it");
    redis.run();
    daemon.ready().await;
    let mut answers = Vec::new();
    while answers.len() < 3 {
        let message = socket.next().await;
        if message["type"] == "snapshot" {
            let users = message["users"].as_array().expect("users").iter();
            let users: Vec<_> = users.map(|user| user["user"].as_str().expect("a name").to_owned()).collect();
            answers.push((message["id"].as_u64(), users.join(",")));
        }
    }
    assert_eq!(answers, [(Some(1), "alice".into()), (Some(2), String::new()), (Some(3), "dora".into())]);
    for user in ["bob", "carol", "alice"] {
        redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "60"]);
    }
    assert_eq!(one(&mut socket).await["user"], "alice");
}

#[tokio::test]
async fn text_that_is_not_utf8_is_closed_with_1007() {
    let (_redis, daemon) = start().await;
    for pieces in [&[&b"\"\xff\""[..]][..], &[b"\"\xc3", b"\x28\""]] {
        let mut raw = Raw::connect(daemon.port, "").await;
        for (i, piece) in pieces.iter().enumerate() {
            raw.send(u8::from(i == 0), i + 1 == pieces.len(), piece).await.expect("the daemon reads");
        }
        let (_, code, reason) = raw.closed().await;
        assert_eq!((code, reason.split(':').next()), (1007, Some("invalid_text")), "{reason}");
    }
}

#[tokio::test]
async fn frames_that_the_protocol_forbids_are_closed_with_1002() {
    let (_redis, daemon) = start().await;
    let masked =
        |first: u8, payload: &[u8]| [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat();
    for (what, frames) in [
        ("reserved bits", masked(0xc1, b"{}")),
        ("an unknown opcode", masked(0x83, b"{}")),
        ("an unknown opcode of a control frame", masked(0x8b, b"")),
        ("a frame without a mask", vec![0x81, 2, b'{', b'}']),
        ("a control frame in fragments", masked(0x09, b"")),
        ("a control frame of 126 bytes", [&[0x89, 0x80 | 126, 0, 126, 0, 0, 0, 0][..], &[0; 126]].concat()),
        ("a continuation of nothing", masked(0x80, b"{}")),
        ("a new message within a message", [masked(0x01, b"{"), masked(0x81, b"}")].concat()),
        ("a close with half a code", masked(0x88, b"\x03")),
    ] {
        let mut raw = Raw::connect(daemon.port, "").await;
        // What follows is not read.
        let frames = [frames, masked(0x81, b"{}")].concat();
        raw.stream.write_all(&frames).await.expect("the daemon reads");
        let (_, code, reason) = raw.closed().await;
        assert_eq!((code, reason.split(':').next()), (1002, Some("protocol_error")), "{what}: {reason}");
    }
    let mut raw = Raw::connect(daemon.port, "").await;
    raw.stream.shutdown().await.expect("it is open");
    while let Ok((opcode, _)) = raw.frame().await {
        assert_ne!(opcode, 0x8, "a connection that only ends gets no close");
    }
}

#[tokio::test]
async fn broken_connection_leaves_key_to_its_ttl() {
    let (redis, daemon) = start_with_ttl("2s").await;
    let mut watcher = Told::of(&daemon, "alice").await;
    let socket = daemon.socket("?user=alice&session=phone").await;
    assert_eq!(gist(&watcher.one().await), ["alice", "online", "heartbeat"]);
    drop(socket);
    until_sockets(&daemon, 1).await;
    assert_eq!(redis.presence_keys(), ["presence:alice#phone"], "the daemon has seen it and left the key");
    watcher.none();
    assert_eq!(gist(&watcher.one().await), ["alice", "offline", "expired"]);
}

/// Reads a socket, so that pings are answered, until it is aborted.
fn keep_reading(mut socket: Socket) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { while socket.ws.next().await.is_some_and(|message| message.is_ok()) {} })
}

#[tokio::test]
async fn open_silent_socket_keeps_its_user_online() {
    let (redis, daemon) = start_with_ttl("1s").await;
    let mut watcher = Told::of(&daemon, "alice").await;
    let reading = keep_reading(daemon.socket("?user=alice&session=tab").await);
    assert_eq!(gist(&watcher.one().await), ["alice", "online", "heartbeat"]);
    let (mut client, mut renewals, mut last) = (redis.client(), 0, 1_000);
    until("more renewals than two TTLs need", async || {
        let left = client.call(&["PTTL", "presence:alice#tab"]).number();
        assert!(left > 0, "the key is gone after {renewals} renewals");
        renewals += i32::from(left > last + 100);
        last = left;
        (renewals == 8).then_some(())
    })
    .await;
    watcher.none();
    reading.abort();
    assert_eq!(gist(&watcher.one().await), ["alice", "offline", "expired"]);
}

#[tokio::test]
async fn heartbeat_renews_own_or_named_key() {
    let (redis, daemon) = start().await;
    let mut alice = daemon.socket("?user=alice&session=phone").await;
    redis.call(&["PEXPIRE", "presence:alice#phone", "5000"]);
    alice.send(json!({"type": "heartbeat"})).await;
    let renewed = async || (redis.call(&["PTTL", "presence:alice#phone"]).number() > 5_000).then_some(());
    until("the own key is renewed", renewed).await;
    alice.send(json!({"type": "heartbeat", "user": "carol"})).await;
    daemon.until_state("carol", "online").await;
    assert_eq!(redis.presence_keys(), ["presence:alice#phone", "presence:carol"]);
    assert!((1..=30_000).contains(&redis.call(&["PTTL", "presence:carol"]).number()));

    let mut nobody = daemon.socket("").await;
    nobody.send(json!({"type": "heartbeat", "user": "dave"})).await;
    daemon.until_state("dave", "online").await;
    for (message, code) in [
        (json!({"type": "heartbeat", "id": 1}), "no_user"),
        (json!({"type": "leave", "id": 1}), "no_user"),
        (json!({"type": "heartbeat", "user": "a#b", "id": 1}), "invalid_user"),
        (json!({"type": "heartbeat", "user": "", "id": 1}), "invalid_user"),
    ] {
        nobody.send(message.clone()).await;
        let error = nobody.next().await;
        assert_eq!(
            (&error["type"], &error["code"], &error["id"]),
            (&json!("error"), &json!(code), &json!(1)),
            "{message}"
        );
    }
}

#[tokio::test]
async fn leave_lasts_until_a_heartbeat() {
    let (redis, daemon) = start_with_ttl("1s").await;
    let mut watcher = Told::of(&daemon, "alice").await;
    let mut alice = daemon.socket("?user=alice&session=phone").await;
    assert_eq!(gist(&watcher.one().await), ["alice", "online", "heartbeat"]);
    alice.send(json!({"type": "leave"})).await;
    assert_eq!(gist(&watcher.one().await), ["alice", "offline", "deleted"]);
    for _ in 0..4 {
        let ping = timeout(PATIENCE, alice.ws.next()).await.expect("a ping").expect("open");
        assert!(matches!(ping, Ok(Message::Ping(_))), "{ping:?}");
    }
    assert_eq!(redis.presence_keys(), [""; 0], "its pongs bring nothing back");
    watcher.none();
    alice.send(json!({"type": "heartbeat"})).await;
    assert_eq!(gist(&watcher.one().await), ["alice", "online", "heartbeat"]);
}

// --- messages that cannot be obeyed -----------------------------------------------------------------

#[tokio::test]
async fn unreadable_message_gets_an_error() {
    let (redis, daemon) = start().await;
    let mut socket = daemon.socket("?user=alice&session=phone").await;
    let nested = "[".repeat(10_000);
    for (text, code) in [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("hello", "invalid_json"),
        (r#"{"type":"leave"} x"#, "invalid_json"),
        ("\0", "invalid_json"),
        (&nested, "invalid_json"),
        ("null", "invalid_request"),
        ("5", "invalid_request"),
        ("[]", "invalid_request"),
        (r#""leave""#, "invalid_request"),
        ("{}", "invalid_request"),
        (r#"{"type":5}"#, "invalid_request"),
        (r#"{"type":null}"#, "invalid_request"),
        (r#"{"type":"sing"}"#, "invalid_request"),
        (r#"{"type":"Leave"}"#, "invalid_request"),
        (r#"{"users":["alice"]}"#, "invalid_request"),
        (r#"{"type":"hello"}"#, "invalid_request"),
        (r#"{"type":"watch"}"#, "invalid_request"),
        (r#"{"type":"watch","users":"alice"}"#, "invalid_request"),
        (r#"{"type":"watch","users":[5]}"#, "invalid_request"),
        (r#"{"type":"watch","users":null}"#, "invalid_request"),
        (r#"{"type":"watch","all":"yes"}"#, "invalid_request"),
        (r#"{"type":"watch","all":false}"#, "invalid_request"),
        (r#"{"type":"watch","all":true,"users":["a"]}"#, "invalid_request"),
        (r#"{"type":"unwatch"}"#, "invalid_request"),
        (r#"{"type":"unwatch","users":{}}"#, "invalid_request"),
        (r#"{"type":"heartbeat","user":5}"#, "invalid_request"),
        (r#"{"type":"heartbeat","user":"a#b"}"#, "invalid_user"),
        (r#"{"type":"watch","type":"leave"}"#, "invalid_request"),
        (r#"{"type":"leave","id":{}}"#, "invalid_request"),
    ] {
        let shown: String = text.chars().take(60).collect();
        socket.send_text(text).await;
        let error = socket.next().await;
        assert_eq!(
            (&error["type"], error["code"].as_str()),
            (&json!("error"), Some(code)),
            "{shown}: {error}"
        );
        assert!(error["message"].as_str().is_some_and(|message| message.len() > 10), "{shown}: {error}");
    }
    socket.ws.send(Message::binary(&br#"{"type":"leave"}"#[..])).await.expect("the daemon reads");
    let error = socket.next().await;
    assert_eq!((&error["type"], error["code"].is_string()), (&json!("error"), true), "{error}");
    socket.send(json!({"type": "watch", "users": ["bob"], "id": 9})).await;
    assert_eq!(socket.next().await["id"], 9, "it stays");
    assert_eq!(redis.presence_keys(), ["presence:alice#phone"], "and none of them was obeyed");
}

#[tokio::test]
async fn watch_refuses_bad_names_and_watches_the_others() {
    let (redis, daemon) = start().await;
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "users": ["good", "a#b", "", "a\u{7}"], "id": 1})).await;
    let snapshot = socket.next().await;
    assert_eq!(
        (&snapshot["type"], &snapshot["id"], &snapshot["more"]),
        (&json!("snapshot"), &json!(1), &json!(false))
    );
    assert_eq!(snapshot["users"], json!([{"user": "good", "state": "offline", "last_seen_ms": null}]));
    let refused = snapshot["refused"].as_array().expect("a list");
    assert_eq!(refused.iter().map(|one| &one["user"]).collect::<Vec<_>>(), ["a#b", "", "a\u{7}"]);
    assert!(refused.iter().all(|one| one["code"] == "invalid_user" && one["message"].is_string()));
    redis.call(&["SET", "presence:good", "1", "EX", "30"]);
    assert_eq!(gist(&one(&mut socket).await)[..2], ["good", "online"]);
    socket.send(json!({"type": "watch", "users": ["good"], "id": 2})).await;
    assert_eq!(socket.next().await.get("refused"), None, "left out when empty");
}

#[tokio::test]
async fn list_as_a_message_is_refused() {
    let (redis, daemon) = start().await;
    let mut socket = daemon.socket("?user=alice&session=phone").await;
    for list in [json!(["leave"]), json!(["watch", ["carol"], false, false])] {
        socket.send(list.clone()).await;
        socket.send(json!({"type": "watch", "users": ["bob"], "id": 9})).await;
        assert_eq!(socket.next().await["type"], "error", "{list}");
        assert_eq!(socket.next().await["id"], 9, "{list}");
    }
    assert_eq!(redis.presence_keys(), ["presence:alice#phone"]);
}

#[tokio::test]
async fn watches_over_the_limit_are_refused() {
    let (redis, daemon) = start().await;
    let mut socket = daemon.socket("").await;
    // Names of three letters, so that all fit in one message.
    let names: Vec<String> = (0..10_001)
        .map(|i: u32| {
            [i / 676 % 26, i / 26 % 26, i % 26].map(|i| char::from(b'a' + i as u8)).iter().collect()
        })
        .collect();
    socket.send(json!({"type": "watch", "users": names, "id": "all at once"})).await;
    let (mut users, mut snapshot) = (0, Value::Null);
    while snapshot["more"] != false {
        snapshot = socket.next().await;
        assert_eq!((&snapshot["type"], &snapshot["id"]), (&json!("snapshot"), &json!("all at once")));
        users += snapshot["users"].as_array().map_or(0, Vec::len);
    }
    let refused = &snapshot["refused"];
    assert_eq!((users, refused.as_array().map(Vec::len)), (10_000, Some(1)));
    let first = (&refused[0]["user"], &refused[0]["code"]);
    assert_eq!(first, (&json!(names[10_000]), &json!("too_many_watches")));
    redis.call(&["SET", "presence:aaa", "1"]);
    assert_eq!(gist(&one(&mut socket).await)[..2], ["aaa", "online"]);
    socket.send(json!({"type": "watch", "users": [names[10_000]], "id": 2})).await;
    let snapshot = socket.next().await;
    assert_eq!(
        (&snapshot["users"], &snapshot["refused"][0]["code"]),
        (&json!([]), &json!("too_many_watches"))
    );
    socket.send(json!({"type": "watch", "users": names[..3]})).await;
    assert_eq!(socket.snapshot().await.len(), 3, "those that are watched already count once");
    socket.send(json!({"type": "unwatch", "users": [names[5]]})).await;
    socket.send(json!({"type": "watch", "users": [names[10_000]]})).await;
    assert_eq!(socket.snapshot().await[0]["user"], *names[10_000], "there is room again");
    redis.call(&["DEL", "presence:aaa"]);
    assert_eq!(gist(&one(&mut socket).await), ["aaa", "offline", "deleted"], "the others are still watched");
}

// --- how a socket ends --------------------------------------------------------------------------------

/// A watch that is exactly so long.
fn padded(bytes: usize) -> String {
    let message = json!({"type": "watch", "users": ["alice"], "pad": ""}).to_string();
    let pad = "x".repeat(bytes - message.len());
    json!({"type": "watch", "users": ["alice"], "pad": pad}).to_string()
}

#[tokio::test]
async fn message_of_64_kib_is_read() {
    let (_redis, daemon) = start().await;
    let mut socket = daemon.socket("").await;
    for _ in 0..3 {
        socket.send_text(&padded(65_536)).await;
        let answer = socket.next().await;
        assert!(answer["type"] == "snapshot" || answer["type"] == "error", "{answer}");
    }
}

#[tokio::test]
async fn message_over_64_kib_closes_with_1009() {
    let (_redis, daemon) = start().await;
    for _ in 0..10 {
        let mut socket = daemon.socket("").await;
        socket.send_text(&padded(65_537)).await;
        assert_eq!(socket.next_or_close().await.expect_err("a close").0, 1009);
        let mut socket = daemon.socket("").await;
        socket.ws.send(Message::binary(vec![0; 65_537])).await.expect("the daemon reads");
        assert_eq!(socket.next_or_close().await.expect_err("a close").0, 1009, "a binary one too");
    }
    assert_eq!(daemon.get("/v1/users/alice").await["state"], "offline", "the daemon goes on");
}

#[tokio::test]
async fn fragmented_message_over_64_kib_closes_with_1009() {
    let (_redis, daemon) = start().await;
    for pieces in [2, 10] {
        let mut raw = Raw::connect(daemon.port, "").await;
        let piece = vec![b'x'; 40 * 1024];
        for i in 0..pieces {
            // It may have closed before the last piece.
            if raw.send(u8::from(i == 0), i + 1 == pieces, &piece).await.is_err() {
                break;
            }
        }
        assert_eq!(raw.closed().await.1, 1009, "{pieces} pieces");
    }
}

#[tokio::test]
async fn message_of_300_kib_closes_with_1009() {
    let (_redis, daemon) = start().await;
    let mut codes = HashMap::new();
    for bytes in [128 * 1024, 128 * 1024 + 1, 300 * 1024, 2 << 20].repeat(10) {
        let mut socket = daemon.socket("").await;
        // Refused while it is still being sent, perhaps.
        let sent = socket.ws.send(Message::text("x".repeat(bytes))).await;
        let closed = socket.next_or_close().await.expect_err("a close");
        *codes.entry((bytes, closed, sent.map_err(|why| why.to_string()))).or_insert(0) += 1;
    }
    assert!(
        codes.keys().all(|(_, (code, _), _)| *code == 1009),
        "bytes, close, sent, and how often: {codes:#?}"
    );
}

#[tokio::test]
async fn client_without_pongs_is_closed_with_4009() {
    let (_redis, daemon) = start_with_ttl("1s").await;
    let mut watcher = Told::of(&daemon, "alice").await;
    let mut raw = Raw::connect(daemon.port, "?user=alice&session=phone").await;
    let (pings, code, reason) = raw.closed().await;
    assert!(pings >= 2 && code == 4009, "{pings} pings, {code} {reason}");
    assert_eq!(gist(&watcher.one().await), ["alice", "online", "heartbeat"]);
    let gone = watcher.one().await;
    assert_eq!(gist(&gone), ["alice", "offline", "expired"], "no clean close: the key is left to its TTL");
    until_sockets(&daemon, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_daemon_closes_sockets_with_1001() {
    let (_redis, daemon) = start().await;
    let mut sockets =
        vec![daemon.socket("").await, daemon.socket("?user=alice").await, daemon.watch_all().await.0];
    let stopped = tokio::task::spawn_blocking(move || daemon.stop());
    for socket in &mut sockets {
        loop {
            match socket.next_or_close().await {
                Ok(message) => assert_eq!(message["type"], "transitions", "{message}"),
                Err((code, reason)) => {
                    assert_eq!(code, 1001, "{reason}");
                    break;
                }
            }
        }
    }
    let (status, took) = stopped.await.expect("it stops");
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn bad_query_is_a_400() {
    let (redis, daemon) = start().await;
    let long = format!("?user=alice&session={}", "x".repeat(65));
    for (query, code) in [
        ("?session=x", "invalid_request"),
        ("?user=a%23b", "invalid_user"),
        ("?user=", "invalid_user"),
        ("?user=a%0Ab", "invalid_user"),
        ("?user=alice&session=", "invalid_session"),
        (&long, "invalid_session"),
        ("?user=alice&session=a%23b", "invalid_session"),
        ("?user=alice&user=bob", "invalid_request"),
    ] {
        let url = format!("ws://127.0.0.1:{}/v1/ws{query}", daemon.port);
        match tokio_tungstenite::connect_async(url).await {
            Err(tungstenite::Error::Http(answer)) => {
                let body = answer.body().as_deref().unwrap_or_default();
                let body: Value = serde_json::from_slice(body).unwrap_or_default();
                assert_eq!(
                    (answer.status().as_u16(), body["error"]["code"].as_str()),
                    (400, Some(code)),
                    "{query}: {body}"
                );
                assert!(body["error"]["message"].is_string(), "{query}: {body}");
            }
            other => panic!("{query}: {other:?}"),
        }
    }
    assert_eq!(redis.presence_keys(), [""; 0]);
}

#[tokio::test]
async fn plain_request_for_a_socket_is_a_400() {
    let (_redis, daemon) = start().await;
    for method in ["GET", "POST"] {
        let (status, answer) = daemon.call(method, "/v1/ws", None).await;
        assert!(status == 400 || (method == "POST" && status == 405), "{method}: {status} {answer}");
        assert!(answer["error"]["code"].is_string() && answer["error"]["message"].is_string(), "{answer}");
    }
}

// --- storms ----------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_clients_follow_one_user_through_a_restart() {
    const CLIENTS: usize = 1_000;
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let port = daemon.port;
    let mut daemon = daemon;
    for online in [true, false, true] {
        let mut sockets = Vec::new();
        for some in (0..CLIENTS).step_by(100) {
            let connecting = (some..some + 100).map(|_| watch(&daemon, &["star"]));
            sockets.extend(futures_util::future::join_all(connecting).await);
        }
        until_sockets(&daemon, CLIENTS).await;
        redis.call(if online { &["SET", "presence:star", "1"] } else { &["DEL", "presence:star"] });
        for socket in &mut sockets {
            let told = one(socket).await;
            assert_eq!(told["state"], if online { "online" } else { "offline" });
        }
        daemon.kill();
        daemon = Daemon::launch_at(port, &["--redis", &redis.url()]);
        daemon.ready().await;
        assert_eq!(daemon.get("/v1/stats").await["sockets"], 0);
    }
}

#[tokio::test]
async fn wrong_fields_are_named_with_what_is_allowed() {
    let (_redis, daemon) = start().await;
    let mut socket = daemon.socket("").await;
    let id = "the id is";
    for (text, words) in [
        (r#"{"type":"watch","type":"unwatch","users":["a"]}"#, &["\"type\"", "twice"][..]),
        (r#"{"type":"watch","users":["a"],"users":["b"]}"#, &["\"users\"", "twice"]),
        (r#"{"type":"ping","id":1,"id":2}"#, &["\"id\"", "twice"]),
        (r#"{"type":"ping","id":{}}"#, &[id, "an object", "a number or a string"]),
        (r#"{"type":"ping","id":[1]}"#, &[id, "a list", "a number or a string"]),
        (r#"{"type":"ping","id":true}"#, &[id, "true", "a number or a string"]),
        (r#""leave""#, &["the message is \"leave\", a string", "a JSON object"]),
        ("[]", &["the message is a list", "a JSON object"]),
        ("{}", &["type is missing", "watch, unwatch"]),
        (r#"{"type":5}"#, &["type is 5, a number", "watch, unwatch"]),
        (r#"{"type":"sing"}"#, &["type is \"sing\"", "watch, unwatch"]),
        (r#"{"type":"watch","users":"alice"}"#, &["users is \"alice\", a string", "a list of strings"]),
        (r#"{"type":"watch","users":["a",5]}"#, &["users[1] is 5, a number", "a list of strings"]),
        (r#"{"type":"watch","all":"yes"}"#, &["all is \"yes\", a string", "true or false"]),
        (r#"{"type":"watch","all":null}"#, &["all is null", "true or false"]),
        (r#"{"type":"heartbeat","user":5}"#, &["user is 5, a number", "it must be a string"]),
        (r#"{"type":"auth"}"#, &["token is missing"]),
        (r#"{"type":"auth","token":5050}"#, &["token is a number", "it must be a string"]),
    ] {
        socket.send_text(text).await;
        let error = socket.next().await;
        let message = error["message"].as_str().unwrap_or_default();
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("error"), &json!("invalid_request")),
            "{text}: {error}"
        );
        assert!(words.iter().all(|word| message.contains(word)), "{text}: {message}");
        assert!(!message.contains("5050"), "a token is never shown: {message}");
    }
    socket.send_text(r#"{"type":"ping","id":null}"#).await;
    assert_eq!(socket.next().await, json!({"type": "pong"}), "null is no id");
}
