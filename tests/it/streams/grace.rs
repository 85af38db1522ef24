//! Sockets that close with 1001, as a browser's do when its page reloads: their users get a grace.

use super::keeping::Tab;
use super::socket::{Told, gist};
use crate::common::cluster::Cluster;
use crate::common::daemon::Daemon;
use crate::common::proxy::Proxy;
use crate::common::redis::Redis;
use crate::common::{now_ms, until};
use std::time::Duration;
use tokio::time::sleep;

/// An end that was noticed at its time, on a busy machine. The TTL is far longer.
const PROMPT_MS: u64 = 4_000;
const MODES: [&str; 3] = ["set", "expire", "new"];

const TAB: &str = "?user=alice&session=tab";
const KEY: &str = "presence:alice#tab";

/// A server that deletes a key that has run out only when somebody asks for it.
fn lazy_redis() -> Redis {
    let redis = Redis::with(&["--enable-debug-command", "yes"]);
    assert_eq!(redis.call(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).as_text(), "OK");
    redis
}

/// A daemon with this TTL and grace.
async fn daemon(redis: &Redis, events: &str, ttl: &str, grace: &str) -> Daemon {
    let url = redis.url();
    Daemon::with(&["--redis", &url, "--events", events, "--ttl", ttl, "--close-grace", grace]).await
}

/// Two daemons, and the transitions of alice at each.
async fn two_daemons(redis: &Redis, events: &str, ttl: &str, grace: &str) -> ([Daemon; 2], [Told; 2]) {
    let start = async || daemon(redis, events, ttl, grace).await;
    let daemons = [start().await, start().await];
    let told = [Told::of(&daemons[0], "alice").await, Told::of(&daemons[1], "alice").await];
    (daemons, told)
}

/// All daemons report this alone.
async fn all_report(told: &mut [Told], state: &str, reason: &str) {
    for told in told {
        assert_eq!(gist(&told.one().await), ["alice", state, reason]);
    }
}

async fn until_ttl(redis: &Redis, is_right: impl Fn(i64) -> bool) {
    until("the TTL", async || is_right(redis.call(&["PTTL", KEY]).number()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloaded_page_is_no_transition_at_any_daemon() {
    for events in MODES {
        let redis = Redis::start();
        let (daemons, mut told) = two_daemons(&redis, events, "5s", "1s").await;
        let mut tab = Tab::open(&daemons[0], TAB).await;
        all_report(&mut told, "online", "heartbeat").await;
        // The page comes back to the same daemon, then to the other one, then to the first.
        for back in [0, 1, 0] {
            tab.reload().await;
            until_ttl(&redis, |left| left <= 1_000).await;
            sleep(Duration::from_millis(300)).await;
            tab = Tab::open(&daemons[back], TAB).await;
            until_ttl(&redis, |left| left > 4_000).await;
            tab.pinged(3).await;
            told.iter_mut().for_each(Told::none);
        }
        tab.close().await;
        all_report(&mut told, "offline", "deleted").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_that_stays_away_is_offline_at_the_end_of_the_grace() {
    for events in MODES {
        let redis = lazy_redis();
        let (daemons, mut told) = two_daemons(&redis, events, "60s", "1s").await;
        let tab = Tab::open(&daemons[0], TAB).await;
        all_report(&mut told, "online", "heartbeat").await;
        // So that the close is not the last heartbeat.
        sleep(Duration::from_millis(1_500)).await;
        let closed = now_ms();
        tab.reload().await;
        for told in &mut told {
            let gone = told.one().await;
            assert_eq!(gist(&gone), ["alice", "offline", "expired"], "{events}");
            let late_ms = now_ms().saturating_sub(closed + 1_000);
            let [at, seen] = ["at_ms", "last_seen_ms"].map(|name| gone[name].as_u64().expect("a time"));
            assert!(late_ms < PROMPT_MS && at >= closed + 900, "{events}: {late_ms} ms late, {gone}");
            assert!((closed - 100..=at - 900).contains(&seen), "{events}: closed at {closed}, {gone}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_other_code_ends_at_once() {
    let redis = Redis::start();
    let (daemons, mut told) = two_daemons(&redis, "set", "30s", "20s").await;
    for code in [None, Some(1000), Some(1002), Some(3001), Some(4001)] {
        let tab = Tab::open(&daemons[0], TAB).await;
        all_report(&mut told, "online", "heartbeat").await;
        tab.end(code).await;
        all_report(&mut told, "offline", "deleted").await;
    }
    // So do goodbyes, also within the grace.
    for request in [false, true] {
        let tab = Tab::open(&daemons[0], TAB).await;
        all_report(&mut told, "online", "heartbeat").await;
        if request {
            tab.reload().await;
            until_ttl(&redis, |left| left <= 20_000).await;
            assert_eq!(daemons[1].call("DELETE", "/v1/users/alice", None).await.0, 204);
            all_report(&mut told, "offline", "deleted").await;
        } else {
            tab.send(r#"{"type":"leave"}"#);
            all_report(&mut told, "offline", "deleted").await;
            tab.reload().await;
        }
    }
    assert_eq!(redis.presence_keys(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grace_of_zero_deletes_at_once() {
    let redis = Redis::start();
    let (daemons, mut told) = two_daemons(&redis, "set", "30s", "0s").await;
    let tab = Tab::open(&daemons[0], TAB).await;
    all_report(&mut told, "online", "heartbeat").await;
    tab.reload().await;
    all_report(&mut told, "offline", "deleted").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grace_makes_no_ttl_longer() {
    let redis = Redis::start();
    let (daemons, mut told) = two_daemons(&redis, "set", "2s", "60s").await;
    let tab = Tab::open(&daemons[0], TAB).await;
    all_report(&mut told, "online", "heartbeat").await;
    let value = redis.call(&["GET", KEY]);
    tab.reload().await;
    until("the key is noted", async || (redis.call(&["GET", KEY]) != value).then_some(())).await;
    assert!(redis.call(&["PTTL", KEY]).number() <= 2_000);
    all_report(&mut told, "offline", "expired").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_of_another_socket_is_left_alone() {
    let redis = Redis::start();
    let (daemons, mut told) = two_daemons(&redis, "set", "5s", "300ms").await;
    for other in [0, 1] {
        let [first, second] = [Tab::open(&daemons[0], TAB).await, Tab::open(&daemons[other], TAB).await];
        all_report(&mut told, "online", "heartbeat").await;
        first.reload().await;
        second.pinged(4).await;
        told.iter_mut().for_each(Told::none);
        second.reload().await;
        all_report(&mut told, "offline", "expired").await;
    }
    // A key that a program wrote last belongs to it.
    let tab = Tab::open(&daemons[0], TAB).await;
    all_report(&mut told, "online", "heartbeat").await;
    redis.call(&["SET", KEY, "1", "EX", "60"]);
    tab.reload().await;
    // The release was carried out before a later one.
    let other = Tab::open(&daemons[0], "?user=bob").await;
    other.close().await;
    until("bob is gone", async || (redis.presence_keys() == [KEY]).then_some(())).await;
    assert!(redis.call(&["PTTL", KEY]).number() > 30_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_of_the_daemon_changes_no_key() {
    for args in [&["--drain", "500ms"][..], &[]] {
        let redis = Redis::start();
        let mut all = vec!["--redis", "", "--ttl", "30s", "--close-grace", "1s"];
        let url = redis.url();
        all[1] = &url;
        all.extend(args);
        let daemon = Daemon::with(&all).await;
        let tab = Tab::open(&daemon, TAB).await;
        let value = redis.call(&["GET", KEY]);
        // The client answers the daemon's close with the same code.
        let (status, _) = daemon.stop();
        assert!(status.success());
        drop(tab);
        assert_eq!(redis.call(&["GET", KEY]), value);
        assert!(redis.call(&["PTTL", KEY]).number() > 10_000);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_that_dies_after_the_close_has_told_the_others() {
    let redis = lazy_redis();
    // Without `set` events no question follows the close.
    let watcher = daemon(&redis, "new", "60s", "500ms").await;
    let mut told = Told::of(&watcher, "alice").await;
    let mut graces = 0;
    for round in 0..12 {
        let dying = daemon(&redis, "new", "60s", "500ms").await;
        let tab = Tab::open(&dying, TAB).await;
        assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
        tab.begin_end(Some(1001));
        if round % 2 == 0 {
            until_ttl(&redis, |left| left <= 500).await;
        } else {
            sleep(Duration::from_micros(fastrand::u64(..3_000))).await;
        }
        dying.kill();
        // Asking for the value alone would make the server delete the key.
        let left = redis.call(&["PTTL", KEY]).number();
        if left <= 500 {
            graces += 1;
            let died = now_ms();
            let gone = told.one().await;
            assert_eq!(gist(&gone)[1..], ["offline", "expired"]);
            assert!(now_ms() - died < PROMPT_MS, "{left} ms were left; {} ms later", now_ms() - died);
        } else {
            redis.call(&["DEL", KEY]);
            assert_eq!(gist(&told.one().await)[1..], ["offline", "deleted"], "{left} ms were left");
        }
    }
    assert!(graces >= 6, "{graces}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_redis_delays_the_grace_and_ends_nobody_who_returns() {
    for (frozen_ms, returns) in [(400, false), (400, true), (3_000, true), (3_000, false)] {
        let redis = Redis::start();
        let (daemons, mut told) = two_daemons(&redis, "set", "6s", "1s").await;
        let tab = Tab::open(&daemons[0], TAB).await;
        all_report(&mut told, "online", "heartbeat").await;
        redis.signal("STOP");
        tab.reload().await;
        let back = async || Tab::open(&daemons[1], TAB).await;
        let tab = if returns { Some(back().await) } else { None };
        sleep(Duration::from_millis(frozen_ms)).await;
        redis.signal("CONT");
        for daemon in &daemons {
            daemon.ready().await;
        }
        let case = format!("frozen for {frozen_ms} ms, returns: {returns}");
        if let Some(tab) = tab {
            tab.pinged(4).await;
            assert!(redis.call(&["PTTL", KEY]).number() > 2_000, "{case}");
            let quiet = async |daemon: &Daemon| daemon.get("/v1/users/alice").await["state"] == "online";
            assert!(quiet(&daemons[0]).await && quiet(&daemons[1]).await, "{case}");
            told.iter_mut().for_each(|told| assert_eq!(told.transitions(), [""; 0], "{case}"));
        } else {
            for daemon in &daemons {
                daemon.until_state("alice", "offline").await;
            }
            for told in &mut told {
                until("the transition", async || (told.transitions() == ["offline expired"]).then_some(()))
                    .await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_waits_for_the_connection_to_redis() {
    for (code, reason) in [(1000, "deleted"), (1001, "expired")] {
        let redis = Redis::start();
        let mut client = redis.client();
        let daemon = daemon(&redis, "set", "30s", "1s").await;
        let mut told = Told::of(&daemon, "alice").await;
        let tab = Tab::open(&daemon, TAB).await;
        assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
        // The daemon opens a connection for such closes when it needs one. Now the server refuses each new one at once.
        assert_eq!(client.call(&["CONFIG", "SET", "maxclients", "1"]).as_text(), "OK");
        tab.end(Some(code)).await;
        sleep(Duration::from_millis(600)).await;
        told.none();
        assert_eq!(client.call(&["CONFIG", "SET", "maxclients", "1000"]).as_text(), "OK");
        let back = now_ms();
        assert_eq!(gist(&told.one().await), ["alice", "offline", reason]);
        assert!(now_ms() - back < 1_000 + PROMPT_MS, "{} ms", now_ms() - back);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_closed_while_the_cable_is_pulled_gets_its_grace_afterwards() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.port).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let cut = Daemon::with(&["--redis", &url, "--ttl", "8s", "--close-grace", "1s"]).await;
    let watcher = daemon(&redis, "set", "8s", "1s").await;
    let mut told = Told::of(&watcher, "alice").await;
    let tab = Tab::open(&cut, TAB).await;
    assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
    proxy.cut(true);
    tab.reload().await;
    sleep(Duration::from_millis(2_500)).await;
    told.none();
    proxy.cut(false);
    assert_eq!(gist(&told.one().await), ["alice", "offline", "expired"]);
    // The daemon itself cannot know why the key is absent after an outage: one TTL more.
    cut.until_state("alice", "offline").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_are_missing_make_no_grace_late_at_its_own_daemon() {
    let operations =
        "set new expired del evicted rename_from rename_to restore copy_to move_from move_to keybeat-fence";
    let channels = operations.split(' ').map(|operation| format!("&__keyevent@0__:{operation}"));
    let no_channel = ["resetchannels".to_owned()].into_iter().chain(channels).collect::<Vec<_>>();
    for rights in [no_channel, vec!["-watch".to_owned()], vec!["-multi".to_owned()]] {
        let redis = lazy_redis();
        let rights: Vec<&str> = rights.iter().map(String::as_str).collect();
        redis.call(&[&["ACL", "SETUSER", "default"], &rights[..]].concat());
        // Without `set` events no question follows the close.
        let daemon = daemon(&redis, "new", "60s", "1s").await;
        let mut told = Told::of(&daemon, "alice").await;
        // Once more after a grace.
        for reloads in [false, true] {
            let mut tab = Tab::open(&daemon, TAB).await;
            assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
            if reloads {
                tab.reload().await;
                until_ttl(&redis, |left| left <= 1_000).await;
                tab = Tab::open(&daemon, TAB).await;
                until_ttl(&redis, |left| left > 1_000).await;
            }
            let closed = now_ms();
            tab.reload().await;
            assert_eq!(gist(&told.one().await), ["alice", "offline", "expired"], "{rights:?}");
            assert!(now_ms() - closed < 1_000 + PROMPT_MS, "{rights:?}: {} ms", now_ms() - closed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_on_a_cluster_reload_as_on_one_server() {
    const USERS: usize = 20;
    let cluster = Cluster::start(2, 0).await;
    let url = cluster.url();
    let start = async || Daemon::with(&["--redis", &url, "--ttl", "10s", "--close-grace", "2s"]).await;
    let daemons = [start().await, start().await];
    let mut tabs = Vec::new();
    for i in 0..USERS {
        tabs.push(Tab::open(&daemons[i % 2], &format!("?user=u{i}")).await);
    }
    for daemon in &daemons {
        for i in 0..USERS {
            daemon.until_state(&format!("u{i}"), "online").await;
        }
    }
    let mut watchers = Vec::new();
    for daemon in &daemons {
        watchers.push(daemon.watch_all().await.0);
    }
    for tab in tabs {
        tab.reload().await;
    }
    // Half of them are back, at either daemon and with another session.
    let mut back = Vec::new();
    for i in 0..USERS / 2 {
        back.push(Tab::open(&daemons[i % 3 % 2], &format!("?user=u{i}")).await);
    }
    for socket in &mut watchers {
        let mut gone = Vec::new();
        while gone.len() < USERS / 2 {
            for one in socket.transitions().await {
                let [user, state, reason] = gist(&one);
                assert_eq!([state, reason], ["offline", "expired"], "{one}");
                gone.push(user[1..].parse::<usize>().expect("a number"));
            }
        }
        gone.sort_unstable();
        assert_eq!(gone, (USERS / 2..USERS).collect::<Vec<_>>());
    }
    drop(back);
}
