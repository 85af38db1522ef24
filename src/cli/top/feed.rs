//! What `top` learns from a daemon, or from Redis itself.

use super::model::{DEADLINES, Stats, Update};
use crate::cli::address::advised;
use crate::cli::daemon::Daemon;
use crate::cli::{Source, TopArgs, watch};
use crate::client::{Error, Event};
use crate::metrics::Metrics;
use crate::protocol::RedisWord;
use crate::redis::scan::{Listing, LiveKey};
use crate::redis::target::Target;
use anyhow::{Result, anyhow};
use axum::http::Method;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How often counts are asked for.
const EVERY: Duration = Duration::from_secs(1);
/// All keys are read for the soonest deadlines. So many times as long as that took nothing is read, to leave Redis to others.
const REST: u32 = 10;

/// The feeds; they end when this is dropped.
pub struct Feeds {
    /// Where from, for people.
    pub from: String,
    pub asks_for_deadlines: bool,
    _tasks: JoinSet<()>,
}

pub fn start(args: &TopArgs, tell: Sender<Update>) -> Result<Feeds> {
    let mut tasks = JoinSet::new();
    let redis = args.source.redis.as_deref();
    let target = redis.map(|url| crate::cli::redis(url, &args.source.redis_tls)).transpose()?;
    let asks_for_deadlines = target.is_some();
    if let Some(target) = target {
        tasks.spawn(deadlines(target, args.source.prefix.clone(), tell.clone()));
    }
    let from = match args.source.source()? {
        Source::Daemon(daemon) => {
            let (from, daemon) = (daemon.shown(), Arc::new(daemon));
            tasks.spawn(stream(daemon.clone(), tell.clone()));
            tasks.spawn(counts(daemon, tell));
            from
        }
        Source::Redis(target) => {
            let from = target.shown().to_owned();
            let metrics = Arc::new(Metrics::new());
            let belief = watch::belief(&args.source, &target, metrics.clone());
            tasks.spawn(straight(belief, metrics, tell));
            from
        }
    };
    Ok(Feeds { from, asks_for_deadlines, _tasks: tasks })
}

/// The daemon's transitions.
async fn stream(daemon: Arc<Daemon>, tell: Sender<Update>) {
    let ended = async {
        let mut client = daemon.client()?;
        client.watch_all();
        loop {
            let update = match client.next().await.map_err(advised)? {
                Event::Transitions(transitions) => Update::Transitions(transitions),
                Event::Status { redis, .. } => Update::Redis(redis),
                Event::Live => Update::Link(Ok(())),
                Event::Waiting { why, .. } => Update::Link(Err(format!("{:#}", advised(why)))),
                Event::Refused { message, .. } => return Err(advised(Error::Refused(message))),
                Event::Snapshot(_) => continue,
            };
            if tell.send(update).await.is_err() {
                return Ok(());
            }
        }
    };
    let ended: Result<()> = ended.await;
    if let Err(why) = ended {
        // Nobody listens where the picture is gone.
        tell.send(Update::Over(why)).await.ok();
    }
}

/// The daemon's counts. That it is away is told by its stream.
async fn counts(daemon: Arc<Daemon>, tell: Sender<Update>) {
    loop {
        if let Ok(body) = daemon.ask(Method::GET, "/v1/stats", None).await
            && let Ok(value) = serde_json::from_slice(&body)
            && tell.send(Update::Stats(read(&value))).await.is_err()
        {
            return;
        }
        sleep(EVERY).await;
    }
}

fn read(value: &Value) -> Stats {
    let number = |name: &str| value[name].as_u64().unwrap_or_default();
    let of = |word: &str| value["transitions"][word].as_u64().unwrap_or_default();
    let gaps = value["gaps"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64());
    Stats {
        users: number("users_online"),
        sessions: number("sessions"),
        watchers: value["watchers"].as_u64(),
        transitions: of("online") + of("offline"),
        gaps: gaps.sum(),
        repairs: number("repairs"),
        lag_ms: ["p50", "p99", "max"].map(|name| value["lag_ms"][name].as_f64()),
        cause: value["redis"]["cause"].as_str().map(str::to_owned),
        redis_up: value["redis"]["status"] == "up",
        epoch: value["epoch"].as_str().unwrap_or_default().to_owned(),
    }
}

/// The same belief as a daemon's, held in this process.
async fn straight(belief: watch::Belief, metrics: Arc<Metrics>, tell: Sender<Update>) {
    let hub = &belief.hub;
    let watcher = hub.watcher();
    hub.watch_all(&watcher).flatten().for_each(drop);
    let counts = || {
        let ((users, sessions), status) = (hub.count(), hub.status().borrow().clone());
        let lag = metrics.detection_lag.percentiles();
        Stats {
            users: users as u64,
            sessions,
            watchers: None,
            transitions: metrics.went_online.get() + metrics.went_offline.get(),
            gaps: metrics.gaps_by_cause().values().sum(),
            repairs: metrics.repairs_by_cause().values().sum(),
            lag_ms: [lag.p50, lag.p99, lag.max],
            cause: Some(status.cause.clone()).filter(|cause| !cause.is_empty()),
            redis_up: status.up,
            epoch: String::new(),
        }
    };
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        let updates = tokio::select! {
            _ = ticks.tick() => {
                let stats = counts();
                let cause = stats.cause.clone().unwrap_or_else(|| "connecting".into());
                let link = if *hub.opened().borrow() { Ok(()) } else { Err(cause) };
                let word = if stats.redis_up { RedisWord::Up } else { RedisWord::Down };
                vec![Update::Link(link), Update::Stats(stats), Update::Redis(word)]
            }
            () = watcher.rung() => {
                let told = watcher.take(usize::MAX);
                let told = told.iter().filter_map(|told| serde_json::from_str(&told.json).ok());
                vec![Update::Transitions(told.collect())]
            }
        };
        for update in updates {
            if tell.send(update).await.is_err() {
                return;
            }
        }
    }
}

/// The soonest deadlines, again and again.
async fn deadlines(target: Target, prefix: String, tell: Sender<Update>) {
    loop {
        let began = Instant::now();
        let read = soonest(&target, &prefix).await.map_err(|why| format!("{why:#}"));
        if tell.send(Update::Deadlines(read)).await.is_err() {
            return;
        }
        sleep((began.elapsed() * REST).max(EVERY)).await;
    }
}

async fn soonest(target: &Target, prefix: &str) -> Result<(Vec<LiveKey>, usize)> {
    let read = async {
        let listing = Listing::connect(target, prefix).await?;
        listing.read("*", |_| {}).await
    };
    // However many keys there are: a server that hangs is not waited for without end.
    let read = tokio::time::timeout(Duration::from_secs(300), read).await;
    let mut keys = read.map_err(|_| anyhow!("Redis did not list its keys within 5 minutes"))??;
    let total = keys.len();
    keys.sort_by_key(|key| key.left_ms.unwrap_or(u64::MAX));
    keys.truncate(DEADLINES);
    Ok((keys, total))
}
