//! The servers that own the keys: commands go to the owner, and follow redirections.

use crate::error::Error;
use crate::lock::lock;
use crate::redis::cluster::{self, Topology};
use crate::redis::resp::client::Pipeline;
use crate::redis::resp::commands::Commands;
use crate::redis::resp::reply::RedisReply;
use crate::redis::target::Target;
use crate::redis::writer::lane::{CONNECTING, Lane};
use crate::redis::writer::release::Announcer;
use crate::traces;
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::Instrument;

/// One command of one key.
#[derive(Clone)]
pub(in crate::redis) struct Write {
    pub(super) key: String,
    pub(super) args: Vec<String>,
    pub(super) command: &'static str,
}

impl Write {
    /// `command` with its key, and `more` after the key.
    pub(in crate::redis) fn new(command: &'static str, key: String, more: Vec<String>) -> Write {
        let args = std::iter::once(key.clone()).chain(more).collect();
        Write { key, args, command }
    }

    /// `command` with these arguments, for the server that owns `key`.
    pub(in crate::redis) fn at(key: &str, command: &'static str, args: Vec<String>) -> Write {
        Write { key: key.to_owned(), args, command }
    }
}

/// The answer to one command.
pub(in crate::redis) type Answer = Result<RedisReply, Error>;

/// A lane, and the URL that it leads to.
type Led = (String, Arc<Lane>);

/// Lanes to the servers, by the id of the node.
pub(in crate::redis) type Lanes = BTreeMap<String, Arc<Lane>>;

/// See the module's head.
pub(in crate::redis) struct Servers {
    /// Of the connections, in the servers' `CLIENT LIST`.
    name: &'static str,
    topology: watch::Receiver<Arc<Topology>>,
    /// The address of the one server, if it is not a cluster. Sentinels may change it.
    primary: watch::Receiver<Target>,
    announcer: Announcer,
    lanes: Mutex<BTreeMap<String, Led>>,
}

impl Servers {
    /// Opens connections to the servers, and follows them. `name` appears in the servers' `CLIENT LIST`.
    pub(in crate::redis) fn new(
        name: &'static str,
        topology: watch::Receiver<Arc<Topology>>,
        primary: watch::Receiver<Target>,
        announcer: Announcer,
    ) -> Servers {
        let servers = Servers { name, topology, primary, announcer, lanes: Mutex::default() };
        servers.lanes(&servers.topology());
        servers
    }

    /// The servers that are known now.
    pub(in crate::redis) fn topology(&self) -> Arc<Topology> {
        self.topology.borrow().clone()
    }

    /// The servers. At the start of a cluster it waits until they are known.
    pub(in crate::redis) async fn known(&self) -> Result<Arc<Topology>, Error> {
        let mut topology = self.topology.clone();
        let known = timeout(CONNECTING, topology.wait_for(|topology| !topology.nodes.is_empty())).await;
        match known {
            Ok(Ok(topology)) => Ok(topology.clone()),
            _ => Err(Error::RedisUnavailable(self.topology.borrow().unknown.clone())),
        }
    }

    /// A lane to each server. Lanes to servers that are gone end.
    pub(in crate::redis) fn lanes(&self, topology: &Topology) -> Lanes {
        let mut lanes = lock(&self.lanes);
        let same =
            |id: &str, at: &str| topology.nodes.iter().any(|node| node.id() == id && node.shown() == at);
        lanes.retain(|id, (at, _)| same(id, at));
        for node in &topology.nodes {
            lanes.entry(node.id().to_owned()).or_insert_with(|| {
                let primary = if topology.clustered {
                    watch::channel(node.target.clone()).1
                } else {
                    self.primary.clone()
                };
                (
                    node.shown().to_owned(),
                    Arc::new(Lane::new(self.name, primary, topology.clustered, self.announcer.clone())),
                )
            });
        }
        lanes.iter().map(|(id, (_, lane))| (id.clone(), lane.clone())).collect()
    }

    /// Sends all commands, in one pipeline per server, in their order. One answer for each.
    pub(in crate::redis) async fn send(&self, writes: Vec<Write>) -> Vec<Answer> {
        if writes.is_empty() {
            return Vec::new();
        }
        let span = traces::write(writes.len());
        let answers = self.send_each(writes).instrument(span.clone()).await;
        if answers.iter().any(Result::is_err) {
            traces::failed(&span);
        }
        answers
    }

    /// Sends each command to the owner of its key, and once more to the node that a redirection names.
    pub(in crate::redis) async fn send_each(&self, writes: Vec<Write>) -> Vec<Answer> {
        let topology = match self.known().await {
            Ok(topology) => topology,
            Err(why) => return writes.iter().map(|_| Err(why.clone())).collect(),
        };
        let lanes = self.lanes(&topology);
        let mut answers: Vec<Answer> = writes.iter().map(|write| Err(unowned(write))).collect();
        let mut groups: BTreeMap<String, (Vec<usize>, Vec<Write>)> = BTreeMap::new();
        for (at, write) in writes.into_iter().enumerate() {
            if let Some(owner) = topology.owner(write.key.as_bytes()) {
                let (places, group) = groups.entry(owner.id().to_owned()).or_default();
                places.push(at);
                group.push(write);
            }
        }
        let sent = groups.into_iter().map(async |(id, (places, writes))| {
            let sent = pipeline(&lanes, &id, &writes, false).await;
            (id, places, writes, sent)
        });
        let mut moved = Vec::new();
        // A failed group does not stop the others.
        for (id, places, writes, sent) in join_all(sent).await {
            let sent = match sent {
                Ok(sent) => sent,
                Err(why) => {
                    places.iter().for_each(|&at| answers[at] = Err(why.clone()));
                    continue;
                }
            };
            for ((at, write), answer) in places.into_iter().zip(writes).zip(sent) {
                let redirected = answer.as_ref().err().and_then(|why| redirected(&topology, &id, why));
                answers[at] = answer.map_err(|why| refused(&why));
                moved.extend(redirected.map(|(to, ask)| (at, to, ask, write)));
            }
        }
        for (at, to, ask, write) in moved {
            let sent = pipeline(&lanes, &to, &[write], ask).await;
            let only = sent.map(|mut answers| answers.pop());
            answers[at] = match only {
                Ok(Some(answer)) => answer.map_err(|why| refused(&why)),
                Ok(None) => Err(Error::RedisUnavailable("the server sent no answer".into())),
                Err(why) => Err(why),
            };
        }
        answers
    }
}

/// The outcome of several writes of one request.
///
/// # Errors
/// None was done; or only some of them were, or it is unknown which.
pub(in crate::redis) fn confirmed(answers: &[Answer]) -> Result<(), Error> {
    let mut failed = answers.iter().filter_map(|answer| answer.as_ref().err());
    let Some(first) = failed.next() else { return Ok(()) };
    let unconfirmed = |why: &&Error| matches!(why, Error::RedisUnconfirmed(_));
    match [first].into_iter().chain(failed).find(unconfirmed).unwrap_or(first) {
        Error::RedisUnavailable(why) if answers.iter().any(Result::is_ok) => {
            Err(Error::RedisUnconfirmed(why.clone()))
        }
        why => Err(why.clone()),
    }
}

fn unowned(write: &Write) -> Error {
    Error::RedisUnavailable(format!("no server owns the slot {}", cluster::slot(write.key.as_bytes())))
}

fn refused(why: &str) -> Error {
    Error::RedisUnavailable(why.to_owned())
}

/// The node that a redirection by the node `from` names, and whether it needs ASKING; none if it is unknown.
fn redirected(topology: &Topology, from: &str, why: &str) -> Option<(String, bool)> {
    let redirection = cluster::redirection(why)?;
    let from = topology.nodes.iter().find(|node| node.id() == from)?;
    let to = topology.at(&from.primary.absolute(&redirection.address))?;
    Some((to.id().to_owned(), redirection.ask))
}

/// Sends all commands in one pipeline, each after ASKING if `ask` is true. One answer for each command; the error of an answer
/// is the server's refusal.
async fn pipeline(
    lanes: &Lanes,
    id: &str,
    writes: &[Write],
    ask: bool,
) -> Result<Vec<Result<RedisReply, String>>, Error> {
    let Some(lane) = lanes.get(id) else {
        return Err(Error::RedisUnavailable("there is no connection".into()));
    };
    let mut commands = Commands::default();
    for write in writes {
        if ask {
            commands.add_asking();
        }
        let args = write.args.iter().map(String::as_str);
        commands.add(&[write.command].into_iter().chain(args).collect::<Vec<_>>());
    }
    let replies = lane.write(async |pipeline: &Pipeline| pipeline.send(commands).await).await?;
    let answers = replies.into_iter().skip(usize::from(ask)).step_by(if ask { 2 } else { 1 });
    let answer = |reply| match reply {
        RedisReply::Refused(why) => Err(why),
        reply => Ok(reply),
    };
    Ok(answers.map(answer).collect())
}
