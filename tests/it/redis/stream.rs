//! The stream of transitions: one entry for each, whatever happens to daemons and servers.

use crate::common::cluster::{Cluster, Writer};
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, Reply, signal};
use crate::common::stream::{Reader, STREAM};
use crate::common::until;
use serde_json::Value;
use std::time::Duration;

/// Where the SETs of users online are.
const BUCKETS: &str = "{events}#online:*";

async fn start(redis: &Redis) -> Daemon {
    Daemon::with(&["--redis", &redis.url(), "--stream", STREAM]).await
}

async fn stats(daemon: &Daemon) -> Value {
    daemon.get("/v1/stats").await["stream"].clone()
}

async fn until_writer(daemon: &Daemon) {
    until("the daemon writes the stream", async || {
        let stats = stats(daemon).await;
        (stats["role"] == "writer" && stats["lag"] == 0).then_some(())
    })
    .await;
}

/// Two daemons; the first one writes.
async fn two(redis: &Redis) -> [Daemon; 2] {
    let first = start(redis).await;
    until_writer(&first).await;
    let second = start(redis).await;
    // It may be ready before it knows who writes.
    until("the second stands by", async || (stats(&second).await["role"] == "standby").then_some(())).await;
    [first, second]
}

fn come(redis: &Redis, user: &str) {
    redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "600"]);
}

fn go(redis: &Redis, user: &str) {
    redis.call(&["DEL", &format!("presence:{user}")]);
}

/// Users come and go at each daemon, and the stream follows.
async fn follows(redis: &Redis, reader: &mut Reader, user: &str, online: &[&str]) {
    come(redis, user);
    reader.until_online(&[online, &[user]].concat(), |command| redis.call(command)).await;
    go(redis, user);
    reader.until_online(online, |command| redis.call(command)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_transition_is_written_once() {
    let redis = Redis::start();
    let [first, second] = two(&redis).await;
    let mut reader = Reader::default();
    redis.call(&["SET", "presence:alice", "1", "PX", "1000"]);
    reader.until_online(&["alice"], |command| redis.call(command)).await;
    reader.until_online(&[], |command| redis.call(command)).await;
    come(&redis, "bob#a");
    come(&redis, "bob#b");
    reader.until_online(&["bob"], |command| redis.call(command)).await;
    go(&redis, "bob#a");
    go(&redis, "bob#b");
    reader.until_online(&[], |command| redis.call(command)).await;
    assert_eq!(reader.short(), ["+alice heartbeat", "-alice expired", "+bob heartbeat", "-bob deleted"]);
    let names = |at: usize| -> Vec<&str> {
        reader.entries[at].fields.iter().map(|(name, _)| name.as_str()).collect()
    };
    assert_eq!(names(0), ["user", "state", "at_ms", "since_ms", "reason"]);
    assert_eq!(names(1), ["user", "state", "at_ms", "last_seen_ms", "reason"]);
    let ms = |at: usize, name: &str| -> u64 {
        reader.entries[at].field(name).expect("a field").parse().expect("milliseconds")
    };
    assert!((995..1_100).contains(&(ms(1, "at_ms") - ms(1, "last_seen_ms"))), "{:?}", reader.entries);
    let first = stats(&first).await;
    assert_eq!(
        (&first["written"], &first["dropped"], &first["last_error"]),
        (&4.into(), &0.into(), &Value::Null)
    );
    assert_eq!(stats(&second).await["written"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_writer_is_replaced() {
    let redis = Redis::start();
    let [first, second] = two(&redis).await;
    let mut reader = Reader::default();
    come(&redis, "alice");
    come(&redis, "bob");
    reader.until_online(&["alice", "bob"], |command| redis.call(command)).await;
    first.kill();
    go(&redis, "alice");
    come(&redis, "carol");
    reader.until_online(&["bob", "carol"], |command| redis.call(command)).await;
    until_writer(&second).await;
    follows(&redis, &mut reader, "dave", &["bob", "carol"]).await;
    assert_eq!(reader.entries.len(), 6, "{:?}", reader.short());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_writer_writes_nothing_late() {
    let redis = Redis::start();
    let [first, second] = two(&redis).await;
    let mut reader = Reader::default();
    come(&redis, "alice");
    reader.until_online(&["alice"], |command| redis.call(command)).await;
    signal(first.pid(), "STOP");
    go(&redis, "alice");
    come(&redis, "bob");
    until_writer(&second).await;
    reader.until_online(&["bob"], |command| redis.call(command)).await;
    come(&redis, "alice");
    reader.until_online(&["alice", "bob"], |command| redis.call(command)).await;
    signal(first.pid(), "CONT");
    first.ready().await;
    first.until_state("bob", "online").await;
    until("the first daemon stands by", async || (stats(&first).await["role"] == "standby").then_some(()))
        .await;
    follows(&redis, &mut reader, "carol", &["alice", "bob"]).await;
    assert_eq!(reader.entries.len(), 6, "{:?}", reader.short());
    assert_eq!(stats(&first).await["written"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_writer_hands_over_at_once() {
    let redis = Redis::start();
    let [first, second] = two(&redis).await;
    let mut reader = Reader::default();
    come(&redis, "alice");
    first.until_state("alice", "online").await;
    go(&redis, "alice");
    first.until_state("alice", "offline").await;
    first.stop();
    assert_eq!(redis.call(&["EXISTS", "{events}#writer"]).number(), 0, "the lease was given up");
    reader.read(|command| redis.call(command));
    assert_eq!(reader.short(), ["+alice heartbeat", "-alice deleted"], "the last transitions were written");
    until_writer(&second).await;
    follows(&redis, &mut reader, "bob", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_without_a_daemon_is_reconciled() {
    let redis = Redis::start();
    let daemon = start(&redis).await;
    let mut reader = Reader::default();
    for user in ["alice", "bob"] {
        come(&redis, user);
    }
    reader.until_online(&["alice", "bob"], |command| redis.call(command)).await;
    daemon.kill();
    go(&redis, "alice");
    come(&redis, "carol");
    let daemon = start(&redis).await;
    reader.until_online(&["bob", "carol"], |command| redis.call(command)).await;
    let mut last = reader.short().split_off(2);
    last.sort();
    assert_eq!(last, ["+carol reconciled", "-alice reconciled"]);
    follows(&redis, &mut reader, "dave", &["bob", "carol"]).await;
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_bucket_adds_no_entry() {
    let redis = Redis::start();
    let daemons = two(&redis).await;
    let mut reader = Reader::default();
    let users = ["alice", "bob", "carol"];
    users.iter().for_each(|user| come(&redis, user));
    reader.until_online(&users, |command| redis.call(command)).await;
    let lose = || {
        for bucket in redis.call(&["KEYS", BUCKETS]).list() {
            redis.call(&["DEL", bucket.as_text()]);
        }
    };
    lose();
    // The writer knows what was there.
    go(&redis, "alice");
    reader.until_online(&["bob", "carol"], |command| redis.call(command)).await;
    assert_eq!(reader.entries.len(), 4, "{:?}", reader.short());
    // Another one reads the stream.
    let [first, second] = daemons;
    lose();
    first.kill();
    until_writer(&second).await;
    follows(&redis, &mut reader, "alice", &["bob", "carol"]).await;
    assert_eq!(reader.entries.len(), 6, "{:?}", reader.short());
    assert_eq!(redis.call(&["KEYS", BUCKETS]).list().len(), 64, "all buckets are whole again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trimmed_stream_goes_on() {
    let redis = Redis::start();
    let _daemons = two(&redis).await;
    let mut reader = Reader::default();
    come(&redis, "alice");
    reader.until_online(&["alice"], |command| redis.call(command)).await;
    redis.call(&["XTRIM", STREAM, "MAXLEN", "0"]);
    follows(&redis, &mut reader, "bob", &["alice"]).await;
    go(&redis, "alice");
    reader.until_online(&[], |command| redis.call(command)).await;
    assert_eq!(reader.short()[3..], ["-alice deleted"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_keeps_about_its_length() {
    let redis = Redis::start();
    let _daemon =
        Daemon::with(&["--redis", &redis.url(), "--stream", STREAM, "--stream-maxlen", "100"]).await;
    let mut client = redis.client();
    for round in 0..5 {
        for i in 0..200 {
            client.call(&["SET", &format!("presence:u{round}-{i}"), "1", "EX", "600"]);
        }
    }
    until("all entries were added", async || {
        let info = redis.call(&["XINFO", "STREAM", STREAM]);
        let Reply::List(info) = info else { return None };
        let online: i64 = redis
            .call(&["KEYS", BUCKETS])
            .list()
            .iter()
            .map(|bucket| redis.call(&["SCARD", bucket.as_text()]).number() - 1)
            .sum();
        // Whole nodes of 100 entries are dropped.
        (online == 1_000 && info[1].number() <= 300).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_stream_begins_again() {
    let redis = Redis::start();
    let _daemons = two(&redis).await;
    let mut reader = Reader::default();
    for user in ["alice", "bob"] {
        come(&redis, user);
    }
    reader.until_online(&["alice", "bob"], |command| redis.call(command)).await;
    redis.call(&["DEL", STREAM]);
    reader.restart();
    reader.until_online(&["alice", "bob"], |command| redis.call(command)).await;
    follows(&redis, &mut reader, "carol", &["alice", "bob"]).await;
    drop(redis.call(&["FLUSHALL"]));
    reader.restart();
    // Both renew their keys in time, so both stay online.
    for user in ["alice", "bob"] {
        come(&redis, user);
    }
    reader.until_online(&["alice", "bob"], |command| redis.call(command)).await;
    follows(&redis, &mut reader, "carol", &["alice", "bob"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_of_redis_doubles_nothing() {
    for persistent in [true, false] {
        let more: &[&str] =
            if persistent { &["--appendonly", "yes", "--appendfsync", "always"] } else { &[] };
        let mut redis = Redis::with(more);
        let _daemons = two(&redis).await;
        let mut reader = Reader::default();
        for user in ["alice", "bob"] {
            come(&redis, user);
        }
        reader.until_online(&["alice", "bob"], |command| redis.call(command)).await;
        redis.kill();
        redis.run();
        if !persistent {
            reader.restart();
        }
        for user in ["alice", "bob"] {
            come(&redis, user);
        }
        reader.until_online(&["alice", "bob"], |command| redis.call(command)).await;
        follows(&redis, &mut reader, "carol", &["alice", "bob"]).await;
        if persistent {
            assert_eq!(reader.entries.len(), 4, "{:?}", reader.short());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_of_another_type_delays_no_transition() {
    let redis = Redis::start();
    redis.call(&["SET", STREAM, "text"]);
    let daemon = start(&redis).await;
    let (mut socket, _) = daemon.watch_all().await;
    come(&redis, "alice");
    assert_eq!(socket.transitions().await[0]["user"], "alice");
    until("the error is named", async || {
        let stats = stats(&daemon).await;
        stats["last_error"].as_str()?.contains("WRONGTYPE").then_some(())
    })
    .await;
    assert!(daemon.log().contains("the stream could not be written"), "{}", daemon.log());
    redis.call(&["DEL", STREAM]);
    let mut reader = Reader::default();
    reader.until_online(&["alice"], |command| redis.call(command)).await;
    until("the error is over", async || (stats(&daemon).await["last_error"] == Value::Null).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_command_loses_no_entry() {
    let redis = Redis::start();
    let daemon = start(&redis).await;
    until_writer(&daemon).await;
    let mut reader = Reader::default();
    let mut online = Vec::new();
    let deny = |right: &str| redis.call(&["ACL", "SETUSER", "default", right]);
    for (user, right) in [("alice", "xadd"), ("bob", "sadd"), ("carol", "srem")] {
        deny(&format!("-{right}"));
        come(&redis, user);
        until("the refusal is named", async || stats(&daemon).await["last_error"].is_string().then_some(()))
            .await;
        deny(&format!("+{right}"));
        online.push(user);
        reader.until_online(&online, |command| redis.call(command)).await;
    }
    go(&redis, "alice");
    reader.until_online(&["bob", "carol"], |command| redis.call(command)).await;
    assert_eq!(reader.entries.len(), 4, "{:?}", reader.short());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_server_loses_no_entry() {
    let redis = Redis::start();
    let daemon = start(&redis).await;
    until_writer(&daemon).await;
    let mut reader = Reader::default();
    come(&redis, "alice");
    reader.until_online(&["alice"], |command| redis.call(command)).await;
    // Nothing is evicted. Deletions are still allowed, so alice goes; the entry needs memory.
    redis.call(&["CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1"]);
    go(&redis, "alice");
    until("the refusal is named", async || {
        let stats = stats(&daemon).await;
        stats["last_error"].as_str()?.contains("OOM").then_some(())
    })
    .await;
    redis.call(&["CONFIG", "SET", "maxmemory", "0"]);
    reader.until_online(&[], |command| redis.call(command)).await;
    come(&redis, "bob");
    reader.until_online(&["bob"], |command| redis.call(command)).await;
    assert_eq!(reader.short(), ["+alice heartbeat", "-alice deleted", "+bob heartbeat"]);
}

#[tokio::test]
async fn daemon_that_keeps_some_users_writes_nothing() {
    let redis = Redis::start();
    let args = ["--redis", &redis.url(), "--stream", STREAM, "--hold", "watched"];
    let daemon = Daemon::with(&args).await;
    assert_eq!(stats(&daemon).await, Value::Null);
    assert!(!redis.call(&["CLIENT", "LIST"]).as_text().contains("keybeat-stream"));
}

fn at_owner(cluster: &Cluster, command: &[&str]) -> Reply {
    for node in &cluster.nodes {
        let Some(mut client) = crate::common::redis::Client::connect_for(node.port, Duration::from_secs(1))
        else {
            continue;
        };
        match client.try_call(command) {
            Some(Reply::Error(_)) | None => {}
            Some(reply) => return reply,
        }
    }
    Reply::Nil
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_survives_the_failover_of_its_node() {
    let mut cluster = Cluster::start(3, 3).await;
    let args = ["--redis", &cluster.url(), "--stream", STREAM];
    let first = Daemon::with(&args).await;
    until_writer(&first).await;
    let second = Daemon::with(&args).await;
    let mut writer = Writer::new(cluster.ports());
    let mut set = |users: &[&str]| {
        let command =
            |user: &&str| ["SET", &format!("presence:{user}"), "1", "EX", "600"].map(str::to_owned).to_vec();
        writer.send(&users.iter().map(command).collect::<Vec<_>>())
    };
    let mut reader = Reader::default();
    let users = ["alice", "bob", "carol", "dave", "erin", "frank"];
    assert!(set(&users[..3]));
    reader.until_online(&users[..3], |command| at_owner(&cluster, command)).await;
    cluster.whole(3).await;
    let slot = cluster.slot(STREAM);
    let owner = usize::from(slot / 5_462);
    cluster.nodes[owner].kill();
    until("the replica is the primary", async || set(&users[..5]).then_some(())).await;
    reader.until_online(&users[..5], |command| at_owner(&cluster, command)).await;
    first.kill();
    // The writer may ask the node that is down for the owner of a key that it has not written before.
    until("every user is written", async || set(&users).then_some(())).await;
    reader.until_online(&users, |command| at_owner(&cluster, command)).await;
    until_writer(&second).await;
    assert_eq!(reader.entries.len(), users.len(), "{:?}", reader.short());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_slot_takes_the_stream_along() {
    let cluster = Cluster::start(2, 0).await;
    let args = ["--redis", &cluster.url(), "--stream", STREAM];
    let daemon = Daemon::with(&args).await;
    until_writer(&daemon).await;
    let mut writer = Writer::new(cluster.ports());
    let mut set = |user: &str| {
        let command = ["SET", &format!("presence:{user}"), "1", "EX", "600"].map(str::to_owned).to_vec();
        assert!(writer.send(&[command]), "{user}");
    };
    let mut reader = Reader::default();
    set("alice");
    reader.until_online(&["alice"], |command| at_owner(&cluster, command)).await;
    let slot = cluster.slot(STREAM);
    let owner = usize::from(slot / 8_192);
    cluster.move_slot(slot, owner, 1 - owner);
    set("bob");
    reader.until_online(&["alice", "bob"], |command| at_owner(&cluster, command)).await;
    assert_eq!(reader.entries.len(), 2, "{:?}", reader.short());
    drop(daemon);
}
