//! `keybeat watch`, through restarts of the daemon and of Redis.

use crate::cli::usage::{Running, gist, run, until_watchers};
use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::tokens::Issuer;
use crate::common::{PATIENCE, until};
use serde_json::json;
use tokio::time::{Instant, timeout};

#[tokio::test]
async fn watch_prints_transitions_of_a_daemon() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    redis.call(&["SET", "presence:bob", "1"]);
    daemon.until_state("bob", "online").await;
    let url = daemon.url("");
    let mut plain = Running::start(&["watch", "--url", &url]);
    let mut some = Running::start(&["watch", "alice", "zoe", "--json", "--url", &url]);
    let mut two = Running::start(&["watch", "bob", "zoe", "--url", &url]);
    until_watchers(&daemon, 3).await;
    assert!(plain.line().await.ends_with("  1 user is online"));
    let states = [two.line().await, two.line().await];
    assert!(
        states[0].ends_with("online   bob  (now)") && states[1].ends_with("offline  zoe  (now)"),
        "{states:?}"
    );
    redis.call(&["DEL", "presence:bob"]);
    redis.call(&["SET", "presence:alice", "1", "PX", "200"]);
    for expected in
        [["offline", "bob", "deleted"], ["online", "alice", "heartbeat"], ["offline", "alice", "expired"]]
    {
        let line = plain.line().await;
        assert!(expected.iter().all(|word| line.contains(word)), "{expected:?}: {line}");
        assert!(line.starts_with("20") && !line.contains('\u{1b}'), "a time, no colour: {line:?}");
    }
    let (online, offline) = (some.json().await, some.json().await);
    assert_eq!(
        (&online["user"], &online["state"], &online["reason"]),
        (&json!("alice"), &json!("online"), &json!("heartbeat"))
    );
    assert!(online["at_ms"].is_u64() && online["since_ms"].is_u64() && online["seq"].is_u64(), "{online}");
    assert_eq!(
        (&offline["user"], &offline["state"], &offline["reason"]),
        (&json!("alice"), &json!("offline"), &json!("expired"))
    );
    for mut watch in [plain, some, two] {
        watch.terminate();
        assert_eq!((watch.wait().await.code(), &*watch.err()), (Some(0), ""));
    }
}

#[tokio::test]
async fn watch_does_not_put_its_user_online() {
    let (redis, issuer) = (Redis::start(), Issuer::new());
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()]).await;
    let url = daemon.url("");
    for (claims, name) in
        [(json!({"sub": "me", "watch": ["me", "al"]}), "named"), (json!({"watch": ["me", "al"]}), "nameless")]
    {
        let mut claims = claims;
        claims["exp"] = json!(crate::common::tokens::now_s() + 60);
        let token = issuer.write(name, &issuer.sign(&claims));
        let mut watch = Running::start(&["watch", "me", "al", "--url", &url, "--token-file", &token]);
        for _ in ["me", "al"] {
            let line = watch.line().await;
            assert!(line.contains("  offline  ") && line.ends_with("  (now)"), "{line}");
        }
        redis.call(&["SET", "presence:al", "1", "PX", "200"]);
        // A change of the user who looks would come before those of al.
        assert!(watch.line().await.ends_with("online   al  (heartbeat)"));
        assert!(watch.line().await.ends_with("offline  al  (expired)"));
        watch.terminate();
        assert_eq!((watch.wait().await.code(), &*watch.err()), (Some(0), ""));
    }
}

#[tokio::test]
async fn watch_goes_on_without_users_whom_the_token_forbids() {
    let (redis, issuer) = (Redis::start(), Issuer::new());
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()]).await;
    let token = issuer.write("token", &issuer.token("me", &["al"]));
    let url = daemon.url("");
    let access = ["--json", "--url", &url, "--token-file", &token];
    let mut watch = Running::start(&[&["watch", "al", "zoe"][..], &access].concat());
    until("zoe is refused", async || watch.err().contains("zoe is not watched").then_some(())).await;
    redis.call(&["SET", "presence:al", "1", "EX", "30"]);
    let online = watch.json().await;
    assert_eq!((&online["user"], &online["state"]), (&json!("al"), &json!("online")));
    watch.terminate();
    assert_eq!(watch.wait().await.code(), Some(0));
    // Nobody is left.
    let ran = run(&[&["watch", "zoe"][..], &access].concat()).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("zoe"), "{ran:?}");
}

/// Puts users online until the watch prints one of them: then it is active. Later steps skip the other lines.
async fn stands(watch: &mut Running, redis: &Redis) {
    let mut tries = 0..;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        redis.call(&[
            "SET",
            &format!("presence:ready-{}", tries.next().expect("endless")),
            "1",
            "PX",
            "100000",
        ]);
        if let Ok(line) = timeout(std::time::Duration::from_millis(50), watch.lines.next_line()).await {
            line.expect("text").expect("it goes on");
            // Once one more user is printed, all earlier ones were printed or in the snapshot.
            redis.call(&["SET", "presence:ready-last", "1", "PX", "100000"]);
            while !watch.line().await.contains("ready-last") {}
            return;
        }
    }
    panic!("it never printed anything: {}", watch.err());
}

#[tokio::test]
async fn watch_prints_transitions_of_redis() {
    let redis = Redis::start();
    redis.call(&["SET", "presence:bob", "1"]);
    let mut watch = Running::start(&["watch", "--json", "--redis", &redis.url()]);
    stands(&mut watch, &redis).await;
    redis.call(&["DEL", "presence:bob"]);
    redis.call(&["SET", "presence:alice", "1", "PX", "200"]);
    for expected in
        [["bob", "offline", "deleted"], ["alice", "online", "heartbeat"], ["alice", "offline", "expired"]]
    {
        let transition = watch.json().await;
        assert_eq!(
            ["user", "state", "reason"].map(|name| transition[name].as_str().expect("a text")),
            expected
        );
    }
    watch.terminate();
    assert_eq!((watch.wait().await.code(), &*watch.err()), (Some(0), ""));
}

#[tokio::test]
async fn watch_survives_daemon_restart_exactly() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let (port, url) = (daemon.port, daemon.url(""));
    redis.call(&["SET", "presence:alice", "1"]);
    redis.call(&["SET", "presence:dave", "1"]);
    daemon.until_state("dave", "online").await;
    let mut all = Running::start(&["watch", "--json", "--url", &url]);
    let mut some =
        Running::start(&["watch", "alice", "bob", "carol", "dave", "zoe", "--json", "--url", &url]);
    until_watchers(&daemon, 2).await;
    redis.call(&["SET", "presence:carol", "1"]);
    for watch in [&mut all, &mut some] {
        assert_eq!(watch.gists(1).await, [gist("carol", "online")]);
    }
    daemon.kill();
    until("it is said", async || (!all.err().is_empty() && !some.err().is_empty()).then_some(())).await;
    // Alice goes offline, bob online, carol offline and online, zoe online and offline; dave stays online.
    redis.call(&["DEL", "presence:alice", "presence:carol"]);
    redis.call(&["MSET", "presence:bob", "1", "presence:carol", "1", "presence:zoe", "1"]);
    redis.call(&["DEL", "presence:zoe"]);
    let daemon = Daemon::launch_at(port, &["--redis", &redis.url()]);
    daemon.ready().await;
    until_watchers(&daemon, 2).await;
    redis.call(&["DEL", "presence:dave"]);
    for mut watch in [all, some] {
        assert_eq!(
            watch.gists(2).await,
            [gist("alice", "offline"), gist("bob", "online")],
            "{}",
            watch.err()
        );
        assert_eq!(watch.gists(1).await, [gist("dave", "offline")], "and nothing else before it");
        watch.terminate();
        assert_eq!(watch.wait().await.code(), Some(0));
    }
}

#[tokio::test]
async fn watch_survives_redis_restart_exactly() {
    let mut redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let mut by_daemon = Running::start(&["watch", "--json", "--url", &daemon.url("")]);
    until_watchers(&daemon, 1).await;
    let mut direct = Running::start(&["watch", "--json", "--redis", &redis.url()]);
    stands(&mut direct, &redis).await;
    while !by_daemon.line().await.contains("ready-last") {}
    for user in ["alice", "bob", "carol"] {
        redis.call(&["SET", &format!("presence:{user}"), "1", "PX", "900"]);
        redis.call(&["SET", &format!("presence:{user}#tab"), "1", "PX", "800"]);
    }
    for watch in [&mut by_daemon, &mut direct] {
        assert_eq!(watch.gists(3).await, ["alice", "bob", "carol"].map(|user| gist(user, "online")));
    }
    // The daemon learns the TTLs right after the first heartbeats, but does not report when. With unknown TTLs the grant
    // after the restart would be the first guess, 30 s.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    redis.kill();
    redis.run();
    // Bob and carol return, dave is new; nobody renews the other keys.
    for user in ["bob", "carol", "dave"] {
        redis.call(&["SET", &format!("presence:{user}"), "1", "PX", "100000"]);
    }
    for watch in [&mut by_daemon, &mut direct] {
        assert_eq!(
            watch.gists(2).await,
            [gist("alice", "offline"), gist("dave", "online")],
            "{}",
            watch.err()
        );
    }
    redis.call(&["DEL", "presence:bob"]);
    for mut watch in [by_daemon, direct] {
        assert_eq!(watch.gists(1).await, [gist("bob", "offline")], "and nothing else before it");
        watch.terminate();
        assert_eq!(watch.wait().await.code(), Some(0));
    }
}

#[tokio::test]
async fn commands_show_statuses_and_groups() {
    let redis = Redis::start();
    redis.call(&["SADD", "presence-group:g", "alice"]);
    redis.call(&["SET", "presence-status:alice", r#"{"text":"away"}"#]);
    let daemon = Daemon::start(&redis).await;
    let url = daemon.url("");
    until("the status is known", async || {
        (daemon.get("/v1/users/alice").await["status"]["text"] == "away").then_some(())
    })
    .await;
    let got = run(&["get", "alice", "--url", &url]).await;
    assert_eq!(got.out.trim_end(), r#"alice: offline, status {"text":"away"}"#, "{got:?}");
    redis.call(&["SADD", "presence-group:a b/é", "alice"]);
    let got = run(&["get", "--group", "g", "--group", "a b/é", "--url", &url]).await;
    let alice = r#"alice: offline, status {"text":"away"}"#;
    let wanted = format!("g: 0 of 1 members online\n{alice}\na b/é: 0 of 1 members online\n{alice}\n");
    assert_eq!((got.out.as_str(), got.code), (wanted.as_str(), Some(3)), "{got:?}");
    let got = run(&["get", "--group", "g", "--json", "--url", &url]).await;
    assert_eq!(got.out.lines().next(), Some(r#"{"group":"g","members":1,"online":0}"#), "{got:?}");
    let refused = run(&["get", "--group", "g", "--redis", &redis.url()]).await;
    assert!(refused.code == Some(2) && refused.err.contains("--group needs a daemon"), "{refused:?}");
    let mut watch = Running::start(&["watch", "--group", "g", "--json", "--url", &url]);
    assert_eq!(watch.json().await, json!({"group": "g", "members": 1, "online": 0}));
    assert_eq!(watch.json().await, json!({"user": "alice", "status": {"text": "away"}}));
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    assert_eq!(watch.gists(1).await, [gist("alice", "online")]);
    redis.call(&["SET", "presence-status:alice", "\"back\""]);
    assert_eq!(watch.json().await, json!({"user": "alice", "status": "back"}));
    redis.call(&["SADD", "presence-group:g", "bob"]);
    assert_eq!(watch.json().await["joined"]["user"], "bob");
    redis.call(&["SREM", "presence-group:g", "bob"]);
    assert_eq!(watch.json().await, json!({"group": "g", "left": "bob"}));
    let refused = run(&["watch", "--group", "a#b", "--url", &url]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
}

#[tokio::test]
async fn refused_group_ends_no_other_watch() {
    let redis = Redis::start();
    redis.call(&["SET", "presence-group:text", "1"]);
    redis.call(&["SADD", "presence-group:g", "alice"]);
    let daemon = Daemon::start(&redis).await;
    let url = daemon.url("");
    let mut watch = Running::start(&["watch", "--group", "text", "--group", "g", "--json", "--url", &url]);
    assert_eq!(watch.json().await, json!({"group": "g", "members": 1, "online": 0}));
    until("the refusal is printed", async || {
        watch.err().contains("does not watch the group \"text\"").then_some(())
    })
    .await;
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    assert_eq!(watch.gists(1).await, [gist("alice", "online")]);
    redis.call(&["DEL", "presence-group:g"]);
    assert_eq!(watch.json().await, json!({"group": "g", "left": "alice"}));
    redis.call(&["SET", "presence-group:g", "1"]);
    assert_eq!(watch.wait().await.code(), Some(1), "nothing is left to watch");
    let refused = run(&["watch", "--group", "text", "--url", &url]).await;
    assert!(refused.code == Some(1) && refused.err.contains("is no SET"), "{refused:?}");
}
