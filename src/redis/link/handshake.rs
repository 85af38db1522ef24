//! A new connection to one server: what the server is, whether it can be used, and the proof that its events arrive.

use crate::config::{EventsMode, LeaseMode};
use crate::presence::{LeaseOrder, LeaseReply, Renewals};
use crate::redis::cluster;
use crate::redis::info::Info;
use crate::redis::link::canary_key::{self, CanaryKey};
use crate::redis::link::events::EventStream;
use crate::redis::link::feed::Silent;
use crate::redis::link::lease_key::{self, LeaseKey};
use crate::redis::link::logged::LoggedLines;
use crate::redis::link::parser::{Parsed, Parser};
use crate::redis::link::pushes::PushStream;
use crate::redis::link::settings::LinkSettings;
use crate::redis::link::tracking;
use crate::redis::link::trial::{PROOF, Trial};
use crate::redis::names::{NEW_CLASS, classes, lacks_new, missing_classes};
use crate::redis::resp::client::{Pipeline, RespClient};
use crate::redis::sentinel;
use crate::redis::server_config::{self, EVENTS};
use crate::redis::target::Target;
use anyhow::{Context, Result, bail};
use tokio::time::timeout;
use tracing::{info, warn};

/// The sections of INFO that a link reads.
const SECTIONS: [&str; 4] = ["server", "replication", "persistence", "keyspace"];

/// The memory of a link from one connection to the next.
#[derive(Default)]
pub(super) struct LinkMemory {
    /// The server's run id.
    pub(super) run: Option<String>,
    pub(super) canary: CanaryKey,
    pub(super) lease: LeaseKey,
    /// The server refused writes, or could not be reached: users may have been unable to renew their keys.
    pub(super) barred: bool,
    /// The log says that the server does not publish `new`.
    logged_new: bool,
    /// The log says that the daemon listens to each `set` there, although it was not to.
    logged_set: bool,
    /// The faults that the log contains already.
    pub(super) logged: LoggedLines,
}

/// A subscription that is proven to be active.
pub(super) struct Subscription {
    /// The server; with Sentinels, the primary that they named.
    pub(super) primary: Target,
    pub(super) heard: Heard,
    /// The names of changed keys, where the server does not publish all events.
    pub(super) tracked: Option<PushStream>,
    /// The connection for commands.
    pub(super) client: RespClient,
    pub(super) run: String,
    /// The content of the lease's key; `None` if each daemon listens for itself.
    pub(super) lease: Option<LeaseReply>,
    pub(super) outage: bool,
    pub(super) uptime_ms: u64,
    /// How many keys the database has, not only presence keys.
    pub(super) size: usize,
    pub(super) version: String,
}

/// A stream of events that is proven to be active.
pub(super) struct Heard {
    pub(super) stream: EventStream,
    pub(super) parser: Parser,
    pub(super) silent: Silent,
    pub(super) renewals: Renewals,
    /// `notify-keyspace-events`, if it can be read.
    pub(super) classes: Option<String>,
    /// The keyspace was replaced since the last connection.
    replaced: bool,
    /// The stream has the messages of other daemons.
    hears_daemons: bool,
}

impl Heard {
    /// Does the server publish what the source of renewals needs?
    fn suffices(&self) -> bool {
        let lacks_new = || self.silent.new || self.classes.as_deref().is_some_and(lacks_new);
        match self.renewals {
            Renewals::Set | Renewals::Tracking => true,
            Renewals::Expire => !self.silent.needs_polling(),
            Renewals::New => !(self.silent.del || lacks_new()),
        }
    }
}

/// Connects, checks the server, subscribes, and proves that the events arrive.
///
/// # Errors
/// The server cannot be reached or used. The text says why, and how to fix it.
pub(super) async fn connect(settings: &LinkSettings, memory: &mut LinkMemory) -> Result<Subscription> {
    let (primary, primary_for_ms) = sentinel::resolve_with_age(&settings.target).await?;
    let client = RespClient::connect(&primary, "keybeat-questions").await?;
    let info = Info::read(client.pipeline(), &SECTIONS).await?;
    check_role(&info, &primary)?;
    if settings.place.is_none() && is_of_cluster(&info) {
        has_all_slots(client.pipeline(), &primary).await?;
    }
    let run = info.field("run_id").to_owned();
    let mut place = Place { settings, primary: &primary, pipeline: client.pipeline(), memory };
    let same = place.memory.run.as_ref() == Some(&run);
    let mut heard = place.listen(settings.events.renewals(), same).await?;
    if !heard.suffices() {
        let replaced = heard.replaced;
        heard = place.listen(Renewals::Set, same).await?;
        heard.replaced |= replaced;
        place.log_set();
    }
    let mut tracked = if heard.silent.needs_polling() { place.track(&mut heard).await? } else { None };
    let lease = place.lease(&mut heard).await?;
    if lease.is_some() && settings.lease == LeaseMode::Follows {
        tracked = None;
    }
    log_silent(settings.target.shown(), heard.silent, tracked.is_some(), memory);
    Ok(Subscription {
        primary,
        client,
        run,
        lease,
        outage: heard.replaced || memory.barred,
        heard,
        tracked,
        // A replica that took over may lack the last heartbeats, and keeps keys as old as its copy.
        uptime_ms: info.uptime_ms().min(primary_for_ms),
        size: info.keys_in(settings.target.db()),
        version: info.field("redis_version").to_owned(),
    })
}

/// Where to listen.
struct Place<'a> {
    settings: &'a LinkSettings,
    primary: &'a Target,
    pipeline: &'a Pipeline,
    memory: &'a mut LinkMemory,
}

impl Place<'_> {
    /// Subscribes for this source of renewals, and tries which events arrive. `same`: the server's run is that of the last
    /// connection.
    async fn listen(&mut self, renewals: Renewals, same: bool) -> Result<Heard> {
        let Place { settings, pipeline, .. } = *self;
        let names = &settings.names;
        let classes = configure(pipeline, settings, renewals, &mut self.memory.logged).await?;
        let channels = names.channels(renewals);
        let mut stream =
            EventStream::subscribe(self.primary, &channels, Some(&names.daemons_channel())).await?;
        let name = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let parser = Parser::new(names.clone(), &settings.daemon, name, settings.seal.clone());
        let mut trial = Trial { settings, pipeline, parser: &parser, stream: &mut stream };
        let hears_daemons = trial.prove().await?;
        let replaced = same && self.memory.canary.is_replaced(pipeline).await?;
        let silent = trial.try_events(self.memory.canary.choose(settings), renewals).await?;
        Ok(Heard { stream, parser, silent, renewals, classes, replaced, hears_daemons })
    }

    /// Takes the lease if nobody holds it. The stream of a daemon that may not hold it no longer has the events that report renewals.
    async fn lease(&mut self, heard: &mut Heard) -> Result<Option<LeaseReply>> {
        let Place { settings, pipeline, .. } = *self;
        // Without `new`, the coming of a key is known from its renewal alone; without the daemons' channel, no beat is heard.
        let lacks_new = heard.silent.any() || heard.classes.as_deref().is_some_and(lacks_new);
        let tracks = heard.renewals == Renewals::Tracking;
        let lacks = (lacks_new && !tracks) || !heard.hears_daemons;
        if settings.lease == LeaseMode::Alone || lacks {
            return Ok(None);
        }
        let Some(key) = self.memory.lease.choose(settings) else { return Ok(None) };
        let found = match settings.lease {
            LeaseMode::Stands => {
                let key = (key.as_str(), &self.memory.lease.listeners());
                lease_key::carry_out(pipeline, settings, key, LeaseOrder::Take).await?
            }
            LeaseMode::StandsIn | LeaseMode::Follows | LeaseMode::Alone => {
                lease_key::look(pipeline, &key).await?
            }
        };
        match found {
            LeaseReply::Refused => return Ok(None),
            _ if settings.lease != LeaseMode::Stands => {
                heard.stream.unsubscribe(&settings.names.renewal_channels(heard.renewals)).await?;
            }
            _ => {}
        }
        Ok(Some(found))
    }

    /// Tracks all presence keys in place of the events that the server does not publish; `None` if it refuses that. The SET of the
    /// canary's key, which comes back as a push, proves it.
    async fn track(&mut self, heard: &mut Heard) -> Result<Option<PushStream>> {
        let Place { settings, pipeline, primary, .. } = *self;
        let (names, server) = (&settings.names, settings.target.shown());
        let Some((key, numbers)) = self.memory.canary.choose(settings) else { return Ok(None) };
        let (prefix, channel) = (names.tracked_prefix(), names.flush_channel());
        let mut stream = match PushStream::open(primary, tracking::NAME, prefix, &channel).await? {
            Ok(stream) => stream,
            Err(why) => {
                if self.memory.logged.is_new(&why) {
                    info!(
                        server,
                        "client tracking is refused ({why}); an ACL user needs +client|tracking and +hello"
                    );
                }
                return Ok(None);
            }
        };
        // A flush may have come since the trial of the events.
        match numbers.replace(pipeline, &key).await? {
            Ok(replaced) => heard.replaced |= replaced,
            Err(why) if cluster::redirection(&why).is_some() => {
                numbers.forget();
                return Ok(None);
            }
            Err(why) if canary_key::is_unknown_option(&why) => {
                let number = numbers.next();
                let set = ["SET", &key, &number.to_string(), "EX", canary_key::TTL_S];
                pipeline.one(&set).await?.accepted().context("the canary could not be set")?;
                numbers.written(number);
            }
            Err(why) => bail!("the canary could not be set: {why}"),
        }
        let parser = &heard.parser;
        let pushed = stream.until_key(|name| parser.parse_pushed(name) == Parsed::CanaryKey);
        match timeout(PROOF, pushed).await {
            Ok(pushed) => pushed.context("the tracking connection was lost")?,
            Err(_) => {
                if self.memory.logged.is_new("untracked") {
                    warn!(server, "client tracking has no effect: no name was pushed within {PROOF:?}");
                }
                return Ok(None);
            }
        }
        let unneeded = names.event_channels(heard.renewals, heard.silent.operation());
        heard.stream.unsubscribe(&unneeded).await?;
        heard.renewals = Renewals::Tracking;
        Ok(Some(stream))
    }

    /// Logs once that the server lacks what `--events` asks for.
    fn log_set(&mut self) {
        if std::mem::replace(&mut self.memory.logged_set, true) {
            return;
        }
        let server = self.settings.target.shown();
        if self.settings.events == EventsMode::Expire {
            return warn!(
                server,
                "--events expire has no effect: the server does not publish all set and del events"
            );
        }
        let why = format!(
            "the server publishes no event when a key comes into being ({EVENTS} lacks {NEW_CLASS}, which Redis 7 and Valkey know), \
             so the daemon listens to each set event there"
        );
        if self.settings.events == EventsMode::Auto {
            info!(server, "{why}");
        } else {
            warn!(server, "--events new has no effect: {why}");
        }
    }
}

fn check_role(info: &Info, server: &Target) -> Result<()> {
    sentinel::has_keys(info, server)?;
    if info.field("role") != "slave" {
        return Ok(());
    }
    bail!(
        "{} is a replica; a replica expires nothing by itself, so point --redis at its primary, {}:{}",
        server.shown(),
        info.field("master_host"),
        info.field("master_port")
    )
}

fn is_of_cluster(info: &Info) -> bool {
    // Valkey 8 and later use the second name.
    ["redis_mode", "server_mode"].iter().any(|name| info.field(name) == "cluster")
}

/// Checks that a cluster node which is followed alone is the only one: the daemon would miss the users of others.
async fn has_all_slots(pipeline: &Pipeline, node: &Target) -> Result<()> {
    let cluster = Info::read_cluster(pipeline).await?.unwrap_or_default();
    if cluster.field("cluster_size") == "1" {
        return Ok(());
    }
    let url = node.shown();
    bail!(
        "{url} is one node of a Redis Cluster and has only its share of the users; follow them all: --redis {}",
        url.replacen("redis", "redis-cluster", 1)
    )
}

/// Logs which events the server does not publish, and what the daemon does instead; a missing `new` only once.
fn log_silent(server: &str, silent: Silent, tracked: bool, memory: &mut LinkMemory) {
    let needed = classes(Renewals::Set);
    if tracked {
        if memory.logged.is_new("tracked") {
            info!(
                server,
                "the server does not publish all set and del events, so the daemon learns of changes by client tracking, \
                 which costs a question per heartbeat; {EVENTS} needs at least {needed}"
            );
        }
    } else if silent.needs_polling() {
        if !memory.logged.is_new("polled") {
            return;
        }
        warn!(
            server,
            "the server does not publish all set and del events, so the daemon polls its keys with SCAN, \
             which is slower; {EVENTS} needs at least {needed}"
        );
    } else if silent.new && !std::mem::replace(&mut memory.logged_new, true) {
        info!(
            server,
            "{EVENTS} lacks {NEW_CLASS}, so a key that another command than SET creates is found at the next \
             comparison; Redis 7 and Valkey know this class"
        );
    }
}

/// Adds the classes that `notify-keyspace-events` lacks. If CONFIG is forbidden, it logs that; the trial of
/// the events then shows whether they arrive anyway. Returns the setting as it is now, if it can be read.
async fn configure(
    pipeline: &Pipeline,
    settings: &LinkSettings,
    renewals: Renewals,
    logged: &mut LoggedLines,
) -> Result<Option<String>> {
    let (server, needed) = (settings.target.shown(), classes(renewals));
    let held = match server_config::get(pipeline, EVENTS).await? {
        Ok(held) => held.unwrap_or_default(),
        Err(why) => {
            if logged.is_new(&why) {
                warn!(server, "{EVENTS} cannot be read ({why}); it needs at least {needed}");
            }
            return Ok(None);
        }
    };
    let missing = missing_classes(&held, needed);
    if settings.configure && lacks_new(&held) {
        // Redis 6 refuses the class.
        let wanted = format!("{held}{missing}{NEW_CLASS}");
        if server_config::set(pipeline, EVENTS, &wanted).await?.is_ok() {
            info!(server, "{EVENTS} was {held:?}, is now {wanted:?} until the server restarts");
            return Ok(Some(wanted));
        }
    }
    if missing.is_empty() {
        return Ok(Some(held));
    }
    let wanted = format!("{held}{missing}");
    let is_new = logged.is_new(&format!("{EVENTS} {held}"));
    if !settings.configure {
        if is_new {
            warn!(server, "{EVENTS} is {held:?} and lacks {missing:?}; set it to {wanted}");
        }
        return Ok(Some(held));
    }
    match server_config::set(pipeline, EVENTS, &wanted).await? {
        Ok(()) => {
            info!(server, "{EVENTS} was {held:?}, is now {wanted:?} until the server restarts");
            Ok(Some(wanted))
        }
        Err(why) => {
            if is_new {
                warn!(server, "{EVENTS} is {held:?} and cannot be changed ({why}); set it to {wanted}");
            }
            Ok(Some(held))
        }
    }
}
