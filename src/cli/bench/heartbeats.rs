//! Heartbeats of users who are online already: rate, and the daemon's CPU per heartbeat.

use super::report::{Report, bar, known};
use super::{Site, until};
use anyhow::Result;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Heartbeats in one pipeline or request.
const TOGETHER: usize = 500;
/// Concurrent pipelines or requests.
const WRITERS: usize = 4;
const TTL: Duration = Duration::from_secs(600);

pub async fn measure(site: &Site, report: &Report, users: usize, lasts: Duration) -> Result<()> {
    report.head(&["heartbeats", "users", "written/s", "events received", "gaps", "daemon's CPU each"]);
    let all: Vec<usize> = (0..users).collect();
    for some in all.chunks(TOGETHER) {
        site.beat(some, TTL).await?;
    }
    settled(site).await?;
    if site.is_own() {
        row(site, report, &all, lasts, true).await?;
    }
    row(site, report, &all, lasts, false).await?;
    // The next measurement starts with nobody online.
    for some in all.chunks(TOGETHER) {
        site.end(some).await?;
    }
    settled(site).await
}

async fn row(site: &Site, report: &Report, users: &[usize], lasts: Duration, direct: bool) -> Result<()> {
    let what = if direct { "SET, directly to Redis" } else { "POST /v1/heartbeats" };
    let (before, cpu, began) = (site.stats().await?, site.cpu(), Instant::now());
    let bar = bar(what, lasts.as_millis() as u64);
    let writers = (0..WRITERS).map(|writer| {
        let bar = &bar;
        async move {
            let (mut written, mut some) = (0, users.chunks(TOGETHER).cycle().skip(writer));
            while began.elapsed() < lasts {
                let Some(some) = some.next() else { break };
                bar.set_position(began.elapsed().as_millis() as u64);
                if direct {
                    site.beat(some, TTL).await?;
                } else {
                    site.beat_by_http(some, TTL).await?;
                }
                written += some.len();
            }
            anyhow::Ok(written)
        }
    });
    let written: usize = futures_util::future::try_join_all(writers).await?.into_iter().sum();
    let seconds = began.elapsed().as_secs_f64();
    bar.finish_and_clear();
    settled(site).await?;
    let after = site.stats().await?;
    let growth = |name: &str| count(&after[name]) - count(&before[name]);
    let gaps = all(&after["gaps"]) - all(&before["gaps"]);
    let (events, rate) = (growth("events"), written as f64 / seconds);
    let share = events as f64 / written.max(1) as f64;
    let cpu_us = site.cpu().zip(cpu).map(|(after, before)| (after - before) / written.max(1) as f64 * 1e6);
    report.row(
        json!({"bench": "heartbeats", "what": what, "users": users.len(), "written_per_second": rate,
            "events_share": share, "gaps": gaps, "cpu_us": cpu_us}),
        &[
            what.into(),
            users.len().to_string(),
            format!("{rate:.0}"),
            format!("{:.1} %", share * 100.0),
            gaps.to_string(),
            known(cpu_us, |us| format!("{us:.2} µs")),
        ],
    );
    Ok(())
}

/// The number of gaps of all causes.
fn all(causes: &serde_json::Value) -> u64 {
    causes.as_object().map_or(0, |causes| causes.values().map(count).sum())
}

fn count(value: &serde_json::Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// Waits until the daemon has processed all events: until their count stops growing.
async fn settled(site: &Site) -> Result<()> {
    let mut last = u64::MAX;
    until("the daemon processes all events", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Ok(stats) = site.stats().await else { return false };
        std::mem::replace(&mut last, count(&stats["events"])) == last
    })
    .await
}
