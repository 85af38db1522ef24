//! Faults of Redis and of the network: nobody steady is seen offline, whoever is gone is seen so once.

use crate::common::fault_list::FAULTS;
use crate::common::faults::WATCHED;
use std::sync::atomic::Ordering::Relaxed;

async fn check(name: &str) {
    let fault = FAULTS.iter().find(|fault| fault.name == name).expect("a fault of the list");
    (fault.run)().await.check();
}

macro_rules! faults {
    ($($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                check(&stringify!($name).replace('_', " ")).await;
            }
        )*

        #[test]
        fn every_fault_of_the_list_has_its_test() {
            let tested = [$(stringify!($name).replace('_', " ")),*];
            let missing: Vec<_> = FAULTS.iter().map(|fault| fault.name).filter(|name| !tested.contains(&name.to_string())).collect();
            assert!(missing.is_empty(), "{missing:?}");
        }
    };
}

faults! {
    a_primary_of_a_cluster_without_a_replica_away_for_more_than_a_ttl
    a_primary_of_a_cluster_killed_and_its_replica_promoted
    a_planned_failover_in_a_cluster
    slots_of_a_cluster_moved
    a_primary_added_to_a_cluster_and_taken_away
    a_frozen_primary_of_a_cluster_replaced
    a_primary_killed_and_its_replica_promoted
    a_planned_failover
    connections_killed_again_and_again
    a_server_killed_and_back_empty_after_a_second
    a_server_killed_and_back_empty_after_more_than_a_ttl
    a_server_back_with_its_saved_data
    notifications_switched_off_under_us
    a_server_that_sleeps
    a_script_that_runs_for_longer_than_a_ttl
    writes_paused_for_longer_than_a_ttl
    a_server_frozen_for_longer_than_a_ttl
    all_data_flushed
    a_daemon_stopped_for_longer_than_a_ttl
    an_event_connection_cut_for_its_full_buffer
    a_daemon_killed_and_started_again
    a_cable_pulled_between_daemon_and_server
    a_server_that_refuses_writes_since_its_disk_is_full
}

/// The fault, with a second daemon that holds only watched users.
async fn check_watched(name: &str) {
    WATCHED.store(true, Relaxed);
    check(name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watched_daemon_survives_a_server_that_is_back_empty() {
    check_watched("a server killed and back empty after more than a ttl").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watched_daemon_survives_a_planned_failover_in_a_cluster() {
    check_watched("a planned failover in a cluster").await;
}
