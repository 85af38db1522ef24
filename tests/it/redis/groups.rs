//! Groups: a SET of users in Redis, its members and their transitions, at every daemon.

use crate::common::cluster::{Cluster, Writer};
use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::socket::Socket;
use crate::common::tokens::{Issuer, call_as, socket_as};
use crate::common::until;
use serde_json::{Value, json};

/// The next message of this type. Skips `status` messages.
async fn next(socket: &mut Socket, kind: &str) -> Value {
    loop {
        let message = socket.next().await;
        if message["type"] == kind {
            return message;
        }
        assert_eq!(message["type"], "status", "{message}");
    }
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array()
        .expect("a list")
        .iter()
        .map(|one| one["user"].as_str().or(one.as_str()).expect("a user"))
        .collect()
}

async fn watching(daemon: &Daemon, group: &str) -> (Socket, Value) {
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "groups": [group], "id": 4})).await;
    let snapshot = next(&mut socket, "snapshot").await;
    assert_eq!(
        (&snapshot["id"], &snapshot["group"], &snapshot["more"]),
        (&json!(4), &json!(group), &json!(false))
    );
    (socket, snapshot)
}

async fn metric(daemon: &Daemon, name: &str) -> u64 {
    let (_, text) = daemon.call("GET", "/metrics", None).await;
    let text = text.as_str().expect("a text").to_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")).map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_is_followed_by_two_daemons() {
    let redis = Redis::start();
    redis.call(&["SADD", "presence-group:team", "alice", "bob", "carl"]);
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    redis.call(&["SET", "presence-status:alice", "\"here\""]);
    let daemons = [Daemon::start(&redis).await, Daemon::start(&redis).await];
    let mut sockets = Vec::new();
    for daemon in &daemons {
        daemon.until_state("alice", "online").await;
        until("the status is known", async || {
            (daemon.get("/v1/users/alice").await["status"] == "here").then_some(())
        })
        .await;
        let (socket, snapshot) = watching(daemon, "team").await;
        assert_eq!((&snapshot["members"], &snapshot["online"]), (&json!(3), &json!(1)));
        assert_eq!(
            (names(&snapshot["users"]), &snapshot["users"][0]["status"]),
            (vec!["alice"], &json!("here"))
        );
        sockets.push(socket);
    }
    redis.call(&["SET", "presence:bob", "1", "EX", "60"]);
    for socket in &mut sockets {
        let changes = next(socket, "transitions").await;
        assert_eq!(names(&changes["transitions"]), ["bob"]);
    }
    redis.call(&["SET", "presence:dora", "1", "EX", "60"]);
    for daemon in &daemons {
        daemon.until_state("dora", "online").await;
    }
    // A move from one user to another, in one step.
    let mut client = redis.client();
    for words in [
        &["MULTI"][..],
        &["SADD", "presence-group:team", "dora", "eve", "bad#name"],
        &["SREM", "presence-group:team", "bob"],
        &["EXEC"],
    ] {
        client.call(words);
    }
    for socket in &mut sockets {
        let members = next(socket, "members").await;
        assert_eq!((names(&members["joined"]), names(&members["left"])), (vec!["dora", "eve"], vec!["bob"]));
        assert_eq!(
            (&members["joined"][0]["state"], &members["joined"][1]["state"]),
            (&json!("online"), &json!("offline"))
        );
    }
    redis.call(&["DEL", "presence:bob"]);
    redis.call(&["DEL", "presence:dora"]);
    for socket in &mut sockets {
        let changes = next(socket, "transitions").await;
        assert_eq!(names(&changes["transitions"]), ["dora"], "bob is no member any more");
    }
    redis.call(&["DEL", "presence-group:team"]);
    for socket in &mut sockets {
        assert_eq!(names(&next(socket, "members").await["left"]), ["alice", "carl", "dora", "eve"]);
    }
}

#[tokio::test]
async fn edit_costs_one_read_per_daemon() {
    let redis = Redis::start();
    redis.call(&["SADD", "presence-group:team", "alice"]);
    redis.call(&["SET", "presence-status:zoe", "1"]);
    let daemon = Daemon::start(&redis).await;
    // The daemon follows changes from here on.
    until("the status is known", async || (daemon.get("/v1/users/zoe").await["status"] == 1).then_some(()))
        .await;
    let reads = async || metric(&daemon, "keybeat_directory_reads_total").await;
    let before = reads().await;
    redis.call(&["SADD", "presence-group:other", "alice"]);
    let mut sockets = Vec::new();
    for _ in 0..10 {
        sockets.push(watching(&daemon, "team").await.0);
    }
    assert_eq!(reads().await, before + 1, "one read for all clients, none of groups that nobody watches");
    redis.call(&["SADD", "presence-group:team", "bob"]);
    for socket in &mut sockets {
        assert_eq!(names(&next(socket, "members").await["joined"]), ["bob"]);
    }
    assert_eq!(reads().await, before + 2);
    until("the group is counted", async || (metric(&daemon, "keybeat_groups").await == 1).then_some(()))
        .await;
    drop(sockets);
    until("nobody watches the group", async || (metric(&daemon, "keybeat_groups").await == 0).then_some(()))
        .await;
    redis.call(&["SADD", "presence-group:team", "carl"]);
    let (_socket, snapshot) = watching(&daemon, "team").await;
    assert_eq!((&snapshot["members"], reads().await), (&json!(3), before + 3));
}

#[tokio::test]
async fn counts_come_at_once_and_then_each_second() {
    let redis = Redis::start();
    let members: Vec<String> = (0..1_500).map(|i| format!("u{i}")).collect();
    let words: Vec<&str> =
        ["SADD", "presence-group:huge"].into_iter().chain(members.iter().map(String::as_str)).collect();
    redis.call(&words);
    redis.call(&["SET", "presence:u7", "1", "EX", "60"]);
    let daemon = Daemon::start(&redis).await;
    daemon.until_state("u7", "online").await;
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "groups": ["huge"], "id": 1})).await;
    let error = next(&mut socket, "error").await;
    assert_eq!(
        (&error["id"], &error["code"], &error["group"]),
        (&json!(1), &json!("too_large_group"), &json!("huge"))
    );
    assert!(error["message"].as_str().expect("a text").contains("1500 members"), "{error}");
    socket.send(json!({"type": "watch", "groups": ["huge"], "count": true, "id": 2})).await;
    let counts =
        |members, online| json!({"type": "occupancy", "group": "huge", "members": members, "online": online});
    let mut first = counts(1500, 1);
    first["id"] = json!(2);
    assert_eq!(next(&mut socket, "occupancy").await, first);
    let began = std::time::Instant::now();
    for user in ["u1", "u2", "x"] {
        redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "60"]);
    }
    redis.call(&["SREM", "presence-group:huge", "u3"]);
    let mut last = next(&mut socket, "occupancy").await;
    assert!(began.elapsed().as_millis() >= 900, "after {:?}", began.elapsed());
    while last != counts(1499, 3) {
        last = next(&mut socket, "occupancy").await;
    }
    socket.send(json!({"type": "unwatch", "groups": ["huge"]})).await;
    until("nobody watches the group", async || (metric(&daemon, "keybeat_groups").await == 0).then_some(()))
        .await;
}

#[tokio::test]
async fn group_that_outgrows_the_limit_is_unwatched() {
    let redis = Redis::start();
    redis.call(&["SADD", "presence-group:g", "a", "b"]);
    let daemon = Daemon::with(&["--redis", &redis.url(), "--max-group-members", "2"]).await;
    let (mut socket, _) = watching(&daemon, "g").await;
    redis.call(&["SADD", "presence-group:g", "c"]);
    let error = next(&mut socket, "error").await;
    assert_eq!((&error["code"], &error["group"]), (&json!("too_large_group"), &json!("g")));
    redis.call(&["SREM", "presence-group:g", "c"]);
    let (_, snapshot) = watching(&daemon, "g").await;
    assert_eq!(snapshot["members"], 2);
}

#[tokio::test]
async fn wrong_groups_are_refused_one_by_one() {
    let redis = Redis::start();
    redis.call(&["SET", "presence-group:text", "1"]);
    let daemon = Daemon::start(&redis).await;
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "groups": ["a#b", "text", "absent"], "id": 7})).await;
    let mut codes = Vec::new();
    for _ in 0..2 {
        let error = socket.next().await;
        if error["type"] == "snapshot" {
            assert_eq!((&error["group"], &error["members"]), (&json!("absent"), &json!(0)));
            continue;
        }
        assert_eq!(
            (&error["type"], &error["id"], &error["code"]),
            (&json!("error"), &json!(7), &json!("invalid_group")),
            "{error}"
        );
        codes.push(error["group"].clone());
    }
    let third = socket.next().await;
    codes.extend((third["type"] == "error").then(|| third["group"].clone()));
    assert_eq!(codes, [json!("a#b"), json!("text")]);
    for wrong in [
        json!({"type": "watch", "groups": ["g"], "users": ["a"]}),
        json!({"type": "watch", "users": ["a"], "count": true}),
        json!({"type": "unwatch", "groups": ["g"], "all": true}),
    ] {
        socket.send(wrong.clone()).await;
        assert_eq!(next(&mut socket, "error").await["code"], "invalid_request", "{wrong}");
    }
    let (code, body) = daemon.call("GET", "/v1/groups/text", None).await;
    assert_eq!((code, &body["error"]["code"]), (400, &json!("invalid_group")));
    let (code, body) = daemon.call("GET", "/v1/groups/a%23b", None).await;
    assert_eq!((code, &body["error"]["code"]), (400, &json!("invalid_group")));
}

#[tokio::test]
async fn members_are_listed_page_by_page() {
    let redis = Redis::start();
    redis.call(&["SADD", "presence-group:g", "b", "a", "é", "c", "B", "not#valid"]);
    redis.call(&["SET", "presence:c", "1", "EX", "60"]);
    let daemon = Daemon::start(&redis).await;
    daemon.until_state("c", "online").await;
    let first = daemon.get("/v1/groups/g?limit=3").await;
    assert_eq!((&first["group"], &first["members"], &first["online"]), (&json!("g"), &json!(5), &json!(1)));
    assert_eq!((names(&first["users"]), &first["next_cursor"]), (vec!["B", "a", "b"], &json!("b")));
    let second = daemon.get("/v1/groups/g?limit=3&cursor=b").await;
    assert_eq!((names(&second["users"]), &second["next_cursor"]), (vec!["c", "é"], &Value::Null));
    assert_eq!(second["users"][0]["state"], "online");
    assert_eq!(daemon.get("/v1/groups/absent").await["members"], 0);
}

#[tokio::test]
async fn statuses_of_offline_members_follow_the_snapshot() {
    let redis = Redis::start();
    redis.call(&["SADD", "presence-group:team", "alice", "bob", "carl"]);
    redis.call(&["SET", "presence-status:alice", "1"]);
    redis.call(&["SET", "presence-status:bob", "\"on holiday\""]);
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    let daemon = Daemon::start(&redis).await;
    daemon.until_state("alice", "online").await;
    until("the status is known", async || {
        (daemon.get("/v1/users/bob").await["status"] == "on holiday").then_some(())
    })
    .await;
    let (mut socket, snapshot) = watching(&daemon, "team").await;
    assert_eq!((names(&snapshot["users"]), &snapshot["users"][0]["status"]), (vec!["alice"], &json!(1)));
    let statuses = next(&mut socket, "statuses").await;
    assert_eq!(statuses["statuses"], json!([{"user": "bob", "status": "on holiday"}]));
}

#[tokio::test]
async fn token_watches_only_the_groups_of_its_claim() {
    let (redis, issuer) = (Redis::start(), Issuer::new());
    redis.call(&["SADD", "presence-group:team-a", "alice", "bob"]);
    redis.call(&["SET", "presence:bob", "1", "EX", "60"]);
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()]).await;
    let exp = crate::common::tokens::now_s() + 600;
    let with = issuer.sign(&json!({"sub": "alice", "groups": "team-*", "exp": exp}));
    let without = issuer.token("alice", &["*"]);
    let get = async |token: &str, group: &str| {
        let answer = call_as(&daemon, token, "GET", &format!("/v1/groups/{group}"), None).await;
        (answer.status, answer.body["members"].as_u64())
    };
    assert_eq!(get(&with, "team-a").await, (200, Some(2)));
    assert_eq!((get(&with, "other").await, get(&without, "team-a").await), ((403, None), (403, None)));
    let (mut socket, _) = socket_as(&daemon, &with, "").await;
    socket.send(json!({"type": "watch", "groups": ["team-a", "other"], "id": 1})).await;
    let error = next(&mut socket, "error").await;
    assert_eq!((&error["code"], &error["group"]), (&json!("forbidden"), &json!("other")));
    let snapshot = next(&mut socket, "snapshot").await;
    assert!(
        names(&snapshot["users"]).contains(&"bob"),
        "the claim shows members that watch does not list: {snapshot}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_survive_faults_and_spread_over_a_cluster() {
    let cluster = Cluster::start(3, 0).await;
    let mut writer = Writer::new(cluster.ports());
    let mut call = |words: &[&str]| {
        assert!(writer.send(&[words.iter().map(|word| (*word).to_owned()).collect()]), "{words:?}");
    };
    let groups: Vec<String> = (0..6).map(|i| format!("g{i}")).collect();
    groups.iter().for_each(|group| call(&["SADD", &format!("presence-group:{group}"), "alice", "bob"]));
    let daemon = Daemon::with(&["--redis", &cluster.url()]).await;
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "groups": groups, "id": 1})).await;
    for _ in &groups {
        assert_eq!(next(&mut socket, "snapshot").await["members"], 2);
    }
    call(&["SET", "presence:alice", "1", "PX", "60000"]);
    assert_eq!(
        names(&next(&mut socket, "transitions").await["transitions"]),
        ["alice"],
        "once, not once per group"
    );
    // What changes while the connections that report changes are gone.
    for node in &cluster.nodes {
        node.call(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    }
    groups.iter().for_each(|group| call(&["SREM", &format!("presence-group:{group}"), "bob"]));
    let mut left = 0;
    while left < groups.len() {
        left += names(&next(&mut socket, "members").await["left"]).len();
    }
}

/// The next error about a group.
async fn refusal(socket: &mut Socket, id: u64, group: &str) -> String {
    let error = next(socket, "error").await;
    assert_eq!(
        (&error["id"], &error["group"], &error["code"]),
        (&json!(id), &json!(group), &json!("invalid_request"))
    );
    error["message"].as_str().expect("a text").to_owned()
}

#[tokio::test]
async fn groups_without_rights_are_refused_and_come_back() {
    let redis = Redis::start();
    redis.call(&["SADD", "presence-group:team", "alice"]);
    redis.call(&["ACL", "SETUSER", "default", "-scard"]);
    let daemon = Daemon::start(&redis).await;
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "groups": ["team"], "id": 1})).await;
    assert!(refusal(&mut socket, 1, "team").await.contains("NOPERM"));
    for i in 0..3 {
        redis.call(&["SET", "presence-status:bob", &i.to_string()]);
        until("statuses are on", async || (daemon.get("/v1/users/bob").await["status"] == i).then_some(()))
            .await;
    }
    socket.send(json!({"type": "watch", "groups": ["other"], "count": true, "id": 2})).await;
    assert!(refusal(&mut socket, 2, "other").await.contains("groups are off"));
    assert_eq!(metric(&daemon, "keybeat_groups").await, 0);
    redis.call(&["ACL", "SETUSER", "default", "+scard"]);
    until("groups are on", async || daemon.log().contains("groups are followed again").then_some(())).await;
    let (_socket, snapshot) = watching(&daemon, "team").await;
    assert_eq!(snapshot["members"], 1);
    let log = daemon.log();
    let count = |text: &str| log.matches(text).count();
    assert_eq!((count("are off: the server"), count("are followed again")), (1, 1), "{log}");
}

#[tokio::test]
async fn one_forbidden_group_leaves_others_on() {
    let redis = Redis::start();
    redis.call(&["SADD", "presence-group:team", "alice"]);
    let patterns = ["~presence:*", "~presence-status:*", "~presence-group:t*"];
    redis.call(&[&["ACL", "SETUSER", "default", "resetkeys"][..], &patterns].concat());
    let daemon = Daemon::start(&redis).await;
    let mut socket = daemon.socket("").await;
    for id in [1, 2] {
        socket.send(json!({"type": "watch", "groups": ["secret"], "id": id})).await;
        assert!(refusal(&mut socket, id, "secret").await.contains("secret"));
    }
    socket.send(json!({"type": "watch", "groups": ["team"], "id": 3})).await;
    assert_eq!(next(&mut socket, "snapshot").await["members"], 1);
    let log = daemon.log();
    assert_eq!(
        (log.matches("daemon to read the group").count(), log.matches("are off").count()),
        (1, 0),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_answer_waits_for_no_busy_group() {
    let redis = Redis::start();
    let members: Vec<String> = (0..30_000).map(|i| format!("u{i}")).collect();
    let huge = ["a", "b", "c", "d"].map(|group| format!("presence-group:{group}"));
    let mut client = redis.client();
    for group in &huge {
        for chunk in members.chunks(1_000) {
            let words: Vec<&str> =
                ["SADD", group].into_iter().chain(chunk.iter().map(String::as_str)).collect();
            client.call(&words);
        }
    }
    let daemon = Daemon::start(&redis).await;
    let mut counting = daemon.socket("").await;
    counting.send(json!({"type": "watch", "groups": ["a", "b", "c", "d"], "count": true})).await;
    for _ in &huge {
        assert_eq!(next(&mut counting, "occupancy").await["members"], 30_000);
    }
    let mut waits = Vec::new();
    for i in 0..6 {
        huge.iter().for_each(|group| drop(client.call(&["SADD", group, &format!("more{i}")])));
        let mut socket = daemon.socket("").await;
        let began = std::time::Instant::now();
        socket.send(json!({"type": "watch", "groups": [format!("small{i}")]})).await;
        next(&mut socket, "snapshot").await;
        waits.push(began.elapsed().as_millis());
    }
    assert!(waits.iter().min() < Some(&150), "a huge group rests for 300 ms: {waits:?}");
}

#[tokio::test]
async fn each_watch_of_a_group_is_answered() {
    let redis = Redis::start();
    redis.call(&["SADD", "presence-group:team", "alice", "bob"]);
    let daemon = Daemon::start(&redis).await;
    let mut socket = daemon.socket("").await;
    // The server answers nothing until all watches are here.
    redis.call(&["CLIENT", "PAUSE", "500", "ALL"]);
    for (id, count) in [(1, false), (2, true), (3, true), (4, false)] {
        socket.send(json!({"type": "watch", "groups": ["team"], "count": count, "id": id})).await;
    }
    for (id, kind) in [(1, "snapshot"), (2, "occupancy"), (3, "occupancy"), (4, "snapshot")] {
        let answer = next(&mut socket, kind).await;
        assert_eq!((&answer["id"], &answer["members"]), (&json!(id), &json!(2)), "{answer}");
    }
    redis.call(&["SADD", "presence-group:team", "carl"]);
    assert_eq!(names(&next(&mut socket, "members").await["joined"]), ["carl"], "the last one holds");
}

#[tokio::test]
async fn swapdb_replaces_statuses_and_groups() {
    let redis = Redis::start();
    redis.call(&["SADD", "presence-group:team", "alice"]);
    redis.call(&["SET", "presence-status:yan", "1"]);
    let mut other = redis.client();
    for words in
        [&["SELECT", "1"][..], &["SADD", "presence-group:team", "bob"], &["SET", "presence-status:zoe", "2"]]
    {
        other.call(words);
    }
    let daemon = Daemon::start(&redis).await;
    let status = async |user: &str, status: Value| {
        until("the status is known", async || {
            (daemon.get(&format!("/v1/users/{user}")).await["status"] == status).then_some(())
        })
        .await;
    };
    status("yan", json!(1)).await;
    let (mut socket, _) = watching(&daemon, "team").await;
    until("the canary is there", async || {
        let keys = redis.call(&["KEYS", "presence:#canary:*"]).list();
        (redis.call(&["GET", keys.first()?.as_text()]).as_text() > "0").then_some(())
    })
    .await;
    redis.call(&["SWAPDB", "0", "1"]);
    let members = next(&mut socket, "members").await;
    assert_eq!((names(&members["joined"]), names(&members["left"])), (vec!["bob"], vec!["alice"]));
    status("zoe", json!(2)).await;
    status("yan", Value::Null).await;
}
