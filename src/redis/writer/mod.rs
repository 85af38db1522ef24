//! Writes of the daemon itself: heartbeats, deletions and marks. They never touch the hub: their effects come back
//! over the event stream, as those of any other program do.
//!
//! Writes use fred, for its connection management: it connects (TLS, unix sockets, Sentinels), pipelines the commands
//! of concurrent requests, times them out, and for `beat --every` and `demo` it reconnects. A write needs no order
//! relative to the event stream. Everything that does uses the RESP client in `resp/`.

mod connection;
mod lane;

pub use connection::WriteConnection;

use crate::error::Error;
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::presence::Key;
use crate::redis::cluster::{self, Node, Topology};
use crate::redis::link::parser::Seal;
use crate::redis::names::Names;
use crate::redis::resp::commands::ASKING;
use crate::redis::target::Target;
use crate::redis::writer::connection::in_words;
use crate::redis::writer::lane::{CONNECTING, Lane};
use crate::traces;
use fred::prelude::*;
use fred::types::{ClusterHash, CustomCommand};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::Instrument;

/// The longest time to send a mark to one server.
const MARK: Duration = Duration::from_millis(500);

/// Writes presence keys, each to the server that owns it.
pub struct Store {
    topology: watch::Receiver<Arc<Topology>>,
    /// The address of the one server, if it is not a cluster. Sentinels may change it.
    primary: watch::Receiver<Target>,
    /// By the id of the node.
    lanes: Mutex<BTreeMap<String, Led>>,
    names: Names,
    daemon: String,
    seal: Seal,
    ttl: Duration,
    metrics: Arc<Metrics>,
}

/// A lane, and the URL that it leads to.
type Led = (String, Arc<Lane>);

/// One command of one key.
#[derive(Clone)]
struct Write {
    key: String,
    args: Vec<Value>,
    command: &'static str,
}

type Answers = Vec<Result<Value, fred::error::Error>>;

impl Store {
    /// A store with its own connections, which follow the primaries.
    pub fn new(
        (topology, primary): (watch::Receiver<Arc<Topology>>, watch::Receiver<Target>),
        names: Names,
        (daemon, seal): (String, Seal),
        ttl: Duration,
        metrics: Arc<Metrics>,
    ) -> Store {
        let store = Store { topology, primary, lanes: Mutex::default(), names, daemon, seal, ttl, metrics };
        store.lanes(&store.topology.borrow().clone());
        store
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
        let set = |(key, ttl_ms): &(Key, Option<u64>)| {
            let ttl = ttl_ms.unwrap_or(self.ttl.as_millis() as u64) as i64;
            self.command("SET", key, vec![1.into(), "PX".into(), ttl.into()])
        };
        self.write(keys.iter().map(set).collect()).await?;
        self.metrics.heartbeats.inc_by(keys.len() as u64);
        Ok(())
    }

    /// Deletes keys.
    ///
    /// # Errors
    /// At least one key was not deleted.
    pub async fn end(&self, keys: &[Key]) -> Result<(), Error> {
        self.write(keys.iter().map(|key| self.command("DEL", key, Vec::new())).collect()).await
    }

    /// Deletes the daemon's canary keys.
    ///
    /// # Errors
    /// At least one key was not deleted.
    pub async fn clear(&self) -> Result<(), Error> {
        let topology = self.topology.borrow().clone();
        let canary = |node: &Node| node.canary_key(&self.names, &node.daemon(&self.daemon));
        let keys = topology.nodes.iter().filter_map(canary);
        self.write(keys.map(|key| Write { args: vec![key.as_str().into()], key, command: "DEL" }).collect())
            .await
    }

    /// Publishes a mark into the event stream of each reachable server: when it arrives, all events before it have
    /// arrived too.
    ///
    /// # Errors
    /// No server took the mark.
    pub async fn mark(&self, mark: u64) -> Result<(), Error> {
        let topology = self.known().await?;
        let channel = self.names.fence_channel();
        let lanes = self.lanes(&topology);
        let sent = topology.nodes.iter().map(async |node| {
            let text = self.seal.store_mark(&node.daemon(&self.daemon), mark);
            let Some(lane) = lanes.get(node.id()) else { return Ok(()) };
            let publish =
                lane.write(async |client: &Client| client.publish::<(), _, _>(&channel, &text).await);
            // A frozen server must not delay the others.
            timeout(MARK, publish).await.unwrap_or_else(|_| Err(Error::RedisUnavailable("no answer".into())))
        });
        let mut failed = None;
        for sent in join_all(sent).await {
            match sent {
                Ok(()) => return Ok(()),
                Err(why) => failed = Some(why),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn command(&self, command: &'static str, key: &Key, more: Vec<Value>) -> Write {
        let key = self.names.redis_key(key.as_str());
        let args = std::iter::once(key.as_str().into()).chain(more).collect();
        Write { key, args, command }
    }

    /// The servers. At the start of a cluster it waits until they are known.
    async fn known(&self) -> Result<Arc<Topology>, Error> {
        let mut topology = self.topology.clone();
        let known = timeout(CONNECTING, topology.wait_for(|topology| !topology.nodes.is_empty())).await;
        match known {
            Ok(Ok(topology)) => Ok(topology.clone()),
            _ => Err(Error::RedisUnavailable(self.topology.borrow().unknown.clone())),
        }
    }

    /// A lane to each server. Lanes to servers that are gone end.
    fn lanes(&self, topology: &Topology) -> BTreeMap<String, Arc<Lane>> {
        let mut lanes = lock(&self.lanes);
        let same =
            |id: &str, at: &str| topology.nodes.iter().any(|node| node.id() == id && node.shown() == at);
        lanes.retain(|id, (at, _)| same(id, at));
        for node in &topology.nodes {
            lanes.entry(node.id().to_owned()).or_insert_with(|| {
                let lane =
                    if topology.clustered { Lane::to(&node.target) } else { Lane::new(self.primary.clone()) };
                (node.shown().to_owned(), Arc::new(lane))
            });
        }
        lanes.iter().map(|(id, (_, lane))| (id.clone(), lane.clone())).collect()
    }

    async fn write(&self, writes: Vec<Write>) -> Result<(), Error> {
        if writes.is_empty() {
            return Ok(());
        }
        let span = traces::write(writes.len());
        let written = self.write_each(writes).instrument(span.clone()).await;
        if written.is_err() {
            traces::failed(&span);
        }
        written
    }

    /// Sends each write to the owner of its key, and once more to the node that a redirection names.
    async fn write_each(&self, writes: Vec<Write>) -> Result<(), Error> {
        let topology = self.known().await?;
        let lanes = self.lanes(&topology);
        let (mut moved, mut failed) = (Vec::new(), None);
        let mut groups: BTreeMap<String, Vec<Write>> = BTreeMap::new();
        for write in writes {
            match topology.owner(write.key.as_bytes()) {
                Some(owner) => groups.entry(owner.id().to_owned()).or_default().push(write),
                None => failed = Some(unowned(&write)),
            }
        }
        let sent = groups.into_iter().map(async |(id, writes)| {
            let answers = send(&lanes, &id, &writes, false).await;
            (id, writes, answers)
        });
        // A failed group does not stop the others.
        for (id, writes, answers) in join_all(sent).await {
            let answers = match answers {
                Ok(answers) => answers,
                Err(why) => {
                    failed = Some(why);
                    continue;
                }
            };
            for (write, answer) in writes.into_iter().zip(answers) {
                let Err(why) = answer else { continue };
                match redirected(&topology, &id, &why) {
                    Some((to, ask)) => moved.push((to, ask, write)),
                    None => failed = Some(refused(&why)),
                }
            }
        }
        for (id, ask, write) in moved {
            let sent = send(&lanes, &id, &[write], ask).await;
            let done = sent.and_then(|answers| {
                answers.into_iter().collect::<Result<Vec<Value>, _>>().map_err(|why| refused(&why))
            });
            failed = done.err().or(failed);
        }
        failed.map_or(Ok(()), Err)
    }
}

fn unowned(write: &Write) -> Error {
    Error::RedisUnavailable(format!("no server owns the slot {}", cluster::slot(write.key.as_bytes())))
}

fn refused(why: &fred::error::Error) -> Error {
    Error::RedisUnavailable(in_words(why))
}

/// The node that a redirection by the node `from` names, and whether it needs ASKING; none if it is unknown.
fn redirected(topology: &Topology, from: &str, why: &fred::error::Error) -> Option<(String, bool)> {
    let redirection = cluster::redirection(why.details())?;
    let from = topology.nodes.iter().find(|node| node.id() == from)?;
    let to = topology.at(&from.primary.absolute(&redirection.address))?;
    Some((to.id().to_owned(), redirection.ask))
}

/// Sends all writes in one pipeline, each after ASKING if `ask` is true. One answer for each write.
async fn send(
    lanes: &BTreeMap<String, Arc<Lane>>,
    id: &str,
    writes: &[Write],
    ask: bool,
) -> Result<Answers, Error> {
    let Some(lane) = lanes.get(id) else {
        return Err(Error::RedisUnavailable("there is no connection".into()));
    };
    let answers = lane.write(async |client: &Client| {
        let pipeline = client.pipeline();
        for write in writes {
            if ask {
                pipeline.custom::<(), Value>(asking(), Vec::new()).await?;
            }
            let command = CustomCommand::new_static(write.command, ClusterHash::FirstKey, false);
            pipeline.custom::<(), _>(command, write.args.clone()).await?;
        }
        Ok(pipeline.try_all::<Value>().await)
    });
    let answers: Answers = answers.await?;
    // A lost connection gives one answer for all writes.
    if answers.len() != writes.len() * if ask { 2 } else { 1 } {
        let why = answers.into_iter().find_map(Result::err);
        let lost = || Error::RedisUnavailable("the connection was lost".into());
        return Err(why.as_ref().map_or_else(lost, refused));
    }
    Ok(if ask { answers.into_iter().skip(1).step_by(2).collect() } else { answers })
}

fn asking() -> CustomCommand {
    CustomCommand::new_static(ASKING, ClusterHash::FirstKey, false)
}
