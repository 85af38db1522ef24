//! Servers that imitate the restrictions of managed services; docs/MANAGED_REDIS.md lists who has which.

use super::degraded::{FEWEST, with_user};
use super::doctor::{doctor, doctor_with};
use crate::common::certificates::Authority;
use crate::common::cluster::Cluster;
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, Reply, info};
use crate::common::socket::Socket;
use crate::common::tokens::Issuer;
use crate::common::{free_port, until};

/// Without CONFIG, as most services.
const NO_CONFIG: [&str; 3] = ["--rename-command", "CONFIG", ""];
/// The classes that a service without the class `n` can enable.
const CLASSES: &str = "E$gxe";

/// A server without CONFIG that publishes these classes, with more arguments.
fn service(classes: &str, more: &[&str]) -> Redis {
    Redis::with(&[&["--notify-keyspace-events", classes], more, &NO_CONFIG[..]].concat())
}

/// The fields `mode` and `renewals` of the only server.
async fn mode(daemon: &Daemon) -> [String; 2] {
    let server = daemon.get("/v1/stats").await["redis"]["servers"][0].clone();
    ["mode", "renewals"].map(|field| server[field].as_str().expect("a word").to_owned())
}

async fn next(socket: &mut Socket) -> [String; 3] {
    let changes = socket.transitions().await;
    assert_eq!(changes.len(), 1, "{changes:?}");
    ["user", "state", "reason"].map(|field| changes[0][field].as_str().unwrap_or_default().to_owned())
}

/// A user who falls silent and one who logs out are seen to come and to go.
async fn users_come_and_go(daemon: &Daemon, redis: &Redis) {
    let (mut socket, _) = daemon.watch_all().await;
    for (command, expected) in [
        ("SET presence:alice 1 PX 500", ["alice", "online", "heartbeat"]),
        ("PING", ["alice", "offline", "expired"]),
        ("SET presence:bob#phone 1 EX 60", ["bob", "online", "heartbeat"]),
        ("DEL presence:bob#phone", ["bob", "offline", "deleted"]),
    ] {
        redis.call(&command.split(' ').collect::<Vec<_>>());
        assert_eq!(next(&mut socket).await, expected, "{command}");
    }
    assert_eq!(daemon.call("PUT", "/v1/users/carol/heartbeat", None).await.0, 204);
    assert_eq!(next(&mut socket).await[..2], ["carol", "online"]);
}

/// ElastiCache and MemoryDB with a parameter group, Memorystore, Heroku: CONFIG is missing, the classes are set elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classes_set_elsewhere_are_enough_without_config() {
    let redis = service(CLASSES, &["--maxmemory", "1gb", "--maxmemory-policy", "volatile-lru"]);
    for (events, renewals) in [("set", "set"), ("expire", "expire"), ("auto", "set"), ("new", "set")] {
        let daemon = Daemon::with(&["--redis", &redis.url(), "--events", events]).await;
        assert_eq!(mode(&daemon).await, ["events", renewals], "--events {events}");
        users_come_and_go(&daemon, &redis).await;
        redis.call(&["DEL", "presence:carol"]);
    }
    let (code, findings) = doctor(&redis.url()).await;
    assert_eq!(code, Some(0), "{findings:?}");
}

/// With the class `n` as well, as Redis Cloud and Upstash have it, heartbeats cost no message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn class_n_set_elsewhere_allows_events_new() {
    let redis = service("Egxen", &[]);
    let daemon = Daemon::with(&["--redis", &redis.url(), "--events", "new"]).await;
    assert_eq!(mode(&daemon).await, ["events", "new"]);
    users_come_and_go(&daemon, &redis).await;
}

/// Dragonfly publishes expiries only; ElastiCache Serverless publishes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_classes_without_config_mean_tracking() {
    for classes in ["", "Ex"] {
        let redis = service(classes, &[]);
        let daemon = Daemon::with(&["--redis", &redis.url()]).await;
        assert_eq!(mode(&daemon).await, ["tracking", "tracking"], "{classes:?}");
        let (mut socket, _) = daemon.watch_all().await;
        redis.call(&["SET", "presence:alice", "1", "PX", "500"]);
        assert_eq!(next(&mut socket).await[..2], ["alice", "online"]);
        assert_eq!(next(&mut socket).await[..2], ["alice", "offline"]);
    }
}

/// Dragonfly and Upstash have no tracking of a prefix either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_classes_without_tracking_mean_polling() {
    let redis = Redis::with(&["--notify-keyspace-events", "Ex"]);
    let daemon = Daemon::with(&["--redis", &with_user(&redis, FEWEST), "--ttl", "20s"]).await;
    assert_eq!(mode(&daemon).await[0], "sweeps");
    let (mut socket, _) = daemon.watch_all().await;
    redis.call(&["SET", "presence:alice", "1", "PX", "700"]);
    assert_eq!(next(&mut socket).await[..2], ["alice", "online"]);
    assert_eq!(next(&mut socket).await[..2], ["alice", "offline"]);
}

/// A cluster of one node that has all slots, as MemoryDB, ElastiCache Serverless and small instances are.
async fn one_node(more: &[&str]) -> Redis {
    let bus = free_port().to_string();
    let redis = Redis::with(&[&["--cluster-enabled", "yes", "--cluster-port", &bus], more].concat());
    redis.call(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    until("the cluster is whole", async || {
        redis.call(&["CLUSTER", "INFO"]).as_text().contains("cluster_state:ok").then_some(())
    })
    .await;
    redis
}

fn cluster_url(redis: &Redis) -> String {
    format!("redis-cluster://127.0.0.1:{}", redis.port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_cluster_is_followed_by_both_urls() {
    let redis = one_node(&[]).await;
    for url in [redis.url(), cluster_url(&redis)] {
        let daemon = Daemon::with(&["--redis", &url]).await;
        assert_eq!(mode(&daemon).await, ["events", "set"], "{url}");
        users_come_and_go(&daemon, &redis).await;
        redis.call(&["DEL", "presence:carol"]);
    }
}

/// ElastiCache Serverless shows one node with all slots, publishes no events and has no CONFIG.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_cluster_without_events_is_tracked() {
    let redis = one_node(&[&["--notify-keyspace-events", ""], &NO_CONFIG[..]].concat()).await;
    let daemon = Daemon::with(&["--redis", &cluster_url(&redis)]).await;
    assert_eq!(mode(&daemon).await[0], "tracking");
    let (mut socket, _) = daemon.watch_all().await;
    redis.call(&["SET", "presence:alice", "1", "PX", "500"]);
    assert_eq!(next(&mut socket).await[..2], ["alice", "online"]);
    assert_eq!(next(&mut socket).await[..2], ["alice", "offline"]);
}

/// Nodes behind an address translation announce addresses that the daemon cannot reach. Named in the URL, each node is followed
/// at the address of the URL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_named_in_the_url_need_no_reachable_announcement() {
    let nobody = free_port().to_string();
    let redis = one_node(&["--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", &nobody]).await;
    let nodes = redis.call(&["CLUSTER", "NODES"]);
    assert!(nodes.as_text().contains(&format!(":{nobody}@")), "{nodes:?}");
    let daemon = Daemon::with(&["--redis", &cluster_url(&redis)]).await;
    users_come_and_go(&daemon, &redis).await;

    let cluster = Cluster::start(3, 0).await;
    for node in &cluster.nodes {
        node.call(&["CONFIG", "SET", "cluster-announce-port", &nobody]);
    }
    until("the nodes announce it", async || {
        let nodes = cluster.nodes[0].call(&["CLUSTER", "NODES"]);
        (nodes.as_text().matches(&format!(":{nobody}@")).count() == 3).then_some(())
    })
    .await;
    let daemon = Daemon::with(&["--redis", &cluster.url()]).await;
    let users = ["alice", "bob", "carol", "dave", "erin", "frank"].map(|user| format!("presence:{user}"));
    for (user, key) in users.iter().map(|key| (key.trim_start_matches("presence:"), key)) {
        let owner = usize::from(cluster.slot(key)) * 3 / 16_384;
        assert_eq!(cluster.nodes[owner].call(&["SET", key, "1", "EX", "60"]), Reply::text("OK"));
        daemon.until_state(user, "online").await;
    }
}

/// A service is recognised by the host name that a cluster announces, or by that of the URL. Its own switch takes the place of CONFIG SET.
#[tokio::test]
async fn doctor_names_the_switch_of_a_service() {
    let host = "presence.abc123.0001.use1.cache.amazonaws.com";
    let announced = ["--cluster-announce-hostname", host, "--notify-keyspace-events", "Ex"];
    let redis = one_node(&[&announced[..], &NO_CONFIG].concat()).await;
    let (code, findings) = doctor(&cluster_url(&redis)).await;
    let text = |check: &str, field: &str| {
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("no {check}: {findings:?}"))[field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let vendor = text("vendor", "cause");
    assert!(vendor.starts_with("Amazon ElastiCache (the host is ") && vendor.contains(host), "{vendor}");
    let switch = text("events", "mend");
    assert!(switch.contains("aws elasticache modify-cache-parameter-group"), "{switch}");
    assert!(switch.contains("ParameterName=notify-keyspace-events,ParameterValue=E"), "{switch}");
    for finding in &findings {
        let mend = finding["mend"].as_str().unwrap_or_default();
        assert!(!mend.contains("the server's file") && !mend.contains("CONFIG"), "{finding}");
    }
    assert_eq!(code, Some(0), "client tracking stands in for the events: {findings:?}");
    let host = "presence-abc123.serverless.use1.cache.amazonaws.com";
    let (url, map) = (format!("redis-cluster://{host}:6379"), format!("{host}=127.0.0.1:{}", redis.port));
    let (_, findings) = doctor_with(&["--redis", &url, "--cluster-address-map", &map]).await;
    let vendor = findings.iter().find(|finding| finding["check"] == "vendor").expect("it is recognised");
    assert!(vendor["cause"].as_str().expect("a text").contains("Serverless"), "{vendor}");
}

/// Services close connections that are idle: `timeout` of Redis. Those of the daemon that are idle are made again, and what is
/// sent on them arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_closes_idle_connections_costs_nothing() {
    let redis = service(CLASSES, &["--timeout", "1"]);
    let daemon = Daemon::with(&["--redis", &redis.url()]).await;
    for user in ["alice", "bob"] {
        assert_eq!(daemon.call("PUT", &format!("/v1/users/{user}/heartbeat"), None).await.0, 204);
        daemon.until_state(user, "online").await;
        assert_eq!(
            daemon.send("PUT", &format!("/v1/users/{user}/status"), Some("\"away\"".into())).await.0,
            204
        );
        until("the status is known", async || {
            (daemon.get(&format!("/v1/users/{user}")).await["status"] == "away").then_some(())
        })
        .await;
        let writers = || {
            let clients = redis.call(&["CLIENT", "LIST"]);
            clients.as_text().lines().filter(|line| line.contains("name=keybeat-writes")).count()
        };
        until("the server has closed the idle connection for writes", async || {
            (writers() == 0).then_some(())
        })
        .await;
    }
    let stats = daemon.get("/v1/stats").await;
    assert_eq!(stats["redis"]["servers"][0]["gaps"], 0, "{stats}\n{}", daemon.log());
}

/// TLS with an authority of the service's own, a password in a file, and a rotation of it with an overlap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_is_rotated_with_an_overlap() {
    let (authority, files) = (Authority::new(), Issuer::new());
    let [cert, key] = authority.issue("redis");
    let (port, ca) = (free_port(), authority.path("ca.pem"));
    let tls = ["--tls-port", &port.to_string(), "--tls-cert-file", &cert, "--tls-key-file", &key];
    let redis = Redis::with(
        &[
            &tls[..],
            &["--tls-ca-cert-file", &ca, "--tls-auth-clients", "no", "--notify-keyspace-events", CLASSES],
        ]
        .concat(),
    );
    let user = |rule: &str| redis.call(&["ACL", "SETUSER", "keybeat", rule]);
    with_user(&redis, FEWEST);
    let file = files.write("password", "secret\n");
    let url = format!("rediss://keybeat@127.0.0.1:{port}");
    let daemon = Daemon::with(&["--redis", &url, "--redis-ca", &ca, "--redis-password-file", &file]).await;
    // Both are valid; then the file changes; then the old one ends.
    user(">another");
    files.write("password", "another\n");
    user("<secret");
    let before = info(&redis, "stats")["total_connections_received"].clone();
    redis.call(&["CLIENT", "KILL", "USER", "keybeat"]);
    until("the daemon has connected again", async || {
        let connected = redis.call(&["CLIENT", "LIST"]);
        let back = connected.as_text().lines().any(|line| line.contains("user=keybeat"));
        (back && info(&redis, "stats")["total_connections_received"] != before).then_some(())
    })
    .await;
    daemon.ready().await;
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    daemon.until_state("alice", "online").await;
    assert!(!daemon.log().contains("WRONGPASS"), "{}", daemon.log());
}
