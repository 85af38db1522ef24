//! The unit costs of presence: CPU of Redis and of each daemon per heartbeat of a user who is online, and CPU of Redis per user who
//! appears, by the number of daemons and the way they learn of renewals.

use super::client::name;
use super::report::{Report, bar, known};
use super::site::{cpu_of, memory_of, serve};
use super::until;
use crate::cli::access::TokenArgs;
use crate::cli::address::AddressArgs;
use crate::cli::daemon::DaemonApi;
use crate::client::Address;
use crate::config::DEFAULT_PREFIX;
use crate::presence::KeyPattern;
use crate::redis::Names;
use crate::redis::private::Embedded;
use crate::redis::usage::UsageMeter;
use crate::redis::writer::WriteConnection;
use anyhow::{Context, Result, anyhow};
use axum::http::Method;
use serde_json::{Value as Json, json};
use std::time::Duration;
use tokio::process::Child;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Heartbeats per second, if there are enough users.
const RATE: f64 = 10_000.0;
/// The shortest interval between two heartbeats of a user. The TTL is three times as long.
const EVERY: Duration = Duration::from_secs(2);
/// Heartbeats of each user who appears. A daemon asks for the TTL twice: at the first, and when the second has renewed it. All but one of
/// them cost what a heartbeat costs later.
const APPEAR: u32 = 2;
/// The interval between two pipelines of heartbeats.
const TICK: Duration = Duration::from_millis(2);
/// The advice where Redis does not answer in time.
const TOO_MUCH: &str = "Redis did not take a heartbeat in time, so this load is too much for this machine; use fewer users or daemons: \
                        --users 6000 --daemons 0,1,2";
/// The values of `--events` that are measured.
const EVENTS: [&str; 3] = ["set", "expire", "new"];

/// The sizes of the measurement.
pub struct Sizes {
    pub users: usize,
    /// The numbers of daemons.
    pub daemons: Vec<u8>,
    pub lasts: Duration,
}

/// Each row has its own Redis, which starts without notifications; the daemons add the classes that they need.
pub async fn measure(report: &Report, sizes: &Sizes) -> Result<()> {
    report.head(&[
        "capacity: --events",
        "daemons",
        "heartbeats/s",
        "Redis' CPU each",
        "Redis' CPU per user who appears",
        "Redis' output each",
        "a daemon's CPU each",
        "a daemon's memory",
        "gaps",
    ]);
    let mut counts = sizes.daemons.clone();
    counts.sort_unstable();
    counts.dedup();
    if counts.first() == Some(&0) {
        row(report, sizes, None, 0).await?;
    }
    for events in EVENTS {
        for &count in counts.iter().filter(|&&count| count > 0) {
            row(report, sizes, Some(events), count).await?;
        }
    }
    Ok(())
}

async fn row(report: &Report, sizes: &Sizes, events: Option<&str>, count: u8) -> Result<()> {
    let load = Load::start(sizes.users).await?;
    let mut daemons = Vec::new();
    for _ in 0..count {
        daemons.push(Listener::start(&load.embedded, events.unwrap_or("set")).await?);
    }
    let label = format!("{count} daemons, {}", events.unwrap_or("no events"));
    // All users come online, and their deadlines are known.
    load.beat(&label, &load.online, load.every * APPEAR).await?;
    let (before, began) = (Usage::of(&load, &daemons).await?, Instant::now());
    let sent = load.beat(&label, &load.online, sizes.lasts).await?;
    let seconds = began.elapsed().as_secs_f64();
    let after = Usage::of(&load, &daemons).await?;
    // The others send none meanwhile; their TTL is longer.
    load.beat(&label, &load.appearing, load.every * APPEAR).await?;
    let end = Usage::of(&load, &daemons).await?;
    let mut gaps = 0;
    for daemon in &daemons {
        gaps += daemon.gaps().await?;
    }
    let each = |before: f64, after: f64| (after - before) / sent.max(1) as f64;
    let redis_us = each(before.redis_s, after.redis_s) * 1e6;
    let beats = f64::from(APPEAR - 1) * redis_us;
    let appears_us = (end.redis_s - after.redis_s) / load.appearing.len() as f64 * 1e6 - beats;
    let bytes = each(before.bytes, after.bytes);
    let of_one = |total: f64| (count > 0).then(|| total / f64::from(count));
    let daemon_us = of_one(each(before.daemons_s, after.daemons_s) * 1e6);
    let memory = of_one(daemons.iter().filter_map(|daemon| memory_of(&daemon.process)).sum());
    let rate = sent as f64 / seconds;
    report.row(
        json!({"bench": "capacity", "events": events, "daemons": count, "users": sizes.users,
            "heartbeats_per_second": rate, "redis_cpu_us": redis_us, "redis_cpu_us_per_user": appears_us,
            "redis_output_bytes": bytes,
            "daemon_cpu_us": daemon_us, "daemon_memory_bytes": memory, "gaps": gaps}),
        &[
            events.unwrap_or("no notifications").into(),
            count.to_string(),
            format!("{rate:.0}"),
            format!("{redis_us:.2} µs"),
            format!("{appears_us:.2} µs"),
            format!("{bytes:.0} B"),
            known(daemon_us, |us| format!("{us:.2} µs")),
            known(memory, |bytes| format!("{:.0} MB", bytes / 1e6)),
            gaps.to_string(),
        ],
    );
    for mut daemon in daemons {
        daemon.process.kill().await?;
    }
    load.embedded.stop().await;
    Ok(())
}

/// A Redis, and users who send heartbeats to it.
struct Load {
    embedded: Embedded,
    redis: WriteConnection,
    meter: UsageMeter,
    /// The keys of users who are online, and of those who appear.
    online: Vec<String>,
    appearing: Vec<String>,
    every: Duration,
}

impl Load {
    async fn start(users: usize) -> Result<Load> {
        let embedded = Embedded::start().await?;
        let target = embedded.target()?;
        let redis = WriteConnection::open(&target).await?;
        let meter = UsageMeter::without_events(&target).await?;
        let names = Names::new(&KeyPattern::of_prefix(DEFAULT_PREFIX), target.db());
        let users = users.max(1);
        let keys = |from: usize| (from..from + users).map(|user| names.redis_key(&name(user))).collect();
        let (online, appearing) = (keys(0), keys(users));
        let every = EVERY.max(Duration::from_secs_f64(users as f64 / RATE));
        Ok(Load { embedded, redis, meter, online, appearing, every })
    }

    /// Sends heartbeats with these keys in turn, evenly. Returns how many.
    async fn beat(&self, what: &str, keys: &[String], lasts: Duration) -> Result<usize> {
        let (began, bar) = (Instant::now(), bar(what, lasts.as_millis() as u64));
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sent = 0;
        while began.elapsed() < lasts {
            ticks.tick().await;
            let due = keys.len() as f64 * began.elapsed().as_secs_f64() / self.every.as_secs_f64();
            let some = (sent..due as usize).map(|number| keys[number % keys.len()].clone());
            if due as usize > sent {
                self.redis.set(some, self.every * 3).await.context(TOO_MUCH)?;
                sent = due as usize;
            }
            bar.set_position(began.elapsed().as_millis() as u64);
        }
        bar.finish_and_clear();
        Ok(sent)
    }
}

/// A daemon.
struct Listener {
    process: Child,
    http: DaemonApi,
}

impl Listener {
    async fn start(embedded: &Embedded, events: &str) -> Result<Listener> {
        let at = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let process = serve(embedded, at, &["--events", events])?;
        let url = Some(Address::parse(&format!("http://{at}")).map_err(|why| anyhow!(why))?);
        let http = DaemonApi::new(&AddressArgs { url, ca: None }, TokenArgs::none())?;
        let asked = async || {
            let answer = http.call(Method::GET, "/readyz", None).await;
            answer.is_ok_and(|(status, _)| status.is_success())
        };
        until("the daemon is ready", asked).await?;
        Ok(Listener { process, http })
    }

    /// How many gaps it had. One that had any missed heartbeats, so its costs are too low.
    async fn gaps(&self) -> Result<u64> {
        let text = self.http.ask(Method::GET, "/v1/stats", None).await?;
        let stats: Json = serde_json::from_slice(&text).context("cannot parse the answer of the daemon")?;
        Ok(stats["gaps"].as_object().map_or(0, |gaps| gaps.values().filter_map(Json::as_u64).sum()))
    }
}

/// What Redis and all daemons have used so far.
struct Usage {
    redis_s: f64,
    bytes: f64,
    daemons_s: f64,
}

impl Usage {
    async fn of(load: &Load, daemons: &[Listener]) -> Result<Usage> {
        let redis = load.meter.read().await?;
        Ok(Usage {
            redis_s: redis.cpu_s,
            bytes: redis.output_bytes,
            daemons_s: daemons.iter().filter_map(|daemon| cpu_of(&daemon.process)).sum(),
        })
    }
}
