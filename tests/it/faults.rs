//! Faults of Redis and of the network, with real ones.

use crate::common::daemon::Daemon;
use crate::common::faults::{TTL, World};
use crate::common::proxy::Proxy;
use crate::common::redis::{Redis, signal};
use std::time::Duration;
use tokio::time::sleep;

/// A fault that lasts is not an event to be awaited.
async fn lasts(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_killed_again_and_again() {
    let world = World::start(Redis::start()).await;
    world.silence();
    for _ in 0..12 {
        for kind in ["pubsub", "normal"] {
            world.redis.call(&["CLIENT", "KILL", "TYPE", kind]);
            lasts(150).await;
        }
    }
    world.outcome().await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_and_back_empty_after_a_second() {
    let mut world = World::start(Redis::start()).await;
    world.silence();
    world.redis.kill();
    lasts(1_000).await;
    world.redis.run();
    world.outcome().await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_and_back_empty_after_more_than_a_ttl() {
    let mut world = World::start(Redis::start()).await;
    world.silence();
    world.redis.kill();
    sleep(TTL + Duration::from_secs(2)).await;
    world.redis.run();
    world.outcome().await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_back_with_its_saved_data() {
    let mut world = World::start(Redis::start()).await;
    world.silence();
    world.redis.call(&["SAVE"]);
    world.redis.kill();
    lasts(1_000).await;
    world.redis.run();
    world.outcome().await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_switched_off_under_us() {
    let world = World::start(Redis::start()).await;
    world.silence();
    world.redis.call(&["CONFIG", "SET", "notify-keyspace-events", ""]);
    let cause = world.daemon.as_ref().expect("it runs").not_ready().await;
    assert!(cause.starts_with("not ready: "), "{cause}");
    world.outcome().await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_sleeps() {
    let world = World::start(Redis::start()).await;
    world.silence();
    let mut client = world.redis.client();
    tokio::task::spawn_blocking(move || client.call(&["DEBUG", "SLEEP", "2"])).await.expect("it wakes");
    world.outcome().await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_data_flushed() {
    let world = World::start(Redis::start()).await;
    world.redis.call(&["FLUSHALL"]);
    world.silence();
    let outcome = world.outcome().await;
    assert!(outcome.wrong.is_empty() && outcome.dead_not_once.is_empty(), "{outcome:?}");
    assert!(
        outcome.steady_blinks.is_empty(),
        "whoever beats again within the TTL need not blink: {outcome:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_stopped_for_longer_than_a_ttl() {
    let world = World::start(Redis::start()).await;
    world.silence();
    let pid = world.daemon.as_ref().expect("it runs").pid();
    signal(pid, "STOP");
    sleep(TTL + Duration::from_secs(2)).await;
    signal(pid, "CONT");
    world.outcome().await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_connection_cut_for_its_full_buffer() {
    let world = World::start(Redis::start()).await;
    world.redis.call(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 1mb 1"]);
    world.silence();
    let pid = world.daemon.as_ref().expect("it runs").pid();
    signal(pid, "STOP");
    let mut client = world.redis.client();
    let flood = tokio::task::spawn_blocking(move || {
        let set = |i: usize| {
            vec!["SET".into(), format!("presence:steady-{}", i % 300), "1".into(), "EX".into(), "4".into()]
        };
        let batch: Vec<Vec<String>> = (0..1000).map(set).collect();
        for _ in 0..100 {
            client.pipeline(&batch);
        }
    });
    flood.await.expect("the flood ends");
    lasts(500).await;
    assert!(world.redis.log().contains("output buffer limits"), "Redis has not cut the connection");
    signal(pid, "CONT");
    world.outcome().await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_and_started_again() {
    let mut world = World::start(Redis::start()).await;
    world.silence();
    world.daemon.take().expect("it runs").kill();
    lasts(500).await;
    world.daemon = Some(Daemon::launch_at(world.daemon_port, &["--redis", &world.redis.url()]));
    world.outcome().await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cable_pulled_between_daemon_and_server() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.port).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let world = World::new(redis, &["--redis", &url]).await;
    world.silence();
    proxy.cut(true);
    world.daemon.as_ref().expect("it runs").not_ready().await;
    lasts(3_000).await;
    proxy.cut(false);
    world.outcome().await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_writes_since_its_disk_is_full() {
    let world = World::start(Redis::start()).await;
    world.silence();
    // What a full disk does: a save that fails, after which Redis refuses to write.
    world.redis.call(&["CONFIG", "SET", "dir", "/proc"]);
    world.redis.call(&["CONFIG", "SET", "save", "1 1"]);
    lasts(2_000).await;
    world.redis.call(&["CONFIG", "SET", "save", ""]);
    world.outcome().await.check();
}
