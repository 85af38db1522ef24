//! Servers that publish no events and let nobody enable them: client tracking.

use super::degraded::{FEWEST, with_user};
use crate::common::cluster::Cluster;
use crate::common::daemon::Daemon;
use crate::common::faults::World;
use crate::common::redis::{Redis, info, signal};
use crate::common::socket::Socket;
use crate::common::until;
use serde_json::Value;
use std::time::Duration;

/// The fewest rights, and that to track.
fn tracking_rights() -> Vec<&'static str> {
    [FEWEST, &["+client|tracking"]].concat()
}

/// A server that publishes nothing, for good.
fn mute_redis(args: &[&str]) -> Redis {
    Redis::with(&[args, &["--rename-command", "CONFIG", "", "--notify-keyspace-events", ""]].concat())
}

async fn mode(daemon: &Daemon) -> Value {
    let redis = daemon.get("/v1/stats").await["redis"].clone();
    assert_eq!(redis["mode"], redis["servers"][0]["mode"]);
    redis["mode"].clone()
}

/// How often SCAN was called.
fn scans(redis: &Redis) -> String {
    info(redis, "commandstats")
        .get("cmdstat_scan")
        .map_or("none", |stats| stats.split(',').next().expect("calls"))
        .to_owned()
}

async fn next(socket: &mut Socket) -> [String; 3] {
    let told = socket.transitions().await;
    assert_eq!(told.len(), 1, "{told:?}");
    ["user", "state", "reason"].map(|field| told[0][field].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tracked_users_come_and_go_without_a_poll() {
    let redis = Redis::with(&["--notify-keyspace-events", ""]);
    let daemon = Daemon::with(&["--redis", &with_user(&redis, &tracking_rights()), "--ttl", "20s"]).await;
    assert_eq!(mode(&daemon).await, "tracking");
    let metrics = daemon.get("/metrics").await;
    for line in ["keybeat_servers{renewals=\"tracking\"} 1", "keybeat_swept_servers 0"] {
        assert!(metrics.as_str().expect("text").contains(line), "{line}");
    }
    let (mut socket, _) = daemon.watch_all().await;
    let before = scans(&redis);
    for (command, user, state, reason) in [
        ("SET presence:alice 1 EX 60", "alice", "online", "heartbeat"),
        ("DEL presence:alice", "alice", "offline", "deleted"),
        ("SET presence:bob#tab 1 PX 300", "bob", "online", "heartbeat"),
        ("PING", "bob", "offline", "expired"),
        ("HSET presence:carol beat 1", "carol", "online", "heartbeat"),
        ("PEXPIRE presence:carol 300", "carol", "offline", "expired"),
        ("SET presence:dave 1 EX 60", "dave", "online", "heartbeat"),
        ("PEXPIRE presence:dave 0", "dave", "offline", "deleted"),
        ("SET presence:erin 1 EX 60", "erin", "online", "heartbeat"),
        ("RENAME presence:erin other", "erin", "offline", "deleted"),
    ] {
        redis.call(&command.split(' ').collect::<Vec<_>>());
        let told = next(&mut socket).await;
        assert_eq!(told.each_ref().map(String::as_str)[..2], [user, state], "{command}");
        assert!(told[2].is_empty() || told[2] == reason, "{command}: {told:?}");
    }
    assert_eq!(scans(&redis), before, "no poll");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tracked_renewals_keep_a_user_online() {
    let redis = mute_redis(&[]);
    let daemon = Daemon::with(&["--redis", &redis.url()]).await;
    assert_eq!(mode(&daemon).await, "tracking");
    let (mut socket, _) = daemon.watch_all().await;
    redis.call(&["SET", "presence:alice", "1", "PX", "900"]);
    assert_eq!(next(&mut socket).await[1], "online");
    for command in
        ["SET presence:alice 1 PX 900", "PEXPIRE presence:alice 900", "GETEX presence:alice PX 900"].repeat(3)
    {
        tokio::time::sleep(Duration::from_millis(300)).await;
        redis.call(&command.split(' ').collect::<Vec<_>>());
    }
    redis.call(&["DEL", "presence:alice"]);
    assert_eq!(next(&mut socket).await, ["alice", "offline", "deleted"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flush_is_no_end_to_tracked_users() {
    let redis = mute_redis(&[]);
    let daemon = Daemon::with(&["--redis", &redis.url()]).await;
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    daemon.until_state("alice", "online").await;
    redis.call(&["FLUSHALL"]);
    until("the flush is noticed", async || {
        (daemon.get("/v1/stats").await["gaps"]["replaced"].as_u64()? > 0).then_some(())
    })
    .await;
    daemon.ready().await;
    assert_eq!(daemon.get("/v1/users/alice").await["state"], "online");
    // She is back, then she leaves.
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    redis.call(&["SET", "presence:bob", "1", "EX", "60"]);
    daemon.until_state("bob", "online").await;
    redis.call(&["DEL", "presence:alice"]);
    daemon.until_state("alice", "offline").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enabled_events_end_the_tracking() {
    let redis = Redis::with(&["--notify-keyspace-events", "Ex"]);
    let daemon = Daemon::with(&["--redis", &with_user(&redis, &tracking_rights())]).await;
    assert_eq!(mode(&daemon).await, "tracking");
    redis.call(&["CONFIG", "SET", "notify-keyspace-events", "E$gxe"]);
    until("events are published", async || (mode(&daemon).await == "events").then_some(())).await;
    daemon.ready().await;
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    daemon.until_state("alice", "online").await;
}

/// The output that the server holds for the connections of this name, in bytes; `None` if there are none.
fn held_output(redis: &Redis, name: &str) -> Option<u64> {
    let list = redis.call(&["CLIENT", "LIST"]);
    let line = list.as_text().lines().find(|line| line.contains(&format!(" name={name} ")))?.to_owned();
    let field = line.split(' ').find_map(|field| field.strip_prefix("omem="))?;
    field.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_daemon_does_not_fill_the_server() {
    const TRACKS: &str = "keybeat-tracking";
    const LIMIT: u64 = 1024 * 1024;
    let redis = mute_redis(&["--client-output-buffer-limit", "pubsub 1mb 1mb 60"]);
    let daemon = Daemon::with(&["--redis", &redis.url()]).await;
    assert_eq!(held_output(&redis, TRACKS), Some(0));
    signal(daemon.pid(), "STOP");
    let users: Vec<String> = (0..1_000).map(|i| format!("presence:{i:0>60}")).collect();
    let sets: Vec<Vec<&str>> = users.iter().map(|user| vec!["SET", user, "1", "EX", "600"]).collect();
    let (mut client, mut most) = (redis.client(), 0);
    for _ in 0..400 {
        client.pipeline(&sets);
        let Some(held) = held_output(&redis, TRACKS) else { break };
        most = most.max(held);
    }
    let held = held_output(&redis, TRACKS);
    signal(daemon.pid(), "CONT");
    assert_eq!(held, None, "the server still holds output for the frozen daemon, at most {most} bytes");
    assert!(most <= 2 * LIMIT, "{most} bytes");
    until("the daemon has found what it missed", async || {
        (daemon.get("/v1/stats").await["users_online"] == 1_000).then_some(())
    })
    .await;
    daemon.ready().await;
    assert_eq!(mode(&daemon).await, "tracking");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_while_tracking_show_nobody_offline() {
    let redis = mute_redis(&[]);
    let url = redis.url();
    let mut world = World::new(redis, &["--redis", &url]).await;
    world.silence();
    for kind in ["pubsub", "normal"].repeat(8) {
        world.redis().call(&["CLIENT", "KILL", "TYPE", kind]);
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    world.redis().call(&["FLUSHALL"]);
    world.outcome().await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_while_tracking_shows_nobody_offline() {
    let redis = mute_redis(&[]);
    let url = redis.url();
    let mut world = World::new(redis, &["--redis", &url]).await;
    world.silence();
    world.redis().kill();
    tokio::time::sleep(crate::common::faults::TTL + Duration::from_secs(1)).await;
    world.redis().run();
    world.outcome().await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tracked_keys_may_have_any_pattern() {
    let redis = mute_redis(&[]);
    for pattern in ["user:<user>:online", "{<user>}:presence[:<session>]"] {
        let daemon = Daemon::with(&["--redis", &redis.url(), "--key-pattern", pattern]).await;
        assert_eq!(mode(&daemon).await, "tracking");
        let key = pattern.replace("<user>", "alice").replace("[:<session>]", "");
        redis.call(&["SET", &key, "1", "EX", "60"]);
        daemon.until_state("alice", "online").await;
        redis.call(&["DEL", &key]);
        daemon.until_state("alice", "offline").await;
    }
}

/// How many connections track keys.
fn trackers(redis: &Redis) -> usize {
    redis.call(&["CLIENT", "LIST"]).as_text().matches(" name=keybeat-tracking ").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_daemon_tracks_for_all_and_another_takes_over() {
    let redis = mute_redis(&[]);
    // Without statuses and groups, which are scanned too.
    let start =
        async || Daemon::with(&["--redis", &redis.url(), "--status-prefix", "", "--group-prefix", ""]).await;
    let [first, second] = [start().await, start().await];
    first.until_lease("held").await;
    second.until_lease("other").await;
    until("one daemon tracks", async || (trackers(&redis) == 1).then_some(())).await;
    let (mut socket, _) = second.watch_all().await;
    // Each has compared all keys, and the second one has looked at their names when it received the first announcement.
    until("both daemons know all keys", async || (scans(&redis) == "calls=3").then_some(())).await;
    let before = scans(&redis);
    redis.call(&["SET", "presence:alice", "1", "PX", "600"]);
    assert_eq!(next(&mut socket).await[..2], ["alice", "online"]);
    assert_eq!(next(&mut socket).await, ["alice", "offline", "expired"]);
    redis.call(&["SET", "presence:bob", "1", "EX", "60"]);
    assert_eq!(next(&mut socket).await[..2], ["bob", "online"]);
    redis.call(&["DEL", "presence:bob"]);
    assert_eq!(next(&mut socket).await, ["bob", "offline", "deleted"]);
    assert_eq!(scans(&redis), before, "no poll");
    // The next holder finds the changes that came while nobody tracked.
    redis.call(&["SET", "presence:carol", "1", "EX", "60"]);
    assert_eq!(next(&mut socket).await[..2], ["carol", "online"]);
    first.kill();
    redis.call(&["SET", "presence:dave", "1", "EX", "60"]);
    redis.call(&["DEL", "presence:carol"]);
    let mut told =
        [next(&mut socket).await, next(&mut socket).await].map(|told| format!("{} {}", told[0], told[1]));
    told.sort();
    assert_eq!(told, ["carol offline", "dave online"]);
    second.until_lease("held").await;
    assert_eq!(trackers(&redis), 1);
    redis.call(&["DEL", "presence:dave"]);
    assert_eq!(next(&mut socket).await, ["dave", "offline", "deleted"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_tracking_is_polled_and_logged() {
    let redis = Redis::with(&["--notify-keyspace-events", ""]);
    let daemon = Daemon::with(&["--redis", &with_user(&redis, FEWEST)]).await;
    assert_eq!(mode(&daemon).await, "sweeps");
    assert!(daemon.log().contains("client tracking is refused (NOPERM"), "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tracked_user_survives_the_move_of_the_slot() {
    let cluster = Cluster::start(2, 0).await;
    for node in &cluster.nodes {
        node.call(&["CONFIG", "SET", "notify-keyspace-events", ""]);
    }
    let daemon = Daemon::with(&["--redis", &cluster.url(), "--configure-redis", "false"]).await;
    assert_eq!(mode(&daemon).await, "tracking");
    let slot = cluster.slot("presence:alice");
    let from = usize::from(slot >= 8_192);
    let set = ["SET", "presence:alice", "1", "EX", "60"];
    cluster.nodes[from].call(&set);
    daemon.until_state("alice", "online").await;
    let (mut socket, _) = daemon.watch_all().await;
    cluster.move_slot(slot, from, 1 - from);
    cluster.nodes[1 - from].call(&set);
    // A user of the other node: everything before has been read.
    let other =
        (0..).map(|i| format!("presence:u{i}")).find(|key| usize::from(cluster.slot(key) >= 8_192) == from);
    cluster.nodes[from].call(&["SET", &other.expect("a key"), "1", "EX", "60"]);
    let told = next(&mut socket).await;
    assert_eq!((told[0].starts_with('u'), told[1].as_str()), (true, "online"), "{told:?}");
    cluster.nodes[1 - from].call(&["DEL", "presence:alice"]);
    assert_eq!(next(&mut socket).await[..2], ["alice", "offline"]);
}
