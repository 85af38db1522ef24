//! Faults just before a daemon starts, and in its first seconds, when it knows of most TTLs only what is left.

use crate::common::daemon::Daemon;
use crate::common::fault_list::{promoted, watched_by_a_sentinel};
use crate::common::redis::{Redis, fill_with};
use crate::common::socket::Socket;
use crate::common::until;
use serde_json::Value;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Collects the transitions that a client receives until then, while the test goes on.
fn seen(mut socket: Socket, end: Instant) -> JoinHandle<Vec<Value>> {
    tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Ok(message) = timeout_at(end, socket.next_patiently()).await {
            seen.extend(message["transitions"].as_array().into_iter().flatten().cloned());
        }
        seen
    })
}

async fn saw_nothing(seen: JoinHandle<Vec<Value>>, whose: &str) {
    let seen = seen.await.expect("the connection goes on");
    assert!(seen.is_empty(), "{whose}: {} transitions, such as {}", seen.len(), seen[0]);
}

/// No user of a replica that has just taken over could renew a key since the primary died.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_just_before_the_start() {
    const TTL_MS: usize = 8_000;
    let (mut primary, replica, _sentinel, url) = watched_by_a_sentinel().await;
    fill_with(&primary, "presence:u", 100, |_| TTL_MS);
    let ends = Instant::now() + Duration::from_millis(TTL_MS as u64);
    until("the replica has all", async || (replica.presence_keys().len() == 100).then_some(())).await;
    primary.kill();
    promoted(&replica).await;
    let taken = Instant::now();
    let daemon = Daemon::with(&["--redis", &url, "--ttl", "8s"]).await;
    let (socket, users) = daemon.watch_all().await;
    assert_eq!(users.len(), 100, "the test took too long");
    // The copies run out. Their users come back within one TTL of the failover.
    let back = ends + Duration::from_secs(1);
    assert!(back < taken + Duration::from_millis(TTL_MS as u64), "the test is too quick");
    let seen = seen(socket, back + Duration::from_secs(2));
    sleep_until(back).await;
    fill_with(&replica, "presence:u", 100, |_| TTL_MS);
    saw_nothing(seen, "after a failover").await;
}

/// Users whose TTL is 16 s have up to half of it left. The server comes back empty, and they send their next heartbeats in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_while_ttls_are_partly_known() {
    const USERS: usize = 400;
    let mut redis = Redis::start();
    fill_with(&redis, "presence:u", USERS, |i| 8_000 + 8_000 * i / USERS);
    let url = redis.url();
    let args = ["--redis", &url, "--ttl", "2s"];
    let first = Daemon::with(&args).await;
    first.until_lease("held").await;
    let second = Daemon::with(&args).await;
    let mut sockets = Vec::new();
    for daemon in [&first, &second] {
        let (socket, users) = daemon.watch_all().await;
        assert_eq!(users.len(), USERS, "the test took too long");
        sockets.push(socket);
    }
    redis.kill();
    redis.run();
    let back = Instant::now() + Duration::from_secs(11);
    let seen: Vec<_> =
        sockets.into_iter().map(|socket| seen(socket, back + Duration::from_secs(2))).collect();
    sleep_until(back).await;
    fill_with(&redis, "presence:u", USERS, |_| 16_000);
    for (seen, whose) in seen.into_iter().zip(["the holder of the lease", "the other daemon"]) {
        saw_nothing(seen, whose).await;
    }
}
