//! `--last-seen`: one daemon writes to Redis when users were last seen, and no time is lost.

use crate::common::cluster::Cluster;
use crate::common::daemon::Daemon;
use crate::common::redis::{Client, Redis, Reply, signal};
use crate::common::{now_ms, until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The sorted sets.
pub const BUCKETS: usize = 64;

pub fn bucket(number: usize) -> String {
    format!("presence:#seen:#:{number}")
}

/// The times of all users that these servers remember.
pub fn remembered(servers: &[Redis]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (redis, number) in servers.iter().flat_map(|redis| (0..BUCKETS).map(move |number| (redis, number))) {
        // A node of a cluster answers MOVED for the keys of others.
        let Reply::List(parts) = redis.call(&["ZRANGE", &bucket(number), "0", "-1", "WITHSCORES"]) else {
            continue;
        };
        for pair in parts.chunks_exact(2) {
            let time = pair[1].as_text().parse().expect("a number");
            let before = all.insert(pair[0].as_text().to_owned(), time);
            assert_eq!(before, None, "{pair:?} is in one bucket");
        }
    }
    all
}

pub async fn daemon(redis: &Redis, args: &[&str]) -> Daemon {
    Daemon::with(&[&["--redis", &redis.url(), "--last-seen", "30d"], args].concat()).await
}

/// The holder of the lease, and a daemon that follows.
pub async fn pair(redis: &Redis) -> [Daemon; 2] {
    let holder = daemon(redis, &[]).await;
    holder.until_lease("held").await;
    let other = daemon(redis, &[]).await;
    other.until_lease("other").await;
    [holder, other]
}

/// The user comes online at each daemon, is deleted and goes offline. Returns the last heartbeat as the first daemon knows it; others
/// may have received the event milliseconds later.
pub async fn leave(redis: &Redis, user: &str, daemons: &[&Daemon]) -> u64 {
    redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "60"]);
    for daemon in daemons {
        daemon.until_state(user, "online").await;
    }
    redis.call(&["DEL", &format!("presence:{user}")]);
    let mut seen = 0;
    for daemon in daemons.iter().rev() {
        seen = daemon.until_state(user, "offline").await["last_seen_ms"].as_u64().expect("a time");
    }
    seen
}

pub async fn until_remembered(servers: &[Redis], user: &str) -> u64 {
    until(&format!("Redis remembers {user}"), async || remembered(servers).get(user).copied()).await
}

pub async fn metric(daemon: &Daemon, name: &str) -> u64 {
    let (_, text) = daemon.call("GET", "/metrics", None).await;
    let text = text.as_str().expect("a text").to_owned();
    let name = format!("keybeat_last_seen_{name} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name).map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
}

/// A connection that receives every command of the server.
fn monitor(redis: &Redis) -> Client {
    let mut monitor = redis.client();
    assert_eq!(monitor.call(&["MONITOR"]).as_text(), "OK");
    monitor
}

/// How often each user was written since, as the server received it.
fn written(redis: &Redis, monitor: &mut Client) -> BTreeMap<String, usize> {
    redis.call(&["ECHO", "the-end"]);
    let mut users = BTreeMap::new();
    loop {
        let line = monitor.next_line().expect("the server goes on");
        if line.contains("the-end") {
            return users;
        }
        let words: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        if words[0].eq_ignore_ascii_case("ZADD") {
            assert_eq!(words[2], "GT", "{line}");
            words[3..].chunks_exact(2).for_each(|pair| *users.entry(pair[1].to_owned()).or_default() += 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_daemons_writes_once() {
    let redis = Redis::start();
    let [holder, other] = pair(&redis).await;
    let mut monitor = monitor(&redis);
    for user in 0..40 {
        redis.call(&["SET", &format!("presence:u{user}"), "1", "EX", "60"]);
    }
    for daemon in [&holder, &other] {
        daemon.until_state("u39", "online").await;
    }
    // Some of them go one by one, the others together.
    for user in 0..10 {
        redis.call(&["DEL", &format!("presence:u{user}")]);
        holder.until_state(&format!("u{user}"), "offline").await;
    }
    let keys: Vec<String> = (10..40).map(|user| format!("presence:u{user}")).collect();
    redis.call(&[&["DEL"], keys.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat());
    other.until_state("u39", "offline").await;
    let servers = [redis];
    until("all are remembered", async || (remembered(&servers).len() == 40).then_some(())).await;
    // Nothing announces that a second daemon does not write, so the test gives it time.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let counts = written(&servers[0], &mut monitor);
    assert_eq!((counts.len(), counts.values().all(|&count| count == 1)), (40, true), "{counts:?}");
    assert_eq!([metric(&holder, "written_total").await, metric(&other, "written_total").await], [40, 0]);
    for (user, time) in remembered(&servers) {
        assert_eq!(holder.get(&format!("/v1/users/{user}")).await["last_seen_ms"], time, "{user}");
    }
    assert_eq!(holder.get("/v1/stats").await["gaps"], json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newest_time_of_a_user_stays() {
    let redis = Redis::start();
    let holder = daemon(&redis, &[]).await;
    let first = leave(&redis, "alice", &[&holder]).await;
    let servers = [redis];
    assert_eq!(until_remembered(&servers, "alice").await, first);
    let second = leave(&servers[0], "alice", &[&holder]).await;
    assert!(second > first);
    until("the newer time counts", async || (remembered(&servers)["alice"] == second).then_some(())).await;
    // A daemon whose clock is ahead has written it.
    let ahead = now_ms() + 3_600_000;
    let number = (0..BUCKETS)
        .find(|number| !matches!(servers[0].call(&["ZSCORE", &bucket(*number), "alice"]), Reply::Nil));
    let key = bucket(number.expect("a bucket"));
    servers[0].call(&["ZADD", &key, &ahead.to_string(), "alice"]);
    leave(&servers[0], "alice", &[&holder]).await;
    until("the write is done", async || (metric(&holder, "written_total").await == 3).then_some(())).await;
    assert_eq!(remembered(&servers)["alice"], ahead);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_survive_the_holder_that_dies() {
    let redis = Redis::start();
    let [holder, other] = pair(&redis).await;
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    for daemon in [&holder, &other] {
        daemon.until_state("alice", "online").await;
    }
    signal(holder.pid(), "STOP");
    redis.call(&["DEL", "presence:alice"]);
    let seen = other.until_state("alice", "offline").await["last_seen_ms"].as_u64().expect("a time");
    holder.kill();
    let servers = [redis];
    assert_eq!(remembered(&servers), BTreeMap::new(), "the holder was frozen, and no other daemon writes");
    other.until_lease("held").await;
    assert_eq!(until_remembered(&servers, "alice").await, seen);
    let bob = leave(&servers[0], "bob", &[&other]).await;
    assert_eq!(until_remembered(&servers, "bob").await, bob);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_daemon_writes_before_it_stops() {
    let redis = Redis::start();
    let daemon = daemon(&redis, &[]).await;
    redis.call(&["ACL", "SETUSER", "default", "-zadd"]);
    let seen = leave(&redis, "alice", &[&daemon]).await;
    // The next attempt is more than a second away.
    until("attempts fail", async || (metric(&daemon, "failed_writes_total").await >= 4).then_some(())).await;
    redis.call(&["ACL", "SETUSER", "default", "+zadd"]);
    assert!(daemon.stop().0.success());
    assert_eq!(remembered(&[redis]).get("alice"), Some(&seen));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_writes_delay_no_transition() {
    for (refuse, allow) in [
        (&["ACL", "SETUSER", "default", "-zadd"][..], &["ACL", "SETUSER", "default", "+zadd"][..]),
        (&["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"]),
    ] {
        let redis = Redis::with(&["--maxmemory-policy", "noeviction"]);
        let daemon = daemon(&redis, &[]).await;
        for user in ["alice", "bob"] {
            redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "60"]);
            daemon.until_state(user, "online").await;
        }
        assert_eq!(redis.call(refuse).as_text(), "OK");
        let began = Instant::now();
        redis.call(&["DEL", "presence:alice"]);
        let alice = daemon.until_state("alice", "offline").await;
        assert!(began.elapsed() < Duration::from_secs(2), "{refuse:?}: after {:?}", began.elapsed());
        until("the write has failed", async || {
            (metric(&daemon, "failed_writes_total").await > 0).then_some(())
        })
        .await;
        assert_eq!(metric(&daemon, "waiting").await, 1, "{refuse:?}");
        let again = daemon.get("/v1/users/alice").await;
        assert_eq!(again["last_seen_ms"], alice["last_seen_ms"], "the daemon itself knows it");
        assert_eq!(redis.call(allow).as_text(), "OK");
        let servers = [redis];
        let seen = until_remembered(&servers, "alice").await;
        assert_eq!(json!(seen), alice["last_seen_ms"], "{refuse:?}");
        until("nothing waits", async || (metric(&daemon, "waiting").await == 0).then_some(())).await;
        let log = daemon.log();
        assert_eq!(log.matches("last seen cannot be written").count(), 1, "{log}");
        assert!(log.contains("last seen is written again"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_writes_are_done_afterwards() {
    let redis = Redis::start();
    let daemon = daemon(&redis, &[]).await;
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    daemon.until_state("alice", "online").await;
    // In one transaction, so that the pause precedes the daemon's write.
    let mut client = redis.client();
    for command in
        [&["MULTI"][..], &["DEL", "presence:alice"], &["CLIENT", "PAUSE", "1500", "WRITE"], &["EXEC"]]
    {
        client.call(command);
    }
    let seen = daemon.until_state("alice", "offline").await["last_seen_ms"].as_u64().expect("a time");
    assert_eq!(until_remembered(&[redis], "alice").await, seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_times_are_removed_in_batches() {
    let redis = Redis::start();
    let (now, old) = (now_ms(), now_ms() - 61_000);
    let mut client = redis.client();
    for number in 0..BUCKETS {
        let add = |user: String, time: u64| vec!["ZADD".to_owned(), bucket(number), time.to_string(), user];
        let many = if number < 2 { 1_200 } else { 3 };
        let mut commands: Vec<Vec<String>> =
            (0..many).map(|i| add(format!("o{number}-{i}"), old - i)).collect();
        commands.push(add(format!("new{number}"), now));
        client.pipeline(&commands);
    }
    let mut monitor = monitor(&redis);
    let url = redis.url();
    let daemon = Daemon::with(&["--redis", &url, "--last-seen", "1m"]).await;
    let servers = [redis];
    until("the old ones are removed", async || (remembered(&servers).len() == BUCKETS).then_some(())).await;
    assert!(remembered(&servers).keys().all(|user| user.starts_with("new")));
    let removed = 2 * 1_200 + (BUCKETS as u64 - 2) * 3;
    until("all are counted", async || (metric(&daemon, "removed_total").await == removed).then_some(()))
        .await;
    servers[0].call(&["ECHO", "the-end"]);
    let mut removals = 0;
    while let Some(line) = monitor.next_line().filter(|line| !line.contains("the-end")) {
        removals += usize::from(line.contains("ZREMRANGEBYSCORE"));
    }
    assert_eq!(removals, 2 * 3 + BUCKETS - 2, "500, 500 and 200 of each large bucket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_shares_the_times() {
    let cluster = Cluster::start(3, 0).await;
    let url = cluster.url();
    let args = ["--redis", &url, "--last-seen", "30d"];
    let (first, second) = (Daemon::with(&args).await, Daemon::with(&args).await);
    let leases = async |daemon: &Daemon, word: &str| {
        let stats = daemon.get("/v1/stats").await;
        let servers = stats["redis"]["servers"].as_array().expect("a list").clone();
        servers.iter().filter(|server| server["lease"] == word).count()
    };
    until("each lease is held", async || {
        let held = leases(&first, "held").await + leases(&second, "held").await;
        let followed = leases(&first, "other").await + leases(&second, "other").await;
        (held == 3 && followed == 3).then_some(())
    })
    .await;
    let mut monitors: Vec<Client> = cluster.nodes.iter().map(monitor).collect();
    let users: Vec<Value> = (0..90).map(|user| json!(format!("u{user}"))).collect();
    assert_eq!(first.call("POST", "/v1/heartbeats", Some(json!({ "users": users }))).await.0, 204);
    for daemon in [&first, &second] {
        daemon.until_state("u89", "online").await;
    }
    for user in 0..90 {
        assert_eq!(second.call("DELETE", &format!("/v1/users/u{user}"), None).await.0, 204);
    }
    until("all are remembered", async || (remembered(&cluster.nodes).len() == 90).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (node, monitor) in cluster.nodes.iter().zip(&mut monitors) {
        let here = written(node, monitor);
        assert!(here.len() > 10, "each node has some: {here:?}");
        here.into_iter().for_each(|(user, count)| *counts.entry(user).or_default() += count);
    }
    assert_eq!((counts.len(), counts.values().all(|&count| count == 1)), (90, true), "{counts:?}");
    drop((first, second));
    let fresh = Daemon::with(&args).await;
    let (_, answer) = fresh.call("POST", "/v1/users/query", Some(json!({ "users": users }))).await;
    let times = remembered(&cluster.nodes);
    for user in answer["users"].as_array().expect("a list") {
        assert_eq!(user["last_seen_ms"], times[user["user"].as_str().expect("a name")], "{user}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_bucket_delays_no_transition() {
    // The others are the majority, and go on without it.
    let cluster = Cluster::start(3, 0).await;
    for node in &cluster.nodes {
        node.call(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
    }
    let url = cluster.url();
    let daemon = Daemon::with(&["--redis", &url, "--last-seen", "30d"]).await;
    // A user whose key is on one node and whose bucket is on the other.
    let mut found = None;
    for i in 0.. {
        let user = format!("u{i}");
        if cluster.slot(&format!("presence:{user}")) >= 5_461 {
            continue;
        }
        assert_eq!(daemon.call("PUT", &format!("/v1/users/{user}/heartbeat"), None).await.0, 204);
        daemon.until_state(&user, "online").await;
        assert_eq!(daemon.call("DELETE", &format!("/v1/users/{user}"), None).await.0, 204);
        daemon.until_state(&user, "offline").await;
        let before = until_remembered(&cluster.nodes, &user).await;
        if remembered(&cluster.nodes[1..2]).contains_key(&user) {
            found = Some((user, before));
            break;
        }
    }
    let (user, before) = found.expect("one of two");
    let key = format!("presence:{user}");
    cluster.nodes[0].call(&["SET", &key, "1", "EX", "60"]);
    daemon.until_state(&user, "online").await;
    cluster.nodes[1].signal("STOP");
    daemon.not_ready().await;
    let began = Instant::now();
    cluster.nodes[0].call(&["DEL", &key]);
    let seen = daemon.until_state(&user, "offline").await["last_seen_ms"].as_u64().expect("a time");
    assert!(began.elapsed() < Duration::from_secs(5), "after {:?}", began.elapsed());
    assert!(seen > before);
    cluster.nodes[1].signal("CONT");
    until("the time is written", async || (remembered(&cluster.nodes)[&user] == seen).then_some(())).await;
}
