//! The prefix fences the daemon in: whatever is asked of it, what Redis is asked for stays inside.

use crate::api::http::{in_path, odd_names};
use crate::cli::usage::{ended, keybeat};
use crate::common::daemon::Daemon;
use crate::common::redis::{Client, Redis, Reply};
use serde_json::json;

/// As a pattern it would take in `presenceX:` too.
const PREFIX: &str = "pre[sx]*?ence:";
/// Keys of others, some of which the prefix would match as a pattern, and one that it begins with.
const FOREIGN: [&str; 6] =
    ["other", "presence:alice", "pres-ence:alice", "prexyence:alice", "alice", "pre[sx]*?ence"];

/// The words of a line of MONITOR: `1339518083.1 [0 127.0.0.1:60866] "SET" "key"`.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut chars = line.chars();
    let mut word: Option<String> = None;
    while let Some(c) = chars.next() {
        match (c, &mut word) {
            ('"', None) => word = Some(String::new()),
            ('"', Some(_)) => words.extend(word.take()),
            ('\\', Some(word)) => {
                // Whatever was escaped is none of what is looked for here.
                word.push('\\');
                word.extend(chars.next());
            }
            (c, Some(word)) => word.push(c),
            (_, None) => {}
        }
    }
    words
}

/// The fault of a command, if there is one.
fn outside(words: &[String]) -> Option<String> {
    let name = words.first()?.to_uppercase();
    let rest = &words[1..];
    let keys = |keys: &[String]| keys.iter().find(|key| !key.starts_with(PREFIX)).cloned();
    match name.as_str() {
        "SET" | "GET" | "GETEX" | "PTTL" | "EXISTS" | "OBJECT" | "TYPE" => {
            let at = usize::from(name == "OBJECT");
            keys(&rest[at..=at])
        }
        "DEL" | "WATCH" => keys(rest),
        "SCAN" => {
            let pattern = rest.iter().skip_while(|word| word.to_uppercase() != "MATCH").nth(1);
            let own = [r"pre\\[sx\\]\\*\\?ence:", r"presence\\-status:"];
            pattern.filter(|pattern| !own.iter().any(|own| pattern.starts_with(own))).cloned()
        }
        "PUBLISH" => Some(rest[0].clone()).filter(|channel| {
            let own = channel.strip_prefix("__keyevent@0__:");
            own != Some("keybeat-fence") && own != Some(&format!("keybeat-daemons:{PREFIX}"))
        }),
        "SUBSCRIBE" => rest.iter().find(|channel| !channel.starts_with("__keyevent@0__:")).cloned(),
        "CONFIG" => rest.get(1).filter(|name| *name != "notify-keyspace-events").cloned(),
        "HELLO" | "CLIENT" | "INFO" | "PING" | "SELECT" | "DBSIZE" | "MULTI" | "EXEC" => None,
        other => Some(other.to_owned()),
    }
}

/// All that Redis has been asked for, until now.
fn heard(monitor: &mut Client, redis: &Redis) -> Vec<Vec<String>> {
    redis.call(&["ECHO", "the end of it"]);
    let mut heard = Vec::new();
    loop {
        let Some(line) = monitor.next_line() else { panic!("MONITOR ended") };
        let words = words(&line);
        if words.get(1).is_some_and(|word| word == "the end of it") {
            return heard;
        }
        heard.push(words);
    }
}

fn random_names() -> Vec<String> {
    let signs: Vec<char> = "ab*?[]\\^-:{}%/.\"' \u{e9}\u{1f49a}presnc0".chars().collect();
    (0..60)
        .map(|_| (0..fastrand::usize(1..9)).map(|_| signs[fastrand::usize(..signs.len())]).collect())
        .collect()
}

async fn ask_for_everything(daemon: &Daemon, name: &str) {
    let path = in_path(name);
    let users = format!("/v1/users/{path}");
    for (method, path, body) in [
        ("PUT", format!("{users}/heartbeat"), None),
        ("PUT", format!("{users}/heartbeat"), Some(json!({"session": name, "ttl_ms": 60_000}))),
        ("POST", "/v1/heartbeats".into(), Some(json!({"users": [name, {"user": name, "session": "s"}]}))),
        ("POST", "/v1/users/query".into(), Some(json!({"users": [name]}))),
        ("GET", users.clone(), None),
        ("GET", format!("/v1/users?cursor={path}"), None),
        ("DELETE", format!("{users}?session={path}"), None),
        ("DELETE", users, None),
    ] {
        let (status, body) = daemon.call(method, &path, body).await;
        // Some of these names are too long for a session.
        assert!(status < 500, "{method} {path}: {body}");
    }
}

#[tokio::test]
async fn no_request_leaves_the_prefix() {
    let redis = Redis::start();
    for key in FOREIGN {
        redis.call(&["SET", key, "theirs", "EX", "1000"]);
    }
    let mut monitor = redis.client();
    assert_eq!(monitor.call(&["MONITOR"]), Reply::text("OK"));
    let daemon = Daemon::with(&["--redis", &redis.url(), "--prefix", PREFIX]).await;
    let bad = ["", "#", "a#b", "#canary:x", "a\nb", "a\0b", "\r\nDEL other\r\n"].map(str::to_owned);
    let names: Vec<String> = odd_names().into_iter().chain(random_names()).chain(bad).collect();
    for name in &names {
        ask_for_everything(&daemon, name).await;
    }
    let mut closed = daemon.socket("?user=*&session=closed").await;
    closed.ws.close(None).await.expect("a close");
    while closed.next_or_close().await.is_ok() {}
    let mut socket = daemon.socket("?user=*&session=*").await;
    for name in &names {
        socket.send(json!({"type": "heartbeat", "user": name})).await;
    }
    socket.send(json!({"type": "leave"})).await;
    socket.send(json!({"type": "watch", "users": ["*"], "id": "the last"})).await;
    while socket.next().await["id"] != "the last" {}
    for args in [&["ls", "*"][..], &["ls", "[a-z]*"], &["get", "*"], &["beat", "*"]] {
        let ran = ended(keybeat(&[args, &["--redis", &redis.url(), "--prefix", PREFIX]].concat())).await;
        assert!(ran.code != Some(1) && !ran.out.contains("theirs"), "{args:?}: {ran:?}");
    }
    let heard = heard(&mut monitor, &redis);
    // So that the test reads what it means to read.
    for name in ["SET", "DEL", "PTTL", "SCAN", "PUBLISH", "SUBSCRIBE", "WATCH", "GET", "EXEC"] {
        assert!(
            heard.iter().any(|words| words.first().is_some_and(|word| word.eq_ignore_ascii_case(name))),
            "{name}"
        );
    }
    let written =
        heard.iter().filter(|words| words.first().is_some_and(|word| word.eq_ignore_ascii_case("SET")));
    assert!(written.count() > names.len(), "heartbeats were written");
    for words in &heard {
        assert_eq!(outside(words), None, "{words:?}");
    }
    for key in FOREIGN {
        assert_eq!(redis.call(&["GET", key]), Reply::text("theirs"), "{key}");
        assert!(redis.call(&["PTTL", key]).number() > 900_000, "{key}");
    }
}
