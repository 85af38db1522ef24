//! Follows a Redis: polls the nodes of a cluster, and publishes its topology when it changes.
//!
//! Every poll asks all nodes: a frozen node does not answer, and a node that was cut off answers with what was true
//! before. The newest view counts, and no older view after it (see [`AcceptedView`]).

use crate::redis::cluster::addresses::ReachedNodes;
use crate::redis::cluster::topology::{SLOTS, Topology};
use crate::redis::cluster::view::{AcceptedView, ClusterView, NodeAddress};
use crate::redis::info::Info;
use crate::redis::resp::client::RespClient;
use crate::redis::target::Target;
use anyhow::{Context, Result, anyhow, bail};
use std::collections::BTreeMap;
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
    ClusterPoller::new(target.clone(), seeds).refresh().await
}

/// Polls all nodes of a cluster.
struct ClusterPoller {
    target: Target,
    seeds: Vec<NodeAddress>,
    clients: BTreeMap<NodeAddress, RespClient>,
    accepted: AcceptedView,
    nodes: ReachedNodes,
}

impl ClusterPoller {
    fn new(target: Target, seeds: Vec<NodeAddress>) -> ClusterPoller {
        let (accepted, nodes) = (AcceptedView::default(), ReachedNodes::default());
        ClusterPoller { target, seeds, clients: BTreeMap::new(), accepted, nodes }
    }

    /// Polls until nobody receives the topology any more.
    async fn run(mut self, sender: watch::Sender<Arc<Topology>>) {
        while !sender.is_closed() {
            let next = match self.refresh().await {
                Ok(topology) => Some(topology),
                Err(why) => {
                    debug!("the cluster cannot be polled: {why:#}");
                    let unknown = format!("{why:#}");
                    let none_known = sender.borrow().nodes.is_empty();
                    none_known.then(|| Topology { clustered: true, nodes: Vec::new(), unknown })
                }
            };
            if let Some(next) = next.filter(|next| next.fleet() != sender.borrow().fleet()) {
                log(&next);
                sender.send_replace(Arc::new(next));
            }
            sleep(POLL_EVERY).await;
        }
    }

    /// The topology now. Polls a second time if the first poll found nodes that it had not tried.
    async fn refresh(&mut self) -> Result<Topology> {
        self.poll_all().await?;
        if !self.nodes.is_complete(&self.accepted) {
            self.poll_all().await?;
        }
        let view = self.accepted.view().context("the cluster has no view")?;
        Ok(view.topology(&self.target, self.nodes.by_id()))
    }

    /// Polls all nodes, and accepts the newest view.
    async fn poll_all(&mut self) -> Result<()> {
        let mut places = self.nodes.polled(&self.accepted);
        places.extend(self.seeds.iter().cloned());
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
        let (mut views, mut answers) = (Vec::new(), BTreeMap::new());
        let mut last = anyhow!("{} does not name a node", self.target.shown());
        while let Some(Ok((place, answer))) = polls.join_next().await {
            match answer {
                Ok((client, view)) => {
                    answers.extend(view.myself().map(|id| (place.clone(), id.to_owned())));
                    self.clients.insert(place, client);
                    views.push(view);
                }
                Err(why) => last = why,
            }
        }
        if views.is_empty() {
            return Err(last);
        }
        if !views.iter().any(|view| view.ok) {
            bail!("the cluster is down: its cluster_state is not ok");
        }
        self.accepted.accept(&views, Instant::now());
        self.nodes.update(&self.accepted, &answers, &self.seeds);
        Ok(())
    }
}

fn log(topology: &Topology) {
    let missing = topology.fleet().without_owner();
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
