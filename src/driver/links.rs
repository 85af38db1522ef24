//! The links to all servers: orders go out here, and logs and traces name the servers here.

use crate::presence::{Cause, LinkId};
use crate::redis::cluster::{Node, Topology};
use crate::redis::link::{ClusterPlace, Feed, Feeder, Link, LinkSettings, Order};
use crate::traces;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tracing::{Span, debug, info, warn};

/// See the module's head.
pub(super) struct Links {
    template: LinkSettings,
    feeder: mpsc::Sender<(LinkId, Feed)>,
    topology: watch::Receiver<Arc<Topology>>,
    /// The topology that the tracker knows.
    current: Arc<Topology>,
    links: HashMap<LinkId, Labelled>,
}

/// A link, and how its server appears in logs and traces.
struct Labelled {
    link: Link,
    name: String,
    /// Of the gap that is not compared yet.
    span: Option<Span>,
    /// Transitions that the comparison has found so far.
    repaired: u64,
    /// The cause of the last gap, until it is compared. A fault that lasts is logged once, not with each attempt.
    logged: Option<String>,
}

impl Links {
    pub(super) fn new(
        template: LinkSettings,
        topology: watch::Receiver<Arc<Topology>>,
        feeder: mpsc::Sender<(LinkId, Feed)>,
    ) -> Links {
        Links { template, feeder, topology, current: Arc::default(), links: HashMap::new() }
    }

    pub(super) fn follow(&mut self, topology: Arc<Topology>) {
        self.current = topology;
    }

    pub(super) fn open(&mut self, link: LinkId, id: &str) {
        let Some(node) = self.current.nodes.iter().find(|node| node.id() == id) else { return };
        if self.current.clustered {
            info!(server = node.shown(), "a primary of the cluster; following it");
        }
        let feeder = Feeder { link, feed: self.feeder.clone() };
        let name = node.shown().to_owned();
        let started = Link::start(self.settings(node), feeder);
        self.links.insert(link, Labelled { link: started, name, span: None, repaired: 0, logged: None });
    }

    fn settings(&self, node: &Node) -> LinkSettings {
        let place = ClusterPlace { node: node.id().to_owned(), topology: self.topology.clone() };
        LinkSettings {
            target: node.target.clone(),
            daemon: node.daemon(&self.template.daemon),
            place: self.current.clustered.then_some(place),
            ..self.template.clone()
        }
    }

    pub(super) fn order(&self, link: LinkId, order: Order) {
        let Some(labelled) = self.links.get(&link) else { return };
        if !labelled.link.order(order) {
            let server = &labelled.name;
            warn!(server, "the link's order queue is full; the missing answer will count as a gap");
        }
    }

    pub(super) fn listens(&self, link: LinkId, on: bool) {
        let Some(labelled) = self.links.get(&link) else { return };
        let server = &labelled.name;
        if on {
            info!(server, "this daemon holds the lease: it listens to renewals for all daemons");
        } else {
            info!(server, "another daemon listens to renewals");
        }
    }

    pub(super) fn forget(&mut self, link: LinkId) {
        self.links.remove(&link);
    }

    /// Events of the server may be missing. A gap that begins before the last one was compared is part of that one.
    pub(super) fn begin_gap(&mut self, link: LinkId, cause: Cause) {
        if let Some(labelled) = self.links.get_mut(&link) {
            labelled.span.get_or_insert_with(|| traces::gap(&labelled.name, cause.label()));
        }
    }

    pub(super) fn gap(&mut self, link: LinkId, cause: Cause, why: &str) {
        self.begin_gap(link, cause);
        let Some(labelled) = self.links.get_mut(&link) else { return };
        let (server, cause) = (&labelled.name, cause.label());
        if labelled.logged.as_deref() == Some(why) {
            debug!(server, cause, why, "gap");
        } else {
            warn!(server, cause, why, "gap");
            labelled.logged = Some(why.to_owned());
        }
    }

    pub(super) fn repaired(&mut self, link: LinkId) {
        if let Some(labelled) = self.links.get_mut(&link) {
            labelled.repaired += 1;
        }
    }

    pub(super) fn compared(&mut self, link: LinkId, cause: Cause, after_ms: u64, keys: u64) {
        let Some(labelled) = self.links.get_mut(&link) else { return };
        let repaired = std::mem::take(&mut labelled.repaired);
        labelled.logged = None;
        if let Some(span) = labelled.span.take() {
            traces::compared(&span, repaired, keys);
        }
        let (server, cause) = (&labelled.name, cause.label());
        info!(server, cause, repaired, after_ms, keys, "compared with Redis");
    }
}
