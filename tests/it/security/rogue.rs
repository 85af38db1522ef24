//! A rogue Redis, and a rogue daemon: what they send must neither end a process nor move the cursor of a terminal.

use crate::cli::usage::{Running, ended, keybeat};
use crate::common::daemon::Daemon;
use crate::common::proxy::Proxy;
use crate::common::redis::{Redis, info};
use crate::common::until;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A server that answers whatever it is sent with this, and keeps the connection open.
pub async fn server_saying(answer: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut asked = [0; 4096];
                while stream.read(&mut asked).await.is_ok_and(|read| read > 0) {
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nested_arrays_end_no_process() {
    let port = server_saying("*1\r\n".repeat(500_000)).await;
    let url = format!("redis://127.0.0.1:{port}");
    for args in [&["ls"][..], &["doctor"], &["get", "alice"], &["beat", "alice"]] {
        let ran = ended(keybeat(&[args, &["--redis", &url]].concat())).await;
        assert_eq!(ran.code, Some(1), "{args:?} ended by a signal: {ran:?}");
        assert!((ran.out + &ran.err).contains("nested"), "{args:?}");
    }
    // It sends many heartbeats while the daemon below starts. Of their failures it prints the first.
    let mut beating = Running::start(&["beat", "alice", "--every", "50ms", "--redis", &url]);
    until("it fails", async || {
        beating.err.lock().expect("no panic with it").contains("nested").then_some(())
    })
    .await;
    // The daemon has several connections, for writes too.
    let daemon = Daemon::launch(&["--redis", &url]);
    let cause = until("the cause names the fault", async || {
        let cause = daemon.not_ready().await;
        cause.contains("nested").then_some(cause)
    })
    .await;
    let (status, _) = daemon.call("PUT", "/v1/users/alice/heartbeat", None).await;
    assert_eq!(status, 503, "{cause}");
    assert!(daemon.call("GET", "/healthz", None).await.0 == 200, "{}", daemon.log());
    assert_eq!(beating.child.try_wait().expect("its own child"), None, "it ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn escape_sequences_are_printed_as_text() {
    let redis = Redis::start();
    let version = info(&redis, "server")["redis_version"].clone();
    let [old, new] = [version.clone(), format!("{}\u{1b}{}", &version[..2], "m".repeat(version.len() - 3))]
        .map(|version| &*format!("redis_version:{version}").leak());
    let proxy = Proxy::saying(redis.port, [old, new]).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let refusing = server_saying("-ERR \u{1b}]0;title\u{7}\u{9b}2J\r\n".into()).await;
    let refusing = format!("redis://127.0.0.1:{refusing}/1");
    let answer = json!({"seq": 1, "epoch": "x", "users": [
        {"user": "a\u{1b}[2J\u{9b}1m", "state": "online", "since_ms": 1, "sessions": 1},
        {"user": "b", "error": {"code": "forbidden", "message": "\u{1b}[2J"}},
    ]});
    let app = Router::new().route("/v1/users/query", post(async move || Json(answer)));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let daemon = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    for args in [
        &["doctor", "--redis", &url][..],
        &["doctor", "--json", "--redis", &url],
        &["doctor", "--redis", &refusing],
        &["ls", "--redis", &refusing],
        &["get", "alice", "--redis", &refusing],
        &["get", "a", "b", "--url", &daemon],
        &["get", "a", "b", "--json", "--url", &daemon],
    ] {
        let ran = ended(keybeat(args)).await;
        let said = ran.out + &ran.err;
        assert!(said.contains("1b"), "{args:?} shows the sequence: {said}");
        let obeyed = said.chars().find(|char| char.is_control() && *char != '\n');
        assert_eq!(obeyed, None, "{args:?}: {said:?}");
    }
}
