//! A private Redis: found on the PATH, started on a unix socket in a folder of its own, ended with us.

use crate::redis::target::Target;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// The settings of `./redis.conf`, compiled in.
pub const REDIS_CONF: &str = include_str!("../../redis.conf");

const BINARIES: [&str; 2] = ["redis-server", "valkey-server"];
const LOG: &str = "redis.log";
const START: Duration = Duration::from_secs(10);

/// Waits until its standard input ends, as it does however the daemon dies, then ends the server; or
/// ends itself when the server does. Its name is the folder, which it removes.
const KEEPER: &str = r#"
"$@" </dev/null & server=$!
trap 'kill $server 2>/dev/null' TERM INT HUP
exec 3<&0
(cat <&3 >/dev/null; kill $server 2>/dev/null) & guard=$!
wait $server; code=$?
kill $guard 2>/dev/null
rm -rf -- "$0"
exit $code
"#;

/// A running private server. Dropped, it ends and its folder is removed.
pub struct Embedded {
    keeper: Child,
    folder: TempDir,
}

impl Embedded {
    /// Starts one and waits until it answers.
    pub async fn start() -> Result<Embedded> {
        let binary = find_binary()?;
        let folder = tempfile::Builder::new().prefix("keybeat-").tempdir()?;
        let conf = folder.path().join("redis.conf");
        std::fs::write(&conf, REDIS_CONF)?;
        let keeper = Command::new("/bin/sh")
            .args(["-c", KEEPER])
            .arg(folder.path())
            .arg(&binary)
            .arg(&conf)
            .args(["--port", "0", "--unixsocketperm", "700", "--daemonize", "no", "--unixsocket"])
            .arg(folder.path().join("redis.sock"))
            .arg("--dir")
            .arg(folder.path())
            .arg("--logfile")
            .arg(folder.path().join(LOG))
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Not the terminal's group: Ctrl-C is for the daemon, which ends the server last.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut embedded = Embedded { keeper, folder };
        embedded.wait_until_it_answers(&binary).await?;
        Ok(embedded)
    }

    /// Where it listens.
    pub fn target(&self) -> Result<Target> {
        Target::parse(&self.url())
    }

    /// The URL of its socket.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("redis.sock").display())
    }

    async fn wait_until_it_answers(&mut self, binary: &std::path::Path) -> Result<()> {
        let target = self.target()?;
        let deadline = tokio::time::Instant::now() + START;
        loop {
            if let Some(status) = self.keeper.try_wait()? {
                let log = self.folder.path().join(LOG);
                let said = std::fs::read_to_string(log).unwrap_or_default();
                bail!("{} ended at once ({status}); it said:\n{said}", binary.display());
            }
            if self.folder.path().join("redis.sock").exists() && target.connect().await.is_ok() {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                bail!("{} did not answer within {START:?}", binary.display());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the server and waits until it is gone.
    pub async fn stop(mut self) {
        // Its standard input ends; the keeper ends the server and then itself.
        drop(self.keeper.stdin.take());
        if tokio::time::timeout(Duration::from_secs(3), self.keeper.wait()).await.is_err() {
            tracing::warn!("the private Redis did not end within 3 s");
        }
    }
}

fn find_binary() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for name in BINARIES {
        if let Some(found) = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|at| at.is_file()) {
            return Ok(found);
        }
    }
    bail!(
        "no --redis URL was given, and neither redis-server nor valkey-server is on the PATH to start a private one. \
         Install it (Debian, Ubuntu: apt-get install redis-server; macOS: brew install redis), \
         or name a running one: --redis redis://HOST:6379"
    )
}
