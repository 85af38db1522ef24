//! Wrong usage, unreachable servers, help, `serve`, `demo`, `bench` and the small commands; and how tests run commands.

use crate::cli::listing::three_keys;
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, fill, signal};
use crate::common::{PATIENCE, free_port, until};
use serde_json::Value;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout};

/// A command without variables `KEYBEAT_…` in its environment.
pub fn keybeat(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keybeat"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KEYBEAT_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// The result of a command that has ended by itself.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub(super) fn lines(&self) -> Vec<&str> {
        self.out.lines().collect()
    }

    /// The lines as JSON, after exit code 0 without errors.
    pub(super) fn json(&self) -> Vec<Value> {
        assert_eq!((self.code, &*self.err), (Some(0), ""), "{self:?}");
        self.out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}")))
            .collect()
    }
}

pub async fn ended(mut command: Command) -> Ran {
    read(timeout(PATIENCE, command.output()).await)
}

pub(super) fn read(ended: Result<std::io::Result<Output>, Elapsed>) -> Ran {
    let output = ended.expect("it ends by itself").expect("keybeat was built");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

pub(super) async fn run(args: &[&str]) -> Ran {
    ended(keybeat(args)).await
}

/// A running command and the lines that it prints.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(super) lines: Lines<BufReader<ChildStdout>>,
    pub(crate) err: Arc<Mutex<String>>,
}

impl Running {
    pub(crate) fn start(args: &[&str]) -> Running {
        let mut child = keybeat(args).spawn().expect("keybeat was built");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let err = Arc::new(Mutex::new(String::new()));
        let (mut stderr, kept) = (BufReader::new(child.stderr.take().expect("piped")).lines(), err.clone());
        tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                *kept.lock().expect("no panic with it") += &(line + "\n");
            }
        });
        Running { child, lines, err }
    }

    pub(crate) fn err(&self) -> String {
        self.err.lock().expect("no panic with it").clone()
    }

    pub(super) async fn line(&mut self) -> String {
        match timeout(PATIENCE, self.lines.next_line()).await {
            Ok(line) => line.expect("text").unwrap_or_else(|| panic!("it ended; it said {}", self.err())),
            Err(_) => panic!("waited in vain for a line; it said {}", self.err()),
        }
    }

    pub(super) async fn json(&mut self) -> Value {
        let line = self.line().await;
        serde_json::from_str(&line).unwrap_or_else(|why| panic!("{why}: {line}"))
    }

    /// User and state of the next lines, sorted by user.
    pub(super) async fn gists(&mut self, count: usize) -> Vec<(String, String)> {
        let mut gists = Vec::new();
        for _ in 0..count {
            let transition = self.json().await;
            let text = |name: &str| transition[name].as_str().expect("a text").to_owned();
            gists.push((text("user"), text("state")));
        }
        gists.sort();
        gists
    }

    pub(super) fn terminate(&self) {
        signal(self.child.id().expect("it runs"), "TERM");
    }

    pub(super) async fn wait(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("it ends").expect("its own child")
    }
}

pub(super) fn gist(user: &str, state: &str) -> (String, String) {
    (user.to_owned(), state.to_owned())
}

/// Waits until `count` sockets watch at least one user.
pub(super) async fn until_watchers(daemon: &Daemon, count: usize) {
    until("the watch stands", async || (daemon.get("/v1/stats").await["watchers"] == count).then_some(()))
        .await;
}

#[tokio::test]
async fn wrong_usage_exits_2_with_advice() {
    for (args, words) in [
        (&["nonsense"][..], &["nonsense", "--help"][..]),
        (&[], &["Usage", "serve"]),
        (&["get"], &["USER", "--help"]),
        (&["beat"], &["USER", "--help"]),
        (&["get", "alice", "--nonsense"], &["--nonsense"]),
        (&["get", "a#b"], &["a#b", "'#'"]),
        (&["get", ""], &["empty"]),
        (&["watch", "a\nb"], &["control"]),
        (&["beat", "a#"], &["session"]),
        (&["get", "alice", "--url", "localhost:7400"], &["http://HOST:PORT"]),
        (&["get", "alice", "--url", "ftp://localhost"], &["http://HOST:PORT"]),
        (&["get", "alice", "--redis", "localhost"], &["redis://"]),
        (&["ls", "--redis", "http://localhost"], &["http", "redis://"]),
        (&["ls", "--redis", "redis://localhost:port"], &["redis://"]),
        (&["ls", "--sort", "size"], &["size", "ttl", "user", "age"]),
        (&["ls", "--limit", "many"], &["many", "--limit", "write a whole number"]),
        (&["ls", "--limit=-1"], &["-1", "--limit", "write a whole number"]),
        (&["ls", "--redis", " redis://127.0.0.1:1"], &["space", "remove it"]),
        (&["ls", "--redis", "redis://127.0.0.1:1\n"], &["space", "remove it"]),
        (&["ls", "--redis", "redis://u:a b@127.0.0.1:1"], &["space", "%20"]),
        (&["get", "alice", "--redis", "redis://127.0.0.1: 1"], &["space", "%20"]),
        (&["serve", "--redis", "redis://127.0.0.1:1 "], &["space", "remove it"]),
        (&["serve", "--max-sockets", "many"], &["'many'", "--max-sockets", "write a whole number"]),
        (&["serve", "--max-sockets", "1.5"], &["'1.5'", "write a whole number"]),
        (&["serve", "--max-sockets=99999999999999999999"], &["write a whole number from 0 to"]),
        (&["serve", "--max-requests-per-second", "0"], &["'0'", "from 1 to"]),
        (&["serve", "--max-requests-per-second", "x"], &["'x'", "write a whole number", "from 1 to"]),
        (&["serve", "--mailbox-mib", ""], &["--mailbox-mib", "write a whole number"]),
        (&["serve", "--ttl", "30"], &["'30'", "unit", "10s"]),
        (&["serve", "--ttl", "30 parsecs"], &["'30 parsecs'", "10s"]),
        (&["serve", "--drain", "soon"], &["'soon'", "20s"]),
        (&["serve", "--probes", ""], &["--probes", "write true, false"]),
        (&["demo", "--users", "few"], &["'few'", "write a whole number from 1 to 100000"]),
        (&["bench", "--clients", "few"], &["'few'", "write a whole number"]),
        (&["bench", "capacity", "--daemons", "1,many"], &["'many'", "write a whole number from 0 to 64"]),
        (&["get", "alice", "--url", "http://a b"], &["http://HOST:PORT"]),
        (&["get", "alice", "--url", "http://localhost:70000"], &["port", "65535"]),
        (&["beat", "alice", "--every", "often"], &["often", "10s"]),
        (&["beat", "alice", "--every", "0s"], &["--every"]),
        (&["beat", "alice", "--every", "40s"], &["--every 40s", "--ttl 30s", "shorten --every"]),
        (&["beat", "alice", "--ttl", "1ms"], &["--ttl", "100ms"]),
        (&["beat", "alice", "--ttl=-5s"], &["--ttl"]),
        (&["serve", "--listen", "localhost"], &["--listen", "'localhost'", "write 127.0.0.1:7400"]),
        (&["serve", "--listen", "example.org:7401"], &["'example.org:7401'", "write 127.0.0.1:7401"]),
        (&["serve", "--listen", ":7401"], &["':7401'", "write 127.0.0.1:7401"]),
        (&["serve", "--listen", "::1"], &["'::1'", "[::1]:PORT"]),
        (&["serve", "--listen", "127.0.0.1:99999"], &["'127.0.0.1:99999'", "up to 65535"]),
        (&["serve", "--ttl", "fast"], &["fast", "10s"]),
        (&["serve", "--redis", "nonsense"], &["nonsense", "redis://"]),
        (&["serve", "--configure-redis", "perhaps"], &["perhaps", "true", "false"]),
        (&["serve", "--events", "some"], &["some", "set"]),
        (&["serve", "--log", "="], &["--log", "write error, warn, info", "keybeat=debug"]),
        (&["serve", "--log", "loud"], &["'loud'", "write error, warn, info"]),
        (&["serve", "--allow-origin", "app.example"], &["app.example"]),
        (&["serve", "--allow-host", "http://x"], &["http://x", "host name"]),
        (&["serve", "--log-format", "xml"], &["xml", "text", "json"]),
        (&["demo", "--users", "0"], &["--users"]),
    ] {
        let ran = run(args).await;
        assert_eq!((ran.code, &*ran.out), (Some(2), ""), "{args:?}: {ran:?}");
        for word in words {
            assert!(ran.err.contains(word), "{args:?} does not say {word:?}: {}", ran.err);
        }
        for word in ["\u{1b}", "panicked", "digit found", "expected number", "invalid uri", "is not in "] {
            assert!(!ran.err.contains(word), "{args:?} says {word:?}: {:?}", ran.err);
        }
    }
}

#[tokio::test]
async fn wrong_variable_exits_2() {
    for (name, value, args) in [
        ("KEYBEAT_TTL", "fast", &["serve"][..]),
        ("KEYBEAT_LISTEN", "nowhere", &["serve"]),
        ("KEYBEAT_REDIS", "nonsense", &["ls"]),
        ("KEYBEAT_URL", "nonsense", &["get", "alice"]),
    ] {
        let mut command = keybeat(args);
        command.env(name, value);
        let ran = ended(command).await;
        assert_eq!((ran.code, ran.err.contains(value)), (Some(2), true), "{name}: {ran:?}");
    }
}

#[tokio::test]
async fn redis_password_is_never_shown() {
    let port = free_port();
    for url in [format!("redis://user:hunter2@127.0.0.1:{port}"), "redis://user:hunter2@h:99999".to_owned()] {
        for args in [&["ls", "--redis", &url][..], &["get", "alice", "--redis", &url]] {
            let ran = run(args).await;
            assert!(ran.code != Some(0) && !ran.err.contains("hunter2"), "{args:?}: {ran:?}");
        }
    }
}

#[tokio::test]
async fn unreachable_daemon_fails_with_advice() {
    let url = format!("http://127.0.0.1:{}", free_port());
    for args in [&["get", "alice"][..], &["beat", "alice"]] {
        let ran = run(&[args, &["--url", &url]].concat()).await;
        assert_eq!((ran.code, &*ran.out), (Some(1), ""), "{args:?}: {ran:?}");
        for word in [&*url, "keybeat serve", "--url"] {
            assert!(ran.err.contains(word), "{args:?} does not say {word:?}: {}", ran.err);
        }
    }
    let watch = Running::start(&["watch", "--url", &url]);
    let said =
        until("watch says it, and goes on", async || Some(watch.err()).filter(|err| !err.is_empty())).await;
    assert!(said.contains("keybeat serve") && said.contains("--url"), "{said}");
}

#[tokio::test]
async fn unreachable_redis_fails_with_advice() {
    let url = format!("redis://127.0.0.1:{}", free_port());
    for args in [&["ls"][..], &["get", "alice"], &["beat", "alice"]] {
        let ran = run(&[args, &["--redis", &url]].concat()).await;
        assert_eq!((ran.code, &*ran.out), (Some(1), ""), "{args:?}: {ran:?}");
        for word in [&*url, "--redis"] {
            assert!(ran.err.contains(word), "{args:?} does not say {word:?}: {}", ran.err);
        }
        let lower = ran.err.to_lowercase();
        assert!(lower.contains("refused"), "{args:?} does not say why: {}", ran.err);
    }
    let watch = Running::start(&["watch", "--redis", &url]);
    let said =
        until("watch says it, and goes on", async || Some(watch.err()).filter(|err| !err.is_empty())).await;
    assert!(said.contains(&url) && said.to_lowercase().contains("refused"), "{said}");
}

#[tokio::test]
async fn hanging_redis_fails_within_10_s() {
    let redis = Redis::start();
    redis.signal("STOP");
    let began = Instant::now();
    let url = redis.url();
    let commands =
        [&["ls"][..], &["get", "alice"], &["beat", "alice"]].map(|args| [args, &["--redis", &url]].concat());
    let [ls, get, beat] = commands.each_ref().map(|args| run(args));
    let (ls, get, beat) = tokio::join!(ls, get, beat);
    redis.signal("CONT");
    for ran in [ls, get, beat] {
        assert_eq!((ran.code, ran.err.contains(&url)), (Some(1), true), "{ran:?}");
    }
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
}

#[tokio::test]
async fn silent_daemon_fails_after_10_s() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    silent.set_nonblocking(true).expect("its mode");
    let url = format!("http://{}", silent.local_addr().expect("its address"));
    let watch = Running::start(&["watch", "--url", &url]);
    let commands = [&["get", "alice"][..], &["beat", "alice"], &["healthcheck"]]
        .map(|args| [args, &["--url", &url]].concat());
    let [get, beat, check] = commands.each_ref().map(|args| run(args));
    let (get, beat, check) = tokio::join!(get, beat, check);
    let failure =
        format!("{url} did not answer within 10s: it is stopped, or it is not a keybeat daemon; restart it");
    for ran in [get, beat, check] {
        assert_eq!((ran.code, &*ran.out, ran.err.lines().count()), (Some(1), "", 1), "{ran:?}");
        assert!(ran.err.contains(&failure) && ran.err.contains("--url http://HOST:PORT"), "{ran:?}");
    }
    let once = until("watch says it", async || Some(watch.err()).filter(|err| !err.is_empty())).await;
    assert!(once.contains(&failure) && once.lines().count() == 1, "{once}");
    // The third attempt begins when the second has failed.
    let mut taken = Vec::new();
    let end = Instant::now() + PATIENCE * 2;
    while taken.len() < 6 {
        taken.extend(silent.accept());
        assert!(Instant::now() < end, "{} connections", taken.len());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(watch.err(), once, "the same cause is not said again");
}

#[tokio::test]
async fn other_kind_of_server_fails() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let ran = run(&["get", "alice", "--url", &format!("http://127.0.0.1:{}", redis.port)]).await;
    assert!(ran.code == Some(1) && ran.err.contains("--url"), "{ran:?}");
    let ran = run(&["ls", "--redis", &format!("redis://127.0.0.1:{}", daemon.port)]).await;
    assert!(ran.code == Some(1) && ran.err.contains(&daemon.port.to_string()), "{ran:?}");
}

/// The commands that `keybeat --help` lists.
async fn commands() -> Vec<String> {
    let ran = run(&["--help"]).await;
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
    let list =
        ran.out.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = list.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.map(|line| line.split_whitespace().next().expect("a word").to_owned()).collect()
}

#[tokio::test]
async fn every_command_prints_help() {
    let commands = commands().await;
    for known in ["serve", "demo", "ls", "get", "watch", "beat"] {
        assert!(commands.iter().any(|command| command == known), "{known} is not in {commands:?}");
    }
    for command in commands.iter().filter(|command| *command != "help") {
        let ran = run(&[command, "--help"]).await;
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{command}: {ran:?}");
        assert!(ran.out.contains(&format!("Usage: keybeat {command}")), "{command}: {}", ran.out);
        assert!(!ran.out.contains('\u{1b}'), "{command}: {:?}", ran.out);
    }
    let version = run(&["--version"]).await;
    assert_eq!(
        (version.code, &*version.out),
        (Some(0), concat!("keybeat ", env!("CARGO_PKG_VERSION"), "\n"))
    );
}

#[tokio::test]
async fn pipes_get_no_colours_and_progress() {
    let redis = three_keys();
    fill(&redis, "presence:u", 5_000);
    let ran = run(&["ls", "--redis", &redis.url()]).await;
    assert!(ran.code == Some(0) && !ran.out.contains(['\u{1b}', '█', '\r']) && ran.err.is_empty(), "{ran:?}");
    let daemon = Daemon::start(&redis).await;
    daemon.call("GET", "/v1/users/a%23b", None).await;
    assert!(!daemon.log().is_empty() && !daemon.log().contains('\u{1b}'), "{:?}", daemon.log());
}

#[tokio::test]
async fn serve_on_used_port_names_the_flag() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let address = format!("127.0.0.1:{}", daemon.port);
    for redis in [&["--redis", &redis.url()][..], &[]] {
        let ran = run(&[&["serve", "--listen", &address], redis].concat()).await;
        assert_eq!((ran.code, &*ran.out), (Some(1), ""), "{ran:?}");
        assert!(ran.err.contains(&address) && ran.err.contains("--listen"), "{}", ran.err);
        assert!(!ran.err.contains("private Redis"), "none is started for nothing: {}", ran.err);
    }
    assert_eq!(daemon.get("/v1/users/alice").await["state"], "offline", "the first goes on");
}

#[tokio::test]
async fn serve_on_public_address_needs_no_auth() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let ran = run(&["serve", "--listen", listen]).await;
        assert_eq!((ran.code, &*ran.out), (Some(2), ""), "{ran:?}");
        for word in [listen, "--no-auth", "loopback"] {
            assert!(ran.err.contains(word), "it does not say {word:?}: {}", ran.err);
        }
    }
    let redis = Redis::start();
    let port = free_port();
    let args = ["serve", "--listen", &format!("0.0.0.0:{port}"), "--no-auth", "--redis", &redis.url()];
    let mut serve = Running::start(&args);
    until("it listens", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()).await;
    until("it warns", async || serve.err().contains("--no-auth").then_some(())).await;
    serve.terminate();
    let mut rest = String::new();
    assert_eq!(serve.wait().await.code(), Some(0));
    serve.lines.into_inner().read_to_string(&mut rest).await.expect("text");
    assert_eq!(rest, "", "a log goes to standard error");
}

#[tokio::test]
async fn demo_ends_its_start_with_the_address() {
    let mut demo = Running::start(&["demo", "--users", "20", "--listen", "127.0.0.1:0"]);
    let mut banner = String::new();
    while !banner.contains("Ctrl-C") {
        banner += &demo.line().await;
    }
    let url = banner
        .split_whitespace()
        .find(|word| word.starts_with("http://127.0.0.1:"))
        .expect("an address")
        .to_owned();
    assert!(!url.ends_with(":0"), "{banner}");
    until("the comparison is logged", async || demo.err().contains("compared with Redis").then_some(()))
        .await;
    let online = until("somebody is online", async || {
        let ran = run(&["get", "ada", "björn", "chen", "--json", "--url", &url]).await;
        ran.out.contains("\"online\"").then_some(())
    });
    online.await;
    demo.terminate();
    assert_eq!(demo.wait().await.code(), Some(0), "{}", demo.err());
    // It did what was asked.
    assert!(!demo.err().contains("WARN"), "{}", demo.err());
}

/// A tiny bench that only shows that everything is measured.
const SMALL: [&str; 9] =
    ["--clients", "50", "--watchers", "20", "--users", "500", "--seconds", "300ms", "--json"];

#[tokio::test]
async fn bench_of_its_own_daemon_loses_nothing() {
    let of = async |what: &'static str| {
        let ran = run(&[&["bench", what][..], &SMALL].concat()).await;
        (ran.json(), ran.err)
    };
    let (lag, heartbeats, fanout, connections, streams) =
        tokio::join!(of("lag"), of("heartbeats"), of("fanout"), of("connections"), of("streams"));
    let all = [("lag", &lag, 4), ("heartbeats", &heartbeats, 4), ("fanout", &fanout, 10)];
    for (what, (rows, err), count) in
        all.into_iter().chain([("connections", &connections, 6), ("streams", &streams, 3)])
    {
        assert!(rows.len() == count && rows.iter().all(|row| row["bench"] == what), "{what}: {rows:?} {err}");
    }
    assert!(lag.0.iter().all(|row| row["told"] == row["users"]), "{lag:?}");
    assert!(fanout.0.iter().all(|row| row["lost"] == 0 && row["cpu_us"].is_f64()), "{fanout:?}");
}

#[tokio::test]
async fn bench_of_capacity_measures_each_mode() {
    let mut command = keybeat(&[&["bench", "capacity", "--daemons", "0,1"][..], &SMALL].concat());
    // In each of four rows the users send two heartbeats twice, 2 s apart.
    let ran = read(timeout(4 * PATIENCE, command.output()).await);
    let rows = ran.json();
    let modes: Vec<_> = rows.iter().map(|row| (row["events"].as_str(), row["daemons"].as_u64())).collect();
    let modes_of_one = ["set", "expire", "new"].map(|events| (Some(events), Some(1)));
    assert_eq!(modes, [&[(None, Some(0))][..], &modes_of_one].concat(), "{}", ran.err);
    assert!(rows.iter().all(|row| row["gaps"] == 0 && row["redis_cpu_us"].is_f64()), "{rows:?}");
    assert!(rows.iter().all(|row| row["redis_cpu_us_per_user"].is_f64()), "{rows:?}");
    let ran = run(&["bench", "capacity", "--url", "http://127.0.0.1:1"]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.err);
}

#[tokio::test]
async fn bench_of_a_running_daemon_uses_tokens() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, "let-the-bench-in").expect("a file");
    let file = file.to_str().expect("UTF-8");
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--service-token", file]).await;
    let url = daemon.url("");
    let bench = ["bench", "lag", "--url", url.trim_end_matches('/')];
    let ran = run(&[&bench[..], &["--token-file", file], &SMALL].concat()).await;
    let rows = ran.json();
    assert_eq!(rows.len(), 4, "{}{}", ran.out, ran.err);
    assert!(rows.iter().all(|row| row["told"] == row["users"]), "{rows:?}");
    let ran = run(&[&bench[..], &SMALL].concat()).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("401"), "{}", ran.err);
}

#[tokio::test]
async fn bench_explains_the_limit_of_files() {
    let ran = run(&["bench", "--clients", "100000000"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("ulimit -n 100000200"), "{}", ran.err);
}

#[tokio::test]
async fn completions_name_every_command() {
    let commands = commands().await;
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(&["completions", shell]).await;
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{shell}");
        for command in &commands {
            assert!(ran.out.contains(command), "{shell} does not know {command}");
        }
    }
    let ran = run(&["completions", "tcsh"]).await;
    assert_eq!((ran.code, ran.err.contains("bash")), (Some(2), true), "{ran:?}");
    // The shell of this machine completes a word with it.
    let script = "source <(\"$0\" completions bash); COMP_WORDS=(keybeat heal); COMP_CWORD=1; \
                  _keybeat keybeat heal keybeat; echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", script, env!("CARGO_BIN_EXE_keybeat")]).stdin(Stdio::null());
    assert_eq!(ended(bash).await.out, "healthcheck\n");
}

#[tokio::test]
async fn man_pages_name_every_flag() {
    let folder = tempfile::tempdir().expect("a folder");
    let inside = folder.path().join("man1");
    let ran = run(&["man", inside.to_str().expect("UTF-8")]).await;
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
    let page = |name: &str| std::fs::read_to_string(inside.join(name)).expect("a page");
    for command in commands().await.iter().filter(|command| *command != "help") {
        let text = page(&format!("keybeat-{command}.1")).replace("\\-", "-");
        assert!(text.contains(".TH") && text.contains(&format!("keybeat-{command}")), "{command}: {text}");
        let help = run(&[command, "--help"]).await.out;
        for flag in help.split_whitespace().filter(|word| word.starts_with("--")) {
            let flag = flag.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            assert!(text.contains(flag), "{command} does not say {flag}");
        }
    }
    assert!(page("keybeat.1").contains("keybeat\\-serve(1)"), "{}", page("keybeat.1"));
    let ran = run(&["man", "/proc/nowhere"]).await;
    assert_eq!((ran.code, ran.err.contains("/proc/nowhere")), (Some(1), true), "{ran:?}");
}

#[tokio::test]
async fn healthcheck_reports_alive_and_ready() {
    let mut redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let url = daemon.url("");
    let check = async |args: &[&str]| run(&[&["healthcheck", "--url", &url], args].concat()).await;
    let alive = check(&[]).await;
    assert_eq!((alive.code, &*alive.out, &*alive.err), (Some(0), "ok\n", ""));
    assert_eq!(check(&["--ready"]).await.code, Some(0));
    redis.kill();
    daemon.not_ready().await;
    assert_eq!(check(&[]).await.code, Some(0), "it lives");
    let ran = check(&["--ready"]).await;
    assert_eq!((ran.code, ran.err.contains("503")), (Some(1), true), "{ran:?}");
    drop(daemon);
    let ran = check(&[]).await;
    assert_eq!((ran.code, ran.err.contains("keybeat serve")), (Some(1), true), "{ran:?}");
}

#[tokio::test]
async fn no_color_disables_colours() {
    let in_terminal = async |no_color: Option<&str>| {
        // `script` of util-linux runs it on a terminal.
        let mut script = Command::new("script");
        script.args(["-qec", &format!("'{}' --help", env!("CARGO_BIN_EXE_keybeat")), "/dev/null"]);
        script.env("TERM", "xterm").env_remove("NO_COLOR").envs(no_color.map(|value| ("NO_COLOR", value)));
        script.stdin(Stdio::null());
        let ran = ended(script).await;
        assert!(ran.out.contains("serve"), "{ran:?}");
        ran.out.contains("\u{1b}[")
    };
    assert!(in_terminal(None).await, "a terminal has colours");
    assert!(!in_terminal(Some("1")).await, "NO_COLOR");
}

#[tokio::test]
async fn sentinel_and_plain_urls_are_not_confused() {
    let redis = Redis::start();
    let sentinel = Redis::sentinel(&redis);
    let (plain, watching) = (redis.port, sentinel.port);
    let as_sentinel = format!("redis-sentinel://127.0.0.1:{plain}?sentinelServiceName=it");
    let as_plain = format!("redis://127.0.0.1:{watching}");
    let wrong_name = format!("redis-sentinel://127.0.0.1:{watching}?sentinelServiceName=other");
    for (url, words) in [
        (
            &as_sentinel,
            [format!("127.0.0.1:{plain} is a Redis server and no Sentinel"), "write redis://".into()],
        ),
        (&as_plain, [format!("127.0.0.1:{watching} is a Sentinel"), "write redis-sentinel://".into()]),
        (
            &wrong_name,
            ["does not know a primary named \"other\"".into(), "correct sentinelServiceName".into()],
        ),
    ] {
        for args in [&["ls"][..], &["get", "alice"], &["beat", "alice"], &["doctor"]] {
            let ran = run(&[args, &["--redis", url]].concat()).await;
            let said = format!("{}{}", ran.out, ran.err);
            assert_eq!(ran.code, Some(1), "{args:?} {url}: {ran:?}");
            assert!(
                words.iter().all(|word| said.contains(word)),
                "{args:?} {url} lacks one of {words:?}: {said}"
            );
        }
        let daemon = Daemon::launch(&["--redis", url]);
        until("the daemon names the cause", async || {
            let cause = daemon.not_ready().await;
            words.iter().all(|word| cause.contains(word)).then_some(())
        })
        .await;
    }
}
