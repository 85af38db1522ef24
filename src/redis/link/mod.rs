//! The link to one server: its event stream in, our questions out.
//!
//! A link keeps two connections, one for events and one for commands, and a third for news of flushes where the server
//! allows it. Where the server publishes no events, the third one tracks all presence keys (`tracking.rs`). Whatever breaks
//! (a connection, except that for news of flushes, an unproven subscription, a changed role), the link closes all, reports `Down` and starts again: subscribe first, prove the subscription, then let the detector ask. So
//! there is one way to recover, and every gap takes it.

mod canary_key;
mod canary_marks;
pub(in crate::redis) mod events;
mod feed;
mod flush_news;
mod handshake;
mod lease_key;
mod logged;
mod orders;
pub mod parser;
mod pump;
pub(in crate::redis) mod pushes;
mod questions;
mod read_pause;
mod settings;
mod tracking;
mod trial;

pub use feed::{CanaryReply, Feed, Feeder, Order, Silent};
pub use settings::{ClusterPlace, LinkSettings};

use crate::config::LeaseMode;
use crate::presence::{Cause, Renewals};
use crate::redis::info::REFUSED;
use crate::redis::link::canary_marks::CanaryMarks;
use crate::redis::link::feed::Ended;
use crate::redis::link::handshake::{Heard, LinkMemory, Subscription, connect};
use crate::redis::link::orders::Worker;
use crate::redis::link::pump::Pump;
use crate::redis::link::tracking::Tracked;
use crate::redis::names::{classes, lost_classes};
use crate::redis::resp::client::Pipeline;
use crate::redis::retry_delay::RetryDelay;
use crate::redis::sentinel;
use crate::redis::server_config::{self, EVENTS};
use crate::redis::target::Target;
use anyhow::anyhow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

/// How often Sentinels are asked for the primary. Until the daemon knows of a new primary, it misses the heartbeats
/// there: well below the shortest sensible TTL.
const PRIMARY_EVERY: Duration = Duration::from_millis(250);
/// How often `notify-keyspace-events` is read.
const CLASSES_EVERY: Duration = Duration::from_secs(10);
/// Waits between attempts to connect, the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// A connection that lasts this long resets the wait.
const LASTING: Duration = Duration::from_secs(3);
/// More errors of a server that takes no writes: a slot is being moved, it has become a replica, or its primary is away.
const MORE_REFUSED: [&str; 3] = ["TRYAGAIN", "READONLY", "MASTERDOWN"];
/// The wait before the next attempt at a server that refuses writes. The shorter it is, the better the daemon knows for
/// how long users could not renew their keys.
const REFUSED_AGAIN: Duration = Duration::from_millis(100);
/// Orders that may wait. A detector has far fewer under way. The link drops an order that does not fit; its fence then
/// never arrives, which is a gap.
const ORDERS: usize = 1024;

/// A running link; it ends when this handle is dropped.
pub struct Link {
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

impl Link {
    /// Starts a link that reports to `feed`.
    pub fn start(settings: LinkSettings, feed: Feeder) -> Link {
        let (orders, received) = mpsc::channel(ORDERS);
        Link { orders, task: tokio::spawn(run(Arc::new(settings), feed, received)) }
    }

    /// Gives an order; false if the queue is full.
    pub fn order(&self, order: Order) -> bool {
        self.orders.try_send(order).is_ok()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(settings: Arc<LinkSettings>, feed: Feeder, mut orders: mpsc::Receiver<Order>) {
    let mut memory = LinkMemory::default();
    let mut retry = RetryDelay::new(RETRY.0, RETRY.1);
    // The last connection ended at once, for a reason that the log has already.
    let mut repeats = false;
    loop {
        let subscribed = connect(&settings, &mut memory).await;
        let connected = subscribed.is_ok();
        let ended = match subscribed {
            Ok(subscription) => {
                if !repeats {
                    info!(server = settings.target.shown(), version = subscription.version, "subscribed");
                }
                memory.run = Some(subscription.run.clone());
                memory.barred = false;
                let began = Instant::now();
                let ended = serve(subscription, &settings, &mut memory, &feed, &mut orders).await;
                // A server that accepts connections and drops them at once must not cause a storm of attempts.
                if began.elapsed() > LASTING {
                    retry.reset();
                    memory.logged.clear();
                }
                ended
            }
            Err(why) => why.into(),
        };
        let why = format!("{:#}", ended.why);
        let refused = REFUSED.iter().chain(&MORE_REFUSED).any(|code| why.contains(code));
        memory.barred |= refused || !connected;
        let server = settings.target.shown();
        let logged = !memory.logged.is_new(&why);
        repeats = connected && logged;
        // A failed attempt is logged once, not each time. A connection that ended is a gap, which the driver logs.
        if connected || logged {
            debug!(server, cause = ended.cause.label(), why, "the connection to Redis ended");
        } else {
            warn!(server, why, "no connection to Redis");
        }
        if feed.send(Feed::Down { cause: ended.cause, why }).await.is_err() {
            return;
        }
        while orders.try_recv().is_ok() {}
        if refused {
            sleep(REFUSED_AGAIN).await;
        } else {
            retry.wait().await;
        }
    }
}

/// Passes events up and orders down until something breaks.
async fn serve(
    subscription: Subscription,
    settings: &Arc<LinkSettings>,
    memory: &mut LinkMemory,
    feed: &Feeder,
    orders: &mut mpsc::Receiver<Order>,
) -> Ended {
    let Subscription { primary, heard, tracked, mut client, run, lease, outage, uptime_ms, size, .. } =
        subscription;
    let Heard { stream, parser, silent, classes, renewals, .. } = heard;
    settings.primary.send_if_modified(|held| {
        let changed = held.shown() != primary.shown();
        *held = primary.clone();
        changed
    });
    let listens = lease.is_none() || settings.lease == LeaseMode::Stands;
    if feed.send(Feed::Up { run, outage, uptime_ms, silent, renewals, lease }).await.is_err() {
        return Ended::stopping();
    }
    let (parser, pipeline) = (&parser, &client.pipeline().clone());
    let (refusals, tasks) = (Arc::default(), JoinSet::new());
    let marks = (renewals == Renewals::Tracking).then(|| Arc::new(CanaryMarks::new(tracked.is_some())));
    let (ordered, listened) = watch::channel(listens);
    let (canary, lease) = (&mut memory.canary, &mut memory.lease);
    let worker = Worker {
        settings,
        pipeline,
        parser,
        canary,
        lease,
        listens: ordered,
        silent,
        marks: marks.clone(),
        refusals,
        size,
        feed,
        announced: None,
        tasks,
    };
    let pump = Pump::new(stream, parser, settings, (silent, renewals), listened.clone(), marks.clone());
    let pushes = async {
        match &marks {
            Some(marks) => {
                let place = Tracked { primary: &primary, names: &settings.names, parser, marks, feed };
                tracking::run(place, tracked, listened).await
            }
            None => flush_news::watch(&primary, &settings.names, feed).await,
        }
    };
    tokio::select! {
        ended = watch_classes(pipeline, classes, renewals) => ended,
        ended = pump.run(feed) => ended,
        ended = worker.run(orders) => ended,
        why = client.lost() => why.context("the command connection was lost").into(),
        ended = watch_primary(&settings.target, &primary) => ended,
        ended = pushes => ended,
    }
}

/// Waits until `notify-keyspace-events` lacks a class that it had when the connection began. The canary proves the
/// classes of its own events within a second, but neither expiry nor eviction.
async fn watch_classes(pipeline: &Pipeline, held: Option<String>, renewals: Renewals) -> Ended {
    let Some(held) = held else { return std::future::pending().await };
    loop {
        sleep(CLASSES_EVERY).await;
        let now = match server_config::get(pipeline, EVENTS).await {
            Ok(Ok(now)) => now.unwrap_or_default(),
            // The right was revoked, or the connection was lost, which its owner notices.
            Ok(Err(_)) | Err(_) => return std::future::pending().await,
        };
        let lost = lost_classes(&held, &now, classes(renewals));
        if !lost.is_empty() {
            let why = anyhow!("{EVENTS} was {held:?}, is now {now:?} and lacks {lost:?}");
            return Ended { cause: Cause::Canary, why };
        }
    }
}

/// With Sentinels: waits until they name another primary.
async fn watch_primary(target: &Target, primary: &Target) -> Ended {
    if !target.is_sentinel() {
        std::future::pending::<()>().await;
    }
    loop {
        sleep(PRIMARY_EVERY).await;
        match sentinel::resolve(target).await {
            Ok(now) if now.shown() != primary.shown() => {
                let why = anyhow!("the primary is now {} and no longer {}", now.shown(), primary.shown());
                return Ended { cause: Cause::Failover, why };
            }
            Ok(_) => {}
            // Without a Sentinel, the connection to the server still shows whether the server is alive.
            Err(why) => debug!("no Sentinel answered: {why:#}"),
        }
    }
}
