//! The settings of a link, which all its parts share.

use crate::config::{EventsMode, LeaseMode};
use crate::redis::channel::Channel;
use crate::redis::cluster::Topology;
use crate::redis::link::parser::Seal;
use crate::redis::names::Names;
use crate::redis::target::Target;
use std::sync::Arc;
use tokio::sync::watch;

/// The settings of a link.
#[derive(Clone)]
pub struct LinkSettings {
    /// The server.
    pub target: Target,
    /// The names of keys and channels.
    pub names: Names,
    /// The daemon's name: unique among the daemons of this server, and different at each node of a cluster.
    pub daemon: String,
    /// The node of a cluster; `None` for a server that stands alone.
    pub place: Option<ClusterPlace>,
    /// Messages between daemons.
    pub channel: Channel,
    /// Signs the daemon's marks.
    pub seal: Seal,
    /// Publishes the address of the current primary to the writer.
    pub primary: watch::Sender<Target>,
    /// Add missing classes to `notify-keyspace-events`.
    pub configure: bool,
    /// How to learn of renewals.
    pub events: EventsMode,
    /// The daemon that listens to renewals.
    pub lease: LeaseMode,
}

/// A node of a cluster.
#[derive(Clone)]
pub struct ClusterPlace {
    /// The node's id.
    pub node: String,
    /// The newest topology.
    pub topology: watch::Receiver<Arc<Topology>>,
}

impl LinkSettings {
    /// Names the server to other daemons: its id in a cluster, nothing for a server that stands alone.
    pub(super) fn server_id(&self) -> String {
        self.place.as_ref().map_or_else(String::new, |place| place.node.clone())
    }

    /// The newest topology of the cluster; `None` for a server that stands alone.
    pub(super) fn topology(&self) -> Option<Arc<Topology>> {
        self.place.as_ref().map(|place| place.topology.borrow().clone())
    }
}
