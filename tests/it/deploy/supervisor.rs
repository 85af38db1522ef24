//! The messages to systemd, over a real datagram socket, and its unit file.

use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, signal};
use crate::common::{PATIENCE, free_port};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

/// After so long without a sign of life systemd would take the daemon for dead.
const WATCHDOG: Duration = Duration::from_millis(400);

/// A stand-in for systemd: the socket that it names to the daemon.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Manager {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        Manager { socket, folder }
    }

    /// A daemon that it starts. `WATCHDOG_PID` is left out as a shell between the two would make it wrong.
    fn start(&self, redis: &str, more: &[(&str, &str)]) -> Daemon {
        let path = self.folder.path().join("notify");
        let limit = WATCHDOG.as_micros().to_string();
        let mut environment =
            vec![("NOTIFY_SOCKET", path.to_str().expect("a text")), ("WATCHDOG_USEC", &limit)];
        environment.extend(more);
        Daemon::launch_in(free_port(), &["--redis", redis], &environment)
    }

    /// The next word, if one comes within this time.
    async fn next_within(&self, time: Duration) -> Option<String> {
        let mut buffer = [0; 4096];
        let length = timeout(time, self.socket.recv(&mut buffer)).await.ok()?.expect("it reads");
        Some(String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned())
    }

    /// Waits for a word that begins so; gives those before it, and itself at the end.
    async fn until(&self, begins: &str) -> Vec<String> {
        let (end, mut words) = (Instant::now() + PATIENCE, Vec::new());
        while Instant::now() < end {
            words.extend(self.next_within(PATIENCE).await);
            if words.last().is_some_and(|word| word.starts_with(begins)) {
                return words;
            }
        }
        panic!("waited in vain for {begins}; there came {words:?}");
    }
}

#[tokio::test]
async fn systemd_gets_ready_alive_status_and_stopping() {
    let manager = Manager::new();
    let mut redis = Redis::start();
    let daemon = manager.start(&redis.url(), &[]);
    let first = manager.until("READY=1").await;
    assert_eq!(first, ["READY=1"], "the first word");
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", daemon.port)).await.is_ok(), "it listens");
    manager.until("STATUS=follows Redis").await;
    redis.kill();
    let down = manager.until("STATUS=does not").await.pop().expect("a word");
    assert!(down.starts_with("STATUS=does not follow Redis: ") && down.len() > 40, "{down}");
    // A Redis that is away is no reason to start the daemon anew: the signs of life go on.
    for _ in 0..5 {
        let began = Instant::now();
        manager.until("WATCHDOG=1").await;
        assert!(began.elapsed() < WATCHDOG, "in time, without a Redis: {:?}", began.elapsed());
    }
    signal(daemon.pid(), "TERM");
    manager.until("STOPPING=1").await;
    assert_eq!(daemon.stop().0.code(), Some(0));
}

#[tokio::test]
async fn a_drain_asks_for_more_time_than_the_stop() {
    let manager = Manager::new();
    let redis = Redis::start();
    let daemon = manager.start(&redis.url(), &[("KEYBEAT_DRAIN", "1s")]);
    manager.until("STATUS=follows Redis").await;
    signal(daemon.pid(), "TERM");
    let drain = manager.until("STOPPING=1").await.pop().expect("a word");
    assert_eq!(drain, "STOPPING=1\nEXTEND_TIMEOUT_USEC=6000000");
    manager.until("WATCHDOG=1").await;
    let stop = manager.until("STOPPING=1").await.pop().expect("a word");
    assert_eq!(stop, "STOPPING=1\nEXTEND_TIMEOUT_USEC=5000000");
    assert_eq!(daemon.ended().await.code(), Some(0));
}

#[tokio::test]
async fn stopped_loop_feeds_no_watchdog() {
    let manager = Manager::new();
    let redis = Redis::start();
    let daemon = manager.start(&redis.url(), &[]);
    manager.until("STATUS=follows Redis").await;
    manager.until("WATCHDOG=1").await;
    signal(daemon.pid(), "STOP");
    // What was sent before is read first.
    while manager.next_within(WATCHDOG).await.is_some() {}
    assert_eq!(manager.next_within(WATCHDOG * 2).await, None);
    signal(daemon.pid(), "CONT");
    manager.until("WATCHDOG=1").await;
}

#[tokio::test]
async fn watchdog_of_another_process_is_not_fed() {
    let manager = Manager::new();
    let redis = Redis::start();
    let _daemon = manager.start(&redis.url(), &[("WATCHDOG_PID", "1")]);
    manager.until("STATUS=follows Redis").await;
    assert_eq!(manager.next_within(WATCHDOG * 3).await, None);
}

#[test]
fn systemd_accepts_the_unit_file() {
    let has_systemd = Command::new("systemd-analyze").arg("--version").output().is_ok();
    if !has_systemd {
        eprintln!("systemd-analyze is not here: the unit file is not checked");
        return;
    }
    let shipped =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/deploy/keybeat.service"))
            .expect("the unit is shipped");
    assert!(shipped.contains("ExecStart=/usr/bin/keybeat serve\n"));
    let folder = tempfile::tempdir().expect("a folder");
    let unit = folder.path().join("keybeat.service");
    std::fs::write(&unit, shipped.replace("/usr/bin/keybeat", env!("CARGO_BIN_EXE_keybeat")))
        .expect("written");
    // The manual is not installed here.
    let verified =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().expect("runs");
    let said = String::from_utf8_lossy(&verified.stderr);
    // What is wrong with other units of this machine is not ours.
    assert!(verified.status.success() && !said.contains("keybeat.service"), "{said}");
    let rated = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20", "--no-pager"])
        .arg(&unit)
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&rated.stdout);
    assert!(rated.status.success(), "an exposure of 2.0 or less: {said}");
}
