//! `keybeat top` on a terminal: what it shows, and how it ends.

use crate::cli::usage::{ended, keybeat};
use crate::common::daemon::Daemon;
use crate::common::free_port;
use crate::common::redis::Redis;
use crate::common::terminal::{BEFORE, Terminal, is_green};
use crate::common::tokens::Issuer;

const KEYBEAT: &str = env!("CARGO_BIN_EXE_keybeat");

/// `keybeat top` with these arguments.
fn top(columns: u16, lines: u16, args: &[&str]) -> Terminal {
    Terminal::run(columns, lines, &[], &[&[KEYBEAT, "top"], args].concat())
}

/// The line of a transition.
fn tells(screen: &str, state: &str, user: &str, reason: &str) -> bool {
    let words = [state, user, reason];
    screen
        .lines()
        .any(|line| line.split_whitespace().collect::<Vec<_>>().windows(3).any(|found| found == words))
}

/// It ended with this code and restored the screen.
async fn left(terminal: &Terminal, code: u8) -> String {
    let screen = terminal.shows(&format!("exit code {code}")).await;
    assert!(screen.contains(BEFORE) && !screen.contains("keybeat top  "), "{screen}");
    screen
}

#[tokio::test]
async fn users_of_redis_are_shown_until_q() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let top = top(100, 30, &["--url", &daemon.url("")]);
    let screen = top.shows("live, Redis up").await;
    assert!(!screen.contains(BEFORE), "it has the screen for itself: {screen}");
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    top.until("alice has come", |screen| {
        tells(screen, "online", "alice", "heartbeat") && screen.contains("users online 1")
    })
    .await;
    redis.call(&["DEL", "presence:alice"]);
    let gone =
        |screen: &str| tells(screen, "offline", "alice", "deleted") && screen.contains("users online 0");
    top.until("alice has gone", gone).await;
    // Too narrow for two lists and too low for a chart: the essentials remain.
    top.resize(48, 12);
    top.until("it is drawn anew", |screen| {
        gone(screen) && !screen.contains("deadlines") && !screen.contains("transitions per second")
    })
    .await;
    top.resize(120, 40);
    top.until("it is drawn anew", |screen| {
        gone(screen) && screen.contains("soonest deadlines") && screen.contains("transitions per second")
    })
    .await;
    top.press(&["q"]);
    left(&top, 0).await;
}

#[tokio::test]
async fn statuses_and_groups_are_shown() {
    let redis = Redis::start();
    redis.call(&["SADD", "presence-group:team a", "alice", "bob"]);
    redis.call(&["SET", "presence-status:alice", r#"{"text":"away"}"#]);
    let daemon = Daemon::start(&redis).await;
    let url = daemon.url("");
    let top = top(120, 30, &["--url", &url, "--group", "team a", "--group", "absent"]);
    top.until("the counts are shown", |screen| {
        screen.contains("group team a 0 of 2 online") && screen.contains("group absent 0 of 0 online")
    })
    .await;
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    top.until("alice is shown with her status", |screen| {
        tells(screen, "online", "alice", "heartbeat") && screen.contains(r#"{"text":"away"}"#)
    })
    .await;
    top.shows("group team a 1 of 2 online").await;
    redis.call(&["SADD", "presence-group:team a", "carol"]);
    top.shows("group team a 1 of 3 online").await;
    top.press(&["q"]);
    left(&top, 0).await;
    redis.call(&["SET", "presence-group:text", "1"]);
    let refused = self::top(160, 24, &["--url", &url, "--group", "text"]);
    assert!(left(&refused, 1).await.contains(r#"the daemon does not watch the group "text""#));
    let straight = self::top(160, 24, &["--redis", &redis.url(), "--group", "g"]);
    assert!(left(&straight, 2).await.contains("--group needs a daemon"));
}

#[tokio::test]
async fn missing_daemon_is_shown_until_it_starts() {
    let redis = Redis::start();
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    let top = top(180, 24, &["--url", &url]);
    top.shows(&format!("not connected: no daemon answers at {url}")).await;
    top.shows("start a daemon (keybeat serve)").await;
    let daemon = Daemon::launch_at(port, &["--redis", &redis.url()]);
    top.shows("live, Redis up").await;
    redis.call(&["SET", "presence:bob", "1", "EX", "60"]);
    top.until("bob has come", |screen| tells(screen, "online", "bob", "heartbeat")).await;
    daemon.kill();
    // Earlier transitions stay.
    top.until("the daemon is gone", |screen| {
        screen.contains("not connected: ") && tells(screen, "online", "bob", "heartbeat")
    })
    .await;
    top.press(&["C-c"]);
    left(&top, 0).await;
}

#[tokio::test]
async fn refusal_restores_the_screen_with_reason() {
    let (redis, issuer) = (Redis::start(), Issuer::new());
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()]).await;
    let url = daemon.url("");
    let refused = top(160, 24, &["--url", &url]);
    assert!(left(&refused, 1).await.contains("--token-file"));
    let token = issuer.write("token", &issuer.token("alice", &["bob"]));
    let refused = top(160, 24, &["--url", &url, "--token-file", &token]);
    let why = left(&refused, 1).await;
    assert!(why.contains("keybeat: ") && why.contains("refused"), "{why}");
}

#[tokio::test]
async fn redis_source_lists_deadlines_and_filters() {
    let redis = Redis::start();
    for (user, seconds) in [("late", "900"), ("soon#tab", "60"), ("lasting", "3000")] {
        redis.call(&["SET", &format!("presence:{user}"), "1", "EX", seconds]);
    }
    let top = top(100, 24, &["--redis", &redis.url()]);
    let order = |screen: &str, users: &[&str]| {
        let at: Vec<_> = users.iter().map(|user| screen.find(&format!(" s  {user}"))).collect();
        at.iter().all(Option::is_some) && at.is_sorted()
    };
    top.until("they are in order", |screen| {
        screen.contains("soonest deadlines, of 3 keys") && order(screen, &["soon#tab", "late", "lasting"])
    })
    .await;
    redis.call(&["SET", "presence:new", "1", "EX", "30"]);
    top.until("a new one is the first", |screen| {
        order(screen, &["new", "soon#tab", "late"]) && tells(screen, "online", "new", "heartbeat")
    })
    .await;
    // While the filter is typed, q is a letter.
    top.press(&["/", "q", "BSpace", "l", "A", "Enter"]);
    top.until("only names with la are shown", |screen| {
        order(screen, &["late", "lasting"]) && !screen.contains("soon#") && !screen.contains(" s  new")
    })
    .await;
    top.press(&["Escape"]);
    top.until("all are shown again", |screen| order(screen, &["new", "soon#tab", "late", "lasting"])).await;
    top.press(&["q"]);
    left(&top, 0).await;
}

#[tokio::test]
async fn top_obeys_no_color_and_needs_a_terminal() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let url = daemon.url("");
    for (env, coloured) in [(&[][..], true), (&[("NO_COLOR", "1")], false)] {
        let top = Terminal::run(100, 24, env, &[KEYBEAT, "top", "--url", &url]);
        top.shows("live, Redis up").await;
        let painted = top.painted();
        assert_eq!(is_green(&painted), coloured, "{painted:?}");
    }
    let ran = ended(keybeat(&["top", "--url", &url])).await;
    assert_eq!((ran.code, &*ran.out), (Some(1), ""), "{ran:?}");
    assert!(ran.err.contains("there is none; use keybeat watch --json"), "{}", ran.err);
}
