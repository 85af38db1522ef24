//! The memory of a daemon with many users, and how soon it knows them.

use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, fill};
use crate::common::socket::Socket;
use crate::common::until;
use futures_util::StreamExt;
use serde_json::json;
use std::time::Instant;
use tokio::runtime::Runtime;
use tokio_tungstenite::tungstenite::Message;

/// Ids as long as a UUID: 36 bytes.
const PREFIX: &str = "presence:0f8fad5b-d9cb-469f-a165-";

/// The users whom one client watches.
const WATCHED: usize = 10_000;

/// Memory per live user and the time to the first snapshot.
pub fn memory_and_start(runtime: &Runtime) {
    println!("memory: users with ids of 36 bytes, each key with a TTL of an hour");
    println!(
        "| live users | daemon's memory | per user | start to ready | daemon's CPU for it | start to a client's whole snapshot |"
    );
    println!("|---|---|---|---|---|---|");
    let mut empty = 0;
    for users in [0, 100_000, 1_000_000] {
        let redis = Redis::start();
        fill_long(&redis, users);
        runtime.block_on(async {
            let began = Instant::now();
            let daemon = Daemon::start(&redis).await;
            let took = began.elapsed().as_secs_f64();
            assert_eq!(daemon.get("/v1/stats").await["users_online"], users);
            let (memory, cpu) = (resident_bytes(daemon.pid()), cpu_seconds(daemon.pid()));
            if users == 0 {
                empty = memory;
            }
            let each = (memory.saturating_sub(empty)).checked_div(users as u64).unwrap_or(0);
            drop(daemon);
            let whole = whole_snapshot(&redis).await;
            println!(
                "| {users} | {} MB | {each} B | {took:.2} s | {cpu:.2} s | {whole:.2} s |",
                memory / 1_000_000
            );
        });
    }
}

/// The memory of a daemon that keeps 10,000 watched users, with as many and with a hundred times as many online.
pub fn memory_of_watched_users(runtime: &Runtime) {
    println!(
        "watched: memory of a daemon with --hold watched whose client watches 10,000 users, and of one with --hold all"
    );
    println!("| live users | --hold all | --hold watched | the states are known after |");
    println!("|---|---|---|---|");
    for users in [10_000, 1_000_000] {
        let redis = Redis::start();
        fill_long(&redis, users);
        runtime.block_on(async {
            let holder = Daemon::start(&redis).await;
            holder.until_lease("held").await;
            let chooser = Daemon::with(&["--redis", &redis.url(), "--hold", "watched"]).await;
            let mut socket = chooser.socket("").await;
            let names: Vec<String> = (0..WATCHED).map(|user| long_name(user, users)).collect();
            let began = Instant::now();
            let mut online = 0;
            for some in names.chunks(1_000) {
                socket.send(json!({"type": "watch", "users": some})).await;
                online += socket.snapshot().await.iter().filter(|user| user["state"] == "online").count();
            }
            let took = began.elapsed().as_secs_f64();
            assert_eq!(online, WATCHED);
            let [all, watched] = [&holder, &chooser].map(|daemon| resident_bytes(daemon.pid()) / 1_000_000);
            println!("| {users} | {all} MB | {watched} MB | {took:.2} s |");
        });
    }
}

/// Seconds from the start of a daemon until a client that watches everybody from the first moment on has them all.
async fn whole_snapshot(redis: &Redis) -> f64 {
    let began = Instant::now();
    let daemon = Daemon::launch(&["--redis", &redis.url()]);
    let mut socket = until("it listens", async || Socket::try_connect(daemon.port).await).await;
    socket.send(json!({"type": "watch", "all": true})).await;
    loop {
        let message = socket.ws.next().await.expect("the connection stays").expect("a message");
        let Message::Text(text) = message else { continue };
        if text.starts_with(r#"{"type":"snapshot""#) && text.ends_with(r#""more":false}"#) {
            return began.elapsed().as_secs_f64();
        }
    }
}

/// Twelve digits after the prefix make 36 bytes.
fn fill_long(redis: &Redis, users: usize) {
    fill(redis, &long_prefix(users), users);
}

fn long_prefix(users: usize) -> String {
    let digits = 12 - users.max(1).ilog10() as usize;
    format!("{PREFIX}{}", "0".repeat(digits.saturating_sub(1)))
}

/// One of so many users.
fn long_name(user: usize, users: usize) -> String {
    format!("{}{user}", long_prefix(users).trim_start_matches("presence:"))
}

/// Resident memory of a process.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a field");
    let kb: u64 = line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number");
    kb * 1024
}

/// User and system time of a process so far.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let after = stat.rsplit_once(')').expect("a name").1;
    let ticks =
        |n: usize| after.split_whitespace().nth(n).and_then(|t| t.parse::<f64>().ok()).expect("a number");
    // Fields 14 and 15; 100 ticks a second on Linux.
    (ticks(11) + ticks(12)) / 100.0
}
