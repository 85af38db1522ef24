//! The proxies of examples/deploy, as they are shipped but for ports, paths and idle times, each in front of two
//! daemons on one Redis.

use crate::cli::usage::Running;
use crate::common::daemon::Daemon;
use crate::common::front::{Front, Kind};
use crate::common::redis::Redis;
use crate::common::socket::Socket;
use crate::common::{PATIENCE, until};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// After so long without a byte the proxies of the tests cut a connection.
const IDLE: Duration = Duration::from_millis(1_500);
/// With this TTL the daemons ping three times within that.
const QUICK: &str = "1500ms";

async fn watch(socket: &mut Socket, user: &str) -> Value {
    socket.send(json!({"type": "watch", "users": [user]})).await;
    socket.snapshot().await.remove(0)
}

async fn two_daemons(redis: &Redis, ttl: &str) -> (Daemon, Daemon) {
    let url = redis.url();
    let args = ["--redis", &url, "--ttl", ttl];
    tokio::join!(Daemon::with(&args), Daemon::with(&args))
}

async fn a_socket_lives_through_idle_time_and_comes_back_at_the_other_daemon(kind: Kind) {
    let redis = Redis::start();
    let (a, b) = two_daemons(&redis, QUICK).await;
    let front = Front::start(kind, &[a.port, b.port], Some(IDLE)).await;
    let (mut socket, hello) = front.socket().await;
    assert_eq!(watch(&mut socket, "alice").await["state"], "offline");
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    assert_eq!(socket.transitions().await[0]["state"], "online");
    // Nobody comes or goes, for longer than the proxy waits for a byte; only pings pass.
    let quiet = timeout(IDLE * 3, socket.next_or_close()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    redis.call(&["DEL", "presence:alice"]);
    assert_eq!(socket.transitions().await[0]["state"], "offline", "it still lives");
    // The daemon behind it dies.
    let of_a = a.call("POST", "/v1/users/query", Some(json!({"users": []}))).await.1["epoch"].clone();
    let (dies, lives) = if hello["epoch"] == of_a { (a, b) } else { (b, a) };
    dies.kill();
    assert!(socket.next_or_close().await.is_err(), "its socket ends with it");
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    let mut socket = until("the proxy leads to the other", async || {
        let mut socket = Socket::try_connect(front.port).await?;
        let (again, status) = (socket.next_if_open().await?, socket.next_if_open().await?);
        assert_eq!((&again["type"], &status["type"]), (&"hello".into(), &"status".into()));
        (again["epoch"] != hello["epoch"]).then_some(socket)
    })
    .await;
    lives.until_state("alice", "online").await;
    assert_eq!(watch(&mut socket, "alice").await["state"], "online", "a snapshot of now");
}

/// Without it the test above would prove nothing of the pings.
async fn a_socket_whose_pings_are_rarer_than_the_proxy_waits_is_cut(kind: Kind) {
    let redis = Redis::start();
    let (a, b) = two_daemons(&redis, "60s").await;
    let front = Front::start(kind, &[a.port, b.port], Some(IDLE)).await;
    let (mut socket, _) = front.socket().await;
    let cut = timeout(IDLE * 4, socket.next_or_close()).await.expect("the proxy cuts it");
    assert!(cut.is_err(), "{cut:?}");
}

async fn events_are_not_kept_back(kind: Kind) {
    let redis = Redis::start();
    let (a, b) = two_daemons(&redis, QUICK).await;
    let front = Front::start(kind, &[a.port, b.port], None).await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = format!("http://127.0.0.1:{}/v1/events?all=true", front.port);
    let mut answer = client.get(url).send().await.expect("it answers");
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["content-type"].as_bytes()),
        (200, &b"text/event-stream"[..])
    );
    let mut text = String::new();
    for (user, wanted) in [("", "snapshot"), ("bob", "\"bob\""), ("carol", "\"carol\"")] {
        if !user.is_empty() {
            redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "60"]);
        }
        while !text.contains(wanted) {
            let chunk = timeout(PATIENCE, answer.chunk()).await.expect("kept back").expect("it goes on");
            text += &String::from_utf8_lossy(&chunk.expect("it has not ended"));
        }
    }
}

/// The limits of a client count by the address that the proxy sees, whatever the client says itself.
async fn clients_have_their_own_addresses(kind: Kind) {
    let redis = Redis::start();
    let url = redis.url();
    let args = ["--redis", &url, "--trusted-proxy", "127.0.0.1", "--max-sockets-per-address", "1"];
    let (a, b) = tokio::join!(Daemon::with(&args), Daemon::with(&args));
    let front = Front::start(kind, &[a.port, b.port], None).await;
    let open = async |from: [u8; 4]| {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind((from, 0).into()).expect("a loopback address");
        let mut stream = socket.connect(([127, 0, 0, 1], front.port).into()).await.expect("it listens");
        let request = "GET /v1/ws HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       sec-websocket-protocol: keybeat.v1\r\nx-forwarded-for: 203.0.113.9\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut status = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut status)).await.expect("in time").expect("an answer");
        (stream, String::from_utf8_lossy(&status).into_owned())
    };
    let mut held = Vec::new();
    let mut statuses = Vec::new();
    // Three sockets of one address are more than two daemons admit, wherever the proxy leads them.
    for from in [[127, 0, 0, 2], [127, 0, 0, 2], [127, 0, 0, 2], [127, 0, 0, 3]] {
        let (stream, status) = open(from).await;
        held.push(stream);
        statuses.push(status);
    }
    let refused = statuses[..3].iter().filter(|status| status.ends_with("429")).count();
    assert!(refused >= 1, "{statuses:?}");
    assert!(statuses[3].ends_with("101"), "the next address has a place of its own: {statuses:?}");
}

/// A proxy that forwards no handshake: the command repeats the daemon's explanation, and what to set at the proxy.
async fn watch_explains_a_proxy_without_upgrade(kind: Kind) {
    let redis = Redis::start();
    let (a, b) = two_daemons(&redis, QUICK).await;
    let edits: &[(&str, &str)] = match kind {
        Kind::Haproxy => &[("option forwardfor", "option forwardfor\n    http-request del-header upgrade")],
        Kind::Nginx => &[
            ("proxy_set_header Upgrade $http_upgrade;", ""),
            ("proxy_set_header Connection $connection_upgrade;", ""),
        ],
    };
    let front = Front::edited(kind, &[a.port, b.port], None, edits).await;
    let running = Running::start(&["watch", "alice", "--url", &format!("http://127.0.0.1:{}", front.port)]);
    let text = until("the command explains it", async || {
        let text = running.err.lock().expect("no panic with it").clone();
        text.contains("trying again").then_some(text)
    })
    .await;
    for words in [
        "/v1/ws speaks WebSocket: ",
        "must forward the headers Connection and Upgrade",
        "proxy_set_header Upgrade",
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
}

/// A balancer that checks `/readyz` takes a draining daemon out before that refuses anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_a_daemon_drains() {
    let redis = Redis::start();
    let url = redis.url();
    let args = ["--redis", &url, "--drain", "5s"];
    let (a, b) = tokio::join!(Daemon::with(&args), Daemon::with(&args));
    let front = Front::start(Kind::Haproxy, &[a.port, b.port], None).await;
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let base = format!("http://127.0.0.1:{}/v1", front.port);
    crate::common::redis::signal(a.pid(), "TERM");
    let mut ended = tokio::spawn(a.ended());
    let mut rounds = 0;
    while !ended.is_finished() || rounds < 20 {
        let beat = http.post(format!("{base}/heartbeats")).json(&json!({"users": ["alice"]})).send().await;
        assert_eq!(beat.expect("it is answered").status(), 204, "round {rounds}");
        let state = http.get(format!("{base}/users/bob")).send().await;
        assert_eq!(state.expect("it is answered").status(), 200, "round {rounds}");
        rounds += 1;
    }
    assert_eq!((&mut ended).await.expect("no panic").code(), Some(0));
}

fn the_shipped_file_is_one_that_the_program_takes(kind: Kind) {
    let (mut command, folder) = (kind.command(), tempfile::tempdir().expect("a folder"));
    match kind {
        Kind::Haproxy => command.arg("-c").arg("-f").arg(kind.shipped()),
        // By default nginx writes its process id and its log where only root may write.
        Kind::Nginx => {
            let own = format!("pid {}/nginx.pid; error_log stderr;", folder.path().display());
            command.arg("-t").arg("-c").arg(kind.shipped()).args(["-g", &own])
        }
    };
    let checked = command.output().expect("tests/setup.sh test installs it");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

macro_rules! for_each_proxy {
    ($($test:ident),*) => {
        mod haproxy { $(#[tokio::test] async fn $test() { super::$test(super::Kind::Haproxy).await })* }
        mod nginx { $(#[tokio::test] async fn $test() { super::$test(super::Kind::Nginx).await })* }
    };
}

for_each_proxy!(
    a_socket_lives_through_idle_time_and_comes_back_at_the_other_daemon,
    a_socket_whose_pings_are_rarer_than_the_proxy_waits_is_cut,
    events_are_not_kept_back,
    clients_have_their_own_addresses,
    watch_explains_a_proxy_without_upgrade
);

#[test]
fn proxies_accept_the_shipped_files() {
    the_shipped_file_is_one_that_the_program_takes(Kind::Haproxy);
    the_shipped_file_is_one_that_the_program_takes(Kind::Nginx);
}
