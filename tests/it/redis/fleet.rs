//! Many daemons behind HAProxy: whichever of them or of the Redis servers fails, or is replaced, every client at every daemon sees
//! each user come once and go once, and no steady user go.

use crate::common::cluster::Cluster;
use crate::common::fault_list::promoted;
use crate::common::faults::TTL;
use crate::common::fleet::{Fleet, Servers};
use crate::common::redis::{Redis, signal};
use std::time::Duration;
use tokio::time::sleep;

/// Longer than a TTL.
const LONG: Duration = TTL.saturating_add(Duration::from_secs(2));

async fn on_one_redis(daemons: usize) -> Fleet {
    Fleet::start(Servers::One(Redis::start()), daemons).await
}

async fn on_a_cluster(daemons: usize) -> Fleet {
    let cluster = Cluster::start(3, 3).await;
    Fleet::start(Servers::Many(cluster), daemons).await
}

async fn kill_a_daemon(fleet: &mut Fleet, at: usize) {
    fleet.take(at).kill();
    // Let HAProxy and the clients notice before the daemon is back.
    sleep(Duration::from_secs(1)).await;
    fleet.clients_are_back().await;
    fleet.again(at).await;
}

async fn freeze_a_daemon(fleet: &mut Fleet, at: usize) {
    let pid = fleet.daemon(at).pid();
    signal(pid, "STOP");
    sleep(LONG).await;
    signal(pid, "CONT");
}

/// The holder of a lease is killed, then frozen; its successor is another daemon.
async fn holders_fail(fleet: &mut Fleet) {
    let holder = fleet.holder().await;
    fleet.stage("holder killed", async |fleet| kill_a_daemon(fleet, holder).await).await;
    let holder = fleet.holder().await;
    fleet.stage("holder frozen", async |fleet| freeze_a_daemon(fleet, holder).await).await;
}

async fn kill_a_primary(fleet: &mut Fleet, primary: usize) {
    let cluster = fleet.cluster();
    cluster.whole(3).await;
    let replica = cluster.replica_of(primary);
    cluster.nodes[primary].kill();
    promoted(&cluster.nodes[replica]).await;
    cluster.nodes[primary].run();
    cluster.whole(3).await;
}

async fn freeze_a_primary(fleet: &mut Fleet, primary: usize) {
    let cluster = fleet.cluster();
    cluster.whole(3).await;
    let replica = cluster.replica_of(primary);
    cluster.nodes[primary].signal("STOP");
    promoted(&cluster.nodes[replica]).await;
    sleep(Duration::from_secs(1)).await;
    cluster.nodes[primary].signal("CONT");
    cluster.whole(3).await;
}

/// Restarts a node as an operator does: a primary hands over to its replica first.
async fn restart_a_node(fleet: &mut Fleet, node: usize) {
    let cluster = fleet.cluster();
    cluster.whole(3).await;
    if cluster.followed(node).is_none() {
        let replica = cluster.replica_of(node);
        assert_eq!(cluster.nodes[replica].call(&["CLUSTER", "FAILOVER"]).as_text(), "OK");
        promoted(&cluster.nodes[replica]).await;
        cluster.whole(3).await;
    }
    cluster.nodes[node].kill();
    cluster.nodes[node].run();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_on_one_redis() {
    let mut fleet = on_one_redis(2).await;
    holders_fail(&mut fleet).await;
    fleet
        .stage("Redis killed", async |fleet| {
            fleet.redis().kill();
            sleep(Duration::from_secs(1)).await;
            fleet.redis().run();
        })
        .await;
    fleet
        .stage("Redis frozen", async |fleet| {
            fleet.redis().signal("STOP");
            sleep(LONG).await;
            fleet.redis().signal("CONT");
        })
        .await;
    fleet.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_daemons_on_a_cluster() {
    let mut fleet = on_a_cluster(4).await;
    holders_fail(&mut fleet).await;
    fleet.stage("primary killed", async |fleet| kill_a_primary(fleet, 0).await).await;
    fleet.stage("primary frozen", async |fleet| freeze_a_primary(fleet, 1).await).await;
    fleet.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_daemons_on_a_cluster() {
    let mut fleet = on_a_cluster(8).await;
    let holder = fleet.holder().await;
    fleet
        .stage("holder and primary killed", async |fleet| {
            let daemon = fleet.take(holder);
            daemon.kill();
            kill_a_primary(fleet, 0).await;
            fleet.again(holder).await;
        })
        .await;
    fleet.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_roll_one_by_one() {
    let mut fleet = on_one_redis(4).await;
    fleet
        .stage("all daemons restarted", async |fleet| {
            for at in 0..4 {
                let daemon = fleet.take(at);
                signal(daemon.pid(), "TERM");
                assert_eq!(daemon.ended().await.code(), Some(0));
                fleet.again(at).await;
            }
        })
        .await;
    fleet.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_nodes_roll_one_by_one() {
    let mut fleet = on_a_cluster(2).await;
    fleet
        .stage("all nodes restarted", async |fleet| {
            for node in 0..6 {
                restart_a_node(fleet, node).await;
            }
        })
        .await;
    fleet.check().await;
}
