//! One server: its link and what is believed of it.

use crate::hub::ServerState;
use crate::presence::{Canary, Counts, Detector, ServerId, Settings, Sweeps, Time};
use crate::redis::cluster::Node;
use crate::redis::link::{Feeder, Link, Order, Place, Settings as LinkSettings};
use crate::traces;
use std::time::Duration;
use tracing::Span;
use tracing::warn;

/// A canary a second.
pub(super) const CANARY_EVERY_MS: u64 = 1_000;

/// What all servers have in common.
#[derive(Clone)]
pub struct Template {
    /// Of the links; which server, and which node, is filled in.
    pub link: LinkSettings,
    /// Of the detectors.
    pub detector: Settings,
    /// How late a canary may be.
    pub canary: Duration,
    /// How often the loop is to give a sign of life; none means once a second.
    pub pulse: Option<Duration>,
}

/// See the module's head.
pub(super) struct Server {
    pub(super) node: Node,
    /// Names its link among all there were.
    pub(super) id: u64,
    /// None of a server that leaves the cluster: it waits only until others have taken over its keys.
    pub(super) link: Option<Link>,
    pub(super) detector: Detector,
    pub(super) canary: Canary,
    pub(super) counted: Counts,
    pub(super) connected: bool,
    pub(super) compared: bool,
    pub(super) cause: String,
    /// Why the last comparison was needed.
    pub(super) gap: &'static str,
    /// How many gaps there were.
    pub(super) gaps: u64,
    /// When the comparison became needed, and what it has repaired so far.
    pub(super) gap_at: Option<Time>,
    pub(super) span: Span,
    pub(super) repaired: u64,
    /// The last of the store's marks that came back.
    pub(super) passed: u64,
    /// When keys are to be looked for that no event tells of.
    pub(super) sweeps: Sweeps,
    /// The keys were replaced before the canary under way, which tells where in the stream.
    pub(super) replaced: bool,
}

impl Server {
    /// A server of which nothing is known yet.
    pub(super) fn new(node: &Node, template: &Template, place: Option<Place>, feeder: Feeder) -> Server {
        let id = feeder.link;
        Server {
            node: node.clone(),
            id,
            link: Some(start(node, template, place, feeder)),
            detector: Detector::new(template.detector.clone()),
            canary: Canary::new(CANARY_EVERY_MS, template.canary.as_millis() as u64),
            counted: Counts::default(),
            connected: false,
            compared: false,
            cause: "not connected yet".into(),
            gap: "start",
            gaps: 0,
            gap_at: None,
            span: Span::none(),
            repaired: 0,
            passed: 0,
            sweeps: Sweeps::default(),
            replaced: false,
        }
    }

    /// Until it has been compared; one that follows before that is the same.
    pub(super) fn begin_gap(&mut self, now: Time) {
        if self.gap_at.is_none() {
            self.gap_at = Some(now);
            self.span = traces::gap(self.node.shown(), self.gap);
        }
    }

    /// Its name for the detectors. Of more than 255 servers two have the same.
    pub(super) fn number(&self) -> ServerId {
        (self.id % u64::from(ServerId::MAX)) as ServerId + 1
    }

    pub(super) fn leaves(&self) -> bool {
        self.link.is_none()
    }

    pub(super) fn ready(&self) -> bool {
        self.connected && self.detector.settled() && self.canary.proven()
    }

    pub(super) fn state(&self) -> ServerState {
        let up = self.ready();
        ServerState {
            name: self.node.shown().to_owned(),
            up,
            cause: if up { String::new() } else { self.cause().to_owned() },
            sweeps: self.sweeps.always(),
            keys: self.detector.counts().keys,
            gaps: self.gaps,
        }
    }

    /// What is in the way of being ready.
    fn cause(&self) -> &str {
        match (self.connected, self.detector.settled()) {
            _ if self.leaves() => "it left, and others take over its keys",
            (false, _) => &self.cause,
            (true, false) => "comparing with Redis",
            (true, true) => "no canary has come back yet",
        }
    }

    /// The same, with its name where it is one of several.
    pub(super) fn in_the_way(&self) -> String {
        let cause = self.cause();
        if self.node.id.is_empty() { cause.to_owned() } else { format!("{}: {cause}", self.node.shown()) }
    }

    pub(super) fn next_due(&self) -> Option<Time> {
        let canary = self.connected.then(|| self.canary.next_due());
        [self.detector.next_due(), canary, self.sweeps.next_due()].into_iter().flatten().min()
    }

    /// Slots have moved from or to it.
    pub(super) fn slots_moved(&mut self, now: Time) {
        self.sweeps.slots_moved(now, self.connected && self.detector.settled());
    }

    pub(super) fn order(&self, order: Order) {
        let Some(link) = &self.link else { return };
        if !link.order(order) {
            warn!(
                server = self.node.shown(),
                "an order to the link did not fit its queue; it is taken for a gap"
            );
        }
    }
}

fn start(node: &Node, template: &Template, place: Option<Place>, feeder: Feeder) -> Link {
    let link = &template.link;
    let settings = LinkSettings {
        target: node.target.clone(),
        daemon: node.daemon(&link.daemon),
        place,
        ..link.clone()
    };
    Link::start(settings, feeder)
}
