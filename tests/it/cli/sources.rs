//! `keybeat get` and `keybeat beat`, through a daemon and directly on Redis.

use crate::cli::usage::{Running, run};
use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::until;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn get_exits_3_if_any_is_offline() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    redis.call(&["SET", "presence:alice", "1"]);
    redis.call(&["SET", "presence:alice#phone", "1"]);
    redis.call(&["SET", "presence:bob#tab", "1"]);
    daemon.until_state("bob", "online").await;
    for source in [["--url", &daemon.url("")], ["--redis", &redis.url()]] {
        let ran = run(&[&["get", "bob", "alice"][..], &source].concat()).await;
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
        let lines = ran.lines();
        assert!(
            lines.len() == 2 && lines[0].starts_with("bob: online") && lines[1].starts_with("alice: online"),
            "{ran:?}"
        );
        let ran = run(&[&["get", "alice", "zoe"][..], &source].concat()).await;
        assert_eq!((ran.code, &*ran.err), (Some(3), ""), "{ran:?}");
        assert!(ran.lines()[1].starts_with("zoe: offline"), "{ran:?}");
        let ran = run(&[&["get", "zoe", "--json"][..], &source].concat()).await;
        let zoe: Value = serde_json::from_str(&ran.out).expect("one JSON object");
        assert_eq!((ran.code, &zoe["user"], &zoe["state"]), (Some(3), &json!("zoe"), &json!("offline")));
    }
    let objects = run(&["get", "alice", "--json", "--url", &daemon.url("")]).await.json();
    assert_eq!(objects, [daemon.get("/v1/users/alice").await]);
    let ran = run(&["get", "alice", "--url", &format!("{}/", daemon.url(""))]).await;
    assert_eq!(ran.code, Some(0), "with a slash too: {ran:?}");
}

#[tokio::test]
async fn get_takes_names_literally() {
    let redis = Redis::start();
    redis.call(&["SET", "presence:abc#tab", "1"]);
    redis.call(&["SET", "presence:[x]*#tab", "1"]);
    let states = async |names: &[&str]| {
        let ran = run(&[&["get", "--json", "--redis", &redis.url()], names].concat()).await;
        ran.lines().iter().map(|line| line.contains("\"online\"")).collect::<Vec<_>>()
    };
    assert_eq!(states(&["a*", "a?c", "[a]bc", "abc", "[x]*"]).await, [false, false, false, true, true]);
}

#[tokio::test]
async fn beat_sends_one_heartbeat() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    for source in [["--url", &daemon.url("")], ["--redis", &redis.url()]] {
        let ran = run(&[&["beat", "alice", "bob#my phone", "a/b", "日本"][..], &source].concat()).await;
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
        let keys = ["presence:a/b", "presence:alice", "presence:bob#my phone", "presence:日本"];
        assert_eq!(redis.presence_keys(), keys, "{source:?}");
        assert!(keys.iter().all(|key| (25_000..=30_000).contains(&redis.call(&["PTTL", key]).number())));
        let ran = run(&[&["beat", "alice", "--ttl", "5m"][..], &source].concat()).await;
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
        assert!((290_000..=300_000).contains(&redis.call(&["PTTL", "presence:alice"]).number()));
        redis.call(&[&["DEL"], &keys[..]].concat());
    }
}

#[tokio::test]
async fn beat_accepts_names_of_dots() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let ran = run(&["beat", ".", "..", "--url", &daemon.url("")]).await;
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
    assert_eq!(redis.presence_keys(), ["presence:.", "presence:.."]);
}

#[tokio::test]
async fn beat_every_repeats_until_stopped() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    for source in [["--url", &daemon.url("")], ["--redis", &redis.url()]] {
        let mut beat =
            Running::start(&[&["beat", "alice", "--every", "100ms", "--ttl", "60s"][..], &source].concat());
        for _ in 0..3 {
            redis.call(&["DEL", "presence:alice"]);
            until("the next heartbeat", async || (redis.presence_keys() == ["presence:alice"]).then_some(()))
                .await;
        }
        beat.terminate();
        assert_eq!(beat.wait().await.code(), Some(0), "{source:?}");
        let opening = "keybeat: sending heartbeats of alice every 100ms, until you stop it (Ctrl-C)\n";
        assert_eq!(beat.err(), opening, "{source:?}");
        redis.call(&["DEL", "presence:alice"]);
    }
}

#[tokio::test]
async fn beat_every_survives_restarts() {
    let mut redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let port = daemon.port;
    let urls = [daemon.url(""), redis.url()];
    let beats = [["alice", "--url", &urls[0]], ["bob", "--redis", &urls[1]]]
        .map(|args| Running::start(&[&["beat", "--every", "100ms"], &args[..]].concat()));
    let both = ["presence:alice", "presence:bob"];
    until("both are there", async || (redis.presence_keys() == both).then_some(())).await;
    daemon.kill();
    redis.kill();
    let outage = "; trying again with each heartbeat\n";
    until("both report it", async || beats.iter().all(|beat| beat.err().contains(outage)).then_some(()))
        .await;
    redis.run();
    let _daemon = Daemon::launch_at(port, &["--redis", &redis.url()]);
    until("both are there again", async || (redis.presence_keys() == both).then_some(())).await;
    for mut beat in beats {
        beat.terminate();
        assert_eq!(beat.wait().await.code(), Some(0));
        let err = beat.err();
        assert!(err.ends_with("keybeat: heartbeats arrive again\n"), "{err}");
        assert_eq!(err.matches(outage).count(), 1, "an outage is printed once: {err}");
    }
}

#[tokio::test]
async fn refused_command_names_the_rule_that_grants_it() {
    let redis = Redis::start();
    redis.call(&["SET", "presence:alice#phone", "1"]);
    let url = format!("redis://app:secret@127.0.0.1:{}", redis.port);
    for (command, code) in
        [(&["ls"][..], 0), (&["get", "alice"], 0), (&["get", "zoe"], 3), (&["beat", "alice"], 0)]
    {
        redis.call(&["ACL", "SETUSER", "app", "reset", "on", ">secret"]);
        let mut granted = Vec::new();
        // One run may be refused at the login, the next one at the command itself.
        let ran = loop {
            let ran = run(&[command, &["--redis", &url]].concat()).await;
            let Some((why, rule)) = ran.err.split_once("; an administrator grants the rights: ") else {
                break ran;
            };
            assert!(ran.code == Some(1) && why.contains("NOPERM") && !ran.err.contains("secret"), "{ran:?}");
            let words = rule.trim().strip_prefix(&format!("redis-cli -u redis://127.0.0.1:{} ", redis.port));
            let words: Vec<&str> =
                words.expect("a command").split(' ').map(|word| word.trim_matches('\'')).collect();
            assert!(
                words.contains(&"~presence:*") && !granted.contains(&rule.to_owned()),
                "{command:?}: {rule}"
            );
            redis.call(&words);
            granted.push(rule.to_owned());
        };
        assert!(ran.code == Some(code) && ran.err.is_empty() && !granted.is_empty(), "{command:?}: {ran:?}");
    }
}

/// A page of another program is no message of a daemon, and a proxy without a daemon is named.
#[tokio::test]
async fn pages_of_other_programs_are_not_printed() {
    for (status, words) in [
        (
            "404 Not Found",
            "is not a keybeat daemon: it answered 404 Not Found; name a daemon: --url http://HOST:PORT",
        ),
        ("502 Bad Gateway", "reaches no daemon: it answered 502 Bad Gateway; start a daemon"),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let page = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let read = stream.read(&mut [0; 4096]).await.expect("a request");
            assert!(read > 0, "a request");
            let html = "<html><h1>a page</h1></html>";
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{html}",
                html.len()
            );
            stream.write_all(answer.as_bytes()).await.expect("it is read");
        });
        let ran = run(&["get", "alice", "--url", &url]).await;
        page.await.expect("it answered");
        assert_eq!((ran.code, &*ran.out, ran.err.contains("<html>")), (Some(1), "", false), "{ran:?}");
        assert!(ran.err.contains(&url) && ran.err.contains(words), "{ran:?}");
    }
}
