//! Settings: values from the environment, Redis URLs, and which source a command uses.

use crate::cli::usage::{Ran, ended, keybeat};
use crate::common::daemon::Daemon;
use crate::common::free_port;
use crate::common::redis::{Redis, Reply, fill, info};
use serde_json::Value;

/// A command with variables in its environment, run until it ends.
async fn run(args: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut command = keybeat(args);
    command.envs(environment.iter().copied());
    ended(command).await
}

/// `keybeat serve` with these arguments ends with 2, and names each word.
async fn serve_is_refused(args: &[&str], environment: &[(&str, &str)], words: &[&str]) {
    let ran = run(&[&["serve"], args].concat(), environment).await;
    assert_eq!((ran.code, &*ran.out), (Some(2), ""), "{args:?} {environment:?}: {ran:?}");
    for word in words {
        assert!(ran.err.contains(word), "{args:?} {environment:?} lacks {word:?}: {}", ran.err);
    }
}

#[tokio::test]
async fn malformed_variables_are_refused_by_name() {
    let open = ["--listen", "0.0.0.0:0", "--redis", "redis://127.0.0.1:1"];
    for value in ["\"false\"", "'false'", "false\r", " false", "false ", "none", "disabled", "\"\""] {
        serve_is_refused(&open, &[("KEYBEAT_NO_AUTH", value)], &["KEYBEAT_NO_AUTH"]).await;
    }
    for (name, value, words) in [
        ("KEYBEAT_PREFIX", "\"presence:\"", &["quotes"][..]),
        ("KEYBEAT_REDIS", "redis://u:hunter2@h\r", &["carriage return"]),
        ("KEYBEAT_TTL", "30s ", &["space"]),
        ("KEYBEAT_TTL", "fast", &["fast", "10s"]),
        ("KEYBEAT_PROBES", "maybe", &["maybe", "true", "off"]),
        ("KEYBEAT_LOG_FORMAT", "xml", &["xml", "json"]),
    ] {
        serve_is_refused(&[], &[(name, value)], &[&[name], words].concat()).await;
    }
    let ran = run(&["get", "alice"], &[("KEYBEAT_TOKEN", "'hunter2'")]).await;
    assert!(ran.code == Some(2) && ran.err.contains("KEYBEAT_TOKEN"), "{ran:?}");
    let ran = run(&["serve"], &[("KEYBEAT_REDIS", "'redis://u:hunter2@h'")]).await;
    assert!(ran.err.contains("KEYBEAT_REDIS") && !ran.err.contains("hunter2"), "{ran:?}");
}

#[tokio::test]
async fn arguments_win_over_malformed_variables() {
    let redis = Redis::start();
    redis.call(&["SET", "presence:alice", "1"]);
    let malformed = [("KEYBEAT_PREFIX", "\"presence:\""), ("KEYBEAT_TTL", "fast")];
    let ran = run(&["ls", "--prefix", "presence:", "--redis", &redis.url()], &malformed).await;
    assert!(ran.code == Some(0) && ran.out.contains("alice"), "{ran:?}");
    assert_eq!(run(&["completions", "bash"], &malformed).await.code, Some(0), "it uses no variable");
}

#[tokio::test]
async fn variables_of_other_commands_are_not_looked_at() {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url()]).await;
    // get has an argument --redis, which this variable is not for.
    let malformed = [("KEYBEAT_REDIS", "\"x\""), ("KEYBEAT_TTL", "5"), ("KEYBEAT_LISTEN", "'x'")];
    for command in [&["get", "nobody"][..], &["healthcheck"]] {
        let ran = run(&[command, &["--url", &daemon.url("")]].concat(), &malformed).await;
        assert!(matches!(ran.code, Some(0 | 3)), "{command:?}: {ran:?}");
    }
    let url = [("KEYBEAT_URL", "\"http://x\"")];
    let ran = run(&["serve", "--check", "--redis", &redis.url()], &url).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[tokio::test]
async fn empty_variables_count_as_not_set() {
    let redis = Redis::start();
    let help = run(&["serve", "--help"], &[]).await.out;
    let names = help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next());
    let empty: Vec<(&str, &str)> =
        names.filter(|name| *name != "KEYBEAT_REDIS").map(|name| (name, "")).collect();
    assert!(empty.len() > 30, "only {empty:?} found in {help}");
    let port = free_port();
    let daemon = Daemon::launch_in(port, &["--redis", &redis.url()], &empty);
    daemon.ready().await;
    let ran =
        run(&["get", "alice", "--url", &daemon.url("")], &[("KEYBEAT_TOKEN", ""), ("KEYBEAT_CA", "")]).await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
}

#[tokio::test]
async fn private_redis_starts_only_on_purpose() {
    let public = ["--listen", "0.0.0.0:0", "--no-auth"];
    serve_is_refused(&public, &[], &["--redis URL", "--redis private", "0.0.0.0:0"]).await;
    serve_is_refused(&[], &[("KEYBEAT_REDIS", "")], &["KEYBEAT_REDIS is set but empty", "--redis private"])
        .await;
    let port = free_port();
    let daemon = Daemon::launch_in(port, &["--redis", "private"], &[("KEYBEAT_REDIS", "")]);
    daemon.ready().await;
    assert!(daemon.log().contains("started a private Redis"), "{}", daemon.log());
}

#[tokio::test]
async fn only_a_typed_redis_replaces_the_daemon() {
    let redis = Redis::start();
    redis.call(&["SET", "presence:alice", "1"]);
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let url = redis.url();
    let variables = [("KEYBEAT_REDIS", &*url), ("KEYBEAT_URL", &*nowhere)];
    for command in [&["get", "alice"][..], &["beat", "alice"]] {
        let ran = run(command, &variables).await;
        assert!(ran.code == Some(1) && ran.err.contains(&nowhere), "{command:?} asks the daemon: {ran:?}");
        let ran = run(&[command, &["--redis", &url]].concat(), &variables).await;
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{command:?} asks Redis: {ran:?}");
        let both = [command, &["--redis", &url, "--url", &nowhere]].concat();
        let ran = run(&both, &[]).await;
        assert!(ran.code == Some(2) && ran.err.contains("--url") && ran.err.contains("--redis"), "{ran:?}");
    }
    let ran = run(&["ls"], &variables).await;
    assert!(ran.code == Some(0) && ran.out.contains("alice"), "ls reads KEYBEAT_REDIS: {ran:?}");
}

#[tokio::test]
async fn faulty_redis_urls_name_their_fault() {
    for (url, words) in [
        ("redis://127.0.0.1:1?db=3", &["?db=", "redis://HOST/3"][..]),
        ("redis://127.0.0.1:1?timeout=5", &["timeout"]),
        ("redis://:hunt#er2@127.0.0.1:1", &["percent-encode", "%23"]),
        ("redis://:hunt/er2@127.0.0.1:1", &["percent-encode", "%2F"]),
        ("redis://:hunt?er2@127.0.0.1:1", &["percent-encode", "%3F"]),
        ("redis://:pa?hunter2=1@127.0.0.1:1", &["percent-encode", "%3F"]),
        ("redis-sentinel://:pa?hunter2=1@127.0.0.1:1", &["percent-encode", "%3F"]),
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

#[tokio::test]
async fn json_logs_include_failures_at_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address").to_string();
    let redis = ["--redis", "redis://127.0.0.1:1"];
    let listen = [&["serve", "--listen", &address][..], &redis].concat();
    let json = [("KEYBEAT_LOG_FORMAT", "json")];
    for (args, environment, code, word) in [
        (&[&listen[..], &["--log-format", "json"]].concat()[..], &[][..], 1, &*address),
        (&listen, &json, 1, &address),
        (&["serve", "--redis", "nonsense", "--log-format=json"], &[], 2, "nonsense"),
        (&["serve", "--nonsense"], &json, 2, "--nonsense"),
        (&["serve"], &[json[0], ("KEYBEAT_TTL", "fast")], 2, "KEYBEAT_TTL"),
        (&["serve"], &[json[0], ("KEYBEAT_TTL", "'30s'")], 2, "KEYBEAT_TTL"),
    ] {
        let ran = run(args, environment).await;
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        let lines: Vec<Value> = ran
            .err
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{args:?}: {why}: {line}")))
            .collect();
        let message = lines.last().expect("a line")["message"].as_str().expect("a text");
        assert!(message.contains(word), "{args:?}: {message}");
    }
}

#[tokio::test]
async fn password_for_redis_comes_from_a_file() {
    let redis = Redis::start();
    redis.call(&["SET", "presence:alice", "1"]);
    redis.call(&["ACL", "SETUSER", "keybeat", "on", ">hunter2", "~*", "&*", "+@all"]);
    redis.call(&["CONFIG", "SET", "requirepass", "hunter2"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password").to_str().expect("UTF-8").to_owned();
    std::fs::write(&file, "hunter2\n").expect("a file");
    let with_user = redis.url().replace("://", "://keybeat@");
    for url in [redis.url(), with_user.clone()] {
        for command in [&["ls"][..], &["get", "alice"], &["doctor"], &["beat", "alice"]] {
            let ran = run(&[command, &["--redis", &url, "--redis-password-file", &file]].concat(), &[]).await;
            assert_eq!(ran.code, Some(0), "{command:?} {url}: {ran:?}");
        }
    }
    let url = redis.url().replace("://", "://:hunter2@");
    let ran = run(&["ls", "--redis", &url, "--redis-password-file", &file], &[]).await;
    assert!(ran.code == Some(2) && ran.err.contains("remove the password from the URL"), "{ran:?}");
    let ran =
        run(&["ls", "--redis", &redis.url()], &[("KEYBEAT_REDIS_PASSWORD_FILE", "/nowhere/password")]).await;
    assert!(ran.code == Some(2) && ran.err.contains("/nowhere/password"), "{ran:?}");
    serve_is_refused(&["--redis-password-file", &file], &[], &["--redis-password-file", "--redis URL"]).await;
    // The file is read again at each connection.
    let daemon = Daemon::with(&["--redis", &with_user, "--redis-password-file", &file]).await;
    redis.call(&["AUTH", "hunter2"]);
    let admin = |words: &[&str]| {
        let port = redis.port.to_string();
        let words = [&["-p", &port, "-a", "hunter2", "--no-auth-warning"], words].concat();
        let ran = std::process::Command::new("redis-cli").args(&words).output().expect("redis-cli");
        assert!(ran.status.success() && !String::from_utf8_lossy(&ran.stdout).contains("ERR"), "{ran:?}");
    };
    std::fs::write(&file, "correct-horse\r\n").expect("a file");
    admin(&["ACL", "SETUSER", "keybeat", "resetpass", ">correct-horse"]);
    admin(&["CLIENT", "KILL", "USER", "keybeat"]);
    crate::common::until("it has connected again", async || {
        (daemon.log().matches("subscribed").count() > 1).then_some(())
    })
    .await;
    daemon.ready().await;
    assert_eq!(
        daemon.call("PUT", "/v1/users/bob/heartbeat", None).await.0,
        204,
        "writes use the new password too"
    );
    assert!(!daemon.log().contains("hunter2") && !daemon.log().contains("horse"), "{}", daemon.log());
}
