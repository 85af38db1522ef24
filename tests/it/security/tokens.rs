//! Tokens: who is let in, and for what. The rules of the claims themselves have tests in src/web/token.rs.

use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, signal};
use crate::common::socket::Socket;
use crate::common::tokens::{Issuer, call, call_as, now_s, socket_as, try_socket};
use crate::common::until;
use serde_json::{Value, json};
use std::process::Command;

/// A daemon that asks for tokens of this issuer.
async fn start(redis: &Redis, issuer: &Issuer) -> Daemon {
    Daemon::with(&["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()]).await
}

/// Every request that there is, each with a body that it takes.
fn requests() -> Vec<(&'static str, &'static str, Option<Value>)> {
    vec![
        ("PUT", "/v1/users/alice/heartbeat", None),
        ("POST", "/v1/heartbeats", Some(json!({"users": ["alice"]}))),
        ("DELETE", "/v1/users/alice", None),
        ("GET", "/v1/users/alice", None),
        ("POST", "/v1/users/query", Some(json!({"users": ["alice"]}))),
        ("GET", "/v1/users", None),
        ("GET", "/v1/stats", None),
        ("GET", "/v1/ws", None),
        ("GET", "/v1/events", None),
        ("GET", "/v1/users/query", None),
        ("DELETE", "/v1/sockets?user=alice", None),
        ("PUT", "/v1/users/alice/status", Some(json!({"text": "away"}))),
        ("DELETE", "/v1/users/alice/status", None),
        ("GET", "/v1/groups/team-a", None),
        ("GET", "/v1/nowhere", None),
        ("PATCH", "/v1/users/alice", None),
        ("GET", "/nowhere", None),
    ]
}

#[tokio::test]
async fn only_public_pages_answer_without_a_token() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = start(&redis, &issuer).await;
    for path in ["/", "/console/console.js", "/keybeat.js", "/healthz", "/readyz", "/metrics"] {
        assert_eq!(call(&daemon, "GET", path, None, &[]).await.status, 200, "{path}");
    }
    let expired = issuer.sign(&json!({"sub": "alice", "watch": "*", "exp": now_s() - 60}));
    let early = issuer.sign(&json!({"sub": "alice", "exp": now_s() + 99, "nbf": now_s() + 60}));
    let foreign = Issuer::new().token("alice", &["*"]);
    let good = issuer.token("alice", &["*"]);
    for (method, path, body) in requests() {
        let answer = call(&daemon, method, path, body.clone(), &[]).await;
        assert_eq!((answer.status, answer.code()), (401, "unauthorized"), "{method} {path}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        for token in [&expired, &early, &foreign, "nonsense", ""] {
            let answer = call_as(&daemon, token, method, path, body.clone()).await;
            assert_eq!(answer.status, 401, "{method} {path} {token}");
            assert!(!answer.body.to_string().contains("eyJ"), "{}", answer.body);
        }
        for other in ["Basic YWxpY2U6eA==", "Bearer", &format!("Token {good}"), &format!("Bearer: {good}")] {
            let answer = call(&daemon, method, path, body.clone(), &[("authorization", other)]).await;
            assert_eq!(answer.status, 401, "{method} {path} {other}");
        }
    }
    assert_eq!(redis.presence_keys(), [""; 0], "nothing was written");
}

#[tokio::test]
async fn token_limits_user_and_watches() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = start(&redis, &issuer).await;
    let alice = issuer.token("alice", &["bob", "team-*"]);
    let board = issuer.sign(&json!({"watch": "*", "exp": now_s() + 60}));
    let silent = issuer.sign(&json!({"sub": "alice", "exp": now_s() + 60}));
    let own = |user: &str| json!({"users": ["alice", {"user": user, "session": "s"}]});
    let ask = |user: &str| json!({"users": ["bob", user]});
    for (token, method, path, body, status) in [
        (&alice, "PUT", "/v1/users/alice/heartbeat", None, 204),
        (&alice, "PUT", "/v1/users/alice/heartbeat", Some(json!({"session": "phone"})), 204),
        (&alice, "PUT", "/v1/users/bob/heartbeat", None, 403),
        (&alice, "PUT", "/v1/users/Alice/heartbeat", None, 403),
        (&alice, "POST", "/v1/heartbeats", Some(own("alice")), 204),
        (&alice, "POST", "/v1/heartbeats", Some(json!({"users": ["bob"]})), 403),
        (&alice, "POST", "/v1/heartbeats", Some(own("bob")), 200),
        (&alice, "DELETE", "/v1/users/bob", None, 403),
        (&alice, "DELETE", "/v1/users/bob?session=s", None, 403),
        (&alice, "DELETE", "/v1/users/alice?session=s", None, 204),
        (&alice, "GET", "/v1/users/bob", None, 200),
        (&alice, "GET", "/v1/users/team-1", None, 200),
        (&alice, "GET", "/v1/users/team", None, 403),
        (&alice, "GET", "/v1/users/alice", None, 200),
        (&alice, "POST", "/v1/users/query", Some(ask("team-2")), 200),
        (&alice, "POST", "/v1/users/query", Some(ask("carol")), 200),
        (&alice, "GET", "/v1/users", None, 403),
        (&alice, "GET", "/v1/users?state=offline", None, 403),
        (&alice, "GET", "/v1/users/query", None, 403),
        (&alice, "DELETE", "/v1/users/query", None, 403),
        (&alice, "GET", "/v1/stats", None, 403),
        (&board, "GET", "/v1/users", None, 200),
        (&board, "GET", "/v1/stats", None, 200),
        (&board, "GET", "/v1/users/carol", None, 200),
        (&board, "PUT", "/v1/users/alice/heartbeat", None, 403),
        (&board, "DELETE", "/v1/users/alice", None, 403),
        (&silent, "GET", "/v1/users/bob", None, 403),
        (&silent, "PUT", "/v1/users/alice/heartbeat", None, 204),
    ] {
        let answer = call_as(&daemon, token, method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        assert_eq!(answer.code(), if status == 403 { "forbidden" } else { "" });
    }
    let asked = Some(json!({"users": ["bob", "carol"]}));
    let answer = call_as(&daemon, &alice, "POST", "/v1/users/query", asked).await.body;
    assert_eq!(
        (&answer["users"][0]["state"], &answer["users"][1]["error"]["code"]),
        (&json!("offline"), &json!("forbidden"))
    );
    assert_eq!(redis.presence_keys(), ["presence:alice", "presence:alice#phone"]);
}

#[tokio::test]
async fn token_is_accepted_in_three_ways() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = start(&redis, &issuer).await;
    let token = issuer.token("alice", &["bob"]);
    let bearer = format!("Bearer {token}");
    let protocols = format!("keybeat.v1, bearer.{token}");
    let query = format!("?token={token}");
    for (query, headers) in [
        ("", [("authorization", &*bearer)]),
        ("", [("authorization", &*bearer.replace("Bearer", "bearer"))]),
        ("", [("sec-websocket-protocol", &*protocols)]),
        (&*query, [("x-none", "")]),
        (&*format!("?session=tab&token={}", token.replace('.', "%2E")), [("x-none", "")]),
    ] {
        let mut socket = try_socket(&daemon, query, &headers).await.unwrap_or_else(|why| panic!("{why:?}"));
        assert_eq!(socket.next().await["user"], "alice", "{query} {headers:?}");
    }
    let answer = call(&daemon, "GET", &format!("/v1/users/bob?token={token}"), None, &[]).await;
    assert_eq!(answer.status, 200);
    let answer = call(&daemon, "PUT", &format!("/v1/users/alice/heartbeat?token={token}"), None, &[]).await;
    assert_eq!(answer.status, 401, "a write carries it in a header");
    let twice =
        reqwest::Client::builder().no_proxy().build().expect("a client").get(daemon.url("/v1/users/bob"));
    let twice = twice.header("authorization", &bearer).header("authorization", &bearer).send().await;
    assert_eq!(twice.expect("an answer").status(), 401, "which of two would count?");
    // A token that does not count is not passed over for one that would.
    let both = [("authorization", "Bearer x"), ("sec-websocket-protocol", &*protocols)];
    assert_eq!(try_socket(&daemon, &query, &both).await.err(), Some((401, "invalid_token".into())));
    assert_eq!(try_socket(&daemon, "", &[]).await.err(), Some((401, "unauthorized".into())));
}

#[tokio::test]
async fn socket_follows_its_token() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = start(&redis, &issuer).await;
    let token = issuer.token("alice", &["bob", "team-*"]);
    let refused = try_socket(&daemon, "?user=bob", &[("authorization", &format!("Bearer {token}"))]).await;
    assert_eq!(refused.err(), Some((403, "forbidden".into())));
    let (mut socket, hello) = socket_as(&daemon, &token, "?session=phone").await;
    assert_eq!(hello["user"], "alice");
    assert_eq!(redis.presence_keys(), ["presence:alice#phone"], "its heartbeat goes on by itself");
    socket.send(json!({"type": "watch", "users": ["bob", "team-7"], "id": 1})).await;
    assert_eq!(socket.snapshot().await.len(), 2);
    for (id, message) in [
        json!({"type": "watch", "all": true}),
        json!({"type": "watch", "all": true, "lossless": true}),
        json!({"type": "heartbeat", "user": "bob"}),
    ]
    .into_iter()
    .enumerate()
    {
        let mut asked = message.clone();
        asked["id"] = json!(id);
        socket.send(asked).await;
        let answer = socket.next().await;
        assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!("forbidden")), "{message}");
        assert_eq!(answer["id"], id);
    }
    socket.send(json!({"type": "watch", "users": ["bob", "carol"]})).await;
    let answer = socket.next().await;
    assert_eq!(
        (&answer["users"][0]["user"], answer["users"].as_array().map(Vec::len)),
        (&json!("bob"), Some(1))
    );
    assert_eq!(
        (&answer["refused"][0]["user"], &answer["refused"][0]["code"]),
        (&json!("carol"), &json!("forbidden"))
    );
    socket.send(json!({"type": "heartbeat", "user": "alice"})).await;
    socket.send(json!({"type": "heartbeat"})).await;
    redis.call(&["SET", "presence:carol", "1", "EX", "30"]);
    redis.call(&["SET", "presence:bob", "1", "EX", "30"]);
    let told = socket.transitions().await;
    assert_eq!((told.len(), &told[0]["user"]), (1, &json!("bob")), "{told:?}");
    assert_eq!(redis.presence_keys(), ["presence:alice#phone", "presence:bob", "presence:carol"]);
}

#[tokio::test]
async fn repeated_forbidden_watches_close_the_socket() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = start(&redis, &issuer).await;
    let (mut socket, _) = socket_as(&daemon, &issuer.token("alice", &[]), "").await;
    let mut errors = 0;
    let end = loop {
        socket.send(json!({"type": "watch", "users": ["bob"]})).await;
        match socket.next_or_close().await {
            Ok(answer) => assert_eq!(answer["refused"][0]["code"], "forbidden"),
            Err(end) => break end,
        }
        errors += 1;
    };
    assert_eq!((errors, end.0), (16, 4003), "{end:?}");
}

#[tokio::test]
async fn expired_token_is_renewed_or_closes_the_socket() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = start(&redis, &issuer).await;
    let short = || issuer.token_for("alice", &["bob"], 2);
    let (mut renewing, _) = socket_as(&daemon, &short(), "?session=a").await;
    let (mut silent, _) = socket_as(&daemon, &short(), "?session=b").await;
    renewing.send(json!({"type": "watch", "users": ["bob"]})).await;
    renewing.snapshot().await;
    let warning = renewing.next().await;
    assert_eq!((&warning["type"], &warning["state"]), (&json!("token"), &json!("expiring")), "{warning}");
    let left = warning["expires_ms"].as_u64().expect("a time") as i64 / 1000 - now_s() as i64;
    assert!((0..=2).contains(&left), "{warning}");
    // What does not do in its place: nothing, another's, one that allows less, one that has run out.
    for (token, code) in [
        ("nonsense".to_owned(), "invalid_token"),
        (Issuer::new().token("alice", &["bob"]), "invalid_token"),
        (issuer.sign(&json!({"sub": "alice", "watch": ["bob"], "exp": now_s() - 60})), "invalid_token"),
        (issuer.token("alice", &["carol"]), "forbidden"),
    ] {
        renewing.send(json!({"type": "auth", "token": token, "id": 7})).await;
        let answer = renewing.next().await;
        assert_eq!((&answer["code"], &answer["id"]), (&json!(code), &json!(7)), "{answer}");
    }
    renewing.send(json!({"type": "auth", "token": issuer.token("alice", &["bob", "dan"]), "id": 8})).await;
    let renewed = renewing.next().await;
    assert_eq!((&renewed["state"], &renewed["id"]), (&json!("renewed"), &json!(8)), "{renewed}");
    assert_eq!(silent.next().await["state"], "expiring");
    let (code, reason) = silent.next_or_close().await.expect_err("its token has run out");
    assert_eq!((code, reason.starts_with("token_expired")), (4001, true), "{reason}");
    // The first one lives on, with what the new token allows.
    renewing.send(json!({"type": "watch", "users": ["dan"]})).await;
    assert_eq!(renewing.snapshot().await.len(), 1);
    renewing.send(json!({"type": "auth", "token": issuer.token("mallory", &["*"])})).await;
    assert_eq!(renewing.next_or_close().await.expect_err("another sub").0, 4003);
}

#[tokio::test]
async fn renewed_token_is_checked_like_the_first() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = start(&redis, &issuer).await;
    let all = || issuer.token_for("alice", &["*"], 2);
    let (mut socket, _) = socket_as(&daemon, &all(), "").await;
    socket.send(json!({"type": "watch", "all": true})).await;
    let expiring = async |socket: &mut Socket| loop {
        // Who comes meanwhile, alice herself too, is told in between.
        let message = socket.next().await;
        if message["state"] == "expiring" {
            break;
        }
        assert!(message["type"] == "snapshot" || message["type"] == "transitions", "{message}");
    };
    expiring(&mut socket).await;
    socket.send(json!({"type": "auth", "token": issuer.token("alice", &["bob"])})).await;
    assert_eq!(socket.next().await["code"], "forbidden", "it watches everybody");
    socket.send(json!({"type": "auth", "token": all()})).await;
    assert_eq!(socket.next().await["state"], "renewed");
    expiring(&mut socket).await;
    assert_eq!(socket.next_or_close().await.expect_err("the second has run out too").0, 4001);
}

#[tokio::test]
async fn keys_rotate_at_sighup() {
    let redis = Redis::start();
    let mut issuer = Issuer::new();
    let daemon = start(&redis, &issuer).await;
    let old = issuer.token("alice", &["*"]);
    let (mut socket, hello) = socket_as(&daemon, &old, "").await;
    std::fs::write(issuer.secret_file(), "").expect("a file");
    signal(daemon.pid(), "HUP");
    until("it says that the file is bad", async || daemon.log().contains("not all reloaded: ").then_some(()))
        .await;
    assert_eq!(call_as(&daemon, &old, "GET", "/v1/users/bob", None).await.status, 200, "the old key stays");
    issuer.rotate();
    signal(daemon.pid(), "HUP");
    assert_eq!(socket.next_or_close().await.expect_err("its key is gone").0, 4001);
    assert_eq!(call_as(&daemon, &old, "GET", "/v1/users/bob", None).await.status, 401);
    let (_, again) = socket_as(&daemon, &issuer.token("alice", &["*"]), "").await;
    assert_eq!(hello["epoch"], again["epoch"], "without a restart");
}

#[tokio::test]
async fn reload_never_makes_a_public_key_a_secret() {
    let redis = Redis::start();
    let mut issuer = Issuer::new();
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let file = issuer.write("key.pem", &pair.public_key_pem());
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-key", &file]).await;
    assert!(daemon.log().contains("verified by ES256"), "{}", daemon.log());
    issuer.rotate();
    for (count, text) in [issuer.secret().to_owned(), "<html>502</html>".into()].iter().enumerate() {
        issuer.write("key.pem", text);
        signal(daemon.pid(), "HUP");
        let failed = async || (daemon.log().matches("not all reloaded: ").count() > count).then_some(());
        until("the daemon reports that it has not reloaded", failed).await;
        let token = issuer.token("alice", &["*"]);
        let answer = call_as(&daemon, &token, "GET", "/v1/users/bob", None).await;
        assert_eq!((answer.status, answer.code()), (401, "invalid_token"), "{text}");
    }
}

#[tokio::test]
async fn key_kept_at_reload_keeps_its_sockets() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let k = |secret: &str| {
        // URL-safe base64 by way of a token's header would be long; secrets of hex digits need no padding.
        let bits: String = secret.bytes().map(|byte| format!("{byte:08b}")).collect();
        let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let six = bits.as_bytes().chunks(6).map(|six| {
            let six = format!("{:0<6}", String::from_utf8_lossy(six));
            char::from(digits[usize::from_str_radix(&six, 2).expect("bits")])
        });
        six.collect::<String>()
    };
    let first = json!({"kty": "oct", "kid": "1", "k": k(issuer.secret())});
    let second = json!({"kty": "oct", "kid": "2", "k": k("another-secret-of-forty-characters-or-so")});
    let file = issuer.write("jwks.json", &json!({"keys": [first]}).to_string());
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-key", &file]).await;
    let (mut socket, _) = socket_as(&daemon, &issuer.token("alice", &["bob"]), "").await;
    issuer.write("jwks.json", &json!({"keys": [second, first]}).to_string());
    signal(daemon.pid(), "HUP");
    until("it has read them", async || daemon.log().contains("reloaded").then_some(())).await;
    socket.send(json!({"type": "watch", "users": ["bob"]})).await;
    assert_eq!(socket.snapshot().await.len(), 1);
    issuer.write("jwks.json", &json!({"keys": [second]}).to_string());
    signal(daemon.pid(), "HUP");
    assert_eq!(socket.next_or_close().await.expect_err("its key is gone").0, 4001);
}

#[tokio::test]
async fn service_token_works_until_its_line_is_removed() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let file = issuer.write("service", "old-service-token\nnew-service-token\n");
    let daemon = Daemon::with(&["--redis", &redis.url(), "--service-token", &file]).await;
    for token in ["old-service-token", "new-service-token"] {
        for (method, path, body) in requests() {
            let answer = call_as(&daemon, token, method, path, body).await;
            assert!(![401, 403].contains(&answer.status), "{method} {path}: {answer:?}");
        }
    }
    for token in ["", "old-service-toke", "old-service-token2", "old-service-token\tnew-service-token"] {
        assert_eq!(call_as(&daemon, token, "GET", "/v1/users/bob", None).await.status, 401, "{token:?}");
    }
    let answer = call_as(&daemon, &issuer.token("alice", &["*"]), "GET", "/v1/users/bob", None).await;
    assert_eq!(answer.status, 401, "there is no key for clients' tokens");
    let (mut socket, hello) = socket_as(&daemon, "old-service-token", "?user=whoever").await;
    assert_eq!(hello["user"], "whoever");
    socket.send(json!({"type": "watch", "all": true})).await;
    socket.snapshot().await;
    issuer.write("service", "new-service-token\n");
    signal(daemon.pid(), "HUP");
    let end = loop {
        // The coming of the users named here may be told first.
        if let Err(end) = socket.next_or_close().await {
            break end;
        }
    };
    assert_eq!(end.0, 4001, "its token is gone");
    assert_eq!(call_as(&daemon, "old-service-token", "GET", "/v1/users/bob", None).await.status, 401);
    assert_eq!(call_as(&daemon, "new-service-token", "GET", "/v1/users/bob", None).await.status, 200);
}

#[tokio::test]
async fn service_token_has_only_its_scopes() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let lines = "# backends\nreader:read:token-of-the-reader\nwriter:write:token-of-the-writer\n\
                 operator:admin:token-of-the-operator\n";
    let (file, audit) = (issuer.write("service", lines), issuer.path("audit"));
    let daemon = Daemon::with(&["--redis", &redis.url(), "--service-token", &file, "--audit", &audit]).await;
    let (reader, writer) = ("token-of-the-reader", "token-of-the-writer");
    let operator = "token-of-the-operator";
    let users = |names: &[&str]| Some(json!({ "users": names }));
    let mut refused = 0;
    for (token, method, path, body, status) in [
        (reader, "GET", "/v1/users/alice", None, 200),
        (reader, "GET", "/v1/users", None, 200),
        (reader, "GET", "/v1/stats", None, 200),
        (reader, "PUT", "/v1/users/alice/heartbeat", None, 403),
        (reader, "POST", "/v1/heartbeats", users(&["alice"]), 403),
        (reader, "POST", "/v1/heartbeats", users(&["a#b", "alice"]), 403),
        (reader, "POST", "/v1/heartbeats", users(&[]), 403),
        (reader, "POST", "/v1/users/query", users(&["alice"]), 200),
        (reader, "GET", "/v1/events", None, 400),
        (reader, "DELETE", "/v1/sockets?user=alice", None, 403),
        (reader, "DELETE", "/v1/users/alice", None, 403),
        (writer, "PUT", "/v1/users/alice/heartbeat", None, 204),
        (writer, "DELETE", "/v1/users/alice", None, 204),
        (writer, "GET", "/v1/users/alice", None, 403),
        (writer, "GET", "/v1/users", None, 403),
        (writer, "GET", "/v1/stats", None, 403),
        (writer, "GET", "/v1/events?all=true", None, 403),
        (writer, "GET", "/v1/events?users=a%23b,alice", None, 403),
        (writer, "POST", "/v1/users/query", users(&["alice"]), 403),
        (writer, "POST", "/v1/users/query", users(&["a#b"]), 403),
        (writer, "POST", "/v1/users/query", users(&[]), 403),
        (operator, "POST", "/v1/users/query", users(&["alice"]), 403),
        (operator, "POST", "/v1/heartbeats", users(&["alice"]), 403),
        (operator, "GET", "/v1/ws", None, 403),
        (operator, "DELETE", "/v1/sockets?user=alice", None, 200),
        ("# backends", "GET", "/v1/users/alice", None, 401),
        ("reader:read:token-of-the-reader", "GET", "/v1/users/alice", None, 401),
    ] {
        let answer = call_as(&daemon, token, method, path, body).await;
        assert_eq!(answer.status, status, "{token} {method} {path}: {}", answer.body);
        assert!(status != 403 || answer.code() == "forbidden", "{token} {method} {path}: {}", answer.body);
        refused += usize::from(status == 403);
    }
    until("each refusal has a line in the audit", async || {
        let text = std::fs::read_to_string(&audit).ok()?;
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (lines.iter().filter(|line| line["code"] == "forbidden").count() == refused).then_some(())
    })
    .await;
    let (mut socket, _) = socket_as(&daemon, writer, "?user=alice").await;
    for watch in [json!({"type": "watch", "all": true}), json!({"type": "watch", "users": ["bob"]})] {
        socket.send(watch).await;
        assert_eq!(socket.next().await["code"], "forbidden");
    }
    socket.send(json!({"type": "auth", "token": reader})).await;
    assert_eq!(socket.next().await["code"], "forbidden", "the socket speaks for alice");
    let bearer = format!("Bearer {reader}");
    let refused = try_socket(&daemon, "?user=alice", &[("authorization", &bearer)]).await;
    assert_eq!(refused.err(), Some((403, "forbidden".into())));
}

#[tokio::test]
async fn secrets_appear_in_no_output() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let service = issuer.write("service", "very-secret-service-token\n");
    let daemon = Daemon::with(&[
        "--redis",
        &redis.url(),
        "--jwt-secret",
        &issuer.secret_file(),
        "--service-token",
        &service,
        "--log",
        "trace",
    ])
    .await;
    let token = issuer.token("alice", &["*"]);
    let wrong = Issuer::new().token("alice", &["*"]);
    let mut told = String::new();
    for token in [&token, &wrong, "very-secret-service-token", "very-secret-wrong-token"] {
        for path in ["/v1/stats", "/v1/users/alice", "/nowhere", "/v1/ws"] {
            let query = format!("{path}?token={token}");
            told += &call_as(&daemon, token, "GET", path, None).await.body.to_string();
            told += &call(&daemon, "GET", &query, None, &[]).await.body.to_string();
        }
        if let Ok(mut socket) = try_socket(&daemon, &format!("?token={token}"), &[]).await {
            socket.send(json!({"type": "auth", "token": token})).await;
            socket.send(json!({"type": "auth", "token": {"not": token}})).await;
            socket.send_text(&format!("{{\"type\":\"auth\",\"token\":\"{token}")).await;
            socket.send(json!({"type": "leave"})).await;
        }
    }
    told += &call(&daemon, "GET", "/metrics", None, &[]).await.body.to_string();
    told += &daemon.log();
    told += &std::fs::read_to_string(format!("/proc/{}/cmdline", daemon.pid())).expect("the process list");
    let signature = |token: &str| token.rsplit('.').next().unwrap_or_default().to_owned();
    for secret in [issuer.secret(), &signature(&token), &signature(&wrong), "very-secret"] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
    assert!(told.contains("invalid_token"), "{told}");
}

/// `keybeat serve` with these arguments, which has to end by itself: its exit code and what it said.
fn refused(args: &[&str]) -> (Option<i32>, String) {
    let ran = Command::new("timeout")
        .args(["10", env!("CARGO_BIN_EXE_keybeat"), "serve"])
        .args(args)
        .output()
        .expect("keybeat was built");
    (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
}

#[test]
fn open_daemon_off_loopback_does_not_start() {
    let issuer = Issuer::new();
    let (key, empty) = (issuer.secret_file(), issuer.write("empty", "\n"));
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let pem = issuer.write("pem", &pair.public_key_pem());
    let short = issuer.write("short", &"x".repeat(31));
    let guessable = issuer.write("guessable", &format!("{}\n{}\n", "long".repeat(8), "x".repeat(15)));
    let tokens: String = (10..27).map(|number| format!("a-service-token-{number}\n")).collect();
    let many = issuer.write("many", &tokens);
    let twice =
        issuer.write("twice", "reader:read:the-same-service-token\nadmin:admin:the-same-service-token\n");
    let open = ["--listen", "0.0.0.0:0"];
    for (args, code, words) in [
        (&open[..], 2, &["0.0.0.0", "loopback", "--jwt-key", "--service-token", "--no-auth"][..]),
        (&["--listen", "127.0.0.1:0", "--no-auth", "--jwt-secret", &key], 2, &["--no-auth", "--jwt-secret"]),
        (&["--listen", "127.0.0.1:0", "--revoked", &empty], 2, &["--revoked", "--jwt-key", "--jwt-secret"]),
        (
            &["--listen", "127.0.0.1:0", "--jwt-secret", &key, "--revoked", "/nowhere/revoked"],
            2,
            &["--revoked", "/nowhere/revoked", "cannot be read"],
        ),
        (
            &["--listen", "127.0.0.1:0", "--jwt-audience", "x"],
            2,
            &["--jwt-audience", "--jwt-key", "--jwt-secret"],
        ),
        (&["--listen", "127.0.0.1:0", "--jwt-key", &key], 2, &["--jwt-key", "--jwt-secret FILE"]),
        (&["--listen", "127.0.0.1:0", "--jwt-secret", &pem], 2, &["--jwt-secret", "--jwt-key FILE"]),
        (&["--listen", "127.0.0.1:0", "--jwt-key", "/nowhere/key"], 2, &["/nowhere/key", "cannot be read"]),
        (
            &["--listen", "127.0.0.1:0", "--service-token", "/nowhere/key"],
            2,
            &["/nowhere/key", "openssl rand"],
        ),
        (&["--listen", "127.0.0.1:0", "--jwt-secret", &short], 2, &["31 bytes", "32", "openssl rand"]),
        (&["--listen", "127.0.0.1:0", "--service-token", &guessable], 2, &["15 bytes", "openssl rand"]),
        (&["--listen", "127.0.0.1:0", "--service-token", &many], 2, &["16 lines"]),
        (
            &["--listen", "127.0.0.1:0", "--service-token", &twice],
            2,
            &["line 2 repeats the token", "openssl rand"],
        ),
        (&["--listen", "127.0.0.1:0", "--jwt-key", &empty], 2, &["empty", "--jwt-key"]),
        (&["--listen", "127.0.0.1:0", "--service-token", &empty], 2, &["empty", "--service-token"]),
    ] {
        let (ended, said) = refused(args);
        assert_eq!(ended, Some(code), "{args:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{args:?} does not say {word}: {said}");
        }
        assert!(!said.contains(issuer.secret()));
    }
}

/// A command that shows this daemon a token.
fn command(daemon: &Daemon, args: &[&str], token: Option<&str>, file: Option<&str>) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    command.args(["10", env!("CARGO_BIN_EXE_keybeat")]).args(args).args(["--url", &daemon.url("")]);
    command.envs(token.map(|token| ("KEYBEAT_TOKEN", token)));
    command.args(file.iter().flat_map(|file| ["--token-file", file]));
    let ran = command.output().expect("keybeat was built");
    (
        ran.status.code(),
        String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_read_their_token_from_file_or_environment() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = start(&redis, &issuer).await;
    let token = issuer.token("alice", &["alice"]);
    let file = issuer.write("token", &format!("{token}\n"));
    assert_eq!(command(&daemon, &["beat", "alice"], Some(&token), None), (Some(0), String::new()));
    daemon_sees(&daemon, &token, "alice").await;
    assert_eq!(command(&daemon, &["get", "alice"], None, Some(&file)).0, Some(0));
    let wrong = issuer.sign(&json!({"sub": "alice", "exp": now_s() - 60}));
    for (args, token, word) in [
        (&["get", "alice"][..], None, "--token-file"),
        (&["watch"], None, "--token-file"),
        (&["watch"], Some(&*wrong), "expired"),
        (&["watch", "bob"], Some(&*token), "bob"),
        (&["beat", "bob"], Some(&*token), "bob"),
    ] {
        let (code, said) = command(&daemon, args, token, None);
        assert_eq!(code, Some(1), "it gives up: {args:?} {said}");
        assert!(said.contains(word) && !said.contains(&wrong), "{args:?}: {said}");
    }
}

async fn daemon_sees(daemon: &Daemon, token: &str, user: &str) {
    until("the heartbeat has come", async || {
        let answer = call_as(daemon, token, "GET", &format!("/v1/users/{user}"), None).await;
        (answer.body["state"] == "online").then_some(())
    })
    .await;
}
