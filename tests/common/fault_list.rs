//! The faults, each a real one. Tests check their outcomes, and `make faults` prints them.

use super::cluster::Cluster;
use super::daemon::Daemon;
use super::faults::{Outcome, TTL, World};
use super::proxy::Proxy;
use super::redis::{Client, Redis, info, signal};
use super::until;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::sleep;

type Running = Pin<Box<dyn Future<Output = Outcome>>>;

/// A fault: its name, and a function that causes it in a new world and returns the outcome.
pub struct Fault {
    pub name: &'static str,
    pub run: fn() -> Running,
}

/// Lets a fault last for a time: the duration is the fault, so there is no event to await.
async fn lasts(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}

async fn connections_killed_again_and_again() -> Outcome {
    let mut world = World::start(Redis::start()).await;
    world.silence();
    for _ in 0..12 {
        for kind in ["pubsub", "normal"] {
            world.redis().call(&["CLIENT", "KILL", "TYPE", kind]);
            lasts(150).await;
        }
    }
    world.outcome().await
}

async fn a_server_killed_and_back_empty_after_a_second() -> Outcome {
    let mut world = World::start(Redis::start()).await;
    world.silence();
    world.redis().kill();
    lasts(1_000).await;
    world.redis().run();
    world.outcome().await
}

async fn a_server_killed_and_back_empty_after_more_than_a_ttl() -> Outcome {
    let mut world = World::start(Redis::start()).await;
    world.silence();
    world.redis().kill();
    sleep(TTL + Duration::from_secs(2)).await;
    world.redis().run();
    world.outcome().await
}

async fn a_server_back_with_its_saved_data() -> Outcome {
    let mut world = World::start(Redis::start()).await;
    world.silence();
    world.redis().call(&["SAVE"]);
    world.redis().kill();
    lasts(1_000).await;
    world.redis().run();
    world.outcome().await
}

async fn notifications_switched_off_under_us() -> Outcome {
    let mut world = World::start(Redis::start()).await;
    world.silence();
    world.redis().call(&["CONFIG", "SET", "notify-keyspace-events", ""]);
    let cause = world.daemon.as_ref().expect("it runs").not_ready().await;
    assert!(cause.starts_with("not ready: "), "{cause}");
    world.outcome().await
}

async fn a_server_that_sleeps() -> Outcome {
    let mut world = World::start(Redis::start()).await;
    world.silence();
    let mut client = world.redis().client();
    tokio::task::spawn_blocking(move || client.call(&["DEBUG", "SLEEP", "2"])).await.expect("it wakes");
    world.outcome().await
}

/// The server answers BUSY, or not at all.
async fn a_script_that_runs_for_longer_than_a_ttl() -> Outcome {
    let mut world = World::start(Redis::start()).await;
    world.redis().call(&["CONFIG", "SET", "lua-time-limit", "500"]);
    world.silence();
    let mut client = world.redis().client();
    let script = tokio::task::spawn_blocking(move || client.try_call(&["EVAL", "while true do end", "0"]));
    lasts(TTL.as_millis() as u64 + 2_000).await;
    world.redis().call(&["SCRIPT", "KILL"]);
    script.await.expect("the script ends");
    world.outcome().await
}

async fn writes_paused_for_longer_than_a_ttl() -> Outcome {
    let mut world = World::start(Redis::start()).await;
    world.silence();
    let ms = TTL.as_millis() + 2_000;
    world.redis().call(&["CLIENT", "PAUSE", &ms.to_string(), "WRITE"]);
    lasts(ms as u64).await;
    world.outcome().await
}

async fn a_server_frozen_for_longer_than_a_ttl() -> Outcome {
    let mut world = World::start(Redis::start()).await;
    world.silence();
    world.redis().signal("STOP");
    lasts(TTL.as_millis() as u64 + 2_000).await;
    world.redis().signal("CONT");
    world.outcome().await
}

async fn all_data_flushed() -> Outcome {
    let mut world = World::start(Redis::start()).await;
    world.redis().call(&["FLUSHALL"]);
    world.silence();
    world.outcome().await
}

async fn a_daemon_stopped_for_longer_than_a_ttl() -> Outcome {
    let world = World::start(Redis::start()).await;
    world.silence();
    let pid = world.daemon.as_ref().expect("it runs").pid();
    signal(pid, "STOP");
    sleep(TTL + Duration::from_secs(2)).await;
    signal(pid, "CONT");
    world.outcome().await
}

async fn an_event_connection_cut_for_its_full_buffer() -> Outcome {
    let mut world = World::start(Redis::start()).await;
    world.redis().call(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 1mb 1"]);
    world.silence();
    let pid = world.daemon.as_ref().expect("it runs").pid();
    signal(pid, "STOP");
    let mut client = world.redis().client();
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
    until("Redis closes the event connection", async || {
        world.redis().log().contains("output buffer limits").then_some(())
    })
    .await;
    signal(pid, "CONT");
    world.outcome().await
}

async fn a_daemon_killed_and_started_again() -> Outcome {
    let mut world = World::start(Redis::start()).await;
    world.silence();
    world.daemon.take().expect("it runs").kill();
    lasts(500).await;
    world.daemon =
        Some(Daemon::launch_at(world.daemon_port, &["--redis", &world.redis().url(), "--ttl", "4s"]));
    world.outcome().await
}

async fn a_cable_pulled_between_daemon_and_server() -> Outcome {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.port).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let world = World::new(redis, &["--redis", &url]).await;
    world.silence();
    proxy.cut(true);
    world.daemon.as_ref().expect("it runs").not_ready().await;
    lasts(3_000).await;
    proxy.cut(false);
    world.outcome().await
}

async fn a_server_that_refuses_writes_since_its_disk_is_full() -> Outcome {
    let mut world = World::start(Redis::start()).await;
    world.silence();
    // As with a full disk, a save fails, and then Redis refuses writes.
    world.redis().call(&["CONFIG", "SET", "dir", "/proc"]);
    world.redis().call(&["CONFIG", "SET", "save", "1 1"]);
    lasts(2_000).await;
    world.redis().call(&["CONFIG", "SET", "save", ""]);
    world.outcome().await
}

/// A primary, its replica, a Sentinel that knows both, and the URL that names the Sentinel.
pub async fn watched_by_a_sentinel() -> (Redis, Redis, Redis, String) {
    let primary = Redis::start();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    let sentinel = Redis::sentinel(&primary);
    until("the replica follows, and the Sentinel knows it", async || {
        let linked = info(&replica, "replication").get("master_link_status")? == "up";
        let replicas = sentinel.call(&["SENTINEL", "REPLICAS", "it"]).list();
        (linked && !replicas.is_empty()).then_some(())
    })
    .await;
    let url = format!("redis-sentinel://127.0.0.1:{}?sentinelServiceName=it", sentinel.port);
    (primary, replica, sentinel, url)
}

/// The same in a world, whose daemon asks the Sentinel for the primary.
async fn with_sentinel() -> (World, Redis, Redis) {
    let (primary, replica, sentinel, url) = watched_by_a_sentinel().await;
    (World::new(primary, &["--redis", &url]).await, replica, sentinel)
}

/// Waits until a replica has become the primary.
pub async fn promoted(replica: &Redis) {
    until("the replica is the primary", async || {
        // A promotion closes the replica's connections, perhaps this one too.
        let role = Client::connect(replica.port)?.try_call(&["ROLE"])?.list();
        (role.first()?.as_text() == "master").then_some(())
    })
    .await;
}

async fn a_primary_killed_and_its_replica_promoted() -> Outcome {
    let (mut world, replica, _sentinel) = with_sentinel().await;
    world.silence();
    world.redis().kill();
    promoted(&replica).await;
    world.beat_at(vec![replica.port]);
    world.outcome().await
}

async fn a_planned_failover() -> Outcome {
    let (world, replica, sentinel) = with_sentinel().await;
    world.silence();
    sentinel.call(&["SENTINEL", "FAILOVER", "it"]);
    promoted(&replica).await;
    world.beat_at(vec![replica.port]);
    world.outcome().await
}

async fn in_a_cluster(primaries: usize, replicas: usize) -> (World, Cluster) {
    let cluster = Cluster::start(primaries, replicas).await;
    let url = cluster.url();
    (World::at_ports(cluster.ports(), &["--redis", &url]).await, cluster)
}

async fn a_primary_of_a_cluster_killed_and_its_replica_promoted() -> Outcome {
    let (world, mut cluster) = in_a_cluster(3, 1).await;
    world.silence();
    cluster.nodes[0].kill();
    promoted(&cluster.nodes[3]).await;
    world.outcome().await
}

async fn a_planned_failover_in_a_cluster() -> Outcome {
    let (world, cluster) = in_a_cluster(3, 1).await;
    world.silence();
    cluster.nodes[3].call(&["CLUSTER", "FAILOVER"]);
    promoted(&cluster.nodes[3]).await;
    world.outcome().await
}

/// A third of the slots with users move to the next node while all users send heartbeats.
async fn slots_of_a_cluster_moved() -> Outcome {
    let (world, cluster) = in_a_cluster(3, 0).await;
    world.silence();
    let cluster = move_slots(cluster, 0, 1).await;
    let outcome = world.outcome().await;
    drop(cluster);
    outcome
}

/// Moves the slots of some users from one node to another, one by one.
async fn move_slots(cluster: Cluster, from: usize, to: usize) -> Cluster {
    let moved = tokio::task::spawn_blocking(move || {
        let users = (0..100).map(|i| format!("presence:steady-{i}"));
        let users = users.chain((0..100).map(|i| format!("presence:dying-{i}")));
        let users = users.chain((0..100).map(|i| format!("presence:changing-{i}#b")));
        let mut slots: Vec<u16> = users.map(|key| cluster.slot(&key)).collect();
        slots.sort_unstable();
        slots.dedup();
        // The first of three nodes has the first third of the slots.
        for slot in slots.into_iter().filter(|&slot| slot < 5_461) {
            cluster.move_slot(slot, from, to);
        }
        cluster
    });
    moved.await.expect("all moved")
}

async fn a_primary_added_to_a_cluster_and_taken_away() -> Outcome {
    let (world, mut cluster) = in_a_cluster(3, 0).await;
    world.silence();
    let new = cluster.add().await;
    world.beat_at(cluster.ports());
    let cluster = move_slots(cluster, 0, new).await;
    let cluster = move_slots(cluster, new, 0).await;
    let gone = super::cluster::id(&cluster.nodes[new]);
    for node in &cluster.nodes[..new] {
        node.call(&["CLUSTER", "FORGET", &gone]);
    }
    let outcome = world.outcome().await;
    drop(cluster);
    outcome
}

async fn a_frozen_primary_of_a_cluster_replaced() -> Outcome {
    let (world, cluster) = in_a_cluster(3, 1).await;
    world.silence();
    cluster.nodes[0].signal("STOP");
    promoted(&cluster.nodes[3]).await;
    lasts(1_000).await;
    cluster.nodes[0].signal("CONT");
    world.outcome().await
}

/// Without this primary's slots the cluster is down, and the other primaries refuse heartbeats too.
async fn a_primary_of_a_cluster_without_a_replica_away_for_more_than_a_ttl() -> Outcome {
    let (world, mut cluster) = in_a_cluster(3, 0).await;
    world.silence();
    cluster.nodes[0].kill();
    sleep(TTL + Duration::from_secs(2)).await;
    cluster.nodes[0].run();
    world.outcome().await
}

pub const FAULTS: &[Fault] = &[
    Fault {
        name: "a primary of a cluster without a replica away for more than a ttl",
        run: || Box::pin(a_primary_of_a_cluster_without_a_replica_away_for_more_than_a_ttl()),
    },
    Fault {
        name: "a primary of a cluster killed and its replica promoted",
        run: || Box::pin(a_primary_of_a_cluster_killed_and_its_replica_promoted()),
    },
    Fault { name: "a planned failover in a cluster", run: || Box::pin(a_planned_failover_in_a_cluster()) },
    Fault { name: "slots of a cluster moved", run: || Box::pin(slots_of_a_cluster_moved()) },
    Fault {
        name: "a primary added to a cluster and taken away",
        run: || Box::pin(a_primary_added_to_a_cluster_and_taken_away()),
    },
    Fault {
        name: "a frozen primary of a cluster replaced",
        run: || Box::pin(a_frozen_primary_of_a_cluster_replaced()),
    },
    Fault {
        name: "a primary killed and its replica promoted",
        run: || Box::pin(a_primary_killed_and_its_replica_promoted()),
    },
    Fault { name: "a planned failover", run: || Box::pin(a_planned_failover()) },
    Fault {
        name: "connections killed again and again",
        run: || Box::pin(connections_killed_again_and_again()),
    },
    Fault {
        name: "a server killed and back empty after a second",
        run: || Box::pin(a_server_killed_and_back_empty_after_a_second()),
    },
    Fault {
        name: "a server killed and back empty after more than a ttl",
        run: || Box::pin(a_server_killed_and_back_empty_after_more_than_a_ttl()),
    },
    Fault {
        name: "a server back with its saved data",
        run: || Box::pin(a_server_back_with_its_saved_data()),
    },
    Fault {
        name: "notifications switched off under us",
        run: || Box::pin(notifications_switched_off_under_us()),
    },
    Fault { name: "a server that sleeps", run: || Box::pin(a_server_that_sleeps()) },
    Fault {
        name: "a script that runs for longer than a ttl",
        run: || Box::pin(a_script_that_runs_for_longer_than_a_ttl()),
    },
    Fault {
        name: "writes paused for longer than a ttl",
        run: || Box::pin(writes_paused_for_longer_than_a_ttl()),
    },
    Fault {
        name: "a server frozen for longer than a ttl",
        run: || Box::pin(a_server_frozen_for_longer_than_a_ttl()),
    },
    Fault { name: "all data flushed", run: || Box::pin(all_data_flushed()) },
    Fault {
        name: "a daemon stopped for longer than a ttl",
        run: || Box::pin(a_daemon_stopped_for_longer_than_a_ttl()),
    },
    Fault {
        name: "an event connection cut for its full buffer",
        run: || Box::pin(an_event_connection_cut_for_its_full_buffer()),
    },
    Fault {
        name: "a daemon killed and started again",
        run: || Box::pin(a_daemon_killed_and_started_again()),
    },
    Fault {
        name: "a cable pulled between daemon and server",
        run: || Box::pin(a_cable_pulled_between_daemon_and_server()),
    },
    Fault {
        name: "a server that refuses writes since its disk is full",
        run: || Box::pin(a_server_that_refuses_writes_since_its_disk_is_full()),
    },
];
