//! `--last-seen` as clients see it: the same time at every daemon, also after a restart, and the list of those who were online.

use crate::cli::usage::{ended, keybeat};
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, signal};
use crate::common::socket::Socket;
use crate::common::tokens::{Issuer, call_as};
use crate::common::{now_ms, until};
use crate::redis::last_seen::{BUCKETS, bucket, daemon, leave, metric, pair, until_remembered};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

async fn watch(daemon: &Daemon, users: &[&str]) -> (Socket, Vec<Value>) {
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "users": users, "id": 1})).await;
    let snapshot = socket.snapshot().await;
    (socket, snapshot)
}

/// The first message of this type of an event stream.
async fn streamed(daemon: &Daemon, query: &str, kind: &str) -> Value {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut answer = http.get(daemon.url(&format!("/v1/events?{query}"))).send().await.expect("an answer");
    let mut text = String::new();
    loop {
        let chunk = answer.chunk().await.expect("the stream goes on").expect("it has no end");
        text.push_str(&String::from_utf8_lossy(&chunk));
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let data =
                line.trim().strip_prefix("data: ").and_then(|data| serde_json::from_str::<Value>(data).ok());
            if let Some(message) = data.filter(|message| message["type"] == kind) {
                return message;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_daemons_know_last_seen() {
    let redis = Redis::start();
    let [holder, other] = pair(&redis).await;
    let alice = leave(&redis, "alice", &[&holder, &other]).await;
    redis.call(&["SADD", "presence-group:team", "alice", "zoe"]);
    let servers = [redis];
    assert_eq!(until_remembered(&servers, "alice").await, alice);
    assert!(holder.stop().0.success() && other.stop().0.success());
    let [redis] = servers;
    let expected = json!({"user": "alice", "state": "offline", "last_seen_ms": alice});
    let never = json!({"user": "zoe", "state": "offline", "last_seen_ms": null});
    let fresh = daemon(&redis, &[]).await;
    fresh.until_lease("held").await;
    for daemon in [&fresh, &daemon(&redis, &["--hold", "watched"]).await] {
        assert_eq!(daemon.get("/v1/users/alice").await, expected);
        let body = Some(json!({"users": ["zoe", "a#b", "alice"]}));
        let (_, answer) = daemon.call("POST", "/v1/users/query", body).await;
        assert_eq!([&answer["users"][0], &answer["users"][2]], [&never, &expected]);
        let (_socket, snapshot) = watch(daemon, &["alice", "zoe"]).await;
        assert_eq!(snapshot, [expected.clone(), never.clone()]);
        let snapshot = streamed(daemon, "users=alice,zoe", "snapshot").await;
        assert_eq!(snapshot["users"], json!([expected, never]));
        assert_eq!(daemon.get("/v1/groups/team").await["users"], json!([expected, never]));
        let url = daemon.url("");
        let printed = ended(keybeat(&["get", "alice", "--json", "--url", &url])).await;
        assert_eq!(serde_json::from_str::<Value>(&printed.out).expect("JSON"), expected);
        assert_eq!(metric(daemon, "unread_total").await, 0);
    }
    // A group's new member, on a socket and on a stream.
    let mut socket = fresh.socket("").await;
    socket.send(json!({"type": "watch", "groups": ["late"]})).await;
    assert_eq!(socket.next().await["type"], "snapshot");
    let stream = streamed(&fresh, "groups=late", "members");
    let add = async {
        until("both watch", async || {
            let stats = fresh.get("/v1/stats").await;
            let text = fresh.get("/metrics").await;
            (stats["watchers"] == 1 && text.as_str()?.contains("keybeat_event_streams 1")).then_some(())
        })
        .await;
        redis.call(&["SADD", "presence-group:late", "alice"]);
    };
    let (streamed, ()) = tokio::join!(stream, add);
    let told = socket.next().await;
    assert_eq!((&told["joined"], &streamed["joined"]), (&json!([expected]), &json!([expected])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_setting_nothing_is_kept() {
    let redis = Redis::start();
    let plain = Daemon::start(&redis).await;
    leave(&redis, "alice", &[&plain]).await;
    let (status, body) = plain.call("GET", "/v1/users?state=offline&seen_after_ms=0", None).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("no_last_seen")), "{body}");
    drop(plain);
    assert_eq!(redis.presence_keys(), [""; 0]);
    assert_eq!(redis.call(&["KEYS", "*seen*"]).list(), []);
    assert_eq!(Daemon::start(&redis).await.get("/v1/users/alice").await["last_seen_ms"], Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_older_than_the_setting_is_null() {
    let redis = Redis::start();
    let (now, mut client) = (now_ms(), redis.client());
    // In each bucket, since a test does not know which one is the user's.
    for number in 0..BUCKETS {
        client.call(&["ZADD", &bucket(number), &(now - 50_000).to_string(), "young"]);
        client.call(&["ZADD", &bucket(number), &(now - 70_000).to_string(), "old"]);
    }
    let url = redis.url();
    // Another daemon that remembers for longer removes nothing.
    let _holder = daemon(&redis, &[]).await;
    _holder.until_lease("held").await;
    let minute = Daemon::with(&["--redis", &url, "--last-seen", "1m"]).await;
    assert_eq!(minute.get("/v1/users/young").await["last_seen_ms"], now - 50_000);
    assert_eq!(minute.get("/v1/users/old").await["last_seen_ms"], Value::Null);
}

/// All pages of the list, and how many they were.
async fn pages(daemon: &Daemon, query: &str, from: &str) -> (Vec<Value>, usize) {
    let (mut users, mut cursor, mut count) = (Vec::new(), format!("&cursor={from}"), 0);
    loop {
        let page = daemon.get(&format!("/v1/users?state=offline&{query}{cursor}")).await;
        users.extend(page["users"].as_array().expect("a list").iter().cloned());
        count += 1;
        let Some(next) = page["next_cursor"].as_str() else { return (users, count) };
        cursor = format!("&cursor={next}");
    }
}

fn names(users: &[Value]) -> Vec<&str> {
    users.iter().map(|user| user["user"].as_str().expect("a name")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_has_the_newest_first() {
    let redis = Redis::start();
    let daemon = daemon(&redis, &[]).await;
    let since = now_ms();
    let servers = [redis];
    let mut expected = Vec::new();
    for i in 0..30 {
        let user = format!("{}-{i}", if i % 3 == 0 { "team" } else { "u" });
        let seen = leave(&servers[0], &user, &[&daemon]).await;
        // Users of one millisecond have no order.
        until("the next millisecond", async || (now_ms() > seen).then_some(())).await;
        expected.insert(0, json!({"user": user, "state": "offline", "last_seen_ms": seen}));
    }
    let last = expected[0]["user"].as_str().expect("a name").to_owned();
    until_remembered(&servers, &last).await;
    // Those who are online are left out, and so is whoever was seen before.
    for user in ["u-7", "u-28"] {
        servers[0].call(&["SET", &format!("presence:{user}"), "1", "EX", "60"]);
        daemon.until_state(user, "online").await;
        expected.retain(|one| one["user"] != user);
    }
    for limit in [1, 7, 28, 1_000] {
        let (users, count) = pages(&daemon, &format!("seen_after_ms={since}&limit={limit}"), "").await;
        assert_eq!(users, expected, "pages of {limit}");
        assert!(count <= 28 / limit + 1, "{count} pages of {limit}");
    }
    let team: Vec<&str> = names(&expected).into_iter().filter(|user| user.starts_with("team-")).collect();
    let (users, _) = pages(&daemon, "seen_after_ms=0&limit=4&prefix=team-", "").await;
    assert_eq!(names(&users), team);
    let middle = expected[10]["last_seen_ms"].as_u64().expect("a time");
    let (users, _) = pages(&daemon, &format!("seen_after_ms={middle}&limit=3"), "").await;
    assert_eq!(users, expected[..=10], "the time itself is within");
    // A user who leaves while somebody reads the pages changes no later page.
    let first = daemon.get(&format!("/v1/users?state=offline&seen_after_ms={since}&limit=5")).await;
    leave(&servers[0], "u-1", &[&daemon]).await;
    let next = first["next_cursor"].as_str().expect("a cursor");
    let (rest, _) = pages(&daemon, &format!("seen_after_ms={since}&limit=5"), next).await;
    let unchanged: Vec<Value> = expected[5..].iter().filter(|one| one["user"] != "u-1").cloned().collect();
    assert_eq!(rest.iter().filter(|one| one["user"] != "u-1").cloned().collect::<Vec<_>>(), unchanged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_online_end_a_page_early() {
    let redis = Redis::start();
    let (now, mut client) = (now_ms(), redis.client());
    let daemon = daemon(&redis, &[]).await;
    // 3,000 users whose last end is remembered are online again; one is offline, and was seen before all of them.
    let set =
        |i: usize| vec!["SET".to_owned(), format!("presence:u{i}"), "1".into(), "EX".into(), "60".into()];
    client.pipeline(&(0..3_000).map(set).collect::<Vec<_>>());
    daemon.until_state("u2999", "online").await;
    let remember = |i: usize| {
        vec!["ZADD".to_owned(), bucket(i % BUCKETS), (now - i as u64).to_string(), format!("u{i}")]
    };
    client.pipeline(&(0..3_000).map(remember).collect::<Vec<_>>());
    client.call(&["ZADD", &bucket(3), &(now - 9_000).to_string(), "off"]);
    let page = daemon.get("/v1/users?state=offline&seen_after_ms=0&limit=10").await;
    assert_eq!(page["users"], json!([]), "one page looks at 1,040 users");
    assert!(page["next_cursor"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_lists_are_refused() {
    let redis = Redis::start();
    let kept = daemon(&redis, &[]).await;
    for (query, word) in [
        ("state=offline", "seen_after_ms"),
        ("state=offline&seen_after_ms=yesterday", "yesterday"),
        ("state=offline&seen_after_ms=-1", "-1"),
        ("state=offline&seen_after_ms=0&cursor=0-0%23", "0-0#"),
        ("state=offline&seen_after_ms=0&limit=0", "limit"),
        ("state=online&seen_after_ms=0", "state=offline"),
        ("seen_after_ms=0", "state=offline"),
    ] {
        let (status, body) = kept.call("GET", &format!("/v1/users?{query}"), None).await;
        assert_eq!((status, &body["error"]["code"]), (400, &json!("invalid_request")), "{query}: {body}");
        assert!(body["error"]["message"].as_str().expect("a text").contains(word), "{query}: {body}");
    }
    let chooser = daemon(&redis, &["--hold", "watched"]).await;
    let (_, body) = chooser.call("GET", "/v1/users?state=offline&seen_after_ms=0", None).await;
    assert_eq!(body["error"]["code"], "not_held");
    let issuer = Issuer::new();
    let file = issuer.write("service", "reader:read:0123456789abcdef\nwriter:write:fedcba9876543210\n");
    let guarded = daemon(&redis, &["--jwt-secret", &issuer.secret_file(), "--service-token", &file]).await;
    for (token, status) in [
        (issuer.token("alice", &["bob"]), 403),
        (issuer.token("alice", &["*"]), 200),
        ("0123456789abcdef".into(), 200),
        ("fedcba9876543210".into(), 403),
    ] {
        let answer = call_as(&guarded, &token, "GET", "/v1/users?state=offline&seen_after_ms=0", None).await;
        assert_eq!(answer.status, status, "{:?}", answer.body);
    }
    let ran = ended(keybeat(&["serve", "--check", "--redis", &redis.url(), "--last-seen", "59s"])).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("1m") && ran.err.contains("59s"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_redis_delays_no_snapshot_for_long() {
    let redis = Redis::start();
    let first = daemon(&redis, &[]).await;
    let alice = leave(&redis, "alice", &[&first]).await;
    let servers = [redis];
    until_remembered(&servers, "alice").await;
    let second = daemon(&servers[0], &[]).await;
    let mut socket = second.socket("").await;
    signal(servers[0].pid(), "STOP");
    let began = Instant::now();
    socket.send(json!({"type": "watch", "users": ["alice"], "id": 1})).await;
    let snapshot = loop {
        let message = socket.next().await;
        if message["type"] == "snapshot" {
            break message;
        }
    };
    assert!(began.elapsed() < Duration::from_secs(2), "after {:?}", began.elapsed());
    assert_eq!(snapshot["users"][0]["last_seen_ms"], Value::Null);
    assert_eq!(metric(&second, "unread_total").await, 1);
    signal(servers[0].pid(), "CONT");
    second.ready().await;
    let (_socket, snapshot) = watch(&second, &["alice"]).await;
    assert_eq!(snapshot[0]["last_seen_ms"], alice);
}
