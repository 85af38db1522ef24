//! Users who cannot renew their keys, and keys that vanish without an event.

use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, fill};
use crate::common::{now_ms, until};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const USERS: usize = 100_000;

/// With `min-replicas-to-write 1` and no replica, the server refuses every write.
fn refuse(redis: &Redis, refuses: bool) {
    redis.call(&["CONFIG", "SET", "min-replicas-to-write", if refuses { "1" } else { "0" }]);
}

/// Waits until a gap of this cause has been compared.
async fn compared(daemon: &Daemon, cause: &str) {
    until("the gap is noticed", async || daemon.get("/v1/stats").await["gaps"][cause].as_u64()).await;
    daemon.ready().await;
}

async fn online(daemon: &Daemon) -> u64 {
    let (_, users) = daemon.watch_all().await;
    users.len() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flush_right_after_the_start_ends_no_user() {
    let redis = Redis::start();
    fill(&redis, "presence:u", USERS);
    let daemon = Daemon::start(&redis).await;
    // The daemon still learns their TTLs.
    redis.call(&["FLUSHALL"]);
    compared(&daemon, "replaced").await;
    assert_eq!(online(&daemon).await, USERS as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flush_while_polling_ends_no_user() {
    flush_without_events("sweeps").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flush_while_tracking_ends_no_user() {
    flush_without_events("tracking").await;
}

async fn flush_without_events(mode: &str) {
    let redis = Redis::with(&["--notify-keyspace-events", ""]);
    if mode == "sweeps" {
        redis.call(&["ACL", "SETUSER", "default", "-client|tracking"]);
    }
    fill(&redis, "presence:u", 1_000);
    let daemon = Daemon::with(&["--redis", &redis.url(), "--configure-redis", "false"]).await;
    assert_eq!(daemon.get("/v1/stats").await["redis"]["mode"], mode);
    let (mut socket, users) = daemon.watch_all().await;
    assert_eq!(users.len(), 1_000);
    for round in 1..=3 {
        redis.call(&["FLUSHALL"]);
        fill(&redis, "presence:u", 1_000);
        until("the flush is noticed", async || {
            (daemon.get("/v1/stats").await["gaps"]["replaced"].as_u64() >= Some(round)).then_some(())
        })
        .await;
        daemon.ready().await;
    }
    // The daemon may have noticed the flush before the users were back. The poll that finds the second user has found them.
    for user in ["marker-1", "marker-2"] {
        redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "60"]);
        let seen = socket.transitions().await;
        assert_eq!((&seen[0]["user"], seen.len()), (&json!(user), 1), "{seen:?}");
    }
    redis.call(&["DEL", "presence:u0"]);
    let seen = socket.transitions().await;
    assert_eq!((&seen[0]["user"], seen.len()), (&json!("u0"), 1), "{seen:?}");
}

/// Refuses writes for 1.3 s of every 3.7 s. A user who has gone stays online for the TTL, the sum of the outages, and
/// one TTL more; a user who tries to renew twice a second never goes offline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_outages_end_a_silent_user() {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--ttl", "4s"]).await;
    let (mut socket, _) = daemon.watch_all().await;
    let began = now_ms();
    redis.call(&["SET", "presence:gone", "1", "EX", "4"]);
    let mut client = redis.client();
    let beats = tokio::task::spawn_blocking(move || {
        let end = std::time::Instant::now() + Duration::from_secs(30);
        while std::time::Instant::now() < end {
            client.call(&["SET", "presence:steady", "1", "EX", "4"]);
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    let (mut refused_ms, mut ended) = (0, None);
    while ended.is_none() && now_ms() - began < 30_000 {
        refuse(&redis, true);
        sleep(Duration::from_millis(1_300)).await;
        refuse(&redis, false);
        refused_ms += 1_300;
        let until = Instant::now() + Duration::from_millis(2_400);
        while let Ok(message) = timeout(until - Instant::now(), socket.next()).await {
            for transition in message["transitions"].as_array().into_iter().flatten() {
                if transition["state"] == "offline" {
                    assert_eq!(transition["user"], "gone", "{transition}");
                    ended = transition["at_ms"].as_u64();
                }
            }
        }
    }
    let after_ms = ended.expect("the user has gone") - began;
    // A canary a second shows how long an outage took, to the second.
    assert!(after_ms <= 8_000 + refused_ms + 4_000, "{after_ms} ms with {refused_ms} ms of outages");
    beats.abort();
}

/// The server refuses one heartbeat, most likely between two canaries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_refusal_is_an_outage() {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--ttl", "4s"]).await;
    let set = || redis.call(&["SET", "presence:alice", "1", "PX", "4000"]);
    set();
    let since = daemon.until_state("alice", "online").await["since_ms"].clone();
    sleep(Duration::from_millis(1_500)).await;
    refuse(&redis, true);
    let refused = format!("{:?}", set());
    refuse(&redis, false);
    assert!(refused.contains("NOREPLICAS"), "{refused}");
    until("the key has run out", async || redis.presence_keys().is_empty().then_some(())).await;
    sleep(Duration::from_millis(500)).await;
    set();
    let user = daemon.get("/v1/users/alice").await;
    assert_eq!((&user["state"], &user["since_ms"]), (&json!("online"), &since), "{user}");
}
