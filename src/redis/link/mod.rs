//! The link to one server: its event stream in, our questions out.
//!
//! A link lives from one connection to the next. Whatever breaks (a connection, a subscription that is
//! not proven, a role that changed), the whole link ends, says so, and begins anew: subscribe first,
//! prove it, then let the detector ask. So there is one way to recover, and every gap takes it.
//!
//! Events come by a connection of their own, read where they lie (wire.rs); questions go by another (questions.rs).

mod canary_key;
mod handshake;
pub mod parser;
mod questions;
pub(in crate::redis) mod stream;

use crate::presence::{Answer, BatchId, Key, Side};
use crate::redis::cluster::{Redirection, Topology};
use crate::redis::link::canary_key::{self as canary, Canary};
use crate::redis::link::handshake::{Before, Session, connect};
use crate::redis::link::parser::{Events, Mark, Parsed, Parser, Seal};
use crate::redis::link::questions as ask;
use crate::redis::link::stream::Stream;
use crate::redis::names::Names;
use crate::redis::resp::pipeline::Asker;
use crate::redis::resp::wire::Commands;
use crate::redis::scan::ScanPage;
use crate::redis::target::Target;
use anyhow::{Context, Result, anyhow};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

/// The most events in a chunk.
const CHUNK: usize = 512;
/// How often a Sentinel is asked which server is the primary. Until it is known that another one is, heartbeats
/// go there and nobody here hears of them: well below the shortest TTL that makes sense.
const PRIMARY_EVERY: Duration = Duration::from_millis(250);
/// Waits between attempts: doubling from the first to the last, with jitter.
const BACKOFF_MS: (u64, u64) = (50, 2_000);
/// A link that lives so long has recovered.
const LASTING: Duration = Duration::from_secs(3);
/// How a server says that it takes no writes now: its cluster is down, memory is full, it cannot save, too few
/// replicas follow, or it has become one itself.
const REFUSALS: [&str; 5] = ["CLUSTERDOWN", "OOM ", "MISCONF", "NOREPLICAS", "READONLY"];
/// Orders that may wait. A detector has far fewer under way; one that does not fit is dropped, and
/// its fence never comes, which is a gap.
const ORDERS: usize = 1024;

/// What a link tells the driver.
pub enum Feed {
    /// Subscribed and proven.
    Up {
        /// The server's run id.
        run: String,
        /// Its data were thrown away since the last link.
        flushed: bool,
        /// For how long it has been running, `u64::MAX` if it began without data.
        uptime_ms: u64,
        /// It does not tell of each key that is set or deleted: they are to be looked for.
        silent: Silent,
    },
    /// The server is out of reach, or cannot be used.
    Down {
        /// A word for the metrics.
        cause: &'static str,
        /// A sentence for people.
        why: String,
    },
    /// Evidence, in the order of the stream.
    Events(Events),
    /// The keys are others than a moment ago, and no event has told of that.
    Replaced,
    /// Redis' answers to a batch, and where the keys are that it says have moved, with the places of their answers.
    Answers(BatchId, Vec<Answer>, Vec<(usize, Redirection)>),
    /// A page of the scan of this number, and how many keys are likely to come by all pages, told with the first.
    Page(u8, ScanPage, usize),
}

/// What a server does not tell, since `notify-keyspace-events` lacks it and cannot be changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Silent {
    /// Keys that are set.
    pub set: bool,
    /// Keys that are deleted.
    pub del: bool,
}

impl Silent {
    /// Is there anything that is not told?
    pub fn any(self) -> bool {
        self.set || self.del
    }
}

/// What the driver wants of a link.
pub enum Order {
    /// Ask for these keys between two fences.
    Ask(BatchId, Vec<Key>),
    /// Read a page of the scan of this number.
    Scan(u8, u64),
    /// Renew the canary.
    Canary,
    /// Begin anew.
    Restart(&'static str),
}

/// What a link needs to know.
#[derive(Clone)]
pub struct Settings {
    /// Which server.
    pub target: Target,
    /// Which keys.
    pub names: Names,
    /// Names this daemon among others on the same server, and on the other servers of a cluster.
    pub daemon: String,
    /// Which node of a cluster it is; `None` of a server that stands alone.
    pub place: Option<Place>,
    /// Makes the daemon's marks.
    pub seal: Seal,
    /// Where is told which server is the one, for whoever writes to it.
    pub primary: watch::Sender<Target>,
    /// Add missing classes to `notify-keyspace-events`.
    pub configure: bool,
}

/// A node among the others of its cluster.
#[derive(Clone)]
pub struct Place {
    /// The node's name.
    pub node: String,
    /// Which slots are whose, as that changes.
    pub topology: watch::Receiver<Arc<Topology>>,
}

/// Where a link tells what it has to: a channel that all links share.
#[derive(Clone)]
pub struct Feeder {
    /// Names the link.
    pub link: u64,
    /// To the driver.
    pub feed: mpsc::Sender<(u64, Feed)>,
}

impl Feeder {
    /// Waits while the channel is full; an error once nobody listens.
    async fn send(&self, feed: Feed) -> Result<()> {
        self.feed.send((self.link, feed)).await.map_err(|_| anyhow!("the daemon stops"))
    }
}

/// A running link; it ends with this handle.
pub struct Link {
    orders: mpsc::Sender<Order>,
    task: tokio::task::JoinHandle<()>,
}

impl Link {
    /// Starts a link that feeds `feed`.
    pub fn start(settings: Settings, feed: Feeder) -> Link {
        let (orders, taken) = mpsc::channel(ORDERS);
        Link { orders, task: tokio::spawn(run(settings, feed, taken)) }
    }

    /// Gives an order; false if it did not fit.
    pub fn order(&self, order: Order) -> bool {
        self.orders.try_send(order).is_ok()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a link ended.
struct Ended {
    cause: &'static str,
    why: anyhow::Error,
}

impl From<anyhow::Error> for Ended {
    fn from(why: anyhow::Error) -> Ended {
        Ended { cause: "connection", why }
    }
}

async fn run(settings: Settings, feed: Feeder, mut orders: mpsc::Receiver<Order>) {
    let mut before = Before::default();
    let mut wait = BACKOFF_MS.0;
    let mut said = String::new();
    loop {
        let up = match connect(&settings, &mut before).await {
            Ok(session) => {
                info!(server = settings.target.shown(), version = session.version, "subscribed");
                before.run = Some(session.run.clone());
                before.refused = false;
                let began = Instant::now();
                let ended = serve(session, &settings, &mut before.canary, &feed, &mut orders).await;
                // One that connects and is dead within moments, again and again, must not be a storm.
                if began.elapsed() > LASTING {
                    wait = BACKOFF_MS.0;
                    said.clear();
                }
                ended
            }
            Err(why) => Ended { cause: "connect", why },
        };
        let why = format!("{:#}", up.why);
        before.refused |= REFUSALS.iter().any(|word| why.contains(word));
        tell_end(&settings, up.cause, &why, why == said);
        said.clone_from(&why);
        if feed.send(Feed::Down { cause: up.cause, why }).await.is_err() {
            return;
        }
        while orders.try_recv().is_ok() {}
        sleep(Duration::from_millis(wait / 2 + fastrand::u64(..=wait / 2))).await;
        wait = (wait * 2).min(BACKOFF_MS.1);
    }
}

/// Says why a connection ended, or did not come about: once, not with each attempt. That one ended is a gap,
/// which the driver says.
fn tell_end(settings: &Settings, cause: &'static str, why: &str, said: bool) {
    let server = settings.target.shown();
    if said || cause != "connect" {
        debug!(server, cause, why, "the connection to Redis ended");
    } else {
        warn!(server, cause, why, "no connection to Redis");
    }
}

/// Passes events up and orders down until something breaks.
async fn serve(
    session: Session,
    settings: &Settings,
    canary: &mut Canary,
    feed: &Feeder,
    orders: &mut mpsc::Receiver<Order>,
) -> Ended {
    let Session { primary, mut questions, stream, parser, run, flushed, uptime_ms, silent, size, .. } =
        session;
    settings.primary.send_if_modified(|held| {
        let changed = held.shown() != primary.shown();
        *held = primary.clone();
        changed
    });
    if feed.send(Feed::Up { run, flushed, uptime_ms, silent }).await.is_err() {
        return Ended { cause: "stop", why: anyhow!("the daemon stops") };
    }
    let asker = questions.asker();
    tokio::select! {
        ended = pump(stream, &parser, silent, feed) => ended,
        ended = obey(asker, settings, (&parser, canary), (silent, size), feed, orders) => ended,
        why = questions.lost() => why.context("the command connection was lost").into(),
        ended = watch_primary(settings, &primary) => ended,
    }
}

/// Carries events from the stream to the driver, in chunks.
async fn pump(mut stream: Stream, parser: &Parser, silent: Silent, feed: &Feeder) -> Ended {
    loop {
        let mut chunk = Events::default();
        let mut tells = false;
        let taken = stream.read(|operation, payload| {
            tells |= silent.set && operation == "set";
            if let Parsed::Evidence(kind, name) = parser.parse(operation, payload) {
                chunk.push(kind, name);
            }
            if tells || chunk.len() == CHUNK { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if let Err(why) = taken.await {
            return why.context("the event connection was lost").into();
        }
        if tells {
            return Ended { cause: "events", why: anyhow!("the server tells now what is set") };
        }
        if !chunk.is_empty() && feed.send(Feed::Events(chunk)).await.is_err() {
            return Ended { cause: "stop", why: anyhow!("the daemon stops") };
        }
    }
}

/// Carries out orders, many at a time; the first that fails ends the link.
async fn obey(
    asker: Asker,
    settings: &Settings,
    (parser, canary): (&Parser, &mut Canary),
    (silent, size): (Silent, usize),
    feed: &Feeder,
    orders: &mut mpsc::Receiver<Order>,
) -> Ended {
    let mut under_way: JoinSet<Result<()>> = JoinSet::new();
    let clustered = settings.place.is_some();
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            Some(done) = under_way.join_next() => match done {
                Ok(Ok(())) => continue,
                Ok(Err(why)) => return why.into(),
                Err(why) => return anyhow!(why).into(),
            },
        };
        let Some(order) = order else {
            return Ended { cause: "stop", why: anyhow!("the daemon stops") };
        };
        let (asker, feed, names) = (asker.clone(), feed.clone(), settings.names.clone());
        let place = settings.place.as_ref();
        let topology = place.map(|place| place.topology.borrow().clone()).unwrap_or_default();
        match order {
            Order::Ask(batch, keys) => {
                let channel = names.fence_channel();
                let fences = [Side::Open, Side::Close].map(|side| {
                    Commands::one(&["PUBLISH", &channel, &parser.mark(Mark::Fence(batch, side))])
                });
                under_way.spawn(async move {
                    let asked = if clustered {
                        ask::ask_node(&asker, &names, &topology, fences, &keys).await
                    } else {
                        ask::ask(&asker, &names, fences, &keys).await.map(|told| (told, Vec::new()))
                    };
                    let (answers, redirections) = asked.context("PTTL failed")?;
                    feed.send(Feed::Answers(batch, answers, redirections)).await
                });
            }
            Order::Scan(number, cursor) => {
                under_way.spawn(async move {
                    let page = ask::scan(&asker, &names, cursor).await.context("SCAN failed")?;
                    let likely = if cursor == 0 { page.share(size) } else { 0 };
                    feed.send(Feed::Page(number, page, likely)).await
                });
            }
            Order::Canary => {
                let (key, mark) = (canary.key(settings), parser.mark(Mark::Canary));
                let channel = names.fence_channel();
                let numbers = canary.numbers.clone();
                under_way.spawn(async move {
                    let key = key.as_deref().map(|key| (key, &*numbers));
                    let sent = canary::send(&asker, key, silent, (&channel, &mark)).await;
                    if sent.context("the canary could not be sent")? {
                        feed.send(Feed::Replaced).await?;
                    }
                    Ok(())
                });
            }
            Order::Restart(cause) => {
                return Ended { cause, why: anyhow!("the event stream is dead ({cause} not seen in time)") };
            }
        }
    }
}

/// With Sentinels: until another server is the primary.
async fn watch_primary(settings: &Settings, primary: &Target) -> Ended {
    if !settings.target.is_sentinel() {
        std::future::pending::<()>().await;
    }
    loop {
        sleep(PRIMARY_EVERY).await;
        match settings.target.resolve().await {
            Ok(now) if now.shown() != primary.shown() => {
                let why = anyhow!("the primary is now {} and no longer {}", now.shown(), primary.shown());
                return Ended { cause: "failover", why };
            }
            Ok(_) => {}
            // Without a Sentinel the server itself still tells whether it is alive.
            Err(why) => debug!("no Sentinel can be asked: {why:#}"),
        }
    }
}
