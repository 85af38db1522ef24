//! Two daemons at one server: the one that holds the lease, and the other.

use crate::cells;
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, fill};
use crate::lag::{fall_silent, lags, offline};
use crate::load::cpu_seconds;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const MODES: [&str; 3] = ["set", "expire", "new"];
const KEYS: usize = 1_000_000;

/// The holder of the lease, and a daemon that follows it.
async fn two_daemons(redis: &Redis, events: &str) -> [Daemon; 2] {
    let start = async || Daemon::with(&["--redis", &redis.url(), "--events", events]).await;
    let holder = start().await;
    holder.until_lease("held").await;
    let other = start().await;
    other.until_lease("other").await;
    [holder, other]
}

/// Users who fall silent among a million others, in each mode; then once more while the holder is killed.
pub fn lag_at_two_daemons(runtime: &Runtime) {
    println!(
        "modes: 2000 users fall silent within 2 s among {KEYS} live keys; offline at a client after the true deadline"
    );
    println!("| --events | client of | seen | p50 | p99 | max |");
    println!("|---|---|---|---|---|---|");
    for events in MODES {
        let redis = Redis::stock();
        fill(&redis, "presence:other-", KEYS);
        runtime.block_on(async {
            let [holder, other] = two_daemons(&redis, events).await;
            let (at_holder, at_other) = (holder.watch_all().await.0, other.watch_all().await.0);
            let (deadlines, first, second) =
                tokio::join!(fall_silent(&redis), offline(at_holder), offline(at_other));
            row(events, "the holder", &deadlines, &first);
            row(events, "the other", &deadlines, &second);
            let survivor = other.watch_all().await.0;
            let killed = async {
                let deadlines = fall_silent(&redis).await;
                // The first of them run out a moment later.
                tokio::time::sleep(Duration::from_millis(7_900)).await;
                drop(holder);
                deadlines
            };
            let (deadlines, late) = tokio::join!(killed, offline(survivor));
            row(events, "the other, the holder killed at the first deadline", &deadlines, &late);
        });
    }
}

fn row(events: &str, whose: &str, deadlines: &HashMap<String, f64>, offline: &[(String, f64)]) {
    let lags = lags(deadlines, offline);
    println!("| {events} | {whose} | {} | {} |", lags.len(), cells(&lags));
}

const USERS: usize = 100_000;
const RATE: usize = 100_000;
const SECONDS: usize = 10;

/// 100,000 heartbeats a second of users who are online already.
pub fn cost_of_a_follower(runtime: &Runtime) {
    println!("follower: {RATE} SET/s of {USERS} live keys for {SECONDS} s, with two daemons");
    println!("| --events | SET/s | holder: of a core | the other: of a core |");
    println!("|---|---|---|---|");
    for events in MODES {
        let redis = Redis::start();
        fill(&redis, "presence:user-", USERS);
        runtime.block_on(async {
            let [holder, other] = two_daemons(&redis, events).await;
            let cpus = || [cpu_seconds(holder.pid()), cpu_seconds(other.pid())];
            let (before, began) = (cpus(), Instant::now());
            let redis = tokio::task::spawn_blocking(move || paced(redis)).await.expect("a writer");
            let took = began.elapsed().as_secs_f64();
            let share = |i: usize| 100.0 * (cpus()[i] - before[i]) / took;
            let rate = (RATE * SECONDS) as f64 / took;
            println!("| {events} | {rate:.0} | {:.1} % | {:.2} % |", share(0), share(1));
            drop(redis);
        });
    }
}

/// Sends the heartbeats, 200 every 2 ms.
fn paced(redis: Redis) -> Redis {
    const EACH: usize = RATE / 500;
    let mut client = redis.client();
    let began = Instant::now();
    for tick in 0..500 * SECONDS {
        let set = |i: usize| {
            let key = format!("presence:user-{}", (tick * EACH + i) % USERS);
            ["SET", &key, "1", "EX", "3600"].map(str::to_owned).to_vec()
        };
        client.pipeline(&(0..EACH).map(set).collect::<Vec<_>>());
        let due = began + Duration::from_millis(2 * tick as u64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    redis
}
