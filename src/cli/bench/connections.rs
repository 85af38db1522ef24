//! Many sockets: time to connect, memory per socket, CPU per heartbeat of users whom sockets keep online, and time to reconnect after the
//! daemon was killed.

use super::client::{LoadClient, Tally, name};
use super::report::{Report, known};
use super::{Site, crowd, gather, until};
use anyhow::Result;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Users that each client watches.
const WATCHED: usize = 100;
/// Sockets that keep a user online, at most.
const KEEPERS: usize = 5_000;
/// The counter of the heartbeats that the daemon has written.
const HEARTBEATS: &str = "keybeat_heartbeats_total";
/// Time in which the daemon frees the memory of finished requests.
const SETTLED: Duration = Duration::from_secs(1);

pub async fn measure(site: &mut Site, report: &Report, count: usize, lasts: Duration) -> Result<()> {
    report.head(&[
        "connections",
        "sockets",
        "time to connect",
        "daemon's memory per socket",
        "daemon's CPU per heartbeat",
    ]);
    for (what, among) in [
        ("idle", 0),
        ("each watches the same 100 users", WATCHED),
        ("each watches 100 of as many users", count),
    ] {
        // A fresh daemon, so that no row reuses the memory of the row before.
        site.restart().await?;
        let (tally, before, began) = (Tally::new(0), site.memory(), Instant::now());
        let clients = crowd(site, count, |number| watch(number, among), &tally).await?;
        let expected = if among > 0 { count as u64 } else { 0 };
        until("all clients receive their snapshot", async || tally.snapshots.load(Relaxed) >= expected)
            .await?;
        let seconds = began.elapsed().as_secs_f64();
        sleep(SETTLED).await;
        let each = site.memory().zip(before).map(|(after, before)| (after - before) / count as f64);
        report.row(
            json!({"bench": "connections", "what": what, "sockets": count, "seconds": seconds, "bytes_each": each.map(f64::round)}),
            &[what.into(), count.to_string(), format!("{seconds:.1} s"), known(each, |each| format!("{each:.0} B")), "-".into()],
        );
        drop(clients);
        sleep(SETTLED).await;
    }
    keep_online(site, report, count.min(KEEPERS), lasts).await?;
    if site.is_own() {
        storm(site, report, count).await?;
    }
    Ok(())
}

/// Each socket keeps a user online. The CPU includes its pings and pongs. In a short time no heartbeat is due.
async fn keep_online(site: &mut Site, report: &Report, count: usize, lasts: Duration) -> Result<()> {
    site.restart().await?;
    let (tally, began) = (Tally::new(0), Instant::now());
    let keeper = |number: usize| {
        let address = site.address.clone();
        async move { LoadClient::keeper(&address, number).await }
    };
    let clients = gather(count, keeper, &tally).await?;
    let seconds = began.elapsed().as_secs_f64();
    sleep(SETTLED).await;
    let (before, cpu) = (site.counter(HEARTBEATS).await?, site.cpu());
    sleep(lasts).await;
    let (after, used) =
        (site.counter(HEARTBEATS).await?, site.cpu().zip(cpu).map(|(after, before)| after - before));
    let heartbeats = after - before;
    let each_us = used.filter(|_| heartbeats > 0.0).map(|used| used / heartbeats * 1e6);
    report.row(
        json!({"bench": "connections", "what": "each keeps a user online", "sockets": count, "seconds": seconds,
            "heartbeats": heartbeats, "cpu_us": each_us}),
        &[
            "each keeps a user online".into(),
            count.to_string(),
            format!("{seconds:.1} s"),
            "-".into(),
            known(each_us, |us| format!("{us:.1} µs")),
        ],
    );
    drop(clients);
    sleep(SETTLED).await;
    Ok(())
}

/// A `watch` of 100 of `among` users, beginning at the client's number.
fn watch(number: usize, among: usize) -> Option<String> {
    let users: Vec<String> = (0..WATCHED.min(among)).map(|i| name((number + i) % among)).collect();
    (among > 0).then(|| json!({"type": "watch", "users": users}).to_string())
}

/// All clients lose the daemon at once and reconnect with backoff and jitter, as the console does.
async fn storm(site: &mut Site, report: &Report, count: usize) -> Result<()> {
    site.restart().await?;
    let tally = Tally::new(0);
    let mut clients = JoinSet::new();
    for number in 0..count {
        clients.spawn(stay(site.address.clone(), number, count, tally.clone()));
    }
    let all = async |times: u64| {
        let snapshots = async || tally.snapshots.load(Relaxed) >= times * count as u64;
        until("all clients receive their snapshot", snapshots).await
    };
    let began = Instant::now();
    all(1).await?;
    let first = began.elapsed().as_secs_f64();
    site.kill().await?;
    let lost = async || tally.ended.load(Relaxed) >= count as u64;
    until("all have lost the daemon", lost).await?;
    let began = Instant::now();
    site.restart().await?;
    let ready = began.elapsed().as_secs_f64();
    all(2).await?;
    let seconds = began.elapsed().as_secs_f64();
    for (what, seconds) in [("all connect at once", first), ("the daemon is killed, all reconnect", seconds)]
    {
        report.row(
            json!({"bench": "connections", "what": what, "sockets": count, "seconds": seconds, "ready_seconds": ready}),
            &[what.into(), count.to_string(), format!("{seconds:.1} s"), "-".into(), "-".into()],
        );
    }
    Ok(())
}

/// A client that reconnects with the delays of the console.
async fn stay(address: super::client::LoadTarget, number: usize, among: usize, tally: Arc<Tally>) {
    let mut attempt = 0;
    loop {
        if let Ok(mut client) = LoadClient::connect(&address, number).await {
            let message = watch(number, among).unwrap_or_default();
            if client.send(&message).await.is_ok() {
                attempt = 0;
                client.count(tally.clone()).await;
            }
        }
        attempt += 1;
        let (least, most) = (0.5, 15.0_f64);
        let ceiling = most.min(least * 2_f64.powi(attempt));
        sleep(Duration::from_secs_f64(least + fastrand::f64() * (ceiling - least))).await;
    }
}
