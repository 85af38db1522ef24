//! `--drain`: between SIGTERM and the stop requests are served, and sockets and event streams close evenly.

use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, signal};
use crate::common::socket::Socket;
use crate::common::{PATIENCE, until};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

const DRAIN: Duration = Duration::from_secs(3);

async fn start(redis: &Redis, drain: &str) -> Daemon {
    Daemon::with(&["--redis", &redis.url(), "--drain", drain]).await
}

/// When a socket was closed, and with which code.
async fn closed(mut socket: Socket) -> (u16, Instant) {
    loop {
        if let Err((code, _)) = socket.next_or_close().await {
            return (code, Instant::now());
        }
    }
}

/// When an event stream of everybody ended.
async fn ended(url: String) -> (u16, Instant) {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut answer = http.get(url).send().await.expect("it answers");
    while let Ok(Some(_)) = answer.chunk().await {}
    (answer.status().as_u16(), Instant::now())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_close_evenly_while_requests_are_served() {
    let redis = Redis::start();
    let daemon = start(&redis, "3s").await;
    let (mut sockets, mut streams) = (JoinSet::new(), JoinSet::new());
    for number in 0..24 {
        sockets.spawn(closed(daemon.socket(&format!("?user=u{number}")).await));
    }
    for _ in 0..4 {
        streams.spawn(ended(daemon.url("/v1/events?all=true")));
    }
    until("all are there", async || {
        let stats = daemon.get("/v1/stats").await;
        (stats["sockets"] == 24 && stats["users_online"] == 24).then_some(())
    })
    .await;
    let began = Instant::now();
    signal(daemon.pid(), "TERM");
    assert_eq!(daemon.not_ready().await, "not ready: draining\n");
    let metrics = daemon.call("GET", "/metrics", None).await.1;
    assert!(metrics.as_str().is_some_and(|text| text.contains("\nkeybeat_ready 0\n")), "{metrics}");
    let mut served = 0;
    while began.elapsed() < DRAIN.mul_f64(0.8) {
        assert_eq!(daemon.call("PUT", "/v1/users/late/heartbeat", None).await.0, 204);
        assert_eq!(daemon.get("/v1/users/u3").await["state"], "online");
        let mut late = daemon.socket("").await;
        late.send(json!({"type": "watch", "users": ["u3"]})).await;
        assert_eq!(late.snapshot().await[0]["state"], "online");
        served += 1;
    }
    assert!(served >= 10, "{served} rounds were served");
    let mut quarters = [0; 4];
    while let Some(closed) = sockets.join_next().await {
        let (code, at) = closed.expect("no panic");
        assert_eq!(code, 1001);
        quarters[((at - began).as_secs_f64() / DRAIN.as_secs_f64() * 4.0).min(3.0) as usize] += 1;
    }
    assert!(quarters.iter().all(|count| (3..=9).contains(count)), "{quarters:?}");
    while let Some(ended) = streams.join_next().await {
        let (status, at) = ended.expect("no panic");
        assert!(status == 200 && at - began < DRAIN * 2, "{status} {:?}", at - began);
    }
    assert_eq!(daemon.ended().await.code(), Some(0));
    let took = began.elapsed();
    assert!((DRAIN..DRAIN + Duration::from_secs(5)).contains(&took), "{took:?}");
    let users = redis.presence_keys().iter().filter(|key| key.starts_with("presence:u")).count();
    assert_eq!(users, 24, "a drain changes no key");
}

#[tokio::test]
async fn another_signal_ends_a_drain() {
    let redis = Redis::start();
    let daemon = start(&redis, "10m").await;
    let socket = tokio::spawn(closed(daemon.socket("?user=alice").await));
    signal(daemon.pid(), "TERM");
    assert_eq!(daemon.not_ready().await, "not ready: draining\n");
    let (status, took) = daemon.stop();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(socket.await.expect("no panic").0, 1001);
}

#[tokio::test]
async fn an_interrupt_stops_without_a_drain() {
    let redis = Redis::start();
    let daemon = start(&redis, "10m").await;
    let began = Instant::now();
    signal(daemon.pid(), "INT");
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_connection_ends_with_its_next_answer() {
    let redis = Redis::start();
    let daemon = start(&redis, "10m").await;
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let ask = async || http.get(daemon.url("/v1/stats")).send().await.expect("it answers");
    assert!(ask().await.headers().get("connection").is_none());
    signal(daemon.pid(), "TERM");
    daemon.not_ready().await;
    assert_eq!(ask().await.headers()["connection"], "close");
}

#[tokio::test]
async fn idle_connection_is_served_until_the_end_of_a_drain() {
    let redis = Redis::start();
    let daemon = start(&redis, "3s").await;
    let ask = b"GET /v1/users/alice HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
    let mut connections = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("it listens");
        stream.write_all(ask).await.expect("it reads");
        let answer = answer_on(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("connection: close"), "{answer}");
        connections.push(stream);
    }
    let began = Instant::now();
    signal(daemon.pid(), "TERM");
    daemon.not_ready().await;
    let [asks, idle] = &mut connections[..] else { panic!("two connections") };
    asks.write_all(ask).await.expect("the idle connection is still open");
    let answer = answer_on(asks).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
    assert_eq!(asks.read(&mut [0; 1]).await.expect("an orderly end"), 0);
    assert_eq!(idle.read(&mut [0; 1]).await.expect("an orderly end"), 0);
    assert!(began.elapsed() >= DRAIN, "the idle connection was open for {:?}", began.elapsed());
    assert_eq!(daemon.ended().await.code(), Some(0));
}

/// Reads one answer with a JSON object as its body.
async fn answer_on(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        let byte = timeout(PATIENCE, stream.read_u8()).await.expect("an answer");
        answer.push(byte.expect("an answer"));
    }
    String::from_utf8(answer).expect("text")
}
