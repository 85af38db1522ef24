//! Statuses and groups in Redis: keys that any program may write, and that the daemon reads when they change.
//!
//! The server reports which keys changed by client tracking of their prefixes (`CLIENT TRACKING ON BCAST`), on a connection of
//! their own at each server; it needs no keyspace events. `names` has the keys, `pushes` parses the reports, `node` follows one
//! server, and `store` reads and writes values. What has to be read is decided elsewhere
//! ([`Reads`](crate::presence::Reads)).

mod names;
mod node;
mod pushes;
mod store;

pub use names::{DirectoryNames, Kind, Overlap};
pub use node::check;
pub use store::{DirectoryStore, Expiring, GroupValue, StatusValue, Unread};

use crate::presence::Name;
use crate::redis::channel::Channel;
use crate::redis::cluster::{Node, Topology};
use crate::redis::directory::node::NodeFollower;
use crate::redis::names::Names;
use crate::redis::target::Target;
use crate::redis::writer::{Announcer, Servers};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

/// Reports that may wait; a connection whose report does not fit is not read until it does.
const NEWS: usize = 64;
/// The name of the connections in the servers' `CLIENT LIST`.
const NAME: &str = "keybeat-directory";

/// What is known of the keys of the directory.
#[derive(Debug)]
pub enum News {
    /// Changes at this server are reported from here on. Values that were read before may be old.
    Follows(String),
    /// These keys changed, or a scan found them.
    Changed(Vec<(Kind, Name)>),
    /// All keys changed: a database was flushed or swapped.
    Everything,
    /// So many keys have a name that is not valid.
    Invalid(usize),
    /// The server refuses a need, for this reason.
    Refused(Need, String, String),
    /// The server allows a need.
    Allowed(Need, String),
    /// The server is no longer one of those that own keys.
    Gone(String),
}

/// A right that a server must grant, apart from reads of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Client tracking of the keys.
    Track,
    /// SCAN, which finds the keys.
    Scan,
}

impl Need {
    /// The kinds that are off without it.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Need::Track => &[Kind::Status, Kind::Group],
            // Groups are read by name.
            Need::Scan => &[Kind::Status],
        }
    }
}

/// What the directory needs to know of Redis.
pub struct Source {
    /// Which servers there are.
    pub topology: watch::Receiver<Arc<Topology>>,
    /// The address of the one server, if it is not a cluster.
    pub primary: watch::Receiver<Target>,
    /// Changes each time the keyspace of a server was replaced. No server reports SWAPDB to client tracking.
    pub replaced: watch::Receiver<u64>,
    /// Names of channels.
    pub names: Names,
    /// The daemons' channel.
    pub channel: Channel,
}

/// The directory of a Redis; dropped, it is no longer followed.
pub struct Directory {
    /// What changes.
    pub news: mpsc::Receiver<News>,
    /// Reads and writes values.
    pub store: Arc<DirectoryStore>,
    _task: AbortOnDropHandle<()>,
}

/// Follows the keys of these names.
pub fn follow(source: Source, names: DirectoryNames) -> Directory {
    let announcer = Announcer::new(source.channel.clone(), &source.names);
    let servers = Servers::new(NAME, source.topology.clone(), source.primary.clone(), announcer);
    let store = Arc::new(DirectoryStore::new(servers, names.clone()));
    let (sender, news) = mpsc::channel(NEWS);
    let task = tokio::spawn(follow_all(source, names, store.clone(), sender));
    Directory { news, store, _task: AbortOnDropHandle::new(task) }
}

/// Follows each server that owns keys, with a task of its own.
async fn follow_all(
    mut source: Source,
    names: DirectoryNames,
    store: Arc<DirectoryStore>,
    news: mpsc::Sender<News>,
) {
    let mut tasks: BTreeMap<(String, String), AbortOnDropHandle<()>> = BTreeMap::new();
    loop {
        let topology = source.topology.borrow_and_update().clone();
        let id = |node: &Node| (node.id().to_owned(), node.shown().to_owned());
        let gone: Vec<_> = tasks
            .keys()
            .filter(|&key| !topology.nodes.iter().any(|node| id(node) == *key))
            .cloned()
            .collect();
        for key in gone {
            tasks.remove(&key);
            if news.send(News::Gone(key.0)).await.is_err() {
                return;
            }
        }
        for node in &topology.nodes {
            tasks.entry(id(node)).or_insert_with(|| {
                let primary = if topology.clustered {
                    watch::channel(node.target.clone()).1
                } else {
                    source.primary.clone()
                };
                let follower = NodeFollower {
                    node: node.id().to_owned(),
                    primary,
                    replaced: source.replaced.clone(),
                    channel: source.names.flush_channel(),
                    names: names.clone(),
                    store: store.clone(),
                    news: news.clone(),
                };
                AbortOnDropHandle::new(tokio::spawn(follower.run()))
            });
        }
        if source.topology.changed().await.is_err() {
            return;
        }
    }
}
