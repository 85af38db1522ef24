//! Clients that read slowly, or not at all: what becomes of them, and that nobody else feels it.

use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, fill};
use crate::common::socket::Socket;
use crate::common::tokens::Issuer;
use crate::common::until;
use crate::streams::socket::{Known, Raw, one, start, watch};
use serde_json::json;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

/// A socket with a small receive buffer, so that the daemon soon has to wait for the client.
async fn narrow(daemon: &Daemon) -> Socket {
    narrow_with(daemon, "").await
}

async fn narrow_with(daemon: &Daemon, query: &str) -> Socket {
    let tcp = TcpSocket::new_v4().expect("a socket");
    tcp.set_recv_buffer_size(4096).expect("a small buffer");
    let stream = tcp.connect(([127, 0, 0, 1], daemon.port).into()).await.expect("the daemon listens");
    let url = format!("ws://127.0.0.1:{}/v1/ws?{query}", daemon.port);
    let plain = tokio_tungstenite::MaybeTlsStream::Plain(stream);
    let (ws, _) = tokio_tungstenite::client_async(url, plain).await.expect("the daemon accepts");
    let mut socket = Socket { ws };
    socket.hello().await;
    socket
}

/// Lets users with long names come and go so many times, the last time come.
async fn flap_times(redis: Redis, users: &[String], times: usize) -> Redis {
    let keys: Vec<String> = users.iter().map(|user| format!("presence:{user}")).collect();
    let flapping = tokio::task::spawn_blocking(move || {
        let mut client = redis.client();
        let set: Vec<_> = keys.iter().map(|key| vec!["SET", key, "1"]).collect();
        let both: Vec<_> = keys.iter().map(|key| vec!["DEL", key]).chain(set.clone()).collect();
        client.pipeline(&set);
        (1..times).for_each(|_| drop(client.pipeline(&both)));
        redis
    });
    flapping.await.expect("flapping ends")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_client_ends_with_the_right_states() {
    let (redis, daemon) = start().await;
    let users: Vec<String> = (0..8).map(|i| format!("{i}{}", "x".repeat(200))).collect();
    let mut slow = narrow(&daemon).await;
    slow.send(json!({"type": "watch", "users": users})).await;
    slow.send(json!({"type": "watch", "users": ["last"]})).await;
    let mut known = Known::default();
    known.take(&slow.next().await);
    known.take(&slow.next().await);
    // It reads nothing now.
    let redis = flap_times(redis, &users, 2_000).await;
    redis.call(&["DEL", &format!("presence:{}", users[0])]);
    redis.call(&["SET", "presence:last", "1"]);
    daemon.until_state("last", "online").await;
    daemon.until_state(&users[0], "offline").await;
    let mut told = 0;
    while !known.0["last"] {
        let message = slow.next().await;
        told += message["transitions"].as_array().map_or(0, Vec::len);
        known.take(&message);
    }
    slow.send(json!({"type": "watch", "users": users})).await;
    let mut fresh = Known::default();
    loop {
        let message = slow.next().await;
        if message["type"] == "snapshot" {
            fresh.take(&message);
            break;
        }
        known.take(&message);
    }
    known.0.remove("last");
    assert_eq!(known.0, fresh.0);
    assert!(users.iter().all(|user| known.0[user] != (*user == users[0])), "{:?}", known.0);
    let (_, metrics) = daemon.call("GET", "/metrics", None).await;
    let metrics = metrics.as_str().expect("a text");
    let dropped = metrics.lines().find_map(|line| line.strip_prefix("keybeat_conflated_changes_total "));
    let dropped: usize = dropped.expect("the metric").parse().expect("a number");
    assert!(dropped > 1_000 && told < 31_000, "it was not slow: {told} told, {dropped} dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_lossless_client_is_closed_with_4008() {
    let redis = Redis::start();
    // A gap of a daemon that falls behind would end the changes of the client too soon.
    let daemon = Daemon::with(&["--redis", &redis.url(), "--canary-limit", "15s"]).await;
    let users: Vec<String> = (0..50).map(|i| format!("{i:0>200}")).collect();
    let mut slow = narrow(&daemon).await;
    slow.send(json!({"type": "watch", "all": true, "lossless": true})).await;
    let mut known = Known::default();
    known.snapshot(&slow.snapshot().await);
    let redis = flap_times(redis, &users, 1_300).await;
    redis.call(&["SET", "presence:last", "1"]);
    daemon.until_state("last", "online").await;
    let closed = loop {
        match slow.next_or_close().await {
            Ok(message) => known.take(&message),
            Err(closed) => break closed,
        }
    };
    assert_eq!(closed.0, 4008, "{}", closed.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offline_during_a_long_snapshot_is_a_transition() {
    let redis = Redis::start();
    let others = "x".repeat(200);
    fill(&redis, &format!("presence:{others}"), 30_000);
    let named: Vec<String> = (0..100).map(|i| format!("u{i}")).collect();
    named.iter().for_each(|user| drop(redis.call(&["SET", &format!("presence:{user}"), "1"])));
    let daemon = Daemon::start(&redis).await;
    let mut slow = narrow(&daemon).await;
    slow.send(json!({"type": "watch", "users": named})).await;
    assert_eq!(slow.snapshot().await.len(), 100);
    slow.send(json!({"type": "watch", "all": true})).await;
    // The first chunk arrives; the kernel's buffers do not take all the others.
    let mut known: HashMap<String, bool> = named.iter().map(|user| (user.clone(), true)).collect();
    let mut message = slow.next().await;
    let keys: Vec<_> = named.iter().map(|user| format!("presence:{user}")).collect();
    redis.call(&[&["DEL"], &*keys.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    daemon.until_state("u99", "offline").await;
    loop {
        let transitions = message["transitions"].as_array().into_iter().flatten();
        for user in transitions.map(|one| one["user"].as_str().expect("a name")) {
            assert_eq!(known.insert(user.to_owned(), false), Some(true), "{user}");
        }
        if message["more"] == false {
            break;
        }
        message = slow.next().await;
    }
    // Those who were in the snapshot as online follow it.
    while known.values().any(|online| *online) {
        for one in slow.transitions().await {
            let user = one["user"].as_str().expect("a name").to_owned();
            assert_eq!(known.insert(user.clone(), false), Some(true), "{user}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_budget_closes_the_slowest_with_1013() {
    let redis = Redis::start();
    let daemon =
        Daemon::with(&["--redis", &redis.url(), "--mailbox-mib", "1", "--max-watches-per-socket", "40000"])
            .await;
    // More than the kernel's buffers take.
    let users: Vec<String> = (0..40_000).map(|i| format!("{i:0>200}")).collect();
    let mut slow = narrow(&daemon).await;
    for some in users.chunks(300) {
        slow.send(json!({"type": "watch", "users": some})).await;
        assert_eq!(slow.next().await["type"], "snapshot");
    }
    let mut other = watch(&daemon, &["last"]).await;
    let redis = flap_times(redis, &users, 1).await;
    redis.call(&["SET", "presence:last", "1"]);
    assert_eq!(one(&mut other).await["state"], "online");
    let closed = loop {
        if let Err(closed) = slow.next_or_close().await {
            break closed;
        }
    };
    assert_eq!(closed.0, 1013, "{}", closed.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_messages_share_the_budget() {
    let redis = Redis::start();
    let piece = vec![b' '; 60 * 1024];
    let header = [&[0x81, 0x80 | 127][..], &61_440_u64.to_be_bytes(), &[0; 4]].concat();
    // Of 4 MiB: fragments may take twice their size, a frame takes its size.
    for (in_fragments, most) in [(true, 34), (false, 68)] {
        let daemon = Daemon::with(&["--redis", &redis.url(), "--mailbox-mib", "4"]).await;
        let mut good = watch(&daemon, &["alice"]).await;
        let mut sockets = Vec::new();
        for _ in 0..120 {
            let mut raw = Raw::connect(daemon.port, "").await;
            let sent = match in_fragments {
                true => raw.send(1, false, &piece).await,
                false => raw.stream.write_all(&[&header, &piece[1..]].concat()).await,
            };
            sent.expect("the daemon reads");
            sockets.push(raw);
        }
        let mut closing: JoinSet<_> =
            sockets.into_iter().map(|mut raw| async move { raw.closed().await }).collect();
        for _ in most..120 {
            let (_, code, reason) = closing.join_next().await.expect("a socket").expect("no panic");
            assert_eq!(code, 1013, "{reason}");
        }
        redis.call(&["SET", "presence:alice", "1"]);
        assert_eq!(one(&mut good).await["state"], "online", "a client that ends its messages stays");
        redis.call(&["DEL", "presence:alice"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_message_leaves_no_buffer_behind() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let kib = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    let mut sockets = Vec::new();
    for _ in 0..400 {
        sockets.push(Raw::connect(daemon.port, "").await);
    }
    let before = kib();
    let ping = [&b"{\"type\":\"ping\"}"[..], &[b' '; 60_000]].concat();
    let pong = async |raw: &mut Raw, text: &[u8]| {
        raw.send(1, true, text).await.expect("the daemon reads");
        while !raw.frame().await.expect("an answer").1.starts_with(b"{\"type\":\"pong\"") {}
    };
    for raw in &mut sockets {
        pong(raw, &ping).await;
        // What comes next is read as before.
        pong(raw, b"{\"type\":\"ping\"}").await;
    }
    let grown = kib().saturating_sub(before);
    assert!(grown < 400 * 20, "{grown} KiB for 400 sockets that sent 60 KB each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_messages_leave_the_budget() {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--mailbox-mib", "1"]).await;
    let rest = [&b"\"ping\"}"[..], &[b' '; 50_000]].concat();
    let mut sockets = Vec::new();
    for _ in 0..50 {
        let mut raw = Raw::connect(daemon.port, "").await;
        raw.send(1, false, b"{\"type\":").await.expect("the daemon reads");
        raw.send(0, true, &rest).await.expect("the daemon reads");
        while !raw.frame().await.expect("an answer").1.starts_with(b"{\"type\":\"pong\"") {}
        sockets.push(raw);
    }
    let (_, metrics) = daemon.call("GET", "/metrics", None).await;
    let none = "\nkeybeat_crowded_sockets_total 0\n";
    assert!(metrics.as_str().is_some_and(|text| text.contains(none)), "none of them was closed: {metrics}");
}

/// 0.9 MB of users: more than the kernel's buffers take.
fn crowd() -> (Redis, usize) {
    let redis = Redis::start();
    let set = |i| ["SET", &format!("presence:{i:0>250}"), "1"].map(str::to_owned).to_vec();
    let sets: Vec<Vec<String>> = (0..3_000).map(set).collect();
    redis.client().pipeline(&sets);
    (redis, 900_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_that_reads_nothing_ends_after_the_write_timeout() {
    let (redis, _) = crowd();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--write-timeout", "700ms", "--log", "debug"]).await;
    let mut stuck = Raw::connect_with(daemon.port, "", Some(4096)).await;
    let began = Instant::now();
    stuck.send(1, true, br#"{"type":"watch","all":true}"#).await.expect("the daemon reads");
    until("the socket is closed", async || daemon.log().contains("code=4009").then_some(())).await;
    assert!(began.elapsed() > Duration::from_millis(700), "after {:?}", began.elapsed());
    let (_, metrics) = daemon.call("GET", "/metrics", None).await;
    let counted = "keybeat_limits_reached_total{cause=\"write_timeout\"} 1\n";
    assert!(metrics.as_str().is_some_and(|text| text.contains(counted)), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_that_reads_slowly_outlives_the_write_timeout() {
    let (redis, bytes) = crowd();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--write-timeout", "2s"]).await;
    let mut slow = Raw::connect_with(daemon.port, "", Some(4096)).await;
    slow.send(1, true, br#"{"type":"watch","all":true}"#).await.expect("the daemon reads");
    let (began, mut some, mut read) = (Instant::now(), [0; 4096], 0);
    while began.elapsed() < Duration::from_secs(5) {
        // It reads slowly on purpose.
        tokio::time::sleep(Duration::from_millis(50)).await;
        read += slow.stream.read(&mut some).await.expect("the daemon writes");
    }
    assert!(read < bytes / 2, "it was not slow: {read} bytes");
    assert_eq!(daemon.get("/v1/stats").await["sockets"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stuck_socket_ends_when_its_token_expires() {
    let (redis, issuer) = (Redis::start(), Issuer::new());
    let args = ["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file(), "--log", "debug"];
    let daemon = Daemon::with(&args).await;
    let users: Vec<String> = (0..50).map(|i| format!("{i:0>200}")).collect();
    let token = issuer.token_for("alice", &["*"], 2);
    let mut stuck = narrow_with(&daemon, &format!("token={token}")).await;
    stuck.send(json!({"type": "watch", "users": users})).await;
    stuck.snapshot().await;
    // It reads nothing from here on. Without the check the daemon would wait for a minute.
    let _redis = flap_times(redis, &users, 300).await;
    until("the socket is closed", async || daemon.log().contains("code=4001").then_some(())).await;
}

/// The daemon's resident memory, and what it counts as waiting for clients, in bytes.
async fn memory(daemon: &Daemon) -> [f64; 2] {
    let (_, metrics) = daemon.call("GET", "/metrics", None).await;
    let metrics = metrics.as_str().expect("a text");
    ["process_resident_memory_bytes ", "keybeat_mailbox_bytes "].map(|name| {
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("the metric");
        value.parse().expect("a number")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_watches_hold_little_more_than_is_counted() {
    const CLIENTS: u8 = 60;
    let (_redis, daemon) = start().await;
    let users: Vec<String> = (0..5_500).map(|i| format!("{i:0>7}")).collect();
    let message = json!({"type": "watch", "users": users});
    // The memory of a watch at the hub, however fast its client reads.
    let [none, _] = memory(&daemon).await;
    let mut readers = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = daemon.socket("").await;
        client.send(message.clone()).await;
        assert_eq!(client.snapshot().await.len(), users.len());
        readers.push(client);
    }
    let [before, _] = memory(&daemon).await;
    let mut stuck = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = narrow(&daemon).await;
        client.send(message.clone()).await;
        stuck.push(client);
    }
    // Most of each snapshot waits.
    let [now, counted] = until("all of them are stuck", async || {
        let [now, counted] = memory(&daemon).await;
        (counted > f64::from(CLIENTS) * 130_000.0).then_some([now, counted])
    })
    .await;
    let (of_readers, of_stuck) = (before - none, now - before);
    let text = format!("{of_readers} bytes of readers, {of_stuck} of stuck clients, {counted} are counted");
    println!("{text}");
    assert!(of_stuck < of_readers + counted * 2.5, "{text}");
    drop(readers);
    drop(stuck);
}

/// The bytes that the daemon has put into the kernel for these clients and that they have not read.
fn queued(daemon: &Daemon, clients: &[Socket]) -> Vec<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let ports: Vec<String> = clients.iter().map(|client| format!(":{:04X}", client.local_port())).collect();
    let ours = format!(":{:04X}", daemon.port);
    let of = |port: &String| {
        let line = table.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, remote, _, queues, ..] = fields[..] else { return None };
            (local.ends_with(&ours) && remote.ends_with(port)).then(|| queues.to_owned())
        });
        let queues = line.expect("the connection is listed");
        u64::from_str_radix(queues.split(':').next().expect("tx:rx"), 16).expect("hex")
    };
    ports.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stuck_clients_hold_one_change_a_user() {
    let (redis, daemon) = start().await;
    let users: Vec<String> = (0..50).map(|i| format!("{i:0>200}")).collect();
    let mut stuck = Vec::new();
    for watch in [json!({"type": "watch", "all": true}), json!({"type": "watch", "users": users})] {
        for _ in 0..3 {
            let mut client = narrow(&daemon).await;
            client.send(watch.clone()).await;
            client.snapshot().await;
            stuck.push(client);
        }
    }
    let mut readers = Vec::new();
    for _ in 0..3 {
        let mut reader = daemon.socket("").await;
        reader.send(json!({"type": "watch", "all": true, "lossless": true})).await;
        reader.snapshot().await;
        readers.push(tokio::spawn(all_until_last(reader)));
    }
    let times = 300;
    let redis = flap_times(redis, &users, times).await;
    redis.call(&["SET", "presence:last", "1"]);
    for reader in readers {
        assert_eq!(reader.await.expect("a reader"), users.len() * (2 * times - 1));
    }
    // A change a user, and what the kernel has for them is bounded too, though 9 MB were told to each reader.
    let metric = async |name: &str| {
        let (_, metrics) = daemon.call("GET", "/metrics", None).await;
        let line = metrics
            .as_str()
            .expect("a text")
            .lines()
            .find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
        line.expect("the metric").parse::<usize>().expect("a number")
    };
    until("the stuck clients' changes are conflated", async || {
        (metric("keybeat_conflated_changes_total ").await > 50_000).then_some(())
    })
    .await;
    // One change a user for each client.
    let most = stuck.len() * users.len() * 1_000;
    until("the mailboxes are small", async || (metric("keybeat_mailbox_bytes ").await < most).then_some(()))
        .await;
    // The end of the log that all of them share, at most 4,608 entries.
    until("the log is short", async || {
        (1..4_608 * 1_200).contains(&metric("keybeat_replay_log_bytes ").await).then_some(())
    })
    .await;
    for queued in queued(&daemon, &stuck) {
        assert!(queued < 256 * 1024, "{queued} bytes wait in the kernel for one client");
    }
    assert_eq!(daemon.get("/v1/stats").await["sockets"], stuck.len());
    for mut client in stuck {
        let mut known = Known::default();
        while !known.0.values().all(|&online| online) || known.0.len() < users.len() {
            known.take(&client.next().await);
        }
    }
}

/// Reads until the user `last` comes: how many transitions of others it was told, none twice and none missing.
async fn all_until_last(mut reader: Socket) -> usize {
    let (mut known, mut told) = (Known::default(), 0);
    while !known.0.contains_key("last") {
        let message = reader.next().await;
        told += message["transitions"].as_array().map_or(0, Vec::len);
        known.take(&message);
    }
    told - 1
}
