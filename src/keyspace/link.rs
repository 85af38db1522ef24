//! The link to one server: its event stream in, our questions out.
//!
//! A link lives from one connection to the next. Whatever breaks (a connection, a subscription that is
//! not proven, a role that changed), the whole link ends, says so, and begins anew: subscribe first,
//! prove it, then let the detector ask. So there is one way to recover, and every gap takes it.
//!
//! Events come by a connection of their own, read where they lie (wire.rs); questions go by a client on another.

use super::client::{Connection, Target};
use super::cluster::{self, Redirection, Topology};
use super::event::{Events, Kind, Mark, Parsed, Parser, Seal};
use super::listing::{self, ScanPage};
use super::stream::Stream;
use super::{CLASSES, Names, missing_classes};
use crate::presence::{Answer, BatchId, Key, Side};
use anyhow::{Context, Result, anyhow, bail};
use fred::prelude::*;
use fred::types::{ClusterHash, CustomCommand, InfoKind};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

/// How long a new subscription may take to be proven.
const PROOF: Duration = Duration::from_secs(3);
/// How often the proof is published again, in case it came before the subscription stood.
const PROOF_AGAIN: Duration = Duration::from_millis(100);
/// Ends what is tried on a new connection; no batch of questions has the number 0.
const TRIED: Mark = Mark::Fence(0, Side::Close);
/// The canary's key outlives any outage worth telling from a flush.
const CANARY_TTL_S: i64 = 3600;
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

/// Many keys are asked in one script where that is allowed. Measured by `make bench`, memory: 1,000,000 keys at the
/// start cost the daemon 11.0 s of CPU with a command a key, 5.0 s so.
const ASK_SCRIPT: &str = "local r = {} for i = 1, #ARGV do r[i] = redis.call('PTTL', ARGV[i]) end return r";
const SCRIPT_FROM: usize = 16;

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
    /// Redis' answers to a batch, and where the keys are that it says have moved.
    Answers(BatchId, Vec<Answer>, Vec<Redirection>),
    /// A page of the scan of this number.
    Page(u8, ScanPage),
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

/// What a link remembers from one connection to the next.
#[derive(Default)]
struct Before {
    /// The server's run id.
    run: Option<String>,
    canary: Canary,
    /// The server has refused writes: nobody could renew a key, and keys ran out.
    refused: bool,
}

/// A proven subscription.
struct Session {
    asker: Connection,
    stream: Stream,
    parser: Parser,
    run: String,
    flushed: bool,
    uptime_ms: u64,
    silent: Silent,
    scripts: bool,
    version: String,
    primary: Target,
}

async fn connect(settings: &Settings, before: &mut Before) -> Result<Session> {
    let primary = settings.target.resolve().await?;
    let asker = primary.connect().await?;
    let info = server_info(asker.client()).await?;
    let field = |name: &str| info.get(name).cloned().unwrap_or_default();
    if field("role") == "slave" {
        bail!(
            "{} is a replica; a replica expires nothing by itself, so point --redis at its primary, {}:{}",
            primary.shown(),
            field("master_host"),
            field("master_port")
        );
    }
    // Valkey calls it so from version 8 on.
    let mode = [field("redis_mode"), field("server_mode")];
    if settings.place.is_none() && mode.iter().any(|mode| mode == "cluster") {
        has_all_slots(asker.client(), &primary).await?;
    }
    configure(asker.client(), settings).await;
    let mut stream = Stream::subscribe(&primary, &settings.names.channels()).await?;
    let called = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    let parser = Parser::new(settings.names.clone(), &settings.daemon, called, settings.seal.clone());
    prove(asker.client(), settings, &parser, &mut stream).await?;
    let run = field("run_id");
    let same = before.run.as_ref() == Some(&run);
    let other = same && is_another_database(asker.client(), &before.canary).await?;
    let flushed = other || before.refused;
    let canary = before.canary.key(settings);
    let numbers = &before.canary.numbers;
    let silent = try_events(asker.client(), settings, (canary, numbers), &parser, &mut stream).await?;
    let scripts = may_script(asker.client()).await;
    Ok(Session {
        primary,
        asker,
        stream,
        parser,
        run,
        flushed,
        silent,
        uptime_ms: uptime_ms(&info),
        scripts,
        version: field("redis_version"),
    })
}

/// A node of a cluster that is followed alone must be its only one: of the others' users nothing would be heard.
async fn has_all_slots(client: &Client, node: &Target) -> Result<()> {
    let info = CustomCommand::new_static("CLUSTER", ClusterHash::FirstKey, false);
    let info = client.custom::<String, _>(info, vec!["INFO"]).await.unwrap_or_default();
    if info.lines().any(|line| line.trim_end() == "cluster_size:1") {
        return Ok(());
    }
    let url = node.shown();
    bail!(
        "{url} is one node of a Redis Cluster and has only its share of the users; follow them all: --redis {}",
        url.replacen("redis", "redis-cluster", 1)
    )
}

/// The canary has been set in the link before: where it is gone, or is not the last one, so is everything. Where it
/// has moved to another node, that is not known.
async fn is_another_database(client: &Client, canary: &Canary) -> Result<bool> {
    let Some(key) = &canary.key else { return Ok(false) };
    match canary.numbers.replace(client, key).await {
        Ok(other) => Ok(other),
        Err(why) if cluster::redirection(&why).is_some() => Ok(false),
        // Nobody says: the worst is assumed.
        Err(why) if is_unknown_option(&why) => Ok(true),
        Err(why) => Err(why).context("the canary could not be set"),
    }
}

/// Redis before 6.2 does not know GET as a part of SET.
fn is_unknown_option(why: &Error) -> bool {
    why.details().contains("syntax error")
}

/// Which key is renewed to prove the stream, as long as the slots stay where they are.
#[derive(Default)]
struct Canary {
    of: Option<Arc<Topology>>,
    key: Option<String>,
    numbers: Arc<Numbers>,
}

/// The canary's key holds its number, and whoever renews it looks at what it replaces: where that is none of the last
/// ones, the database is another, of which no event tells (FLUSHALL, FLUSHDB, SWAPDB).
#[derive(Default)]
struct Numbers {
    last: AtomicU64,
    /// The key holds this one, or one that came later; 0 where that is not known.
    held: AtomicU64,
}

impl Numbers {
    fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Renews the key by the next number, and says whether it stands in another database than before.
    async fn replace(&self, client: &Client, key: &str) -> Result<bool, fred::error::Error> {
        let number = self.next();
        let expire = Some(Expiration::EX(CANARY_TTL_S));
        let found: Option<String> = client.set(key, number, expire, None, true).await?;
        let held = self.held.load(Ordering::Relaxed);
        self.written(number);
        let found = found.and_then(|found| found.parse().ok());
        Ok(held > 0 && !found.is_some_and(|found: u64| (held..number).contains(&found)))
    }

    fn written(&self, number: u64) {
        self.held.fetch_max(number, Ordering::Relaxed);
    }

    /// The key's slot is another node's: what it holds when it comes back is not known.
    fn forget(&self) {
        self.held.store(0, Ordering::Relaxed);
    }
}

impl Canary {
    /// `None` where the node owns no slot, or none that a key with this prefix can have.
    fn key(&mut self, settings: &Settings) -> Option<String> {
        let Some(place) = &settings.place else {
            return self
                .key
                .get_or_insert_with(|| settings.names.canary_key(&settings.daemon))
                .clone()
                .into();
        };
        let topology = place.topology.borrow().clone();
        if !self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &topology)) {
            let node = topology.nodes.iter().find(|node| node.id == place.node);
            let key = node.and_then(|node| node.canary_key(&settings.names, &settings.daemon));
            if self.key != key {
                (self.key, self.numbers) = (key, Arc::default());
            }
            self.of = Some(topology);
        }
        self.key.clone()
    }
}

/// For how long the server has been running, for who wants to know how old what it had saved may be.
fn uptime_ms(info: &HashMap<String, String>) -> u64 {
    let is_zero = |name: &str| info.get(name).is_some_and(|value| value == "0");
    // Told since Redis 7. Of an append-only file the keys are not counted.
    let began_empty = is_zero("rdb_last_load_keys_loaded") && is_zero("aof_enabled");
    let seconds = info.get("uptime_in_seconds").and_then(|value| value.parse::<u64>().ok());
    seconds.filter(|_| !began_empty).map_or(u64::MAX, |seconds| seconds.saturating_mul(1_000))
}

async fn server_info(client: &Client) -> Result<HashMap<String, String>> {
    let mut fields = HashMap::new();
    for section in [InfoKind::Server, InfoKind::Replication, InfoKind::Persistence] {
        let text: String = client.info(Some(section)).await.context("INFO was refused")?;
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        fields.extend(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())));
    }
    Ok(fields)
}

/// Adds what `notify-keyspace-events` lacks. Where CONFIG is forbidden, that is said and the canary
/// will tell whether the events come all the same.
async fn configure(client: &Client, settings: &Settings) {
    const NAME: &str = "notify-keyspace-events";
    let server = settings.target.shown();
    let setting: HashMap<String, String> = match client.config_get(NAME).await {
        Ok(setting) => setting,
        Err(why) => {
            warn!(server, "{NAME} cannot be read ({why}); it must have at least {CLASSES}");
            return;
        }
    };
    let held = setting.get(NAME).cloned().unwrap_or_default();
    let missing = missing_classes(&held);
    if missing.is_empty() {
        return;
    }
    if !settings.configure {
        warn!(server, "{NAME} is {held:?} and lacks {missing:?}; set it: CONFIG SET {NAME} {held}{missing}");
        return;
    }
    let wanted = format!("{held}{missing}");
    match client.config_set(NAME, wanted.as_str()).await {
        Ok(()) => info!(server, "{NAME} was {held:?}, is now {wanted:?} until the server restarts"),
        Err(why) => warn!(server, "{NAME} is {held:?} and cannot be changed ({why}); set it to {wanted}"),
    }
}

/// Publishes a mark until it comes back by the subscription.
async fn prove(asker: &Client, settings: &Settings, parser: &Parser, stream: &mut Stream) -> Result<()> {
    let channel = settings.names.fence_channel();
    let mark = parser.mark(Mark::Hello);
    let publish = async {
        loop {
            if let Err(why) = asker.publish::<(), _, _>(&channel, &mark).await {
                return anyhow!(
                    "PUBLISH {channel} failed ({why}); an ACL user needs +publish and &__keyevent@*"
                );
            }
            sleep(PROOF_AGAIN).await;
        }
    };
    // What comes before the proof belongs to the gap.
    let seen = until(stream, |operation, payload| parser.parse(operation, payload) == Parsed::Hello);
    let needs = "an ACL user needs +subscribe and &__keyevent@*";
    tokio::select! {
        why = publish => Err(why),
        seen = timeout(PROOF, seen) => match seen {
            Ok(seen) => seen.context(needs),
            Err(_) => bail!("the subscription did not stand within {PROOF:?}; {needs}"),
        },
    }
}

/// Reads the stream up to the message that `is_it`, which is the last one taken.
async fn until(stream: &mut Stream, mut is_it: impl FnMut(&str, &[u8]) -> bool) -> Result<()> {
    let mut found = false;
    while !found {
        let look = |operation: &str, payload: &[u8]| {
            found = is_it(operation, payload);
            if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        stream.read(look).await?;
    }
    Ok(())
}

/// Sets and deletes the canary's key before a mark: what has not come when the mark does is not told.
async fn try_events(
    asker: &Client,
    settings: &Settings,
    (key, numbers): (Option<String>, &Numbers),
    parser: &Parser,
    stream: &mut Stream,
) -> Result<Silent> {
    let Some(key) = key else { return Ok(Silent::default()) };
    let expire = || Some(Expiration::EX(CANARY_TTL_S));
    let pipeline = asker.pipeline();
    let number = numbers.next();
    pipeline.set::<(), _, _>(&key, number, expire(), None, false).await?;
    pipeline.del::<(), _>(&key).await?;
    pipeline.set::<(), _, _>(&key, number, expire(), None, false).await?;
    pipeline.publish::<(), _, _>(settings.names.fence_channel(), parser.mark(TRIED)).await?;
    for done in pipeline.try_all::<Value>().await {
        match done {
            // The slot is another node's now: the canary will tell.
            Err(why) if cluster::redirection(&why).is_some() => {
                numbers.forget();
                return Ok(Silent::default());
            }
            done => done.context("the canary could not be set")?,
        };
    }
    numbers.written(number);
    let silent = match timeout(PROOF, hear_events(parser, stream)).await {
        Ok(silent) => silent?,
        Err(_) => bail!("a mark did not come back within {PROOF:?}"),
    };
    if silent.any() {
        warn!(
            server = settings.target.shown(),
            "not all that is set or deleted is told, so keys are looked for by SCAN, which is slower; \
             notify-keyspace-events must have at least {CLASSES}"
        );
    }
    Ok(silent)
}

/// What of the canary's key is heard before the mark.
async fn hear_events(parser: &Parser, stream: &mut Stream) -> Result<Silent> {
    let mut silent = Silent { set: true, del: true };
    let end = Parsed::Evidence(Kind::Fence(0, Side::Close), b"");
    until(stream, |operation, payload| {
        if parser.is_canary(payload) {
            match operation {
                "set" => silent.set = false,
                "del" => silent.del = false,
                _ => {}
            }
        }
        parser.parse(operation, payload) == end
    })
    .await?;
    Ok(silent)
}

/// Passes events up and orders down until something breaks.
async fn serve(
    session: Session,
    settings: &Settings,
    canary: &mut Canary,
    feed: &Feeder,
    orders: &mut mpsc::Receiver<Order>,
) -> Ended {
    let Session { primary, asker, stream, parser, run, flushed, uptime_ms, silent, scripts, .. } = session;
    settings.primary.send_if_modified(|held| {
        let changed = held.shown() != primary.shown();
        *held = primary.clone();
        changed
    });
    if feed.send(Feed::Up { run, flushed, uptime_ms, silent }).await.is_err() {
        return Ended { cause: "stop", why: anyhow!("the daemon stops") };
    }
    tokio::select! {
        ended = pump(stream, &parser, silent, feed) => ended,
        ended = obey(asker.client(), settings, (&parser, canary), (scripts, silent), feed, orders) => ended,
        why = asker.lost() => anyhow!("the command connection was lost: {why}").into(),
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
    asker: &Client,
    settings: &Settings,
    (parser, canary): (&Parser, &mut Canary),
    (scripts, silent): (bool, Silent),
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
                let fences = [Side::Open, Side::Close].map(|side| parser.mark(Mark::Fence(batch, side)));
                under_way.spawn(async move {
                    let asked = if clustered {
                        ask_node(&asker, &names, &topology, fences, &keys).await
                    } else {
                        ask(&asker, &names, scripts, fences, &keys).await.map(|told| (told, Vec::new()))
                    };
                    let (answers, redirections) = asked.context("PTTL failed")?;
                    feed.send(Feed::Answers(batch, answers, redirections)).await
                });
            }
            Order::Scan(number, cursor) => {
                under_way.spawn(async move {
                    let page = listing::scan_page(&asker, &names, "*", cursor).await?;
                    feed.send(Feed::Page(number, page)).await
                });
            }
            Order::Canary => {
                let (key, mark) = (canary.key(settings), parser.mark(Mark::Canary));
                let channel = names.fence_channel();
                let numbers = canary.numbers.clone();
                under_way.spawn(async move {
                    let key = key.as_deref().map(|key| (key, &*numbers));
                    let sent = send_canary(&asker, key, silent, (&channel, &mark)).await;
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

/// Renews the canary's key, and says whether the database is another. A node that owns none of its slots, or no
/// longer, is proven by a message, and so is a server that does not tell what is set.
async fn send_canary(
    client: &Client,
    key: Option<(&str, &Numbers)>,
    silent: Silent,
    (channel, mark): (&str, &str),
) -> Result<bool> {
    let mut other = false;
    let mut told = false;
    if let Some((key, numbers)) = key {
        match renew(client, key, numbers).await {
            Ok(found) => (other, told) = (found, !silent.set),
            Err(why) if cluster::redirection(&why).is_some() => numbers.forget(),
            Err(why) => return Err(why.into()),
        }
    }
    if !told {
        client.publish::<(), _, _>(channel, mark).await?;
    }
    Ok(other)
}

async fn renew(client: &Client, key: &str, numbers: &Numbers) -> Result<bool, fred::error::Error> {
    match numbers.replace(client, key).await {
        Err(why) if is_unknown_option(&why) => {}
        done => return done,
    }
    client.set::<(), _, _>(key, 0, Some(Expiration::EX(CANARY_TTL_S)), None, false).await?;
    numbers.forget();
    Ok(false)
}

/// Asks a cluster's node for the TTL of each key, between the two fences. Those that it disowns are asked for
/// again with ASKING, since their slots may be on their way to it. Keys of slots that nobody owns are not asked
/// for: the answer is CLUSTERDOWN, which ends the connection.
async fn ask_node(
    client: &Client,
    names: &Names,
    topology: &Topology,
    fences: [String; 2],
    keys: &[Key],
) -> Result<(Vec<Answer>, Vec<Redirection>)> {
    let channel = names.fence_channel();
    let [open, close] = fences;
    let first = client.pipeline();
    first.publish::<(), _, _>(&channel, open).await?;
    let mut asked = Vec::with_capacity(keys.len());
    for (i, key) in keys.iter().enumerate() {
        let name = names.redis_key(key.as_str());
        if topology.owner(name.as_bytes()).is_some() {
            first.pttl::<(), _>(name).await?;
            asked.push(i);
        }
    }
    let told: Vec<Result<i64, Error>> = first.try_all().await.into_iter().skip(1).collect();
    if told.len() != asked.len() {
        bail!("{} answers to {} questions", told.len(), asked.len());
    }
    let (mut answers, mut redirections, mut moved) =
        (vec![Answer::Moved; keys.len()], Vec::new(), Vec::new());
    for (&i, told) in asked.iter().zip(told) {
        match told {
            Ok(left) => answers[i] = listing::answer(left),
            Err(why) => {
                redirections.push(cluster::redirection(&why).ok_or(why)?);
                moved.push(i);
            }
        }
    }
    let second = client.pipeline();
    for &i in &moved {
        second.custom::<(), Value>(asking(), Vec::new()).await?;
        second.pttl::<(), _>(names.redis_key(keys[i].as_str())).await?;
    }
    second.publish::<(), _, _>(&channel, close).await?;
    let again: Vec<Result<Value, Error>> = second.try_all().await;
    for (&i, told) in moved.iter().zip(again.iter().skip(1).step_by(2)) {
        answers[i] = match told.as_ref().map(Value::as_i64) {
            Ok(Some(left)) => match listing::answer(left) {
                Answer::Absent => Answer::NotYet,
                there => there,
            },
            _ => Answer::Moved,
        };
    }
    if let Some(Err(why)) = again.last() {
        return Err(why.clone().into());
    }
    Ok((answers, redirections))
}

/// Asks for the TTL of each key, in one pipeline between the two fences.
async fn ask(
    client: &Client,
    names: &Names,
    scripts: bool,
    fences: [String; 2],
    keys: &[Key],
) -> Result<Vec<Answer>> {
    let channel = names.fence_channel();
    let pipeline = client.pipeline();
    let [open, close] = fences;
    let keys = keys.iter().map(|key| names.redis_key(key.as_str()));
    pipeline.publish::<(), _, _>(&channel, open).await?;
    let asked = keys.len();
    let many = scripts && asked >= SCRIPT_FROM;
    if many {
        let mut args: Vec<Value> = vec![ASK_SCRIPT.into(), 0.into()];
        args.extend(keys.map(Value::from));
        pipeline.custom::<(), _>(eval(), args).await?;
    } else {
        for key in keys {
            pipeline.pttl::<(), _>(key).await?;
        }
    }
    pipeline.publish::<(), _, _>(&channel, close).await?;
    let answers: Vec<i64> = if many {
        let (_, answers, _): (Value, Vec<i64>, Value) = pipeline.all().await?;
        answers
    } else {
        let mut all: Vec<i64> = pipeline.all().await?;
        all.pop();
        all.drain(..1.min(all.len()));
        all
    };
    if answers.len() != asked {
        bail!("{} answers to {asked} questions", answers.len());
    }
    Ok(answers.into_iter().map(listing::answer).collect())
}

/// What is asked next may be of a slot that is on its way here.
pub(super) fn asking() -> CustomCommand {
    CustomCommand::new_static("ASKING", ClusterHash::FirstKey, false)
}

fn eval() -> CustomCommand {
    CustomCommand::new_static("EVAL", ClusterHash::Random, false)
}

/// May this user run scripts? Not where an ACL forbids it, nor on servers without them.
async fn may_script(client: &Client) -> bool {
    let args: Vec<Value> = vec!["return 1".into(), 0.into()];
    let ran: Result<i64, _> = client.custom(eval(), args).await;
    if let Err(why) = &ran {
        debug!("no scripts, so reconciling takes a command a key: {why}");
    }
    ran.is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_that_had_saved_something_is_young() {
        let uptime = |loaded: &str, aof: &str| {
            let fields =
                [("uptime_in_seconds", "3"), ("rdb_last_load_keys_loaded", loaded), ("aof_enabled", aof)];
            uptime_ms(&fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
        };
        assert_eq!([uptime("7", "0"), uptime("0", "1"), uptime("0", "0")], [3_000, 3_000, u64::MAX]);
        assert_eq!(
            uptime_ms(&HashMap::from([("uptime_in_seconds".into(), "3".into())])),
            3_000,
            "before Redis 7"
        );
        assert_eq!(uptime_ms(&HashMap::new()), u64::MAX);
    }
}
