//! What commands show on a terminal and nowhere else: colours, and how far they have come.

use crate::cli::usage::{ended, keybeat};
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, fill};
use crate::common::terminal::{Terminal, is_green};
use crate::common::until;
use std::net::TcpListener;

const KEYBEAT: &str = env!("CARGO_BIN_EXE_keybeat");

#[tokio::test]
async fn doctor_says_what_it_is_at_while_that_lasts_and_then_only_what_it_has_found() {
    let redis = Redis::start();
    let url = redis.url();
    redis.signal("STOP");
    let doctor = Terminal::run(100, 40, &[], &[KEYBEAT, "doctor", "--redis", &url]);
    doctor.shows(&format!("{url}: connecting")).await;
    redis.signal("CONT");
    let found = doctor.shows("exit code 0").await;
    assert!(found.contains("ok       events") && !found.contains("connecting"), "{found}");
    let ran = ended(keybeat(&["doctor", "--redis", &url])).await;
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "without a terminal nothing is drawn: {ran:?}");
}

#[tokio::test]
async fn ls_shows_how_many_keys_it_has_looked_at() {
    let redis = Redis::start();
    fill(&redis, "presence:user-", 100_000);
    let url = redis.url();
    let ls = Terminal::run(100, 24, &[], &[KEYBEAT, "ls", "--limit", "1", "--redis", &url]);
    ls.shows("of 100,000 keys looked at").await;
    let found = ls.shows("exit code 0").await;
    assert!(found.contains("100000 live presence keys, 1 shown") && !found.contains("looked at"), "{found}");
}

#[tokio::test]
async fn watch_is_coloured_unless_no_color_forbids_it() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    for (env, coloured) in [(&[][..], true), (&[("NO_COLOR", "1")], false)] {
        redis.call(&["DEL", "presence:alice"]);
        daemon.until_state("alice", "offline").await;
        let watch = Terminal::run(100, 24, env, &[KEYBEAT, "watch", "--url", &daemon.url("")]);
        until("the watch stands", async || (daemon.get("/v1/stats").await["watchers"] == 1).then_some(()))
            .await;
        redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
        watch.shows("alice  (heartbeat)").await;
        let painted = watch.painted();
        assert_eq!(is_green(&painted), coloured, "{painted:?}");
        drop(watch);
        until("nobody watches", async || (daemon.get("/v1/stats").await["watchers"] == 0).then_some(()))
            .await;
    }
}

#[tokio::test]
async fn who_waits_for_a_daemon_that_says_nothing_is_told_so_and_then_what_to_do() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port"); // it takes connections, and none is answered
    let url = format!("http://{}", silent.local_addr().expect("its address"));
    let run = |args: &[&str]| Terminal::run(120, 12, &[], &[&[KEYBEAT], args, &["--url", &url]].concat());
    let watch = run(&["watch", "alice"]);
    let others = [&["get", "alice"][..], &["beat", "alice"], &["healthcheck"]].map(run);
    watch.shows(&format!("connecting to {url}")).await;
    for other in &others {
        other.shows(&format!("waiting for {url}")).await;
    }
    let failure = format!("{url} did not answer within 10s: it is stopped, or no daemon; restart it");
    for other in &others {
        let screen = other.shows("exit code 1").await;
        assert!(screen.replace('\n', "").contains(&failure) && !screen.contains("waiting for"), "{screen}");
    }
    let screen = watch.shows("trying again until it is back").await;
    assert!(screen.contains(&failure), "{screen}");
    watch.shows(&format!("connecting to {url}")).await;
}
