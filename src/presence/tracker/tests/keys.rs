//! Keys that pass from one server to another, and servers that leave.

use super::script::{Run, check, fleet};
use crate::Time;
use crate::tracker::*;
use std::collections::HashSet;

/// Two servers without gaps; alice's key lies in slot 1, which `A` owns.
const TWO: &str = "0 fleet A=0-4 B=5-9; 0 ready A; 0 ready B; 1 set A u1; 1 answered A u1=30000;";

#[test]
fn key_is_adopted_before_it_is_dropped() {
    check(
        "came went ask",
        &format!(
            "{TWO} 2 del A u1; 3 fleet A=2-4 B=0-1,5-9; 3 answered A u1=moved:1:B:1; 4 answered B u1=29000"
        ),
        "1 came u1 A Heartbeat start; 1 ask A u1; 2 ask A u1; \
         3 came u1 B Reconciled start; 3 ask B u1; 3 went u1 A Reconciled start",
    );
}

#[test]
fn answer_knows_the_owner_before_the_topology() {
    check(
        "came went",
        &format!("{TWO} 2 del A u1; 3 answered A u1=moved:1:B:1"),
        "1 came u1 A Heartbeat start; 3 came u1 B Reconciled start; 3 went u1 A Reconciled start",
    );
    // The next topology is newer than the answer: the key goes back where it belongs.
    check(
        "came went",
        &format!(
            "{TWO} 2 del A u1; 3 answered A u1=moved:1:B:1; 4 fleet A=0-4 B=5-9; 5 answered B u1=moved; 505 due; 600 due; 600 answered B u1=moved"
        ),
        "1 came u1 A Heartbeat start; 3 came u1 B Reconciled start; 3 went u1 A Reconciled start; \
         600 came u1 A Reconciled start; 600 went u1 B Reconciled start",
    );
}

#[test]
fn server_speaks_only_for_its_slots() {
    // B copies slot 1 from A, and the user has left meanwhile.
    check(
        "came went ask",
        &format!(
            "{TWO} 2 set B u1; 3 answered B u1=moved:1:A:1; 4 expired A u1; 5 set B u1; 6 answered B u1=moved:1:A:1"
        ),
        "1 came u1 A Heartbeat start; 1 ask A u1; 2 ask B u1; 4 went u1 A Expired start; 5 ask B u1",
    );
    // B owns the slot, and the topology is older.
    check(
        "came went ask",
        &format!("{TWO} 2 set B v1; 3 answered B v1=30000; 4 set B v1; 5 set B w6"),
        "1 came u1 A Heartbeat start; 1 ask A u1; 2 ask B v1; 3 came v1 B Reconciled start; 4 ask B v1; \
         5 came w6 B Heartbeat start; 5 ask B w6",
    );
}

#[test]
fn end_waits_for_an_older_claim_of_the_user() {
    check(
        "came went",
        &format!(
            "{TWO} 1 set A u#1; 1 answered A u#1=30000; 2 set B u#2; 3 expired A u#1; 4 answered B u#2=30000"
        ),
        "1 came u1 A Heartbeat start; 1 came u#1 A Heartbeat start; 4 came u#2 B Reconciled start; \
         4 went u#1 A Expired start",
    );
    // Nor is the heartbeat that settles the claim a later start.
    check(
        "came went",
        &format!(
            "{TWO} 1 set A u#1; 1 answered A u#1=30000; 2 set B u#2; 3 expired A u#1; 4 fleet A=0-1 B=2-9; 4 due; 5 canary B; \
             6 set B u#2; 7 answered B u#2=30000"
        ),
        "1 came u1 A Heartbeat start; 1 came u#1 A Heartbeat start; 6 came u#2 B Reconciled start; \
         6 went u#1 A Expired start",
    );
    // A later claim changes nothing.
    check(
        "came went",
        &format!(
            "{TWO} 1 set A u#1; 1 answered A u#1=30000; 2 set B v2; 3 expired A u#1; 4 set B w2; 5 answered B v2=-; \
             6 answered B w2=-"
        ),
        "1 came u1 A Heartbeat start; 1 came u#1 A Heartbeat start; 5 went u#1 A Expired start",
    );
}

#[test]
fn stream_may_be_older_than_the_topology() {
    // The canary of 3 is the first that B carries out as the owner of slot 1.
    check(
        "came went ask",
        &format!(
            "{TWO} 2 fleet A=2-4 B=0-1,5-9; 3 due; 3 set B v1; 4 answered B v1=-; 5 canary B; 6 set B w1"
        ),
        "1 came u1 A Heartbeat start; 1 ask A u1; 3 ask B v1; 6 came w1 B Heartbeat start; \
         6 ask B w1",
    );
}

#[test]
fn arrival_of_a_key_is_no_heartbeat() {
    // Slot 1 moves key by key: `restore` at B, then `del` at A.
    let mut run = Run::new();
    let script = "0 fleet A=0-4 B=5-9; 0 ready A; 0 ready B; 1 set A u1; 1 answered A u1=600; 100 placed B u1; 101 del A u1; \
                  102 answered A u1=moved:1:B:1; 103 answered B u1=498; 104 fleet A=2-4 B=0-1,5-9; 200 due; 201 canary A; \
                  201 canary B; 400 due; 602 due; 603 answered B u1=-; 606 due; 607 canary B";
    for step in script.split(';').map(str::trim) {
        let words: Vec<&str> = step.split_whitespace().collect();
        run.step(Time::from_ms(words[0].parse().unwrap()), words[1], &words[2..]);
    }
    assert_eq!(run.said.iter().filter(|line| line.contains(" went u1 B")).count(), 1, "{:#?}", run.said);
    assert_eq!(run.last_seen, Some(Time::from_ms(1)));
}

#[test]
fn server_that_leaves_hands_over_its_keys_in_steps() {
    let sets: String = (0..5).map(|i| format!("1 set A {i}; 1 answered A {i}=30000;")).collect();
    check(
        "went",
        &format!("0 fleet A=0-4 B=5-9; 0 ready A; 0 ready B; {sets} 2 fleet B=0-9; 3 due; 4 due; 5 due"),
        "2 went 0 A Reconciled topology; 2 went 1 A Reconciled topology; 3 went 2 A Reconciled topology; \
         3 went 3 A Reconciled topology; 4 went 4 A Reconciled topology",
    );
}

#[test]
fn slots_that_have_moved_lose_no_key() {
    // B was compared before it got A's slots; u1 was deleted there before the daemon knew.
    check(
        "came went",
        &format!("{TWO} 2 fleet B=0-9; 3 answered B u1=-; 6 due; 7 canary B"),
        "1 came u1 A Heartbeat start; 2 came u1 B Reconciled start; 2 went u1 A Reconciled topology; \
         7 went u1 B Reconciled start",
    );
    // C may be A's replica, which lacks the last writes; so may A, started again at another address.
    for other in ["C=0-4", "A:2=0-4"] {
        let id = &other[..1];
        check(
            "went",
            &format!(
                "{TWO} 2 fleet B=5-9 {other}; 2 ready {id}; 3 answered {id} u1=-; 6 due; 7 canary {id}; 8 due; 9 canary {id}"
            ),
            "2 went u1 A Reconciled topology",
        );
    }
}

#[test]
fn key_without_known_owner_stays() {
    check(
        "came went ask",
        &format!(
            "{TWO} 2 del A u1; 3 fleet A=2-4 B=5-9; 3 answered A u1=moved:1:C:1; 503 due; 601 fleet A=2-4 B=0-1,5-9; 601 answered A u1=moved"
        ),
        "1 came u1 A Heartbeat start; 1 ask A u1; 2 ask A u1; 503 ask A u1; \
         601 came u1 B Reconciled start; 601 ask B u1; 601 went u1 A Reconciled start",
    );
}

#[test]
fn cluster_deletion_is_asked_first() {
    check(
        "came went ask",
        &format!("{TWO} 2 del A u1; 3 answered A u1=-"),
        "1 came u1 A Heartbeat start; 1 ask A u1; 2 ask A u1; 3 went u1 A Deleted start",
    );
    check(
        "came went",
        "0 fleet S; 0 ready S; 1 set S u1; 1 answered S u1=30000; 2 del S u1",
        "1 came u1 S Heartbeat start; 2 went u1 S Deleted start",
    );
}

#[test]
fn set_after_a_deletion_proves_it() {
    let came = "1 came u1 A Heartbeat start;";
    let back = "2 went u1 A Deleted start; 2 came u1 A Heartbeat start";
    check(
        "came went",
        &format!("{TWO} 2 del A u1; 2 set A u1; 3 answered A u1=30000"),
        &format!("{came} {back}"),
    );
    // The key came back from another server.
    check("came went", &format!("{TWO} 2 del A u1; 2 placed A u1; 2 set A u1; 3 answered A u1=30000"), came);
    // The slot belongs to another server since, which adopts the key.
    check(
        "came went",
        &format!("{TWO} 2 del A u1; 3 answered A u1=moved:1:B:1; 4 set B u1; 4 answered B u1=30000"),
        &format!("{came} 3 came u1 B Reconciled start; 3 went u1 A Reconciled start"),
    );
}

#[test]
fn absence_is_proven_by_the_server_the_slot_leaves() {
    // A has disowned the key, and B, to which the slot is moving, has it not: it is gone.
    check(
        "came went",
        &format!("{TWO} 2 del A u1; 3 answered A u1=moved:1:B:1; 4 answered B u1=notyet:1:A:1"),
        "1 came u1 A Heartbeat start; 3 came u1 B Reconciled start; 3 went u1 A Reconciled start; 4 went u1 B Reconciled start",
    );
}

#[test]
fn leaving_server_hands_over_its_keys() {
    check(
        "gap forget came went opened compared status",
        &format!("{TWO} 2 fleet B=0-9; 3 due"),
        "0 status down: A: not connected yet; 0 status down: A: comparing with Redis; 0 compared A start 0 0; \
         0 status down: A: no canary has come back yet; 0 status down: B: not connected yet; \
         0 status down: B: comparing with Redis; 0 compared B start 0 0; 0 opened; \
         0 status down: B: no canary has come back yet; 0 status up; 1 came u1 A Heartbeat start; \
         2 gap A topology (it is no longer a primary of the cluster); 2 forget A; \
         2 came u1 B Reconciled start; 2 went u1 A Reconciled topology",
    );
}

#[test]
fn keys_of_a_server_that_left_wait_for_an_owner() {
    check(
        "came went status",
        &format!("{TWO} 2 fleet B=5-9; 502 due; 600 due; 700 fleet B=0-9; 701 due"),
        "0 status down: A: not connected yet; 0 status down: A: comparing with Redis; \
         0 status down: A: no canary has come back yet; 0 status down: B: not connected yet; \
         0 status down: B: comparing with Redis; 0 status down: B: no canary has come back yet; 0 status up; \
         1 came u1 A Heartbeat start; 2 status down: 5 slots of the cluster have no owner; \
         700 came u1 B Reconciled start; 700 went u1 A Reconciled topology; 700 status up",
    );
}

#[test]
fn keys_are_offered_again_while_a_server_leaves() {
    let mut run = Run::new();
    let steps = format!("{TWO} 2 fleet B=5-9");
    for step in steps.split(';').map(str::trim) {
        let words: Vec<_> = step.split_whitespace().collect();
        run.step(Time::from_ms(words[0].parse().unwrap()), words[1], &words[2..]);
    }
    assert_eq!(run.tracker.next_due(), Some(Time::from_ms(502)));
    assert_eq!(run.tracker.servers().len(), 2, "it has a key that no other server can take");
    let probes = run.tracker.counts().lookups;
    run.step(Time::from_ms(503), "fleet", &["B=0-9"]);
    assert_eq!(run.tracker.servers().len(), 1);
    assert!(run.tracker.counts().lookups > probes, "the totals of a forgotten server stay");
    assert_eq!(run.tracker.counts().keys, 1);
}

#[test]
fn another_address_is_another_server() {
    check(
        "open forget gap came went",
        &format!("{TWO} 2 fleet A:2=0-4 B=5-9"),
        "0 open A; 0 open B; 1 came u1 A Heartbeat start; 2 gap A topology (it is no longer a primary of the cluster); \
         2 forget A; 2 open A; 2 came u1 A Reconciled start; 2 went u1 A Reconciled topology",
    );
}

#[test]
fn no_two_servers_of_a_run_share_a_number() {
    let mut tracker = Tracker::new(super::script::settings());
    let mut seen = HashSet::new();
    for from in 0..400 {
        let names = [from, from + 1].map(|i| format!("N{i}="));
        tracker.handle(Time::from_ms(1), Notice::Topology(fleet(&names.each_ref().map(String::as_str))));
        while let Some(action) = tracker.poll(Time::from_ms(1)) {
            if let Action::Open { link, .. } = action {
                assert!(link != 0 && seen.insert(link), "{link} twice");
            }
        }
    }
    assert_eq!(seen.len(), 401);
}

#[test]
fn shorter_ttl_that_the_daemon_wrote_is_announced() {
    let shown = "ask announce";
    let held = format!("{TWO} 2 set A u1; 2 answered A u1=30000;");
    check(
        shown,
        &format!(
            "{held} 3 wrote u1 30000; 3 wrote v1 4000; 3 wrote u1 4000; 4 set A u1; 5 wrote u1 4000; 4005 due"
        ),
        "1 ask A u1; 2 ask A u1; 3 announce A [(u1, 4000)]; 4005 ask A u1",
    );
    // While no server owns the slot, the daemon can announce to none; the comparison that follows asks.
    check(shown, &format!("{held} 3 fleet B=5-9; 3 wrote u1 4000"), "1 ask A u1; 2 ask A u1");
}

#[test]
fn slot_without_owner_keeps_its_users() {
    // A deletes the key, whose user could not renew it, and is not asked while it does not own the slot. Once it does again, the
    // user has one TTL.
    check(
        "ask came went",
        &format!(
            "{TWO} 2 set A w1; 2 answered A w1=600; 3 fleet A=2-4 B=5-9; 604 due; 605 expired A w1; 606 answered A w1=moved; \
             607 canary A; 607 canary B; 1106 due; 1107 answered A w1=moved; 1500 fleet A=0-4 B=5-9; 1607 due; \
             1608 answered A w1=-; 1609 canary A; 1609 canary B; 2101 due; 2102 answered A w1=-; 2105 due; 2106 canary A"
        ),
        "1 came u1 A Heartbeat start; 1 ask A u1; 2 came w1 A Heartbeat start; 2 ask A w1; 604 ask A w1; 1106 ask A w1; \
         1607 ask A w1; 2101 ask A w1; 2106 went w1 A Expired start",
    );
    // The server leaves, and the slot comes to another one without the key.
    check(
        "came went",
        &format!(
            "{TWO} 2 set A w1; 2 answered A w1=600; 3 fleet B=5-9; 1000 due; 1001 canary B; 2000 due; 2001 canary B; \
             2500 fleet B=0-9; 2502 answered B u1=-; 2502 answered B w1=-; 3000 due; 3001 canary B; 3101 due; 3102 answered B w1=-; \
             3105 due; 3106 canary B"
        ),
        "1 came u1 A Heartbeat start; 2 came w1 A Heartbeat start; 2500 came u1 B Reconciled start; \
         2500 came w1 B Reconciled start; 2500 went u1 A Reconciled topology; 2500 went w1 A Reconciled topology; \
         3106 went w1 B Expired start",
    );
}
