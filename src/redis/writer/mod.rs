//! Heartbeats and goodbyes that the daemon itself writes. They never touch the hub: what comes of them
//! comes back by the event stream, like anybody's.

mod lane;

use crate::error::Error;
use crate::metrics::Metrics;
use crate::presence::Key;
use crate::redis::cluster::{self, Node, Topology};
use crate::redis::link::parser::Seal;
use crate::redis::names::Names;
use crate::redis::target::Target;
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

/// How long a mark may take to be sent.
const MARK: Duration = Duration::from_millis(500);

/// Writes presence keys, each to the server that owns it.
pub struct Store {
    topology: watch::Receiver<Arc<Topology>>,
    /// Where the one server is, should there be no cluster: a Sentinel's primary changes.
    primary: watch::Receiver<Target>,
    /// By the name of the node.
    lanes: Mutex<BTreeMap<String, Led>>,
    names: Names,
    daemon: String,
    seal: Seal,
    ttl: Duration,
    metrics: Arc<Metrics>,
}

/// A lane, and the addresses of the node that it leads to.
type Led = (Vec<String>, Arc<Lane>);

/// One command of one key.
#[derive(Clone)]
struct Write {
    key: String,
    args: Vec<Value>,
    command: &'static str,
}

type Answers = Vec<Result<Value, fred::error::Error>>;

impl Store {
    /// A store on its own connections, which come about and come back by themselves, and follow the primaries.
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

    /// The TTL of heartbeats that name none.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Renews keys, each with the TTL given in milliseconds or the default, in one pipeline a server.
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
    pub async fn end(&self, keys: &[Key]) -> Result<(), Error> {
        self.write(keys.iter().map(|key| self.command("DEL", key, Vec::new())).collect()).await
    }

    /// Leaves nothing of the daemon behind: its canaries' keys.
    pub async fn clear(&self) -> Result<(), Error> {
        let topology = self.topology.borrow().clone();
        let canary = |node: &Node| node.canary_key(&self.names, &node.daemon(&self.daemon));
        let keys = topology.nodes.iter().filter_map(canary);
        self.write(keys.map(|key| Write { args: vec![key.as_str().into()], key, command: "DEL" }).collect())
            .await
    }

    /// Sends a mark into the event stream of each server that can be reached: once it comes back, so has
    /// everything before it.
    pub async fn mark(&self, mark: u64) -> Result<(), Error> {
        let topology = self.known().await?;
        let channel = self.names.fence_channel();
        let lanes = self.lanes(&topology);
        let sent = topology.nodes.iter().map(async |node| {
            let text = self.seal.store_mark(&node.daemon(&self.daemon), mark);
            let Some(lane) = lanes.get(&node.id) else { return Ok(()) };
            let publish =
                lane.write(async |client: &Client| client.publish::<(), _, _>(&channel, &text).await);
            // One that is frozen must not keep the others waiting.
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

    /// The servers, which at the very start of a cluster are waited for.
    async fn known(&self) -> Result<Arc<Topology>, Error> {
        let mut topology = self.topology.clone();
        let known = timeout(CONNECTING, topology.wait_for(|topology| !topology.nodes.is_empty())).await;
        match known {
            Ok(Ok(topology)) => Ok(topology.clone()),
            _ => Err(Error::RedisUnavailable(self.topology.borrow().unknown.clone())),
        }
    }

    /// A lane to each server; those of servers that are no more end.
    fn lanes(&self, topology: &Topology) -> BTreeMap<String, Arc<Lane>> {
        let mut lanes = self.lanes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let same =
            |id: &str, at: &[String]| topology.nodes.iter().any(|node| node.id == id && node.addresses == at);
        lanes.retain(|id, (at, _)| same(id, at));
        for node in &topology.nodes {
            lanes.entry(node.id.clone()).or_insert_with(|| {
                let lane =
                    if topology.clustered { Lane::to(&node.target) } else { Lane::new(self.primary.clone()) };
                (node.addresses.clone(), Arc::new(lane))
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

    /// Writes each to its owner, and once more to where an owner says that it has moved.
    async fn write_each(&self, writes: Vec<Write>) -> Result<(), Error> {
        let topology = self.known().await?;
        let lanes = self.lanes(&topology);
        let (mut moved, mut failed) = (Vec::new(), None);
        let mut groups: BTreeMap<String, Vec<Write>> = BTreeMap::new();
        for write in writes {
            match topology.owner(write.key.as_bytes()) {
                Some(owner) => groups.entry(owner.id.clone()).or_default().push(write),
                None => failed = Some(unowned(&write)),
            }
        }
        let sent = groups.into_iter().map(async |(id, writes)| {
            let answers = send(&lanes, &id, &writes, false).await;
            (id, writes, answers)
        });
        // What can be written is, whatever became of the rest.
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
    Error::RedisUnavailable(crate::redis::target::in_words(why))
}

/// The node that the one called `from` points to, and whether with ASKING; none if it points nowhere we know.
fn redirected(topology: &Topology, from: &str, why: &fred::error::Error) -> Option<(String, bool)> {
    let redirection = cluster::redirection(why)?;
    let from = topology.nodes.iter().find(|node| node.id == from)?;
    let to = topology.at(&from.absolute(&redirection.address))?;
    Some((to.id.clone(), redirection.ask))
}

/// Sends all in one pipeline, each after ASKING if need be. An answer each.
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
    // Of a connection that was lost there is one answer to all.
    if answers.len() != writes.len() * if ask { 2 } else { 1 } {
        let why = answers.into_iter().find_map(Result::err);
        let lost = || Error::RedisUnavailable("the connection was lost".into());
        return Err(why.as_ref().map_or_else(lost, refused));
    }
    Ok(if ask { answers.into_iter().skip(1).step_by(2).collect() } else { answers })
}

/// What is asked next may be of a slot that is on its way here.
fn asking() -> CustomCommand {
    CustomCommand::new_static("ASKING", ClusterHash::FirstKey, false)
}
