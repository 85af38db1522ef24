//! `keybeat serve` as a process.

use super::socket::Socket;
use super::{PATIENCE, free_port, redis, until};
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running daemon.
pub struct Daemon {
    pub port: u16,
    child: Child,
    /// A file without a name: whatever the daemon has written is there at once.
    log: File,
    http: reqwest::Client,
}

impl Daemon {
    /// Starts a daemon on this Redis and waits until it is ready.
    pub async fn start(redis: &redis::Redis) -> Daemon {
        Daemon::with(&["--redis", &redis.url()]).await
    }

    /// Starts a daemon with these arguments and waits until it is ready.
    pub async fn with(args: &[&str]) -> Daemon {
        let daemon = Daemon::launch(args);
        daemon.ready().await;
        daemon
    }

    /// Starts a daemon with these arguments without waiting.
    pub fn launch(args: &[&str]) -> Daemon {
        Daemon::launch_at(free_port(), args)
    }

    /// Starts a daemon at this port without waiting.
    pub fn launch_at(port: u16, args: &[&str]) -> Daemon {
        Daemon::launch_in(port, args, &[])
    }

    /// The same, with variables added to its environment.
    pub fn launch_in(port: u16, args: &[&str], environment: &[(&str, &str)]) -> Daemon {
        Daemon::launch_program(Path::new(env!("CARGO_BIN_EXE_keybeat")), port, args, environment)
    }

    /// The same, with another binary.
    pub fn launch_program(program: &Path, port: u16, args: &[&str], environment: &[(&str, &str)]) -> Daemon {
        let log = tempfile::tempfile().expect("a file");
        let child = Command::new(program)
            .args(["serve", "--listen", &format!("127.0.0.1:{port}")])
            .args(args)
            .env_remove("KEYBEAT_REDIS")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.try_clone().expect("a descriptor"))
            .spawn()
            .expect("the daemon was built");
        // Shorter than any --idle-timeout of a test: a request on a connection that the daemon is closing fails.
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .pool_idle_timeout(Duration::from_millis(300))
            .build()
            .expect("a client");
        Daemon { port, child, log, http }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        let length = self.log.metadata().expect("its length").len();
        let mut bytes = vec![0; length as usize];
        self.log.read_exact_at(&mut bytes, 0).expect("it only grows");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until /readyz is 200.
    pub async fn ready(&self) {
        until(&format!("/readyz is 200; log:\n{}", self.log()), async || {
            let answer = self.http.get(self.url("/readyz")).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// Waits until /readyz is 503 and returns its text, which contains the cause.
    pub async fn not_ready(&self) -> String {
        until("/readyz is 503", async || {
            let answer = self.http.get(self.url("/readyz")).send().await.ok()?;
            (answer.status() == 503).then_some(())?;
            answer.text().await.ok()
        })
        .await
    }

    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        self.send(method, path, body.map(|body| body.to_string())).await
    }

    /// Sends a request with any body. Returns the status and the body, as a JSON string if it is not JSON.
    pub async fn send(&self, method: &str, path: &str, body: Option<String>) -> (u16, Value) {
        let method = method.parse().expect("a method");
        let mut request = self.http.request(method, self.url(path));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = request.send().await.expect("the daemon answers");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Waits until the daemon reports this state of a user, and returns the user object.
    pub async fn until_state(&self, user: &str, state: &str) -> Value {
        until(&format!("{user} is {state}"), async || {
            let object = self.get(&format!("/v1/users/{user}")).await;
            (object["state"] == state).then_some(object)
        })
        .await
    }

    /// Waits until `/v1/stats` says so of the lease: `held`, `other` or `none`.
    pub async fn until_lease(&self, word: &str) {
        until(&format!("the lease is {word}"), async || {
            let stats = self.get("/v1/stats").await;
            (stats["redis"]["lease"] == word).then_some(())
        })
        .await
    }

    /// Opens a socket and reads its hello and status.
    pub async fn socket(&self, query: &str) -> Socket {
        let mut socket = Socket::connect(self.port, query).await;
        socket.hello().await;
        socket
    }

    /// Opens a socket that watches everybody, and reads its snapshot.
    pub async fn watch_all(&self) -> (Socket, Vec<Value>) {
        let mut socket = self.socket("").await;
        socket.send(json!({"type": "watch", "all": true, "lossless": true, "id": 1})).await;
        let users = socket.snapshot().await;
        (socket, users)
    }

    /// Sends SIGTERM. Returns the exit status and the time until the exit.
    pub fn stop(mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        redis::signal(self.child.id(), "TERM");
        let status = self.child.wait().expect("its own child");
        (status, began.elapsed())
    }

    /// Waits until it has ended by itself.
    pub async fn ended(mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("its own child") {
                return status;
            }
            assert!(Instant::now() < end, "the daemon goes on after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends SIGKILL and waits.
    pub fn kill(mut self) {
        self.child.kill().expect("its own child");
        self.child.wait().expect("its own child");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            let ended = self.child.kill().and_then(|()| self.child.wait());
            assert!(ended.is_ok(), "cannot kill the daemon");
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log:\n{}", self.log());
        }
    }
}
