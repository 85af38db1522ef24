//! Heartbeats of users who are online already: rate, and the daemon's CPU per heartbeat.

use super::report::{Report, bar, known};
use super::{Site, until};
use anyhow::Result;
use futures_util::future::try_join_all;
use indicatif::ProgressBar;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Heartbeats in one pipeline or request.
const TOGETHER: usize = 500;
/// Concurrent pipelines or requests.
const WRITERS: usize = 4;
const TTL: Duration = Duration::from_secs(600);
/// Heartbeats per second of programs that send each, or a few, by itself.
const PACED: f64 = 20_000.0;
/// Programs that send them, each with its connection.
const PROGRAMS: usize = 8;

pub async fn measure(site: &Site, report: &Report, users: usize, lasts: Duration) -> Result<()> {
    report.head(&["heartbeats", "users", "written/s", "events received", "gaps", "daemon's CPU each"]);
    let all: Vec<usize> = (0..users).collect();
    for some in all.chunks(TOGETHER) {
        site.beat(some, TTL).await?;
    }
    settled(site).await?;
    if site.is_own() {
        row(site, report, &all, lasts, Way::Pipelines).await?;
        for together in [1, 10] {
            row(site, report, &all, lasts, Way::Paced { together }).await?;
        }
    }
    row(site, report, &all, lasts, Way::Http).await?;
    // The next measurement starts with nobody online.
    for some in all.chunks(TOGETHER) {
        site.end(some).await?;
    }
    settled(site).await
}

/// How heartbeats are sent.
#[derive(Clone, Copy)]
enum Way {
    /// Directly to Redis, as fast as it takes large pipelines.
    Pipelines,
    /// Directly to Redis, evenly, so many in a pipeline, as programs do whose users come one by one.
    Paced { together: usize },
    /// In requests to the daemon, as fast as it takes them.
    Http,
}

impl Way {
    fn name(self) -> String {
        match self {
            Way::Pipelines => "SET, directly to Redis".into(),
            Way::Paced { together: 1 } => format!("SET, each by itself, {PACED:.0}/s"),
            Way::Paced { together } => format!("SET, {together} in a pipeline, {PACED:.0}/s"),
            Way::Http => "POST /v1/heartbeats".into(),
        }
    }
}

/// One measurement.
struct Run<'a> {
    site: &'a Site,
    users: &'a [usize],
    began: Instant,
    lasts: Duration,
    bar: &'a ProgressBar,
}

impl Run<'_> {
    /// Is there time left? Shows how much has passed.
    fn goes_on(&self) -> bool {
        self.bar.set_position(self.began.elapsed().as_millis() as u64);
        self.began.elapsed() < self.lasts
    }

    /// Sends as fast as the other side takes it. Returns how many heartbeats.
    async fn flood(&self, way: Way) -> Result<usize> {
        let writers = (0..WRITERS).map(async |writer| {
            let (mut written, mut some) = (0, self.users.chunks(TOGETHER).cycle().skip(writer));
            while self.goes_on() {
                let Some(some) = some.next() else { break };
                match way {
                    Way::Http => self.site.beat_by_http(some, TTL).await?,
                    _ => self.site.beat(some, TTL).await?,
                }
                written += some.len();
            }
            anyhow::Ok(written)
        });
        Ok(try_join_all(writers).await?.into_iter().sum())
    }

    /// Sends evenly, from several programs. Returns how many heartbeats.
    async fn pace(&self, together: usize) -> Result<usize> {
        let rate = PACED / PROGRAMS as f64;
        let programs = (0..PROGRAMS).map(async |program| {
            let Some(redis) = self.site.writer().await? else { return Ok(0) };
            let (mut written, mut some) = (0, self.users.chunks(together).cycle().skip(program * TOGETHER));
            while self.goes_on() {
                if written as f64 > self.began.elapsed().as_secs_f64() * rate {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                let Some(some) = some.next() else { break };
                redis.beat(some, TTL).await?;
                written += some.len();
            }
            anyhow::Ok(written)
        });
        Ok(try_join_all(programs).await?.into_iter().sum())
    }
}

async fn row(site: &Site, report: &Report, users: &[usize], lasts: Duration, way: Way) -> Result<()> {
    let what = way.name();
    let (before, cpu, began) = (site.stats().await?, site.cpu(), Instant::now());
    let bar = bar(&what, lasts.as_millis() as u64);
    let run = Run { site, users, began, lasts, bar: &bar };
    let written = match way {
        Way::Paced { together } => run.pace(together).await?,
        _ => run.flood(way).await?,
    };
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
            what,
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
