//! A Redis Cluster on free ports, and a client that follows its redirects.

use super::free_port;
use super::redis::{Client, Redis, Reply};
use super::until;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

const SLOTS: u16 = 16_384;

/// Primaries, each with an equal share of the slots, then replicas.
pub struct Cluster {
    pub nodes: Vec<Redis>,
}

/// Starts a node outside of any cluster. In a cluster it counts as down after one second.
fn node() -> (Redis, u16) {
    let bus = free_port();
    let args = [
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        "1000",
        "--cluster-port",
        &bus.to_string(),
        "--cluster-replica-validity-factor",
        "0",
    ];
    (Redis::with(&args), bus)
}

pub fn id(node: &Redis) -> String {
    node.call(&["CLUSTER", "MYID"]).as_text().to_owned()
}

fn field(node: &Redis, name: &str) -> Option<String> {
    let info = node.call(&["CLUSTER", "INFO"]);
    let mut lines = info.as_text().lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned()))
}

impl Cluster {
    /// Starts `primaries` primaries, and one replica for each of the first `replicas` of them.
    pub async fn start(primaries: usize, replicas: usize) -> Cluster {
        let made: Vec<(Redis, u16)> = (0..primaries + replicas).map(|_| node()).collect();
        let bus: Vec<u16> = made.iter().map(|(_, bus)| *bus).collect();
        let cluster = Cluster { nodes: made.into_iter().map(|(node, _)| node).collect() };
        for (i, node) in cluster.nodes[..primaries].iter().enumerate() {
            let bound = |i: usize| (usize::from(SLOTS) * i / primaries).to_string();
            let last = (usize::from(SLOTS) * (i + 1) / primaries - 1).to_string();
            node.call(&["CLUSTER", "ADDSLOTSRANGE", &bound(i), &last]);
            node.call(&["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()]);
        }
        for (node, bus) in cluster.nodes.iter().zip(&bus).skip(1) {
            cluster.meet(node.port, *bus);
        }
        cluster.agreed(primaries + replicas).await;
        for i in 0..replicas {
            let primary = id(&cluster.nodes[i]);
            let replica = &cluster.nodes[primaries + i];
            replica.call(&["CLUSTER", "REPLICATE", &primary]);
            until("the replica follows", async || {
                let info = super::redis::info(replica, "replication");
                (info.get("master_link_status")? == "up").then_some(())
            })
            .await;
        }
        cluster
    }

    fn meet(&self, port: u16, bus: u16) {
        let (port, bus) = (port.to_string(), bus.to_string());
        self.nodes[0].call(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }

    /// Waits until each node knows all nodes and reports the cluster as ok.
    async fn agreed(&self, nodes: usize) {
        until("all nodes know each other", async || {
            let knows = |node: &Redis| {
                let all = field(node, "cluster_known_nodes")? == nodes.to_string();
                (all && field(node, "cluster_state")? == "ok").then_some(())
            };
            self.nodes.iter().all(|node| knows(node).is_some()).then_some(())
        })
        .await;
    }

    /// Adds a primary without slots and returns its index.
    pub async fn add(&mut self) -> usize {
        let (node, bus) = node();
        self.meet(node.port, bus);
        self.nodes.push(node);
        self.agreed(self.nodes.len()).await;
        self.nodes.len() - 1
    }

    /// Moves a slot with all its keys, as `redis-cli --cluster reshard` does.
    pub fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        let (from_id, to_id, slot) = (id(from), id(to), slot.to_string());
        to.call(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
        from.call(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
        let (mut source, port) = (from.client(), to.port.to_string());
        loop {
            let keys = source.call(&["CLUSTER", "GETKEYSINSLOT", &slot, "5"]).list();
            if keys.is_empty() {
                break;
            }
            for key in &keys {
                let moved = source.call(&["MIGRATE", "127.0.0.1", &port, key.as_text(), "0", "5000"]);
                assert!(!matches!(moved, Reply::Error(_)), "{moved:?}");
            }
        }
        for node in [to, from] {
            node.call(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
        }
    }

    /// The primary that this node follows; `None` if it is a primary or does not answer.
    pub fn followed(&self, node: usize) -> Option<usize> {
        let role = Client::connect(self.nodes[node].port)?.try_call(&["ROLE"])?.list();
        let port = role.get(2).filter(|_| role[0] == Reply::text("slave"))?.number();
        self.nodes.iter().position(|other| i64::from(other.port) == port)
    }

    /// The replica of a primary.
    pub fn replica_of(&self, primary: usize) -> usize {
        let replica = (0..self.nodes.len()).find(|&node| self.followed(node) == Some(primary));
        replica.expect("a replica")
    }

    /// Waits until every node reports the cluster as ok, and each replica has what its primary had at the call.
    pub async fn whole(&self, primaries: usize) {
        until("each node agrees, and each replica follows", async || {
            let fine = |node: &Redis| (field(node, "cluster_state")? == "ok").then_some(());
            let replicas = (0..self.nodes.len()).filter(|&node| self.followed(node).is_some()).count();
            let all = self.nodes.iter().all(|node| fine(node).is_some());
            (all && replicas == self.nodes.len() - primaries).then_some(())
        })
        .await;
        for node in 0..self.nodes.len() {
            let Some(primary) = self.followed(node) else { continue };
            let offset = |of: usize, name: &str| -> Option<u64> {
                super::redis::info(&self.nodes[of], "replication").get(name)?.parse().ok()
            };
            let wanted = offset(primary, "master_repl_offset").expect("a number");
            until("the replica has caught up", async || {
                (offset(node, "slave_repl_offset")? >= wanted).then_some(())
            })
            .await;
        }
    }

    /// The ports of all nodes.
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    pub fn url(&self) -> String {
        let nodes: Vec<String> =
            self.ports()[1..].iter().map(|port| format!("node=127.0.0.1:{port}")).collect();
        format!("redis-cluster://127.0.0.1:{}?{}", self.nodes[0].port, nodes.join("&"))
    }

    /// The slot of a key, as a node computes it.
    pub fn slot(&self, key: &str) -> u16 {
        self.nodes[0].call(&["CLUSTER", "KEYSLOT", key]).number() as u16
    }
}

/// The users and sessions whose keys the primaries at these ports hold now.
pub fn held(ports: &[u16]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for &port in ports {
        let Some(mut client) = Client::connect(port) else { continue };
        let role = client.try_call(&["ROLE"]).map(Reply::list);
        if role.is_none_or(|role| role[0] != Reply::text("master")) {
            continue;
        }
        let keys = client.call(&["KEYS", "presence:*"]).list();
        all.extend(keys.iter().filter_map(|key| key.as_text().strip_prefix("presence:").map(str::to_owned)));
    }
    all.retain(|name| !name.starts_with('#'));
    all
}

/// How long a [`Writer`] waits for a node. The users of other nodes have to renew their keys in the meantime.
const SILENCE: Duration = Duration::from_millis(700);

/// Sends writes to the node that owns each key.
pub struct Writer {
    ports: Vec<u16>,
    clients: HashMap<u16, Client>,
    owners: HashMap<String, u16>,
}

impl Writer {
    pub fn new(ports: Vec<u16>) -> Writer {
        Writer { ports, clients: HashMap::new(), owners: HashMap::new() }
    }

    /// Sends commands whose second word is their key, and those that were redirected once more. True if every command succeeded.
    pub fn send(&mut self, commands: &[Vec<String>]) -> bool {
        let (done, redirected) = self.round(commands.to_vec());
        let (again, left) = self.round(redirected);
        done && again && left.is_empty()
    }

    /// Sends each command to the node that is believed to own its key. Returns whether every command succeeded or was redirected,
    /// and the redirected ones.
    fn round(&mut self, commands: Vec<Vec<String>>) -> (bool, Vec<Vec<String>>) {
        let mut groups: HashMap<u16, Vec<Vec<String>>> = HashMap::new();
        for command in commands {
            let port = self.owners.get(&command[1]).copied().unwrap_or_else(|| self.any());
            groups.entry(port).or_default().push(command);
        }
        let (mut done, mut redirected) = (true, Vec::new());
        for (port, group) in groups {
            let Some(replies) = self.pipeline(port, &group) else {
                done = false;
                group.iter().for_each(|command| self.forget(command));
                continue;
            };
            for (command, reply) in group.into_iter().zip(replies) {
                match self.settle(&command, port, reply) {
                    Settled::Done => {}
                    Settled::Redirected => redirected.push(command),
                    Settled::Failed => done = false,
                }
            }
        }
        (done, redirected)
    }

    fn forget(&mut self, command: &[String]) {
        self.owners.remove(&command[1]);
    }

    fn any(&self) -> u16 {
        self.ports[fastrand::usize(..self.ports.len())]
    }

    fn pipeline(&mut self, port: u16, commands: &[Vec<String>]) -> Option<Vec<Reply>> {
        let client = match self.clients.entry(port) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(place) => place.insert(Client::connect_for(port, SILENCE)?),
        };
        let replies = client.try_replies(commands);
        if replies.is_none() {
            self.clients.remove(&port);
        }
        replies
    }

    /// Notes what the reply says about the owner of the key. While a slot moves, asks the other node at once.
    fn settle(&mut self, command: &[String], port: u16, reply: Reply) -> Settled {
        let Reply::Error(why) = reply else {
            self.owners.insert(command[1].clone(), port);
            return Settled::Done;
        };
        let words: Vec<&str> = why.split(' ').collect();
        let to = words.get(2).and_then(|address| address.rsplit_once(':')?.1.parse().ok());
        match (words[0], to) {
            ("MOVED", Some(to)) => {
                self.owners.insert(command[1].clone(), to);
                Settled::Redirected
            }
            ("ASK", Some(to)) => {
                let again = self.pipeline(to, &[vec!["ASKING".into()], command.to_vec()]);
                let done = again.is_some_and(|replies| !matches!(replies[1], Reply::Error(_)));
                if done { Settled::Done } else { Settled::Failed }
            }
            _ => {
                self.forget(command);
                Settled::Failed
            }
        }
    }
}

/// The fate of one command.
enum Settled {
    Done,
    /// Another node owns the key.
    Redirected,
    Failed,
}
