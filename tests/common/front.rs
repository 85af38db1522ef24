//! The proxies of examples/deploy in front of daemons, as they are shipped but for ports, paths and idle times.

use super::socket::Socket;
use super::{free_port, until};
use serde_json::Value;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Haproxy,
    Nginx,
}

impl Kind {
    pub fn shipped(self) -> PathBuf {
        let name = match self {
            Kind::Haproxy => "haproxy.cfg",
            Kind::Nginx => "nginx.conf",
        };
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/deploy").join(name)
    }

    /// The program, which Debian puts where not every user looks.
    pub fn command(self) -> Command {
        let name = match self {
            Kind::Haproxy => "haproxy",
            Kind::Nginx => "nginx",
        };
        let there = format!("/usr/sbin/{name}");
        Command::new(if Path::new(&there).exists() { &there } else { name })
    }
}

/// Replaces what has to be there.
fn replaced(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "{old:?} is not in the file");
    text.replace(old, new)
}

/// A running proxy.
pub struct Front {
    pub port: u16,
    child: Child,
    _folder: TempDir,
}

impl Front {
    /// A proxy in front of the daemons at these ports: two, or with HAProxy more. It cuts connections that are idle for so long;
    /// without a time, the shipped file decides.
    pub async fn start(kind: Kind, daemons: &[u16], idle: Option<Duration>) -> Front {
        Front::edited(kind, daemons, idle, &[]).await
    }

    /// The same, with these texts of the shipped file replaced.
    pub async fn edited(
        kind: Kind,
        daemons: &[u16],
        idle: Option<Duration>,
        edits: &[(&str, &str)],
    ) -> Front {
        let (port, folder) = (free_port(), tempfile::tempdir().expect("a folder"));
        let mut text = std::fs::read_to_string(kind.shipped()).expect("it is shipped");
        for (old, new) in edits {
            text = replaced(&text, old, new);
        }
        for (old, daemon) in ["127.0.0.1:7401", "127.0.0.1:7402"].iter().zip(daemons) {
            text = replaced(&text, old, &format!("127.0.0.1:{daemon}"));
        }
        for daemon in daemons.iter().skip(2) {
            // The backend is the last section of HAProxy's file.
            text += &format!("    server more{daemon} 127.0.0.1:{daemon}\n");
        }
        let (bind, idles) = match kind {
            Kind::Haproxy => ("bind :8080", ("timeout tunnel 60s", "timeout tunnel ")),
            Kind::Nginx => ("listen 8080", ("proxy_read_timeout 60s", "proxy_read_timeout ")),
        };
        let verb = bind.split(' ').next().expect("a word");
        text = replaced(&text, bind, &format!("{verb} 127.0.0.1:{port}"));
        if let Some(idle) = idle {
            text = replaced(&text, idles.0, &format!("{}{}ms", idles.1, idle.as_millis()));
        }
        let (file, at) = (folder.path().join("conf"), folder.path().display());
        let mut command = kind.command();
        match kind {
            Kind::Haproxy => command.arg("-db").arg("-f").arg(&file),
            Kind::Nginx => {
                let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .map(|name| format!("{name}_temp_path {at}/{name};"))
                    .concat();
                text = replaced(&text, "http {", &format!("http {{ access_log off; {paths}"));
                let own = format!("daemon off; pid {at}/pid; error_log stderr;");
                command.arg("-p").arg(folder.path()).arg("-c").arg(&file).args(["-g", &own])
            }
        };
        std::fs::write(&file, text).expect("its folder can be written");
        let child = command.stdout(Stdio::null()).spawn().expect("tests/setup.sh test installs it");
        let front = Front { port, child, _folder: folder };
        until("the proxy listens", async || TcpStream::connect(("127.0.0.1", port)).ok()).await;
        front
    }

    /// A socket through it, and its hello.
    pub async fn socket(&self) -> (Socket, Value) {
        let mut socket = Socket::connect(self.port, "").await;
        let hello = socket.hello().await;
        (socket, hello)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // nginx passes the word on to its workers.
        super::redis::signal(self.child.id(), "TERM");
        self.child.wait().expect("its own child");
    }
}
