//! Which servers there are, and which of them owns which key.
//!
//! The nodes of a cluster are asked what they know of it, all of them and again and again: a node that is
//! frozen says nothing, and one that was cut off says what was true before. The view that knows the newest
//! configuration epoch is believed, and no older one after it.

use crate::redis::names::Names;
use crate::redis::target::{Connection, Target};
use anyhow::{Context, Result, anyhow, bail};
use fred::prelude::*;
use fred::types::{ClusterHash, CustomCommand};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

/// How many slots a cluster has (Redis cluster specification).
pub const SLOTS: u16 = 16_384;
/// How often all nodes are asked. Until a new primary is known, nobody here hears of what is set there.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How long one node may take to answer; a node that is frozen must not hide what the others know.
const ANSWER: Duration = Duration::from_secs(1);
/// If for so long only older views are heard, the cluster was made anew.
const OLDER_FOR: Duration = Duration::from_secs(5);

/// One primary.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name in the cluster; empty for a server that stands alone.
    pub id: String,
    /// How to reach it.
    pub target: Target,
    /// What redirections may call it, each `HOST:PORT`.
    pub addresses: Vec<String>,
    /// The slots that it owns.
    pub slots: Vec<RangeInclusive<u16>>,
}

impl Node {
    /// Does it own this slot?
    pub fn owns(&self, slot: u16) -> bool {
        self.slots.iter().any(|range| range.contains(&slot))
    }

    /// How many slots it owns.
    pub fn owned(&self) -> usize {
        self.slots.iter().map(|range| range.len()).sum()
    }

    /// The address of a redirection, which leaves out the host where it is this node's own.
    pub fn absolute(&self, address: &str) -> String {
        let own = self.addresses.first().and_then(|own| own.rsplit_once(':'));
        // An IPv6 address may begin with a colon, too.
        let port = address.strip_prefix(':').filter(|port| port.bytes().all(|c| c.is_ascii_digit()));
        match own {
            Some((host, _)) if port.is_some() => format!("{host}{address}"),
            _ => address.to_owned(),
        }
    }

    /// Names the daemon called `daemon` at this node.
    pub fn daemon(&self, daemon: &str) -> String {
        if self.id.is_empty() { daemon.to_owned() } else { format!("{daemon}-{}", self.id) }
    }

    /// A key of the daemon's own whose slot is this node's, if there is one.
    pub fn canary_key(&self, names: &Names, daemon: &str) -> Option<String> {
        let key = names.canary_key(daemon);
        if self.id.is_empty() {
            return Some(key);
        }
        if self.slots.is_empty() {
            return None;
        }
        // Keys fall into slots as by chance: a node with one slot of all is hit within so many but for 1 in 20,000.
        (0..u32::from(SLOTS) * 10).map(|i| format!("{key}:{i}")).find(|key| self.owns(slot(key.as_bytes())))
    }

    /// What people call it.
    pub fn shown(&self) -> &str {
        self.target.shown()
    }

    fn same(&self, other: &Node) -> bool {
        self.id == other.id && self.addresses == other.addresses && self.slots == other.slots
    }
}

/// All primaries.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    /// Do they share the keys by slot? Else there is one server, which has them all.
    pub clustered: bool,
    /// The primaries, in the order of their names.
    pub nodes: Vec<Node>,
    /// Why none is known.
    pub unknown: String,
}

impl Topology {
    /// Of one server, found by a Sentinel or not.
    pub fn one(target: Target) -> Topology {
        let node = Node { id: String::new(), target, addresses: Vec::new(), slots: Vec::new() };
        Topology { clustered: false, nodes: vec![node], unknown: String::new() }
    }

    /// The node that owns a key of this name.
    pub fn owner(&self, redis_key: &[u8]) -> Option<&Node> {
        if !self.clustered {
            return self.nodes.first();
        }
        let slot = slot(redis_key);
        self.nodes.iter().find(|node| node.owns(slot))
    }

    /// The node that a redirection names.
    pub fn at(&self, address: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.addresses.iter().any(|held| held == address))
    }

    /// How many slots nobody owns.
    pub fn without_owner(&self) -> usize {
        let owned: usize = self.nodes.iter().map(Node::owned).sum();
        if self.clustered { usize::from(SLOTS).saturating_sub(owned) } else { 0 }
    }

    fn same(&self, other: &Topology) -> bool {
        self.nodes.len() == other.nodes.len()
            && self.nodes.iter().zip(&other.nodes).all(|(a, b)| a.same(b))
            && self.unknown == other.unknown
    }
}

/// The slot of a key.
pub fn slot(redis_key: &[u8]) -> u16 {
    fred::util::redis_keyslot(redis_key)
}

/// Where a node sends whoever asks it for a key that it does not own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirection {
    /// The key's slot.
    pub slot: u16,
    /// `HOST:PORT`; the host is empty where it is that of the node which was asked.
    pub address: String,
    /// Only for this question, which is to be put with ASKING: the slot is being moved.
    pub ask: bool,
}

/// Reads `MOVED 3999 127.0.0.1:6381` or `ASK …`; `None` for any other error.
pub fn redirection(why: &Error) -> Option<Redirection> {
    redirection_in(why.details())
}

/// The same, in the words of the server.
pub(super) fn redirection_in(why: &str) -> Option<Redirection> {
    let mut words = why.split(' ');
    let ask = match words.next()? {
        "MOVED" => false,
        "ASK" => true,
        _ => return None,
    };
    Some(Redirection { slot: words.next()?.parse().ok()?, address: words.next()?.to_owned(), ask })
}

/// What follows a Redis: which servers it has, as that changes.
pub struct Followed {
    /// The newest that is known.
    pub topology: watch::Receiver<Arc<Topology>>,
    _asker: Option<AbortOnDropHandle<()>>,
}

/// Begins to follow a Redis. Of a cluster nothing is known at first.
pub fn follow(target: &Target) -> Followed {
    let Some(seeds) = target.cluster_seeds() else {
        let (told, topology) = watch::channel(Arc::new(Topology::one(target.clone())));
        // The channel stays open, so that waiting for another topology is waiting for ever.
        let keep = tokio::spawn(async move { told.closed().await });
        return Followed { topology, _asker: Some(AbortOnDropHandle::new(keep)) };
    };
    let unknown = "no node of the cluster has answered yet".to_owned();
    let (told, topology) = watch::channel(Arc::new(Topology { clustered: true, nodes: Vec::new(), unknown }));
    let asker = tokio::spawn(ask_for_ever(Asker::new(target.clone(), seeds), told));
    Followed { topology, _asker: Some(AbortOnDropHandle::new(asker)) }
}

/// The primaries as they are now, for a command that ends soon; the one server, if it is no cluster.
pub async fn primaries(target: &Target) -> Result<Topology> {
    let Some(seeds) = target.cluster_seeds() else { return Ok(Topology::one(target.clone())) };
    let mut asker = Asker::new(target.clone(), seeds);
    let view = asker.best_view().await?;
    Ok(view.topology(target))
}

async fn ask_for_ever(mut asker: Asker, told: watch::Sender<Arc<Topology>>) {
    let mut older_since = None;
    loop {
        let next = match asker.best_view().await {
            Ok(view) => asker.accept(view, &mut older_since),
            Err(why) => {
                debug!("the cluster cannot be asked: {why:#}");
                let known = told.borrow().clone();
                let nobody = known.nodes.is_empty();
                nobody.then(|| Topology { clustered: true, nodes: Vec::new(), unknown: format!("{why:#}") })
            }
        };
        if let Some(next) = next.filter(|next| !next.same(&told.borrow())) {
            say(&next);
            told.send_replace(Arc::new(next));
        }
        sleep(ASK_EVERY).await;
        if told.is_closed() {
            return;
        }
    }
}

fn say(topology: &Topology) {
    let missing = topology.without_owner();
    if topology.nodes.is_empty() {
        warn!("{}", topology.unknown);
    } else if missing > 0 {
        warn!("{missing} of the cluster's {SLOTS} slots have no owner");
    } else {
        info!(primaries = topology.nodes.len(), "the cluster's slots have their owners");
    }
}

/// Asks all nodes.
struct Asker {
    target: Target,
    seeds: Vec<(String, u16)>,
    connections: BTreeMap<(String, u16), Arc<Connection>>,
    accepted: Option<View>,
}

impl Asker {
    fn new(target: Target, seeds: Vec<(String, u16)>) -> Asker {
        Asker { target, seeds, connections: BTreeMap::new(), accepted: None }
    }

    /// The newest of what the nodes know now.
    async fn best_view(&mut self) -> Result<View> {
        let known = self.accepted.iter().flat_map(|view| view.lines.iter().map(|line| line.place()));
        let places: BTreeSet<(String, u16)> = self.seeds.iter().cloned().chain(known).collect();
        let mut asked = JoinSet::new();
        // Those to places that are asked no more end.
        let mut connections = std::mem::take(&mut self.connections);
        for place in places {
            let held = connections.remove(&place);
            let target = self.target.at(place.0.clone(), place.1);
            asked.spawn(async move {
                let view = timeout(ANSWER, ask(&target, held, &place.0)).await;
                (place, view.unwrap_or_else(|_| Err(anyhow!("{} did not answer", target.shown()))))
            });
        }
        let mut best: Option<View> = None;
        let mut last = anyhow!("{} names no node", self.target.shown());
        while let Some(Ok((place, answer))) = asked.join_next().await {
            match answer {
                Ok((connection, view)) => {
                    self.connections.insert(place, connection);
                    if best.as_ref().is_none_or(|best| view.rank() > best.rank()) {
                        best = Some(view);
                    }
                }
                Err(why) => last = why,
            }
        }
        let best = best.ok_or(last)?;
        if !best.ok {
            bail!("the cluster is down: its cluster_state is not ok");
        }
        Ok(best)
    }

    /// What is believed after this view; `None` where it is older than what is believed already.
    fn accept(&mut self, view: View, older_since: &mut Option<Instant>) -> Option<Topology> {
        let older = self.accepted.as_ref().is_some_and(|held| view.rank() < held.rank());
        if older && older_since.get_or_insert_with(Instant::now).elapsed() < OLDER_FOR {
            return None;
        }
        *older_since = None;
        let topology = view.topology(&self.target);
        self.accepted = Some(view);
        Some(topology)
    }
}

async fn ask(target: &Target, held: Option<Arc<Connection>>, host: &str) -> Result<(Arc<Connection>, View)> {
    let connection = match held {
        Some(connection) => connection,
        None => Arc::new(target.connect().await?),
    };
    let command = |what: &'static str| {
        let cluster = CustomCommand::new_static("CLUSTER", ClusterHash::FirstKey, false);
        connection.client().custom::<String, _>(cluster, vec![what])
    };
    let refused =
        "CLUSTER was refused; is it a cluster's node, and may the user run +cluster|info and +cluster|nodes?";
    let info = command("INFO").await.context(refused)?;
    let nodes = command("NODES").await.context(refused)?;
    let view = View::parse(&info, &nodes, host)?;
    Ok((connection, view))
}

/// What one node knows of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
struct View {
    ok: bool,
    epoch: u64,
    lines: Vec<Line>,
}

/// A node in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    id: String,
    host: String,
    hostname: Option<String>,
    port: u16,
    primary: bool,
    fails: bool,
    epoch: u64,
    slots: Vec<RangeInclusive<u16>>,
}

impl Line {
    fn place(&self) -> (String, u16) {
        (self.hostname.as_ref().unwrap_or(&self.host).clone(), self.port)
    }

    /// Reads a line of CLUSTER NODES; `None` for a node that cannot be reached by anybody, or is not
    /// part of the cluster yet. `asked` stands for an address that the node itself does not know.
    fn parse(text: &str, asked: &str) -> Result<Option<Line>> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [id, address, flags, _, _, _, epoch, _, slots @ ..] = &words[..] else {
            bail!("CLUSTER NODES gave a line that cannot be read: {text:?}");
        };
        let flag = |name: &str| flags.split(',').any(|flag| flag == name);
        if flag("noaddr") || flag("handshake") {
            return Ok(None);
        }
        // 127.0.0.1:30004@31004,hostname4 with more after further commas.
        let mut parts = address.split(',');
        let place = parts.next().and_then(|place| place.split('@').next()).unwrap_or_default();
        let hostname = parts.next().filter(|name| !name.is_empty() && !name.contains('='));
        let (host, port) = place.rsplit_once(':').context("a node without a port")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Ok(Some(Line {
            id: (*id).to_owned(),
            host: if host.is_empty() { asked } else { host }.to_owned(),
            hostname: hostname.map(str::to_owned),
            port: port.parse().with_context(|| format!("{port:?} is no port"))?,
            primary: flag("master"),
            fails: flag("fail"),
            epoch: epoch.parse().with_context(|| format!("{epoch:?} is no epoch"))?,
            slots: slots.iter().filter_map(|text| parse_slots(text)).collect(),
        }))
    }
}

/// `5461-10922` or `5461`; `None` for one that is being moved, `[93->-ID]`, which stays its owner's until it is.
fn parse_slots(text: &str) -> Option<RangeInclusive<u16>> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    (from <= to && to < SLOTS).then_some(from..=to)
}

impl View {
    fn parse(info: &str, nodes: &str, asked: &str) -> Result<View> {
        let field = |name: &str| {
            info.lines()
                .filter_map(|line| line.trim_end().split_once(':'))
                .find_map(|(key, value)| (key == name).then(|| value.to_owned()))
        };
        let epoch = field("cluster_current_epoch").and_then(|epoch| epoch.parse().ok());
        let lines = nodes.lines().filter(|line| !line.trim().is_empty());
        let lines: Result<Vec<Option<Line>>> = lines.map(|line| Line::parse(line, asked)).collect();
        Ok(View {
            ok: field("cluster_state").is_some_and(|state| state == "ok"),
            epoch: epoch.context("CLUSTER INFO tells no cluster_current_epoch")?,
            lines: lines?.into_iter().flatten().collect(),
        })
    }

    /// The greater, the newer. Nodes hear of a new epoch before they hear what it was for; who knows that has
    /// a node with that epoch.
    fn rank(&self) -> (bool, u64, u64, u64) {
        let epochs = || self.lines.iter().filter(|line| line.primary).map(|line| line.epoch);
        (self.ok, self.epoch, epochs().max().unwrap_or(0), epochs().sum())
    }

    /// All primaries; also those that own nothing yet, so that the first key which comes is heard. One that
    /// has failed is one until another has its slots.
    fn topology(&self, target: &Target) -> Topology {
        let primaries =
            self.lines.iter().filter(|line| line.primary && (!line.fails || !line.slots.is_empty()));
        let node = |line: &Line| {
            let (host, port) = line.place();
            let names = [Some(&line.host), line.hostname.as_ref()];
            Node {
                id: line.id.clone(),
                target: target.at(host, port),
                addresses: names.into_iter().flatten().map(|host| format!("{host}:{port}")).collect(),
                slots: line.slots.clone(),
            }
        };
        let mut nodes: Vec<Node> = primaries.map(node).collect();
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        Topology { clustered: true, nodes, unknown: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INFO: &str = "cluster_enabled:1\r\ncluster_state:ok\r\ncluster_current_epoch:7\r\n";
    const NODES: &str = "\
aaa 127.0.0.1:7001@17001 master - 0 1 5 connected 0-5460 [93->-bbb]
bbb :7002@17002,b.example myself,master - 0 1 7 connected 5461-10921 10922
ccc 127.0.0.1:7003@17003 master,fail - 0 1 3 disconnected
ddd 127.0.0.1:7004@17004 slave aaa 0 1 5 connected
eee 127.0.0.1:7005@17005 master,fail - 0 1 4 disconnected 10923-16383
fff :0@0 master,noaddr - 0 1 2 disconnected
";

    fn target() -> Target {
        Target::parse("redis-cluster://seed:7000").unwrap()
    }

    #[test]
    fn primaries_are_read_with_their_slots() {
        let topology = View::parse(INFO, NODES, "10.0.0.2").unwrap().topology(&target());
        let ids: Vec<&str> = topology.nodes.iter().map(|node| node.id.as_str()).collect();
        assert_eq!(ids, ["aaa", "bbb", "eee"], "a failed one only as long as nobody has its slots");
        assert_eq!(topology.without_owner(), 0);
        assert_eq!(topology.at("b.example:7002").map(|node| node.id.as_str()), Some("bbb"));
        assert_eq!(topology.at("10.0.0.2:7002").map(|node| node.id.as_str()), Some("bbb"));
        assert_eq!(slot(b"123456789"), 12739, "the example of the cluster specification");
        assert_eq!(topology.owner(b"123456789").map(|node| node.id.as_str()), Some("eee"));
        assert_eq!(topology.nodes[0].absolute(":7009"), "127.0.0.1:7009");
        assert_eq!(topology.nodes[0].absolute("::1:7009"), "::1:7009");
        assert_eq!(topology.owner(b"x{123456789}y").map(|node| node.id.as_str()), Some("eee"));
    }

    #[test]
    fn a_view_that_knows_what_an_epoch_was_for_is_newer_than_one_that_has_only_heard_of_it() {
        let new = View::parse(INFO, NODES, "h").unwrap();
        let heard = View::parse(INFO, &NODES.replace(" 7 connected", " 2 connected"), "h").unwrap();
        let old = View::parse(&INFO.replace(":7", ":6"), NODES, "h").unwrap();
        let cut_off = View::parse(&INFO.replace("ok", "fail").replace(":7", ":9"), NODES, "h").unwrap();
        assert!(new.rank() > heard.rank() && heard.rank() > old.rank() && old.rank() > cut_off.rank());
        let mut asker = Asker::new(target(), Vec::new());
        let mut since = None;
        assert!(asker.accept(new.clone(), &mut since).is_some());
        assert!(asker.accept(old, &mut since).is_none() && since.is_some(), "no older one after it");
        assert!(asker.accept(new, &mut since).is_some() && since.is_none());
    }

    #[test]
    fn a_redirection_tells_where_to() {
        let error = |text: &'static str| redirection(&Error::new(ErrorKind::Cluster, text));
        let moved = Redirection { slot: 3999, address: "127.0.0.1:6381".into(), ask: false };
        assert_eq!(error("MOVED 3999 127.0.0.1:6381"), Some(moved.clone()));
        assert_eq!(error("ASK 3999 127.0.0.1:6381"), Some(Redirection { ask: true, ..moved }));
        for other in ["CLUSTERDOWN The cluster is down", "MOVED", "MOVED x y", "MOVED 1", ""] {
            assert_eq!(error(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(info in ".*", nodes in "[ -~\n]*", line in "[a-c0-9:@,\\[\\]> -]{0,60}") {
            let _ = View::parse(&info, &nodes, "h");
            let _ = View::parse(INFO, &line, "h").map(|view| view.topology(&target()).without_owner());
        }
    }
}
