//! `--audit`: which requests leave a line, and what it says.

use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, signal};
use crate::common::tokens::{Issuer, call, call_as, socket_as, try_socket};
use crate::common::until;
use serde_json::{Value, json};

const OPERATOR: &str = "token-of-the-operator";
const BACKEND: &str = "token-of-the-backend";

async fn start(redis: &Redis, issuer: &Issuer, audit: &str) -> Daemon {
    let service = issuer
        .write("service", &format!("ops:admin:{OPERATOR}\nweb:read,write:{BACKEND}\nbare-service-token\n"));
    let (url, secret) = (redis.url(), issuer.secret_file());
    Daemon::with(&["--redis", &url, "--jwt-secret", &secret, "--service-token", &service, "--audit", audit])
        .await
}

/// The lines of the file, once there are so many.
async fn lines(path: &str, count: usize) -> Vec<Value> {
    until(&format!("{path} has {count} lines"), async || {
        let text = std::fs::read_to_string(path).ok()?;
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert!(lines.len() <= count, "too many lines: {text}");
        (lines.len() == count).then_some(lines)
    })
    .await
}

#[tokio::test]
async fn each_write_refusal_and_administrative_call_leaves_a_line() {
    let (redis, issuer) = (Redis::start(), Issuer::new());
    let path = issuer.path("audit");
    let daemon = start(&redis, &issuer, &path).await;
    let alice = issuer.token("alice", &["bob"]);
    let both = Some(json!({"users": ["alice", {"user": "bob", "session": "tab"}, "c#d"]}));
    let mut expected = Vec::new();
    for (token, method, path, body, line) in [
        (
            BACKEND,
            "PUT",
            "/v1/users/al%20ice/heartbeat",
            None,
            json!(["heartbeat", "web", null, "al ice", 1, 204, null]),
        ),
        (BACKEND, "POST", "/v1/heartbeats", both, json!(["heartbeats", "web", null, null, 2, 200, null])),
        (&*alice, "DELETE", "/v1/users/alice", None, json!(["delete", null, "alice", "alice", 1, 204, null])),
        (
            "bare-service-token",
            "DELETE",
            "/v1/users/query",
            None,
            json!(["delete", "unnamed", null, "query", 1, 204, null]),
        ),
        (
            &*alice,
            "PUT",
            "/v1/users/bob/heartbeat",
            None,
            json!(["heartbeat", null, "alice", "bob", 0, 403, "forbidden"]),
        ),
        (
            &*alice,
            "GET",
            "/v1/users/carol",
            None,
            json!(["get", null, "alice", "carol", 0, 403, "forbidden"]),
        ),
        (
            "wrong-token",
            "POST",
            "/v1/users/query",
            Some(json!({"users": ["alice"]})),
            json!(["query", null, null, null, 0, 401, "invalid_token"]),
        ),
        (
            BACKEND,
            "DELETE",
            "/v1/sockets?user=alice",
            None,
            json!(["close_sockets", "web", null, "alice", 0, 403, "forbidden"]),
        ),
        (
            OPERATOR,
            "DELETE",
            "/v1/sockets?user=alice",
            None,
            json!(["close_sockets", "ops", null, "alice", 0, 200, null]),
        ),
        (
            "not-a-token-of-the-daemon",
            "GET",
            "/v1/users/bob",
            None,
            json!(["get", null, null, "bob", 0, 401, "invalid_token"]),
        ),
        (
            BACKEND,
            "GET",
            "/v1/users?sort=x",
            None,
            json!(["list", "web", null, null, 0, 400, "invalid_request"]),
        ),
        (BACKEND, "GET", "/nowhere", None, json!(["other", "web", null, null, 0, 404, "not_found"])),
    ] {
        call_as(&daemon, token, method, path, body).await;
        expected.push(line);
    }
    // No lines: what only reads, and what needs no token.
    for path in ["/v1/users/bob", "/v1/stats"] {
        assert_eq!(call_as(&daemon, BACKEND, "GET", path, None).await.status, 200);
    }
    call(&daemon, "GET", "/healthz", None, &[]).await;
    // A socket that speaks for a user: one line for its opening, none for its own heartbeats.
    let (mut socket, _) = socket_as(&daemon, &alice, "").await;
    expected.push(json!(["socket", null, "alice", "alice", 1, 101, null]));
    socket.send(json!({"type": "watch", "users": ["bob"], "id": 1})).await;
    socket.snapshot().await;
    let refused = try_socket(&daemon, "?user=bob", &[("authorization", &format!("Bearer {alice}"))]).await;
    assert!(refused.is_err());
    expected.push(json!(["socket", null, "alice", "bob", 0, 403, "forbidden"]));
    // The name of a parameter may be encoded, and the line still names the user.
    let closed = call_as(&daemon, OPERATOR, "DELETE", "/v1/sockets?%75ser=nobody", None).await;
    assert_eq!(closed.status, 200);
    expected.push(json!(["close_sockets", "ops", null, "nobody", 0, 200, null]));
    // Of its messages, those that are refused, and a goodbye.
    for message in
        [json!({"type": "heartbeat"}), json!({"type": "watch", "all": true}), json!({"type": "leave"})]
    {
        socket.send(message).await;
    }
    expected.push(json!(["message", null, "alice", null, 0, 403, "forbidden"]));
    expected.push(json!(["delete", null, "alice", "alice", 1, 204, null]));
    let seen = lines(&path, expected.len()).await;
    for (line, expected) in seen.iter().zip(&expected) {
        let fields =
            ["action", "token", "sub", "user", "count", "status", "code"].map(|name| line[name].clone());
        assert_eq!(json!(fields), *expected, "{line}");
        assert_eq!(line["address"], "127.0.0.1", "{line}");
        assert!(line["time_ms"].as_u64().is_some_and(|ms| ms > 1_600_000_000_000), "{line}");
    }
    let text = std::fs::read_to_string(&path).expect("a file");
    for secret in [OPERATOR, BACKEND, &alice, "not-a-token", "bare-service"] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).expect("a file"));
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn audit_file_is_opened_again_at_a_hangup() {
    let (redis, issuer) = (Redis::start(), Issuer::new());
    let (path, old) = (issuer.path("audit"), issuer.path("audit.1"));
    let daemon = start(&redis, &issuer, &path).await;
    let beat = async || call_as(&daemon, BACKEND, "PUT", "/v1/users/alice/heartbeat", None).await.status;
    assert_eq!(beat().await, 204);
    lines(&path, 1).await;
    std::fs::rename(&path, &old).expect("a file");
    assert_eq!(beat().await, 204);
    lines(&old, 2).await;
    signal(daemon.pid(), "HUP");
    until("it is open", async || std::fs::metadata(&path).ok()).await;
    assert_eq!(beat().await, 204);
    lines(&path, 1).await;
    lines(&old, 2).await;
    let (status, _) = daemon.stop();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn audit_that_cannot_be_written_refuses_nothing() {
    let (redis, issuer) = (Redis::start(), Issuer::new());
    let daemon = start(&redis, &issuer, "/dev/full").await;
    for _ in 0..3 {
        assert_eq!(call_as(&daemon, BACKEND, "PUT", "/v1/users/alice/heartbeat", None).await.status, 204);
    }
    until("it is counted", async || {
        let metrics = call(&daemon, "GET", "/metrics", None, &[]).await.body;
        metrics.as_str()?.contains("keybeat_audit_failures_total 3").then_some(())
    })
    .await;
    assert_eq!(daemon.log().matches("audit file cannot be written").count(), 1, "{}", daemon.log());
}
