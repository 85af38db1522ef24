//! Several daemons at one server: one of them listens to renewals and asks at deadlines, for all.

use crate::common::cluster::Cluster;
use crate::common::daemon::Daemon;
use crate::common::proxy::Proxy;
use crate::common::redis::{Redis, fill, signal};
use crate::common::{now_ms, until, within};
use serde_json::json;
use std::time::Duration;

/// The TTL of a user whose heartbeats have ended.
const TTL_MS: u64 = 1_500;

/// A server that deletes a key that has run out only when somebody asks for it.
fn lazy_redis() -> Redis {
    let redis = Redis::with(&["--enable-debug-command", "yes"]);
    assert_eq!(redis.call(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).as_text(), "OK");
    redis
}

async fn lease(daemon: &Daemon) -> String {
    let stats = daemon.get("/v1/stats").await;
    assert_eq!(stats["redis"]["lease"], stats["redis"]["servers"][0]["lease"]);
    stats["redis"]["lease"].as_str().expect("a word").to_owned()
}

async fn two(redis: &Redis, args: &[&str]) -> [Daemon; 2] {
    let url = redis.url();
    let args: Vec<&str> = ["--redis", &url].into_iter().chain(args.iter().copied()).collect();
    let first = Daemon::with(&args).await;
    first.until_lease("held").await;
    let second = Daemon::with(&args).await;
    second.until_lease("other").await;
    [first, second]
}

/// A user comes online, falls silent and is seen offline at each daemon, although the server announces nothing by itself.
async fn silent_user_is_noticed(redis: &Redis, user: &str, daemons: &[&Daemon]) {
    redis.call(&["SET", &format!("presence:{user}"), "1", "PX", &TTL_MS.to_string()]);
    for daemon in daemons {
        daemon.until_state(user, "online").await;
    }
    for daemon in daemons {
        daemon.until_state(user, "offline").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_daemon_listens_for_all() {
    let redis = lazy_redis();
    let [holder, other] = two(&redis, &[]).await;
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    for daemon in [&holder, &other] {
        daemon.until_state("alice", "online").await;
    }
    let events = async |daemon: &Daemon| daemon.get("/v1/stats").await["events"].as_u64().expect("a number");
    let before = [events(&holder).await, events(&other).await];
    for _ in 0..500 {
        redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    }
    // Everything before this mark has arrived.
    for daemon in [&holder, &other] {
        assert_eq!(daemon.call("DELETE", "/v1/users/nobody", None).await.0, 204);
    }
    let more = [events(&holder).await - before[0], events(&other).await - before[1]];
    assert!(more[0] >= 500 && more[1] < 100, "{more:?} messages for 500 heartbeats");
    silent_user_is_noticed(&redis, "bob", &[&holder, &other]).await;
    redis.call(&["DEL", "presence:alice"]);
    for daemon in [&holder, &other] {
        daemon.until_state("alice", "offline").await;
        let stats = daemon.get("/v1/stats").await;
        assert_eq!(stats["gaps"], json!({}), "a lease is no gap");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_holder_is_replaced() {
    let redis = lazy_redis();
    let [holder, other] = two(&redis, &[]).await;
    redis.call(&["SET", "presence:alice", "1", "PX", "4000"]);
    other.until_state("alice", "online").await;
    signal(holder.pid(), "KILL");
    other.until_lease("held").await;
    other.until_state("alice", "offline").await;
    silent_user_is_noticed(&redis, "bob", &[&other]).await;
    assert_eq!(other.get("/v1/stats").await["gaps"], json!({}), "a takeover is no gap");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_holder_is_replaced_at_once() {
    let redis = lazy_redis();
    let [holder, other] = two(&redis, &["--drain", "10m"]).await;
    signal(holder.pid(), "TERM");
    other.until_lease("held").await;
    silent_user_is_noticed(&redis, "bob", &[&other, &holder]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_holder_follows_when_it_runs_again() {
    let redis = lazy_redis();
    let [holder, other] = two(&redis, &[]).await;
    signal(holder.pid(), "STOP");
    other.until_lease("held").await;
    silent_user_is_noticed(&redis, "bob", &[&other]).await;
    signal(holder.pid(), "CONT");
    holder.until_lease("other").await;
    silent_user_is_noticed(&redis, "carol", &[&other, &holder]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn falsified_lease_does_no_harm() {
    let redis = lazy_redis();
    let [holder, other] = two(&redis, &[]).await;
    let keys = redis.call(&["KEYS", "presence:#lease:*"]);
    let key = keys.list()[0].as_text().to_owned();
    redis.call(&["DEL", &key]);
    silent_user_is_noticed(&redis, "bob", &[&holder, &other]).await;
    assert_eq!((lease(&holder).await, lease(&other).await), ("held".into(), "other".into()));
    // Nobody renews this lease, and it never ends.
    redis.call(&["SET", &key, "somebody else"]);
    holder.until_lease("other").await;
    until("one of them seizes it", async || {
        let words = [lease(&holder).await, lease(&other).await];
        words.contains(&"held".into()).then_some(())
    })
    .await;
    silent_user_is_noticed(&redis, "carol", &[&holder, &other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_that_may_not_lead_says_that_nobody_does() {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--lease", "false"]).await;
    until("it says so", async || {
        let (status, why) = daemon.call("GET", "/readyz", None).await;
        (status == 503 && why.as_str()?.contains("no daemon holds its lease")).then_some(())
    })
    .await;
    let leader = Daemon::with(&["--redis", &redis.url()]).await;
    leader.until_lease("held").await;
    until("it is ready", async || (daemon.call("GET", "/readyz", None).await.0 == 200).then_some(())).await;
    assert_eq!(lease(&daemon).await, "other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ttl_that_another_daemon_learns_is_known_to_all() {
    let redis = lazy_redis();
    let daemons = two(&redis, &[]).await;
    let mut watchers = Vec::new();
    for daemon in &daemons {
        watchers.push(daemon.watch_all().await.0);
    }
    let sent = now_ms();
    redis.call(&["SET", "presence:alice", "1", "PX", "3000"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let last = now_ms();
    redis.call(&["SET", "presence:alice", "1", "PX", "3000"]);
    for socket in &mut watchers {
        let came = socket.transitions().await;
        assert_eq!(came[0]["state"], "online");
        let gone = socket.transitions().await;
        let seen = gone[0]["last_seen_ms"].as_u64().expect("a time");
        assert!((sent..last + 10_000).contains(&seen), "{seen} is not between {sent} and {last}");
        assert!(seen + 500 > last, "{seen} is before the last heartbeat, {last}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_the_lease_each_daemon_listens_for_itself() {
    let redis = lazy_redis();
    redis.call(&["CONFIG", "SET", "notify-keyspace-events", "E$gxen"]);
    for rights in
        [&["-getex"][..], &["resetchannels", "&__keyevent@0__:[^k]*", "&__keyevent@0__:keybeat-fence"]]
    {
        let user = ["ACL", "SETUSER", "few", "reset", "on", ">secret", "~presence:*", "&*", "+@all"];
        let user: Vec<&str> = user.iter().chain(rights).copied().collect();
        assert_eq!(redis.call(&user).as_text(), "OK");
        let url = format!("redis://few:secret@127.0.0.1:{}", redis.port);
        let daemons = [Daemon::with(&["--redis", &url]).await, Daemon::with(&["--redis", &url]).await];
        for daemon in &daemons {
            daemon.until_lease("none").await;
            daemon.ready().await;
        }
        silent_user_is_noticed(&redis, "bob", &[&daemons[0], &daemons[1]]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_primary_of_a_cluster_has_a_lease() {
    let cluster = Cluster::start(3, 0).await;
    let url = cluster.url();
    let leases = async |daemon: &Daemon| {
        let stats = daemon.get("/v1/stats").await;
        let servers = stats["redis"]["servers"].as_array().expect("a list").clone();
        servers.iter().map(|server| server["lease"].as_str().expect("a word").to_owned()).collect::<Vec<_>>()
    };
    let until_all = async |daemon: &Daemon, word: &str| {
        until(&format!("all leases are {word}"), async || (leases(daemon).await == [word; 3]).then_some(()))
            .await;
    };
    let holder = Daemon::with(&["--redis", &url]).await;
    until_all(&holder, "held").await;
    let other = Daemon::with(&["--redis", &url]).await;
    until_all(&other, "other").await;
    signal(holder.pid(), "KILL");
    until_all(&other, "held").await;
    other.ready().await;
}

/// One daemon never hears that alice came, another one never that bobby left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn digest_finds_two_lost_messages() {
    let redis = Redis::start();
    // Most keys have this TTL, so the holder does not announce it for alice.
    fill(&redis, "presence:other-", 100);
    redis.call(&["SET", "presence:bobby", "1", "EX", "3600"]);
    let holder = Daemon::with(&["--redis", &redis.url()]).await;
    holder.until_lease("held").await;
    let lost = [
        ["__:new\r\n$14\r\npresence:alice", "__:new\r\n$14\r\npresence#alice"],
        ["__:del\r\n$14\r\npresence:bobby", "__:del\r\n$14\r\npresence#bobby"],
    ];
    let mut others = Vec::new();
    for text in lost {
        let proxy = Proxy::saying(redis.port, text).await;
        let daemon = Daemon::with(&["--redis", &format!("redis://127.0.0.1:{}", proxy.port)]).await;
        daemon.until_lease("other").await;
        others.push((daemon, proxy));
    }
    redis.call(&["SET", "presence:alice", "1", "EX", "3600"]);
    redis.call(&["DEL", "presence:bobby"]);
    redis.call(&["SET", "presence:carol", "1", "EX", "3600"]);
    let daemons = [&holder, &others[0].0, &others[1].0];
    for daemon in daemons {
        daemon.until_state("carol", "online").await;
    }
    let states = async |daemon: &Daemon| {
        let asked = json!({"users": ["alice", "bobby"]});
        let (_, users) = daemon.call("POST", "/v1/users/query", Some(asked)).await;
        [0, 1].map(|at: usize| users["users"][at]["state"].as_str().expect("a state").to_owned())
    };
    assert_eq!(states(&holder).await, ["online", "offline"]);
    assert_eq!(states(daemons[1]).await, ["offline", "offline"], "it missed the message");
    assert_eq!(states(daemons[2]).await, ["online", "online"], "it missed the message");
    for daemon in &daemons[1..] {
        within(Duration::from_secs(60), "the digest corrects it", async || {
            (states(daemon).await == ["online", "offline"]).then_some(())
        })
        .await;
        let (_, metrics) = daemon.call("GET", "/metrics", None).await;
        let polled = "keybeat_digests_total{cause=\"polled\"} 1";
        assert!(metrics.as_str().is_some_and(|text| text.contains(polled)), "{metrics}");
    }
}
