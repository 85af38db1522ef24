//! `GET /v1/users/{user}?sessions=true`, at two daemons of one Redis.

use crate::common::cluster::Cluster;
use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::tokens::{Issuer, call_as};
use crate::common::until;
use serde_json::{Value, json};

/// The sessions without what is left of their TTLs, once the daemon lists these; and what is left of each.
async fn listed(daemon: &Daemon, user: &str, wanted: &Value) -> Vec<Option<u64>> {
    let what = format!("the sessions are {wanted}");
    let left = until(&what, async || {
        let last = daemon.get(&format!("/v1/users/{user}?sessions=true")).await;
        let list = last["sessions_list"].as_array().expect("a list").clone();
        assert_eq!(last["sessions"].as_u64().unwrap_or_default(), list.len() as u64, "{last}");
        let all = list.iter().zip(wanted.as_array().expect("a list")).all(|(one, wanted)| is(one, wanted));
        let left = list.iter().map(|one| one["ttl_left_ms"].as_u64()).collect();
        (all && Some(list.len()) == wanted.as_array().map(Vec::len)).then_some(left)
    });
    left.await
}

/// Is this the session with this name, TTL and key? On a busy machine the daemon learns a TTL that is a little too short.
fn is(one: &Value, wanted: &Value) -> bool {
    let ttl = match (one["ttl_ms"].as_u64(), wanted[1].as_u64()) {
        (Some(ttl), Some(wanted)) => (wanted.saturating_sub(2_000)..=wanted).contains(&ttl),
        (ttl, wanted) => ttl == wanted,
    };
    ttl && one["session"] == wanted[0] && one["key"] == wanted[2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_daemons_list_the_sessions() {
    let redis = Redis::start();
    let daemons = [Daemon::start(&redis).await, Daemon::start(&redis).await];
    for (key, ttl) in [("alice", "20000"), ("alice#phone", "45000")] {
        redis.call(&["SET", &format!("presence:{key}"), "1", "PX", ttl]);
    }
    redis.call(&["SET", "presence:alice#tv", "1"]);
    let body = json!({"session": "tab", "ttl_ms": 5_000});
    assert_eq!(daemons[0].call("PUT", "/v1/users/alice/heartbeat", Some(body)).await.0, 204);
    let wanted = json!([
        [null, 20_000, "presence:alice"],
        ["phone", 45_000, "presence:alice#phone"],
        ["tab", 5_000, "presence:alice#tab"],
        ["tv", null, "presence:alice#tv"],
    ]);
    for daemon in &daemons {
        let left = listed(daemon, "alice", &wanted).await;
        for (left, most) in left.iter().zip([Some(20_000), Some(45_000), Some(5_000)]) {
            assert!((1..=most.unwrap_or(0)).contains(&left.unwrap_or(0)), "{left:?} of {most:?}");
        }
        assert_eq!(left[3], None, "a key without a TTL");
    }
    redis.call(&["DEL", "presence:alice", "presence:alice#tv", "presence:alice#tab"]);
    for daemon in &daemons {
        listed(daemon, "alice", &json!([["phone", 45_000, "presence:alice#phone"]])).await;
        let object = daemon.get("/v1/users/alice").await;
        assert!(object.get("sessions_list").is_none(), "{object}");
        let nobody = daemon.get("/v1/users/query?sessions=true").await;
        assert_eq!(
            nobody,
            json!({"user": "query", "state": "offline", "last_seen_ms": null, "sessions_list": []})
        );
    }
}

#[tokio::test]
async fn listed_session_is_one_that_a_delete_ends() {
    let cluster = Cluster::start(2, 0).await;
    let daemon =
        Daemon::with(&["--redis", &cluster.url(), "--key-pattern", "user:<user>:at:<session>"]).await;
    // The keys lie at both nodes.
    for session in ["a", "b", "c", "d", "e", "f"] {
        let path = format!("/v1/users/alice/heartbeat?session={session}&ttl_ms=60000");
        assert_eq!(daemon.call("PUT", &path, None).await.0, 204);
    }
    let row = |session: &str| json!([session, 60_000, format!("user:alice:at:{session}")]);
    listed(&daemon, "alice", &["a", "b", "c", "d", "e", "f"].map(row).into_iter().collect()).await;
    assert_eq!(daemon.call("DELETE", "/v1/users/alice?session=c", None).await.0, 204);
    listed(&daemon, "alice", &["a", "b", "d", "e", "f"].map(row).into_iter().collect()).await;
}

#[tokio::test]
async fn session_list_needs_the_rights_of_a_query() {
    let mut redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()]).await;
    redis.call(&["SET", "presence:bob#tab", "1", "EX", "60"]);
    let ask = async |watch: &[&str], query: &str| {
        let path = format!("/v1/users/bob?{query}");
        let answer = call_as(&daemon, &issuer.token("alice", watch), "GET", &path, None).await;
        (answer.status, answer.code().to_owned(), answer.body)
    };
    let (status, code, _) = ask(&["carl"], "sessions=true").await;
    assert_eq!((status, code.as_str()), (403, "forbidden"));
    until("bob is online", async || {
        let (status, _, body) = ask(&["bob"], "sessions=true").await;
        assert_eq!(status, 200, "{body}");
        (body["sessions_list"][0]["key"] == "presence:bob#tab").then_some(())
    })
    .await;
    let (status, code, body) = ask(&["bob"], "sessions=maybe").await;
    assert_eq!((status, code.as_str()), (400, "invalid_request"));
    assert!(body["error"]["message"].as_str().expect("a text").contains("true or false"), "{body}");
    redis.kill();
    daemon.not_ready().await;
    let (status, code, _) = ask(&["bob"], "sessions=true").await;
    assert_eq!((status, code.as_str()), (503, "redis_unavailable"));
    let (status, _, body) = ask(&["bob"], "sessions=false").await;
    assert_eq!((status, &body["stale"]), (200, &json!(true)), "the state is still answered");
}
