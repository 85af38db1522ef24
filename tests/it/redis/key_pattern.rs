//! `--key-pattern`: keys that other programs already write, at every command and in every call.

use crate::cli::usage::{Ran, ended, keybeat};
use crate::common::cluster::Cluster;
use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::socket::Socket;
use crate::common::tokens::{Issuer, call_as, try_socket};
use crate::common::until;
use serde_json::{Value, json};

const ONLINE: &str = "user:<user>:online";
const COLON: &str = "presence:<user>[:<session>]";
const REQUIRED: &str = "presence:<user>:<session>";

async fn start(redis: &Redis, pattern: &str) -> Daemon {
    Daemon::with(&["--redis", &redis.url(), "--key-pattern", pattern]).await
}

async fn run(redis: &Redis, pattern: &str, args: &[&str]) -> Ran {
    ended(keybeat(&[args, &["--redis", &redis.url(), "--key-pattern", pattern]].concat())).await
}

/// The keys of the server without the daemon's own, sorted.
fn keys(redis: &Redis) -> Vec<String> {
    let keys = redis.call(&["KEYS", "*"]).list();
    let mut keys: Vec<String> = keys.iter().map(|key| key.as_text().to_owned()).collect();
    keys.retain(|key| ![":#", "{#"].iter().any(|own| key.contains(own)));
    keys.sort();
    keys
}

async fn online(daemon: &Daemon) -> Vec<(String, u64)> {
    let users = daemon.get("/v1/users").await["users"].as_array().expect("a list").clone();
    let user = |user: &Value| {
        (user["user"].as_str().expect("a name").to_owned(), user["sessions"].as_u64().expect("a number"))
    };
    let mut users: Vec<_> = users.iter().map(user).collect();
    users.sort();
    users
}

/// Neighbours of the keys of `user:<user>:online`, which are no users.
fn neighbours(redis: &Redis) {
    redis.call(&["SADD", "user:alice:friends", "bob"]);
    redis.call(&["SET", "user:alice:count", "7", "EX", "60"]);
    redis.call(&["SET", "user:alice", "{}", "EX", "60"]);
    redis.call(&["SADD", "presence:online", "alice"]);
    redis.call(&["SET", "user:alice:online:since", "1", "EX", "60"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_other_programs_are_followed() {
    let redis = Redis::start();
    neighbours(&redis);
    redis.call(&["SET", "user:zoe:online", "true", "EX", "600"]);
    let daemon = start(&redis, ONLINE).await;
    let (mut socket, users) = daemon.watch_all().await;
    assert_eq!(users.iter().map(|user| &user["user"]).collect::<Vec<_>>(), [&json!("zoe")]);
    neighbours(&redis);
    redis.call(&["SET", "user:a:b:online", "1", "PX", "300"]);
    let seen = socket.transitions().await;
    assert_eq!((&seen[0]["user"], &seen[0]["state"]), (&json!("a:b"), &json!("online")));
    let seen = socket.transitions().await;
    assert_eq!((&seen[0]["user"], &seen[0]["reason"]), (&json!("a:b"), &json!("expired")));
    redis.call(&["DEL", "user:zoe:online"]);
    let seen = socket.transitions().await;
    assert_eq!((&seen[0]["user"], &seen[0]["reason"]), (&json!("zoe"), &json!("deleted")));
    let metrics = daemon.get("/metrics").await;
    assert!(
        metrics.as_str().expect("text").contains("keybeat_invalid_keys_total 0"),
        "neighbours are not looked at"
    );
    let own = redis.call(&["KEYS", "*canary*"]).list();
    assert!(!own.is_empty() && own.iter().all(|key| key.as_text().starts_with("user:#canary:")), "{own:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_write_keys_of_the_pattern() {
    let redis = Redis::start();
    for (pattern, written) in [
        (ONLINE, ["user:alice:online", "user:bob:online"]),
        ("{<user>}:presence[:<session>]", ["{alice}:presence", "{bob}:presence:tab"]),
    ] {
        let daemon = start(&redis, pattern).await;
        let session = if pattern == ONLINE { json!(null) } else { json!("tab") };
        assert_eq!(daemon.call("PUT", "/v1/users/alice/heartbeat", None).await.0, 204);
        let bob = json!({"users": [{"user": "bob", "session": session}]});
        assert_eq!(daemon.call("POST", "/v1/heartbeats", Some(bob)).await.0, 204);
        assert_eq!(keys(&redis), written, "{pattern}");
        daemon.until_state("alice", "online").await;
        daemon.until_state("bob", "online").await;
        for user in ["alice", "bob"] {
            assert_eq!(daemon.call("DELETE", &format!("/v1/users/{user}"), None).await.0, 204);
        }
        daemon.until_state("bob", "offline").await;
        assert_eq!(keys(&redis), [""; 0], "{pattern}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_sessions_all_sockets_share_the_key() {
    let redis = Redis::start();
    let daemon = start(&redis, ONLINE).await;
    let refused = |(status, body): (u16, Value)| {
        (status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    let session = (400, "invalid_session".to_owned());
    for (method, path, body) in [
        ("PUT", "/v1/users/alice/heartbeat", Some(json!({"session": "tab"}))),
        ("PUT", "/v1/users/alice/heartbeat?session=tab", None),
        ("POST", "/v1/heartbeats", Some(json!({"users": [{"user": "alice", "session": "tab"}]}))),
        ("DELETE", "/v1/users/alice?session=tab", None),
    ] {
        assert_eq!(refused(daemon.call(method, path, body).await), session, "{method} {path}");
    }
    let refusal = try_socket(&daemon, "?user=alice&session=tab", &[]).await.err();
    assert_eq!(refusal, Some(session));
    let first = daemon.socket("?user=alice").await;
    let second = daemon.socket("?user=alice").await;
    until("the key is there", async || (keys(&redis) == ["user:alice:online"]).then_some(())).await;
    let alice = daemon.until_state("alice", "online").await;
    assert_eq!(alice["sessions"], 1);
    drop_normally(first).await;
    // The daemon has handled the close once it reports one socket less.
    until("one socket is left", async || (daemon.get("/v1/stats").await["sockets"] == 1).then_some(())).await;
    assert_eq!(keys(&redis), ["user:alice:online"], "the other socket keeps it");
    drop_normally(second).await;
    daemon.until_state("alice", "offline").await;
}

async fn drop_normally(mut socket: Socket) {
    socket.ws.close(None).await.expect("it is open");
    while socket.next_if_open().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn required_sessions_are_generated_for_sockets_only() {
    let redis = Redis::start();
    let daemon = start(&redis, REQUIRED).await;
    for (path, body) in
        [("/v1/users/alice/heartbeat", json!({})), ("/v1/users/alice/heartbeat", json!({"ttl_ms": 5000}))]
    {
        let (status, body) = daemon.call("PUT", path, Some(body)).await;
        assert_eq!((status, &body["error"]["code"]), (400, &json!("invalid_session")), "{body}");
    }
    let mixed = json!({"users": ["alice", {"user": "bob", "session": "tab"}]});
    let (status, body) = daemon.call("POST", "/v1/heartbeats", Some(mixed)).await;
    assert_eq!((status, &body["refused"][0]["code"]), (200, &json!("invalid_session")), "{body}");
    assert_eq!(keys(&redis), ["presence:bob:tab"]);
    let mut socket = daemon.socket("?user=alice").await;
    daemon.until_state("alice", "online").await;
    assert!(keys(&redis)[0].starts_with("presence:alice:ws-"), "{:?}", keys(&redis));
    socket.send(json!({"type": "heartbeat", "user": "carol", "id": 5})).await;
    let answer = socket.next().await;
    let answer = if answer["type"] == "status" { socket.next().await } else { answer };
    assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!("invalid_session")), "{answer}");
    redis.call(&["SET", "presence:alice:phone", "1", "EX", "60"]);
    until("two sessions", async || (online(&daemon).await[0].1 == 2).then_some(())).await;
    assert_eq!(daemon.call("DELETE", "/v1/users/alice", None).await.0, 204);
    daemon.until_state("alice", "offline").await;
    assert_eq!(keys(&redis), ["presence:bob:tab"], "all sessions are deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_does_not_read_back_is_invalid_in_every_call() {
    let redis = Redis::start();
    let daemon = start(&redis, COLON).await;
    let users = Some(json!({"users": ["a:b"]}));
    for (method, path, body) in [
        ("PUT", "/v1/users/a:b/heartbeat", None),
        ("PUT", "/v1/users/a%3Ab/heartbeat", Some(json!({"session": "tab"}))),
        ("POST", "/v1/heartbeats", users.clone()),
        ("DELETE", "/v1/users/a:b", None),
        ("GET", "/v1/users/a:b", None),
        ("GET", "/v1/events?users=a:b", None),
    ] {
        let (status, answer) = daemon.call(method, path, body).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (400, &json!("invalid_user")),
            "{method} {path}: {answer}"
        );
    }
    let (_, answer) = daemon.call("POST", "/v1/users/query", users).await;
    assert_eq!(answer["users"][0]["error"]["code"], "invalid_user", "{answer}");
    let refusal = try_socket(&daemon, "?user=a:b", &[]).await.err();
    assert_eq!(refusal, Some((400, "invalid_user".into())));
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "users": ["a:b", "bob"], "id": 1})).await;
    let snapshot = socket.next().await;
    let snapshot = if snapshot["type"] == "status" { socket.next().await } else { snapshot };
    assert_eq!(snapshot["refused"][0]["code"], "invalid_user", "{snapshot}");
    socket.send(json!({"type": "heartbeat", "user": "a:b", "id": 2})).await;
    assert_eq!(socket.next().await["code"], "invalid_user");
    assert_eq!(keys(&redis), [""; 0], "nothing was written");
    redis.call(&["SET", "presence:a:b", "1", "EX", "60"]);
    daemon.until_state("a", "online").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_speaks_for_names_of_the_pattern_only() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let secret = issuer.secret_file();
    let daemon =
        Daemon::with(&["--redis", &redis.url(), "--key-pattern", COLON, "--jwt-secret", &secret]).await;
    let token = issuer.token("a:b", &["bob"]);
    let answer = call_as(&daemon, &token, "PUT", "/v1/users/a:b/heartbeat", None).await;
    assert_eq!((answer.status, answer.code()), (400, "invalid_user"));
    let bearer = format!("Bearer {token}");
    let refusal = try_socket(&daemon, "", &[("authorization", &bearer)]).await.err();
    assert_eq!(refusal, Some((400, "invalid_user".into())));
    let alice = issuer.token("alice", &[]);
    let beat = json!({"session": "tab"});
    let answer = call_as(&daemon, &alice, "PUT", "/v1/users/alice/heartbeat", Some(beat)).await;
    assert_eq!(answer.status, 204);
    assert_eq!(keys(&redis), ["presence:alice:tab"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_on_redis_use_the_pattern() {
    let redis = Redis::start();
    neighbours(&redis);
    let ran = run(&redis, ONLINE, &["beat", "alice", "bob"]).await;
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
    let found = run(&redis, ONLINE, &["ls", "--json"]).await.out;
    assert_eq!(found.lines().count(), 2, "{found}");
    let found = run(&redis, ONLINE, &["ls", "a*", "--json"]).await.out;
    let alice: Value = serde_json::from_str(&found).expect("one line");
    assert_eq!((&alice["user"], &alice["session"]), (&json!("alice"), &json!(null)));
    let ran = run(&redis, ONLINE, &["get", "alice", "bob", "zoe"]).await;
    let states: Vec<&str> = ran.out.lines().collect();
    assert_eq!(
        (ran.code, &states[..]),
        (Some(3), &["alice: online", "bob: online", "zoe: offline"][..]),
        "{ran:?}"
    );
    let ran = run(&redis, ONLINE, &["doctor"]).await;
    assert!(!ran.out.contains("not strings"), "the neighbours are not presence keys: {}", ran.out);
    let ran = run(&redis, "user:<user>:friends", &["doctor"]).await;
    assert!(ran.out.contains("user:alice:friends"), "doctor reads keys of the pattern: {}", ran.out);
    for (args, code) in [
        (&["beat", "alice#tab"][..], 2),
        (&["beat", "a:online"], 2),
        (&["get", "a:online"], 2),
        (&["watch", "a:online"], 2),
        (&["get", "alice", "a:online"], 1),
    ] {
        let ran = run(&redis, ONLINE, args).await;
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert!(ran.err.contains("--key-pattern"), "{args:?}: {ran:?}");
    }
    redis.call(&["SET", "{carol}:presence:tab", "1", "EX", "60"]);
    redis.call(&["SET", "{dora}:presence", "1", "EX", "60"]);
    let tagged = "{<user>}:presence[:<session>]";
    let ran = run(&redis, tagged, &["get", "carol", "dora"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let found = run(&redis, tagged, &["ls", "*#*", "--json"]).await.out;
    assert!(found.lines().count() == 1 && found.contains("\"session\":\"tab\""), "{found}");
    let ran = run(&redis, "presence:<user>:<session>", &["beat", "erin#tab"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ran = run(&redis, "presence:<user>:<session>", &["get", "erin"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_to_keys_of_the_pattern_are_enough() {
    let redis = Redis::start();
    let rights =
        "&__keyevent@* +subscribe +publish +ping +hello +client|setname +info +select +set +del +pttl +scan";
    let user = |keys: &str| {
        let words = ["ACL", "SETUSER", "keybeat", "reset", "on", ">secret"];
        redis.call(&words.into_iter().chain(keys.split(' ')).chain(rights.split(' ')).collect::<Vec<_>>());
        format!("redis://keybeat:secret@127.0.0.1:{}", redis.port)
    };
    let ran = ended(keybeat(&["doctor", "--redis", &user("~presence:*"), "--key-pattern", ONLINE])).await;
    let keys = "'~user:*:online' '~user:#*'";
    assert!(ran.code == Some(1) && ran.out.contains(keys), "{ran:?}");
    let daemon = Daemon::with(&["--redis", &user(&keys.replace('\'', "")), "--key-pattern", ONLINE]).await;
    assert_eq!(daemon.call("PUT", "/v1/users/alice/heartbeat", None).await.0, 204);
    daemon.until_state("alice", "online").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_the_keys_of_a_user_in_one_slot() {
    let cluster = Cluster::start(3, 0).await;
    let daemon =
        Daemon::with(&["--redis", &cluster.url(), "--key-pattern", "{<user>}:presence[:<session>]"]).await;
    let (mut socket, _) = daemon.watch_all().await;
    for user in ["alice", "bob", "carol", "dora", "erin", "frank"] {
        assert_eq!(daemon.call("PUT", &format!("/v1/users/{user}/heartbeat"), None).await.0, 204);
        let seen = socket.transitions().await;
        assert_eq!((&seen[0]["user"], &seen[0]["state"]), (&json!(user), &json!("online")));
        let tab = json!({"session": "tab"});
        assert_eq!(daemon.call("PUT", &format!("/v1/users/{user}/heartbeat"), Some(tab)).await.0, 204);
        let [key, tab] = ["", ":tab"].map(|session| format!("{{{user}}}:presence{session}"));
        assert_eq!(cluster.slot(&key), cluster.slot(&tab));
        assert_eq!(daemon.call("DELETE", &format!("/v1/users/{user}"), None).await.0, 204);
        assert_eq!(socket.transitions().await[0]["reason"], "deleted", "both keys were deleted");
    }
    assert_eq!(daemon.get("/v1/stats").await["gaps"], json!({}));
}

#[tokio::test]
async fn patterns_that_cannot_be_used_are_wrong_usage() {
    for (args, hint) in [
        (&["--key-pattern", "presence:"][..], "<user> is missing"),
        (&["--key-pattern", "p:<user>:<user>"], "twice"),
        (&["--key-pattern", "<user>:online"], "nothing is before <user>"),
        (&["--key-pattern", "p:<user><session>"], "nothing is between <user> and <session>"),
        (&["--key-pattern", "p:<user>[<session>]"], "nothing is between <user> and <session>"),
        (&["--key-pattern", "p:<user>", "--prefix", "q:"], "use only one of them"),
    ] {
        for command in [
            &["serve"][..],
            &["demo"],
            &["ls"],
            &["doctor"],
            &["watch"],
            &["top"],
            &["beat", "x"],
            &["get", "x"],
        ] {
            let ran = ended(keybeat(&[command, args].concat())).await;
            assert_eq!(ran.code, Some(2), "{command:?} {args:?}: {ran:?}");
            assert!(ran.err.contains(hint) && ran.err.contains("--key-pattern"), "{args:?}: {ran:?}");
        }
    }
}

#[tokio::test]
async fn an_argument_beats_the_variable_of_the_other_setting() {
    let redis = Redis::start();
    redis.call(&["SET", "user:alice:online", "1", "EX", "60"]);
    redis.call(&["SET", "presence:bob", "1", "EX", "60"]);
    let ls = async |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = keybeat(&[&["ls", "--json", "--redis", &redis.url()], args].concat());
        command.envs(variables.iter().copied());
        ended(command).await
    };
    let (prefix, pattern) = (("KEYBEAT_PREFIX", "presence:"), ("KEYBEAT_KEY_PATTERN", ONLINE));
    for (args, variables, user) in [
        (&[][..], &[pattern][..], "alice"),
        (&["--key-pattern", ONLINE], &[prefix], "alice"),
        (&["--prefix", "presence:"], &[pattern], "bob"),
    ] {
        let ran = ls(args, variables).await;
        let found = ran.out.lines().count();
        assert!(found == 1 && ran.out.contains(user), "{args:?} {variables:?}: {ran:?}");
    }
    assert_eq!(ls(&[], &[prefix, pattern]).await.code, Some(2), "both are variables");
}
