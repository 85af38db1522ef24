//! Web pages: which may speak to the daemon. The rules one by one have tests in src/web/origin.rs.

use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::tokens::{Issuer, call, try_socket};
use crate::common::{PATIENCE, until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[tokio::test]
async fn page_of_another_origin_is_refused() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let own = format!("http://127.0.0.1:{}", daemon.port);
    let localhost = format!("localhost:{}", daemon.port);
    let own_by_name = format!("http://{localhost}");
    for (headers, passes) in [
        (&[][..], true),
        (&[("origin", &*own)], true),
        (&[("host", &*localhost), ("origin", &*own_by_name)], true),
        (&[("origin", "https://evil.example")], false),
        (&[("origin", "null")], false),
        (&[("host", "evil.example"), ("origin", "http://evil.example")], false),
        (&[("host", "evil.example")], false),
    ] {
        let wanted = if passes { 204 } else { 403 };
        let put = call(&daemon, "PUT", "/v1/users/alice/heartbeat", None, headers).await;
        assert_eq!(put.status, wanted, "{headers:?} {}", put.body);
        assert_eq!(put.code(), if passes { "" } else { "forbidden_origin" });
        for path in ["/v1/users", "/", "/metrics"] {
            let get = call(&daemon, "GET", path, None, headers).await;
            assert_eq!(get.status == 200, passes, "{path} {headers:?}");
            assert!(get.headers.get("access-control-allow-origin").is_none());
        }
        let socket = try_socket(&daemon, "?user=alice", headers).await;
        assert_eq!(socket.err(), (!passes).then(|| (403, "forbidden_origin".into())), "{headers:?}");
    }
    let (_, metrics) = daemon.call("GET", "/metrics", None).await;
    assert!(metrics.to_string().contains("forbidden_origin"), "it is counted");
}

/// The answer to a GET with this `Host`. None if nothing listens.
async fn get(port: u16, path: &str, host: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

#[tokio::test]
async fn host_is_checked_on_any_address_without_tokens() {
    let redis = Redis::start();
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let port = free.expect("a free port").port();
    let listen = format!("0.0.0.0:{port}");
    let _daemon = tokio::process::Command::new(env!("CARGO_BIN_EXE_keybeat"))
        .args(["serve", "--redis", &redis.url(), "--no-auth", "--listen", &listen])
        .args(["--allow-host", "a.example, b.example"])
        .kill_on_drop(true)
        .spawn()
        .expect("keybeat was built");
    let is_ready = |answer: Option<String>| answer.is_some_and(|answer| answer.contains(" 200 "));
    until("the daemon is ready", async || is_ready(get(port, "/readyz", "localhost").await).then_some(()))
        .await;
    for (host, passes) in [
        ("rebound.example", false),
        ("a.example", true),
        ("b.example:7400", true),
        ("c.a.example", false),
        ("10.0.0.1:7400", true),
        ("keybeat", true),
        ("x.localhost", true),
    ] {
        let answer = get(port, "/v1/users/alice", host).await.expect("an answer");
        assert_eq!(answer.starts_with("HTTP/1.1 200"), passes, "{host}: {answer}");
        let refused = answer.contains("forbidden_origin") && answer.contains("--allow-host");
        assert_eq!(refused, !passes, "{host}: {answer}");
    }
}

#[tokio::test]
async fn allowed_origin_can_read_answers() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let args = ["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()];
    let daemon =
        Daemon::with(&[&args[..], &["--allow-origin", "https://a.example,https://b.example:8443"]].concat())
            .await;
    let bearer = format!("Bearer {}", issuer.token("alice", &["bob"]));
    for (origin, passes) in
        [("https://a.example", true), ("https://b.example:8443", true), ("https://c.example", false)]
    {
        let asked = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "authorization,content-type,traceparent,last-event-id"),
        ];
        let preflight = call(&daemon, "OPTIONS", "/v1/users/alice/heartbeat", None, &asked).await;
        let headers = [("origin", origin), ("authorization", &*bearer)];
        let put = call(&daemon, "PUT", "/v1/users/alice/heartbeat", Some(json!({})), &headers).await;
        let refused = call(&daemon, "GET", "/v1/users/bob", None, &headers[..1]).await;
        if passes {
            let allowed = preflight.headers["access-control-allow-headers"].to_str().expect("text");
            for header in ["authorization", "content-type", "traceparent", "last-event-id"] {
                assert!(allowed.contains(header), "{allowed}");
            }
        }
        for answer in [&preflight, &put, &refused] {
            let allowed =
                answer.headers.get("access-control-allow-origin").map(|value| value.to_str().expect("text"));
            assert_eq!(allowed, passes.then_some(origin), "{answer:?}");
        }
        assert_eq!(
            (preflight.status, put.status, refused.status),
            if passes { (200, 204, 401) } else { (403, 403, 403) }
        );
        let socket = try_socket(&daemon, "", &headers).await;
        assert_eq!(socket.is_ok(), passes);
    }
}

/// The whole answer to a request with this Origin, on a connection of its own.
async fn ask(port: u16, method: &str, path: &str, origin: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\norigin: {origin}\r\naccess-control-request-method: GET\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it closes").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn page_can_read_why_the_door_is_full() {
    let redis = Redis::start();
    for (limit, proxied) in
        [("--max-connections", ""), ("--max-connections-per-address", "x-forwarded-for: 10.0.0.1\r\n")]
    {
        let allow = ["--allow-origin", "https://*.a.example", "--trusted-proxy", "127.0.0.1/32"];
        let allow = if proxied.is_empty() { &allow[..2] } else { &allow[..] };
        let daemon = Daemon::with(&[&["--redis", &redis.url(), limit, "4"][..], allow].concat()).await;
        let mut held = Vec::new();
        let (path, page) = ("/v1/users/alice", "https://x.a.example");
        let answer = until("the door is full", async || {
            let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("it listens");
            let begun = format!("GET /v1/events?all=true HTTP/1.1\r\nhost: 127.0.0.1\r\n{proxied}\r\n");
            stream.write_all(begun.as_bytes()).await.expect("it reads");
            held.push(stream);
            let answer = ask(daemon.port, "GET", path, &format!("{page}\r\n{proxied}x: y")).await;
            answer.contains("too_many_connections").then_some(answer)
        })
        .await;
        let answer = answer.to_ascii_lowercase();
        for header in ["allow-origin: https://x.a.example\r\n", "expose-headers: retry-after\r\n"] {
            assert!(answer.contains(&format!("access-control-{header}")), "{answer}");
        }
        assert!(answer.contains("connection: close") || !proxied.is_empty(), "{answer}");
        let preflight = ask(daemon.port, "OPTIONS", path, &format!("{page}\r\n{proxied}x: y")).await;
        assert!(preflight.starts_with("HTTP/1.1 200"), "{preflight}");
        assert!(preflight.contains("access-control-allow-origin: https://x.a.example"), "{preflight}");
        let other = ask(daemon.port, "GET", path, &format!("https://b.example\r\n{proxied}x: y")).await;
        assert!(
            other.contains("too_many_connections") && !other.contains("access-control-allow-origin"),
            "{other}"
        );
        let other = ask(daemon.port, "OPTIONS", path, "https://b.example").await;
        assert!(
            other.starts_with("HTTP/1.1 403") && !other.contains("access-control-allow-origin"),
            "{other}"
        );
    }
}

#[tokio::test]
async fn page_can_read_why_its_query_is_refused() {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--allow-origin", "https://a.example"]).await;
    let answer = call(&daemon, "GET", "/v1/users?prefix=%ff", None, &[("origin", "https://a.example")]).await;
    assert_eq!((answer.status, answer.code()), (400, "invalid_request"));
    assert_eq!(answer.headers["access-control-allow-origin"], "https://a.example");
}

#[tokio::test]
async fn every_answer_has_protective_headers() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let args = ["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()];
    let daemon = Daemon::with(&args).await;
    let bearer = format!("Bearer {}", issuer.token("alice", &["*"]));
    for (method, path, status, cache) in [
        ("GET", "/", 200, "no-cache"),
        ("GET", "/keybeat.js", 200, "no-cache"),
        ("GET", "/docs", 200, "no-cache"),
        ("GET", "/openapi.json", 200, "no-store"),
        ("GET", "/metrics", 200, "no-store"),
        ("GET", "/readyz", 200, "no-store"),
        ("GET", "/v1/users/bob", 200, "no-store"),
        ("GET", "/v1/stats", 200, "no-store"),
        ("PUT", "/v1/users/alice/heartbeat", 204, "no-store"),
        ("PUT", "/v1/users/bob/heartbeat", 403, "no-store"),
        ("GET", "/nowhere", 404, "no-store"),
        ("PATCH", "/v1/users/bob", 405, "no-store"),
        ("OPTIONS", "/v1/users/bob", 200, "no-store"),
    ] {
        let answer = call(&daemon, method, path, None, &[("authorization", &bearer)]).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        for (name, value) in [
            ("content-security-policy", "frame-ancestors 'none'"),
            ("x-frame-options", "DENY"),
            ("x-content-type-options", "nosniff"),
            ("cross-origin-resource-policy", "same-origin"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", cache),
        ] {
            assert_eq!(
                answer.headers.get(name).map(|value| value.as_bytes()),
                Some(value.as_bytes()),
                "{method} {path} {name}"
            );
        }
    }
    let foreign = call(&daemon, "GET", "/v1/users/bob", None, &[("origin", "https://evil.example")]).await;
    assert_eq!((foreign.status, foreign.headers.contains_key("x-content-type-options")), (403, true));
}
