//! Access that ends before a token's `exp`: `--revoked` and `DELETE /v1/sockets`.

use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, signal};
use crate::common::tokens::{Issuer, call, call_as, now_s, socket_as};
use crate::common::{PATIENCE, until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const OPERATOR: &str = "token-of-the-operator";

/// A daemon with clients' tokens, an empty file of `--revoked`, and service tokens of two backends.
async fn start(redis: &Redis, issuer: &Issuer) -> Daemon {
    let service =
        issuer.write("service", &format!("ops:admin:{OPERATOR}\nweb:read,write:token-of-the-backend\n"));
    let revoked = issuer.write("revoked", "");
    let url = redis.url();
    let args = [
        "--redis",
        &url,
        "--jwt-secret",
        &issuer.secret_file(),
        "--service-token",
        &service,
        "--revoked",
        &revoked,
    ];
    Daemon::with(&args).await
}

/// Reads the files again, and waits until the daemon has done so for the `count`th time.
async fn reload(daemon: &Daemon, count: usize) {
    signal(daemon.pid(), "HUP");
    let done = async || (daemon.log().matches("were reloaded").count() == count).then_some(());
    until("the files are reloaded", done).await;
}

/// Opens a stream of bob's changes. The task returns its whole text when it has ended.
async fn stream(daemon: &Daemon, token: &str) -> JoinHandle<String> {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer =
        http.get(daemon.url("/v1/events?users=bob")).bearer_auth(token).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    tokio::spawn(async move { timeout(PATIENCE, answer.text()).await.expect("it ends").expect("text") })
}

/// The code and reason with which a socket closes, past changes of users.
async fn close_of(socket: &mut crate::common::socket::Socket) -> (u16, String) {
    loop {
        if let Err(end) = socket.next_or_close().await {
            return end;
        }
    }
}

#[tokio::test]
async fn revoked_tokens_end_at_a_hangup() {
    let (redis, issuer) = (Redis::start(), Issuer::new());
    let daemon = start(&redis, &issuer).await;
    let token = |sub: &str, id: &str| {
        issuer.sign(&json!({"sub": sub, "jti": id, "watch": "*", "exp": now_s() + 600}))
    };
    let (alice, carol, other) = (token("alice", "1"), token("carol", "2"), token("carol", "3"));
    let (mut by_user, _) = socket_as(&daemon, &alice, "").await;
    let (mut by_id, _) = socket_as(&daemon, &carol, "").await;
    let (mut stays, _) = socket_as(&daemon, &other, "").await;
    let ends = stream(&daemon, &alice).await;
    issuer.write("revoked", "# left the company\nalice\n2\n");
    reload(&daemon, 1).await;
    for socket in [&mut by_user, &mut by_id] {
        assert_eq!(close_of(socket).await, (4003, "forbidden: the token was revoked".into()));
    }
    let text = ends.await.expect("no panic");
    assert!(text.contains("invalid_token") && text.contains("revoked"), "{text}");
    for (token, status) in [(&alice, 401), (&token("alice", "9"), 401), (&carol, 401), (&other, 200)] {
        let answer = call_as(&daemon, token, "GET", "/v1/users/bob", None).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert_eq!(answer.code(), if status == 401 { "invalid_token" } else { "" });
    }
    stays.send(json!({"type": "auth", "token": carol, "id": 1})).await;
    let answer = stays.next().await;
    assert_eq!((&answer["code"], &answer["id"]), (&json!("invalid_token"), &json!(1)), "{answer}");
    // A file that cannot be read leaves everything as it is.
    std::fs::remove_file(issuer.path("revoked")).expect("a file");
    signal(daemon.pid(), "HUP");
    until("the reload fails", async || daemon.log().contains("not all reloaded: ").then_some(())).await;
    assert_eq!(call_as(&daemon, &alice, "GET", "/v1/users/bob", None).await.status, 401);
    issuer.write("revoked", "");
    reload(&daemon, 2).await;
    assert_eq!(call_as(&daemon, &alice, "GET", "/v1/users/bob", None).await.status, 200);
}

#[tokio::test]
async fn revoked_file_counts_from_the_start() {
    let (redis, issuer) = (Redis::start(), Issuer::new());
    let (url, secret) = (redis.url(), issuer.secret_file());
    let revoked = issuer.write("revoked", "alice\r\n");
    let daemon = Daemon::with(&["--redis", &url, "--jwt-secret", &secret, "--revoked", &revoked]).await;
    let answer = call_as(&daemon, &issuer.token("alice", &["*"]), "GET", "/v1/users/bob", None).await;
    assert_eq!((answer.status, answer.code()), (401, "invalid_token"));
    assert_eq!(
        call_as(&daemon, &issuer.token("bob", &["*"]), "GET", "/v1/users/bob", None).await.status,
        200
    );
    assert!(!daemon.log().contains("alice"), "{}", daemon.log());
}

#[tokio::test]
async fn operator_closes_all_connections_of_a_user() {
    let (redis, issuer) = (Redis::start(), Issuer::new());
    let daemon = start(&redis, &issuer).await;
    let alice = issuer.token("alice", &["bob"]);
    let (mut phone, _) = socket_as(&daemon, &alice, "?session=phone").await;
    let (mut tab, _) = socket_as(&daemon, &alice, "?session=tab").await;
    let (mut backend, _) = socket_as(&daemon, "token-of-the-backend", "?user=alice").await;
    let (mut other, _) = socket_as(&daemon, &issuer.token("bob", &["alice"]), "?session=tab").await;
    let ends = stream(&daemon, &alice).await;
    redis.call(&["SET", "presence:alice#cron", "1", "EX", "600"]);
    let path = "/v1/sockets?user=alice";
    let answer = call_as(&daemon, OPERATOR, "DELETE", path, None).await;
    assert_eq!((answer.status, &answer.body), (200, &json!({"closed": 4})));
    for socket in [&mut phone, &mut tab, &mut backend] {
        let (code, reason) = close_of(socket).await;
        assert!(code == 4003 && reason.starts_with("forbidden: an operator"), "{code} {reason}");
    }
    let text = ends.await.expect("no panic");
    assert!(text.contains("\"forbidden\""), "{text}");
    assert_eq!(redis.presence_keys(), ["presence:bob#tab"], "all her keys are deleted, and only hers");
    other.send(json!({"type": "watch", "users": ["alice"]})).await;
    until("alice is offline", async || {
        let answer = call_as(&daemon, "token-of-the-backend", "GET", "/v1/users/alice", None).await;
        (answer.body["state"] == "offline").then_some(())
    })
    .await;
    let answer = call_as(&daemon, OPERATOR, "DELETE", path, None).await;
    assert_eq!(answer.body, json!({"closed": 0}), "they are closed already");
    // The token itself is still valid.
    socket_as(&daemon, &alice, "").await;
}

#[tokio::test]
async fn only_an_operator_closes_connections() {
    let (redis, issuer) = (Redis::start(), Issuer::new());
    let daemon = start(&redis, &issuer).await;
    let alice = issuer.token("alice", &["*"]);
    let (mut socket, _) = socket_as(&daemon, &alice, "").await;
    let path = "/v1/sockets?user=alice";
    for (token, path, status, code) in [
        ("token-of-the-backend", path, 403, "forbidden"),
        (&alice, path, 403, "forbidden"),
        (OPERATOR, "/v1/sockets", 400, "invalid_request"),
        (OPERATOR, "/v1/sockets?users=alice", 400, "invalid_request"),
        (OPERATOR, "/v1/sockets?user=", 400, "invalid_user"),
        (OPERATOR, "/v1/sockets?user=a%23b", 400, "invalid_user"),
    ] {
        let answer = call_as(&daemon, token, "DELETE", path, None).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{path} {}", answer.body);
    }
    assert_eq!(call(&daemon, "DELETE", path, None, &[]).await.status, 401);
    let operator = format!("{path}&token={OPERATOR}");
    assert_ne!(call(&daemon, "DELETE", &operator, None, &[]).await.status, 200, "a write has it in a header");
    socket.send(json!({"type": "ping", "id": 1})).await;
    let mut answer = Value::Null;
    while answer["type"] != "pong" {
        answer = socket.next().await;
    }
}

/// Reads what daemons publish to each other, until a message orders to close sockets.
async fn order_on(stream: &mut TcpStream) -> String {
    let (mut text, mut some) = (String::new(), [0; 4096]);
    let order = async {
        loop {
            let read = stream.read(&mut some).await.expect("Redis answers");
            text += std::str::from_utf8(&some[..read]).expect("text");
            let order = text.lines().find(|line| line.contains("close_sockets") && line.ends_with('}'));
            if let Some(order) = order {
                return order.to_owned();
            }
        }
    };
    timeout(PATIENCE, order).await.expect("an order")
}

#[tokio::test]
async fn other_daemons_close_sockets_too_and_obey_no_forged_order() {
    let (redis, issuer, stranger) = (Redis::start(), Issuer::new(), Issuer::new());
    let first = start(&redis, &issuer).await;
    let second = start(&redis, &issuer).await;
    // It follows the same users, but does not know the operator's token.
    let strange = stranger.write("service", "another-token-of-an-operator\n");
    let apart = Daemon::with(&["--redis", &redis.url(), "--service-token", &strange]).await;
    let (alice, bob) = (issuer.token("alice", &["bob"]), issuer.token("bob", &["alice"]));
    let (mut there, _) = socket_as(&second, &alice, "?session=there").await;
    let (mut bobs, _) = socket_as(&second, &bob, "?session=there").await;
    let (mut untouched, _) =
        socket_as(&apart, "another-token-of-an-operator", "?user=alice&session=apart").await;
    let channel = "__keyevent@0__:keybeat-daemons:presence:";
    let mut spy = TcpStream::connect(("127.0.0.1", redis.port)).await.expect("Redis listens");
    spy.write_all(format!("SUBSCRIBE {channel}\r\n").as_bytes()).await.expect("it reads");
    // The order must not be published before Redis has subscribed the spy.
    let mut confirmed = Vec::new();
    while !confirmed.ends_with(b":1\r\n") {
        confirmed.push(spy.read_u8().await.expect("Redis confirms"));
    }
    let answer = call_as(&first, OPERATOR, "DELETE", "/v1/sockets?user=alice", None).await;
    assert_eq!((answer.status, &answer.body), (200, &json!({"closed": 0})), "none was at this daemon");
    let (code, reason) = close_of(&mut there).await;
    assert!(code == 4003 && reason.starts_with("forbidden: an operator"), "{code} {reason}");
    let order = order_on(&mut spy).await;
    assert!(!order.contains(OPERATOR), "{order}");
    until("her keys are gone", async || {
        (!redis.presence_keys().contains(&"presence:alice#there".to_owned())).then_some(())
    })
    .await;
    // Forged: for another user, sent again, from another sender, without a proof.
    let (mut again, _) = socket_as(&second, &alice, "?session=again").await;
    let (mut sender, _) = socket_as(&first, &alice, "?session=sender").await;
    for forged in [
        order.replace("alice", "bob"),
        order.clone(),
        order.replacen("\"from\":\"", "\"from\":\"x", 1),
        r#"{"v":1,"from":"x","type":"close_sockets","user":"alice","proof":""}"#.into(),
    ] {
        redis.call(&["PUBLISH", channel, &forged]);
    }
    until("the daemon has refused them", async || {
        let metrics = call(&second, "GET", "/metrics", None, &[]).await.body;
        metrics.as_str()?.contains("keybeat_channel_messages_total{cause=\"refused_order\"} 4").then_some(())
    })
    .await;
    for socket in [&mut again, &mut sender, &mut bobs, &mut untouched] {
        socket.send(json!({"type": "ping", "id": 1})).await;
        while socket.next().await["type"] != "pong" {}
    }
}

#[tokio::test]
async fn closing_sockets_says_what_was_done_without_redis() {
    let (redis, issuer) = (Redis::start(), Issuer::new());
    let daemon = start(&redis, &issuer).await;
    let (mut socket, _) = socket_as(&daemon, &issuer.token("alice", &["bob"]), "?session=tab").await;
    redis.signal("STOP");
    let answer = call_as(&daemon, OPERATOR, "DELETE", "/v1/sockets?user=alice", None).await;
    redis.signal("CONT");
    assert_eq!((answer.status, answer.code()), (503, "redis_unavailable"), "{}", answer.body);
    let message = answer.body["error"]["message"].as_str().expect("a text");
    for words in [
        "1 socket or stream of \"alice\" at this daemon is closed",
        "other daemons",
        "send the request again",
    ] {
        assert!(message.contains(words), "{words:?} is missing: {message}");
    }
    assert!(!message.contains("nothing was written"), "{message}");
    assert_eq!(close_of(&mut socket).await.0, 4003, "this daemon closed it");
}
