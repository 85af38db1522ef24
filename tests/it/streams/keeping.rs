//! Sockets that keep a user online: one session at several sockets and daemons, lost heartbeats, and slow readers.

use crate::common::cluster::Cluster;
use crate::common::daemon::Daemon;
use crate::common::proxy::Proxy;
use crate::common::redis::Redis;
use crate::common::socket::Socket;
use crate::common::{PATIENCE, until};
use crate::streams::socket::{Raw, Told, gist, one, watch};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// A socket that is read all the time, so that pings are answered.
pub(super) struct Tab {
    orders: mpsc::UnboundedSender<Message>,
    pings: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl Tab {
    pub(super) async fn open(daemon: &Daemon, query: &str) -> Tab {
        let mut ws = daemon.socket(query).await.ws;
        let (orders, mut ordered) = mpsc::unbounded_channel();
        let pings = Arc::new(AtomicU32::new(0));
        let counter = pings.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    message = ws.next() => match message {
                        Some(Ok(message)) => drop(counter.fetch_add(message.is_ping().into(), Ordering::Relaxed)),
                        _ => return,
                    },
                    Some(order) = ordered.recv() => ws.send(order).await.expect("the daemon reads"),
                }
            }
        });
        Tab { orders, pings, task }
    }

    pub(super) fn send(&self, text: &str) {
        self.orders.send(Message::text(text)).expect("the socket is open");
    }

    /// Waits for so many more pings. The daemon sends five in a TTL.
    pub(super) async fn pinged(&self, count: u32) {
        let first = self.pings.load(Ordering::Relaxed);
        until("pings", async || (self.pings.load(Ordering::Relaxed) >= first + count).then_some(())).await;
    }

    /// Closes it in good order, and waits until the daemon has.
    pub(super) async fn close(self) {
        self.end(None).await;
    }

    /// Closes it with 1001, as a browser does when its page reloads.
    pub(super) async fn reload(self) {
        self.end(Some(1001)).await;
    }

    /// Closes it with this code.
    pub(super) async fn end(self, code: Option<u16>) {
        self.begin_end(code);
        timeout(PATIENCE, self.task).await.expect("it closes in time").expect("it reads");
    }

    /// Sends the close, and does not wait.
    pub(super) fn begin_end(&self, code: Option<u16>) {
        let frame = code.map(|code| CloseFrame { code: code.into(), reason: "".into() });
        self.orders.send(Message::Close(frame)).expect("the socket is open");
    }
}

/// Two daemons on one Redis, and the transitions of alice at the second.
async fn two_daemons(ttl: &str) -> (Redis, [Daemon; 2], Told) {
    let redis = Redis::start();
    let start = async || Daemon::with(&["--redis", &redis.url(), "--ttl", ttl]).await;
    let daemons = [start().await, start().await];
    let told = Told::of(&daemons[1], "alice").await;
    (redis, daemons, told)
}

const TAB: &str = "?user=alice&session=tab";
const KEY: &str = "presence:alice#tab";

#[tokio::test]
async fn session_that_moves_to_another_daemon_stays_online() {
    let (redis, [old, new], mut told) = two_daemons("2s").await;
    let value = || redis.call(&["GET", KEY]);
    // The old socket closes at once, after its daemon has written the key again, or after the other daemon has.
    for writer in ["any", "old", "new"] {
        let old = Tab::open(&old, TAB).await;
        assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"], "{writer}");
        let old_value = value();
        let new = Tab::open(&new, TAB).await;
        if writer != "any" {
            until("the old daemon writes", async || (value() == old_value).then_some(())).await;
        }
        if writer == "new" {
            until("the new daemon writes", async || (value() != old_value).then_some(())).await;
        }
        old.close().await;
        new.pinged(10).await;
        told.none();
        new.close().await;
        assert_eq!(gist(&told.one().await), ["alice", "offline", "deleted"], "{writer}: at once");
    }
    assert_eq!(redis.presence_keys(), [""; 0]);
}

#[tokio::test]
async fn session_of_two_daemons_ends_soon_after_both_sockets() {
    let (redis, [first, second], mut told) = two_daemons("30s").await;
    let [a, b] = [Tab::open(&first, TAB).await, Tab::open(&second, TAB).await];
    assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
    let value = redis.call(&["GET", KEY]);
    a.send(r#"{"type":"heartbeat"}"#);
    until("the first daemon writes", async || (redis.call(&["GET", KEY]) != value).then_some(())).await;
    // It knows of the other one, which has not written since.
    a.close().await;
    until("the key lives for two heartbeats of the other", async || {
        (redis.call(&["PTTL", KEY]).number() <= 12_000).then_some(())
    })
    .await;
    told.none();
    b.close().await;
    assert_eq!(gist(&told.one().await), ["alice", "offline", "deleted"]);
}

#[tokio::test]
async fn key_that_a_program_wrote_last_is_left_to_it() {
    let (redis, [daemon, _other], mut told) = two_daemons("30s").await;
    let tab = Tab::open(&daemon, TAB).await;
    assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
    redis.call(&["SET", KEY, "1", "EX", "60"]);
    tab.close().await;
    assert!(redis.call(&["PTTL", KEY]).number() > 30_000);
    told.none();
}

#[tokio::test]
async fn without_the_right_to_read_a_key_is_left_to_its_ttl() {
    for (rights, expected) in [("-get", "expired"), ("-watch", "deleted"), ("-multi", "deleted")] {
        let redis = Redis::start();
        redis.call(&["ACL", "SETUSER", "default", rights]);
        let daemon = Daemon::with(&["--redis", &redis.url(), "--ttl", "2s"]).await;
        let mut told = Told::of(&daemon, "alice").await;
        let tab = Tab::open(&daemon, TAB).await;
        assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
        tab.close().await;
        assert_eq!(gist(&told.one().await), ["alice", "offline", expected], "{rights}");
    }
}

#[tokio::test]
async fn goodbye_ends_the_session_at_all_daemons() {
    let (redis, [first, second], mut told) = two_daemons("1s").await;
    for by_request in [false, true] {
        let tabs =
            [Tab::open(&first, TAB).await, Tab::open(&first, TAB).await, Tab::open(&second, TAB).await];
        assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
        if by_request {
            let (status, _) = first.call("DELETE", "/v1/users/alice?session=tab", None).await;
            assert_eq!(status, 204);
        } else {
            tabs[0].send(r#"{"type":"leave"}"#);
        }
        assert_eq!(gist(&told.one().await), ["alice", "offline", "deleted"]);
        tabs[1].pinged(10).await;
        tabs[2].pinged(10).await;
        told.none();
        assert_eq!(redis.presence_keys(), [""; 0], "no socket brings it back");
        let [left, closed, back] = tabs;
        closed.close().await;
        back.send(r#"{"type":"heartbeat"}"#);
        assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
        back.pinged(10).await;
        left.close().await;
        back.pinged(10).await;
        told.none();
        back.close().await;
        assert_eq!(gist(&told.one().await), ["alice", "offline", "deleted"], "at once");
    }
}

#[tokio::test]
async fn goodbye_of_one_socket_and_close_of_the_other_end_at_once() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let mut told = Told::of(&daemon, "alice").await;
    let [first, second] = [Tab::open(&daemon, TAB).await, Tab::open(&daemon, TAB).await];
    assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
    first.send(r#"{"type":"leave"}"#);
    assert_eq!(gist(&told.one().await), ["alice", "offline", "deleted"]);
    second.send(r#"{"type":"heartbeat"}"#);
    assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
    second.close().await;
    assert_eq!(gist(&told.one().await), ["alice", "offline", "deleted"], "although the first one is open");
    first.close().await;
    assert_eq!(redis.presence_keys(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_that_closes_and_opens_is_online_again_at_once() {
    const USERS: usize = 100;
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    for round in 0..5 {
        let reopened = (0..USERS).map(async |i| {
            let query = format!("?user=u{i}&session=tab");
            let tab = Tab::open(&daemon, &query).await;
            // Whichever the daemon sees first.
            let ((), new) = tokio::join!(tab.close(), Tab::open(&daemon, &query));
            new
        });
        let tabs = futures_util::future::join_all(reopened).await;
        let keys = redis.presence_keys().len();
        assert_eq!(keys, USERS, "round {round}: some keys were deleted after they had been set");
        for tab in tabs {
            tab.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn link_that_is_away_for_two_thirds_of_the_ttl_ends_nobody() {
    const AWAY: Duration = Duration::from_millis(4_200);
    let redis = Redis::start();
    let proxy = Proxy::to(redis.port).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let daemon = Daemon::with(&["--redis", &url, "--ttl", "6s"]).await;
    let watcher = Daemon::start(&redis).await;
    let mut tabs = Vec::new();
    for i in 0..24 {
        tabs.push(Tab::open(&daemon, &format!("?user=u{i}")).await);
    }
    let (mut socket, users) = watcher.watch_all().await;
    assert_eq!(users.len(), tabs.len());
    // The outage has to last as long as it does.
    proxy.cut(true);
    sleep(AWAY).await;
    proxy.cut(false);
    daemon.ready().await;
    tabs[0].pinged(5).await;
    redis.call(&["SET", "presence:last", "1"]);
    assert_eq!(one(&mut socket).await["user"], "last", "nobody was reported before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shortest_ttl_does_not_flap() {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--ttl", "100ms"]).await;
    let mut told = Told::of(&daemon, "alice").await;
    let tab = Tab::open(&daemon, TAB).await;
    assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
    tab.pinged(100).await;
    told.none();
    tab.close().await;
    assert_eq!(gist(&told.one().await), ["alice", "offline", "deleted"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_redis_delays_no_hello_and_no_status() {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--ttl", "1s"]).await;
    let mut speaking = daemon.socket("?user=alice").await;
    let mut silent = daemon.socket("").await;
    redis.signal("STOP");
    let began = Instant::now();
    // The daemon does not know yet that Redis hangs.
    for i in 0..5 {
        daemon.socket(&format!("?user=early{i}")).await;
        assert!(began.elapsed() < Duration::from_secs(1), "{i}: hello after {:?}", began.elapsed());
    }
    let down = async |socket: &mut Socket| {
        assert_eq!(socket.next().await["redis"], "down");
        began.elapsed()
    };
    let (speaking_after, silent_after) = tokio::join!(down(&mut speaking), down(&mut silent));
    let late = speaking_after.saturating_sub(silent_after);
    assert!(late < Duration::from_millis(500), "{speaking_after:?}, without a user {silent_after:?}");
    for i in 0..20 {
        let began = Instant::now();
        let mut socket = daemon.socket(&format!("?user=u{i}")).await;
        assert!(began.elapsed() < Duration::from_secs(1), "hello after {:?}", began.elapsed());
        // Neither do the client's own heartbeats hold up the answers to other messages.
        socket.send(json!({"type": "heartbeat"})).await;
        socket.send(json!({"type": "ping", "id": 1})).await;
        while socket.next().await["type"] != "pong" {}
        assert!(began.elapsed() < Duration::from_secs(1), "pong after {:?}", began.elapsed());
    }
    redis.signal("CONT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_but_steady_reader_stays_online() {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--ttl", "2s"]).await;
    let mut told = Told::of(&daemon, "alice").await;
    let mut slow = Raw::connect_with(daemon.port, TAB, Some(4096)).await;
    assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
    // A snapshot of 0.9 MB.
    let users: Vec<String> = (0..3_000).map(|i| format!("{i:0>250}")).collect();
    let sets: Vec<Vec<String>> = users
        .iter()
        .map(|user| ["SET", &format!("presence:{user}"), "1", "EX", "60"].map(str::to_owned).to_vec())
        .collect();
    redis.client().pipeline(&sets);
    daemon.until_state(&users[2_999], "online").await;
    slow.send(1, true, br#"{"type":"watch","all":true}"#).await.expect("the daemon reads");
    let (began, mut read, mut bytes) = (Instant::now(), 0, [0; 4096]);
    while began.elapsed() < Duration::from_secs(8) {
        // 80 KB per second: it reads slowly on purpose.
        sleep(Duration::from_millis(50)).await;
        read += slow.stream.read(&mut bytes).await.expect("the daemon writes");
    }
    assert!(read < 900_000, "it was not slow: {read} bytes");
    told.none();
    // From here on it takes nothing.
    assert_eq!(gist(&told.one().await), ["alice", "offline", "expired"]);
}

#[tokio::test]
async fn socket_needs_no_more_writes_than_its_ttl_does() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let mut socket = watch(&daemon, &["alice"]).await;
    let mut own = daemon.socket(TAB).await;
    assert_eq!(one(&mut socket).await["user"], "alice");
    let sets = || {
        let stats = redis.call(&["INFO", "commandstats"]).as_text().to_owned();
        let calls = stats
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_set:calls=")?.split(',').next()?.parse::<u32>().ok());
        calls.expect("SET was called")
    };
    let before = (sets(), Instant::now());
    for _ in 0..300 {
        own.ws.send(Message::Pong(Default::default())).await.expect("the daemon reads");
    }
    own.send(json!({"type": "ping"})).await;
    assert_eq!(own.next().await["type"], "pong");
    // The canary is set once a second.
    let most = 2 + before.1.elapsed().as_secs() as u32;
    assert!(sets() - before.0 <= most, "{} SETs for 300 pongs", sets() - before.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_a_cluster_move_and_end_as_those_of_one_server() {
    const USERS: usize = 20;
    let cluster = Cluster::start(2, 0).await;
    let start = async || Daemon::with(&["--redis", &cluster.url()]).await;
    let [first, second] = [start().await, start().await];
    let (mut socket, _) = second.watch_all().await;
    let mut tabs = [Vec::new(), Vec::new()];
    for (daemon, tabs) in [&first, &second].into_iter().zip(&mut tabs) {
        for i in 0..USERS {
            tabs.push(Tab::open(daemon, &format!("?user=u{i}&session=tab")).await);
        }
    }
    for tab in tabs.into_iter().flatten() {
        tab.close().await;
    }
    let mut seen = Vec::new();
    while seen.len() < 2 * USERS {
        let transitions = socket.transitions().await;
        seen.extend(transitions.iter().map(|one| gist(one).map(str::to_owned)));
    }
    let (online, offline) = seen.split_at(USERS);
    assert!(online.iter().all(|[_, state, _]| state == "online"), "{online:?}");
    assert!(
        offline.iter().all(|[_, state, reason]| state == "offline" && reason == "deleted"),
        "{offline:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_node_of_a_cluster_ends_nobody_on_the_others() {
    let cluster = Cluster::start(2, 0).await;
    for node in &cluster.nodes {
        // Or the cluster would refuse writes to all slots.
        node.call(&["CONFIG", "SET", "cluster-node-timeout", "20000"]);
    }
    let daemon = Daemon::with(&["--redis", &cluster.url(), "--ttl", "1s"]).await;
    let mut tabs = Vec::new();
    for i in 0..20 {
        tabs.push(Tab::open(&daemon, &format!("?user=u{i}&session=tab")).await);
    }
    let keys = || cluster.nodes[0].presence_keys().len();
    let all = keys();
    assert!(all > 0 && all < tabs.len(), "{all} of them are on the first node");
    cluster.nodes[1].signal("STOP");
    for _ in 0..15 {
        tabs[0].pinged(1).await;
        assert_eq!(keys(), all);
    }
    cluster.nodes[1].signal("CONT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_who_move_between_daemons_are_never_offline() {
    const USERS: usize = 60;
    const MOVES: usize = 8;
    let redis = Redis::start();
    let start = async || Daemon::with(&["--redis", &redis.url(), "--ttl", "4s"]).await;
    let daemons = [start().await, start().await];
    let (mut socket, _) = daemons[0].watch_all().await;
    let seen = tokio::spawn(async move {
        let mut seen = Vec::new();
        loop {
            let transitions = socket.transitions().await;
            seen.extend(transitions.iter().map(|one| gist(one).map(str::to_owned)));
            if seen.iter().any(|[user, ..]| user == "last") {
                return seen;
            }
        }
    });
    let moving = (0..USERS).map(async |i| {
        let query = format!("?user=u{i}&session=tab");
        let mut tab = Tab::open(&daemons[0], &query).await;
        for step in 1..=MOVES {
            let next = Tab::open(&daemons[step % 2], &query).await;
            // Before and after heartbeats of either daemon, which are 0.8 s apart.
            sleep(Duration::from_millis(fastrand::u64(..1_000))).await;
            tab.close().await;
            tab = next;
        }
        tab
    });
    let tabs = futures_util::future::join_all(moving).await;
    redis.call(&["SET", "presence:last", "1"]);
    let seen = seen.await.expect("the watcher reads");
    let offline: Vec<_> = seen.iter().filter(|[_, state, _]| state == "offline").collect();
    assert!(offline.is_empty() && seen.len() == USERS + 1, "{offline:?}");
    drop(tabs);
}
