//! Statuses of users: any program sets them, every daemon reports them.

use crate::common::cluster::{Cluster, Writer};
use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::socket::Socket;
use crate::common::tokens::{Issuer, call_as};
use crate::common::until;
use serde_json::{Value, json};

async fn status(daemon: &Daemon, user: &str) -> Value {
    daemon.get(&format!("/v1/users/{user}")).await["status"].clone()
}

async fn until_status(daemon: &Daemon, user: &str, expected: Value) {
    until(&format!("{user} has the status {expected}"), async || {
        (status(daemon, user).await == expected).then_some(())
    })
    .await;
}

/// The statuses of the next message about them. Skips other messages.
async fn statuses(socket: &mut Socket) -> Vec<(String, Value)> {
    loop {
        let message = socket.next().await;
        assert_ne!(message["type"], "transitions", "{message}");
        if let Some(list) = message["statuses"].as_array() {
            return list
                .iter()
                .map(|one| (one["user"].as_str().expect("a user").to_owned(), one["status"].clone()))
                .collect();
        }
    }
}

async fn watching(daemon: &Daemon, users: &[&str]) -> (Socket, Vec<Value>) {
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "users": users, "id": 1})).await;
    let users = socket.snapshot().await;
    (socket, users)
}

async fn metric(daemon: &Daemon, name: &str) -> u64 {
    let (_, text) = daemon.call("GET", "/metrics", None).await;
    let text = text.as_str().expect("a text").to_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")).map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_reaches_watchers_of_two_daemons() {
    let redis = Redis::start();
    redis.call(&["SET", "presence-status:alice", r#"{"text":"here"}"#]);
    let (first, second) = (Daemon::start(&redis).await, Daemon::start(&redis).await);
    until_status(&first, "alice", json!({"text": "here"})).await;
    until_status(&second, "alice", json!({"text": "here"})).await;
    let (mut one, snapshot) = watching(&first, &["alice", "bob"]).await;
    assert_eq!((&snapshot[0]["status"], snapshot[1].get("status")), (&json!({"text": "here"}), None));
    let (mut two, _) = watching(&second, &["alice", "bob"]).await;
    let mut own = first.socket("?user=bob&beat=false").await;

    redis.call(&["SET", "presence-status:alice", "not JSON"]);
    let expected = vec![("alice".to_owned(), json!("not JSON"))];
    assert_eq!([statuses(&mut one).await, statuses(&mut two).await], [expected.clone(), expected]);

    let (code, body) = second.send("PUT", "/v1/users/bob/status", Some(r#" {"text": "away"} "#.into())).await;
    assert_eq!((code, body), (204, json!("")));
    let expected = vec![("bob".to_owned(), json!({"text": "away"}))];
    assert_eq!([statuses(&mut one).await, statuses(&mut two).await], [expected.clone(), expected]);

    let digits = r#"{"b":12345678901234567890123,"a":1.0}"#;
    assert_eq!(second.send("PUT", "/v1/users/carl/status", Some(digits.into())).await.0, 204);
    assert_eq!(redis.call(&["GET", "presence-status:carl"]).as_text(), digits, "as it was written");

    own.send(json!({"type": "set_status", "status": [1, 2]})).await;
    let expected = vec![("bob".to_owned(), json!([1, 2]))];
    assert_eq!([statuses(&mut one).await, statuses(&mut two).await], [expected.clone(), expected]);
    assert_eq!(redis.call(&["GET", "presence-status:bob"]).as_text(), "[1,2]");

    redis.call(&["SET", "presence-status:bob", ""]);
    let expected = vec![("bob".to_owned(), json!(""))];
    assert_eq!(
        [statuses(&mut one).await, statuses(&mut two).await],
        [expected.clone(), expected],
        "an empty text"
    );

    let removed = |user: &str| vec![(user.to_owned(), Value::Null)];
    own.send(json!({"type": "set_status", "status": null})).await;
    assert_eq!([statuses(&mut one).await, statuses(&mut two).await], [removed("bob"), removed("bob")]);
    assert_eq!(first.call("DELETE", "/v1/users/alice/status", None).await.0, 204);
    assert_eq!([statuses(&mut one).await, statuses(&mut two).await], [removed("alice"), removed("alice")]);
    assert_eq!(first.get("/v1/users/alice").await.get("status"), None);
}

#[tokio::test]
async fn status_ends_with_its_ttl() {
    // The server deletes a key that has run out only when somebody asks for it.
    let redis = Redis::with(&["--enable-debug-command", "yes"]);
    assert_eq!(redis.call(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).as_text(), "OK");
    let daemon = Daemon::start(&redis).await;
    let (mut socket, _) = watching(&daemon, &["alice"]).await;
    redis.call(&["SET", "presence-status:alice", "1", "PX", "300"]);
    assert_eq!(statuses(&mut socket).await, [("alice".to_owned(), json!(1))]);
    assert_eq!(statuses(&mut socket).await, [("alice".to_owned(), Value::Null)]);
    let (code, _) = daemon.send("PUT", "/v1/users/alice/status?ttl_ms=300", Some("2".into())).await;
    assert_eq!(code, 204);
    assert_eq!(statuses(&mut socket).await, [("alice".to_owned(), json!(2))]);
    assert_eq!(statuses(&mut socket).await, [("alice".to_owned(), Value::Null)]);
}

#[tokio::test]
async fn watch_of_everybody_has_all_statuses() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    redis.call(&["SET", "presence:on", "1", "EX", "60"]);
    daemon.until_state("on", "online").await;
    for user in ["on", "off"] {
        redis.call(&["SET", &format!("presence-status:{user}"), "1"]);
        until_status(&daemon, user, json!(1)).await;
    }
    let (mut socket, users) = daemon.watch_all().await;
    assert_eq!((users.len(), &users[0]["status"]), (1, &json!(1)));
    assert_eq!(
        statuses(&mut socket).await,
        [("off".to_owned(), json!(1))],
        "no snapshot names users who are offline"
    );
    redis.call(&["SET", "presence-status:on", "2"]);
    assert_eq!(statuses(&mut socket).await, [("on".to_owned(), json!(2))]);
    let listed = daemon.get("/v1/users?state=online").await;
    assert_eq!(listed["users"][0]["status"], json!(2));
    let (_, queried) = daemon.call("POST", "/v1/users/query", Some(json!({"users": ["off"]}))).await;
    assert_eq!(queried["users"][0]["status"], json!(1));
}

#[tokio::test]
async fn heartbeats_cause_no_status_reads() {
    let redis = Redis::start();
    redis.call(&["SET", "presence-status:alice", "1"]);
    let daemon = Daemon::start(&redis).await;
    until_status(&daemon, "alice", json!(1)).await;
    let before = metric(&daemon, "keybeat_directory_reads_total").await;
    for i in 0..200 {
        redis.call(&["SET", &format!("presence:u{}", i % 10), "1", "EX", "60"]);
    }
    daemon.until_state("u9", "online").await;
    redis.call(&["SET", "presence-status:bob", "2"]);
    until_status(&daemon, "bob", json!(2)).await;
    assert_eq!(metric(&daemon, "keybeat_directory_reads_total").await, before + 1);
    assert_eq!(metric(&daemon, "keybeat_statuses").await, 2);
}

#[tokio::test]
async fn lost_connection_loses_no_status() {
    let mut redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    for user in ["a", "b"] {
        redis.call(&["SET", &format!("presence-status:{user}"), "1"]);
        until_status(&daemon, user, json!(1)).await;
    }
    let (mut socket, _) = watching(&daemon, &["a", "b", "c"]).await;
    let changes = ["SET presence-status:a 2", "DEL presence-status:b", "SET presence-status:c 3"];
    let mut client = redis.client();
    let mut call = |line: &str| client.call(&line.split(' ').collect::<Vec<_>>());
    // The connection ends and the values change in one step, so that no report of the changes is sent.
    call("MULTI");
    call("CLIENT KILL TYPE pubsub");
    changes.iter().for_each(|change| drop(call(change)));
    call("EXEC");
    let mut changed = Vec::new();
    while changed.len() < 3 {
        changed.extend(statuses(&mut socket).await);
    }
    changed.sort_by(|one, other| one.0.cmp(&other.0));
    let expected = [("a", json!(2)), ("b", Value::Null), ("c", json!(3))];
    assert_eq!(changed, expected.map(|(user, status)| (user.to_owned(), status)));
    drop(redis.call(&["FLUSHALL"]));
    until_status(&daemon, "a", Value::Null).await;
    // Another server has other values.
    redis.call(&["SET", "presence-status:a", "4"]);
    until_status(&daemon, "a", json!(4)).await;
    redis.kill();
    redis.run();
    until_status(&daemon, "a", Value::Null).await;
}

#[tokio::test]
async fn unusable_statuses_are_counted() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    redis.call(&["SET", "presence-status:alice", "1"]);
    until_status(&daemon, "alice", json!(1)).await;
    redis.call(&["SET", "presence-status:alice", &"x".repeat(1025)]);
    redis.call(&["SET", "presence-status:a#b", "1"]);
    redis.call(&["RPUSH", "presence-status:list", "1"]);
    until_status(&daemon, "alice", Value::Null).await;
    for cause in ["long_status", "wrong_type", "invalid_name"] {
        until(cause, async || {
            let (_, text) = daemon.call("GET", "/metrics", None).await;
            let line = format!("keybeat_directory_faults_total{{cause=\"{cause}\"}} 1");
            text.as_str()?.contains(&line).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn server_that_refuses_tracking_switches_statuses_off() {
    let redis = Redis::start();
    redis.call(&["ACL", "SETUSER", "default", "-client|tracking"]);
    let daemon = Daemon::start(&redis).await;
    until("the refusal is logged", async || {
        daemon.log().contains("statuses and groups are off").then_some(())
    })
    .await;
    let (code, body) = daemon.send("PUT", "/v1/users/alice/status", Some("1".into())).await;
    assert_eq!((code, &body["error"]["code"]), (400, &json!("invalid_request")));
    assert!(body["error"]["message"].as_str().expect("a text").contains("NOPERM"), "{body}");
    let mut own = daemon.socket("?user=alice").await;
    own.send(json!({"type": "set_status", "status": 1, "id": 5})).await;
    let refused = own.next().await;
    assert_eq!((&refused["type"], &refused["id"]), (&json!("error"), &json!(5)));
    daemon.ready().await;
    assert_eq!(daemon.log().matches("statuses and groups are off").count(), 1);
}

#[tokio::test]
async fn empty_prefix_switches_statuses_off() {
    let redis = Redis::start();
    redis.call(&["SET", "presence-status:alice", "1"]);
    let daemon = Daemon::with(&["--redis", &redis.url(), "--status-prefix", "", "--group-prefix", ""]).await;
    let (code, body) = daemon.send("PUT", "/v1/users/alice/status", Some("1".into())).await;
    assert_eq!(code, 400);
    assert!(body["error"]["message"].as_str().expect("a text").contains("--status-prefix"), "{body}");
    assert_eq!(status(&daemon, "alice").await, Value::Null);
    assert!(!redis.call(&["CLIENT", "LIST"]).as_text().contains("keybeat-directory"));
}

#[tokio::test]
async fn status_is_checked_and_needs_the_right_token() {
    let (redis, issuer) = (Redis::start(), Issuer::new());
    let service = issuer.write("service", "reader:read:0123456789abcdef\nwriter:write:fedcba9876543210\n");
    let secret = issuer.secret_file();
    let daemon =
        Daemon::with(&["--redis", &redis.url(), "--jwt-secret", &secret, "--service-token", &service]).await;
    let alice = issuer.token("alice", &["*"]);
    let put = async |token: &str, path: &str, body: Value| {
        let answer = call_as(&daemon, token, "PUT", path, Some(body)).await;
        (answer.status, if answer.status == 204 { String::new() } else { answer.code().to_owned() })
    };
    let ok = (204, String::new());
    assert_eq!(put(&alice, "/v1/users/alice/status", json!("x".repeat(1022))).await, ok);
    assert_eq!(
        put(&alice, "/v1/users/alice/status", json!("x".repeat(1023))).await,
        (413, "too_large".into())
    );
    assert_eq!(put(&alice, "/v1/users/bob/status", json!(1)).await, (403, "forbidden".into()));
    assert_eq!(put("0123456789abcdef", "/v1/users/bob/status", json!(1)).await, (403, "forbidden".into()));
    assert_eq!(put("fedcba9876543210", "/v1/users/bob/status", json!(1)).await, ok);
    for (path, code) in [
        ("/v1/users/alice/status?ttl_ms=1", "invalid_ttl"),
        ("/v1/users/alice/status?ttl_ms=x", "invalid_request"),
        ("/v1/users/alice/status?ttl=5000", "invalid_request"),
        ("/v1/users/a%23b/status", "invalid_user"),
    ] {
        assert_eq!(put("fedcba9876543210", path, json!(1)).await, (400, code.into()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_of_a_cluster_are_followed() {
    let cluster = Cluster::start(3, 0).await;
    let users: Vec<String> = (0..12).map(|i| format!("user{i}")).collect();
    let mut writer = Writer::new(cluster.ports());
    let mut call = |words: &[&str]| {
        assert!(writer.send(&[words.iter().map(|word| (*word).to_owned()).collect()]), "{words:?}");
    };
    users[..6].iter().for_each(|user| call(&["SET", &format!("presence-status:{user}"), "1"]));
    let daemons =
        [Daemon::with(&["--redis", &cluster.url()]).await, Daemon::with(&["--redis", &cluster.url()]).await];
    users[6..].iter().for_each(|user| call(&["SET", &format!("presence-status:{user}"), "1", "PX", "60000"]));
    for daemon in &daemons {
        for user in &users {
            until_status(daemon, user, json!(1)).await;
        }
    }
    let (code, _) = daemons[0].send("PUT", "/v1/users/user3/status", Some("2".into())).await;
    assert_eq!(code, 204);
    until_status(&daemons[1], "user3", json!(2)).await;
    call(&["DEL", "presence-status:user7"]);
    until_status(&daemons[1], "user7", Value::Null).await;
}
