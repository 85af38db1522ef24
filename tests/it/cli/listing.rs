//! `keybeat ls`: its table, JSON, order and limits; and readers that close the output.

use crate::cli::usage::{Ran, Running, run, until_watchers};
use crate::common::PATIENCE;
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, fill};
use serde_json::{Value, json};
use tokio::time::timeout;

/// Alice on her phone, bob with a long TTL, carol without a TTL, and keys that are not presence keys.
pub(super) fn three_keys() -> Redis {
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
async fn ls_prints_a_table_with_total() {
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
async fn ls_json_prints_one_object_per_line() {
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

/// Restores a key with this value, time left and age, because a test cannot wait until a key is old.
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
async fn ls_marks_guessed_ttls() {
    let redis = Redis::start();
    // All keys share Redis' objects for small integers, and so one idle time; here it is 100 s, as on a server that
    // started 100 s ago.
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
async fn ls_applies_pattern_and_limit() {
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
async fn ls_without_matches_names_its_pattern() {
    let redis = Redis::start();
    let ran = run(&["ls", "team-*", "--redis", &redis.url()]).await;
    assert_eq!((ran.code, ran.lines().len()), (Some(0), 1), "{ran:?}");
    for word in ["0 live presence keys", "presence:", "team-*"] {
        assert!(ran.out.contains(word), "{word}: {ran:?}");
    }
    assert_eq!(run(&["ls", "--json", "--redis", &redis.url()]).await.json().len(), 0);
}

#[tokio::test]
async fn ls_reads_every_key_once() {
    let redis = Redis::start();
    fill(&redis, "presence:u", 30_000);
    fill(&redis, "other:", 30_000);
    let keys = run(&["ls", "--json", "--redis", &redis.url()]).await.json();
    let mut users: Vec<&str> = keys.iter().map(|key| key["user"].as_str().expect("a name")).collect();
    users.dedup();
    assert_eq!((keys.len(), users.len(), users.is_sorted()), (30_000, 30_000, true));
}

#[tokio::test]
async fn closed_reader_is_no_error() {
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
async fn watch_with_closed_reader_ends_quietly() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let Running { mut child, lines, err } = Running::start(&["watch", "--url", &daemon.url("")]);
    until_watchers(&daemon, 1).await;
    drop(lines);
    redis.call(&["SET", "presence:alice", "1"]);
    let status = timeout(PATIENCE, child.wait()).await.expect("it ends").expect("its own child");
    assert_eq!((status.code(), &**err.lock().expect("no panic with it")), (Some(0), ""));
}
