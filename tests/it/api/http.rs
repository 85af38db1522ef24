//! HTTP: every request of the contract, and every way to get one wrong.

use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, Reply};
use crate::common::{PATIENCE, now_ms, until};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

async fn start() -> (Redis, Daemon) {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    (redis, daemon)
}

/// A name as it stands in a path or in a query.
pub fn in_path(name: &str) -> String {
    let encoded = name.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    encoded.collect()
}

/// Names that are allowed, and that something on the way may take for something else.
pub fn odd_names() -> Vec<String> {
    let mut names: Vec<String> = [
        "日本 語",
        "a b",
        " ",
        "\"quoted\"",
        "o'neil",
        "a/b",
        "/",
        "<b>bold</b>",
        "100%",
        "%41",
        "a+b",
        "a?b&c=d",
        "*",
        "a*",
        "[a]",
        "a\\b",
        "{user}",
        "😀",
        "null",
        "a:b",
        "e\u{301}",
        "é",
        "-n",
        "\u{200b}",
        "heartbeat",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push("ü".repeat(128));
    names
}

async fn put(daemon: &Daemon, user: &str, body: Option<Value>) {
    let answer = daemon.call("PUT", &format!("/v1/users/{}/heartbeat", in_path(user)), body).await;
    assert_eq!(answer, (204, json!("")), "{user}");
}

fn left_ms(redis: &Redis, key: &str) -> i64 {
    redis.call(&["PTTL", key]).number()
}

/// The error of an answer: its code, where it has one and a message.
fn code(answer: &Value) -> Option<&str> {
    let error = answer["error"].as_object()?;
    assert_eq!(error.keys().collect::<Vec<_>>(), ["code", "message"], "{answer}");
    error["message"].as_str().filter(|message| message.len() > 10)?;
    error["code"].as_str()
}

/// The status, content type and text of a GET.
async fn fetch(daemon: &Daemon, path: &str) -> (u16, String, String) {
    let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
    let answer = http.get(daemon.url(path)).send().await.expect("the daemon answers");
    let kind = answer.headers()["content-type"].to_str().expect("text").to_owned();
    (answer.status().as_u16(), kind, answer.text().await.expect("a body"))
}

#[tokio::test]
async fn put_sets_the_key_with_default_ttl() {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--ttl", "7s"]).await;
    let before = now_ms();
    put(&daemon, "alice", None).await;
    assert_eq!(redis.presence_keys(), ["presence:alice"]);
    assert!((1..=7_000).contains(&left_ms(&redis, "presence:alice")));
    let alice = daemon.until_state("alice", "online").await;
    let since = alice["since_ms"].as_u64().expect("a time");
    assert!((before - 100..=now_ms() + 100).contains(&since), "{alice}, began at {before}");
    assert_eq!(alice, json!({"user": "alice", "state": "online", "since_ms": since, "sessions": 1}));
}

#[tokio::test]
async fn put_body_names_session_and_ttl() {
    let (redis, daemon) = start().await;
    put(&daemon, "alice", Some(json!({"session": "phone", "ttl_ms": 60_000}))).await;
    put(&daemon, "bob", Some(json!({"session": "phone"}))).await;
    put(&daemon, "carol", Some(json!({"ttl_ms": 5_000}))).await;
    put(&daemon, "dave", Some(json!({}))).await;
    let keys = ["presence:alice#phone", "presence:bob#phone", "presence:carol", "presence:dave"];
    assert_eq!(redis.presence_keys(), keys);
    let ttl_s = keys.map(|key| (left_ms(&redis, key) + 999) / 1000);
    assert_eq!(ttl_s, [60, 30, 5, 30], "and the daemon's own is 30 s by default");
}

#[tokio::test]
async fn put_of_an_online_user_causes_no_transition() {
    let (redis, daemon) = start().await;
    put(&daemon, "alice", Some(json!({"ttl_ms": 5_000}))).await;
    daemon.until_state("alice", "online").await;
    put(&daemon, "alice", Some(json!({"ttl_ms": 60_000}))).await;
    assert!(left_ms(&redis, "presence:alice") > 5_000);
    put(&daemon, "bob", None).await;
    daemon.until_state("bob", "online").await;
    assert_eq!(daemon.get("/v1/stats").await["seq"], 2);
}

#[tokio::test]
async fn post_sets_keys_of_names_and_sessions() {
    let (redis, daemon) = start().await;
    let users = json!(["alice", {"user": "bob", "session": "tab1"}, {"user": "carol"}, {"user": "bob", "session": "tab2"}]);
    let answer = daemon.call("POST", "/v1/heartbeats", Some(json!({"users": users}))).await;
    assert_eq!(answer, (204, json!("")));
    let keys = ["presence:alice", "presence:bob#tab1", "presence:bob#tab2", "presence:carol"];
    assert_eq!(redis.presence_keys(), keys);
    for key in keys {
        assert!((1..=30_000).contains(&left_ms(&redis, key)), "{key}");
    }
    let bob = until("both sessions of bob", async || {
        Some(daemon.get("/v1/users/bob").await).filter(|bob| bob["sessions"] == 2)
    });
    assert_eq!(bob.await["state"], "online");
    assert_eq!(daemon.call("POST", "/v1/heartbeats", Some(json!({"users": []}))).await, (204, json!("")));
}

#[tokio::test]
async fn ten_thousand_long_names_fit_one_request() {
    let (redis, daemon) = start().await;
    let users: Vec<String> = (0..10_000).map(|i| format!("{i:0>256}")).collect();
    let sessions: Vec<_> =
        users.iter().map(|user| json!({"user": user, "session": "s".repeat(64)})).collect();
    let answer = daemon.call("POST", "/v1/heartbeats", Some(json!({"users": sessions}))).await;
    assert_eq!(answer, (204, json!("")));
    assert_eq!(redis.presence_keys().len(), 10_000);
    until("all are online", async || (daemon.get("/v1/stats").await["users_online"] == 10_000).then_some(()))
        .await;
    let (status, answer) = daemon.call("POST", "/v1/users/query", Some(json!({"users": users}))).await;
    assert_eq!(status, 200, "{}", answer["error"]);
    let told = answer["users"].as_array().expect("a list");
    assert!(told.iter().zip(&users).all(|(told, user)| told["user"] == **user && told["state"] == "online"));
    assert_eq!(told.len(), 10_000);
}

#[tokio::test]
async fn delete_ends_all_sessions_of_a_user() {
    let (redis, daemon) = start().await;
    for round in 0..100 {
        put(&daemon, "alice", None).await;
        redis.call(&["SET", "presence:alice#elsewhere", "1", "EX", "60"]);
        put(&daemon, "alice", Some(json!({"session": format!("s{round}")}))).await;
        assert_eq!(daemon.call("DELETE", "/v1/users/alice", None).await, (204, json!("")));
        assert_eq!(redis.presence_keys(), [""; 0], "round {round}");
    }
    daemon.until_state("alice", "offline").await;
}

#[tokio::test]
async fn delete_of_one_session_leaves_others() {
    let (redis, daemon) = start().await;
    put(&daemon, "alice", None).await;
    for session in ["phone", "tab 1"] {
        put(&daemon, "alice", Some(json!({"session": session}))).await;
    }
    assert_eq!(daemon.call("DELETE", "/v1/users/alice?session=tab%201", None).await, (204, json!("")));
    assert_eq!(redis.presence_keys(), ["presence:alice", "presence:alice#phone"]);
    assert_eq!(daemon.call("DELETE", "/v1/users/nobody", None).await, (204, json!("")));
    assert_eq!(daemon.call("DELETE", "/v1/users/alice?session=none", None).await, (204, json!("")));
    assert_eq!(redis.presence_keys(), ["presence:alice", "presence:alice#phone"]);
}

#[tokio::test]
async fn bad_names_do_not_block_good_heartbeats() {
    let (redis, daemon) = start().await;
    let users = json!(["zoe", "c#d", {"user": "bob", "session": "s#1"}, {"user": "al", "ttl_ms": 1}, {"user": "eve", "session": "s"}]);
    let (status, answer) = daemon.call("POST", "/v1/heartbeats", Some(json!({"users": users}))).await;
    assert_eq!(status, 200, "{answer}");
    let refused = answer["refused"].as_array().expect("a list");
    let gist = |one: &Value| (one["index"].clone(), one["user"].clone(), one["code"].clone());
    let expected = [(1, "c#d", "invalid_user"), (2, "bob", "invalid_session"), (3, "al", "invalid_ttl")];
    assert_eq!(
        refused.iter().map(gist).collect::<Vec<_>>(),
        expected.map(|(index, user, code)| (json!(index), json!(user), json!(code)))
    );
    assert!(refused.iter().all(|one| one["message"].as_str().is_some_and(|message| message.len() > 10)));
    assert_eq!(redis.presence_keys(), ["presence:eve#s", "presence:zoe"]);
    assert_eq!(daemon.call("POST", "/v1/heartbeats", Some(json!({"users": []}))).await.0, 204);
}

#[tokio::test]
async fn bad_names_do_not_block_a_query() {
    let (_redis, daemon) = start().await;
    put(&daemon, "bob", None).await;
    daemon.until_state("bob", "online").await;
    let (status, answer) =
        daemon.call("POST", "/v1/users/query", Some(json!({"users": ["c#d", "bob", ""]}))).await;
    assert_eq!(status, 200, "{answer}");
    let users = answer["users"].as_array().expect("a list");
    assert_eq!((&users[0]["user"], &users[0]["error"]["code"]), (&json!("c#d"), &json!("invalid_user")));
    assert_eq!(users[1], daemon.get("/v1/users/bob").await);
    assert_eq!((users.len(), &users[2]["error"]["code"]), (3, &json!("invalid_user")));
}

#[tokio::test]
async fn session_and_ttl_work_in_body_and_query() {
    let (redis, daemon) = start().await;
    let beat = "/v1/users/alice/heartbeat";
    for (query, body) in [
        ("?session=phone&ttl_ms=50000", None),
        ("?session=phone", Some(json!({"ttl_ms": 50_000}))),
        ("?session=phone&ttl_ms=50000", Some(json!({"session": "phone", "ttl_ms": 50_000}))),
    ] {
        assert_eq!(daemon.call("PUT", &format!("{beat}{query}"), body).await, (204, json!("")), "{query}");
        assert_eq!(redis.presence_keys(), ["presence:alice#phone"], "{query}");
        let left = left_ms(&redis, "presence:alice#phone");
        assert!((40_000..=50_000).contains(&left), "{query}: {left}");
        put(&daemon, "alice", Some(json!({"session": "web"}))).await;
        let body = Some(json!({"session": "phone"}));
        assert_eq!(daemon.call("DELETE", "/v1/users/alice", body).await, (204, json!("")));
        assert_eq!(redis.presence_keys(), ["presence:alice#web"], "only the named session ends");
        let body = Some(json!({"session": "web"}));
        assert_eq!(daemon.call("DELETE", "/v1/users/alice?session=web", body).await, (204, json!("")));
        assert_eq!(redis.presence_keys(), [""; 0]);
    }
}

#[tokio::test]
async fn unknown_parameters_and_fields_are_named() {
    let (redis, daemon) = start().await;
    redis.call(&["SET", "presence:kept", "1", "EX", "60"]);
    let (beat, user, query, many) =
        ("/v1/users/a/heartbeat", "/v1/users/kept", "/v1/users/query", "/v1/heartbeats");
    for (method, path, body, named) in [
        ("DELETE", format!("{user}?sesion=phone"), "", "sesion"),
        ("DELETE", format!("{user}?ttl_ms=1000"), "", "ttl_ms"),
        ("DELETE", format!("{user}?token=x"), "", "token"),
        ("DELETE", user.into(), r#"{"sessionId":"phone"}"#, "sessionId"),
        ("DELETE", format!("{user}?session=a"), r#"{"session":"b"}"#, "session"),
        ("DELETE", format!("{query}?sesion=phone"), "", "sesion"),
        ("DELETE", user.into(), r#"{"session":null}"#, "session is null"),
        ("DELETE", format!("{user}?session=phone"), r#"{"session":null}"#, "session is null"),
        ("DELETE", query.into(), r#"{"session":null}"#, "session is null"),
        ("DELETE", "/v1/sockets?user=alice".into(), r#"{"session":"phone"}"#, "session"),
        ("DELETE", "/v1/users/alice/status".into(), r#"{"session":"phone"}"#, "session"),
        ("PUT", format!("{beat}?session=phone&ttl=1000"), "", "ttl"),
        ("PUT", format!("{beat}?ttl_ms=1000"), r#"{"ttl_ms":2000}"#, "ttl_ms"),
        ("PUT", format!("{beat}?session=a"), r#"{"session":"b"}"#, "session"),
        ("PUT", beat.into(), r#"{"ttl":30}"#, "ttl"),
        ("POST", many.into(), r#"{"users":["a"],"ttl_ms":1000}"#, "ttl_ms"),
        ("POST", many.into(), r#"{"users":["a",{"user":"b","ttl":30}]}"#, "ttl"),
        ("POST", format!("{many}?session=x"), r#"{"users":["a"]}"#, "session"),
        ("POST", query.into(), r#"{"users":["a"],"since":1}"#, "since"),
        ("POST", format!("{query}?limit=1"), r#"{"users":["a"]}"#, "limit"),
        ("GET", format!("{user}?state=online"), "", "state"),
        ("GET", "/v1/users?sort=age".into(), "", "sort"),
        ("GET", "/v1/stats?since=1".into(), "", "since"),
        ("GET", "/v1/events?user=alice".into(), "", "user"),
        ("GET", "/v1/events?users=alice&lossless=true".into(), "", "lossless"),
        ("GET", "/v1/ws?usr=alice".into(), "", "usr"),
    ] {
        let body = Some(body.to_owned()).filter(|body| !body.is_empty());
        let (status, answer) = daemon.send(method, &path, body).await;
        assert_eq!((status, code(&answer)), (400, Some("invalid_request")), "{method} {path}: {answer}");
        let message = answer["error"]["message"].as_str().expect("a message");
        assert!(message.contains(named), "{method} {path}: {message}");
    }
    assert_eq!(redis.presence_keys(), ["presence:kept"], "nothing was written or deleted");
    for path in
        ["/v1/users/kept?token=x", "/v1/users?token=x", "/v1/stats?token=x", "/healthz?a=b", "/?daemon=x"]
    {
        assert_eq!(daemon.send("GET", path, None).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn list_with_prefix_has_only_such_names() {
    let (redis, daemon) = start().await;
    crate::common::redis::fill(&redis, "presence:team-", 300);
    crate::common::redis::fill(&redis, "presence:other-", 300);
    until("all are online", async || (daemon.get("/v1/stats").await["users_online"] == 600).then_some(()))
        .await;
    for limit in [1_000, 7] {
        let users = pages(&daemon, "&prefix=team-", limit).await;
        assert!(users.iter().all(|user| user["user"].as_str().expect("a name").starts_with("team-")));
        assert_eq!(users.len(), 300);
    }
    assert_eq!(pages(&daemon, "&prefix=team-299", 10).await.len(), 1);
    assert_eq!(pages(&daemon, "&prefix=Team", 10).await.len(), 0);
    assert_eq!(pages(&daemon, "&prefix=", 1_000).await.len(), 600);
    let (status, answer) = daemon.call("GET", "/v1/users?prefix=a%23b", None).await;
    assert_eq!((status, code(&answer)), (400, Some("invalid_request")));
}

#[tokio::test]
async fn user_is_online_offline_or_never_seen() {
    let (_redis, daemon) = start().await;
    let before = now_ms();
    put(&daemon, "bob", None).await;
    daemon.until_state("bob", "online").await;
    daemon.call("DELETE", "/v1/users/bob", None).await;
    let bob = daemon.until_state("bob", "offline").await;
    let last_seen = bob["last_seen_ms"].as_u64().expect("a time");
    assert!((before - 100..=now_ms() + 100).contains(&last_seen), "{bob}, began at {before}");
    assert_eq!(bob, json!({"user": "bob", "state": "offline", "last_seen_ms": last_seen}));
    let never = json!({"user": "carol", "state": "offline", "last_seen_ms": null});
    assert_eq!(daemon.get("/v1/users/carol").await, never);
}

#[tokio::test]
async fn query_answers_in_the_order_asked() {
    let (_redis, daemon) = start().await;
    put(&daemon, "bob", None).await;
    daemon.until_state("bob", "online").await;
    let asked = ["zoe", "bob", "adam", "bob"];
    let (status, answer) = daemon.call("POST", "/v1/users/query", Some(json!({"users": asked}))).await;
    assert_eq!(status, 200, "{answer}");
    let told = answer["users"].as_array().expect("a list");
    assert_eq!(told.iter().map(|user| user["user"].as_str().expect("a name")).collect::<Vec<_>>(), asked);
    assert_eq!(told[1], daemon.get("/v1/users/bob").await);
    assert_eq!((&told[0]["state"], &told[0]["last_seen_ms"]), (&json!("offline"), &Value::Null));
    let stats = daemon.get("/v1/stats").await;
    assert_eq!((&answer["seq"], &answer["epoch"]), (&json!(1), &stats["epoch"]));
    let (status, answer) = daemon.call("POST", "/v1/users/query", Some(json!({"users": []}))).await;
    assert_eq!((status, &answer["users"]), (200, &json!([])));
}

/// All pages of a list, each but the last of `limit` users.
async fn pages(daemon: &Daemon, query: &str, limit: usize) -> Vec<Value> {
    let (mut users, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = daemon.get(&format!("/v1/users?limit={limit}{query}{cursor}")).await;
        let some = page["users"].as_array().expect("a list").clone();
        users.extend(some.iter().cloned());
        assert!(page.get("next_cursor").is_some(), "null after the last page, but there");
        let Some(next) = page["next_cursor"].as_str() else {
            assert!(some.len() <= limit);
            return users;
        };
        assert_eq!(some.len(), limit);
        cursor = format!("&cursor={}", in_path(next));
    }
}

#[tokio::test]
async fn pages_of_the_list_give_each_user_once() {
    let (redis, daemon) = start().await;
    crate::common::redis::fill(&redis, "presence:u", 1_234);
    until("all are online", async || (daemon.get("/v1/stats").await["users_online"] == 1_234).then_some(()))
        .await;
    redis.call(&["DEL", "presence:u7"]);
    daemon.until_state("u7", "offline").await;
    for limit in [1_000, 7] {
        let users = pages(&daemon, "&state=online", limit).await;
        assert!(users.iter().all(|user| user["state"] == "online" && user["since_ms"].is_u64()));
        let names: HashSet<_> = users.iter().map(|user| user["user"].as_str().expect("a name")).collect();
        assert_eq!((users.len(), names.len(), names.contains("u7")), (1_233, 1_233, false));
    }
    let page = daemon.get("/v1/users").await;
    let default = page["users"].as_array().expect("a list");
    assert_eq!(default.len(), 1_000, "the default limit, and by default those online");
    assert!(page["next_cursor"].is_string());
}

#[tokio::test]
async fn empty_page_is_the_last() {
    let (_redis, daemon) = start().await;
    assert_eq!(daemon.get("/v1/users?state=online").await, json!({"users": [], "next_cursor": null}));
    assert_eq!(daemon.get("/v1/users?cursor=").await, json!({"users": [], "next_cursor": null}));
}

#[tokio::test]
async fn stats_count_users_sessions_and_watchers() {
    let (redis, daemon) = start().await;
    put(&daemon, "alice", None).await;
    put(&daemon, "alice", Some(json!({"session": "tab"}))).await;
    put(&daemon, "bob", Some(json!({"ttl_ms": 200}))).await;
    let (_watcher, _) = daemon.watch_all().await;
    let _idle = daemon.socket("").await;
    let stats = until("bob was seen to expire", async || {
        Some(daemon.get("/v1/stats").await)
            .filter(|stats| stats["transitions"]["offline"] == 1 && stats["probes"] != 0)
    })
    .await;
    let counts =
        ["users_online", "sessions", "watchers", "sockets", "heartbeats"].map(|name| stats[name].as_u64());
    assert_eq!(counts, [1, 2, 1, 2, 3].map(Some), "{stats}");
    assert_eq!((&stats["transitions"]["online"], &stats["seq"]), (&json!(2), &json!(3)), "{stats}");
    assert!(stats["gaps"].is_object() || stats["gaps"].is_u64(), "{stats}");
    assert_eq!(stats["lag_ms"]["count"], 1, "{stats}");
    for percentile in ["p50", "p99", "max"] {
        assert!(stats["lag_ms"][percentile].is_number(), "{stats}");
    }
    assert_eq!(stats["lag_last_minute_ms"]["max"], stats["lag_ms"]["max"], "{stats}");
    assert_eq!(stats["redis"]["status"], "up", "{stats}");
    drop(redis);
}

#[tokio::test]
async fn readyz_names_the_cause_without_redis() {
    let (mut redis, daemon) = start().await;
    assert_eq!(fetch(&daemon, "/readyz").await.0, 200);
    redis.kill();
    until("the cause names the server", async || {
        let cause = daemon.not_ready().await;
        cause.contains(&redis.port.to_string()).then_some(())
    })
    .await;
    assert_eq!(fetch(&daemon, "/healthz").await.0, 200);
    assert_eq!(daemon.get("/v1/stats").await["redis"]["status"], "down");
    redis.run();
    daemon.ready().await;
    let (_, _, text) = fetch(&daemon, "/metrics").await;
    assert!(text.contains("\nkeybeat_gaps_total{cause=\"connection\"} 1\n"), "{text}");
}

/// Every write there is, while Redis is away: each has to be refused. How long each took.
async fn refused_writes(daemon: &Daemon) -> Vec<(&'static str, Duration)> {
    let mut took = Vec::new();
    for (method, path, body) in [
        ("PUT", "/v1/users/alice/heartbeat", None),
        ("POST", "/v1/heartbeats", Some(json!({"users": ["alice"]}))),
        ("DELETE", "/v1/users/alice", None),
        ("DELETE", "/v1/users/alice?session=phone", None),
    ] {
        let began = Instant::now();
        let (status, answer) = daemon.call(method, path, body).await;
        took.push((method, began.elapsed()));
        assert_eq!((status, code(&answer)), (503, Some("redis_unavailable")), "{method} {path}: {answer}");
    }
    took
}

#[tokio::test]
async fn refused_write_is_not_repeated_later() {
    let (mut redis, daemon) = start().await;
    redis.kill();
    daemon.not_ready().await;
    refused_writes(&daemon).await;
    redis.run();
    daemon.ready().await;
    until("writes work again", async || {
        (daemon.call("PUT", "/v1/users/bob/heartbeat", None).await.0 == 204).then_some(())
    })
    .await;
    daemon.until_state("bob", "online").await;
    assert_eq!(redis.presence_keys(), ["presence:bob"], "what was refused was not written");
}

#[tokio::test]
async fn write_without_redis_is_refused_within_3_s() {
    let (mut redis, daemon) = start().await;
    redis.kill();
    daemon.not_ready().await;
    let took = refused_writes(&daemon).await;
    assert!(took.iter().all(|(_, took)| *took < Duration::from_secs(3)), "{took:?}");
}

#[tokio::test]
async fn write_to_a_hanging_redis_is_a_503() {
    let (redis, daemon) = start().await;
    redis.signal("STOP");
    let took = refused_writes(&daemon).await;
    redis.signal("CONT");
    assert!(took.iter().all(|(_, took)| *took < Duration::from_secs(3)), "{took:?}");
}

#[tokio::test]
async fn metrics_have_their_names() {
    let (_redis, daemon) = start().await;
    put(&daemon, "alice", None).await;
    put(&daemon, "bob", Some(json!({"ttl_ms": 200}))).await;
    daemon.call("GET", "/v1/users/a%23b", None).await;
    until("bob has expired", async || (daemon.get("/v1/stats").await["lag_ms"]["count"] == 1).then_some(()))
        .await;
    // The gauges follow within the second.
    let text = until("one user is online", async || {
        let (status, kind, text) = fetch(&daemon, "/metrics").await;
        assert!(status == 200 && kind.starts_with("application/openmetrics-text"), "{status} {kind}");
        text.contains("\nkeybeat_users_online 1\n").then_some(text)
    })
    .await;
    for name in [
        "transitions_total{to=\"online\"} 2",
        "transitions_total{to=\"offline\"} 1",
        "sessions 1",
        "sockets 0",
        "watchers 0",
        "ready 1",
        "keys_without_ttl 0",
        "heartbeats_total 2",
        "events_total ",
        "probes_total ",
        "lookups_total ",
        "overtaken_answers_total ",
        "invalid_keys_total 0",
        "conflated_changes_total 0",
        "too_slow_sockets_total 0",
        "request_errors_total{cause=\"invalid_user\"} 1",
        "detection_lag_seconds_bucket{",
        "detection_lag_seconds_count 1",
        "event_lag_seconds_bucket{",
    ] {
        assert!(text.contains(&format!("\nkeybeat_{name}")), "keybeat_{name} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test]
async fn root_is_the_console() {
    let (_redis, daemon) = start().await;
    let (status, kind, text) = fetch(&daemon, "/").await;
    assert!(status == 200 && kind.starts_with("text/html"), "{status} {kind}");
    assert!(text.trim_start().to_lowercase().starts_with("<!doctype html>"), "{text}");
}

/// A request that must be refused, and how.
struct Bad {
    method: &'static str,
    path: String,
    body: Option<String>,
    status: u16,
    code: &'static str,
}

fn bad(method: &'static str, path: &str, body: &str, status: u16, code: &'static str) -> Bad {
    let body = Some(body.to_owned()).filter(|body| !body.is_empty());
    Bad { method, path: path.to_owned(), body, status, code }
}

/// Sends each; after each the daemon goes on, and after all nothing was written.
async fn all_are_refused(table: Vec<Bad>) {
    let (redis, daemon) = start().await;
    let mut wrong = Vec::new();
    for Bad { method, path, body, status, code: expected } in table {
        let shown: String = body.as_deref().unwrap_or("").chars().take(60).collect();
        let (got, answer) = daemon.send(method, &path, body).await;
        if (got, code(&answer)) != (status, Some(expected)) {
            wrong.push(format!(
                "{method} {path:.60} {shown}: {status} {expected} expected, got {got} {answer}"
            ));
        }
        assert_eq!(daemon.send("GET", "/healthz", None).await.0, 200, "after {method} {path} {shown}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(redis.presence_keys(), [""; 0], "nothing was written");
    put(&daemon, "alice", None).await;
    daemon.until_state("alice", "online").await;
}

#[tokio::test]
async fn body_that_is_not_json_is_refused() {
    let nested = format!("{{\"x\":{}", "[".repeat(10_000));
    let mut table = Vec::new();
    for (method, path) in
        [("PUT", "/v1/users/alice/heartbeat"), ("POST", "/v1/heartbeats"), ("POST", "/v1/users/query")]
    {
        for body in [
            "{",
            "nonsense",
            r#"{"users":["alice"]} x"#,
            "{\"users\":[\"a\nb\"]}",
            "{'users':[]}",
            " ",
            "\0",
            &nested,
        ] {
            table.push(bad(method, path, body, 400, "invalid_json"));
        }
    }
    table.push(bad("POST", "/v1/heartbeats", "", 400, "invalid_json"));
    table.push(bad("POST", "/v1/users/query", "", 400, "invalid_json"));
    all_are_refused(table).await;
}

#[tokio::test]
async fn body_of_wrong_shape_is_refused() {
    let mut table = Vec::new();
    for body in [
        "null",
        "5",
        "\"x\"",
        "true",
        "[]",
        r#"{"session":5}"#,
        r#"{"session":["a"]}"#,
        r#"{"session":"a","session":"b"}"#,
    ] {
        table.push(bad("PUT", "/v1/users/alice/heartbeat", body, 400, "invalid_request"));
    }
    for path in ["/v1/heartbeats", "/v1/users/query"] {
        for body in [
            "null",
            "{}",
            "[]",
            r#""alice""#,
            r#"["alice"]"#,
            r#"{"users":"alice"}"#,
            r#"{"users":null}"#,
            r#"{"users":{}}"#,
            r#"{"users":[5]}"#,
            r#"{"users":["alice",null]}"#,
            r#"{"users":[["alice"]]}"#,
            r#"{"users":[{"session":"x"}]}"#,
            r#"{"users":[{"user":5}]}"#,
            r#"{"user":["alice"]}"#,
        ] {
            table.push(bad("POST", path, body, 400, "invalid_request"));
        }
    }
    all_are_refused(table).await;
}

#[tokio::test]
async fn list_as_a_body_is_refused() {
    all_are_refused(vec![
        bad("PUT", "/v1/users/alice/heartbeat", r#"["phone",30000]"#, 400, "invalid_request"),
        bad("POST", "/v1/heartbeats", r#"[["alice"]]"#, 400, "invalid_request"),
        bad("POST", "/v1/heartbeats", r#"{"users":[["alice","phone"]]}"#, 400, "invalid_request"),
        bad("POST", "/v1/users/query", r#"[["alice"]]"#, 400, "invalid_request"),
    ])
    .await;
}

#[tokio::test]
async fn ttl_out_of_bounds_is_refused() {
    let path = "/v1/users/alice/heartbeat";
    let ttl = |ttl: &str, code| bad("PUT", path, &format!(r#"{{"ttl_ms":{ttl}}}"#), 400, code);
    let mut table: Vec<Bad> = ["0", "99", "86400001", "9007199254740993", "18446744073709551615"]
        .map(|value| ttl(value, "invalid_ttl"))
        .into();
    table.extend(
        ["-1", "1.5", "1e400", "\"30000\"", "true", "[1000]"]
            .map(|value| ttl(value, if value == "1e400" { "invalid_json" } else { "invalid_request" })),
    );
    all_are_refused(table).await;
}

#[tokio::test]
async fn invalid_user_is_refused_in_every_call() {
    let long = "x".repeat(257);
    let (umlauts, most) = ("ü".repeat(129), "x".repeat(256) + "#");
    let mut table = Vec::new();
    for name in ["", "a#b", "#", "a\nb", "\0", "\u{1b}[31m", "\u{7f}", "\u{85}", &long, &umlauts, &most] {
        let (coded, list) = (in_path(name), json!({"users": [name]}).to_string());
        let item = json!({"users": [{"user": name, "session": "s"}]}).to_string();
        table.extend([
            bad("PUT", &format!("/v1/users/{coded}/heartbeat"), "", 400, "invalid_user"),
            bad("GET", &format!("/v1/users/{coded}"), "", 400, "invalid_user"),
            bad("DELETE", &format!("/v1/users/{coded}"), "", 400, "invalid_user"),
            bad("POST", "/v1/heartbeats", &list, 400, "invalid_user"),
            bad("POST", "/v1/heartbeats", &item, 400, "invalid_user"),
        ]);
    }
    all_are_refused(table).await;
}

#[tokio::test]
async fn invalid_session_is_refused_in_every_call() {
    let long = "x".repeat(65);
    let mut table = Vec::new();
    for name in ["", "a#b", "a\tb", "\u{9f}", &long, &"ü".repeat(33)] {
        let item = json!({"users": [{"user": "alice", "session": name}]}).to_string();
        let body = json!({"session": name}).to_string();
        table.extend([
            bad("DELETE", "/v1/users/alice", &body, 400, "invalid_session"),
            bad("PUT", "/v1/users/alice/heartbeat", &body, 400, "invalid_session"),
            bad("POST", "/v1/heartbeats", &item, 400, "invalid_session"),
            bad("DELETE", &format!("/v1/users/alice?session={}", in_path(name)), "", 400, "invalid_session"),
        ]);
    }
    table.push(bad("DELETE", "/v1/users/alice?session=a&session=b", "", 400, "invalid_request"));
    all_are_refused(table).await;
}

#[tokio::test]
async fn path_that_is_not_utf8_is_refused() {
    all_are_refused(vec![
        bad("GET", "/v1/users/%ff", "", 400, "invalid_request"),
        bad("PUT", "/v1/users/a%c3/heartbeat", "", 400, "invalid_request"),
        bad("DELETE", "/v1/users/%ed%a0%80", "", 400, "invalid_request"),
    ])
    .await;
}

#[tokio::test]
async fn query_that_is_not_utf8_is_refused() {
    all_are_refused(vec![bad("DELETE", "/v1/users/alice?session=%ff", "", 400, "invalid_request")]).await;
}

#[tokio::test]
async fn request_over_ten_thousand_users_is_refused() {
    let users: Vec<String> = (0..10_001).map(|i| format!("u{i}")).collect();
    let body = json!({"users": users}).to_string();
    all_are_refused(vec![
        bad("POST", "/v1/heartbeats", &body, 400, "too_many_users"),
        bad("POST", "/v1/users/query", &body, 400, "too_many_users"),
    ])
    .await;
}

/// One request on a connection of its own, and the whole answer.
async fn alone(daemon: &Daemon, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("the daemon listens");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // The answer may come before the end of the body.
    if let Err(why) = stream.write_all((head + body).as_bytes()).await {
        eprintln!("{method} {path}: not all was sent: {why}");
    }
    let mut answer = Vec::new();
    if let Err(why) = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer") {
        eprintln!("{method} {path}: not all was read: {why}");
    }
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn body_of_5_mib_is_a_413() {
    let (_redis, daemon) = start().await;
    let body = json!({"users": ["x".repeat(5 << 20)]}).to_string();
    for _ in 0..5 {
        for (method, path) in
            [("PUT", "/v1/users/alice/heartbeat"), ("POST", "/v1/heartbeats"), ("POST", "/v1/users/query")]
        {
            let answer = alone(&daemon, method, path, &body).await;
            assert!(answer.starts_with("HTTP/1.1 413 "), "{method} {path}: {answer}");
            let (_, error) = answer.split_once("\r\n\r\n").expect("a body");
            let error: Value = serde_json::from_str(error).expect("JSON");
            assert_eq!(code(&error), Some("too_large"), "{method} {path}: {answer}");
        }
    }
    put(&daemon, "alice", None).await;
}

#[tokio::test]
async fn client_continues_after_a_413() {
    let body = json!({"users": ["x".repeat(5 << 20)]}).to_string();
    all_are_refused((0..20).map(|_| bad("POST", "/v1/heartbeats", &body, 413, "too_large")).collect()).await;
}

#[tokio::test]
async fn unknown_path_is_a_404() {
    let paths = [
        "/nothing",
        "/v1",
        "/v2/users",
        "/v1/users/alice/nothing",
        "/v1/users/alice/heartbeat/x",
        "/v1/users/alice/",
        "/healthz/",
        "/v1/%ff",
        "//",
    ];
    all_are_refused(paths.map(|path| bad("GET", path, "", 404, "not_found")).into()).await;
}

#[tokio::test]
async fn unsupported_method_is_a_405() {
    let requests = [
        ("POST", "/v1/users/alice"),
        ("PUT", "/v1/users/alice"),
        ("GET", "/v1/users/alice/heartbeat"),
        ("DELETE", "/v1/heartbeats"),
        ("GET", "/v1/heartbeats"),
        ("PUT", "/v1/users/query"),
        ("POST", "/v1/users"),
        ("POST", "/v1/stats"),
        ("PUT", "/healthz"),
        ("DELETE", "/readyz"),
        ("POST", "/metrics"),
        ("POST", "/"),
        ("BREW", "/v1/users/alice"),
    ];
    let table = requests.map(|(method, path)| bad(method, path, "", 405, "method_not_allowed"));
    all_are_refused(table.into()).await;
}

#[tokio::test]
async fn bad_page_parameters_are_refused() {
    let queries = [
        "limit=0",
        "limit=-1",
        "limit=10001",
        "limit=many",
        "limit=",
        "limit=1.5",
        "limit=99999999999999999999",
        "limit=1&limit=2",
        "cursor=zzz",
        "cursor=1",
        "cursor=-",
        "cursor=64-0",
        "cursor=0-99999999999",
        "cursor=0--1",
        "cursor=%00",
        "cursor=%ff",
        "state=away",
        "state=",
        "state=Online",
        "state=online&state=offline",
    ];
    let table = queries.map(|query| bad("GET", &format!("/v1/users?{query}"), "", 400, "invalid_request"));
    all_are_refused(table.into()).await;
}

#[tokio::test]
async fn allowed_characters_work_end_to_end() {
    let (redis, daemon) = start().await;
    let names = odd_names();
    for name in &names {
        put(&daemon, name, None).await;
        let answer = daemon.call(
            "POST",
            "/v1/heartbeats",
            Some(json!({"users": [{"user": name, "session": "<i> 'é'/?"}]})),
        );
        assert_eq!(answer.await.0, 204, "{name}");
        assert_eq!(redis.call(&["EXISTS", &format!("presence:{name}")]), Reply::Number(1), "{name}");
    }
    assert_eq!(redis.presence_keys().len(), names.len() * 2);
    until("all are online", async || {
        (daemon.get("/v1/stats").await["sessions"] == names.len() * 2).then_some(())
    })
    .await;
    let (_, answer) = daemon.call("POST", "/v1/users/query", Some(json!({"users": names}))).await;
    for (name, told) in names.iter().zip(answer["users"].as_array().expect("a list")) {
        assert_eq!((told["user"].as_str(), &told["sessions"]), (Some(&**name), &json!(2)), "{told}");
        assert_eq!(daemon.get(&format!("/v1/users/{}", in_path(name))).await, *told);
        let path = format!("/v1/users/{}?session={}", in_path(name), in_path("<i> 'é'/?"));
        assert_eq!(daemon.call("DELETE", &path, None).await.0, 204, "{name}");
        assert_eq!(
            redis.call(&["EXISTS", &format!("presence:{name}#<i> 'é'/?")]),
            Reply::Number(0),
            "{name}"
        );
        assert_eq!(
            daemon.call("DELETE", &format!("/v1/users/{}", in_path(name)), None).await.0,
            204,
            "{name}"
        );
    }
    assert_eq!(redis.presence_keys(), [""; 0]);
}

#[tokio::test]
async fn user_called_query_is_a_user() {
    let (redis, daemon) = start().await;
    put(&daemon, "query", None).await;
    assert_eq!(redis.presence_keys(), ["presence:query"]);
    let (_, answer) = daemon.call("POST", "/v1/users/query", Some(json!({"users": ["query"]}))).await;
    assert_eq!(answer["users"][0]["user"], "query");
    let (status, user) = daemon.call("GET", "/v1/users/query", None).await;
    assert_eq!((status, &user["user"]), (200, &json!("query")), "{user}");
    assert_eq!(daemon.call("DELETE", "/v1/users/query", None).await.0, 204);
    assert_eq!(redis.presence_keys(), [""; 0]);
}

#[tokio::test]
async fn write_to_a_hanging_redis_may_still_be_done() {
    let (redis, daemon) = start().await;
    put(&daemon, "bob", None).await;
    redis.signal("STOP");
    let (status, answer) = daemon.call("PUT", "/v1/users/alice/heartbeat", None).await;
    redis.signal("CONT");
    assert_eq!((status, code(&answer)), (503, Some("redis_unavailable")), "{answer}");
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(!message.contains("nothing was written") && message.contains("may still be done"), "{message}");
    // Redis reads the command when it runs again.
    until("the key is there", async || {
        redis.presence_keys().contains(&"presence:alice".to_owned()).then_some(())
    })
    .await;
}

/// Each request is refused with `invalid_request` or `invalid_json`, and its message has the words and none of those
/// that only a developer of keybeat knows.
async fn all_are_explained(table: &[(&str, &str, &str, &[&str])]) {
    let (redis, daemon) = start().await;
    let mut wrong = Vec::new();
    for (method, path, body, words) in table {
        let (status, answer) = daemon.send(method, path, Some((*body).to_owned())).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        let internal = [
            "struct",
            "sequence",
            "invalid type",
            "digit found",
            "deserialize",
            "borrowed",
            "Body",
            "expected a map",
        ];
        let is_plain = !internal.iter().any(|word| message.contains(word));
        if status != 400 || !is_plain || !words.iter().all(|word| message.contains(word)) {
            wrong.push(format!("{method} {path} {body:.60}: {status} {message}, expected {words:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(redis.presence_keys(), [""; 0], "nothing was written");
}

#[tokio::test]
async fn duplicate_fields_and_parameters_are_named() {
    let (beat, many, query) = ("/v1/users/alice/heartbeat", "/v1/heartbeats", "/v1/users/query");
    all_are_explained(&[
        ("PUT", beat, r#"{"session":"a","session":"b"}"#, &["session", "twice"]),
        ("PUT", beat, r#"{"ttl_ms":1000,"ttl_ms":1000}"#, &["ttl_ms", "twice"]),
        ("DELETE", "/v1/users/alice", r#"{"session":"a","session":"a"}"#, &["session", "twice"]),
        ("POST", many, r#"{"users":["a"],"users":["b"]}"#, &["users", "twice"]),
        ("POST", many, r#"{"users":[{"user":"a","user":"b"}]}"#, &["\"user\"", "twice"]),
        ("POST", many, r#"{"users":["c",{"user":"a","session":"x","session":"y"}]}"#, &["session", "twice"]),
        ("POST", query, r#"{"users":["a"],"users":["b"]}"#, &["users", "twice"]),
        ("PUT", &format!("{beat}?session=a&session=b"), "", &["session", "twice"]),
        ("PUT", &format!("{beat}?session=a&sessio%6e=a"), "", &["session", "twice"]),
        ("GET", "/v1/users?limit=1&limit=2", "", &["limit", "twice"]),
        ("GET", "/v1/events?all=true&all=false", "", &["all", "twice"]),
        ("GET", "/v1/ws?user=alice&user=bob", "", &["user", "twice"]),
    ])
    .await;
}

#[tokio::test]
async fn wrong_values_are_explained_in_plain_words() {
    let (beat, many, query) = ("/v1/users/alice/heartbeat", "/v1/heartbeats", "/v1/users/query");
    let list = r#"a list of strings, such as ["alice","bob"]"#;
    all_are_explained(&[
        ("PUT", beat, "null", &["the body is null", "a JSON object"]),
        ("PUT", beat, "5", &["the body is 5, a number", "a JSON object"]),
        ("PUT", beat, r#""x""#, &["the body is \"x\", a string", "a JSON object"]),
        ("PUT", beat, r#"["phone"]"#, &["the body is a list", "a JSON object"]),
        ("PUT", beat, r#"{"session":5}"#, &["session is 5, a number", "it must be a string"]),
        ("PUT", beat, r#"{"session":["a"]}"#, &["session is a list", "it must be a string"]),
        (
            "PUT",
            beat,
            r#"{"ttl_ms":"30s"}"#,
            &["ttl_ms is \"30s\", a string", "a whole number of milliseconds"],
        ),
        ("PUT", beat, r#"{"ttl_ms":1.5}"#, &["ttl_ms is 1.5", "a whole number of milliseconds"]),
        ("PUT", beat, r#"{"ttl_ms":-5}"#, &["ttl_ms is -5", "a whole number of milliseconds"]),
        ("PUT", beat, r#"{"ttl":5}"#, &["no field \"ttl\"", "session, ttl_ms"]),
        ("PUT", &format!("{beat}?ttl_ms=30s"), "", &["ttl_ms is \"30s\"", "a whole number of milliseconds"]),
        ("PUT", &format!("{beat}?ttl_ms="), "", &["ttl_ms is \"\"", "a whole number of milliseconds"]),
        ("DELETE", "/v1/users/alice", r#"{"session":true}"#, &["session is true", "it must be a string"]),
        ("POST", many, "", &["the body is empty", r#"{"users":["alice"]}"#]),
        ("POST", many, r#""alice""#, &["the body is \"alice\", a string", "a JSON object"]),
        ("POST", many, "{}", &["users is missing"]),
        ("POST", many, r#"{"users":"alice"}"#, &["users is \"alice\", a string", "it must be a list"]),
        ("POST", many, r#"{"users":null}"#, &["users is null", "it must be a list"]),
        (
            "POST",
            many,
            r#"{"users":["a",5]}"#,
            &["users[1] is 5, a number", r#"{"user":"alice","session":"phone"}"#],
        ),
        ("POST", many, r#"{"users":[{"session":"x"}]}"#, &["users[0]", "user is missing"]),
        ("POST", many, r#"{"users":[{"user":5}]}"#, &["users[0]", "user is 5, a number"]),
        ("POST", many, r#"{"users":[{"user":"a","ttl":5}]}"#, &["users[0]", "no field \"ttl\""]),
        ("POST", many, r#"{"users":[{"user":"a","ttl_ms":"x"}]}"#, &["users[0]", "ttl_ms is \"x\""]),
        ("POST", query, "", &["the body is empty", r#"{"users":["alice"]}"#]),
        ("POST", query, r#"{"users":"alice"}"#, &["users is \"alice\", a string", list]),
        ("POST", query, r#"{"users":["a",{}]}"#, &["users[1] is an object", list]),
        ("GET", "/v1/users?limit=many", "", &["limit is \"many\"", "from 1 to 10000"]),
        ("GET", "/v1/users?limit=", "", &["limit is \"\"", "from 1 to 10000"]),
        ("GET", "/v1/users?limit=-1", "", &["limit is \"-1\"", "from 1 to 10000"]),
        ("GET", "/v1/events?all=yes", "", &["all is \"yes\"", "all=true"]),
    ])
    .await;
}

#[tokio::test]
async fn unreadable_requests_get_the_error_body() {
    let (_redis, daemon) = start().await;
    let header = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(100 << 10));
    let many = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(200));
    let uri = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(100 << 10));
    for (request, status, expected) in [
        ("GARBAGE\r\n\r\n", 400, "invalid_request"),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, "invalid_request"),
        ("GET / HTTP/9.9\r\n\r\n", 400, "invalid_request"),
        ("POST /v1/heartbeats HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n", 400, "invalid_request"),
        (&header, 431, "too_large"),
        (&many, 431, "too_large"),
        (&uri, 431, "too_large"),
    ] {
        let shown: String = request.chars().take(60).collect();
        let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("the daemon listens");
        // The daemon does not read all of a request that it refuses, and the connection may end with a reset.
        stream.write_all(request.as_bytes()).await.ok();
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer").ok();
        let answer = String::from_utf8(answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}: {answer}");
        let head = head.to_ascii_lowercase();
        for line in [
            &format!("content-length: {}", body.len()),
            "content-type: application/json",
            "connection: close",
            "x-content-type-options: nosniff",
        ] {
            assert!(head.contains(line), "{shown}: {line} is missing: {answer}");
        }
        let error: Value = serde_json::from_str(body).unwrap_or_default();
        assert_eq!(code(&error), Some(expected), "{shown}: {answer}");
    }
    until("they are counted", async || {
        let (_, _, metrics) = fetch(&daemon, "/metrics").await;
        metrics.contains("keybeat_request_errors_total{cause=\"too_large\"} 3").then_some(())
    })
    .await;
}

/// The parser of requests drops what follows a `#`, so the first call would end all sessions of al.
#[tokio::test]
async fn raw_number_sign_in_a_request_is_refused() {
    let (redis, daemon) = start().await;
    for key in ["presence:al", "presence:al#phone"] {
        redis.call(&["SET", key, "1", "EX", "60"]);
    }
    let answer = alone(&daemon, "DELETE", "/v1/users/al#phone", "").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("invalid_request"), "{answer}");
    assert!(answer.contains("%23"), "{answer}");
    // In pieces, and after an empty line; the next request of the connection is a good one.
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("the daemon listens");
    stream.set_nodelay(true).expect("an option of TCP");
    let good = "GET /v1/users/al HTTP/1.1\r\nHost: localhost\r\nx: #\r\n\r\n";
    for (pieces, status) in [
        (&["\r\nDEL", "ETE /v1/users/al", "#phone HTTP/1.1\r\nHost: localh", "ost\r\n\r\n"][..], "400"),
        (&[good], "200"),
    ] {
        for piece in pieces {
            stream.write_all(piece.as_bytes()).await.expect("it reads");
            tokio::task::yield_now().await;
        }
        let mut answer = vec![0; 4096];
        let read =
            timeout(PATIENCE, stream.read(&mut answer)).await.expect("an answer").expect("a connection");
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    assert_eq!(redis.presence_keys().len(), 2, "no session was ended");
}
