//! `&beat=`: sockets that do not keep their user online, or only by their messages.

use super::keeping::Tab;
use super::socket::{Told, gist};
use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::tokens::Issuer;
use crate::common::until;
use serde_json::json;

const KEY: &str = "presence:alice#tab";

async fn start(ttl: &str) -> (Redis, Daemon, Told) {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--ttl", ttl]).await;
    let told = Told::of(&daemon, "alice").await;
    (redis, daemon, told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_without_beats_does_not_keep_its_user_online() {
    let (redis, daemon, mut told) = start("1s").await;
    let hidden = Tab::open(&daemon, "?user=alice&session=tab&beat=false").await;
    hidden.send(r#"{"type":"watch","users":["bob"]}"#);
    hidden.pinged(7).await;
    told.none();
    // Its own heartbeat counts for one TTL, and its goodbye at once.
    hidden.send(r#"{"type":"heartbeat"}"#);
    assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
    hidden.pinged(2).await;
    assert_eq!(gist(&told.one().await), ["alice", "offline", "expired"]);
    hidden.send(r#"{"type":"heartbeat"}"#);
    assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
    hidden.send(r#"{"type":"leave"}"#);
    assert_eq!(gist(&told.one().await), ["alice", "offline", "deleted"]);
    // The session of another socket is not affected by its close, and does not need it.
    for first_hidden in [true, false] {
        let hidden = Tab::open(&daemon, "?user=alice&session=tab&beat=false").await;
        let tab = Tab::open(&daemon, "?user=alice&session=tab").await;
        assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
        if first_hidden {
            hidden.close().await;
            tab.pinged(7).await;
            told.none();
            tab.close().await;
        } else {
            tab.close().await;
            drop(hidden);
        }
        assert_eq!(gist(&told.one().await), ["alice", "offline", "deleted"]);
    }
    assert_eq!(redis.presence_keys(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_of_messages_keeps_its_user_online_by_messages_alone() {
    let (redis, daemon, mut told) = start("1s").await;
    let tab = Tab::open(&daemon, "?user=alice&session=tab&beat=message").await;
    tab.pinged(3).await;
    tab.send(r#"{"type":"ping","id":1}"#);
    tab.pinged(3).await;
    told.none();
    assert_eq!(redis.presence_keys(), [""; 0]);
    // Any message counts, also one that the daemon refuses.
    for text in [r#"{"type":"watch","users":["bob"]}"#, "no JSON", r#"{"type":"heartbeat"}"#] {
        tab.send(text);
        assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"], "{text}");
        // Pongs and pings do not.
        for _ in 0..4 {
            tab.send(r#"{"type":"ping"}"#);
            tab.pinged(2).await;
        }
        assert_eq!(gist(&told.one().await), ["alice", "offline", "expired"], "{text}");
    }
    for _ in 0..10 {
        tab.send(r#"{"type":"unwatch","users":["bob"]}"#);
        tab.pinged(1).await;
    }
    assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
    told.none();
    tab.close().await;
    assert_eq!(gist(&told.one().await), ["alice", "offline", "deleted"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_beats_are_refused() {
    let (_redis, daemon, _told) = start("1s").await;
    for query in ["?user=alice&beat=true", "?user=alice&beat=", "?user=alice&beat=False", "?beat=false"] {
        let (status, body) = daemon.call("GET", &format!("/v1/ws{query}"), None).await;
        assert_eq!((status, &body["error"]["code"]), (400, &json!("invalid_request")), "{query}: {body}");
        assert!(body["error"]["message"].as_str().expect("a text").contains("beat"), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beats_work_with_tokens() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    // Sockets that keep nobody online are pinged every 2 s then.
    let args = ["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file(), "--ttl", "3s"];
    let daemon = Daemon::with(&args).await;
    let token = issuer.token("alice", &["bob"]);
    let query = |beat: &str| format!("?session=tab&token={token}{beat}");
    let tab = Tab::open(&daemon, &query("&beat=message")).await;
    let hidden = Tab::open(&daemon, &query("&beat=false")).await;
    hidden.send(r#"{"type":"watch","users":["bob"]}"#);
    hidden.pinged(1).await;
    assert_eq!(redis.presence_keys(), [""; 0]);
    tab.send(r#"{"type":"watch","users":["bob"]}"#);
    until("the key", async || (redis.presence_keys() == [KEY]).then_some(())).await;
}
