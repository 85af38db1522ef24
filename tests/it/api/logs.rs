//! The log, as a collector reads it: one line of JSON an event, what it says in fields.

use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::tokens::{Issuer, call, call_as, socket_as, try_socket};
use crate::common::until;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The lines so far that say this.
fn lines(daemon: &Daemon, message: &str) -> Vec<Value> {
    let log = daemon.log();
    let read = |line| serde_json::from_str::<Value>(line).unwrap_or_else(|why| panic!("{why}: {line}"));
    log.lines().map(read).filter(|line| line["message"] == message).collect()
}

/// The lines that say this, once there are so many.
async fn await_lines(daemon: &Daemon, message: &str, count: usize) -> Vec<Value> {
    until(&format!("{count} lines say {message:?}; log:\n{}", daemon.log()), async || {
        let found = lines(daemon, message);
        (found.len() >= count).then_some(found)
    })
    .await
}

async fn start(redis: &Redis, issuer: &Issuer, level: &str) -> Daemon {
    let args = ["--jwt-secret", &issuer.secret_file(), "--log-format", "json", "--log", level];
    Daemon::with(&[&["--redis", &redis.url()][..], &args[..]].concat()).await
}

#[tokio::test]
async fn gap_and_repair_are_one_line_each() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = start(&redis, &issuer, "info").await;
    let first = &await_lines(&daemon, "compared with Redis", 1).await[0];
    assert_eq!(
        (&first["cause"], &first["repaired"], &first["keys"]),
        (&json!("start"), &json!(0), &json!(0))
    );
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    let token = issuer.token("watcher", &["*"]);
    until("alice is online", async || {
        let answer = call_as(&daemon, &token, "GET", "/v1/users/alice", None).await;
        (answer.body["state"] == "online").then_some(())
    })
    .await;
    redis.set_unheard("presence:bob");
    let gap = &await_lines(&daemon, "gap", 1).await[0];
    assert_eq!((&gap["level"], &gap["cause"]), (&json!("WARN"), &json!("connection")), "{gap}");
    assert!(gap["server"].as_str().is_some_and(|server| server.contains(&redis.port.to_string())), "{gap}");
    assert!(gap["why"].as_str().is_some_and(|why| !why.is_empty()), "{gap}");
    let repair = &await_lines(&daemon, "compared with Redis", 2).await[1];
    assert_eq!((&repair["level"], &repair["cause"]), (&json!("INFO"), &json!("connection")), "{repair}");
    assert_eq!((&repair["repaired"], &repair["keys"]), (&json!(1), &json!(2)), "bob: {repair}");
    assert!(repair["after_ms"].is_u64(), "{repair}");
    assert_eq!(lines(&daemon, "gap").len(), 1, "one gap, one line");
    let metrics = call(&daemon, "GET", "/metrics", None, &[]).await.body.to_string();
    assert!(metrics.contains(r#"keybeat_gaps_total{cause=\"connection\"} 1"#), "{metrics}");
}

#[tokio::test]
async fn refusals_are_few_lines_without_names() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = start(&redis, &issuer, "info").await;
    let bad = Issuer::new().token("mallory", &["*"]);
    assert_eq!(call_as(&daemon, &bad, "GET", "/v1/users/alice", None).await.status, 401);
    let good = issuer.token("carol", &["carol"]);
    assert_eq!(call_as(&daemon, &good, "GET", "/v1/users/alice", None).await.status, 403);
    let page = [("origin", "https://evil.example")];
    assert!(try_socket(&daemon, &format!("?token={good}"), &page).await.is_err());
    let told = await_lines(&daemon, "refused", 3).await;
    for (line, route, code, status) in [
        (&told[0], "/v1/users/{user}", "invalid_token", 401),
        (&told[1], "/v1/users/{user}", "forbidden", 403),
        (&told[2], "/v1/ws", "forbidden_origin", 403),
    ] {
        assert_eq!((&line["level"], &line["route"]), (&json!("INFO"), &json!(route)), "{line}");
        assert_eq!((&line["code"], &line["status"]), (&json!(code), &json!(status)), "{line}");
        assert_eq!((&line["address"], &line["unsaid"]), (&json!("127.0.0.1"), &json!(0)), "{line}");
    }
    // What was merely asked wrongly is no refusal.
    assert_eq!(call_as(&daemon, &good, "GET", "/nowhere", None).await.status, 404);
    let began = Instant::now();
    for _ in 0..1_000 {
        call_as(&daemon, &good, "GET", "/v1/users/alice", None).await;
    }
    let most = 13 + began.elapsed().as_secs() as usize;
    let told = lines(&daemon, "refused");
    assert!(told.len() <= most, "{} lines after {:?}", told.len(), began.elapsed());
    // The next one that is said tells how many were not.
    let unsaid = until("a line comes again", async || {
        call_as(&daemon, &good, "GET", "/v1/users/alice", None).await;
        let last = lines(&daemon, "refused").pop()?["unsaid"].as_u64()?;
        (last > 0).then_some(last)
    })
    .await;
    assert!(unsaid > 100, "{unsaid} were left unsaid");
    let log = daemon.log();
    for secret in ["alice", "carol", "mallory", &bad, &good] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}

#[tokio::test]
async fn sockets_and_streams_log_open_and_close() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = start(&redis, &issuer, "debug").await;
    let token = issuer.token("alice", &["*"]);
    let (mut socket, _) = socket_as(&daemon, &token, "").await;
    let opened = &await_lines(&daemon, "socket opened", 1).await[0];
    assert_eq!((&opened["level"], &opened["address"]), (&json!("DEBUG"), &json!("127.0.0.1")), "{opened}");
    assert_eq!((&opened["speaks"], &opened["socket"]), (&json!(true), &json!(1)), "{opened}");
    socket.ws.close(None).await.expect("it closes");
    let closed = &await_lines(&daemon, "socket closed", 1).await[0];
    assert_eq!((&closed["socket"], &closed["code"]), (&json!(1), &json!(1005)), "{closed}");
    assert_eq!(closed["end"], "goodbye");
    assert!(closed["lasted_ms"].is_u64(), "{closed}");
    // One that is turned away later, for what it sends.
    let (mut socket, _) = socket_as(&daemon, &token, "").await;
    socket.send_text(&" ".repeat(65 * 1024)).await;
    let refused = &await_lines(&daemon, "refused", 1).await[0];
    assert_eq!((&refused["code"], &refused["status"]), (&json!("too_big"), &json!(1009)), "{refused}");
    let closed = &await_lines(&daemon, "socket closed", 2).await[1];
    assert_eq!((&closed["socket"], &closed["code"]), (&json!(2), &json!(1009)), "{closed}");
    let stream =
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().expect("a client");
    let answer =
        stream.get(daemon.url(&format!("/v1/events?all=true&token={token}"))).send().await.expect("answers");
    let opened = &await_lines(&daemon, "stream opened", 1).await[0];
    assert_eq!(opened["stream"], 3, "{opened}");
    drop((answer, stream));
    let closed = &await_lines(&daemon, "stream closed", 1).await[0];
    assert_eq!((&closed["stream"], &closed["end"]), (&json!(3), &json!("lost")), "{closed}");
    assert!(
        lines(&daemon, "connection opened").len() >= 3 && !lines(&daemon, "connection closed").is_empty()
    );
    assert!(!daemon.log().contains("alice") && !daemon.log().contains(&token), "{}", daemon.log());
}
