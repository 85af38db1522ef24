//! Output on a terminal only: colours and progress.

use crate::cli::usage::{ended, keybeat};
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, fill};
use crate::common::terminal::{Terminal, is_green};
use crate::common::until;
use std::net::TcpListener;

const KEYBEAT: &str = env!("CARGO_BIN_EXE_keybeat");

#[tokio::test]
async fn doctor_shows_progress_then_only_results() {
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
async fn ls_shows_the_number_of_keys_read() {
    let redis = Redis::start();
    fill(&redis, "presence:user-", 100_000);
    let url = redis.url();
    let ls = Terminal::run(100, 24, &[], &[KEYBEAT, "ls", "--limit", "1", "--redis", &url]);
    ls.shows("of 100,000 keys read").await;
    let found = ls.shows("exit code 0").await;
    assert!(found.contains("100000 live presence keys, 1 shown") && !found.contains("keys read"), "{found}");
}

#[tokio::test]
async fn watch_obeys_no_color() {
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
async fn waiting_for_a_silent_daemon_is_shown() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port"); // it accepts connections and never answers
    let url = format!("http://{}", silent.local_addr().expect("its address"));
    let run = |args: &[&str]| Terminal::run(120, 12, &[], &[&[KEYBEAT], args, &["--url", &url]].concat());
    let watch = run(&["watch", "alice"]);
    let others = [&["get", "alice"][..], &["beat", "alice"], &["healthcheck"]].map(run);
    watch.shows(&format!("connecting to {url}")).await;
    for other in &others {
        other.shows(&format!("waiting for {url}")).await;
    }
    let failure =
        format!("{url} did not answer within 10s: it is stopped, or it is not a keybeat daemon; restart it");
    for other in &others {
        let screen = other.shows("exit code 1").await;
        assert!(screen.replace('\n', "").contains(&failure) && !screen.contains("waiting for"), "{screen}");
    }
    let screen = watch.shows("trying again until it is back").await;
    assert!(screen.replace('\n', "").contains(&failure), "{screen}");
    watch.shows(&format!("connecting to {url}")).await;
}
