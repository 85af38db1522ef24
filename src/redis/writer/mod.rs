//! Writes of the daemon itself: heartbeats, deletions and marks. They never touch the hub: their effects come back
//! over the event stream, as those of any other program do. Programs that write without a daemon (`demo`, `bench`, `beat --redis`)
//! have a [`WriteConnection`].

mod connection;
mod lane;
mod lives;
mod release;
mod servers;
mod sockets;
mod token;

pub use connection::WriteConnection;
pub use lives::{KeyLife, TtlQuestion};
pub(in crate::redis) use release::Announcer;
pub(in crate::redis) use servers::{Servers, Write, confirmed};
pub use sockets::{Renewal, Renewed, Unreleased};
pub use token::{Departure, SocketValue, Token};

use crate::error::Error;
use crate::metrics::Metrics;
use crate::presence::{Key, WrittenKeys};
use crate::redis::channel::{Channel, Message};
use crate::redis::cluster::{Node, Topology};
use crate::redis::link::parser::Seal;
use crate::redis::names::Names;
use crate::redis::resp::client::Pipeline;
use crate::redis::target::Target;
use futures_util::future::join_all;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// The name of the connections in the servers' `CLIENT LIST`.
const NAME: &str = "keybeat-writes";

/// The longest time to send a mark to one server.
const MARK: Duration = Duration::from_millis(500);

/// How many heartbeats a socket sends in one TTL. Two that are lost in a row do not end its session, and neither does a
/// connection to Redis that is away for two thirds of the TTL.
pub const BEATS_PER_TTL: u32 = 5;

/// Writes presence keys, each to the server that owns it.
pub struct Store {
    servers: Servers,
    names: Names,
    daemon: String,
    seal: Seal,
    ttl: Duration,
    /// The driver notes which keys were written with which TTL.
    written: Option<mpsc::Sender<WrittenKeys>>,
    /// The driver knows the TTLs of all keys.
    driver: Option<mpsc::Sender<TtlQuestion>>,
    channel: Channel,
    metrics: Arc<Metrics>,
    /// A server refused `SET … GET`: it is older than 6.2, or the rights do not allow it.
    without_get: AtomicBool,
}

impl Store {
    /// A store with its own connections, which follow the primaries.
    pub fn new(
        (topology, primary): (watch::Receiver<Arc<Topology>>, watch::Receiver<Target>),
        names: Names,
        (daemon, seal): (String, Seal),
        ttl: Duration,
        metrics: Arc<Metrics>,
    ) -> Store {
        let channel = Channel::new(&daemon, metrics.clone());
        let servers = Servers::new(NAME, topology, primary, Announcer::new(channel.clone(), &names));
        let (written, driver, without_get) = (None, None, AtomicBool::new(false));
        Store { servers, names, daemon, seal, ttl, written, driver, channel, metrics, without_get }
    }

    /// The same store, which also reports to the driver what it writes, asks the driver for TTLs, and publishes messages over
    /// `channel`.
    pub fn reporting(
        self,
        written: mpsc::Sender<WrittenKeys>,
        driver: mpsc::Sender<TtlQuestion>,
        channel: Channel,
    ) -> Store {
        Store { written: Some(written), driver: Some(driver), channel, ..self }
    }

    /// The name of a key in Redis.
    pub fn redis_key(&self, key: &Key) -> String {
        self.names.redis_key(key.as_str())
    }

    /// The TTL of heartbeats that do not name one.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Renews keys, each with the given TTL in milliseconds or the default, in one pipeline per server.
    ///
    /// # Errors
    /// At least one key was not written.
    pub async fn beat(&self, keys: &[(Key, Option<u64>)]) -> Result<(), Error> {
        let ttl_of = |ttl_ms: &Option<u64>| ttl_ms.unwrap_or(self.ttl.as_millis() as u64);
        let set = |(key, ttl_ms): &(Key, Option<u64>)| {
            self.command("SET", key, vec!["1".into(), "PX".into(), ttl_of(ttl_ms).to_string()])
        };
        let done = self.write(keys.iter().map(set).collect()).await;
        // Some of the keys may be written although others are not.
        self.report(keys.iter().map(|(key, ttl_ms)| (key.clone(), ttl_of(ttl_ms))));
        done?;
        self.metrics.heartbeats.inc_by(keys.len() as u64);
        Ok(())
    }

    /// Reports the TTLs of keys that were written just now, so that this daemon and all others know their deadlines. If
    /// too many reports wait, a shorter TTL may be noticed late.
    pub fn report(&self, keys: impl Iterator<Item = (Key, u64)>) {
        let Some(written) = &self.written else { return };
        let keys = keys.map(|(key, ttl_ms)| (key, u32::try_from(ttl_ms).unwrap_or(u32::MAX)));
        if written.try_send(keys.collect()).is_err() {
            self.channel.dropped();
        }
    }

    /// Deletes the daemon's canary keys.
    ///
    /// # Errors
    /// At least one key was not deleted.
    pub async fn clear(&self) -> Result<(), Error> {
        let topology = self.servers.topology();
        let canary = |node: &Node| node.canary_key(&self.names, &node.daemon(&self.daemon));
        let keys = topology.nodes.iter().filter_map(canary);
        self.write(keys.map(|key| Write::new("DEL", key, Vec::new())).collect()).await
    }

    /// Publishes a mark into the event stream of each reachable server: when it arrives, all events before it have
    /// arrived too.
    ///
    /// # Errors
    /// No server took the mark.
    pub async fn mark(&self, mark: u64) -> Result<(), Error> {
        let topology = self.servers.known().await?;
        let channel = self.names.fence_channel();
        let lanes = self.servers.lanes(&topology);
        let sent = topology.nodes.iter().map(async |node| {
            let text = self.seal.store_mark(&node.daemon(&self.daemon), mark);
            let Some(lane) = lanes.get(node.id()) else { return Ok(()) };
            let (lane, channel) = (lane.clone(), channel.clone());
            // A task of its own: the lane notices after its own time, which is longer, that the connection is dead.
            let publish = tokio::spawn(async move {
                let publish =
                    async |pipeline: &Pipeline| pipeline.one(&["PUBLISH", &channel, &text]).await?.accepted();
                lane.write(publish).await
            });
            // A frozen server must not delay the others.
            match timeout(MARK, publish).await {
                Ok(Ok(sent)) => sent,
                _ => Err(Error::RedisUnavailable("no answer".into())),
            }
        });
        let mut failed = None;
        for sent in join_all(sent).await {
            match sent {
                Ok(()) => return Ok(()),
                Err(why) => failed = Some(why),
            }
        }
        // A mark is no write that a client asked for.
        failed.map_or(Ok(()), |why| match why {
            Error::RedisUnconfirmed(why) => Err(Error::RedisUnavailable(why)),
            other => Err(other),
        })
    }

    /// The channel of [`announce`](Store::announce).
    pub fn daemons_channel(&self) -> String {
        self.names.daemons_channel()
    }

    /// Publishes a message to the other daemons, at the first server that takes it. Each server of a cluster forwards it.
    ///
    /// # Errors
    /// No server took the message. The daemon's rights may not include the channel.
    pub async fn announce(&self, message: &Message) -> Result<(), Error> {
        let topology = self.servers.known().await?;
        let (name, channel) = (self.names.daemons_channel(), &self.channel);
        let mut failed = None;
        for lane in self.servers.lanes(&topology).values() {
            let sent = lane.write(async |pipeline: &Pipeline| {
                for payload in channel.payloads(message) {
                    pipeline.one(&["PUBLISH", &name, &payload]).await?.accepted()?;
                }
                Ok(())
            });
            let sent = timeout(MARK, sent).await;
            match sent.unwrap_or_else(|_| Err(Error::RedisUnconfirmed("no answer".into()))) {
                Ok(()) => {
                    channel.sent(true);
                    return Ok(());
                }
                Err(why) => failed = Some(why),
            }
        }
        channel.sent(false);
        failed.map_or(Ok(()), Err)
    }

    fn command(&self, command: &'static str, key: &Key, more: Vec<String>) -> Write {
        Write::new(command, self.names.redis_key(key.as_str()), more)
    }

    async fn write(&self, writes: Vec<Write>) -> Result<(), Error> {
        confirmed(&self.servers.send(writes).await)
    }
}
