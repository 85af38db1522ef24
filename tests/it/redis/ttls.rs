//! TTLs that change, on a server that deletes nothing by itself: a daemon that does not ask in time notices nothing.

use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// An offline that takes longer than this was not noticed at the deadline, but at the end of a longer TTL.
const LATEST: Duration = Duration::from_secs(4);

/// A server that deletes a key that has run out only when somebody asks for it.
fn lazy_redis() -> Redis {
    let redis = Redis::with(&["--enable-debug-command", "yes"]);
    assert_eq!(redis.call(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).as_text(), "OK");
    redis
}

/// Sets keys, and waits after each until its event has arrived at the daemon.
async fn set(redis: &Redis, daemon: &Daemon, commands: &[&str]) {
    for command in commands {
        let words: Vec<&str> = command.split(' ').collect();
        assert_eq!(redis.call(&words).as_text(), "OK", "{command}");
        assert_eq!(daemon.call("DELETE", "/v1/users/nobody", None).await.0, 204);
    }
}

async fn until_metric(daemon: &Daemon, line: &str) {
    crate::common::until(line, async || daemon.get("/metrics").await.as_str()?.contains(line).then_some(()))
        .await;
}

async fn offline(daemon: &Daemon, user: &str, since: Instant) -> Value {
    let gone = daemon.until_state(user, "offline").await;
    assert!(since.elapsed() < LATEST, "{user} after {:?}", since.elapsed());
    gone
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ttl_of_a_program_that_varies_it_is_known_each_time() {
    let redis = lazy_redis();
    let daemon = Daemon::start(&redis).await;
    set(&redis, &daemon, &["SET presence:a 1 EX 600", "SET presence:a 1 PX 1500"]).await;
    offline(&daemon, "a", Instant::now()).await;
    // After an absence, and under the name of another session.
    for key in ["presence:a", "presence:a#tab"] {
        let renewals = [format!("SET {key} 1 EX 600"), format!("SET {key} 1 KEEPTTL")];
        let at = format!("SET {key} 1 PXAT {}", crate::common::now_ms() + 1_500);
        for _ in 0..70 {
            // More than the renewals of all keys that are checked after a surprise.
            set(&redis, &daemon, &["SET presence:other 1 EX 600"]).await;
        }
        set(&redis, &daemon, &[&renewals[0], &renewals[1], &renewals[0], &at]).await;
        offline(&daemon, "a", Instant::now()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ttl_that_a_daemon_writes_is_known_to_all_daemons() {
    let redis = lazy_redis();
    // The first one holds the lease.
    let (other, writer) = (Daemon::start(&redis).await, Daemon::start(&redis).await);
    writer.until_lease("other").await;
    for user in ["a", "b"] {
        let command = format!("SET presence:{user} 1 EX 600");
        // Learnt, and confirmed by the second question.
        set(&redis, &other, &[&command, &command, &command]).await;
    }
    until_metric(&other, "keybeat_lookups_total 4").await;
    let body = json!({"ttl_ms": 1500});
    assert_eq!(writer.call("PUT", "/v1/users/a/heartbeat", Some(body)).await.0, 204);
    let body = json!({"users": [{"user": "b", "ttl_ms": 1500}]});
    assert_eq!(writer.call("POST", "/v1/heartbeats", Some(body)).await.0, 204);
    let began = Instant::now();
    until_metric(&other, "keybeat_channel_messages_total{cause=\"received\"} 2").await;
    // The other daemon is alone now: nobody else's question makes Redis delete the keys.
    writer.kill();
    offline(&other, "a", began).await;
    offline(&other, "b", began).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_the_channel_a_daemon_knows_what_it_writes() {
    let redis = lazy_redis();
    redis.call(&["CONFIG", "SET", "notify-keyspace-events", "E$gxen"]);
    let mut rights =
        vec!["ACL", "SETUSER", "keybeat", "reset", "on", ">secret", "~presence:*", "+@all", "resetchannels"];
    let operations =
        "set new expired del evicted rename_from rename_to restore copy_to move_from move_to keybeat-fence";
    let channels: Vec<String> =
        operations.split(' ').map(|operation| format!("&__keyevent@0__:{operation}")).collect();
    rights.extend(channels.iter().map(String::as_str));
    assert_eq!(redis.call(&rights).as_text(), "OK");
    let url = format!("redis://keybeat:secret@127.0.0.1:{}", redis.port);
    let daemon = Daemon::with(&["--redis", &url]).await;
    set(&redis, &daemon, &["SET presence:a 1 EX 600"; 3]).await;
    until_metric(&daemon, "keybeat_lookups_total 2").await;
    let body = json!({"ttl_ms": 1500});
    assert_eq!(daemon.call("PUT", "/v1/users/a/heartbeat", Some(body)).await.0, 204);
    offline(&daemon, "a", Instant::now()).await;
    daemon.ready().await;
}
