//! One node's view of its cluster: CLUSTER INFO and CLUSTER NODES, parsed. No I/O.

use crate::presence::Primary;
use crate::redis::cluster::topology::{Node, SLOTS, Topology};
use crate::redis::info::Info;
use crate::redis::target::Target;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// If only older views, or views of other clusters, arrive for this long, the cluster was created again.
const OLDER_FOR: Duration = Duration::from_secs(5);

/// Host and port of a node.
pub(super) type NodeAddress = (String, u16);

/// One node's view of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClusterView {
    /// The node says that the cluster's state is ok.
    pub(super) ok: bool,
    epoch: u64,
    lines: Vec<NodeLine>,
}

/// A node, as another node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NodeLine {
    id: String,
    /// The line is about the node that answered.
    myself: bool,
    /// Where clients find it: the IP address first, then the hostname if there is one.
    addresses: Vec<NodeAddress>,
    primary: bool,
    fails: bool,
    epoch: u64,
    slots: Vec<RangeInclusive<u16>>,
}

/// The view that counts, and for how long only older views have arrived.
#[derive(Default)]
pub(super) struct AcceptedView {
    view: Option<ClusterView>,
    older_since: Option<Instant>,
}

impl AcceptedView {
    /// Accepts the newest of the views that a poll returned, unless all are older than the accepted one. Epochs of
    /// different clusters cannot be compared: a node that belongs to another cluster now decides nothing.
    pub(super) fn accept(&mut self, views: &[ClusterView], now: Instant) {
        let held = self.view.as_ref();
        let same = |view: &&ClusterView| held.is_none_or(|held| held.is_of_cluster(view));
        let related: Vec<ClusterView> = views.iter().filter(same).cloned().collect();
        let views = if related.is_empty() { views } else { &related };
        let Some(view) = newest(views, held) else { return };
        let older = related.is_empty() || held.is_some_and(|held| view.rank() < held.rank());
        if older && now.duration_since(*self.older_since.get_or_insert(now)) < OLDER_FOR {
            return;
        }
        self.older_since = None;
        self.view = Some(view);
    }

    /// The accepted view.
    pub(super) fn view(&self) -> Option<&ClusterView> {
        self.view.as_ref()
    }

    /// The nodes of the accepted view, each with its id and its addresses.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&str, &[NodeAddress])> {
        self.view.iter().flat_map(|view| view.lines.iter().map(|line| (&*line.id, &*line.addresses)))
    }
}

/// The newest view. Of views with the same rank, most nodes decide: first which slots the primaries own, then the
/// addresses of each node. A tie keeps what is `held`. So a node that is wrong about itself, such as one that was
/// restarted at another address, decides nothing.
fn newest(views: &[ClusterView], held: Option<&ClusterView>) -> Option<ClusterView> {
    let rank = views.iter().map(ClusterView::rank).max()?;
    let equals: Vec<&ClusterView> = views.iter().filter(|view| view.rank() == rank).collect();
    let shape = voted(equals.iter().map(|view| view.shape()), held.map(ClusterView::shape))?;
    let mut newest = (*equals.iter().find(|view| view.shape() == shape)?).clone();
    for line in &mut newest.lines {
        let known = |view: &&ClusterView| view.line(&line.id).filter(|line| !line.myself).cloned();
        let votes = equals.iter().filter_map(known).map(|line| line.addresses);
        let held = held.and_then(|held| held.line(&line.id)).map(|line| line.addresses.clone());
        if let Some(addresses) = voted(votes, held) {
            line.addresses = addresses;
        }
    }
    Some(newest)
}

/// The value with the most votes; of several, `held` if it is one of them, or else the smallest.
fn voted<T: Ord + Clone>(votes: impl Iterator<Item = T>, held: Option<T>) -> Option<T> {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    votes.for_each(|vote| *counts.entry(vote).or_default() += 1);
    let most = *counts.values().max()?;
    let mut leaders = counts.into_iter().filter(|(_, count)| *count == most).map(|(vote, _)| vote);
    let first = leaders.next()?;
    let is_held = |vote: &T| held.as_ref() == Some(vote);
    Some(if is_held(&first) { first } else { leaders.find(is_held).unwrap_or(first) })
}

impl NodeLine {
    /// Parses a line of CLUSTER NODES; `None` for a node without an address or not yet part of the cluster.
    /// `asked` replaces the address that a node does not know of itself.
    fn parse(text: &str, asked: &str) -> Result<Option<NodeLine>> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [id, address, flags, _, _, _, epoch, _, slots @ ..] = &words[..] else {
            bail!("a line of CLUSTER NODES cannot be read: {text:?}");
        };
        let flag = |name: &str| flags.split(',').any(|flag| flag == name);
        if flag("noaddr") || flag("handshake") {
            return Ok(None);
        }
        // 127.0.0.1:30004@31004,hostname4 and more after further commas.
        let mut parts = address.split(',');
        let place = parts.next().and_then(|place| place.split('@').next()).unwrap_or_default();
        let hostname = parts.next().filter(|name| !name.is_empty() && !name.contains('='));
        let (host, port) = place.rsplit_once(':').context("a node has no port")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().with_context(|| format!("{port:?} is not a port"))?;
        let hosts = [Some(if host.is_empty() { asked } else { host }), hostname];
        Ok(Some(NodeLine {
            id: (*id).to_owned(),
            myself: flag("myself"),
            addresses: hosts.into_iter().flatten().map(|host| (host.to_owned(), port)).collect(),
            primary: flag("master"),
            fails: flag("fail"),
            epoch: epoch.parse().with_context(|| format!("{epoch:?} is not an epoch"))?,
            slots: slots.iter().filter_map(|text| parse_slots(text)).collect(),
        }))
    }
}

/// Parses `5461-10922` or `5461`; `None` for a slot that is being moved, `[93->-ID]`: its owner keeps it until then.
fn parse_slots(text: &str) -> Option<RangeInclusive<u16>> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    (from <= to && to < SLOTS).then_some(from..=to)
}

impl ClusterView {
    /// Parses CLUSTER INFO and CLUSTER NODES. `asked` is the host at which the node answered.
    ///
    /// # Errors
    /// A field is missing or a line cannot be read.
    pub(super) fn parse(info: &Info, nodes: &str, asked: &str) -> Result<ClusterView> {
        let lines = nodes.lines().filter(|line| !line.trim().is_empty());
        let lines: Result<Vec<Option<NodeLine>>> = lines.map(|line| NodeLine::parse(line, asked)).collect();
        let epoch = info.field("cluster_current_epoch").parse();
        Ok(ClusterView {
            ok: info.field("cluster_state") == "ok",
            epoch: epoch.ok().context("CLUSTER INFO has no cluster_current_epoch")?,
            lines: lines?.into_iter().flatten().collect(),
        })
    }

    /// A greater rank means a newer view. Nodes learn of a new epoch before they learn what changed in it; a view
    /// that knows the change has a primary with that epoch. Of two claims to a slot the one with the higher epoch
    /// counts (Redis cluster specification), so the sum of the owners' epochs over all slots rises with every change.
    /// Primaries without slots do not count: a cluster that shrinks is not older.
    fn rank(&self) -> (bool, u64, u64, u128) {
        let primaries = || self.lines.iter().filter(|line| line.primary);
        let newest = primaries().map(|line| line.epoch).max().unwrap_or(0);
        let slots = |line: &NodeLine| line.slots.iter().map(|range| range.len() as u128).sum::<u128>();
        (self.ok, self.epoch, newest, primaries().map(|line| slots(line) * u128::from(line.epoch)).sum())
    }

    /// Whether two views are of one cluster: at least half of the nodes of the smaller one are in both. A node that was
    /// reset keeps its id and may be in another cluster now.
    fn is_of_cluster(&self, other: &ClusterView) -> bool {
        let shared = self.lines.iter().filter(|line| other.line(&line.id).is_some()).count();
        2 * shared >= self.lines.len().min(other.lines.len())
    }

    /// The primaries and the slots that they own, in the order of their ids.
    fn shape(&self) -> Vec<(&str, Vec<(u16, u16)>)> {
        let slots = |line: &NodeLine| line.slots.iter().map(|range| (*range.start(), *range.end())).collect();
        let mut shape: Vec<_> = self.primaries().map(|line| (&*line.id, slots(line))).collect();
        shape.sort();
        shape
    }

    fn line(&self, id: &str) -> Option<&NodeLine> {
        self.lines.iter().find(|line| line.id == id)
    }

    /// The id of the node that answered.
    pub(super) fn myself(&self) -> Option<&str> {
        self.lines.iter().find(|line| line.myself).map(|line| &*line.id)
    }

    /// All primaries, including those that own no slot yet, so that the event of their first key arrives. A failed
    /// primary counts until another node has its slots.
    fn primaries(&self) -> impl Iterator<Item = &NodeLine> {
        self.lines.iter().filter(|line| line.primary && (!line.fails || !line.slots.is_empty()))
    }

    /// The primaries as a topology, each at the address at which it was `reached`, or else at its first address.
    pub(super) fn topology(&self, target: &Target, reached: &BTreeMap<String, NodeAddress>) -> Topology {
        let node = |line: &NodeLine| {
            let reached = reached.get(&line.id);
            let others = line.addresses.iter().filter(|&address| Some(address) != reached);
            let addresses: Vec<&NodeAddress> = reached.into_iter().chain(others).collect();
            let (host, port) = addresses[0].clone();
            let target = match reached {
                Some(_) => target.at(host, port),
                None => target.announced_at(host, port),
            };
            let primary = Primary {
                id: line.id.clone(),
                name: target.shown().to_owned(),
                addresses: addresses.into_iter().map(|(host, port)| format!("{host}:{port}")).collect(),
                slots: line.slots.clone(),
            };
            Node { primary, target }
        };
        let mut nodes: Vec<Node> = self.primaries().map(node).collect();
        nodes.sort_by(|a, b| a.id().cmp(b.id()));
        Topology { clustered: true, nodes, unknown: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::cluster::topology::slot;
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
    fn primaries_are_parsed_with_slots() {
        let topology = ClusterView::parse(&Info::parse(INFO), NODES, "10.0.0.2")
            .unwrap()
            .topology(&target(), &BTreeMap::new());
        let ids: Vec<&str> = topology.nodes.iter().map(Node::id).collect();
        assert_eq!(ids, ["aaa", "bbb", "eee"], "a failed one only as long as nobody has its slots");
        assert_eq!(topology.fleet().without_owner(), 0);
        assert_eq!(topology.at("b.example:7002").map(Node::id), Some("bbb"));
        assert_eq!(topology.at("10.0.0.2:7002").map(Node::id), Some("bbb"));
        assert_eq!(slot(b"123456789"), 12739, "the example of the cluster specification");
        assert_eq!(topology.owner(b"123456789").map(Node::id), Some("eee"));
        assert_eq!(topology.nodes[0].primary.absolute(":7009"), "127.0.0.1:7009");
        assert_eq!(topology.nodes[0].primary.absolute("::1:7009"), "::1:7009");
        assert_eq!(topology.owner(b"x{123456789}y").map(Node::id), Some("eee"));
    }

    #[test]
    fn views_rank_by_known_changes() {
        let new = ClusterView::parse(&Info::parse(INFO), NODES, "h").unwrap();
        let learned =
            ClusterView::parse(&Info::parse(INFO), &NODES.replace(" 7 connected", " 2 connected"), "h")
                .unwrap();
        let old = ClusterView::parse(&Info::parse(&INFO.replace(":7", ":6")), NODES, "h").unwrap();
        let cut_off =
            ClusterView::parse(&Info::parse(&INFO.replace("ok", "fail").replace(":7", ":9")), NODES, "h")
                .unwrap();
        assert!(new.rank() > learned.rank() && learned.rank() > old.rank() && old.rank() > cut_off.rank());
    }

    #[test]
    fn older_views_count_only_after_a_while() {
        let new = ClusterView::parse(&Info::parse(INFO), NODES, "h").unwrap();
        let old = ClusterView { epoch: 6, ..new.clone() };
        let (mut accepted, start) = (AcceptedView::default(), Instant::now());
        let mut accept = |view: &ClusterView, ms: u64| {
            accepted.accept(std::slice::from_ref(view), start + Duration::from_millis(ms));
            accepted.view() == Some(view)
        };
        assert!(accept(&new, 0) && !accept(&old, 1_000));
        assert!(accept(&new, 2_000) && !accept(&old, 3_000) && !accept(&old, 7_999));
        assert!(accept(&old, 8_000), "the cluster was created again");
    }

    fn view(nodes: &str) -> ClusterView {
        ClusterView::parse(&Info::parse(INFO), nodes, "h").unwrap()
    }

    #[test]
    fn shrinking_cluster_is_followed_at_once() {
        let both = "\
aaa 127.0.0.1:1@2 master - 0 1 5 connected
bbb 127.0.0.1:3@4 master - 0 1 7 connected 0-16383
";
        let mut accepted = AcceptedView::default();
        let now = Instant::now();
        accepted.accept(&[view(both)], now);
        let demoted = both.replace("aaa 127.0.0.1:1@2 master -", "aaa 127.0.0.1:1@2 slave bbb");
        let deleted = both.lines().skip(1).collect::<String>();
        for after in [demoted, deleted] {
            accepted.accept(&[view(&after)], now);
            let topology = accepted.view().unwrap().topology(&target(), &BTreeMap::new());
            assert_eq!(topology.nodes.len(), 1, "{after}");
            accepted.accept(&[view(both)], now);
        }
    }

    #[test]
    fn node_of_another_cluster_decides_nothing() {
        let ours = view(
            "aaa 1:1@2 master - 0 1 5 connected 0-100\nbbb 1:3@4 master - 0 1 7 connected 101-16383\n\
             ccc 1:5@6 slave bbb 0 1 7 connected\n",
        );
        // The node aaa was reset and has met others, whose epochs are higher.
        let theirs = "aaa 1:1@2 myself,master - 0 1 90 connected 0-9\nxxx 1:5@6 master - 0 1 80 connected 10-16383\n\
                      yyy 1:7@8 slave xxx 0 1 80 connected\nzzz 1:9@9 slave xxx 0 1 80 connected\n";
        let theirs = ClusterView { epoch: 99, ..view(theirs) };
        let (mut accepted, start) = (AcceptedView::default(), Instant::now());
        let mut accept = |views: &[ClusterView], ms: u64| {
            accepted.accept(views, start + Duration::from_millis(ms));
            accepted.view() == Some(&ours)
        };
        assert!(accept(std::slice::from_ref(&ours), 0) && accept(&[theirs.clone(), ours.clone()], 500));
        assert!(
            accept(std::slice::from_ref(&theirs), 1_000) && accept(&[theirs.clone(), ours.clone()], 9_000)
        );
        assert!(
            accept(std::slice::from_ref(&theirs), 10_000) && accept(std::slice::from_ref(&theirs), 14_900)
        );
        assert!(!accept(&[theirs], 15_000), "nobody else has answered for five seconds");
    }

    #[test]
    fn slot_that_moves_to_the_newest_node_makes_a_newer_view() {
        let before = "\
aaa 127.0.0.1:1@2 master - 0 1 5 connected 0-100
bbb 127.0.0.1:3@4 master - 0 1 7 connected 101-16383
";
        let after = before.replace("0-100", "0-99").replace("101-", "100-");
        assert!(view(&after).rank() > view(before).rank());
    }

    #[test]
    fn node_with_an_old_address_of_itself_is_outvoted() {
        let text = |address: &str, aaa: &str, bbb: &str| {
            view(&format!(
                "aaa {address} {aaa} - 0 1 5 connected 0-100\nbbb 10.0.0.2:7@17 {bbb} - 0 1 7 connected 101-16383\n"
            ))
        };
        let own = text("10.0.0.1:7@17", "myself,master", "master");
        let other = text("10.0.0.9:7@17", "master", "myself,master");
        for views in [[own.clone(), other.clone()], [other, own]] {
            let mut accepted = AcceptedView::default();
            accepted.accept(&views, Instant::now());
            let topology = accepted.view().unwrap().topology(&target(), &BTreeMap::new());
            assert_eq!(topology.nodes[0].primary.addresses, ["10.0.0.9:7"]);
        }
    }

    #[test]
    fn node_is_used_where_it_was_reached() {
        let view = view("aaa 10.0.0.1:7@17,a.example myself,master - 0 1 7 connected 0-16383\n");
        let topology = |reached: Option<(&str, u16)>| {
            let reached = reached.map(|(host, port)| ("aaa".to_owned(), (host.to_owned(), port)));
            view.topology(&target(), &reached.into_iter().collect()).nodes[0].clone()
        };
        assert_eq!(topology(None).shown(), "redis://10.0.0.1:7", "as the stock endpoint type says");
        let named = topology(Some(("a.example", 7)));
        assert_eq!(named.shown(), "redis://a.example:7");
        assert_eq!(named.primary.addresses, ["a.example:7", "10.0.0.1:7"]);
    }

    proptest! {
        #[test]
        fn parser_never_panics(info in ".*", nodes in "[ -~\n]*", line in "[a-c0-9:@,\\[\\]> -]{0,60}") {
            let _ = ClusterView::parse(&Info::parse(&info), &nodes, "h");
            let _ = ClusterView::parse(&Info::parse(INFO), &line, "h").map(|view| view.topology(&target(), &BTreeMap::new()).fleet());
        }
    }
}
