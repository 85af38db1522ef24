//! TLS, on either side.

use crate::cli::usage::Running;
use crate::common::certificates::Authority;
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, signal};
use crate::common::{free_port, until};
use futures_util::{SinkExt, StreamExt};
use std::path::Path;
use std::process::Command;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;

/// The answer to a GET over this connection.
async fn get(mut stream: TlsStream<TcpStream>, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("a text");
    answer
}

/// Waits until the daemon is ready, over TLS.
async fn ready(authority: &Authority, daemon: &Daemon) {
    until(&format!("it is ready: {}", daemon.log()), async || {
        let stream = authority.connect(daemon.port).await.ok()?;
        get(stream, "/readyz").await.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
}

#[tokio::test]
async fn silent_connection_is_idle_and_no_late_handshake() {
    let (redis, authority) = (Redis::start(), Authority::new());
    let [cert, key] = authority.issue("server");
    let times = ["--handshake-timeout", "300ms", "--idle-timeout", "1s"];
    let tls = ["--redis", &redis.url(), "--tls-cert", &cert, "--tls-key", &key];
    let daemon = Daemon::launch(&[&tls[..], &times].concat());
    ready(&authority, &daemon).await;
    let mut answer = Vec::new();
    let mut silent = TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("it listens");
    silent.read_to_end(&mut answer).await.expect("it is closed");
    assert!(answer.is_empty() && !daemon.log().contains("refused"), "{answer:?}: {}", daemon.log());
    // A handshake that has begun has its own time.
    let mut slow = TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("it listens");
    slow.write_all(&[0x16]).await.expect("it reads");
    until("it is refused", async || daemon.log().contains("handshake_timeout").then_some(())).await;
}

#[tokio::test]
async fn tls_certificate_is_replaced_without_restart() {
    let (redis, authority) = (Redis::start(), Authority::new());
    let [cert, key] = authority.issue("server");
    let daemon = Daemon::launch(&["--redis", &redis.url(), "--tls-cert", &cert, "--tls-key", &key]);
    ready(&authority, &daemon).await;
    let stream = authority.connect(daemon.port).await.expect("a handshake");
    let url = format!("wss://127.0.0.1:{}/v1/ws?user=alice", daemon.port);
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("a socket");
    let hello = socket.next().await.expect("a message").expect("a message");
    assert!(hello.to_text().expect("text").contains("hello"), "{hello}");
    let status = socket.next().await.expect("a message").expect("a message");
    assert!(status.to_text().expect("text").contains("status"), "{status}");
    // Without TLS there is nothing to be had, and nothing breaks.
    let mut plain = TcpStream::connect(("127.0.0.1", daemon.port)).await.expect("it listens");
    plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("it reads");
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).await.ok();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    // A certificate of another authority, read at a hangup: the old socket goes on.
    let other = Authority::new();
    std::fs::copy(&other.issue("server")[0], &cert).expect("a file");
    signal(daemon.pid(), "HUP");
    until("it says that they do not fit", async || daemon.log().contains("not all reloaded: ").then_some(()))
        .await;
    assert!(authority.connect(daemon.port).await.is_ok(), "the old one stays");
    std::fs::copy(other.path("server.key"), &key).expect("a file");
    signal(daemon.pid(), "HUP");
    until("the new one is shown", async || other.connect(daemon.port).await.ok()).await;
    assert!(authority.connect(daemon.port).await.is_err(), "the old one is gone");
    socket.send(Message::text(r#"{"type":"watch","users":["alice"]}"#)).await.expect("it reads");
    let snapshot = socket.next().await.expect("a message").expect("a message");
    assert!(snapshot.to_text().expect("text").contains("snapshot"), "{snapshot}");
    assert!(!daemon.log().contains("PRIVATE KEY"));
}

#[tokio::test]
async fn failed_reload_changes_nothing() {
    let (redis, authority) = (Redis::start(), Authority::new());
    let [cert, key] = authority.issue("server");
    let tokens = authority.path("tokens");
    std::fs::write(&tokens, "old-service-token\n").expect("a file");
    let files = ["--tls-cert", &cert, "--tls-key", &key, "--service-token", &tokens];
    let daemon = Daemon::launch(&[&["--redis", &redis.url()][..], &files].concat());
    ready(&authority, &daemon).await;
    std::fs::write(&tokens, "new-service-token\n").expect("a file");
    std::fs::write(&cert, "no certificate").expect("a file");
    signal(daemon.pid(), "HUP");
    until("the reload fails", async || daemon.log().contains("not all reloaded: ").then_some(())).await;
    for (token, status) in [("old-service-token", "200"), ("new-service-token", "401")] {
        let stream = authority.connect(daemon.port).await.expect("the old certificate stays");
        let answer = get(stream, &format!("/v1/users/alice?token={token}")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{token}: {answer}");
    }
}

#[tokio::test]
async fn redis_by_tls_with_an_own_ca() {
    let authority = Authority::new();
    let [server_cert, server_key] = authority.issue("redis");
    let [cert, key] = authority.issue("keybeat");
    let port = free_port();
    let ca = authority.path("ca.pem");
    let args = [
        ["--tls-port", &port.to_string()],
        ["--tls-cert-file", &server_cert],
        ["--tls-key-file", &server_key],
        ["--tls-ca-cert-file", &ca],
    ];
    let mut redis = Redis::with(&args.concat());
    let url = format!("rediss://127.0.0.1:{port}");
    let daemon =
        Daemon::with(&["--redis", &url, "--redis-ca", &ca, "--redis-cert", &cert, "--redis-key", &key]).await;
    redis.call(&["SET", "presence:alice", "1", "EX", "30"]);
    daemon.until_state("alice", "online").await;
    assert_eq!(daemon.call("PUT", "/v1/users/bob/heartbeat", None).await.0, 204);
    daemon.until_state("bob", "online").await;
    let get = |args: &[&str]| {
        let mut get = Command::new("timeout");
        get.args(["20", env!("CARGO_BIN_EXE_keybeat"), "get", "alice", "--redis"]).args(args);
        let ran = get.output().expect("keybeat was built");
        (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    assert_eq!(get(&[&url, "--redis-ca", &ca, "--redis-cert", &cert, "--redis-key", &key]).0, Some(0));
    let stranger = Authority::new();
    let [strange_cert, strange_key] = stranger.issue("keybeat");
    for (args, expected) in [
        (&[&*url, "--redis-ca", &ca][..], 1),
        (&[&url, "--redis-ca", &ca, "--redis-cert", &strange_cert, "--redis-key", &strange_key], 1),
        (&[&url, "--redis-ca", &stranger.path("ca.pem"), "--redis-cert", &cert, "--redis-key", &key], 1),
        (&[&url, "--redis-ca", "/nowhere/ca"], 2),
        (&[&redis.url(), "--redis-ca", &ca], 2),
    ] {
        let (code, said) = get(args);
        assert_eq!(code, Some(expected), "{args:?}: {said}");
        assert!(!said.contains("PRIVATE KEY") && !said.contains("panicked"), "{said}");
    }
    // A port that does not speak what the URL says, and an authority that nobody has named.
    let plain_as_tls = redis.url().replace("redis://", "rediss://");
    let tls_as_plain = url.replace("rediss://", "redis://");
    for (url, advice) in
        [(&plain_as_tls, "write redis://"), (&tls_as_plain, "write rediss://"), (&url, "--redis-ca FILE")]
    {
        let (code, said) = get(&[url]);
        assert!(code == Some(1) && said.contains(advice), "{url}: {said}");
    }
    redis.kill();
    let logged = until("the log says that Redis is gone", async || {
        Some(daemon.log()).filter(|log| log.contains("the event connection was lost"))
    });
    let logged = logged.await;
    assert!(!logged.contains("docs.rs"), "the words of the TLS library: {logged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn authority_that_is_the_server_itself_is_trusted() {
    let authority = Authority::new();
    for alternative in [true, false] {
        let [cert, key] = authority.issue_self_signed("redis", alternative);
        let port = free_port();
        let args = ["--tls-port", &port.to_string(), "--tls-cert-file", &cert, "--tls-key-file", &key];
        let _redis =
            Redis::with(&[&args[..], &["--tls-ca-cert-file", &cert, "--tls-auth-clients", "no"]].concat());
        let url = format!("rediss://127.0.0.1:{port}");
        let daemon =
            Daemon::launch(&["--redis", &url, "--redis-ca", &cert, "--tls-cert", &cert, "--tls-key", &key]);
        let https = format!("https://127.0.0.1:{}", daemon.port);
        until(&format!("it is ready: {}", daemon.log()), async || {
            let (code, _) = command(&["healthcheck", "--ready", "--url", &https, "--ca", &cert]);
            (code == Some(0)).then_some(())
        })
        .await;
        assert_eq!(command(&["beat", "alice", "--url", &https, "--ca", &cert]), (Some(0), String::new()));
        assert_eq!(command(&["get", "alice", "--redis", &url, "--redis-ca", &cert]).0, Some(0));
        // Another certificate of the same name, and the right one under another name.
        let other = authority.issue_self_signed("other", alternative)[0].clone();
        let elsewhere = format!("rediss://localhost:{port}");
        for args in [
            &["get", "alice", "--redis", &url, "--redis-ca", &other][..],
            &["get", "alice", "--redis", &elsewhere, "--redis-ca", &cert],
            &["get", "alice", "--url", &https, "--ca", &other],
            &["get", "alice", "--url", &https.replace("127.0.0.1", "localhost"), "--ca", &cert],
        ] {
            let (code, said) = command(args);
            assert_eq!(code, Some(1), "{args:?}: {said}");
        }
    }
}

#[test]
fn dependencies_have_one_tls_provider() {
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    let lock = std::fs::read_to_string(lock).expect("a text");
    let has = |name: &str| lock.contains(&format!("name = \"{name}\"\n"));
    assert!(has("ring") && has("rustls"));
    for other in ["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls", "boring"] {
        assert!(!has(other), "{other} is in the tree beside ring");
    }
}

/// A command that speaks to a daemon: its exit code and all that it said.
fn command(args: &[&str]) -> (Option<i32>, String) {
    let ran = Command::new("timeout").args(["20", env!("CARGO_BIN_EXE_keybeat")]).args(args).output();
    let ran = ran.expect("keybeat was built");
    let said = [ran.stdout, ran.stderr].concat();
    (ran.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_refuse_untrusted_certificates() {
    let (redis, authority, stranger) = (Redis::start(), Authority::new(), Authority::new());
    let [cert, key] = authority.issue("server");
    let token = authority.path("token");
    std::fs::write(&token, "token-of-the-backend\n").expect("a file");
    let args = ["--redis", &redis.url(), "--tls-cert", &cert, "--tls-key", &key, "--service-token", &token];
    let daemon = Daemon::launch(&args);
    ready(&authority, &daemon).await;
    let url = format!("https://127.0.0.1:{}", daemon.port);
    let [ca, other] = [authority.path("ca.pem"), stranger.path("ca.pem")];
    let trusting = ["--url", &url, "--ca", &ca, "--token-file", &token];
    let with = |args: &[&str], more: &[&str]| command(&[args, more].concat());
    assert_eq!(with(&["beat", "alice"], &trusting), (Some(0), String::new()));
    until("the heartbeat has come", async || (with(&["get", "alice"], &trusting).0 == Some(0)).then_some(()))
        .await;
    assert_eq!(with(&["healthcheck", "--ready"], &trusting[..4]), (Some(0), "ready\n".into()));
    let mut watch = crate::cli::usage::keybeat(&[&["watch", "bob", "--json"][..], &trusting].concat());
    let mut watch = watch.spawn().expect("keybeat was built");
    let mut out = String::new();
    let mut stdout = tokio::io::BufReader::new(watch.stdout.take().expect("piped"));
    // It prints what comes after its snapshot: bob comes and goes until it does.
    let printed = tokio::io::AsyncBufReadExt::read_line(&mut stdout, &mut out);
    tokio::select! {
        read = printed => drop(read.expect("a line")),
        () = async { loop {
            redis.call(&["SET", "presence:bob", "1", "EX", "30"]);
            tokio::task::yield_now().await;
            redis.call(&["DEL", "presence:bob"]);
            tokio::task::yield_now().await;
        }} => {}
    }
    assert!(out.contains("\"bob\""), "{out}");
    watch.kill().await.expect("its own child");
    for (more, word) in [
        (&["--url", &url, "--ca", &other, "--token-file", &token][..], "--ca"),
        (&["--url", &url, "--token-file", &token], "--ca"),
        (&["--url", &url, "--ca", "/nowhere/ca", "--token-file", &token], "/nowhere/ca"),
        (&["--url", &daemon.url(""), "--ca", &ca], "https://"),
        (&["--url", &daemon.url("")], &format!("speaks TLS; write {url}")),
    ] {
        let (code, said) = with(&["get", "alice"], more);
        assert_eq!((code, said.contains(word)), (Some(1), true), "{more:?}: {said}");
    }
    // An authority changes nothing about the names of a certificate.
    let named = format!("https://localhost:{}", daemon.port);
    let (code, said) = with(&["get", "alice"], &["--url", &named, "--ca", &ca, "--token-file", &token]);
    assert!(code == Some(1) && said.contains("--url https://NAME") && !said.contains("--ca"), "{said}");
    for more in [&["--ca", &*other][..], &[]] {
        let (code, said) = with(&["watch", "--url", &url], more);
        assert_eq!(
            (code, said.contains("not trusted") || said.contains("no certificate")),
            (Some(1), true),
            "{said}"
        );
    }
    let plain = daemon.url("");
    let speaks = format!("speaks TLS; write {url}");
    let (code, said) = with(&["healthcheck", "--url", &plain], &[]);
    assert!(code == Some(1) && said.contains(&speaks), "{said}");
    for args in [&["watch"][..], &["watch", "alice"]] {
        let watch = Running::start(&[args, &["--url", &plain]].concat());
        until("watch says it", async || watch.err().contains(&speaks).then_some(())).await;
    }
    let open = Daemon::start(&redis).await;
    let wrong = format!("https://127.0.0.1:{}", open.port);
    let hint = format!("does not speak TLS; write {}", open.url(""));
    let (code, said) = with(&["get", "alice"], &["--url", &wrong, "--ca", &ca]);
    assert!(code == Some(1) && said.contains(&hint), "{code:?} {said}");
    let watch = Running::start(&["watch", "--url", &wrong, "--ca", &ca]);
    until("watch says it", async || watch.err().contains(&hint).then_some(())).await;
    assert!(!daemon.log().contains("token-of-the-backend"));
}
