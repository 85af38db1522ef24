//! Where `top` gets its data: a daemon, or Redis itself.

use super::model::{DEADLINES, Figures, Update};
use crate::cli::address::advised;
use crate::cli::daemon::DaemonApi;
use crate::cli::{Source, TopArgs, watch};
use crate::client::{ClientError, ClientEvent};
use crate::hub::{Hub, Watcher};
use crate::metrics::Metrics;
use crate::presence::KeyPattern;
use crate::protocol::{RedisWord, StatusObject, UserObject};
use crate::redis::Glob;
use crate::redis::listing::{Listing, LiveKey};
use crate::redis::target::Target;
use anyhow::{Result, anyhow};
use axum::http::Method;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Time between two reads of the counts.
const EVERY: Duration = Duration::from_secs(1);
/// To find the next deadlines, a feed reads all keys. It then pauses this many times as long as that took.
const REST: u32 = 10;

/// Running feeds; they end when this is dropped.
pub struct Feeds {
    /// The daemon or Redis, for people.
    pub from: String,
    pub asks_for_deadlines: bool,
    _tasks: JoinSet<()>,
}

pub fn start(args: &TopArgs, sender: Sender<Update>) -> Result<Feeds> {
    let mut tasks = JoinSet::new();
    let redis = args.source.redis.as_deref();
    let target = redis.map(|url| crate::cli::redis(url, &args.source.redis_access)).transpose()?;
    let asks_for_deadlines = target.is_some();
    if let Some(target) = target {
        tasks.spawn(deadlines(target, args.source.pattern.pattern(), sender.clone()));
    }
    let from = match args.source.source()? {
        Source::Daemon(daemon) => {
            let (from, daemon) = (daemon.shown(), Arc::new(daemon));
            tasks.spawn(stream(daemon.clone(), args.groups.clone(), sender.clone()));
            tasks.spawn(counts(daemon, sender));
            from
        }
        Source::Redis(target) => {
            watch::no_groups(&args.groups)?;
            let from = target.shown().to_owned();
            let metrics = Arc::new(Metrics::new());
            let belief = watch::belief(&args.source, &target, metrics.clone());
            tasks.spawn(straight(belief, metrics, sender));
            from
        }
    };
    Ok(Feeds { from, asks_for_deadlines, _tasks: tasks })
}

/// Transitions, statuses and counts of these groups from a daemon.
async fn stream(daemon: Arc<DaemonApi>, groups: Vec<String>, sender: Sender<Update>) {
    let ended = async {
        let mut client = daemon.client()?;
        client.watch_all();
        groups.iter().for_each(|group| client.watch_group_counts(group));
        loop {
            let update = match client.next().await.map_err(advised)? {
                ClientEvent::Transitions(transitions) => Update::Transitions(transitions),
                ClientEvent::Status { redis, .. } => Update::Redis(redis),
                ClientEvent::Live => Update::Link(Ok(())),
                ClientEvent::Waiting { why, .. } => Update::Link(Err(format!("{:#}", advised(why)))),
                ClientEvent::Refused { message, .. } => return Err(advised(ClientError::Refused(message))),
                ClientEvent::Occupancy { group, members, online } => Update::Group { group, members, online },
                ClientEvent::GroupRefused { group, message, .. } => {
                    return Err(watch::refused(&group, &message));
                }
                // Only of groups whose members are watched.
                ClientEvent::Group { .. } | ClientEvent::Members { .. } => continue,
                ClientEvent::Statuses(statuses) => Update::Statuses(statuses),
                ClientEvent::Snapshot(users) => Update::Statuses(users.iter().filter_map(status).collect()),
            };
            if sender.send(update).await.is_err() {
                return Ok(());
            }
        }
    };
    let ended: Result<()> = ended.await;
    if let Err(why) = ended {
        // The receiver is gone if `top` has ended.
        sender.send(Update::Over(why)).await.ok();
    }
}

/// The status in a snapshot.
fn status(object: &UserObject) -> Option<StatusObject> {
    Some(StatusObject { user: object.user().to_owned(), status: object.status()?.clone() })
}

/// Counts from a daemon. Errors are left to `stream`, which shows that the daemon is unreachable.
async fn counts(daemon: Arc<DaemonApi>, sender: Sender<Update>) {
    loop {
        if let Ok(body) = daemon.ask(Method::GET, "/v1/stats", None).await
            && let Ok(value) = serde_json::from_slice(&body)
            && sender.send(Update::Counted(read(&value))).await.is_err()
        {
            return;
        }
        sleep(EVERY).await;
    }
}

fn read(value: &Value) -> Figures {
    let number = |name: &str| value[name].as_u64().unwrap_or_default();
    let of = |word: &str| value["transitions"][word].as_u64().unwrap_or_default();
    let gaps = value["gaps"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64());
    Figures {
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

/// Transitions and counts straight from Redis, by a hub in this process.
async fn straight(belief: watch::Belief, metrics: Arc<Metrics>, sender: Sender<Update>) {
    let hub = &belief.hub;
    let mut watcher = watch_all(hub);
    let counts = || {
        let ((users, sessions), health) = (hub.count(), hub.health().borrow().clone());
        let lag = metrics.detection_lag.percentiles();
        Figures {
            users: users as u64,
            sessions,
            watchers: None,
            transitions: metrics.went_online.get() + metrics.went_offline.get(),
            gaps: metrics.gaps_by_cause().values().sum(),
            repairs: metrics.repairs_by_cause().values().sum(),
            lag_ms: [lag.p50, lag.p99, lag.max],
            cause: Some(health.cause.clone()).filter(|cause| !cause.is_empty()),
            redis_up: health.up,
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
                vec![Update::Link(link), Update::Counted(stats), Update::Redis(word)]
            }
            () = watcher.rung() => {
                if watcher.overflowed() {
                    // Some transitions are lost to this screen; the counts are not.
                    hub.unwatch_all(&watcher);
                    watcher = watch_all(hub);
                }
                let taken = watcher.take(usize::MAX);
                vec![Update::Transitions(taken.iter().map(|entry| entry.object()).collect())]
            }
        };
        for update in updates {
            if sender.send(update).await.is_err() {
                return;
            }
        }
    }
}

/// A reader of everybody. The counts show who is online now, so the snapshot is dropped.
fn watch_all(hub: &Hub) -> Arc<Watcher> {
    let watcher = hub.watcher();
    hub.watch_all(&watcher).for_each(drop);
    watcher
}

/// The next deadlines, again and again.
async fn deadlines(target: Target, pattern: KeyPattern, sender: Sender<Update>) {
    loop {
        let began = Instant::now();
        let read = soonest(&target, &pattern).await.map_err(|why| format!("{why:#}"));
        if sender.send(Update::Deadlines(read)).await.is_err() {
            return;
        }
        sleep((began.elapsed() * REST).max(EVERY)).await;
    }
}

async fn soonest(target: &Target, pattern: &KeyPattern) -> Result<(Vec<LiveKey>, usize)> {
    let read = async {
        let listing = Listing::connect(target, pattern).await?;
        listing.read(&Glob::any(), |_| {}).await
    };
    // A server that hangs would otherwise stop this feed forever.
    let read = tokio::time::timeout(Duration::from_secs(300), read).await;
    let mut keys = read.map_err(|_| anyhow!("Redis did not list its keys within 5 minutes"))??;
    let total = keys.len();
    keys.sort_by_key(|key| key.left_ms.unwrap_or(u64::MAX));
    keys.truncate(DEADLINES);
    Ok((keys, total))
}
