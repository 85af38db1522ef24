//! A redis-server, and a small client that is independent of the one under test.

use super::free_port;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A running server.
pub struct Redis {
    pub port: u16,
    folder: TempDir,
    child: Option<Child>,
    kind: Kind,
    args: Vec<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// With ./redis.conf.
    Ours,
    Stock,
    Sentinel,
}

/// The server of the tests: redis-server, or the one that `make test-servers` names.
pub fn program() -> OsString {
    std::env::var_os("KEYBEAT_TEST_REDIS").unwrap_or_else(|| "redis-server".into())
}

impl Redis {
    /// Starts a server with stock settings, without ./redis.conf.
    pub fn stock() -> Redis {
        Redis::build(Kind::Stock, &["--save", ""])
    }

    /// Starts a server with the settings that keybeat recommends, ./redis.conf.
    pub fn start() -> Redis {
        Redis::with(&[])
    }

    /// The same, with more arguments, such as `--notify-keyspace-events ""`.
    pub fn with(args: &[&str]) -> Redis {
        Redis::build(Kind::Ours, args)
    }

    /// Starts a single Sentinel that monitors `primary` as `it` and reports it down after one second.
    pub fn sentinel(primary: &Redis) -> Redis {
        let folder = tempfile::tempdir().expect("a folder");
        let conf = format!(
            "sentinel monitor it 127.0.0.1 {} 1\nsentinel down-after-milliseconds it 1000\nsentinel failover-timeout it 5000\n",
            primary.port
        );
        std::fs::write(folder.path().join("sentinel.conf"), conf).expect("its folder can be written");
        Redis::build_in(Kind::Sentinel, &["--sentinel"], folder)
    }

    fn build(kind: Kind, args: &[&str]) -> Redis {
        Redis::build_in(kind, args, tempfile::tempdir().expect("a folder"))
    }

    fn build_in(kind: Kind, args: &[&str], folder: TempDir) -> Redis {
        let args = args.iter().map(|arg| arg.to_string()).collect();
        let mut redis = Redis { port: free_port(), folder, child: None, kind, args };
        redis.run();
        redis
    }

    /// Starts the server, also after [`kill`](Redis::kill), with the same port and folder.
    pub fn run(&mut self) {
        // A copy, because a Sentinel makes the server rewrite its file.
        let conf = self.folder.path().join("redis.conf");
        if !conf.exists() {
            let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/redis.conf");
            std::fs::copy(ours, &conf).expect("./redis.conf is there");
        }
        let (conf, more): (&[&str], &[&str]) = match self.kind {
            Kind::Ours => (&["redis.conf"], &["--enable-debug-command", "yes"]),
            Kind::Stock => (&[], &[]),
            Kind::Sentinel => (&["sentinel.conf"], &[]),
        };
        let child = Command::new(program())
            .args(conf)
            .args(&self.args)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--logfile", "redis.log"])
            .args(more)
            .arg("--dir")
            .arg(self.folder.path())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server must be installed: see tests/setup.sh");
        self.child = Some(child);
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let answers = TcpStream::connect(("127.0.0.1", self.port)).is_ok()
                && self.try_client().is_some_and(|mut client| {
                    client.try_call(&["PING"]).is_some_and(|v| v == Reply::text("PONG"))
                });
            if answers {
                return;
            }
            assert!(Instant::now() < end, "redis-server does not answer; its log: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("redis.log")).unwrap_or_default()
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends SIGKILL and waits.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("its own child");
            child.wait().expect("its own child");
        }
    }

    /// Sends a signal by name: STOP, CONT.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    fn try_client(&self) -> Option<Client> {
        Client::connect(self.port)
    }

    /// Opens a new connection.
    pub fn client(&self) -> Client {
        self.try_client().expect("redis-server runs")
    }

    /// The presence keys, sorted, without the daemon's own keys.
    pub fn presence_keys(&self) -> Vec<String> {
        let keys = self.call(&["KEYS", "presence:*"]).list();
        let names = keys.iter().map(Reply::as_text).filter(|key| !key.starts_with("presence:#"));
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Closes all subscriptions and sets a key in one transaction, so that no subscriber receives the event.
    pub fn set_unheard(&self, key: &str) {
        let mut client = self.client();
        let set = ["SET", key, "1", "EX", "60"];
        for command in [&["MULTI"][..], &["CLIENT", "KILL", "TYPE", "pubsub"], &set, &["EXEC"]] {
            client.call(command);
        }
    }

    /// Sends one command on a new connection.
    pub fn call(&self, command: &[&str]) -> Reply {
        self.client().call(command)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal to a process that the test started.
pub fn signal(pid: u32, name: &str) {
    // The shell's built-in kill, because a slim system has no program of that name.
    let done = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
    assert!(done.is_ok_and(|status| status.success()), "kill -{name} {pid}");
}

/// A reply of Redis.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Text(String),
    Number(i64),
    Nil,
    List(Vec<Reply>),
    Error(String),
}

impl Reply {
    pub fn text(text: &str) -> Reply {
        Reply::Text(text.to_owned())
    }

    pub fn number(&self) -> i64 {
        match self {
            Reply::Number(number) => *number,
            other => panic!("{other:?} is not a number"),
        }
    }

    pub fn as_text(&self) -> &str {
        match self {
            Reply::Text(text) => text,
            other => panic!("{other:?} is not a text"),
        }
    }

    pub fn list(self) -> Vec<Reply> {
        match self {
            Reply::List(list) => list,
            other => panic!("{other:?} is not a list"),
        }
    }
}

/// A blocking RESP2 client.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(port: u16) -> Option<Client> {
        Client::connect_for(port, Duration::from_secs(30))
    }

    /// A client whose connection fails if the server is silent for so long.
    pub fn connect_for(port: u16, silence: Duration) -> Option<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(silence)).ok()?;
        Some(Client { reader: BufReader::with_capacity(1 << 16, stream) })
    }

    pub fn call(&mut self, command: &[&str]) -> Reply {
        self.try_call(command).expect("Redis answers")
    }

    /// The next message of a subscription.
    pub fn next_push(&mut self) -> Option<Vec<Reply>> {
        self.read().map(Reply::list)
    }

    /// The next line of MONITOR.
    pub fn next_line(&mut self) -> Option<String> {
        self.line()
    }

    pub fn try_call(&mut self, command: &[&str]) -> Option<Reply> {
        let mut bytes = Vec::new();
        encode(&mut bytes, command);
        self.reader.get_mut().write_all(&bytes).ok()?;
        self.read()
    }

    /// Sends commands in one write and returns all replies. None if the connection is lost.
    pub fn try_replies<S: AsRef<str>>(&mut self, commands: &[Vec<S>]) -> Option<Vec<Reply>> {
        let mut bytes = Vec::new();
        for command in commands {
            encode(&mut bytes, command);
        }
        self.reader.get_mut().write_all(&bytes).ok()?;
        commands.iter().map(|_| self.read()).collect()
    }

    /// Sends commands in one write and returns all replies.
    pub fn pipeline<S: AsRef<str>>(&mut self, commands: &[Vec<S>]) -> Vec<Reply> {
        self.try_replies(commands).expect("Redis answers")
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
        Some(line.trim_end().to_owned())
    }

    fn read(&mut self) -> Option<Reply> {
        let line = self.line()?;
        let rest = &line[1..];
        Some(match line.as_bytes()[0] {
            b'+' => Reply::text(rest),
            b'-' => Reply::Error(rest.to_owned()),
            b':' => Reply::Number(rest.parse().ok()?),
            b'$' if rest == "-1" => Reply::Nil,
            b'$' => {
                let mut bytes = vec![0; rest.parse::<usize>().ok()? + 2];
                self.reader.read_exact(&mut bytes).ok()?;
                bytes.truncate(bytes.len() - 2);
                Reply::Text(String::from_utf8_lossy(&bytes).into_owned())
            }
            b'*' if rest == "-1" => Reply::Nil,
            b'*' => {
                let count: usize = rest.parse().ok()?;
                Reply::List((0..count).map(|_| self.read()).collect::<Option<_>>()?)
            }
            _ => return None,
        })
    }
}

fn encode<S: AsRef<str>>(bytes: &mut Vec<u8>, command: &[S]) {
    bytes.extend(format!("*{}\r\n", command.len()).bytes());
    for word in command {
        let word = word.as_ref();
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
    }
}

/// Sets `keys` keys with a TTL of an hour, named `prefix` and a number.
pub fn fill(redis: &Redis, prefix: &str, keys: usize) {
    fill_with(redis, prefix, keys, |_| 3_600_000);
}

/// The same, with the TTL in milliseconds that belongs to each number.
pub fn fill_with(redis: &Redis, prefix: &str, keys: usize, ttl_ms: impl Fn(usize) -> usize) {
    let mut client = redis.client();
    let set =
        |i| vec!["SET".to_owned(), format!("{prefix}{i}"), "1".into(), "PX".into(), ttl_ms(i).to_string()];
    for first in (0..keys).step_by(10_000) {
        let some: Vec<Vec<String>> = (first..keys.min(first + 10_000)).map(set).collect();
        client.pipeline(&some);
    }
}

/// Reads the fields of an INFO section.
pub fn info(redis: &Redis, section: &str) -> HashMap<String, String> {
    let reply = redis.call(&["INFO", section]);
    let lines = reply.as_text().lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}
