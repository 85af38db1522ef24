//! `--events`: how the daemon learns of renewals.

use super::degraded::{FEWEST, with_user};
use crate::common::daemon::Daemon;
use crate::common::faults::{Outcome, TTL, World};
use crate::common::redis::Redis;
use crate::common::socket::Socket;
use crate::common::{now_ms, until};
use serde_json::json;
use std::time::Duration;

/// A deadline that a question noticed, on a busy machine. The server deletes nothing by itself.
const PROMPT_MS: u64 = 2_000;
/// The TTL of a steady user. A busy machine may delay a heartbeat by a second.
const BEAT_TTL_MS: u64 = 1_500;

async fn mode(redis: &Redis, events: &str) -> Daemon {
    Daemon::with(&["--redis", &redis.url(), "--events", events]).await
}

async fn renewals(daemon: &Daemon) -> String {
    let stats = daemon.get("/v1/stats").await;
    let word = stats["redis"]["renewals"].as_str().expect("a word").to_owned();
    assert_eq!(stats["redis"]["servers"][0]["renewals"], word.as_str());
    let line = format!("keybeat_servers{{renewals=\"{word}\"}} 1");
    let metrics = daemon.get("/metrics").await;
    assert!(metrics.as_str().expect("text").contains(&line), "{line}");
    word
}

/// A server that deletes a key that has run out only when somebody asks for it.
fn lazy_redis() -> Redis {
    let redis = Redis::with(&["--enable-debug-command", "yes", "--notify-keyspace-events", ""]);
    assert_eq!(redis.call(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).as_text(), "OK");
    redis
}

fn classes(redis: &Redis) -> String {
    redis.call(&["CONFIG", "GET", "notify-keyspace-events"]).list()[1].as_text().to_owned()
}

/// Sends a heartbeat several times a TTL, then no more. Returns when the last one was sent.
async fn beat(redis: &Redis, key: &str, ttl_ms: u64, count: u32) -> u64 {
    let mut sent = 0;
    for _ in 0..count {
        sent = now_ms();
        redis.call(&["SET", key, "1", "PX", &ttl_ms.to_string()]);
        tokio::time::sleep(Duration::from_millis(ttl_ms / 3)).await;
    }
    sent
}

/// The user goes offline one TTL after the last heartbeat. The server would never say so unasked.
async fn is_noticed(socket: &mut Socket, last: u64) {
    let gone = socket.transitions().await;
    let late_ms = now_ms().saturating_sub(last + BEAT_TTL_MS);
    assert_eq!((&gone[0]["state"], &gone[0]["reason"]), (&json!("offline"), &json!("expired")), "{gone:?}");
    assert!(late_ms < PROMPT_MS, "{late_ms} ms");
    let seen = gone[0]["last_seen_ms"].as_u64().expect("a time");
    assert!(seen.abs_diff(last) < PROMPT_MS, "last seen at {seen}, the last heartbeat was at {last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_set_events_a_silent_user_is_noticed_in_time() {
    let redis = lazy_redis();
    let daemon = mode(&redis, "new").await;
    assert_eq!(renewals(&daemon).await, "new");
    let held = classes(&redis);
    assert!(held.contains('n') && !held.contains('$'), "no message per heartbeat: {held}");
    let (mut socket, _) = daemon.watch_all().await;
    let last = beat(&redis, "presence:alice", BEAT_TTL_MS, 6).await;
    let told = socket.transitions().await;
    assert_eq!((&told[0]["user"], &told[0]["state"]), (&json!("alice"), &json!("online")));
    is_noticed(&mut socket, last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_set_events_heartbeats_cost_no_message() {
    let redis = Redis::with(&["--notify-keyspace-events", "E$gxen"]);
    let daemon = mode(&redis, "new").await;
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    daemon.until_state("alice", "online").await;
    let events = async || daemon.get("/v1/stats").await["events"].as_u64().expect("a number");
    let before = events().await;
    for _ in 0..500 {
        redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    }
    // Everything before this mark has arrived.
    assert_eq!(daemon.call("DELETE", "/v1/users/nobody", None).await.0, 204);
    let more = events().await - before;
    assert!(more < 100, "{more} messages for 500 heartbeats; {}", classes(&redis));
    redis.call(&["DEL", "presence:alice"]);
    daemon.until_state("alice", "offline").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_set_events_a_ttl_that_the_daemon_writes_is_known() {
    let redis = lazy_redis();
    let (writer, other) = (mode(&redis, "new").await, mode(&redis, "new").await);
    other.until_lease("other").await;
    redis.call(&["SET", "presence:alice", "1", "EX", "600"]);
    other.until_state("alice", "online").await;
    until("the holder knows the TTL", async || {
        let text = writer.get("/metrics").await;
        text.as_str()?.contains("keybeat_lookups_total 1").then_some(())
    })
    .await;
    let body = json!({"ttl_ms": 1500});
    assert_eq!(writer.call("PUT", "/v1/users/alice/heartbeat", Some(body)).await.0, 204);
    let sent = now_ms();
    for daemon in [&writer, &other] {
        daemon.until_state("alice", "offline").await;
        let late_ms = now_ms().saturating_sub(sent + 1_500);
        assert!(late_ms < PROMPT_MS, "{late_ms} ms");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_class_of_new_keys_the_mode_is_set() {
    const WARNING: &str = "--events new has no effect";
    for (events, warnings) in [("new", 1), ("auto", 0)] {
        let redis = Redis::with(&["--notify-keyspace-events", "E$gxe"]);
        let daemon = Daemon::with(&["--redis", &with_user(&redis, FEWEST), "--events", events]).await;
        assert_eq!(renewals(&daemon).await, "set");
        assert_eq!(daemon.get("/v1/stats").await["redis"]["mode"], "events");
        redis.call(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        until("the daemon has reconnected", async || {
            (daemon.get("/v1/stats").await["gaps"]["connection"].as_u64()? > 0).then_some(())
        })
        .await;
        daemon.ready().await;
        assert_eq!(daemon.log().matches(WARNING).count(), warnings, "{}", daemon.log());
        let last = beat(&redis, "presence:alice", 900, 4).await;
        daemon.until_state("alice", "offline").await;
        assert!(now_ms() >= last + 900, "a steady user was reported offline");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn class_of_new_keys_is_found_without_the_right_to_read_it() {
    let redis = Redis::with(&["--notify-keyspace-events", "Egxen"]);
    let daemon = Daemon::with(&["--redis", &with_user(&redis, FEWEST), "--events", "auto"]).await;
    assert_eq!(renewals(&daemon).await, "new");
    // Without the class the canary fails within seconds, and the daemon finds out what is left.
    redis.call(&["CONFIG", "SET", "notify-keyspace-events", "E$gxe"]);
    until("the daemon listens to set", async || {
        (daemon.get("/v1/stats").await["redis"]["renewals"] == "set").then_some(())
    })
    .await;
    daemon.ready().await;
}

/// Waits until the daemon has taken in all events so far, and answered its own questions about them.
async fn settle(daemon: &Daemon) {
    let lookups = async || {
        assert_eq!(daemon.call("DELETE", "/v1/users/nobody", None).await.0, 204);
        daemon.get("/v1/stats").await["lookups"].clone()
    };
    let mut last = lookups().await;
    // The counters are published with each canary.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let now = lookups().await;
        if now == last {
            return;
        }
        last = now;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_expire_events_a_shortened_ttl_is_known_at_once() {
    let redis = lazy_redis();
    let daemon = mode(&redis, "expire").await;
    assert_eq!(renewals(&daemon).await, "expire");
    for user in ["expire", "getex", "persist", "moved"] {
        redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "600"]);
        daemon.until_state(user, "online").await;
    }
    settle(&daemon).await;
    let sent = now_ms();
    redis.call(&["PEXPIRE", "presence:expire", "1500"]);
    redis.call(&["GETEX", "presence:getex", "PX", "1500"]);
    redis.call(&["PERSIST", "presence:persist"]);
    redis.call(&["PEXPIRE", "presence:persist", "1500"]);
    redis.call(&["PEXPIREAT", "presence:moved", &(sent + 1_500).to_string()]);
    for user in ["expire", "getex", "persist", "moved"] {
        daemon.until_state(user, "offline").await;
        let late_ms = now_ms().saturating_sub(sent + 1_500);
        assert!(late_ms < PROMPT_MS, "{user}: {late_ms} ms");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_expire_events_a_hash_that_expire_renews_is_a_heartbeat() {
    let redis = lazy_redis();
    let daemon = mode(&redis, "expire").await;
    let (mut socket, _) = daemon.watch_all().await;
    let mut last = 0;
    for _ in 0..6 {
        last = now_ms();
        redis.call(&["HSET", "presence:alice", "beat", &last.to_string()]);
        redis.call(&["PEXPIRE", "presence:alice", &BEAT_TTL_MS.to_string()]);
        tokio::time::sleep(Duration::from_millis(BEAT_TTL_MS / 3)).await;
    }
    assert_eq!(socket.transitions().await[0]["state"], "online");
    is_noticed(&mut socket, last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_set_events_of_the_server_expire_mode_polls() {
    let redis = Redis::with(&["--notify-keyspace-events", "Egxen"]);
    let daemon = Daemon::with(&["--redis", &with_user(&redis, FEWEST), "--events", "expire"]).await;
    assert_eq!(renewals(&daemon).await, "set");
    assert_eq!(daemon.get("/v1/stats").await["redis"]["mode"], "sweeps");
    assert!(daemon.log().contains("--events expire has no effect"), "{}", daemon.log());
}

/// A server that is away for more than a TTL and comes back empty, in a mode.
async fn empty_server(events: &str) -> Outcome {
    let redis = Redis::start();
    let url = redis.url();
    let mut world = World::new(redis, &["--redis", &url, "--events", events]).await;
    world.silence();
    world.redis().kill();
    tokio::time::sleep(TTL + Duration::from_secs(1)).await;
    world.redis().run();
    world.outcome().await
}

/// Connections that are killed again and again, in a mode.
async fn killed_connections(events: &str) -> Outcome {
    let redis = Redis::start();
    let url = redis.url();
    let mut world = World::new(redis, &["--redis", &url, "--events", events]).await;
    world.silence();
    for kind in ["pubsub", "normal"].repeat(8) {
        world.redis().call(&["CLIENT", "KILL", "TYPE", kind]);
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    world.outcome().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_without_set_events_show_nobody_offline() {
    empty_server("new").await.check();
    killed_connections("new").await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_with_expire_events_show_nobody_offline() {
    empty_server("expire").await.check();
    killed_connections("expire").await.check();
}
