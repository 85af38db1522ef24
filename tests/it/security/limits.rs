//! Limits: each is reached once, says so in its way, and those already in are served.

use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, fill, signal};
use crate::common::socket::Socket;
use crate::common::tokens::{Issuer, call, call_as, socket_as, try_socket};
use crate::common::{PATIENCE, until};
use futures_util::SinkExt;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// A daemon with these flags.
async fn with(redis: &Redis, flags: &[&str]) -> Daemon {
    Daemon::with(&[&["--redis", &redis.url()][..], flags].concat()).await
}

/// Waits until this limit has been counted.
async fn counted(daemon: &Daemon, limit: &str) {
    let wanted = format!("keybeat_limits_reached_total{{cause=\"{limit}\"}}");
    until(&wanted, async || {
        let (_, text) = daemon.call("GET", "/metrics", None).await;
        text.as_str().expect("a text").contains(&wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn sockets_in_all_and_of_one_address() {
    let redis = Redis::start();
    for (flags, refused, limit) in [
        (["--max-sockets", "2"], 503, "sockets"),
        (["--max-sockets-per-address", "2"], 429, "sockets_per_address"),
    ] {
        let daemon = with(&redis, &flags).await;
        let mut first = daemon.socket("?user=alice").await;
        let second = daemon.socket("").await;
        let answer = try_socket(&daemon, "", &[]).await;
        assert_eq!(answer.err(), Some((refused, "too_many_sockets".into())));
        first.send(json!({"type": "watch", "users": ["alice"]})).await;
        assert_eq!(first.snapshot().await.len(), 1, "who is in is served");
        drop(second);
        until("there is a place again", async || try_socket(&daemon, "", &[]).await.ok()).await;
        counted(&daemon, limit).await;
    }
}

/// Reads until the other side has closed.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset ends it too: what was never read by the daemon goes so.
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("it closes").ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sends a GET on a connection of its own, and returns all of the answer.
async fn ask(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    rest(&mut stream).await
}

/// Opens a connection and sends the beginning of a request.
async fn begun(daemon: &Daemon) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("it listens");
    stream.write_all(b"GET /v1/stats HTTP/1.1\r\nhost: 127.0.0.1\r\nx: ").await.expect("it reads");
    stream
}

#[tokio::test]
async fn full_door_answers_health_and_refuses_with_a_body() {
    let redis = Redis::start();
    for (flags, refused, limit) in [
        (["--max-connections", "6"], "503", "connections"),
        (["--max-connections-per-address", "6"], "429", "connections_per_address"),
    ] {
        let daemon = with(&redis, &flags).await;
        let mut socket = daemon.socket("?user=alice").await;
        let mut held = Vec::new();
        // The daemon sees the first bytes of a request at some time after they were sent.
        let answer = until("the door is full", async || {
            held.push(begun(&daemon).await);
            let answer = ask(daemon.port, "/v1/users/alice").await;
            answer.contains("too_many_connections").then_some(answer)
        })
        .await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {refused}")), "{answer}");
        assert!(answer.contains("retry-after") && answer.contains("\"message\""), "{answer}");
        for path in ["/healthz", "/readyz", "/metrics", "/v1/stats"] {
            let answer = ask(daemon.port, path).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        }
        socket.send(json!({"type": "watch", "users": ["alice"]})).await;
        assert_eq!(socket.snapshot().await.len(), 1, "a socket has a place of its own");
        drop(held);
        until("there is a place again", async || {
            ask(daemon.port, "/v1/users/alice").await.starts_with("HTTP/1.1 200").then_some(())
        })
        .await;
        counted(&daemon, limit).await;
    }
}

#[tokio::test]
async fn idle_connection_gives_its_place_to_a_new_one() {
    let redis = Redis::start();
    let daemon = with(&redis, &["--max-connections", "6"]).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("it listens"));
    }
    assert!(ask(daemon.port, "/v1/users/alice").await.starts_with("HTTP/1.1 200"));
    assert_eq!(rest(&mut idle[0]).await, "", "the oldest is closed");
    // By a connection of its own: the client's idle one may have been closed this very moment.
    let metrics = ask(daemon.port, "/metrics").await;
    assert!(metrics.contains("keybeat_ready") && !metrics.contains("limits_reached_total{"), "{metrics}");
}

#[tokio::test]
async fn idle_connection_has_a_longer_time_than_headers() {
    let redis = Redis::start();
    let daemon = with(&redis, &["--handshake-timeout", "300ms", "--idle-timeout", "1s"]).await;
    let mut unused = TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("it listens");
    let mut kept = TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("it listens");
    kept.write_all(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await.expect("it reads");
    let start = Instant::now();
    assert!(rest(&mut kept).await.starts_with("HTTP/1.1 200"));
    assert_eq!(rest(&mut unused).await, "");
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    let (_, metrics) = daemon.call("GET", "/metrics", None).await;
    assert!(!metrics.as_str().expect("a text").contains("limits_reached_total{"), "idle is no refusal");
    assert!(!daemon.log().contains("refused"), "{}", daemon.log());
}

#[tokio::test]
async fn health_and_metrics_move_to_the_admin_port() {
    let redis = Redis::start();
    let flags = ["--redis", &redis.url(), "--admin-listen", "127.0.0.1:0", "--max-connections", "0"];
    let daemon = Daemon::launch(&flags);
    let port: u16 = until("the address is logged", async || {
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains("health and metrics on"))?;
        line.rsplit(':').next()?.trim().parse().ok()
    })
    .await;
    until("the daemon is ready", async || ask(port, "/readyz").await.contains(" 200 ").then_some(())).await;
    for path in ["/healthz", "/readyz", "/metrics", "/v1/stats"] {
        let answer = ask(port, path).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        assert!(ask(daemon.port, path).await.starts_with("HTTP/1.1 404"), "{path} is not at --listen");
    }
    assert!(ask(port, "/v1/users/alice").await.starts_with("HTTP/1.1 404"));
    assert!(ask(daemon.port, "/v1/users/alice").await.contains("too_many_connections"));
}

#[tokio::test]
async fn headers_and_bodies_have_their_time() {
    let redis = Redis::start();
    let flags = ["--handshake-timeout", "300ms", "--body-timeout", "300ms", "--max-body-bytes", "1000"];
    let daemon = with(&redis, &flags).await;
    assert!(!rest(&mut begun(&daemon).await).await.contains(" 200 "));
    counted(&daemon, "handshake_timeout").await;
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("it listens");
    let head = "PUT /v1/users/alice/heartbeat HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 20\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("within"), "{answer}");
    counted(&daemon, "body_timeout").await;
    let long = json!({"users": ["x".repeat(2000)]});
    let answer = call(&daemon, "POST", "/v1/heartbeats", Some(long), &[]).await;
    assert_eq!((answer.status, answer.code()), (413, "too_large"));
    counted(&daemon, "body_bytes").await;
    assert_eq!(redis.presence_keys(), [""; 0]);
}

#[tokio::test]
async fn messages_per_second_and_their_length() {
    let redis = Redis::start();
    let daemon = with(&redis, &["--max-messages-per-second", "2", "--max-message-bytes", "100"]).await;
    for message in [Message::text("{}"), Message::Ping(Default::default()), Message::Pong(Default::default())]
    {
        let mut socket = daemon.socket("").await;
        for _ in 0..40 {
            if socket.ws.send(message.clone()).await.is_err() {
                break;
            }
        }
        let end = loop {
            if let Err(end) = socket.next_or_close().await {
                break end;
            }
        };
        assert_eq!(end.0, 4029, "{message:?}: {end:?}");
    }
    counted(&daemon, "messages_per_second").await;
    let mut socket = daemon.socket("").await;
    socket.send_text(&format!("{{\"type\":\"leave\",\"x\":\"{}\"}}", "x".repeat(100))).await;
    assert_eq!(socket.next_or_close().await.expect_err("too long").0, 1009);
    counted(&daemon, "message_bytes").await;
}

#[tokio::test]
async fn watches_of_a_socket() {
    let redis = Redis::start();
    let daemon = with(&redis, &["--max-watches-per-socket", "3"]).await;
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "users": ["a", "b"]})).await;
    socket.snapshot().await;
    socket.send(json!({"type": "watch", "users": ["b", "c", "d"], "id": 1})).await;
    let snapshot = socket.next().await;
    assert_eq!(snapshot["users"].as_array().map(Vec::len), Some(2), "{snapshot}");
    assert_eq!(snapshot["refused"][0]["code"], "too_many_watches");
    let message = snapshot["refused"][0]["message"].as_str().expect("a text");
    assert!(message.starts_with("this socket would watch 4 users by name; the limit is 3"), "{message}");
    // Names that are invalid, or named twice, count nowhere.
    let users = json!(["b", "x#y", "", "b", "c", "d", "d", "e"]);
    socket.send(json!({"type": "watch", "users": users, "replace": true, "id": 3})).await;
    let refused = socket.next().await["refused"].clone();
    let codes: Vec<_> = refused.as_array().expect("a list").iter().map(|one| one["code"].clone()).collect();
    assert_eq!(codes, ["invalid_user", "invalid_user", "too_many_watches"]);
    let message = refused[2]["message"].as_str().expect("a text");
    assert!(message.starts_with("this socket would watch 4 users by name; the limit is 3"), "{message}");
    socket.send(json!({"type": "watch", "users": ["b", "c"], "id": 2})).await;
    assert_eq!(socket.snapshot().await.len(), 2);
    counted(&daemon, "watches_per_socket").await;
}

#[tokio::test]
async fn quotas_hold_for_each_way_of_heartbeats() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let service = issuer.write("service", "token-of-the-backend\n");
    let flags =
        ["--jwt-secret", &issuer.secret_file(), "--service-token", &service, "--max-keys-per-token", "3"];
    let daemon = with(&redis, &[&flags[..], &["--max-heartbeats-per-second", "2"]].concat()).await;
    let (alice, path) = (issuer.token("alice", &[]), "/v1/users/alice/heartbeat");
    let put = async |session: &str| {
        let answer = call_as(&daemon, &alice, "PUT", path, Some(json!({"session": session}))).await;
        (answer.status, answer.code().to_owned())
    };
    let (mut socket, _) = socket_as(&daemon, &alice, "?session=s1").await;
    for session in ["s2", "s3", "s2"] {
        assert_eq!(put(session).await.0, 204);
    }
    assert_eq!(put("s4").await, (429, "too_many_sessions".into()));
    let bearer = format!("Bearer {alice}");
    let refused = try_socket(&daemon, "", &[("authorization", &bearer)]).await;
    assert_eq!(refused.err(), Some((429, "too_many_sessions".into())));
    assert_eq!(call_as(&daemon, &alice, "DELETE", "/v1/users/alice?session=s3", None).await.status, 204);
    assert_eq!(put("s4").await.0, 204, "one was given back");
    assert_eq!(redis.presence_keys(), ["presence:alice#s1", "presence:alice#s2", "presence:alice#s4"]);
    // Of the 20 at once some are used up; another token of alice begins no new count.
    let again = issuer.token_for("alice", &[], 600);
    let refused = until("it is too often", async || {
        let answer = call_as(&daemon, &again, "PUT", path, Some(json!({"session": "s2"}))).await;
        (answer.status != 204).then_some(answer)
    })
    .await;
    assert_eq!((refused.status, refused.code()), (429, "too_many_heartbeats"));
    assert_eq!(refused.headers["retry-after"], "1");
    for _ in 0..3 {
        socket.send(json!({"type": "heartbeat"})).await;
    }
    assert_eq!(socket.next().await["code"], "too_many_heartbeats", "the socket stays open");
    let bob = issuer.token("bob", &[]);
    assert_eq!(call_as(&daemon, &bob, "PUT", "/v1/users/bob/heartbeat", None).await.status, 204);
    for i in 0..50 {
        let body = Some(json!({"session": format!("b{i}")}));
        assert_eq!(
            call_as(&daemon, "token-of-the-backend", "PUT", path, body).await.status,
            204,
            "a backend has no quota"
        );
    }
    for limit in ["heartbeats", "sessions"] {
        counted(&daemon, limit).await;
    }
}

#[tokio::test]
async fn wrong_tokens_of_one_address() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let flags = ["--jwt-secret", &issuer.secret_file(), "--max-wrong-tokens-per-second", "1"];
    let daemon = with(&redis, &flags).await;
    let (good, wrong) = (issuer.token("alice", &["bob"]), Issuer::new().token("alice", &["bob"]));
    let (mut socket, _) = socket_as(&daemon, &good, "").await;
    for i in 0..10 {
        assert_eq!(call_as(&daemon, &wrong, "GET", "/v1/users/bob", None).await.status, 401, "{i}");
    }
    let refused = until("it is too often", async || {
        let answer = call_as(&daemon, &wrong, "GET", "/v1/users/bob", None).await;
        (answer.status != 401).then_some(answer)
    })
    .await;
    assert_eq!((refused.status, refused.code()), (429, "too_many_wrong_tokens"));
    assert_eq!(
        (&refused.headers["retry-after"], &refused.headers["connection"]),
        (&"1".parse().expect("a value"), &"close".parse().expect("a value"))
    );
    assert_eq!(
        call_as(&daemon, &good, "GET", "/v1/users/bob", None).await.status,
        200,
        "a right one is taken"
    );
    assert_eq!(call(&daemon, "GET", "/v1/users/bob", None, &[]).await.status, 401, "none is not a wrong one");
    counted(&daemon, "wrong_tokens").await;
    // Neither can it go on with sockets.
    let end = loop {
        socket.send(json!({"type": "auth", "token": wrong})).await;
        match socket.next_or_close().await {
            Ok(answer) => assert_eq!(answer["code"], "invalid_token"),
            Err(end) => break end,
        }
    };
    assert_eq!(end.0, 4029, "{end:?}");
}

#[tokio::test]
async fn socket_that_keeps_guessing_tokens_is_closed() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = with(&redis, &["--jwt-secret", &issuer.secret_file()]).await;
    let (mut socket, _) = socket_as(&daemon, &issuer.token("alice", &[]), "").await;
    let wrong = Issuer::new().token("alice", &[]);
    let end = loop {
        socket.send(json!({"type": "auth", "token": wrong})).await;
        match socket.next_or_close().await {
            Ok(answer) => assert_eq!(answer["code"], "invalid_token"),
            Err(end) => break end,
        }
    };
    assert_eq!(end.0, 4003, "{end:?}");
}

#[tokio::test]
async fn goodbyes_count_as_heartbeats() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let flags = ["--jwt-secret", &issuer.secret_file(), "--max-heartbeats-per-second", "2"];
    let daemon = with(&redis, &flags).await;
    let (mut socket, _) = socket_as(&daemon, &issuer.token("bob", &[]), "").await;
    for _ in 0..40 {
        socket.send(json!({"type": "leave"})).await;
    }
    assert_eq!(socket.next().await["code"], "too_many_heartbeats");
    let alice = issuer.token("alice", &[]);
    let mut ended = 0;
    let refused = until("it is too often", async || {
        let answer = call_as(&daemon, &alice, "DELETE", "/v1/users/alice?session=tab", None).await;
        ended += u32::from(answer.status == 204);
        (answer.status != 204).then_some(answer)
    })
    .await;
    assert_eq!((refused.status, refused.code()), (429, "too_many_heartbeats"));
    assert!((20..100).contains(&ended), "{ended} logouts");
    counted(&daemon, "heartbeats").await;
}

#[tokio::test]
async fn watches_that_wait_are_bounded() {
    let mut redis = Redis::start();
    redis.kill();
    // 0.2 MB for a watch.
    let users: Vec<String> = (0..3_000).map(|i| format!("u{i}")).collect();
    let refusals = async |socket: &mut Socket, watches: u32| {
        for id in 0..watches {
            socket.send(json!({"type": "watch", "users": users, "id": id})).await;
        }
        socket.send(json!({"type": "ping"})).await;
        let mut refused = Vec::new();
        loop {
            let message = socket.next().await;
            match message["type"].as_str() {
                Some("error") => {
                    refused.push(format!("{} {}", message["id"], message["code"].as_str().expect("a code")))
                }
                Some("pong") => return refused,
                _ => {}
            }
        }
    };
    let narrow = Daemon::launch(&["--redis", &redis.url(), "--max-bodies-bytes", "400000"]);
    let wide = Daemon::launch(&["--redis", &redis.url()]);
    let open = async |daemon: &Daemon| {
        until("the daemon listens", async || Socket::try_connect(daemon.port).await).await
    };
    let mut sockets = [open(&narrow).await, open(&narrow).await, open(&wide).await];
    assert_eq!(refusals(&mut sockets[0], 2).await, ["1 busy"]);
    assert_eq!(refusals(&mut sockets[1], 1).await, ["0 busy"], "all sockets share the memory");
    assert_eq!(refusals(&mut sockets[2], 5).await, ["3 not_ready", "4 not_ready"], "10,000 names each");
    for (daemon, limit) in [(&narrow, "bodies_bytes"), (&wide, "waiting_watches")] {
        counted(daemon, limit).await;
    }
    // So do event streams: 0.65 MB for 10,000 names.
    let commas = format!("/v1/events?users={}", ",a".repeat(9_999));
    let answer = ask(narrow.port, &commas).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("busy"), "{answer}");
    redis.run();
    let (mut answered, mut users) = (0, 0);
    while answered < 3 {
        let message = sockets[2].next().await;
        if message["type"] == "snapshot" {
            assert_eq!(message["id"], answered);
            users += message["users"].as_array().map_or(0, Vec::len);
            answered += usize::from(message["more"] == false);
        }
    }
    assert_eq!(users, 9_000);
}

#[tokio::test]
async fn requests_to_redis_and_bodies_under_way() {
    let redis = Redis::start();
    let daemon = with(&redis, &["--max-redis-requests", "1", "--max-bodies-bytes", "30"]).await;
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "users": ["alice"]})).await;
    socket.snapshot().await;
    redis.signal("STOP");
    let beat = || daemon.call("PUT", "/v1/users/alice/heartbeat", None);
    let answers = tokio::join!(beat(), beat(), beat());
    redis.signal("CONT");
    let mut codes = [answers.0, answers.1, answers.2].map(|(status, body)| {
        assert_eq!(status, 503);
        body["error"]["code"].as_str().expect("a code").to_owned()
    });
    codes.sort();
    assert_eq!(codes, ["busy", "busy", "redis_unavailable"]);
    counted(&daemon, "redis_requests").await;
    // A body that hangs holds what has come of it, and no more.
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("it listens");
    let head = "PUT /v1/users/alice/heartbeat HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 26\r\n\r\n";
    stream.write_all(format!("{head}{{\"session\": \"aaaaaaaaa").as_bytes()).await.expect("it reads");
    let full = until("there is no room", async || {
        let answer = call(&daemon, "POST", "/v1/users/query", Some(json!({"users": ["a"]})), &[]).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!((full.status, full.code()), (503, "busy"));
    assert_eq!(full.headers["retry-after"], "1");
    counted(&daemon, "bodies_bytes").await;
    drop(stream);
    until("there is room again", async || {
        let answer = call(&daemon, "POST", "/v1/users/query", Some(json!({"users": ["a"]})), &[]).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn sockets_streams_and_watches_of_one_user() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let secret = issuer.secret_file();
    let flags = [
        ["--jwt-secret", &secret],
        ["--max-sockets-per-user", "2"],
        ["--max-streams-per-user", "1"],
        ["--max-watches-per-user", "4"],
    ];
    let daemon = with(&redis, flags.as_flattened()).await;
    let [alice, bob] = ["alice", "bob"].map(|user| issuer.token(user, &["*"]));
    let (mut first, _) = socket_as(&daemon, &alice, "").await;
    let (mut second, _) = socket_as(&daemon, &issuer.token_for("alice", &["*"], 600), "").await;
    let bearer = format!("Bearer {alice}");
    let refused = try_socket(&daemon, "", &[("authorization", &bearer)]).await;
    assert_eq!(refused.err(), Some((429, "too_many_sockets".into())), "another token does not help");
    // A token without a user counts by itself.
    let nobody = issuer.sign(&json!({"exp": crate::common::now_ms() / 1_000 + 60}));
    let sockets = [socket_as(&daemon, &nobody, "").await, socket_as(&daemon, &nobody, "").await];
    let anonymous = format!("Bearer {nobody}");
    let refused = try_socket(&daemon, "", &[("authorization", &anonymous)]).await;
    assert_eq!(refused.err(), Some((429, "too_many_sockets".into())));
    drop(sockets);
    drop(socket_as(&daemon, &bob, "").await);
    // Three watches of the first socket leave one to the second.
    first.send(json!({"type": "watch", "users": ["a", "b", "c"]})).await;
    assert_eq!(first.snapshot().await.len(), 3);
    let watch = async |socket: &mut Socket| {
        socket.send(json!({"type": "watch", "users": ["d", "e"], "replace": true})).await;
        let snapshot = socket.next().await;
        (snapshot["users"].as_array().map(Vec::len), snapshot["refused"][0].clone())
    };
    let (watched, refused) = watch(&mut second).await;
    assert_eq!((watched, &refused["code"]), (Some(1), &json!("too_many_watches")));
    let message = refused["message"].as_str().expect("a text");
    assert!(
        message.starts_with(
            "all sockets and event streams of this user together would watch 5 users by name; the limit is 4"
        ),
        "{message}"
    );
    first.send(json!({"type": "unwatch", "users": ["a"]})).await;
    first.send(json!({"type": "ping"})).await;
    assert_eq!(first.next().await["type"], "pong");
    assert_eq!(watch(&mut second).await, (Some(2), json!(null)), "an unwatch makes room");
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let stream = async |token: &str| {
        let url = daemon.url(&format!("/v1/events?users=alice&token={token}"));
        http.get(url).send().await.expect("the daemon answers")
    };
    let open = stream(&bob).await;
    assert_eq!(open.status(), 200);
    let refused = stream(&bob).await;
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().ok()), (429, Some("1")));
    assert!(refused.text().await.expect("a body").contains("too_many_streams"));
    drop(open);
    until("there is a place again", async || (stream(&bob).await.status() == 200).then_some(())).await;
    for limit in ["sockets_per_user", "streams_per_user", "watches_per_user"] {
        counted(&daemon, limit).await;
    }
}

#[tokio::test]
async fn requests_per_second_of_one_user() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let service = issuer.write("service", "token-of-the-backend\n");
    let flags = ["--jwt-secret", &issuer.secret_file(), "--service-token", &service];
    let daemon = with(&redis, &[&flags[..], &["--max-requests-per-second", "1"]].concat()).await;
    let ask = async |token: &str| {
        let answer = call_as(&daemon, token, "GET", "/v1/users/alice", None).await;
        (answer.status, answer.code().to_owned())
    };
    let (first, second) = (issuer.token("alice", &[]), issuer.token_for("alice", &[], 600));
    for _ in 0..5 {
        assert_eq!((ask(&first).await.0, ask(&second).await.0), (200, 200));
    }
    let refused =
        until("it is too often", async || Some(ask(&first).await).filter(|(status, _)| *status != 200));
    assert_eq!(refused.await, (429, "too_many_requests".into()));
    assert_eq!(ask(&issuer.token("bob", &["alice"])).await.0, 200, "another user has a quota of its own");
    for _ in 0..30 {
        assert_eq!(ask("token-of-the-backend").await.0, 200, "a backend has none");
    }
    until("the quota fills again", async || (ask(&second).await.0 == 200).then_some(())).await;
    counted(&daemon, "requests").await;
}

/// A connection whose client reads nothing, and so little of which the kernel takes.
async fn unread(daemon: &Daemon, request: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stream = socket.connect(([127, 0, 0, 1], daemon.port).into()).await.expect("it listens");
    stream.write_all(request).await.expect("it reads");
    stream
}

/// A request with an answer of more than 2 MB.
fn long_query() -> Vec<u8> {
    let users: Vec<String> = (0..10_000).map(|i| format!("{i:0>200}")).collect();
    let body = json!({"users": users}).to_string();
    let head = format!(
        "POST /v1/users/query HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body.into_bytes()].concat()
}

async fn gauge(daemon: &Daemon, name: &str) -> u64 {
    let (_, text) = daemon.call("GET", "/metrics", None).await;
    let line = text.as_str().expect("a text").lines().find_map(|line| line.strip_prefix(name));
    line.expect("the metric").trim().parse().expect("a number")
}

#[tokio::test]
async fn answer_that_nobody_reads_ends_by_lack_of_progress() {
    let redis = Redis::start();
    let daemon = with(&redis, &["--write-timeout", "1s"]).await;
    let query = long_query();
    let (_stuck, mut slow) = (unread(&daemon, &query).await, unread(&daemon, &query).await);
    // It reads slowly, for longer than the time limit.
    let (mut bytes, began) = (Vec::new(), Instant::now());
    while began.elapsed() < Duration::from_secs(3) {
        let mut some = vec![0; 8_192];
        let read = timeout(PATIENCE, slow.read(&mut some)).await.expect("in time").expect("it is open");
        bytes.extend(&some[..read]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    counted(&daemon, "write_timeout").await;
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(2_000)]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let whole = length.parse::<usize>().expect("a number") + head.find("\r\n\r\n").expect("a head") + 4;
    while bytes.len() < whole {
        let mut some = vec![0; 8_192];
        let read = timeout(PATIENCE, slow.read(&mut some)).await.expect("in time").expect("it is open");
        assert_ne!(read, 0, "{} of {whole} bytes came", bytes.len());
        bytes.extend(&some[..read]);
    }
}

#[tokio::test]
async fn unread_answers_and_streams_share_one_memory_limit() {
    let redis = Redis::start();
    fill(&redis, &format!("presence:{}", "x".repeat(200)), 10_000);
    let daemon = with(&redis, &["--mailbox-mib", "8"]).await;
    let events = b"GET /v1/events?all=true HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
    let stream = unread(&daemon, events).await;
    until("the stream is stuck", async || {
        (gauge(&daemon, "keybeat_mailbox_bytes ").await > 100_000).then_some(())
    })
    .await;
    let query = long_query();
    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.push(unread(&daemon, &query).await);
    }
    until("some are closed", async || {
        (gauge(&daemon, "keybeat_crowded_sockets_total ").await >= 3).then_some(())
    })
    .await;
    until("the rest fits", async || (gauge(&daemon, "keybeat_mailbox_bytes ").await < 8 << 20).then_some(()))
        .await;
    assert_eq!(gauge(&daemon, "keybeat_event_streams ").await, 1, "the stream holds less than the answers");
    drop((answers, stream));
    until("nothing waits", async || (gauge(&daemon, "keybeat_mailbox_bytes ").await == 0).then_some(()))
        .await;
}

#[tokio::test]
async fn stuck_stream_ends_with_its_token() {
    let redis = Redis::start();
    fill(&redis, &format!("presence:{}", "x".repeat(200)), 10_000);
    let issuer = Issuer::new();
    let secret = issuer.secret_file();
    let daemon = with(&redis, &["--jwt-secret", &secret]).await;
    let events =
        |query: &str| format!("GET /v1/events?all=true&token={query} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
    let _stuck = unread(&daemon, events(&issuer.token("alice", &["*"])).as_bytes()).await;
    until("the stream is stuck", async || {
        (gauge(&daemon, "keybeat_mailbox_bytes ").await > 100_000).then_some(())
    })
    .await;
    std::fs::write(&secret, "another secret of more than 32 bytes").expect("a file");
    signal(daemon.pid(), "HUP");
    let began = Instant::now();
    until("the stream has ended", async || {
        (gauge(&daemon, "keybeat_event_streams ").await == 0).then_some(())
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn announced_body_over_the_limit_is_refused_at_once() {
    let redis = Redis::start();
    // Without the fix the answer comes after --body-timeout, or never.
    let daemon = with(&redis, &["--body-timeout", "1h"]).await;
    for (method, path) in [
        ("PUT", "/v1/users/alice/heartbeat"),
        ("POST", "/v1/heartbeats"),
        ("POST", "/v1/users/query"),
        ("DELETE", "/v1/users/alice"),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("it listens");
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000000000000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("it reads");
        let mut answer = Vec::new();
        while !answer.ends_with(b"}}") {
            let byte = timeout(PATIENCE, stream.read_u8()).await.expect("an answer at once");
            answer.push(byte.expect("an answer"));
        }
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.starts_with("HTTP/1.1 413 ") && answer.contains("too_large"),
            "{method} {path}: {answer}"
        );
    }
    counted(&daemon, "body_bytes").await;
}
