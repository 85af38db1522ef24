//! The memory of Redis for each remembered user, and the time of a page and of a query. `--users=N` takes another number of users than
//! 10,000,000: `cargo bench --locked --bench bench -- last_seen --users=100000`.

use super::cells;
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, info};
use crate::common::{now_ms, until};
use keybeat::presence::{SEEN_BUCKETS, seen_bucket};
use serde_json::{Value, json};
use std::time::Instant;
use tokio::runtime::Runtime;

/// Remembered users, unless an argument says otherwise.
const USERS: usize = 10_000_000;
/// The times are spread over so many milliseconds: 30 days.
const SPREAD_MS: usize = 30 * 24 * 3_600_000;
/// Requests of each kind.
const REQUESTS: usize = 200;
/// Users who go offline while the daemon writes.
const LEAVERS: usize = 10_000;

/// Memory per remembered user, pages and queries.
pub fn memory_and_pages(runtime: &Runtime) {
    let named = std::env::args().find_map(|arg| arg.strip_prefix("--users=").and_then(|n| n.parse().ok()));
    let users = named.unwrap_or(USERS);
    let redis = Redis::with(&["--save", ""]);
    let empty = used_memory(&redis);
    let began = Instant::now();
    fill(&redis, users);
    let each = used_memory(&redis).saturating_sub(empty) / users as u64;
    println!("last_seen: {users} remembered users with ids of 36 bytes, filled in {:.0?}", began.elapsed());
    println!("Redis' memory for each user: {each} B");
    println!("| request | p50 | p99 | longest |");
    println!("|---|---|---|---|");
    runtime.block_on(async {
        let daemon = Daemon::with(&["--redis", &redis.url(), "--last-seen", "31d"]).await;
        daemon.until_lease("held").await;
        for limit in [100, 1_000, 10_000] {
            let path = format!("/v1/users?state=offline&seen_after_ms=0&limit={limit}");
            row(&format!("the first {limit} users"), async || drop(daemon.get(&path).await)).await;
        }
        let middle = now_ms() - SPREAD_MS as u64 / 2;
        let path = format!("/v1/users?state=offline&seen_after_ms=0&limit=1000&cursor={middle}-a");
        row("1000 users in the middle", async || drop(daemon.get(&path).await)).await;
        for count in [1, 100, 10_000] {
            row(&format!("query of {count} users"), async || {
                let asked: Vec<String> = (0..count).map(|_| name(fastrand::usize(..users))).collect();
                let (_, answer) =
                    daemon.call("POST", "/v1/users/query", Some(json!({ "users": asked }))).await;
                assert_ne!(answer["users"][0]["last_seen_ms"], Value::Null);
            })
            .await;
        }
        leave(&redis, &daemon).await;
    });
}

/// Many users go offline at once.
async fn leave(redis: &Redis, daemon: &Daemon) {
    let mut client = redis.client();
    let key = |i: usize| format!("presence:{}", name(i));
    let set = |i| vec!["SET".to_owned(), key(i), "1".into(), "EX".into(), "600".into()];
    client.pipeline(&(0..LEAVERS).map(set).collect::<Vec<_>>());
    until("all are online", async || {
        (daemon.get("/v1/stats").await["users_online"] == LEAVERS).then_some(())
    })
    .await;
    let began = Instant::now();
    client.pipeline(&(0..LEAVERS).map(|i| vec!["DEL".to_owned(), key(i)]).collect::<Vec<_>>());
    until("all times are written", async || {
        let text = daemon.get("/metrics").await;
        let line = format!("keybeat_last_seen_written_total {LEAVERS}\n");
        text.as_str().is_some_and(|text| text.contains(&line)).then_some(())
    })
    .await;
    println!("{LEAVERS} users went offline and were written within {:.0?}", began.elapsed());
}

async fn row(what: &str, request: impl AsyncFn()) {
    let mut took = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let began = Instant::now();
        request().await;
        took.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    took.sort_by(f64::total_cmp);
    println!("| {what} | {} |", cells(&took));
}

/// 36 bytes, as long as a UUID.
fn name(user: usize) -> String {
    format!("0f8fad5b-d9cb-469f-a165-{user:012}")
}

fn fill(redis: &Redis, users: usize) {
    let (mut client, now) = (redis.client(), now_ms());
    for first in (0..users).step_by(50_000) {
        let head = |bucket: usize| vec!["ZADD".to_owned(), format!("presence:#seen:#:{bucket}"), "GT".into()];
        let mut commands: Vec<Vec<String>> = (0..SEEN_BUCKETS).map(head).collect();
        for user in first..users.min(first + 50_000) {
            let name = name(user);
            let seen = now - fastrand::usize(..SPREAD_MS) as u64;
            commands[seen_bucket(&name)].extend([seen.to_string(), name]);
        }
        commands.retain(|command| command.len() > 3);
        client.pipeline(&commands);
    }
}

fn used_memory(redis: &Redis) -> u64 {
    info(redis, "memory")["used_memory"].parse().expect("a number")
}
