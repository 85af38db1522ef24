//! `--trusted-proxy`: limits and the log use the address that a trusted proxy names, and no other.

use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::tokens::{Issuer, call, try_socket};
use crate::common::until;
use serde_json::Value;

const FORWARDED: &str = "x-forwarded-for";

async fn with(redis: &Redis, flags: &[&str]) -> Daemon {
    Daemon::with(&[&["--redis", &redis.url()][..], flags].concat()).await
}

#[tokio::test]
async fn sockets_count_by_the_forwarded_address() {
    let redis = Redis::start();
    for trusted in ["127.0.0.1", "10.0.0.0/8, 127.0.0.0/8", "::/0,0.0.0.0/0"] {
        let daemon = with(&redis, &["--max-sockets-per-address", "2", "--trusted-proxy", trusted]).await;
        let socket = async |forwarded: &str| try_socket(&daemon, "", &[(FORWARDED, forwarded)]).await;
        if trusted == "::/0,0.0.0.0/0" {
            // The leftmost, because all are trusted.
            let _held = [socket("203.0.113.1, 203.0.113.9").await.ok(), socket("203.0.113.1").await.ok()];
            assert!(socket("203.0.113.1").await.is_err() && socket("203.0.113.9").await.is_ok());
            continue;
        }
        let _held = [socket("203.0.113.1").await.ok(), socket("198.51.100.7, 203.0.113.1").await.ok()];
        let refused = socket("203.0.113.1, 127.0.0.1").await.err();
        assert_eq!(refused, Some((429, "too_many_sockets".into())), "{trusted}");
        assert!(socket("203.0.113.1, 203.0.113.2").await.is_ok(), "another client of the same proxy");
    }
}

#[tokio::test]
async fn a_peer_that_is_not_trusted_cannot_name_an_address() {
    let redis = Redis::start();
    for flags in [&[][..], &["--trusted-proxy", "10.0.0.0/8,192.0.2.1"]] {
        let daemon = with(&redis, &[&["--max-sockets-per-address", "2"][..], flags].concat()).await;
        let socket = async |forwarded: &str| try_socket(&daemon, "", &[(FORWARDED, forwarded)]).await;
        let _held = [socket("203.0.113.1").await.ok(), socket("203.0.113.2").await.ok()];
        assert_eq!(socket("203.0.113.3").await.err(), Some((429, "too_many_sockets".into())), "{flags:?}");
    }
}

#[tokio::test]
async fn event_streams_count_by_the_forwarded_address() {
    let redis = Redis::start();
    let flags = ["--max-connections-per-address", "2", "--trusted-proxy", "127.0.0.1"];
    let daemon = with(&redis, &flags).await;
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let stream = async |forwarded: &str| {
        let request = http.get(daemon.url("/v1/events?all=true")).header(FORWARDED, forwarded);
        request.send().await.expect("it answers")
    };
    let (first, second) = (stream("203.0.113.1").await, stream("203.0.113.1").await);
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 200));
    let third = stream("203.0.113.1").await;
    assert_eq!(third.status().as_u16(), 429);
    let body: Value = serde_json::from_str(&third.text().await.expect("a body")).expect("JSON");
    assert_eq!(body["error"]["code"], "too_many_connections");
    let others = [stream("203.0.113.2").await, stream("203.0.113.3").await, stream("203.0.113.4").await];
    assert!(others.iter().all(|other| other.status() == 200), "more than two connections of the proxy");
    drop(first);
    until("there is a place again", async || (stream("203.0.113.1").await.status() == 200).then_some(()))
        .await;
}

#[tokio::test]
async fn wrong_tokens_and_the_log_use_the_forwarded_address() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let secret = issuer.secret_file();
    let flags =
        ["--jwt-secret", &secret, "--trusted-proxy", "127.0.0.1", "--max-wrong-tokens-per-second", "1"];
    let daemon = with(&redis, &flags).await;
    let guess = async |forwarded: &str| {
        let headers = [("authorization", "Bearer guess"), (FORWARDED, forwarded)];
        call(&daemon, "GET", "/v1/users/alice", None, &headers).await.status
    };
    until("guesses are limited", async || (guess("203.0.113.1").await == 429).then_some(())).await;
    assert_eq!(guess("203.0.113.2").await, 401, "another client of the same proxy");
    until("the log names the client", async || daemon.log().contains("203.0.113.1").then_some(())).await;
    assert!(!daemon.log().contains("address=127.0.0.1"), "{}", daemon.log());
}
