//! How late a WebSocket client learns that somebody came or went.

use crate::cells;
use crate::common::churn::{self, Crowd, precise_now_ms};
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, fill};
use crate::common::socket::Socket;
use std::collections::HashMap;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::{Instant, timeout_at};

/// A crowd of 1,500 among 300,000 others on a stock server, seen by a client that watches all.
pub fn churn(runtime: &Runtime) {
    println!("churn: 1,500 users who come and go for 25 s; from the fact to its arrival at the client");
    println!("| other live keys | what | seen | p50 | p99 | max |");
    println!("|---|---|---|---|---|---|");
    for others in [0, 300_000] {
        let redis = Redis::stock();
        fill(&redis, "presence:other-", others);
        runtime.block_on(async {
            let daemon = Daemon::start(&redis).await;
            let (socket, _) = daemon.watch_all().await;
            let crowd = Crowd { users: 1_500, lasts: Duration::from_secs(25) };
            let living = tokio::task::spawn_blocking(move || (churn::live(&redis, crowd), redis));
            let mut lived = None;
            let told =
                churn::listen(socket, async { lived = Some(living.await.expect("the crowd lives")) }).await;
            let (happened, redis) = lived.expect("the crowd has lived");
            let wrong = churn::differences(&happened, &told);
            assert!(wrong.is_empty(), "the figures are worth nothing: {wrong:?}");
            let kinds =
                ["offline, after the true deadline", "offline, after DEL", "online, after SET returned"];
            for (kind, lags) in kinds.iter().zip(churn::lags(&happened, &told)) {
                println!("| {others} | {kind} | {} | {} |", lags.len(), cells(&lags));
            }
            drop(redis);
        });
    }
}

/// Users who fall silent at each size, and how long each side is given to notice.
const EXPIRING: usize = 2_000;
const TTL_MS: u64 = 10_000;
const WAIT: Duration = Duration::from_secs(60);

/// Two servers of the same size side by side, followed by a daemon with probes and one without.
pub fn with_and_without_probes(runtime: &Runtime) {
    println!(
        "lag: {EXPIRING} users fall silent within 2 s; offline at the client after the true deadline; stock hz 10"
    );
    println!("| live keys | probes | told within {} s | p50 | p99 | max |", WAIT.as_secs());
    println!("|---|---|---|---|---|---|");
    for keys in [1_000, 100_000, 1_000_000] {
        let (with, without) = (Redis::stock(), Redis::stock());
        for redis in [&with, &without] {
            fill(redis, "presence:other-", keys);
        }
        let told = runtime.block_on(async { tokio::join!(one_side(&with, true), one_side(&without, false)) });
        for (probes, lags) in [("on", told.0), ("off", told.1)] {
            let share = 100.0 * lags.len() as f64 / EXPIRING as f64;
            println!("| {keys} | {probes} | {share:.0} % | {} |", cells(&lags));
        }
    }
}

async fn one_side(redis: &Redis, probes: bool) -> Vec<f64> {
    let daemon =
        Daemon::with(&["--redis", &redis.url(), "--probes", if probes { "true" } else { "false" }]).await;
    let (socket, _) = daemon.watch_all().await;
    let (deadlines, offline) = tokio::join!(fall_silent(redis), offline(socket));
    lags(&deadlines, &offline)
}

/// Sets the keys of the silent users, one each millisecond. Returns their deadlines.
pub async fn fall_silent(redis: &Redis) -> HashMap<String, f64> {
    let mut client = redis.client();
    let setting = tokio::task::spawn_blocking(move || {
        let ttl = TTL_MS.to_string();
        let set = |i: usize| {
            let name = format!("silent-{i}");
            let deadline = precise_now_ms() + TTL_MS as f64;
            client.call(&["SET", &format!("presence:{name}"), "1", "PX", &ttl]);
            std::thread::sleep(Duration::from_millis(1));
            (name, deadline)
        };
        (0..EXPIRING).map(set).collect::<HashMap<_, _>>()
    });
    setting.await.expect("the users are set")
}

/// From each deadline to the arrival at the client, sorted.
pub fn lags(deadlines: &HashMap<String, f64>, offline: &[(String, f64)]) -> Vec<f64> {
    let mut lags: Vec<f64> = offline.iter().map(|(user, at)| at - deadlines[user]).collect();
    lags.sort_by(f64::total_cmp);
    lags
}

/// When the client was told that each of the silent users is offline.
pub async fn offline(mut socket: Socket) -> Vec<(String, f64)> {
    let end = Instant::now() + Duration::from_millis(TTL_MS) + Duration::from_secs(3) + WAIT;
    let mut told = Vec::new();
    while told.len() < EXPIRING {
        // The harness loses patience after 20 s of silence; at many keys without probes that is early.
        let Ok(message) = timeout_at(end, socket.next_patiently()).await else {
            break;
        };
        let arrived = precise_now_ms();
        let transitions = message["transitions"].as_array().cloned().unwrap_or_default();
        for transition in transitions.iter().filter(|transition| transition["state"] == "offline") {
            told.push((transition["user"].as_str().expect("a name").to_owned(), arrived));
        }
    }
    told
}
