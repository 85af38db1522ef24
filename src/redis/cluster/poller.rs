//! Follows a Redis: polls the nodes of a cluster, and publishes its topology when it changes.
//!
//! Every poll asks all nodes: a frozen node does not answer, and a node that was cut off answers with what was true
//! before. The newest view counts (see [`ClusterView::rank`]), and no older view after it.

use crate::redis::cluster::topology::{SLOTS, Topology};
use crate::redis::cluster::view::{AcceptedView, ClusterView};
use crate::redis::info::Info;
use crate::redis::resp::client::RespClient;
use crate::redis::target::Target;
use anyhow::{Context, Result, anyhow, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

/// How often all nodes are polled. The daemon misses events of a new primary until a poll finds it.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// The longest time for one node's answer: a frozen node must not delay what the others know.
const ANSWER: Duration = Duration::from_secs(1);

/// A Redis that is followed; dropped, it is no longer polled.
pub struct Followed {
    /// The newest topology.
    pub topology: watch::Receiver<Arc<Topology>>,
    _task: AbortOnDropHandle<()>,
}

/// Starts to follow a Redis. The topology of a cluster is empty until a node answers.
pub fn follow(target: &Target) -> Followed {
    let Some(seeds) = target.cluster_seeds() else {
        let (sender, topology) = watch::channel(Arc::new(Topology::one(target.clone())));
        // The task keeps the channel open, so that a receiver can wait for a change that never comes.
        let task = tokio::spawn(async move { sender.closed().await });
        return Followed { topology, _task: AbortOnDropHandle::new(task) };
    };
    let unknown = "no node of the cluster has answered yet".to_owned();
    let (sender, topology) =
        watch::channel(Arc::new(Topology { clustered: true, nodes: Vec::new(), unknown }));
    let poller = ClusterPoller::new(target.clone(), seeds);
    Followed { topology, _task: AbortOnDropHandle::new(tokio::spawn(poller.run(sender))) }
}

/// The primaries as they are now, for a command that ends soon; the one server if it is not a cluster.
///
/// # Errors
/// No node answered, or the cluster is down.
pub async fn primaries(target: &Target) -> Result<Topology> {
    let Some(seeds) = target.cluster_seeds() else { return Ok(Topology::one(target.clone())) };
    let view = ClusterPoller::new(target.clone(), seeds).newest_view().await?;
    Ok(view.topology(target))
}

/// Polls all nodes of a cluster.
struct ClusterPoller {
    target: Target,
    seeds: Vec<(String, u16)>,
    clients: BTreeMap<(String, u16), RespClient>,
    accepted: AcceptedView,
}

impl ClusterPoller {
    fn new(target: Target, seeds: Vec<(String, u16)>) -> ClusterPoller {
        ClusterPoller { target, seeds, clients: BTreeMap::new(), accepted: AcceptedView::default() }
    }

    /// Polls until nobody receives the topology any more.
    async fn run(mut self, sender: watch::Sender<Arc<Topology>>) {
        while !sender.is_closed() {
            let next = match self.newest_view().await {
                Ok(view) => {
                    self.accepted.accept(view, Instant::now()).map(|view| view.topology(&self.target))
                }
                Err(why) => {
                    debug!("the cluster cannot be polled: {why:#}");
                    let unknown = format!("{why:#}");
                    let none_known = sender.borrow().nodes.is_empty();
                    none_known.then(|| Topology { clustered: true, nodes: Vec::new(), unknown })
                }
            };
            if let Some(next) = next.filter(|next| !next.same(&sender.borrow())) {
                log(&next);
                sender.send_replace(Arc::new(next));
            }
            sleep(POLL_EVERY).await;
        }
    }

    /// The newest view that any node has now.
    async fn newest_view(&mut self) -> Result<ClusterView> {
        let places: BTreeSet<(String, u16)> =
            self.seeds.iter().cloned().chain(self.accepted.places()).collect();
        // The connections to other places end here.
        let mut held = std::mem::take(&mut self.clients);
        let mut polls = JoinSet::new();
        for place in places {
            let client = held.remove(&place);
            let target = self.target.at(place.0.clone(), place.1);
            polls.spawn(async move {
                let answer = timeout(ANSWER, poll(&target, client, &place.0)).await;
                (place, answer.unwrap_or_else(|_| Err(anyhow!("{} did not answer", target.shown()))))
            });
        }
        let mut newest: Option<ClusterView> = None;
        let mut last = anyhow!("{} does not name a node", self.target.shown());
        while let Some(Ok((place, answer))) = polls.join_next().await {
            match answer {
                Ok((client, view)) => {
                    self.clients.insert(place, client);
                    if newest.as_ref().is_none_or(|newest| view.rank() > newest.rank()) {
                        newest = Some(view);
                    }
                }
                Err(why) => last = why,
            }
        }
        let newest = newest.ok_or(last)?;
        if !newest.ok {
            bail!("the cluster is down: its cluster_state is not ok");
        }
        Ok(newest)
    }
}

fn log(topology: &Topology) {
    let missing = topology.without_owner();
    if topology.nodes.is_empty() {
        warn!("{}", topology.unknown);
    } else if missing > 0 {
        warn!("{missing} of the cluster's {SLOTS} slots have no owner");
    } else {
        info!(primaries = topology.nodes.len(), "all slots of the cluster have an owner");
    }
}

/// Asks one node what it knows, over the connection of the last poll if there is one.
async fn poll(target: &Target, client: Option<RespClient>, host: &str) -> Result<(RespClient, ClusterView)> {
    let client = match client {
        Some(client) => client,
        None => RespClient::connect(target, "keybeat-cluster").await?,
    };
    let pipeline = client.pipeline();
    let answers = async {
        let info = Info::read_cluster(pipeline).await?.map_err(anyhow::Error::msg)?;
        Ok((info, pipeline.one(&["CLUSTER", "NODES"]).await?.text()?))
    };
    let answers: Result<(Info, String)> = answers.await;
    let (info, nodes) = answers.context(
        "CLUSTER was refused; is it a node of a cluster, and may the user run +cluster|info and +cluster|nodes?",
    )?;
    let view = ClusterView::parse(&info, &nodes, host)?;
    Ok((client, view))
}
