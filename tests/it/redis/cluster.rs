//! A Redis Cluster as users see it; what they see of its faults is in `faults`.

use crate::common::cluster::{Cluster, Writer, id};
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, Reply};
use crate::common::socket::Socket;
use crate::common::{free_port, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn keybeat(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keybeat"));
    command.args(args).env_remove("KEYBEAT_REDIS").env_remove("KEYBEAT_URL").output().expect("it runs")
}

fn names(users: &Value) -> BTreeSet<String> {
    let list = users["users"].as_array().expect("a list");
    list.iter().map(|user| user["user"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_heartbeats_and_deletes_reach_their_nodes() {
    let cluster = Cluster::start(3, 0).await;
    let daemon = Daemon::with(&["--redis", &cluster.url()]).await;
    let (mut socket, _) = daemon.watch_all().await;
    let users: Vec<String> = (0..60).map(|i| format!("u{i}")).collect();
    let (status, _) = daemon.call("POST", "/v1/heartbeats", Some(json!({ "users": users }))).await;
    assert_eq!(status, 204);
    let mut told = BTreeSet::new();
    while told.len() < users.len() {
        told.extend(
            socket.transitions().await.iter().map(|one| one["user"].as_str().expect("a name").to_owned()),
        );
    }
    let held: Vec<usize> = cluster.nodes.iter().map(|node| node.presence_keys().len()).collect();
    assert!(held.iter().all(|&keys| keys > 0) && held.iter().sum::<usize>() == users.len(), "{held:?}");
    // Two sessions of one user on two nodes; without a session both end.
    for session in ["a", "b", "c", "d"] {
        let body = Some(json!({ "session": session }));
        assert_eq!(daemon.call("PUT", "/v1/users/u0/heartbeat", body).await.0, 204);
    }
    assert_eq!(daemon.call("DELETE", "/v1/users/u0", None).await.0, 204);
    let gone = socket.transitions().await;
    let (user, reason) = (&gone[0]["user"], &gone[0]["reason"]);
    assert_eq!((user, reason), (&json!("u0"), &json!("deleted")));
    let left: usize = cluster.nodes.iter().map(|node| node.presence_keys().len()).sum();
    assert_eq!(left, users.len() - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeat_follows_its_moving_slot() {
    let cluster = Cluster::start(2, 0).await;
    let daemon = Daemon::with(&["--redis", &cluster.url()]).await;
    let user = (0..).map(|i| format!("u{i}")).find(|user| cluster.slot(&format!("presence:{user}")) < 8_192);
    let user = user.expect("one of two");
    let slot = cluster.slot(&format!("presence:{user}")).to_string();
    let [from, to] = [0, 1].map(|i| crate::common::cluster::id(&cluster.nodes[i]));
    cluster.nodes[1].call(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from]);
    cluster.nodes[0].call(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to]);
    let (mut socket, _) = daemon.watch_all().await;
    let path = format!("/v1/users/{user}/heartbeat");
    assert_eq!(daemon.call("PUT", &path, Some(json!({"ttl_ms": 1500}))).await.0, 204);
    assert_eq!(cluster.nodes[1].presence_keys().len(), 1, "the source says ASK");
    assert_eq!(socket.transitions().await[0]["state"], "online");
    let gone = socket.transitions().await;
    assert_eq!(gone[0]["state"], "offline", "the node it is going to tells when it ends");
}

#[test]
fn commands_read_and_write_all_primaries() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let cluster = runtime.block_on(Cluster::start(3, 0));
    let url = cluster.url();
    let users: Vec<String> = (0..20).map(|i| format!("u{i}")).collect();
    let mut beat = vec!["beat", "--redis", &url];
    beat.extend(users.iter().map(String::as_str));
    let done = keybeat(&beat);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let listed = keybeat(&["ls", "--json", "--redis", &url]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), users.len());
    let mut get = vec!["get", "--redis", &url];
    get.extend(users.iter().map(String::as_str));
    assert_eq!(keybeat(&get).status.code(), Some(0));
    get.push("nobody");
    assert_eq!(keybeat(&get).status.code(), Some(3));
    let refused = keybeat(&["ls", "--redis", "redis-cluster://127.0.0.1:1"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("127.0.0.1:1") && said.contains("is it running?"), "{said}");
    let refused = keybeat(&["ls", "--redis", "redis-cluster://127.0.0.1:1/2"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("database 0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fewest_documented_rights_are_enough_for_a_cluster() {
    let cluster = Cluster::start(3, 0).await;
    for node in &cluster.nodes {
        let rights = "reset on >secret ~presence:* &__keyevent@* +subscribe +publish +ping +hello +client|setname +info \
                      +select +set +del +pttl +scan +asking +cluster|info +cluster|nodes";
        let mut command = vec!["ACL", "SETUSER", "keybeat"];
        command.extend(rights.split_whitespace());
        assert_eq!(node.call(&command).as_text(), "OK");
    }
    let url = cluster.url().replace("://", "://keybeat:secret@");
    let daemon = Daemon::with(&["--redis", &url]).await;
    let mut writer = Writer::new(cluster.ports());
    let set =
        |user: usize| ["SET", &format!("presence:u{user}"), "1", "EX", "30"].map(str::to_owned).to_vec();
    assert!(writer.send(&(0..30).map(set).collect::<Vec<_>>()));
    until("all are online", async || (names(&daemon.get("/v1/users").await).len() == 30).then_some(())).await;
    assert!(!daemon.log().contains("secret"), "no secret in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn down_cluster_is_followed_when_up() {
    let mut cluster = Cluster::start(3, 0).await;
    let daemon = Daemon::with(&["--redis", &cluster.url()]).await;
    let port = cluster.nodes[2].port.to_string();
    cluster.nodes[2].kill();
    until("the cause names the node", async || daemon.not_ready().await.contains(&port).then_some(())).await;
    assert_eq!(daemon.get("/v1/users/alice").await["stale"], true);
    let states = |stats: &Value| -> Vec<(bool, bool)> {
        let servers = stats["redis"]["servers"].as_array().expect("a list");
        let is = |server: &Value| server["name"].as_str().expect("a name").contains(&port);
        servers.iter().map(|server| (is(server), server["state"] == "up")).collect()
    };
    let stats = daemon.get("/v1/stats").await;
    let mut told = states(&stats);
    told.sort_unstable();
    assert_eq!(told, [(false, true), (false, true), (true, false)], "{stats}");
    cluster.nodes[2].run();
    daemon.ready().await;
    let stats = daemon.get("/v1/stats").await;
    assert!(states(&stats).iter().all(|(_, up)| *up), "{stats}");
    let of = stats["redis"]["servers"].as_array().expect("a list");
    let gaps: u64 = of.iter().map(|server| server["gaps"].as_u64().expect("a number")).sum();
    assert!(gaps >= 1 && of.iter().all(|server| server["mode"] == "events"), "{stats}");
}

/// A node that has yet to meet the others says that all is well, where not every slot has to be served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_met_no_other_is_no_snapshot() {
    let node = Redis::with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &free_port().to_string(),
        "--cluster-require-full-coverage",
        "no",
    ]);
    node.call(&["CLUSTER", "ADDSLOTSRANGE", "0", "9"]);
    until("it says that all is well", async || {
        node.call(&["CLUSTER", "INFO"]).as_text().contains("cluster_state:ok").then_some(())
    })
    .await;
    let daemon = Daemon::launch(&["--redis", &format!("redis-cluster://127.0.0.1:{}", node.port)]);
    until("it says what is missing", async || {
        daemon.not_ready().await.contains("16374 slots of the cluster have no owner").then_some(())
    })
    .await;
    until("what it has is known", async || daemon.log().contains("compared with Redis").then_some(())).await;
    assert_eq!(daemon.call("GET", "/v1/users/alice", None).await.0, 503, "nobody's state is known");
    node.call(&["CLUSTER", "ADDSLOTSRANGE", "10", "16383"]);
    daemon.ready().await;
    assert_eq!(daemon.get("/v1/users/alice").await["state"], "offline");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_node_leaves_no_ghost_without_ttl() {
    let cluster = Cluster::start(3, 0).await;
    let daemon = Daemon::with(&["--redis", &cluster.url()]).await;
    let (mut socket, _) = daemon.watch_all().await;
    let key = format!("presence:{}", of_the_first(&cluster));
    cluster.nodes[0].call(&["SET", &key, "1"]);
    assert_eq!(socket.transitions().await[0]["state"], "online");
    // Asked for when it appeared, and once more: an EXPIRE could have followed. From then on nothing renews it and
    // nothing would ask for it soon: the node's canary tells that it is gone.
    until("it was asked for twice", async || {
        let metrics = daemon.send("GET", "/metrics", None).await.1;
        metrics.as_str()?.contains("\nkeybeat_lookups_total 2\n").then_some(())
    })
    .await;
    cluster.nodes[0].call(&["FLUSHALL"]);
    let told = socket.transitions().await;
    assert_eq!(
        (&told[0]["state"], &told[0]["reason"]),
        (&json!("offline"), &json!("reconciled")),
        "{told:?}"
    );
    let metrics = daemon.send("GET", "/metrics", None).await.1;
    let metrics = metrics.as_str().expect("text");
    assert!(
        metrics.contains("\nkeybeat_gaps_total{cause=\"replaced\"} 1\n"),
        "of one node of three: {metrics}"
    );
}

/// A user of the cluster whose slot is among the first node's.
fn of_the_first(cluster: &Cluster) -> String {
    let share = 16_384 / cluster.nodes.len() as u16;
    let mut users = (0..).map(|i| format!("u{i}"));
    users.find(|user| cluster.slot(&format!("presence:{user}")) < share).expect("one of some")
}

/// Redis runs both commands before the daemon can ask whether the key was deleted or moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn del_and_set_at_once_are_reported_in_each_mode() {
    const BOTH: &str = "redis.call('DEL', KEYS[1]); return redis.call('SET', KEYS[1], '1', 'EX', '30')";
    for events in ["set", "expire", "new"] {
        let cluster = Cluster::start(2, 0).await;
        let daemon = Daemon::with(&["--redis", &cluster.url(), "--events", events]).await;
        let (mut socket, _) = daemon.watch_all().await;
        let user = of_the_first(&cluster);
        let key = format!("presence:{user}");
        cluster.nodes[0].call(&["SET", &key, "1", "EX", "30"]);
        daemon.until_state(&user, "online").await;
        cluster.nodes[0].call(&["EVAL", BOTH, "1", &key]);
        let mut told = Vec::new();
        while told.len() < 3 {
            told.extend(socket.transitions().await);
        }
        let told: Vec<_> = told.iter().map(|one| (one["state"].as_str(), one["reason"].as_str())).collect();
        let online = (Some("online"), Some("heartbeat"));
        assert_eq!(told, [online, (Some("offline"), Some("deleted")), online], "{events}");
    }
}

/// While one primary is away the others refuse writes, and their keys run out though their users are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_outage_grants_one_ttl() {
    let mut cluster = Cluster::start(3, 0).await;
    let daemon = Daemon::with(&["--redis", &cluster.url()]).await;
    let (mut socket, _) = daemon.watch_all().await;
    let user = of_the_first(&cluster);
    let key = format!("presence:{user}");
    cluster.nodes[0].call(&["SET", &key, "1", "EX", "4"]);
    assert_eq!(socket.transitions().await[0]["state"], "online");
    cluster.nodes[2].kill();
    daemon.not_ready().await;
    until("the key has run out", async || cluster.nodes[0].presence_keys().is_empty().then_some(())).await;
    let refused = cluster.nodes[0].call(&["SET", &key, "1", "EX", "4"]);
    assert!(format!("{refused:?}").contains("CLUSTERDOWN"), "{refused:?}");
    cluster.nodes[2].run();
    daemon.ready().await;
    // What refuses is asked again at once; a connection that hangs instead is followed seconds late.
    let log = daemon.log();
    assert!(log.contains("CLUSTERDOWN") && !log.contains("timed out"), "{log}");
    cluster.nodes[0].call(&["SET", &key, "1", "EX", "30"]);
    daemon.until_state(&user, "online").await;
    cluster.nodes[0].call(&["DEL", &key]);
    let told = socket.transitions().await;
    assert_eq!((&told[0]["state"], &told[0]["reason"]), (&json!("offline"), &json!("deleted")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_with_a_new_port_is_followed() {
    let mut cluster = Cluster::start(2, 0).await;
    let daemon = Daemon::with(&["--redis", &cluster.url()]).await;
    let (mut socket, _) = daemon.watch_all().await;
    let user = of_the_first(&cluster);
    let path = format!("/v1/users/{user}/heartbeat");
    assert_eq!(daemon.call("PUT", &path, None).await.0, 204);
    assert_eq!(socket.transitions().await[0]["state"], "online");
    cluster.nodes[0].kill();
    cluster.nodes[0].port = free_port();
    cluster.nodes[0].run();
    until("heartbeats reach it", async || (daemon.call("PUT", &path, None).await.0 == 204).then_some(()))
        .await;
    daemon.ready().await;
    assert_eq!(cluster.nodes[0].presence_keys().len(), 1);
    let port = cluster.nodes[0].port.to_string();
    let stats = daemon.get("/v1/stats").await;
    let servers = stats["redis"]["servers"].as_array().expect("a list");
    assert!(servers.iter().any(|server| server["name"].as_str().is_some_and(|name| name.contains(&port))));
    assert_eq!(daemon.call("DELETE", &format!("/v1/users/{user}"), None).await.0, 204);
    let told = socket.transitions().await;
    assert_eq!((&told[0]["state"], &told[0]["reason"]), (&json!("offline"), &json!("deleted")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostnames_that_fail_give_way() {
    let cluster = Cluster::start(2, 0).await;
    for node in &cluster.nodes {
        node.call(&["CONFIG", "SET", "cluster-announce-hostname", "keybeat.invalid"]);
    }
    until("both nodes know both hostnames", async || {
        let known =
            |node: &Redis| node.call(&["CLUSTER", "NODES"]).as_text().matches("keybeat.invalid").count() == 2;
        cluster.nodes.iter().all(known).then_some(())
    })
    .await;
    let daemon = Daemon::with(&["--redis", &cluster.url()]).await;
    let user = of_the_first(&cluster);
    assert_eq!(daemon.call("PUT", &format!("/v1/users/{user}/heartbeat"), None).await.0, 204);
    daemon.until_state(&user, "online").await;
}

/// How many servers the daemon follows.
async fn followed(daemon: &Daemon) -> usize {
    daemon.get("/v1/stats").await["redis"]["servers"].as_array().expect("a list").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_node_leaves_at_once() {
    let mut cluster = Cluster::start(2, 0).await;
    let added = cluster.add().await;
    // An empty primary would become a replica.
    cluster.nodes[added].call(&["CONFIG", "SET", "cluster-allow-replica-migration", "no"]);
    // So the node gets an epoch of its own, which the cluster loses with the node.
    cluster.move_slot(0, 0, added);
    cluster.move_slot(0, added, 0);
    let daemon = Daemon::with(&["--redis", &cluster.url()]).await;
    until("three servers are followed", async || (followed(&daemon).await == 3).then_some(())).await;
    let deleted = id(&cluster.nodes[added]);
    for node in &cluster.nodes[..added] {
        assert_eq!(node.call(&["CLUSTER", "FORGET", &deleted]).as_text(), "OK");
    }
    cluster.nodes[added].call(&["CLUSTER", "RESET"]);
    let began = Instant::now();
    until("two servers are followed", async || (followed(&daemon).await == 2).then_some(())).await;
    daemon.ready().await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

/// Does the server move slots as a whole (Valkey 9)?
fn moves_whole_slots(node: &Redis) -> bool {
    let reply = node.call(&["CLUSTER", "HELP"]);
    reply.list().iter().any(|line| line.as_text().contains("MIGRATESLOTS"))
}

/// One program: sets its users, and ends some of them while the slots move.
fn end_users(ports: Vec<u16>, users: &[String]) {
    let mut writer = Writer::new(ports);
    for chunk in users.chunks(20) {
        let ends = chunk.iter().map(|user| vec!["DEL".into(), format!("presence:{user}")]);
        until_done(&mut writer, &ends.collect::<Vec<_>>());
    }
}

/// A node may refuse writes for a moment while a slot changes hands.
fn until_done(writer: &mut Writer, commands: &[Vec<String>]) {
    while !writer.send(commands) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_as_a_whole_invent_nobody() {
    let cluster = Cluster::start(2, 0).await;
    if !moves_whole_slots(&cluster.nodes[0]) {
        eprintln!("skipped: this server has no CLUSTER MIGRATESLOTS");
        return;
    }
    let daemon = Daemon::with(&["--redis", &cluster.url()]).await;
    let names = |kind: &str| (0..4_000).map(|i| format!("{kind}{i}")).collect::<Vec<_>>();
    let (steady, deleted, expiring) = (names("steady"), names("deleted"), names("expiring"));
    let set = |user: &String, ttl_ms: u64| {
        vec!["SET".into(), format!("presence:{user}"), "1".into(), "PX".into(), ttl_ms.to_string()]
    };
    let (mut socket, _) = daemon.watch_all().await;
    let mut commands: Vec<_> = steady.iter().chain(&deleted).map(|user| set(user, 120_000)).collect();
    // They run out while the slots move, and some before.
    commands.extend(expiring.iter().enumerate().map(|(i, user)| set(user, 1_000 + i as u64)));
    let (ports, all) = (cluster.ports(), commands.len());
    let writing = tokio::task::spawn_blocking(move || {
        let mut writer = Writer::new(ports);
        commands.chunks(500).for_each(|chunk| until_done(&mut writer, chunk));
    });
    let mut seen = Seen::default();
    while seen.online.len() < all {
        seen.take(&mut socket).await;
    }
    writing.await.expect("the program ends");

    let ports = cluster.ports();
    let ending = tokio::task::spawn_blocking(move || end_users(ports, &deleted));
    let [from, to] = [&cluster.nodes[0], &cluster.nodes[1]];
    let moved = from.call(&["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", "0", "8191", "NODE", &id(to)]);
    assert_eq!(moved.as_text(), "OK");
    let marker =
        (0..).map(|i| format!("marker{i}")).find(|user| cluster.slot(&format!("presence:{user}")) < 8_192);
    let marker = marker.expect("one of two");
    until("the slots have moved", async || {
        let owner = from.call(&["GET", &format!("presence:{marker}")]);
        matches!(owner, Reply::Error(why) if why.starts_with("MOVED")).then_some(())
    })
    .await;
    ending.await.expect("the program ends");
    while seen.offline.len() < 8_000 {
        seen.take(&mut socket).await;
    }
    // The stream of the new node has delivered everything before it.
    until_done(&mut Writer::new(cluster.ports()), &[set(&marker, 60_000)]);
    while !seen.online.contains(&marker) {
        seen.take(&mut socket).await;
    }
    assert!(seen.offline.iter().all(|user| !user.starts_with("steady")), "a steady user went offline");
}

/// The users who came and those who went, each once.
#[derive(Default)]
struct Seen {
    online: BTreeSet<String>,
    offline: BTreeSet<String>,
}

impl Seen {
    async fn take(&mut self, socket: &mut Socket) {
        for one in socket.transitions().await {
            let set = if one["state"] == "online" { &mut self.online } else { &mut self.offline };
            assert!(set.insert(name_of(&one)), "a second time: {one}");
        }
    }
}

fn name_of(user: &Value) -> String {
    user["user"].as_str().expect("a name").to_owned()
}
