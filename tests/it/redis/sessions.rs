//! Users who change their session while the daemon cannot look: they were never offline, and nobody sees them so.

use crate::common::cluster::Cluster;
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, signal};
use crate::common::socket::Socket;
use crate::common::until;

const USERS: usize = 500;

fn command(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// `SET` of the session of each user, for so many seconds.
fn sets(session: &str, seconds: &str) -> Vec<Vec<String>> {
    let set = |i| command(&["SET", &format!("presence:u{i}#{session}"), "1", "EX", seconds]);
    (0..USERS).map(set).collect()
}

/// The socket's other messages until these users are online.
async fn said_until_online(socket: &mut Socket, users: &[&str]) -> Vec<String> {
    let (mut said, mut missing) = (Vec::new(), users.to_vec());
    while !missing.is_empty() {
        for one in socket.transitions().await {
            let user = one["user"].as_str().expect("a name");
            if missing.contains(&user) {
                missing.retain(|&other| other != user);
            } else {
                said.push(format!("{user} {} {}", one["state"], one["reason"]));
            }
        }
    }
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_changed_in_a_gap_is_not_seen() {
    let redis = Redis::start();
    let mut client = redis.client();
    client.pipeline(&sets("a", "60"));
    let daemon = Daemon::start(&redis).await;
    daemon.ready().await;
    let (mut socket, users) = daemon.watch_all().await;
    assert_eq!(users.len(), USERS);
    signal(daemon.pid(), "STOP");
    for kind in ["pubsub", "normal"] {
        redis.call(&["CLIENT", "KILL", "TYPE", kind]);
    }
    let mut client = redis.client();
    client.pipeline(&sets("b", "60"));
    let ends = (0..USERS).map(|i| command(&["DEL", &format!("presence:u{i}#a")]));
    client.pipeline(&ends.collect::<Vec<_>>());
    signal(daemon.pid(), "CONT");
    // An end that was held back is reported before the daemon says that it is up again.
    until("the daemon is down", async || {
        let message = socket.next().await;
        assert_eq!(message["type"], "status", "{message}");
        (message["redis"] == "down").then_some(())
    })
    .await;
    daemon.ready().await;
    client.pipeline(&[command(&["SET", "presence:last", "1", "EX", "60"])]);
    let said = said_until_online(&mut socket, &["last"]).await;
    assert!(said.is_empty(), "{} transitions: {:?}", said.len(), &said[..said.len().min(5)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_moved_while_the_daemon_stopped_is_not_seen() {
    let cluster = Cluster::start(2, 0).await;
    let at = |node: usize, user: usize| {
        let mut names = (0..).map(|n| format!("presence:u{user}#{n}"));
        names.find(|key| (cluster.slot(key) >= 8_192) == (node == 1)).expect("half of the names")
    };
    let keys = |node: usize| (0..100).map(|user| at(node, user)).collect::<Vec<_>>();
    let (olds, news) = (keys(0), keys(1));
    let set = |keys: &[String], ms: &str| -> Vec<Vec<String>> {
        keys.iter().map(|key| command(&["SET", key, "1", "PX", ms])).collect()
    };
    let daemon = Daemon::with(&["--redis", &cluster.url(), "--ttl", "2s"]).await;
    daemon.ready().await;
    cluster.nodes[0].client().pipeline(&set(&olds, "2000"));
    until("all are online", async || {
        let list = daemon.get("/v1/users?limit=1000").await;
        (list["users"].as_array()?.len() == olds.len()).then_some(())
    })
    .await;
    let (mut socket, _) = daemon.watch_all().await;
    signal(daemon.pid(), "STOP");
    cluster.nodes[1].client().pipeline(&set(&news, "60000"));
    until("the old sessions expire", async || cluster.nodes[0].presence_keys().is_empty().then_some(()))
        .await;
    // So that node announces it.
    cluster.nodes[0].client().pipeline(&olds.iter().map(|key| command(&["EXISTS", key])).collect::<Vec<_>>());
    signal(daemon.pid(), "CONT");
    let lasts = [0, 1].map(|node| at(node, 1_000 + node));
    for (node, key) in lasts.iter().enumerate() {
        cluster.nodes[node].client().pipeline(&set(std::slice::from_ref(key), "60000"));
    }
    let said = said_until_online(&mut socket, &["u1000", "u1001"]).await;
    assert!(said.is_empty(), "{} transitions: {:?}", said.len(), &said[..said.len().min(5)]);
}
