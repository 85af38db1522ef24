//! Daemons that keep only the users whom their clients watch (`--hold watched`).

use crate::common::cluster::Cluster;
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, info, signal};
use crate::common::socket::Socket;
use crate::common::until;
use serde_json::{Value, json};

async fn chooser(url: &str) -> Daemon {
    Daemon::with(&["--redis", url, "--hold", "watched"]).await
}

/// A daemon that keeps all users and holds the lease, and one that keeps only watched users.
async fn pair(redis: &Redis) -> [Daemon; 2] {
    let holder = Daemon::start(redis).await;
    holder.until_lease("held").await;
    let chooser = chooser(&redis.url()).await;
    chooser.until_lease("other").await;
    [holder, chooser]
}

async fn watch(daemon: &Daemon, users: &[&str]) -> (Socket, Vec<Value>) {
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "users": users, "id": 1})).await;
    let snapshot = socket.snapshot().await;
    (socket, snapshot)
}

/// Asks until the daemon knows the state of the user.
async fn known(daemon: &Daemon, user: &str) -> Value {
    until(&format!("{user} is known"), async || {
        let object = daemon.get(&format!("/v1/users/{user}")).await;
        object["stale"].is_null().then_some(object)
    })
    .await
}

fn set(redis: &Redis, key: &str) {
    redis.call(&["SET", &format!("presence:{key}"), "1", "EX", "60"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watched_user_has_the_sessions_that_the_holder_names() {
    let redis = Redis::start();
    ["alice#phone", "alice#tab", "bob", "carol"].iter().for_each(|key| set(&redis, key));
    let [_holder, chooser] = pair(&redis).await;
    let scans = || info(&redis, "commandstats").get("cmdstat_scan").cloned();
    let scans_before = scans();
    let (mut socket, users) = watch(&chooser, &["alice", "bob", "dora"]).await;
    assert_eq!(
        users,
        [
            json!({"state": "online", "user": "alice", "since_ms": null, "sessions": 2}),
            json!({"state": "online", "user": "bob", "since_ms": null, "sessions": 1}),
            json!({"state": "offline", "user": "dora", "last_seen_ms": null}),
        ]
    );
    redis.call(&["DEL", "presence:alice#phone", "presence:carol"]);
    redis.call(&["DEL", "presence:alice#tab"]);
    let gone = socket.transitions().await;
    assert_eq!((&gone[0]["user"], &gone[0]["state"]), (&json!("alice"), &json!("offline")));
    set(&redis, "dora#new");
    let came = socket.transitions().await;
    assert_eq!((&came[0]["user"], &came[0]["reason"]), (&json!("dora"), &json!("heartbeat")));
    assert!(came[0]["since_ms"].is_u64(), "{came:?}");
    assert_eq!(scans(), scans_before, "the holder named the keys");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_watched_user_is_noticed_though_the_holder_dies() {
    let redis = Redis::with(&["--enable-debug-command", "yes"]);
    assert_eq!(redis.call(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).as_text(), "OK");
    redis.call(&["SET", "presence:alice#phone", "1", "PX", "8000"]);
    let [holder, chooser] = pair(&redis).await;
    let (mut socket, users) = watch(&chooser, &["alice"]).await;
    assert_eq!(users[0]["state"], "online");
    signal(holder.pid(), "KILL");
    let gone = socket.transitions().await;
    assert_eq!((&gone[0]["state"], &gone[0]["reason"]), (&json!("offline"), &json!("expired")));
    chooser.ready().await;
    // It stands in for the holder, and then knows everybody.
    set(&redis, "bob#tab");
    chooser.until_lease("held").await;
    assert_eq!(known(&chooser, "bob").await["sessions"], 1);
    // A daemon that keeps all users takes the lease from it.
    let _holder = Daemon::start(&redis).await;
    chooser.until_lease("other").await;
    assert_eq!(known(&chooser, "bob").await["sessions"], 1);
    assert_eq!(chooser.get("/v1/stats").await["gaps"], json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_holder_a_scan_finds_the_sessions() {
    let redis = Redis::start();
    (0..3_000).for_each(|i| set(&redis, &format!("u{i}#tab")));
    let chooser = Daemon::with(&["--redis", &redis.url(), "--hold", "watched", "--lease", "false"]).await;
    chooser.ready().await;
    let (_socket, users) = watch(&chooser, &["u7", "nobody"]).await;
    assert_eq!((&users[0]["state"], &users[0]["sessions"]), (&json!("online"), &json!(1)));
    assert_eq!(users[1]["state"], "offline");
    assert!(users.iter().all(|user| user["stale"].is_null()), "{users:?}");
    assert_eq!(chooser.get("/v1/stats").await["redis"]["lease"], "none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_holder_makes_the_snapshot_stale() {
    let redis = Redis::start();
    set(&redis, "alice#phone");
    let [holder, chooser] = pair(&redis).await;
    // The daemon takes the lease for held for a while, and nobody answers.
    signal(holder.pid(), "STOP");
    let (mut socket, users) = watch(&chooser, &["alice"]).await;
    assert_eq!(users, [json!({"state": "offline", "user": "alice", "last_seen_ms": null, "stale": true})]);
    let found = socket.transitions().await;
    assert_eq!((&found[0]["state"], &found[0]["reason"]), (&json!("online"), &json!("reconciled")));
    assert!(found[0]["since_ms"].is_null(), "{found:?}");
    signal(holder.pid(), "CONT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_whom_nobody_watches_is_forgotten() {
    let redis = Redis::start();
    set(&redis, "alice#phone");
    let [_holder, chooser] = pair(&redis).await;
    let kept = async || {
        let metrics = chooser.get("/metrics").await.as_str().expect("a text").to_owned();
        let line = metrics.lines().find(|line| line.starts_with("keybeat_sessions ")).expect("a gauge");
        line.rsplit(' ').next().expect("a number").to_owned()
    };
    let (socket, users) = watch(&chooser, &["alice"]).await;
    assert_eq!(users[0]["sessions"], 1);
    until("its session is counted", async || (kept().await == "1").then_some(())).await;
    drop(socket);
    until("nothing is kept", async || (kept().await == "0").then_some(())).await;
    let (_socket, users) = watch(&chooser, &["alice"]).await;
    assert_eq!(users[0], json!({"state": "online", "user": "alice", "since_ms": null, "sessions": 1}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_during_a_gap_is_answered_after_it() {
    let redis = Redis::start();
    ["alice#phone", "bob#tab"].iter().for_each(|key| set(&redis, key));
    let [_holder, chooser] = pair(&redis).await;
    let (mut socket, users) = watch(&chooser, &["bob"]).await;
    assert_eq!(users[0]["state"], "online");
    redis.call(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    socket.send(json!({"type": "watch", "users": ["alice"], "id": 2})).await;
    // The status of Redis may come before.
    while socket.next().await["type"] != "snapshot" {}
    assert_eq!(known(&chooser, "alice").await["sessions"], 1);
    chooser.ready().await;
    redis.call(&["DEL", "presence:bob#tab"]);
    until("bob is seen offline", async || {
        let changes = socket.transitions().await;
        changes.iter().any(|one| one["user"] == "bob" && one["state"] == "offline").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_for_all_users_are_not_held() {
    let redis = Redis::start();
    set(&redis, "alice#phone");
    let [_holder, chooser] = pair(&redis).await;
    for path in ["/v1/users", "/v1/users?state=offline", "/v1/events?all=true"] {
        let (status, body) = chooser.call("GET", path, None).await;
        assert_eq!((status, &body["error"]["code"]), (400, &json!("not_held")), "{path}: {body}");
    }
    let mut socket = chooser.socket("").await;
    socket.send(json!({"type": "watch", "all": true, "id": 3})).await;
    let error = socket.next().await;
    assert_eq!(
        (&error["type"], &error["code"], &error["id"]),
        (&json!("error"), &json!("not_held"), &json!(3))
    );
    let stats = chooser.get("/v1/stats").await;
    for count in ["users_online", "sessions", "keys_without_ttl"] {
        assert!(stats[count].is_null(), "{count}: {}", stats[count]);
    }
    assert!(stats["redis"]["servers"][0]["keys"].is_null());
    let body = json!({"users": ["alice", "bob", "c#d"]});
    let (status, answer) = chooser.call("POST", "/v1/users/query", Some(body)).await;
    assert_eq!(status, 200, "{answer}");
    let states: Vec<&Value> =
        answer["users"].as_array().expect("a list").iter().map(|one| &one["state"]).collect();
    assert_eq!(states, [&json!("online"), &json!("offline"), &Value::Null]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goodbye_ends_sessions_that_were_not_known() {
    let redis = Redis::start();
    ["alice#phone", "alice#tab", "alice"].iter().for_each(|key| set(&redis, key));
    let [holder, chooser] = pair(&redis).await;
    assert_eq!(chooser.call("DELETE", "/v1/users/alice", None).await.0, 204);
    assert_eq!(
        redis.call(&["EXISTS", "presence:alice", "presence:alice#phone", "presence:alice#tab"]).number(),
        0
    );
    holder.until_state("alice", "offline").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_stream_begins_with_known_states() {
    let redis = Redis::start();
    set(&redis, "alice#phone");
    let [_holder, chooser] = pair(&redis).await;
    let mut answer = reqwest::get(chooser.url("/v1/events?users=alice")).await.expect("a stream");
    let mut text = String::new();
    while !text.contains("snapshot") {
        let chunk = answer.chunk().await.expect("no error").expect("the stream goes on");
        text += &String::from_utf8_lossy(&chunk);
    }
    assert!(text.contains(r#"{"state":"online","user":"alice","since_ms":null,"sessions":1}"#), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_on_all_primaries_of_a_cluster_are_found() {
    let cluster = Cluster::start(3, 0).await;
    let url = cluster.url();
    let holder = Daemon::with(&["--redis", &url]).await;
    let chooser = chooser(&url).await;
    for session in ["a", "b", "c", "d", "e", "f"] {
        let path = format!("/v1/users/alice/heartbeat?session={session}&ttl_ms=60000");
        assert_eq!(holder.call("PUT", &path, None).await.0, 204);
    }
    assert_eq!(known(&chooser, "alice").await["sessions"], 6);
    let (mut socket, users) = watch(&chooser, &["alice", "bob"]).await;
    assert_eq!((&users[0]["sessions"], &users[1]["state"]), (&json!(6), &json!("offline")));
    assert_eq!(holder.call("DELETE", "/v1/users/alice", None).await.0, 204);
    let gone = socket.transitions().await;
    assert_eq!((&gone[0]["user"], &gone[0]["state"]), (&json!("alice"), &json!("offline")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stand_in_names_sessions_to_others() {
    let redis = Redis::start();
    ["alice#phone", "alice#tab"].iter().for_each(|key| set(&redis, key));
    let stand_in = chooser(&redis.url()).await;
    stand_in.until_lease("held").await;
    let other = chooser(&redis.url()).await;
    other.until_lease("other").await;
    // The stand-in answers once it has found all keys.
    assert_eq!(known(&stand_in, "alice").await["sessions"], 2);
    let scans = || info(&redis, "commandstats").get("cmdstat_scan").cloned();
    let scans_before = scans();
    assert_eq!(known(&other, "alice").await["sessions"], 2);
    assert_eq!(scans(), scans_before, "the stand-in named the keys");
}
