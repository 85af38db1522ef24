//! What one node knows of its cluster: CLUSTER INFO and CLUSTER NODES, parsed. No I/O.

use crate::redis::cluster::topology::{Node, SLOTS, Topology};
use crate::redis::info::Info;
use crate::redis::target::Target;
use anyhow::{Context, Result, bail};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// If only older views arrive for this long, the cluster was created again.
const OLDER_FOR: Duration = Duration::from_secs(5);

/// What one node knows of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClusterView {
    /// The node says that the cluster's state is ok.
    pub(super) ok: bool,
    epoch: u64,
    lines: Vec<NodeLine>,
}

/// The view that counts, and for how long only older views have arrived.
#[derive(Default)]
pub(super) struct AcceptedView {
    view: Option<ClusterView>,
    older_since: Option<Instant>,
}

impl AcceptedView {
    /// Accepts a view; `None` if it is older than the accepted one.
    pub(super) fn accept(&mut self, view: ClusterView, now: Instant) -> Option<&ClusterView> {
        let older = self.view.as_ref().is_some_and(|held| view.rank() < held.rank());
        if older && now.duration_since(*self.older_since.get_or_insert(now)) < OLDER_FOR {
            return None;
        }
        self.older_since = None;
        Some(self.view.insert(view))
    }

    /// Host and port of each node that the accepted view knows.
    pub(super) fn places(&self) -> impl Iterator<Item = (String, u16)> {
        self.view.iter().flat_map(|view| view.lines.iter().map(NodeLine::place))
    }
}

/// A node, as another node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeLine {
    id: String,
    host: String,
    hostname: Option<String>,
    port: u16,
    primary: bool,
    fails: bool,
    epoch: u64,
    slots: Vec<RangeInclusive<u16>>,
}

impl NodeLine {
    /// Host and port to connect to.
    fn place(&self) -> (String, u16) {
        (self.hostname.as_ref().unwrap_or(&self.host).clone(), self.port)
    }

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
        Ok(Some(NodeLine {
            id: (*id).to_owned(),
            host: if host.is_empty() { asked } else { host }.to_owned(),
            hostname: hostname.map(str::to_owned),
            port: port.parse().with_context(|| format!("{port:?} is not a port"))?,
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
    /// that knows the change has a node with that epoch.
    pub(super) fn rank(&self) -> (bool, u64, u64, u64) {
        let epochs = || self.lines.iter().filter(|line| line.primary).map(|line| line.epoch);
        (self.ok, self.epoch, epochs().max().unwrap_or(0), epochs().sum())
    }

    /// All primaries, including those that own no slot yet, so that the event of their first key arrives. A failed
    /// primary counts until another node has its slots.
    pub(super) fn topology(&self, target: &Target) -> Topology {
        let primaries =
            self.lines.iter().filter(|line| line.primary && (!line.fails || !line.slots.is_empty()));
        let node = |line: &NodeLine| {
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
        let topology = ClusterView::parse(&Info::parse(INFO), NODES, "10.0.0.2").unwrap().topology(&target());
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
    fn views_rank_by_known_changes() {
        let new = ClusterView::parse(&Info::parse(INFO), NODES, "h").unwrap();
        let heard =
            ClusterView::parse(&Info::parse(INFO), &NODES.replace(" 7 connected", " 2 connected"), "h")
                .unwrap();
        let old = ClusterView::parse(&Info::parse(&INFO.replace(":7", ":6")), NODES, "h").unwrap();
        let cut_off =
            ClusterView::parse(&Info::parse(&INFO.replace("ok", "fail").replace(":7", ":9")), NODES, "h")
                .unwrap();
        assert!(new.rank() > heard.rank() && heard.rank() > old.rank() && old.rank() > cut_off.rank());
    }

    #[test]
    fn older_views_count_only_after_a_while() {
        let new = ClusterView::parse(&Info::parse(INFO), NODES, "h").unwrap();
        let old = ClusterView { epoch: 6, ..new.clone() };
        let (mut accepted, start) = (AcceptedView::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert!(accepted.accept(new.clone(), at(0)).is_some());
        assert!(accepted.accept(old.clone(), at(1_000)).is_none());
        assert!(accepted.accept(new, at(2_000)).is_some());
        assert!(accepted.accept(old.clone(), at(3_000)).is_none());
        assert!(accepted.accept(old.clone(), at(7_999)).is_none());
        assert!(accepted.accept(old, at(8_000)).is_some(), "the cluster was created again");
    }

    proptest! {
        #[test]
        fn parser_never_panics(info in ".*", nodes in "[ -~\n]*", line in "[a-c0-9:@,\\[\\]> -]{0,60}") {
            let _ = ClusterView::parse(&Info::parse(&info), &nodes, "h");
            let _ = ClusterView::parse(&Info::parse(INFO), &line, "h").map(|view| view.topology(&target()).without_owner());
        }
    }
}
