//! Settings: values from the environment, Redis URLs, and which source a command uses.

use crate::cli::usage::{Ran, ended, keybeat};
use crate::common::redis::{Redis, Reply, fill, info};

/// A command with variables in its environment, run until it ends.
async fn run(args: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut command = keybeat(args);
    command.envs(environment.iter().copied());
    ended(command).await
}

#[tokio::test]
async fn faulty_redis_urls_name_their_fault() {
    for (url, words) in [
        ("redis://127.0.0.1:1?db=3", &["?db=", "redis://HOST/3"][..]),
        ("redis://127.0.0.1:1?timeout=5", &["timeout"]),
        ("redis://:hunt#er2@127.0.0.1:1", &["percent-encode", "%23"]),
        ("redis://:hunt/er2@127.0.0.1:1", &["percent-encode", "%2F"]),
        ("redis://:hunt?er2@127.0.0.1:1", &["percent-encode", "%3F"]),
    ] {
        let ran = run(&["ls", "--redis", url], &[]).await;
        assert_eq!((ran.code, &*ran.out), (Some(2), ""), "{url}: {ran:?}");
        assert!(words.iter().all(|word| ran.err.contains(word)), "{url}: {}", ran.err);
        assert!(
            !ran.err.contains("hunt") && !ran.err.contains("er2"),
            "{url} shows its password: {}",
            ran.err
        );
    }
}

#[tokio::test]
async fn unix_urls_work_and_choose_a_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("redis.sock").display().to_string();
    let redis = Redis::with(&["--unixsocket", &socket]);
    let mut client = redis.client();
    client.call(&["SELECT", "3"]);
    client.call(&["SET", "presence:alice", "1"]);
    for scheme in ["unix", "redis+unix", "valkey+unix"] {
        for (query, found) in [("", false), ("?db=3", true)] {
            let ran = run(&["ls", "--redis", &format!("{scheme}://{socket}{query}")], &[]).await;
            assert_eq!((ran.code, ran.out.contains("alice")), (Some(0), found), "{scheme} {query}: {ran:?}");
        }
    }
}

#[tokio::test]
async fn get_of_many_offline_users_scans_once() {
    let redis = Redis::start();
    fill(&redis, "presence:u", 5_000);
    redis.call(&["SET", "presence:zoe#tab", "1"]);
    let users: Vec<String> = (0..50).map(|number| format!("away-{number}")).chain(["zoe".into()]).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let ran = run(&[&["get", "--redis", &redis.url()], &users[..]].concat(), &[]).await;
    assert_eq!((ran.code, ran.out.lines().count()), (Some(3), 51), "{ran:?}");
    assert!(ran.out.ends_with("zoe: online\n"), "{ran:?}");
    let calls = &info(&redis, "commandstats")["cmdstat_scan"];
    let calls = calls.strip_prefix("calls=").and_then(|rest| rest.split(',').next()?.parse::<u64>().ok());
    assert!(calls.is_some_and(|calls| calls < 20), "one scan of 5,000 keys is about 6 pages: {calls:?}");
}

#[tokio::test]
async fn ls_and_get_need_no_dbsize() {
    let redis = Redis::start();
    let rights = "~presence:* resetchannels +ping +hello +client|setname +info +select +pttl +scan +object";
    let words = ["ACL", "SETUSER", "reader", "reset", "on", ">secret"];
    let words: Vec<&str> = words.into_iter().chain(rights.split_whitespace()).collect();
    assert_eq!(redis.call(&words), Reply::text("OK"));
    redis.call(&["SET", "presence:alice#tab", "1"]);
    let url = format!("redis://reader:secret@127.0.0.1:{}", redis.port);
    for args in [&["ls"][..], &["get", "alice"]] {
        let ran = run(&[args, &["--redis", &url]].concat(), &[]).await;
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{args:?}: {ran:?}");
    }
}

#[tokio::test]
async fn long_name_widens_only_its_own_row() {
    let redis = Redis::start();
    let long = "x".repeat(200);
    redis.call(&["SET", &format!("presence:{long}"), "1", "EX", "60"]);
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    let ran = run(&["ls", "--redis", &redis.url()], &[]).await;
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[0].len() < 80 && lines[1].len() < 80, "{ran:?}");
    assert!(lines[2].starts_with(&long), "the name is complete: {ran:?}");
}
