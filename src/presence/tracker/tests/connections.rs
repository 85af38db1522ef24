//! Connections that come and go, dead streams, gaps, and what is known.

use super::script::{ALL_BUT_KEYS, Run, check};
use crate::tracker::{Action, Event};
use crate::{Input, Time};

#[test]
fn status_names_the_first_obstacle() {
    check(
        ALL_BUT_KEYS,
        "0 fleet S; 5 up S; 6 page S; 7 due; 9 canary S",
        "0 open S; 0 status down: not connected yet; 5 status down: comparing with Redis; \
         6 compared S start 1 0; 6 opened; 6 status down: no canary has come back yet; 9 lag 2; 9 status up",
    );
    check("status", "0 fleet", "0 status down: no node answers");
    check(
        "status",
        "0 fleet A=0-3 B=5-9; 1 fleet A=0-4 B=5-9; 2 ready A; 3 ready B",
        "0 status down: 1 slots of the cluster have no owner; 1 status down: A: not connected yet; \
         2 status down: A: comparing with Redis; 2 status down: A: no canary has come back yet; \
         2 status down: B: not connected yet; 3 status down: B: comparing with Redis; \
         3 status down: B: no canary has come back yet; 3 status up",
    );
}

#[test]
fn first_snapshot_waits_for_every_server() {
    check("opened", "0 fleet A=0-4 B=5-9; 1 up A; 1 up B; 2 page B; 3 page A", "3 opened");
    // The only server without a comparison leaves.
    check("opened", "0 fleet A=0-4 B=5-9; 1 up A; 2 page A; 3 fleet A=0-9", "3 opened");
    // A node that has yet to meet the others knows no slots but its own.
    check("opened", "0 fleet A=0-4; 1 up A; 2 page A; 3 fleet A=0-9", "3 opened");
    check("opened", "0 fleet; 0 due", "");
    // Later comparisons open nothing.
    check("opened", "0 fleet S; 1 ready S; 2 down S; 3 up S; 4 page S; 5 fleet S", "1 opened");
}

#[test]
fn lost_connection_is_one_gap() {
    check(
        "gap compared",
        "0 fleet S; 1 down S; 2 ready S; 10 down S; 11 down S; 20 up S; 25 page S; 26 down S failover",
        "2 compared S start 0 0; 10 gap S connection; 25 compared S connection 15 0; 26 gap S failover",
    );
    // A gap that begins before the comparison is done prolongs it.
    check(
        "gap compared",
        "0 fleet S; 2 ready S; 10 down S; 20 up S; 22 down S events; 30 up S; 35 page S",
        "2 compared S start 0 0; 10 gap S connection; 22 gap S events; 35 compared S events 25 0",
    );
}

#[test]
fn late_canary_closes_with_one_gap() {
    check(
        "gap close compared status came went",
        "0 fleet S; 0 ready S; 1000 due; 2500 due; 2501 due; 2502 set S a; 2503 down S canary; 2504 down S; \
         2600 up S; 2601 page S b; 2602 answered S b=9",
        "0 status down: not connected yet; 0 status down: comparing with Redis; 0 compared S start 0 0; \
         0 status down: no canary has come back yet; 0 status up; \
         2501 gap S canary (the event stream is dead (canary not seen in time)); 2501 close S canary; \
         2501 status down: the event stream is dead (canary not seen in time); 2503 status down: why; \
         2600 status down: comparing with Redis; 2602 came b S Reconciled canary; 2602 compared S canary 101 1; \
         2602 status down: no canary has come back yet",
    );
}

#[test]
fn missing_fence_closes_the_link() {
    let mut script = "0 fleet S; 0 up S; 0 page S a; 0 due; 0 canary S; ".to_owned();
    for second in 1..=5 {
        script += &format!("{second}000 due; {second}001 canary S; ");
    }
    check(
        "gap close compared",
        &format!("{script} 5001 due; 5002 due; 5003 down S fence"),
        "5001 gap S fence (the event stream is dead (fence not seen in time)); 5001 close S fence",
    );
}

#[test]
fn close_is_repeated_until_the_link_confirms() {
    check(
        "gap close canary",
        "0 fleet S; 0 ready S; 1000 due; 2501 due; 3500 due; 3501 due; 4501 due; 4600 down S canary; 5600 due; 6000 up S; \
         6000 due",
        "0 canary S; 1000 canary S; 2501 gap S canary (the event stream is dead (canary not seen in time)); \
         2501 close S canary; 3501 close S canary; 4501 close S canary; 6000 canary S",
    );
}

#[test]
fn stall_is_a_gap_of_connected_servers() {
    check(
        "gap scan status canary",
        "0 fleet A=0-4 B=5-9; 0 up B; 0 page B; 0 ready A; 1 down B; 1000 due; 1001 canary A; 3502 set A u1; \
         3503 page A; 3504 due; 3505 answered A u1=9000; 3506 canary A",
        "0 status down: A: not connected yet; 0 scan B; 0 scan A; 0 status down: A: comparing with Redis; \
         0 status down: A: no canary has come back yet; 0 canary A; 0 canary B; \
         0 status down: B: no canary has come back yet; 1 gap B connection; 1 status down: B: why; 1000 canary A; \
         3502 gap A stalled (the daemon was stopped or starved for 2501 ms); 3502 scan A; \
         3502 status down: A: comparing with Redis; 3504 canary A; \
         3505 status down: A: no canary has come back yet; 3506 status down: B: why",
    );
    check("gap", "0 fleet S; 0 ready S; 1000 due; 1001 canary S; 3501 due", "");
}

#[test]
fn items_of_a_dead_stream_are_ignored() {
    check(
        "came went ask passed gap",
        "0 fleet S; 0 ready S; 1000 due; 2501 due; 2502 set S a; 2502 mark S 7; 2502 canary S; 2502 replaced S; \
         2503 down S canary",
        "2501 gap S canary (the event stream is dead (canary not seen in time))",
    );
}

#[test]
fn replaced_keyspace_waits_for_the_canary() {
    let why = "(the keyspace was replaced (FLUSHALL, FLUSHDB or SWAPDB))";
    // The expiry belongs to the old keyspace: its user is gone. The user a stays for one TTL.
    check(
        "gap came went",
        "0 fleet S; 0 ready S; 1 set S a; 1 answered S a=30000; 2 set S b; 2 answered S b=30000; 1000 due; \
         1001 replaced S; 1002 expired S b; 1003 canary S; 1004 page S; 1005 answered S a=-",
        &format!(
            "1 came a S Heartbeat start; 2 came b S Heartbeat start; 1002 went b S Expired start; 1003 gap S replaced {why}"
        ),
    );
    // No canary is under way: it has come back before its answer.
    check(
        "gap",
        "0 fleet S; 0 ready S; 1000 due; 1001 canary S; 1002 replaced S; 1003 canary S",
        &format!("1002 gap S replaced {why}"),
    );
    // The connection is lost before the canary: the next one begins with a flush.
    check(
        "gap went",
        "0 fleet S; 0 ready S; 1 set S a; 1 answered S a=30000; 1000 due; 1001 replaced S; 1002 down S; 1003 up S; \
         1004 page S; 1005 answered S a=-",
        "1002 gap S connection",
    );
    // The news of a flush sends the canary at once.
    check("canary", "0 fleet S; 0 ready S; 300 suspect S; 302 due", "0 canary S; 302 canary S");
    // Without a flush, absence on the same server is final.
    check(
        "went",
        "0 fleet S; 0 ready S; 1 set S a; 1 answered S a=30000; 1002 down S; 1003 up S; 1004 page S; 1005 answered S a=-; \
         1007 due; 1008 canary S",
        "1008 went a S Reconciled connection",
    );
}

#[test]
fn another_run_grants_one_ttl() {
    check(
        "went",
        "0 fleet S; 0 ready S; 1 set S a; 1 answered S a=30000; 1002 down S; 1003 up S other; 1004 page S; \
         1005 answered S a=-",
        "",
    );
}

#[test]
fn mark_passes_at_the_last_connected_server() {
    check("passed", "0 fleet S; 0 ready S; 1 mark S 3; 2 mark S 2; 3 mark S 4", "1 passed 3; 3 passed 4");
    check(
        "passed",
        "0 fleet A=0-4 B=5-9; 0 ready A; 0 ready B; 1 mark A 3; 2 mark B 2; 3 mark B 5; 4 mark A 5",
        "2 passed 2; 3 passed 3; 4 passed 5",
    );
    // The server that was waited for is gone; when it is back, its comparison finds what was written before.
    check(
        "passed",
        "0 fleet A=0-4 B=5-9; 0 ready A; 0 ready B; 1 mark A 3; 2 down B; 3 mark A 4; 4 up B r mark=6; 5 mark A 6",
        "2 passed 3; 3 passed 4; 5 passed 6",
    );
    check("passed", "0 fleet A=0-4 B=5-9; 0 ready A; 0 ready B; 1 mark A 3; 2 fleet A=0-9", "2 passed 3");
}

#[test]
fn mark_passes_after_earlier_changes() {
    let now = Time::from_ms(1);
    let mut run = Run::new();
    run.step(now, "fleet", &["S"]);
    run.step(now, "ready", &["S"]);
    let events = [Event::Key(Input::Renewed(b"a")), Event::Mark(1)];
    run.tracker.events(now, 1, events.into_iter());
    let actions: Vec<_> = std::iter::from_fn(|| run.tracker.poll(now)).collect();
    let changed = actions.iter().position(|action| matches!(action, Action::Changed(..)));
    let passed = actions.iter().position(|action| matches!(action, Action::Passed(1)));
    assert!(changed.is_some() && changed < passed, "{actions:?}");
}

#[test]
fn silent_server_is_polled() {
    let beats: String = (1..=3).map(|s| format!("{s}000 due; {s}000 canary S;")).collect();
    check(
        "scan gap compared",
        &format!(
            "0 fleet S; 0 up S r silent; 100 page S; 100 due; 100 canary S; 599 due; 600 due; 700 page S; {beats}"
        ),
        "0 scan S; 100 compared S start 100 0; 600 scan S; 2000 scan S",
    );
    check("scan", &format!("0 fleet S; 0 ready S; {beats}"), "0 scan S");
}

#[test]
fn server_with_moving_slots_is_polled_once() {
    check(
        "scan gap",
        "0 fleet A=0-4 B=5-9; 0 ready A; 0 ready B; 10 fleet A=0-3 B=4-9; 10 due; 11 page A; 11 page B; 600 due; 900 due",
        "0 scan A; 0 scan B; 10 scan A; 10 scan B",
    );
}

#[test]
fn replacement_outlives_the_connection() {
    // The canary that found it never came back in the stream.
    check(
        "went",
        "0 fleet S; 0 ready S; 1 set S u1; 1 answered S u1=30000; 1000 due; 1001 replaced S; 1002 down S; 1003 up S; \
         1003 page S; 1004 answered S u1=-; 1010 due; 1011 canary S; 2011 due; 2012 canary S",
        "",
    );
}

#[test]
fn outage_counts_from_before_a_comparison() {
    // The comparison hides the last heartbeat before the outage, so its canaries do not say that all heartbeats are known.
    check(
        "ask went",
        "0 fleet S; 0 ready S; 1 set S u1; 1 answered S u1=1000; 500 down S; 501 up S; 501 due; 502 canary S; 1600 due; \
         1601 canary S; 2100 due; 2601 due; 2602 canary S; 2605 due; 2606 canary S refused; 2700 page S; 2701 answered S u1=-; 3500 due; 3603 due",
        "1 ask S u1; 1600 ask S u1",
    );
}

/// 40 daemons that follow send about eight canaries a second together; without the holder's beat each sends its own at once.
#[test]
fn many_daemons_send_fewer_canaries_each() {
    check(
        "canary",
        "0 fleet S; 1 up S r follows; 2 page S; 3 beat S b 40; 4 due; 5 canary S; 900 beat S b 40; 1004 due; 1800 beat S b 40; \
         2700 beat S b 40; 2800 due; 3700 beat S b 40; 4600 beat S b 40; 5004 due; 5005 canary S; 5500 beat S b 40; 6900 due; \
         7001 due; 7002 canary S; 7100 beat S b 2; 8001 due",
        "4 canary S; 5004 canary S; 7001 canary S; 8001 canary S",
    );
}
