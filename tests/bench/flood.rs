//! How many `set` events a daemon takes in.

use crate::common::daemon::Daemon;
use crate::common::redis::{Client, Redis, fill};
use crate::load::cpu_seconds;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const KEYS: usize = 100_000;
const WRITERS: usize = 2;
const LASTS: Duration = Duration::from_secs(10);

/// Heartbeats as fast as Redis takes them, alone and with a daemon that listens.
pub fn events_taken_in(runtime: &Runtime) {
    println!(
        "flood: SET of {KEYS} live keys, pipelines of 64 on {WRITERS} connections for {} s",
        LASTS.as_secs()
    );
    println!(
        "| who listens | SET/s | events taken in | gaps | daemon's CPU per event | Redis' CPU per SET |"
    );
    println!("|---|---|---|---|---|---|");
    for _ in 0..3 {
        let redis = Redis::start();
        fill(&redis, "presence:user-", KEYS);
        let before = cpu_seconds(redis.pid());
        let sets = flood(&redis);
        let cpu = (cpu_seconds(redis.pid()) - before) / sets as f64 * 1e6;
        println!("| nobody | {} | - | - | - | {cpu:.2} µs |", sets / LASTS.as_secs());
        runtime.block_on(async {
            let daemon = Daemon::start(&redis).await;
            let events = async || daemon.get("/v1/stats").await["events"].as_u64().expect("a number");
            let (began, cpus) = (events().await, [cpu_seconds(daemon.pid()), cpu_seconds(redis.pid())]);
            let (sets, redis) =
                tokio::task::spawn_blocking(move || (flood(&redis), redis)).await.expect("writers");
            tokio::time::sleep(Duration::from_secs(1)).await;
            let taken = events().await - began;
            let daemons = (cpu_seconds(daemon.pid()) - cpus[0]) / taken as f64 * 1e6;
            let servers = (cpu_seconds(redis.pid()) - cpus[1]) / sets as f64 * 1e6;
            let stats = daemon.get("/v1/stats").await;
            let gaps: u64 = stats["gaps"]
                .as_object()
                .expect("causes")
                .values()
                .filter_map(serde_json::Value::as_u64)
                .sum();
            let share = 100.0 * taken as f64 / sets as f64;
            let rate = sets / LASTS.as_secs();
            println!("| keybeat | {rate} | {share:.1} % | {gaps} | {daemons:.2} µs | {servers:.2} µs |");
        });
    }
}

fn flood(redis: &Redis) -> u64 {
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let client = redis.client();
            std::thread::spawn(move || write(client))
        })
        .collect();
    writers.into_iter().map(|writer| writer.join().expect("a writer")).sum()
}

fn write(mut client: Client) -> u64 {
    let end = Instant::now() + LASTS;
    let batches: Vec<Vec<Vec<String>>> = (0..200)
        .map(|_| {
            let set = || {
                let key = format!("presence:user-{}", fastrand::usize(..KEYS));
                ["SET", &key, "1", "EX", "3600"].map(str::to_owned).to_vec()
            };
            (0..64).map(|_| set()).collect()
        })
        .collect();
    let mut sets = 0;
    while Instant::now() < end {
        for batch in &batches {
            sets += client.pipeline(batch).len() as u64;
        }
    }
    sets
}
