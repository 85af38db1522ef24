//! The commands as people and scripts run them: what they print, and how they end.

use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, fill, signal};
use crate::common::{PATIENCE, free_port, until};
use serde_json::{Value, json};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, timeout};

/// A command without what the environment may say.
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

/// What came of a command that ends by itself.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn lines(&self) -> Vec<&str> {
        self.out.lines().collect()
    }

    /// Its lines as JSON, after an end in good order.
    fn json(&self) -> Vec<Value> {
        assert_eq!((self.code, &*self.err), (Some(0), ""), "{self:?}");
        self.out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}")))
            .collect()
    }
}

pub async fn ended(mut command: Command) -> Ran {
    let output =
        timeout(PATIENCE, command.output()).await.expect("it ends by itself").expect("keybeat was built");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

async fn run(args: &[&str]) -> Ran {
    ended(keybeat(args)).await
}

/// A command that goes on, and the lines that it prints.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    err: Arc<Mutex<String>>,
}

impl Running {
    fn start(args: &[&str]) -> Running {
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

    fn err(&self) -> String {
        self.err.lock().expect("no panic with it").clone()
    }

    async fn line(&mut self) -> String {
        match timeout(PATIENCE, self.lines.next_line()).await {
            Ok(line) => line.expect("text").unwrap_or_else(|| panic!("it ended; it said {}", self.err())),
            Err(_) => panic!("waited in vain for a line; it said {}", self.err()),
        }
    }

    async fn json(&mut self) -> Value {
        let line = self.line().await;
        serde_json::from_str(&line).unwrap_or_else(|why| panic!("{why}: {line}"))
    }

    /// User and state of the next lines, in the order of the users.
    async fn gists(&mut self, count: usize) -> Vec<(String, String)> {
        let mut gists = Vec::new();
        for _ in 0..count {
            let transition = self.json().await;
            let text = |name: &str| transition[name].as_str().expect("a text").to_owned();
            gists.push((text("user"), text("state")));
        }
        gists.sort();
        gists
    }

    fn terminate(&self) {
        signal(self.child.id().expect("it runs"), "TERM");
    }

    async fn wait(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("it ends").expect("its own child")
    }
}

fn gist(user: &str, state: &str) -> (String, String) {
    (user.to_owned(), state.to_owned())
}

/// Waits until so many sockets watch somebody.
async fn until_watchers(daemon: &Daemon, count: usize) {
    until("the watch stands", async || (daemon.get("/v1/stats").await["watchers"] == count).then_some(()))
        .await;
}

// --- ls ------------------------------------------------------------------------------------------------

/// Alice on her phone, bob for long, carol without a TTL, and what is not presence.
fn three_keys() -> Redis {
    let redis = Redis::start();
    redis.call(&["SET", "presence:alice#phone", "1", "EX", "30"]);
    redis.call(&["SET", "presence:bob", "1", "EX", "3600"]);
    redis.call(&["SET", "presence:carol", "1"]);
    redis.call(&["SET", "other:dave", "1", "EX", "30"]);
    redis.call(&["SET", "presence:#canary:x", "1", "EX", "30"]);
    redis
}

fn first_words(ran: &Ran, lines: std::ops::Range<usize>) -> Vec<&str> {
    ran.lines()[lines].iter().map(|line| line.split_whitespace().next().expect("a word")).collect()
}

#[tokio::test]
async fn ls_is_a_table_of_the_live_keys_with_a_total() {
    let redis = three_keys();
    let ran = run(&["ls", "--redis", &redis.url()]).await;
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
    let lines = ran.lines();
    assert_eq!(lines.len(), 5, "{}", ran.out);
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["USER", "SESSION", "LEFT", "TTL"]);
    let alice: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!((&alice[..2], &alice[4..]), (&["alice", "phone"][..], &["~30", "s"][..]), "{}", ran.out);
    assert!((25.0..=30.0).contains(&alice[2].parse::<f64>().expect("seconds")), "{}", ran.out);
    assert!(lines[2].starts_with("bob ") && lines[2].ends_with("~3600 s"), "{}", ran.out);
    assert!(lines[3].starts_with("carol ") && lines[3].contains("no TTL"), "{}", ran.out);
    assert!(
        lines[4].starts_with("3 live presence keys") && lines[4].contains("1 without a TTL"),
        "{}",
        ran.out
    );
}

#[tokio::test]
async fn ls_json_is_an_object_a_line() {
    let redis = three_keys();
    let keys = run(&["ls", "--json", "--redis", &redis.url()]).await.json();
    assert_eq!(keys.len(), 3, "{keys:?}");
    let left = keys[0]["left_ms"].as_u64().expect("milliseconds");
    assert!((25_000..=30_000).contains(&left), "{keys:?}");
    assert_eq!(
        keys[0],
        json!({"user": "alice", "session": "phone", "left_ms": left, "ttl_ms": 30_000, "ttl_guessed": true})
    );
    assert_eq!(
        (&keys[1]["user"], &keys[1]["session"], &keys[1]["ttl_ms"]),
        (&json!("bob"), &Value::Null, &json!(3_600_000))
    );
    assert_eq!(
        keys[2],
        json!({"user": "carol", "session": null, "left_ms": null, "ttl_ms": null, "ttl_guessed": null})
    );
}

/// Restores a key with this value, milliseconds left, and seconds since it was written: to grow old takes long.
fn restore(redis: &Redis, key: &str, value: &str, left_ms: &str, age_s: &str) {
    redis.call(&["SET", "x", value]);
    let script =
        "return redis.call('RESTORE', KEYS[1], ARGV[1], redis.call('DUMP', 'x'), 'IDLETIME', ARGV[2])";
    redis.call(&["EVAL", script, "1", key, left_ms, age_s]);
}

#[tokio::test]
async fn ls_sorts_by_user_time_left_or_age() {
    let redis = Redis::start();
    for (user, left_ms, age_s) in [("a", "30000", "200"), ("b", "10000", "0"), ("c", "20000", "100")] {
        restore(&redis, &format!("presence:{user}"), "here", left_ms, age_s);
    }
    for (sort, expected) in [
        (None, ["a", "b", "c"]),
        (Some("user"), ["a", "b", "c"]),
        (Some("ttl"), ["b", "c", "a"]),
        (Some("age"), ["a", "c", "b"]),
    ] {
        let url = redis.url();
        let mut args = vec!["ls", "--redis", &url];
        args.extend(sort.iter().flat_map(|sort| ["--sort", sort]));
        assert_eq!(first_words(&run(&args).await, 1..4), expected, "{sort:?}");
    }
}

#[tokio::test]
async fn ls_says_where_a_ttl_is_a_guess() {
    let redis = Redis::start();
    // Redis keeps small integers as values that all keys share, and with it one idle time for all:
    // here, as on a server that was started 100 s ago.
    restore(&redis, "other", "1", "0", "100");
    redis.call(&["SET", "presence:alice", "1", "EX", "30"]);
    let keys = run(&["ls", "--json", "--redis", &redis.url()]).await.json();
    assert_eq!((&keys[0]["ttl_ms"], &keys[0]["ttl_guessed"]), (&json!(30_000), &json!(true)), "{keys:?}");
    redis.call(&["SET", "presence:alice", "on the phone", "EX", "30"]);
    let keys = run(&["ls", "--json", "--redis", &redis.url()]).await.json();
    assert_eq!(keys[0]["ttl_guessed"], false, "{keys:?}");
    assert_eq!(keys[0]["ttl_ms"], 30_000, "a value of its own has an idle time of its own: {keys:?}");
}

#[tokio::test]
async fn ls_keeps_to_its_pattern_and_limit_and_its_total_says_so() {
    let redis = three_keys();
    fill(&redis, "presence:team-", 5);
    let ran = run(&["ls", "team-*", "--limit", "2", "--redis", &redis.url()]).await;
    assert_eq!(first_words(&ran, 1..3), ["team-0", "team-1"], "{ran:?}");
    assert_eq!(ran.lines()[3], "5 live presence keys, 2 shown");
    assert_eq!(run(&["ls", "alice*", "--json", "--redis", &redis.url()]).await.json().len(), 1);
    assert_eq!(run(&["ls", "--limit", "0", "--json", "--redis", &redis.url()]).await.json().len(), 0);
    let ran = run(&["ls", "--prefix", "other:", "--redis", &redis.url()]).await;
    assert_eq!((first_words(&ran, 1..2), ran.lines()[2]), (vec!["dave"], "1 live presence key"), "{ran:?}");
}

#[tokio::test]
async fn ls_of_nothing_says_what_it_looked_for() {
    let redis = Redis::start();
    let ran = run(&["ls", "team-*", "--redis", &redis.url()]).await;
    assert_eq!((ran.code, ran.lines().len()), (Some(0), 1), "{ran:?}");
    for word in ["0 live presence keys", "presence:", "team-*"] {
        assert!(ran.out.contains(word), "{word}: {ran:?}");
    }
    assert_eq!(run(&["ls", "--json", "--redis", &redis.url()]).await.json().len(), 0);
}

#[tokio::test]
async fn ls_reads_every_key_of_a_large_server_once() {
    let redis = Redis::start();
    fill(&redis, "presence:u", 30_000);
    fill(&redis, "other:", 30_000);
    let keys = run(&["ls", "--json", "--redis", &redis.url()]).await.json();
    let mut users: Vec<&str> = keys.iter().map(|key| key["user"].as_str().expect("a name")).collect();
    users.dedup();
    assert_eq!((keys.len(), users.len(), users.is_sorted()), (30_000, 30_000, true));
}

#[tokio::test]
async fn a_reader_who_has_read_enough_is_no_error() {
    let redis = Redis::start();
    fill(&redis, "presence:u", 30_000);
    for json in [&[][..], &["--json"]] {
        let mut ls = Running::start(&[&["ls", "--redis", &redis.url()], json].concat());
        ls.line().await;
        let Running { mut child, lines, err } = ls;
        drop(lines);
        let status = timeout(PATIENCE, child.wait()).await.expect("it ends").expect("its own child");
        assert_eq!((status.code(), &**err.lock().expect("no panic with it")), (Some(0), ""));
    }
}

#[tokio::test]
async fn a_watch_whose_reader_is_gone_ends_without_an_error() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let Running { mut child, lines, err } = Running::start(&["watch", "--url", &daemon.url("")]);
    until_watchers(&daemon, 1).await;
    drop(lines);
    redis.call(&["SET", "presence:alice", "1"]);
    let status = timeout(PATIENCE, child.wait()).await.expect("it ends").expect("its own child");
    assert_eq!((status.code(), &**err.lock().expect("no panic with it")), (Some(0), ""));
}

// --- get -----------------------------------------------------------------------------------------------

#[tokio::test]
async fn get_ends_with_0_if_all_are_online_and_with_3_if_any_is_not() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    redis.call(&["SET", "presence:alice", "1"]);
    redis.call(&["SET", "presence:alice#phone", "1"]);
    redis.call(&["SET", "presence:bob#tab", "1"]);
    daemon.until_state("bob", "online").await;
    for source in [["--url", &daemon.url("")], ["--redis", &redis.url()]] {
        let ran = run(&[&["get", "bob", "alice"][..], &source].concat()).await;
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
        let lines = ran.lines();
        assert!(
            lines.len() == 2 && lines[0].starts_with("bob: online") && lines[1].starts_with("alice: online"),
            "{ran:?}"
        );
        let ran = run(&[&["get", "alice", "zoe"][..], &source].concat()).await;
        assert_eq!((ran.code, &*ran.err), (Some(3), ""), "{ran:?}");
        assert!(ran.lines()[1].starts_with("zoe: offline"), "{ran:?}");
        let ran = run(&[&["get", "zoe", "--json"][..], &source].concat()).await;
        let zoe: Value = serde_json::from_str(&ran.out).expect("one JSON object");
        assert_eq!((ran.code, &zoe["user"], &zoe["state"]), (Some(3), &json!("zoe"), &json!("offline")));
    }
    let objects = run(&["get", "alice", "--json", "--url", &daemon.url("")]).await.json();
    assert_eq!(objects, [daemon.get("/v1/users/alice").await]);
    let ran = run(&["get", "alice", "--url", &format!("{}/", daemon.url(""))]).await;
    assert_eq!(ran.code, Some(0), "with a slash too: {ran:?}");
}

#[tokio::test]
async fn get_takes_a_name_for_itself_not_for_a_pattern() {
    let redis = Redis::start();
    redis.call(&["SET", "presence:abc#tab", "1"]);
    redis.call(&["SET", "presence:[x]*#tab", "1"]);
    let states = async |names: &[&str]| {
        let ran = run(&[&["get", "--json", "--redis", &redis.url()], names].concat()).await;
        ran.lines().iter().map(|line| line.contains("\"online\"")).collect::<Vec<_>>()
    };
    assert_eq!(states(&["a*", "a?c", "[a]bc", "abc", "[x]*"]).await, [false, false, false, true, true]);
}

// --- beat ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn beat_sends_one_heartbeat_by_the_daemon_or_straight_to_redis() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    for source in [["--url", &daemon.url("")], ["--redis", &redis.url()]] {
        let ran = run(&[&["beat", "alice", "bob#my phone", "a/b", "日本"][..], &source].concat()).await;
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
        let keys = ["presence:a/b", "presence:alice", "presence:bob#my phone", "presence:日本"];
        assert_eq!(redis.presence_keys(), keys, "{source:?}");
        assert!(keys.iter().all(|key| (25_000..=30_000).contains(&redis.call(&["PTTL", key]).number())));
        let ran = run(&[&["beat", "alice", "--ttl", "5m"][..], &source].concat()).await;
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
        assert!((290_000..=300_000).contains(&redis.call(&["PTTL", "presence:alice"]).number()));
        redis.call(&[&["DEL"], &keys[..]].concat());
    }
}

#[tokio::test]
async fn beat_takes_users_whose_names_are_dots() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let ran = run(&["beat", ".", "..", "--url", &daemon.url("")]).await;
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
    assert_eq!(redis.presence_keys(), ["presence:.", "presence:.."]);
}

#[tokio::test]
async fn beat_with_every_goes_on_until_it_is_stopped() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    for source in [["--url", &daemon.url("")], ["--redis", &redis.url()]] {
        let mut beat =
            Running::start(&[&["beat", "alice", "--every", "100ms", "--ttl", "60s"][..], &source].concat());
        for _ in 0..3 {
            redis.call(&["DEL", "presence:alice"]);
            until("the next heartbeat", async || (redis.presence_keys() == ["presence:alice"]).then_some(()))
                .await;
        }
        beat.terminate();
        assert_eq!((beat.wait().await.code(), &*beat.err()), (Some(0), ""), "{source:?}");
        redis.call(&["DEL", "presence:alice"]);
    }
}

#[tokio::test]
async fn beat_with_every_outlives_a_restart_of_daemon_and_redis() {
    let mut redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let port = daemon.port;
    let urls = [daemon.url(""), redis.url()];
    let beats = [["alice", "--url", &urls[0]], ["bob", "--redis", &urls[1]]]
        .map(|args| Running::start(&[&["beat", "--every", "100ms"], &args[..]].concat()));
    let both = ["presence:alice", "presence:bob"];
    until("both are there", async || (redis.presence_keys() == both).then_some(())).await;
    daemon.kill();
    redis.kill();
    until("it is said", async || beats.iter().all(|beat| !beat.err().is_empty()).then_some(())).await;
    redis.run();
    let _daemon = Daemon::launch_at(port, &["--redis", &redis.url()]);
    until("both are there again", async || (redis.presence_keys() == both).then_some(())).await;
    for mut beat in beats {
        beat.terminate();
        assert_eq!(beat.wait().await.code(), Some(0));
    }
}

// --- watch ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn watch_prints_transitions_as_they_come() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    redis.call(&["SET", "presence:bob", "1"]);
    daemon.until_state("bob", "online").await;
    let url = daemon.url("");
    let mut plain = Running::start(&["watch", "--url", &url]);
    let mut some = Running::start(&["watch", "alice", "zoe", "--json", "--url", &url]);
    until_watchers(&daemon, 2).await;
    redis.call(&["DEL", "presence:bob"]);
    redis.call(&["SET", "presence:alice", "1", "PX", "200"]);
    for expected in
        [["offline", "bob", "deleted"], ["online", "alice", "heartbeat"], ["offline", "alice", "expired"]]
    {
        let line = plain.line().await;
        assert!(expected.iter().all(|word| line.contains(word)), "{expected:?}: {line}");
        assert!(line.starts_with("20") && !line.contains('\u{1b}'), "a time, no colour: {line:?}");
    }
    let (online, offline) = (some.json().await, some.json().await);
    assert_eq!(
        (&online["user"], &online["state"], &online["reason"]),
        (&json!("alice"), &json!("online"), &json!("heartbeat"))
    );
    assert!(online["at_ms"].is_u64() && online["since_ms"].is_u64() && online["seq"].is_u64(), "{online}");
    assert_eq!(
        (&offline["user"], &offline["state"], &offline["reason"]),
        (&json!("alice"), &json!("offline"), &json!("expired"))
    );
    for mut watch in [plain, some] {
        watch.terminate();
        assert_eq!((watch.wait().await.code(), &*watch.err()), (Some(0), ""));
    }
}

/// Lets users come until the watch prints one of them, so it stands; the others are passed over later.
async fn stands(watch: &mut Running, redis: &Redis) {
    let mut tries = 0..;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        redis.call(&[
            "SET",
            &format!("presence:ready-{}", tries.next().expect("endless")),
            "1",
            "PX",
            "100000",
        ]);
        if let Ok(line) = timeout(std::time::Duration::from_millis(50), watch.lines.next_line()).await {
            line.expect("text").expect("it goes on");
            // All of them have been printed, or were in the snapshot, once one more is.
            redis.call(&["SET", "presence:ready-last", "1", "PX", "100000"]);
            while !watch.line().await.contains("ready-last") {}
            return;
        }
    }
    panic!("it never printed anything: {}", watch.err());
}

#[tokio::test]
async fn watch_straight_from_redis_prints_transitions_as_they_come() {
    let redis = Redis::start();
    redis.call(&["SET", "presence:bob", "1"]);
    let mut watch = Running::start(&["watch", "--json", "--redis", &redis.url()]);
    stands(&mut watch, &redis).await;
    redis.call(&["DEL", "presence:bob"]);
    redis.call(&["SET", "presence:alice", "1", "PX", "200"]);
    for expected in
        [["bob", "offline", "deleted"], ["alice", "online", "heartbeat"], ["alice", "offline", "expired"]]
    {
        let transition = watch.json().await;
        assert_eq!(
            ["user", "state", "reason"].map(|name| transition[name].as_str().expect("a text")),
            expected
        );
    }
    watch.terminate();
    assert_eq!((watch.wait().await.code(), &*watch.err()), (Some(0), ""));
}

#[tokio::test]
async fn watch_survives_a_restart_of_the_daemon_and_prints_exactly_what_was_missed() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let (port, url) = (daemon.port, daemon.url(""));
    redis.call(&["SET", "presence:alice", "1"]);
    redis.call(&["SET", "presence:dave", "1"]);
    daemon.until_state("dave", "online").await;
    let mut all = Running::start(&["watch", "--json", "--url", &url]);
    let mut some =
        Running::start(&["watch", "alice", "bob", "carol", "dave", "zoe", "--json", "--url", &url]);
    until_watchers(&daemon, 2).await;
    redis.call(&["SET", "presence:carol", "1"]);
    for watch in [&mut all, &mut some] {
        assert_eq!(watch.gists(1).await, [gist("carol", "online")]);
    }
    daemon.kill();
    until("it is said", async || (!all.err().is_empty() && !some.err().is_empty()).then_some(())).await;
    // Alice goes, bob comes, carol goes and returns, zoe comes and goes; dave stays.
    redis.call(&["DEL", "presence:alice", "presence:carol"]);
    redis.call(&["MSET", "presence:bob", "1", "presence:carol", "1", "presence:zoe", "1"]);
    redis.call(&["DEL", "presence:zoe"]);
    let daemon = Daemon::launch_at(port, &["--redis", &redis.url()]);
    daemon.ready().await;
    until_watchers(&daemon, 2).await;
    redis.call(&["DEL", "presence:dave"]);
    for mut watch in [all, some] {
        assert_eq!(
            watch.gists(2).await,
            [gist("alice", "offline"), gist("bob", "online")],
            "{}",
            watch.err()
        );
        assert_eq!(watch.gists(1).await, [gist("dave", "offline")], "and nothing else before it");
        watch.terminate();
        assert_eq!(watch.wait().await.code(), Some(0));
    }
}

#[tokio::test]
async fn watch_survives_a_restart_of_redis_and_prints_exactly_what_was_missed() {
    let mut redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let mut by_daemon = Running::start(&["watch", "--json", "--url", &daemon.url("")]);
    until_watchers(&daemon, 1).await;
    let mut direct = Running::start(&["watch", "--json", "--redis", &redis.url()]);
    stands(&mut direct, &redis).await;
    while !by_daemon.line().await.contains("ready-last") {}
    for user in ["alice", "bob", "carol"] {
        redis.call(&["SET", &format!("presence:{user}"), "1", "PX", "900"]);
        redis.call(&["SET", &format!("presence:{user}#tab"), "1", "PX", "800"]);
    }
    for watch in [&mut by_daemon, &mut direct] {
        assert_eq!(watch.gists(3).await, ["alice", "bob", "carol"].map(|user| gist(user, "online")));
    }
    // The TTLs are learnt right after the first heartbeats; nothing tells when. Unknown, the grant after the
    // restart would be the first guess, 30 s.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    redis.kill();
    redis.run();
    // Bob and carol are back, dave is new; nobody renews the rest.
    for user in ["bob", "carol", "dave"] {
        redis.call(&["SET", &format!("presence:{user}"), "1", "PX", "100000"]);
    }
    for watch in [&mut by_daemon, &mut direct] {
        assert_eq!(
            watch.gists(2).await,
            [gist("alice", "offline"), gist("dave", "online")],
            "{}",
            watch.err()
        );
    }
    redis.call(&["DEL", "presence:bob"]);
    for mut watch in [by_daemon, direct] {
        assert_eq!(watch.gists(1).await, [gist("bob", "offline")], "and nothing else before it");
        watch.terminate();
        assert_eq!(watch.wait().await.code(), Some(0));
    }
}

// --- wrong usage, and what is out of reach ------------------------------------------------------------

#[tokio::test]
async fn wrong_usage_ends_with_2_and_says_what_is_right() {
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
        (&["ls", "--limit", "many"], &["many", "--limit"]),
        (&["beat", "alice", "--every", "often"], &["often", "10s"]),
        (&["beat", "alice", "--every", "0s"], &["--every"]),
        (&["beat", "alice", "--ttl", "1ms"], &["--ttl", "100ms"]),
        (&["beat", "alice", "--ttl=-5s"], &["--ttl"]),
        (&["serve", "--listen", "localhost"], &["--listen", "'localhost'", "write 127.0.0.1:7400"]),
        (&["serve", "--listen", "localhost:7401"], &["'localhost:7401'", "write 127.0.0.1:7401"]),
        (&["serve", "--listen", ":7401"], &["':7401'", "write 127.0.0.1:7401"]),
        (&["serve", "--listen", "::1"], &["'::1'", "[::1]:PORT"]),
        (&["serve", "--listen", "127.0.0.1:99999"], &["'127.0.0.1:99999'", "up to 65535"]),
        (&["serve", "--ttl", "fast"], &["fast", "10s"]),
        (&["serve", "--redis", "nonsense"], &["nonsense", "redis://"]),
        (&["serve", "--configure-redis", "perhaps"], &["perhaps", "true", "false"]),
        (&["serve", "--events", "some"], &["some", "set"]),
        (&["serve", "--log", "="], &["--log"]),
        (&["serve", "--log-format", "xml"], &["xml", "text", "json"]),
        (&["demo", "--users", "0"], &["--users"]),
    ] {
        let ran = run(args).await;
        assert_eq!((ran.code, &*ran.out), (Some(2), ""), "{args:?}: {ran:?}");
        for word in words {
            assert!(ran.err.contains(word), "{args:?} does not say {word:?}: {}", ran.err);
        }
        assert!(!ran.err.contains('\u{1b}') && !ran.err.contains("panicked"), "{args:?}: {:?}", ran.err);
    }
}

#[tokio::test]
async fn a_bad_value_in_the_environment_is_wrong_usage_too() {
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
async fn a_secret_in_a_redis_url_is_never_shown() {
    let port = free_port();
    for url in [format!("redis://user:hunter2@127.0.0.1:{port}"), "redis://user:hunter2@h:99999".to_owned()] {
        for args in [&["ls", "--redis", &url][..], &["get", "alice", "--redis", &url]] {
            let ran = run(args).await;
            assert!(ran.code != Some(0) && !ran.err.contains("hunter2"), "{args:?}: {ran:?}");
        }
    }
}

#[tokio::test]
async fn an_unreachable_daemon_is_a_failure_that_says_what_to_do() {
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
async fn an_unreachable_redis_is_a_failure_that_says_what_to_do() {
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
async fn a_redis_that_hangs_is_a_failure_within_10_s() {
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
async fn a_daemon_that_says_nothing_is_a_failure_after_10_s_and_watch_says_it_once() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    silent.set_nonblocking(true).expect("its mode");
    let url = format!("http://{}", silent.local_addr().expect("its address"));
    let watch = Running::start(&["watch", "--url", &url]);
    let commands = [&["get", "alice"][..], &["beat", "alice"], &["healthcheck"]]
        .map(|args| [args, &["--url", &url]].concat());
    let [get, beat, check] = commands.each_ref().map(|args| run(args));
    let (get, beat, check) = tokio::join!(get, beat, check);
    let failure = format!("{url} did not answer within 10s: it is stopped, or no daemon; restart it");
    for ran in [get, beat, check] {
        assert_eq!((ran.code, &*ran.out, ran.err.lines().count()), (Some(1), "", 1), "{ran:?}");
        assert!(ran.err.contains(&failure) && ran.err.contains("--url http://HOST:PORT"), "{ran:?}");
    }
    let once = until("watch says it", async || Some(watch.err()).filter(|err| !err.is_empty())).await;
    assert!(once.contains(&failure) && once.lines().count() == 1, "{once}");
    // Its third attempt begins when the second was in vain.
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
async fn a_server_that_is_something_else_is_a_failure() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let ran = run(&["get", "alice", "--url", &format!("http://127.0.0.1:{}", redis.port)]).await;
    assert!(ran.code == Some(1) && ran.err.contains("--url"), "{ran:?}");
    let ran = run(&["ls", "--redis", &format!("redis://127.0.0.1:{}", daemon.port)]).await;
    assert!(ran.code == Some(1) && ran.err.contains(&daemon.port.to_string()), "{ran:?}");
}

// --- help, colours, serve's refusals -------------------------------------------------------------------

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
async fn every_command_has_its_help() {
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
async fn without_a_terminal_there_are_no_colour_codes_and_no_progress_bar() {
    let redis = three_keys();
    fill(&redis, "presence:u", 5_000);
    let ran = run(&["ls", "--redis", &redis.url()]).await;
    assert!(ran.code == Some(0) && !ran.out.contains(['\u{1b}', '█', '\r']) && ran.err.is_empty(), "{ran:?}");
    let daemon = Daemon::start(&redis).await;
    daemon.call("GET", "/v1/users/a%23b", None).await;
    assert!(!daemon.log().is_empty() && !daemon.log().contains('\u{1b}'), "{:?}", daemon.log());
}

#[tokio::test]
async fn serve_on_a_taken_port_is_a_failure_that_names_the_address_and_the_flag() {
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
async fn serve_on_an_open_address_is_refused_unless_it_is_asked_for() {
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
async fn demo_prints_where_the_console_is_and_brings_its_users() {
    let mut demo = Running::start(&["demo", "--users", "20", "--listen", "127.0.0.1:0"]);
    let line = demo.line().await;
    let url = line
        .split_whitespace()
        .find(|word| word.starts_with("http://127.0.0.1:"))
        .expect("an address")
        .to_owned();
    assert!(!url.ends_with(":0"), "{line}");
    let online = until("somebody is online", async || {
        let ran = run(&["get", "ada", "björn", "chen", "--json", "--url", &url]).await;
        ran.out.contains("\"online\"").then_some(())
    });
    online.await;
    demo.terminate();
    assert_eq!(demo.wait().await.code(), Some(0), "{}", demo.err());
}

/// A bench so small that it only shows that all is measured.
const SMALL: [&str; 9] =
    ["--clients", "50", "--watchers", "20", "--users", "500", "--seconds", "300ms", "--json"];

#[tokio::test]
async fn bench_measures_a_daemon_of_its_own_and_loses_nothing() {
    let of = async |what: &'static str| {
        let ran = run(&[&["bench", what][..], &SMALL].concat()).await;
        (ran.json(), ran.err)
    };
    let (lag, heartbeats, fanout, connections) =
        tokio::join!(of("lag"), of("heartbeats"), of("fanout"), of("connections"));
    let all = [("lag", &lag, 4), ("heartbeats", &heartbeats, 2), ("fanout", &fanout, 10)];
    for (what, (rows, err), count) in all.into_iter().chain([("connections", &connections, 5)]) {
        assert!(rows.len() == count && rows.iter().all(|row| row["bench"] == what), "{what}: {rows:?} {err}");
    }
    assert!(lag.0.iter().all(|row| row["told"] == row["users"]), "{lag:?}");
    assert!(fanout.0.iter().all(|row| row["lost"] == 0 && row["cpu_us"].is_f64()), "{fanout:?}");
}

#[tokio::test]
async fn bench_measures_a_daemon_that_runs_and_asks_for_a_token() {
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
async fn bench_says_how_to_get_the_files_that_it_needs() {
    let ran = run(&["bench", "--clients", "100000000"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("ulimit -n 100000200"), "{}", ran.err);
}

// --- for shells, for man, for supervisors --------------------------------------------------------------

#[tokio::test]
async fn completions_of_each_shell_name_every_command() {
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
    // What the shell of this machine makes of it.
    let script = "source <(\"$0\" completions bash); COMP_WORDS=(keybeat heal); COMP_CWORD=1; \
                  _keybeat keybeat heal keybeat; echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", script, env!("CARGO_BIN_EXE_keybeat")]).stdin(Stdio::null());
    assert_eq!(ended(bash).await.out, "healthcheck\n");
}

#[tokio::test]
async fn there_is_a_man_page_of_each_command_with_every_flag() {
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
async fn healthcheck_says_whether_a_daemon_lives_and_whether_it_is_ready() {
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
async fn colours_are_for_terminals_and_no_color_turns_them_off() {
    let in_terminal = async |no_color: Option<&str>| {
        // A terminal of its own: util-linux' script.
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
