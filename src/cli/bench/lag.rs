//! The time from a change to its message at a client that watches everybody.

use super::client::{LoadClient, Tally};
use super::report::{Report, bar, ms, quantiles};
use super::{Site, until};
use anyhow::Result;
use serde_json::json;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Maximum users that change one by one.
const FEW: usize = 1_000;
/// Pause between two of them.
const PAUSE: Duration = Duration::from_millis(2);
/// TTL of users who go silent one by one.
const TTL: Duration = Duration::from_secs(2);
/// TTL of users who go silent in the same second: a base, plus the time to write each key.
const TTL_OF_MANY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_micros(60));
const TOGETHER: usize = 1_000;

pub async fn measure(site: &Site, report: &Report, users: usize) -> Result<()> {
    report.head(&["lag", "users", "received", "p50", "p99", "max"]);
    let few = users.min(FEW);
    let tally = Tally::of_each(users);
    let mut client = LoadClient::connect(&site.address, 0).await?;
    client.send(r#"{"type":"watch","all":true}"#).await?;
    let _client = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(client.count(tally.clone())));
    until("the client receives its snapshot", async || tally.snapshots.load(Relaxed) > 0).await?;
    for (what, come) in [("online, after the SET was sent", true), ("offline, after the DEL was sent", false)]
    {
        let received = tally.received.load(Relaxed);
        let bar = bar(what, few as u64);
        for user in 0..few {
            site.change(&tally, &[user], come).await?;
            bar.inc(1);
            sleep(PAUSE).await;
        }
        bar.finish_and_clear();
        row(report, &tally, what, few, received).await?;
    }
    one_by_one(site, report, &tally, few).await?;
    all_at_once(site, report, &tally, users).await
}

async fn one_by_one(site: &Site, report: &Report, tally: &Tally, few: usize) -> Result<()> {
    let what = "offline, one by one, after the deadline";
    let (received, bar) = (tally.received.load(Relaxed), bar(what, few as u64));
    for user in 0..few {
        // The earliest possible deadline, so the lags are rather too long than too short.
        tally.changed[user].store(tally.now_us() + TTL.as_micros() as u64, Relaxed);
        site.beat(&[user], TTL).await?;
        bar.inc(1);
        sleep(PAUSE).await;
    }
    bar.finish_and_clear();
    // Each user goes online and offline; only the second transition, after the deadline, has a lag.
    row(report, tally, what, few, received + few as u64).await
}

async fn all_at_once(site: &Site, report: &Report, tally: &Tally, users: usize) -> Result<()> {
    let what = "offline, all in the same second, after the deadline";
    let received = tally.received.load(Relaxed);
    let ttl = TTL_OF_MANY.0 + TTL_OF_MANY.1 * users as u32;
    let began = Instant::now();
    let at_us = tally.now_us() + ttl.as_micros() as u64;
    let all: Vec<usize> = (0..users).collect();
    let bar = bar(what, users as u64);
    for some in all.chunks(TOGETHER) {
        // Deadlines are spread over one second, in the order of the writes.
        let within = Duration::from_secs(1).mul_f64(some[0] as f64 / users as f64);
        let left = ttl.saturating_sub(began.elapsed()) + within;
        some.iter().for_each(|&user| {
            tally.changed[user].store(at_us + within.as_micros() as u64, Relaxed);
        });
        site.beat(some, left).await?;
        bar.inc(some.len() as u64);
    }
    bar.finish_and_clear();
    sleep_until(began + ttl).await;
    row(report, tally, what, users, received + users as u64).await
}

/// Waits until `users` more transitions than `received` have arrived, and prints the row.
async fn row(report: &Report, tally: &Tally, what: &str, users: usize, received: u64) -> Result<()> {
    let all = async || tally.received.load(Relaxed) >= received + users as u64;
    until("all transitions arrive", all).await?;
    let lags = tally.take_lags();
    // Transitions to online arrived before the deadline; their lag does not count.
    let lags = &lags[lags.len().saturating_sub(users)..];
    let [p50, p99, max] = quantiles(lags);
    report.row(
        json!({"bench": "lag", "what": what, "users": users, "told": lags.len(), "p50_ms": p50, "p99_ms": p99,
            "max_ms": max}),
        &[what.into(), users.to_string(), lags.len().to_string(), ms(p50), ms(p99), ms(max)],
    );
    Ok(())
}
