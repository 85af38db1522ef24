//! How a daemon starts and ends: with a Redis, without one, before one, and again.

use crate::cli::usage::{ended, keybeat};
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, signal};
use crate::common::socket::Socket;
use crate::common::{free_port, until};
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The socket of the private Redis, as the daemon's log names it.
fn private_socket(daemon: &Daemon) -> PathBuf {
    let log = daemon.log();
    let at = log.find("redis+unix://").unwrap_or_else(|| panic!("the log names no socket:\n{log}"));
    let url = &log["redis+unix://".len() + at..];
    PathBuf::from(url.split(".sock").next().expect("a path").to_owned() + ".sock")
}

/// The process id of the server behind a socket, as the server says.
fn server_pid(socket: &Path) -> u32 {
    let mut stream = UnixStream::connect(socket).expect("the private Redis listens");
    stream.write_all(b"INFO server\r\n").expect("it reads");
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let pid = lines.filter_map(|line| line.strip_prefix("process_id:").map(str::to_owned)).next();
    pid.expect("INFO tells it").trim().parse().expect("a number")
}

/// Does this process run? One that has ended and waits for its parent does not.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

/// Processes whose working folder is this one: the private server, and whoever keeps it.
fn in_folder(folder: &Path) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    let there = processes.filter(|process| {
        std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
    });
    there
        .map(|process| {
            std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default().replace('\0', " ")
        })
        .collect()
}

#[tokio::test]
async fn missing_url_starts_a_private_redis() {
    let daemon = Daemon::with(&[]).await;
    let log = daemon.log();
    for word in ["private Redis", "redis+unix:///", "--redis redis://"] {
        assert!(log.contains(word), "{word:?} is not in\n{log}");
    }
    let socket = private_socket(&daemon);
    assert!(runs(server_pid(&socket)));
    let folder = std::fs::metadata(socket.parent().expect("a folder")).expect("it exists");
    assert_eq!(folder.permissions().mode() & 0o777, 0o700, "nobody else may open the socket");
    assert_eq!(daemon.call("PUT", "/v1/users/alice/heartbeat", None).await.0, 204);
    daemon.until_state("alice", "online").await;
}

#[tokio::test]
async fn two_daemons_start_two_private_redis() {
    let (first, second) = tokio::join!(Daemon::with(&[]), Daemon::with(&[]));
    assert_ne!(private_socket(&first), private_socket(&second));
    first.call("PUT", "/v1/users/alice/heartbeat", None).await;
    first.until_state("alice", "online").await;
    second.call("PUT", "/v1/users/bob/heartbeat", None).await;
    second.until_state("bob", "online").await;
    assert_eq!(second.get("/v1/users/alice").await["state"], "offline");
}

#[tokio::test]
async fn sigterm_ends_daemon_and_private_redis() {
    let daemon = Daemon::with(&[]).await;
    let socket = private_socket(&daemon);
    let server = server_pid(&socket);
    let folder = socket.parent().expect("a folder").to_owned();
    let (status, took) = daemon.stop();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(!runs(server), "its private Redis is gone with it");
    assert!(!folder.exists(), "and so is its folder");
    assert_eq!(in_folder(&folder), [""; 0]);
}

#[tokio::test]
async fn kill_9_ends_the_private_redis() {
    let daemon = Daemon::with(&[]).await;
    let socket = private_socket(&daemon);
    let server = server_pid(&socket);
    let folder = socket.parent().expect("a folder").to_owned();
    daemon.kill();
    until("the private Redis is gone", async || (!runs(server)).then_some(())).await;
    until("and whoever kept it", async || in_folder(&folder).is_empty().then_some(())).await;
}

#[tokio::test]
async fn dead_private_redis_is_the_reported_cause() {
    let daemon = Daemon::with(&[]).await;
    signal(server_pid(&private_socket(&daemon)), "KILL");
    let cause = daemon.not_ready().await;
    assert!(cause.len() > 20, "{cause}");
    let (status, took) = daemon.stop();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn sigint_ends_the_daemon_with_0() {
    let redis = Redis::start();
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let child =
        keybeat(&["serve", "--listen", &listen, "--redis", &redis.url()]).spawn().expect("keybeat was built");
    until("it listens", async || TcpStream::connect(("127.0.0.1", port)).ok()).await;
    signal(child.id().expect("it runs"), "INT");
    let output = child.wait_with_output().await.expect("its own child");
    assert_eq!(output.status.code(), Some(0));
}

#[tokio::test]
async fn sigterm_ends_within_5_s_with_hanging_clients() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let to = || TcpStream::connect(("127.0.0.1", daemon.port)).expect("the daemon listens");
    let _silent = to();
    let mut half = to();
    half.write_all(b"POST /v1/heartbeats HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        .expect("it reads");
    let mut idle = to();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    // Nobody reads it, so the close is not answered.
    let _socket = Socket::connect(daemon.port, "?user=alice").await;
    let (status, took) = daemon.stop();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn sigterm_ends_within_5_s_with_a_hanging_redis() {
    let mut redis = Redis::start();
    for hangs in [true, false] {
        let daemon = Daemon::start(&redis).await;
        let _socket = Socket::connect(daemon.port, "?user=alice").await;
        if hangs {
            redis.signal("STOP")
        } else {
            redis.kill()
        }
        daemon.not_ready().await;
        let (status, took) = daemon.stop();
        if hangs {
            redis.signal("CONT");
        }
        assert_eq!(status.code(), Some(0));
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

#[tokio::test]
async fn sigterm_ends_a_daemon_without_redis() {
    let daemon = Daemon::launch(&["--redis", &format!("redis://127.0.0.1:{}", free_port())]);
    daemon.not_ready().await;
    let (status, took) = daemon.stop();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn missing_redis_server_names_the_package() {
    let port = free_port();
    let mut command = keybeat(&["serve", "--listen", &format!("127.0.0.1:{port}")]);
    command.env("PATH", "/nonexistent");
    let ran = ended(command).await;
    assert_eq!((ran.code, &*ran.out), (Some(1), ""), "{ran:?}");
    for word in ["redis-server", "nstall", "--redis redis://"] {
        assert!(ran.err.contains(word), "{word:?} is not in {}", ran.err);
    }
}

#[tokio::test]
async fn daemon_without_redis_logs_the_cause() {
    let mut redis = Redis::start();
    redis.kill();
    let daemon = Daemon::launch(&["--redis", &redis.url()]);
    let cause = until("the cause names the server", async || {
        let cause = daemon.not_ready().await;
        cause.contains(&redis.url()).then_some(cause)
    })
    .await;
    for text in [cause, daemon.log()] {
        assert!(text.contains("onnection refused") && !text.contains("Os {"), "{text}");
    }
}

#[tokio::test]
async fn daemon_started_before_redis_recovers() {
    let mut redis = Redis::start();
    redis.kill();
    let daemon = Daemon::launch(&["--redis", &redis.url()]);
    daemon.not_ready().await;
    assert_eq!(daemon.send("GET", "/healthz", None).await.0, 200);
    for (method, path, body) in [
        ("GET", "/v1/users/alice", None),
        ("GET", "/v1/users", None),
        ("POST", "/v1/users/query", Some(json!({"users": ["alice"]}))),
        ("PUT", "/v1/users/alice/heartbeat", None),
        ("POST", "/v1/heartbeats", Some(json!({"users": ["alice"]}))),
        ("DELETE", "/v1/users/alice", None),
    ] {
        let (status, answer) = daemon.call(method, path, body).await;
        assert_eq!(status, 503, "{method} {path}: {answer}");
        assert!(answer["error"]["code"].is_string() && answer["error"]["message"].is_string(), "{answer}");
    }
    let mut socket = Socket::connect(daemon.port, "").await;
    let [hello, status] = [socket.next().await, socket.next().await];
    assert_eq!((&hello["type"], &status["redis"]), (&json!("hello"), &json!("down")), "{hello} {status}");
    socket.send(json!({"type": "watch", "users": ["alice"], "id": 1})).await;

    redis.run();
    daemon.ready().await;
    let mut answers = [socket.next().await, socket.next().await];
    answers.sort_by_key(|answer| answer["type"] == "status");
    assert_eq!(
        (&answers[0]["id"], &answers[0]["users"][0]["state"]),
        (&json!(1), &json!("offline")),
        "{answers:?}"
    );
    assert_eq!(answers[1]["redis"], "up", "{answers:?}");
    until("a heartbeat is taken", async || {
        (daemon.call("PUT", "/v1/users/alice/heartbeat", None).await.0 == 204).then_some(())
    })
    .await;
    assert_eq!(socket.transitions().await[0]["state"], "online");
    assert_eq!(daemon.until_state("alice", "online").await["sessions"], 1);
}

#[tokio::test]
async fn daemon_is_ready_soon_after_redis() {
    let mut redis = Redis::start();
    redis.kill();
    let daemon = Daemon::launch(&["--redis", &redis.url()]);
    daemon.not_ready().await;
    redis.run();
    let began = Instant::now();
    daemon.ready().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn restarted_daemon_reports_no_transitions() {
    let redis = Redis::start();
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    redis.call(&["SET", "presence:alice#tab", "1", "EX", "60"]);
    redis.call(&["SET", "presence:bob", "1"]);
    redis.call(&["SET", "presence:carol", "1", "PX", "4000"]);
    let mut epochs = Vec::new();
    for round in 0..2 {
        let daemon = Daemon::start(&redis).await;
        let mut socket = Socket::connect(daemon.port, "").await;
        let hello = socket.hello().await;
        assert_eq!(hello["seq"], 0, "round {round}: {hello}");
        epochs.push(hello["epoch"].clone());
        socket.send(json!({"type": "watch", "all": true})).await;
        let mut users = socket.snapshot().await;
        users.sort_by_key(|user| user["user"].as_str().map(str::to_owned));
        let gists: Vec<_> = users
            .iter()
            .map(|user| (user["user"].as_str().expect("a name"), user["sessions"].as_u64()))
            .collect();
        assert_eq!(gists, [("alice", Some(2)), ("bob", Some(1)), ("carol", Some(1))], "round {round}");
        redis.call(&["SET", &format!("presence:dave-{round}"), "1", "PX", "100"]);
        for state in ["online", "offline"] {
            let transitions = socket.transitions().await;
            let told: Vec<_> =
                transitions.iter().map(|told| (told["user"].as_str(), told["state"].as_str())).collect();
            assert_eq!(told, [(Some(&*format!("dave-{round}")), Some(state))], "the first since it started");
        }
        if round == 0 {
            daemon.kill();
            continue;
        }
        let carol = &socket.transitions().await[0];
        assert_eq!(
            ["user", "state", "reason"].map(|name| carol[name].as_str()),
            ["carol", "offline", "expired"].map(Some)
        );
        let stats = daemon.get("/v1/stats").await;
        assert_eq!(
            (&stats["transitions"], &stats["seq"]),
            (&json!({"online": 1, "offline": 2}), &json!(3)),
            "{stats}"
        );
    }
    assert_ne!(epochs[0], epochs[1], "each run has its own epoch");
}

#[tokio::test]
async fn environment_sets_the_same_as_flags() {
    let redis = Redis::start();
    let port = free_port();
    let mut command = keybeat(&["serve"]);
    command.envs([
        ("KEYBEAT_REDIS", redis.url()),
        ("KEYBEAT_LISTEN", format!("127.0.0.1:{port}")),
        ("KEYBEAT_PREFIX", "p[1]*:".into()),
        ("KEYBEAT_TTL", "9s".into()),
        ("KEYBEAT_LOG_FORMAT", "json".into()),
    ]);
    let child = command.spawn().expect("keybeat was built");
    redis.call(&["SET", "presence:bob", "1"]);
    redis.call(&["SET", "p1:bob", "1"]);
    let url = format!("http://127.0.0.1:{port}");
    until("a heartbeat is taken", async || {
        let beat = ended(keybeat(&["beat", "alice", "--ttl", "9s", "--url", &url])).await;
        (beat.code == Some(0)).then_some(())
    })
    .await;
    assert!((1..=9_000).contains(&redis.call(&["PTTL", "p[1]*:alice"]).number()));
    let mut socket = Socket::connect(port, "").await;
    assert_eq!(socket.next().await["ttl_ms"], 9_000);
    let get = async |user: &str| ended(keybeat(&["get", user, "--url", &url])).await.code;
    until("alice is online", async || (get("alice").await == Some(0)).then_some(())).await;
    assert_eq!(get("bob").await, Some(3), "of another prefix");
    signal(child.id().expect("it runs"), "TERM");
    let output = child.wait_with_output().await.expect("its own child");
    assert_eq!(output.status.code(), Some(0));
    let log = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(!log.is_empty(), "it logs");
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|why| panic!("{why}: {line}"));
    }
}
