//! The metrics of requests, of the process and of the build.

use crate::common::PATIENCE;
use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

async fn text(daemon: &Daemon) -> String {
    daemon.get("/metrics").await.as_str().expect("a text").to_owned()
}

fn value(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{metrics}")).parse().expect("a number")
}

/// Sends this text on a new connection, and reads until the daemon closes it.
async fn raw(daemon: &Daemon, request: &str) {
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("it listens");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("an answer").expect("a close");
}

#[tokio::test]
async fn requests_are_counted_by_template() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    for user in ["alice", "bob"] {
        assert_eq!(daemon.call("PUT", &format!("/v1/users/{user}/heartbeat"), None).await.0, 204);
    }
    assert_eq!(daemon.call("GET", "/v1/users/a%23b", None).await.0, 400);
    assert_eq!(daemon.call("GET", "/v1/nobody/alice", None).await.0, 404);
    assert_eq!(daemon.call("BREW", "/v1/users/alice", None).await.0, 405);
    assert_eq!(daemon.call("GET", "/v1/ws", None).await.0, 400);
    raw(&daemon, "GET /v1/users\r\nno header\r\n\r\n").await;
    let mut socket = daemon.socket("").await;
    socket.send(json!({"type": "watch", "users": ["alice"]})).await;
    let metrics = text(&daemon).await;
    for (labels, count) in [
        (r#"route="/v1/users/{user}/heartbeat",method="PUT",status="204""#, "2"),
        (r#"route="/v1/users/{user}",method="GET",status="400""#, "1"),
        (r#"route="/v1/users/{user}",method="_OTHER",status="405""#, "1"),
        (r#"route="none",method="GET",status="404""#, "1"),
        (r#"route="none",method="_OTHER",status="400""#, "1"),
        (r#"route="/v1/ws",method="GET",status="101""#, "1"),
        (r#"route="/v1/ws",method="GET",status="400""#, "1"),
    ] {
        let line = format!("\nkeybeat_http_requests_total{{{labels}}} {count}\n");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    let timed = |route: &str, count: &str| {
        format!("\nkeybeat_http_request_duration_seconds_count{{route=\"{route}\"}} {count}\n")
    };
    assert!(metrics.contains(&timed("/v1/users/{user}/heartbeat", "2")), "{metrics}");
    for route in ["/v1/ws", "none"] {
        assert!(!metrics.contains(&timed(route, "")[..timed(route, "").len() - 2]), "{route} is timed");
    }
    for name in ["alice", "bob", "a%23b", "nobody", "BREW"] {
        assert!(!metrics.contains(name), "{name} is in\n{metrics}");
    }
}

#[tokio::test]
async fn refusals_at_the_door_are_counted() {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--max-connections", "1"]).await;
    // An event stream keeps its connection.
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("it listens");
    stream.write_all(b"GET /v1/events?all=true HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await.expect("it reads");
    timeout(PATIENCE, stream.read_u8()).await.expect("an answer").expect("a byte");
    raw(&daemon, "GET /v1/users/alice HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await;
    // On a connection of its own: the daemon has closed the idle one of the test's client, which may not know it yet.
    let mut scrape = TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("it listens");
    let request = b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";
    scrape.write_all(request).await.expect("it reads");
    let mut metrics = String::new();
    timeout(PATIENCE, scrape.read_to_string(&mut metrics)).await.expect("an answer").expect("text");
    let refused = "\nkeybeat_http_requests_total{route=\"none\",method=\"GET\",status=\"503\"} 1\n";
    assert!(metrics.contains(refused), "{metrics}");
}

#[tokio::test]
async fn process_and_build_have_standard_names() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let metrics = text(&daemon).await;
    let value = |name: &str| value(&metrics, name);
    assert!(value("process_cpu_seconds_total") < 60.0, "{metrics}");
    assert!((1e6..1e9).contains(&value("process_resident_memory_bytes")), "{metrics}");
    let (open, most) = (value("process_open_fds"), value("process_max_fds"));
    assert!(open > 5.0 && open < most, "{metrics}");
    let age = crate::common::now_ms() as f64 / 1000.0 - value("process_start_time_seconds");
    assert!((-2.0..120.0).contains(&age), "the daemon started {age} s ago");
    let build = format!("\nkeybeat_build_info{{version=\"{}\",", env!("CARGO_PKG_VERSION"));
    assert!(metrics.contains(&build), "{metrics}");
    let sockets = [daemon.socket("").await, daemon.socket("").await];
    assert!(self::value(&text(&daemon).await, "process_open_fds") >= open + 2.0, "each socket is a file");
    drop(sockets);
}
