//! Servers that allow less than everything.

use crate::cli::usage::{ended, keybeat};
use crate::common::cluster::Cluster;
use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::until;
use serde_json::json;
use std::collections::BTreeSet;

/// The fewest rights that work. `+config|get +config|set` lets the daemon add what `notify-keyspace-events` lacks;
/// without a Sentinel or cluster nothing else is used.
pub(super) const FEWEST: &[&str] = &[
    "~presence:*",
    "&__keyevent@*",
    "+subscribe",
    "+publish",
    "+ping",
    "+hello",
    "+client|setname",
    "+info",
    "+select",
    "+set",
    "+del",
    "+pttl",
    "+scan",
];

pub(super) fn with_user(redis: &Redis, rights: &[&str]) -> String {
    let mut command = vec!["ACL", "SETUSER", "keybeat", "reset", "on", ">secret"];
    command.extend(rights);
    assert_eq!(redis.call(&command).as_text(), "OK");
    format!("redis://keybeat:secret@127.0.0.1:{}", redis.port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fewest_documented_rights_are_enough() {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &with_user(&redis, FEWEST)]).await;
    assert!(
        daemon.log().contains("cannot be read"),
        "CONFIG is forbidden, and that is said: {}",
        daemon.log()
    );
    assert!(!daemon.log().contains("secret"), "no secret in the log");
    let (mut socket, _) = daemon.watch_all().await;
    redis.call(&["SET", "presence:alice", "1", "PX", "300"]);
    assert_eq!(socket.transitions().await[0]["state"], "online");
    let gone = socket.transitions().await;
    assert_eq!((&gone[0]["state"], &gone[0]["reason"]), (&json!("offline"), &json!("expired")));
    let (status, _) = daemon.call("PUT", "/v1/users/bob/heartbeat", None).await;
    assert_eq!(status, 204);
    assert_eq!(socket.transitions().await[0]["user"], "bob");
    assert_eq!(daemon.call("DELETE", "/v1/users/bob", None).await.0, 204);
    assert_eq!(socket.transitions().await[0]["reason"], "deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_right_is_the_cause_in_readyz() {
    for (right, hint) in [
        ("+subscribe", "subscribe"),
        ("+publish", "publish"),
        ("&__keyevent@*", "keyevent"),
        ("+info", "INFO"),
    ] {
        let redis = Redis::start();
        let fewer: Vec<&str> = FEWEST.iter().copied().filter(|&other| other != right).collect();
        let daemon = Daemon::launch(&["--redis", &with_user(&redis, &fewer)]);
        let cause = crate::common::until(&format!("a cause that names {hint}"), async || {
            let cause = daemon.not_ready().await;
            cause.contains(hint).then_some(cause)
        })
        .await;
        assert!(!cause.contains("secret"), "{cause}");
    }
}

/// A server whose events cannot be changed has `classes` only: whoever comes, falls silent or leaves is still seen
/// so, once; and as soon as all is told, events are what tells.
async fn sweeps_find_what_is_not_told(classes: &str) {
    let redis = Redis::with(&["--notify-keyspace-events", classes]);
    let daemon = Daemon::with(&["--redis", &with_user(&redis, FEWEST), "--ttl", "20s"]).await;
    let stats = daemon.get("/v1/stats").await;
    assert_eq!((&stats["redis"]["mode"], &stats["redis"]["swept_servers"]), (&json!("sweeps"), &json!(1)));
    assert!(daemon.log().contains("with SCAN"), "{}", daemon.log());
    let (mut socket, _) = daemon.watch_all().await;
    redis.call(&["SET", "presence:alice", "1", "PX", "700"]);
    assert_eq!(socket.transitions().await[0]["state"], "online");
    let gone = socket.transitions().await;
    assert_eq!((&gone[0]["user"], &gone[0]["state"]), (&json!("alice"), &json!("offline")));
    redis.call(&["SET", "presence:bob", "1", "EX", "60"]);
    assert_eq!(socket.transitions().await[0]["user"], "bob");
    redis.call(&["DEL", "presence:bob"]);
    let gone = socket.transitions().await;
    assert_eq!((&gone[0]["user"], &gone[0]["state"]), (&json!("bob"), &json!("offline")));
    // Renewed by EXPIRE and SET for longer than two TTLs: nobody is told anything.
    for _ in 0..8 {
        redis.call(&["SET", "presence:carol", "1", "PX", "900"]);
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    redis.call(&["DEL", "presence:carol"]);
    let told = [socket.transitions().await, socket.transitions().await].concat();
    let states: Vec<_> = told.iter().map(|told| (&told["user"], &told["state"])).collect();
    assert_eq!(states, [(&json!("carol"), &json!("online")), (&json!("carol"), &json!("offline"))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_without_events_is_polled() {
    sweeps_find_what_is_not_told("").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_with_expired_events_only_is_polled() {
    sweeps_find_what_is_not_told("Ex").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_without_del_events_is_polled() {
    sweeps_find_what_is_not_told("E$x").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enabled_events_end_the_polling() {
    let redis = Redis::with(&["--notify-keyspace-events", ""]);
    let daemon = Daemon::with(&["--redis", &with_user(&redis, FEWEST)]).await;
    assert_eq!(daemon.get("/v1/stats").await["redis"]["mode"], "sweeps");
    redis.call(&["CONFIG", "SET", "notify-keyspace-events", "E$gxe"]);
    crate::common::until("events tell", async || {
        (daemon.get("/v1/stats").await["redis"]["mode"] == "events").then_some(())
    })
    .await;
    daemon.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classes_that_others_need_stay() {
    let redis = Redis::with(&["--notify-keyspace-events", "Kls"]);
    let _daemon = Daemon::start(&redis).await;
    let setting = redis.call(&["CONFIG", "GET", "notify-keyspace-events"]).list();
    for class in "KlsE$gxe".chars() {
        assert!(setting[1].as_text().contains(class), "{class} is missing in {setting:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_is_refused_and_primary_named() {
    let primary = Redis::start();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    let daemon = Daemon::launch(&["--redis", &replica.url()]);
    crate::common::until("the cause names the primary", async || {
        daemon.not_ready().await.contains(&format!("127.0.0.1:{}", primary.port)).then_some(())
    })
    .await;
}

/// A server that takes no writes takes no heartbeats either: its keys run out though their users are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_writes_grant_one_ttl() {
    for (setting, refusing, word) in [("maxmemory", "1", "OOM"), ("min-replicas-to-write", "1", "NOREPLICAS")]
    {
        let redis = Redis::start();
        let daemon = Daemon::start(&redis).await;
        let (mut socket, _) = daemon.watch_all().await;
        redis.call(&["SET", "presence:alice", "1", "EX", "3"]);
        assert_eq!(socket.transitions().await[0]["state"], "online");
        redis.call(&["CONFIG", "SET", setting, refusing]);
        let refused = format!("{:?}", redis.call(&["SET", "presence:alice", "1", "EX", "3"]));
        assert!(refused.contains(word), "{refused}");
        let cause = daemon.not_ready().await;
        until("the key has run out", async || redis.presence_keys().is_empty().then_some(())).await;
        redis.call(&["CONFIG", "SET", setting, "0"]);
        daemon.ready().await;
        redis.call(&["SET", "presence:alice", "1", "EX", "30"]);
        daemon.until_state("alice", "online").await;
        redis.call(&["DEL", "presence:alice"]);
        let told = socket.transitions().await;
        let said = (&told[0]["state"], &told[0]["reason"]);
        assert_eq!(said, (&json!("offline"), &json!("deleted")), "{word}: {told:?}; {cause}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_cluster_node_as_a_server_is_refused() {
    let cluster = Cluster::start(2, 0).await;
    let port = cluster.nodes[1].port;
    let daemon = Daemon::launch(&["--redis", &cluster.nodes[1].url()]);
    let wanted = format!("--redis redis-cluster://127.0.0.1:{port}");
    until("the cause names the URL", async || daemon.not_ready().await.contains(&wanted).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ipv6_address_is_followed() {
    let redis = Redis::start();
    assert_eq!(redis.call(&["CONFIG", "SET", "bind", "127.0.0.1 ::1"]).as_text(), "OK");
    let daemon = Daemon::with(&["--redis", &format!("redis://[::1]:{}", redis.port)]).await;
    assert_eq!(daemon.call("PUT", "/v1/users/alice/heartbeat", None).await.0, 204);
    daemon.until_state("alice", "online").await;
}

/// A metric without labels.
async fn metric(daemon: &Daemon, name: &str) -> u64 {
    let metrics = daemon.send("GET", "/metrics", None).await.1;
    let line = metrics.as_str().expect("a text").lines().find_map(|line| line.strip_prefix(name));
    line.expect("it is exported").trim().parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_every_command_count_at_once() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let (mut socket, _) = daemon.watch_all().await;
    let mut expected = BTreeSet::new();
    for command in [
        "INCR presence:incr",
        "INCRBYFLOAT presence:float 1",
        "APPEND presence:append x",
        "SETRANGE presence:setrange 0 on",
        "SETBIT presence:setbit 1 1",
        "PFADD presence:pfadd a",
        "HSET presence:hset a b",
        "LPUSH presence:lpush a",
        "SADD presence:sadd a",
        "ZADD presence:zadd 1 a",
        "XADD presence:xadd * a b",
        "MSET presence:mset 1",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        redis.call(&words);
        redis.call(&["PEXPIRE", words[1], "4000"]);
        expected.insert(words[1].trim_start_matches("presence:").to_owned());
    }
    for state in ["online", "offline"] {
        let mut seen = BTreeSet::new();
        while seen.len() < expected.len() {
            for transition in socket.transitions().await {
                assert_eq!(transition["state"], state, "{transition}");
                seen.insert(transition["user"].as_str().expect("a name").to_owned());
            }
        }
        assert_eq!(seen, expected, "{state}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_before_set_costs_one_question() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let (mut socket, _) = daemon.watch_all().await;
    let before = metric(&daemon, "keybeat_lookups_total ").await;
    let mut transitions = Vec::new();
    for user in 0..20 {
        redis.call(&["SET", &format!("presence:u{user}"), "1", "EX", "60"]);
        transitions.extend(socket.transitions().await);
    }
    assert_eq!(transitions.len(), 20, "{transitions:?}");
    until("each key's TTL was asked for", async || {
        (metric(&daemon, "keybeat_lookups_total ").await >= before + 20).then_some(())
    })
    .await;
    redis.call(&["SET", "presence:last", "1", "EX", "60"]);
    assert_eq!(socket.transitions().await[0]["user"], "last");
    assert!(metric(&daemon, "keybeat_lookups_total ").await <= before + 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_class_of_new_keys_is_no_gap() {
    let redis = Redis::with(&["--notify-keyspace-events", "E$gxe"]);
    let daemon = Daemon::with(&["--redis", &with_user(&redis, FEWEST)]).await;
    let stats = daemon.get("/v1/stats").await;
    assert_eq!((&stats["redis"]["mode"], &stats["gaps"]), (&json!("events"), &json!({})));
    assert_eq!(daemon.log().matches("lacks n,").count(), 1, "{}", daemon.log());
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    daemon.until_state("alice", "online").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_class_is_a_gap_and_is_repaired() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let events = || redis.call(&["CONFIG", "GET", "notify-keyspace-events"]).list().remove(1);
    for (round, without) in ["$", "g", "n", "x", "ge"].into_iter().enumerate() {
        redis.call(&["SET", "presence:alice", "1", "EX", "600"]);
        daemon.until_state("alice", "online").await;
        let rest: String = "E$gxen".chars().filter(|&class| !without.contains(class)).collect();
        redis.call(&["CONFIG", "SET", "notify-keyspace-events", &rest]);
        redis.call(&["DEL", "presence:alice"]);
        daemon.until_state("alice", "offline").await;
        until("the class is back", async || {
            "E$gxen".chars().all(|class| events().as_text().contains(class)).then_some(())
        })
        .await;
        daemon.ready().await;
        let gaps = daemon.get("/v1/stats").await["gaps"]["canary"].as_u64();
        assert!(gaps > Some(round as u64), "without {without}: {gaps:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_right_makes_the_daemon_unready() {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &with_user(&redis, FEWEST)]).await;
    for right in ["pttl", "publish", "del", "set"] {
        redis.call(&["ACL", "SETUSER", "keybeat", &format!("-{right}")]);
        until("the cause names the right", async || {
            let cause = daemon.not_ready().await;
            (cause.contains("NOPERM") && cause.contains(right)).then_some(())
        })
        .await;
        redis.call(&["ACL", "SETUSER", "keybeat", &format!("+{right}")]);
        daemon.ready().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enormous_names_are_skipped_and_counted() {
    let redis = Redis::start();
    let enormous = format!("presence:{}", "x".repeat(24_000_000));
    let mut client = redis.client();
    client.call(&["SET", &enormous, "1"]);
    for i in 0..1_200 {
        client.call(&["SET", &format!("presence:{i}{}", "y".repeat(40_000)), "1"]);
    }
    client.call(&["SET", "presence:alice", "1", "EX", "600"]);
    let daemon = Daemon::start(&redis).await;
    daemon.until_state("alice", "online").await;
    assert!(metric(&daemon, "keybeat_invalid_keys_total ").await >= 1_201);
    // The event of such a key is skipped, too.
    client.call(&["SET", &enormous, "2"]);
    client.call(&["SET", "presence:bob", "1", "EX", "600"]);
    daemon.until_state("bob", "online").await;
    assert_eq!(daemon.get("/v1/stats").await["gaps"], json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canary_of_a_longer_prefix_is_no_user() {
    let redis = Redis::start();
    let europe = Daemon::with(&["--redis", &redis.url(), "--prefix", "presence:eu:"]).await;
    let daemon = Daemon::start(&redis).await;
    let (mut socket, users) = daemon.watch_all().await;
    assert_eq!(users, [json!(null); 0]);
    let canary = redis.call(&["KEYS", "presence:eu:#canary:*"]).list().remove(0);
    let left = redis.call(&["PTTL", canary.as_text()]).number();
    assert!((1..=300_000).contains(&left), "{left}");
    let value = || redis.call(&["GET", canary.as_text()]).as_text().parse::<u64>().expect("a number");
    let before = value();
    until("the canary was renewed", async || (value() > before).then_some(())).await;
    redis.call(&["SET", "presence:eu:bob", "1", "EX", "60"]);
    let seen = socket.transitions().await;
    assert_eq!(seen[0]["user"], "eu:bob", "{seen:?}");
    assert_eq!(metric(&daemon, "keybeat_invalid_keys_total ").await, 0);
    europe.until_state("bob", "online").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beat_needs_only_the_right_to_set() {
    let redis = Redis::start();
    let url = with_user(&redis, &["~presence:*", "resetchannels", "+set"]);
    let ran = ended(keybeat(&["beat", "zoe", "--redis", &url])).await;
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
    assert_eq!(redis.presence_keys(), ["presence:zoe"]);
}

#[tokio::test]
async fn missing_right_is_logged_once() {
    let redis = Redis::start();
    for right in ["+pttl", "+scan", "+publish"] {
        let fewer: Vec<&str> = FEWEST.iter().copied().filter(|&other| other != right).collect();
        let daemon = Daemon::launch(&["--redis", &with_user(&redis, &fewer), "--log", "debug"]);
        // Each attempt ends with a line at debug.
        let attempts = || daemon.log().matches("the connection to Redis ended").count();
        until("five attempts have failed", async || (attempts() >= 5).then_some(())).await;
        let log = daemon.log();
        let is_loud = |line: &&str| !line.contains("DEBUG") && line.contains("NOPERM");
        let loud: Vec<&str> = log.lines().filter(is_loud).collect();
        assert!(loud.len() <= 3, "without {right}:\n{}", loud.join("\n"));
        assert!(loud.iter().any(|line| line.contains(&right[1..])), "without {right}: {log}");
        assert!(log.matches("subscribed").count() <= 2, "without {right}: {log}");
    }
}
