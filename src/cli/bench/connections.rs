//! Many sockets: how soon they stand, what each costs, and how soon all are back when the daemon was lost.

use super::client::{Client, Tally, name};
use super::report::{Report, known};
use super::{Site, crowd, until};
use anyhow::Result;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Users whom each client watches.
const WATCHED: usize = 100;
/// What passing requests needed is given back.
const SETTLED: Duration = Duration::from_secs(1);

pub async fn measure(site: &mut Site, report: &Report, count: usize) -> Result<()> {
    report.head(&["connections", "sockets", "connected within", "daemon's memory per socket"]);
    for (what, among) in [
        ("idle", 0),
        ("each watches the same 100 users", WATCHED),
        ("each watches 100 of as many users", count),
    ] {
        // So that no row lives on what another has left.
        site.restart().await?;
        let (tally, before, began) = (Tally::new(0), site.memory(), Instant::now());
        let clients = crowd(site, count, |number| watch(number, among), &tally).await?;
        let expected = if among > 0 { count as u64 } else { 0 };
        until("all have their snapshot", async || tally.snapshots.load(Relaxed) >= expected).await?;
        let seconds = began.elapsed().as_secs_f64();
        sleep(SETTLED).await;
        let each = site.memory().zip(before).map(|(after, before)| (after - before) / count as f64);
        report.row(
            json!({"bench": "connections", "what": what, "sockets": count, "seconds": seconds, "bytes_each": each.map(f64::round)}),
            &[what.into(), count.to_string(), format!("{seconds:.1} s"), known(each, |each| format!("{each:.0} B"))],
        );
        drop(clients);
        sleep(SETTLED).await;
    }
    if site.is_own() {
        storm(site, report, count).await?;
    }
    Ok(())
}

/// A watch of 100 of so many users, from the client's own place on.
fn watch(number: usize, among: usize) -> Option<String> {
    let users: Vec<String> = (0..WATCHED.min(among)).map(|i| name((number + i) % among)).collect();
    (among > 0).then(|| json!({"type": "watch", "users": users}).to_string())
}

/// All lose the daemon at once, and come back as the console does: with backoff and jitter.
async fn storm(site: &mut Site, report: &Report, count: usize) -> Result<()> {
    site.restart().await?;
    let tally = Tally::new(0);
    let mut clients = JoinSet::new();
    for number in 0..count {
        clients.spawn(stay(site.address.clone(), number, count, tally.clone()));
    }
    let all = async |times: u64| {
        let snapshots = async || tally.snapshots.load(Relaxed) >= times * count as u64;
        until("all have their snapshot", snapshots).await
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
    for (what, seconds) in
        [("all connect at once", first), ("all lose the daemon at once, and are back", seconds)]
    {
        report.row(
            json!({"bench": "connections", "what": what, "sockets": count, "seconds": seconds, "ready_seconds": ready}),
            &[what.into(), count.to_string(), format!("{seconds:.1} s"), "-".into()],
        );
    }
    Ok(())
}

/// A client that comes back whenever it is lost, waiting as the console does.
async fn stay(address: super::client::Place, number: usize, among: usize, tally: Arc<Tally>) {
    let mut attempt = 0;
    loop {
        if let Ok(mut client) = Client::connect(&address, number).await {
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
