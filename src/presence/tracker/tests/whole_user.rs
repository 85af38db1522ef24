//! Users whose last key ends while something older may be unread.

use super::script::check;

/// One server without gaps; u has the session a.
const ONE: &str = "0 fleet S; 0 ready S; 1 set S u#a; 1 answered S u#a=30000;";

/// Two servers without gaps, at 1 s; u has the session 1, which `A` owns.
const TWO: &str = "0 fleet A=0-4 B=5-9; 0 ready A; 0 ready B; 1 set A u#1; 1 answered A u#1=30000; 1000 due; \
                   1001 canary A; 1001 canary B; 1002 due;";

fn changes(script: &str, expected: &str) {
    check("came went gap close", script, expected);
}

/// The loop turns each 100 ms.
fn dues(from: u64, to: u64) -> String {
    (from..to).step_by(100).map(|ms| format!("{ms} due;")).collect()
}

#[test]
fn session_that_changed_in_a_gap_keeps_its_user() {
    let expected = "1 came u#a S Heartbeat start; 10 gap S connection; \
                    30 came u#b S Reconciled connection; 30 went u#a S Reconciled connection";
    changes(
        &format!(
            "{ONE} 10 down S; 20 up S; 21 page S u#a u#b; 27 answered S u#a=- u#b=30000; \
             29 due; 30 canary S"
        ),
        expected,
    );
    // The end is an event, and the new session was set before it.
    changes(
        &format!("{ONE} 10 down S; 20 up S; 21 del S u#a; 22 page S u#b; 30 answered S u#b=30000"),
        &expected.replace("a S Reconciled", "a S Deleted"),
    );
    // The new session is renewed before it is found.
    changes(
        &format!("{ONE} 10 down S; 20 up S; 21 del S u#a; 22 set S u#b; 23 page S; 30 answered S u#b=30000"),
        "1 came u#a S Heartbeat start; 10 gap S connection; 22 came u#b S Heartbeat connection; \
         30 went u#a S Deleted connection",
    );
}

#[test]
fn session_that_changed_servers_in_a_gap_keeps_its_user() {
    let both = "1 came u#1 A Heartbeat start; 1100 gap A connection; 1100 gap B connection;";
    changes(
        &format!(
            "{TWO} 1100 down A; 1100 down B; 1150 up A; 1150 up B; 1151 page A; 1152 answered A u#1=-; \
             1160 page B u#6; 1161 answered B u#6=30000; 1161 due; 1162 canary A; 1162 canary B"
        ),
        &format!("{both} 1161 came u#6 B Reconciled connection; 1162 went u#1 A Reconciled connection"),
    );
    // The two connections do not come back together.
    changes(
        &format!(
            "{TWO} 1100 down A; 1100 down B; 1150 up A; 1151 page A; 1152 answered A u#1=-; 1500 up B; \
             1501 page B u#6; 1502 answered B u#6=30000; 1502 due; 1503 canary A; 1503 canary B"
        ),
        &format!("{both} 1502 came u#6 B Reconciled connection; 1503 went u#1 A Reconciled connection"),
    );
    // One of them does not come back at all.
    changes(
        &format!(
            "{TWO} 1100 down A; 1100 down B; 1150 up A; 1151 page A; 1152 answered A u#1=-; 1152 due; 1153 canary A; \
             2152 due; 2153 canary A; 3100 due; 3101 due"
        ),
        &format!("{both} 3101 went u#1 A Reconciled connection"),
    );
}

#[test]
fn other_stream_is_read_first_after_a_stall() {
    changes(
        &format!("{TWO} 2400 expired A u#1; 2400 set B u#6; 2400 due; 2401 canary A; 2402 canary B"),
        "1 came u#1 A Heartbeat start; 2400 came u#6 B Heartbeat start; 2402 went u#1 A Expired start",
    );
    // The canary under way was sent before the stall.
    changes(
        &format!(
            "{TWO} 2001 due; 2500 due; 2500 expired A u#1; 2500 canary B; 2501 set B u#6; 2501 due; 2502 canary B"
        ),
        "1 came u#1 A Heartbeat start; 2501 came u#6 B Heartbeat start; 2502 went u#1 A Expired start",
    );
    // Without a stall nothing waits.
    changes(
        &format!("{TWO} 1100 expired A u#1; 1101 set B u#6"),
        "1 came u#1 A Heartbeat start; 1100 went u#1 A Expired start; 1101 came u#6 B Heartbeat start",
    );
}

#[test]
fn late_canary_holds_ends_of_other_servers() {
    let late = format!("{TWO} 2001 due; 2002 canary B");
    changes(
        &format!(
            "{late}; 2100 due; 2200 due; 2252 set B v#6; 2252 answered B v#6=30000; 2253 expired B v#6; 2400 set A v#1; \
             2500 canary A; 2500 due; 2502 canary A"
        ),
        "1 came u#1 A Heartbeat start; 2252 came v#6 B Heartbeat start; 2400 came v#1 A Heartbeat start; \
         2502 went v#6 B Expired start",
    );
    // What the late server itself says is in order.
    changes(
        &format!("{late}; 2100 due; 2200 due; 2253 expired A u#1; 2254 set A u#1"),
        "1 came u#1 A Heartbeat start; 2253 went u#1 A Expired start; 2254 came u#1 A Heartbeat start",
    );
}

#[test]
fn stream_behind_for_two_seconds_is_dead() {
    changes(
        &format!(
            "{TWO} 2001 due; 2002 canary B; {} 2300 set B v#6; 2300 answered B v#6=30000; 2301 expired B v#6; {} \
             3400 canary A; {} 4301 due; 4302 due; 4303 canary B; \
             5302 due; 5303 canary B; 6302 due; 6303 due",
            dues(2_100, 2_300),
            dues(2_400, 3_400),
            dues(3_400, 4_300),
        ),
        "1 came u#1 A Heartbeat start; 2300 came v#6 B Heartbeat start; \
         4302 gap A canary (the event stream is dead (canary not seen in time)); 4302 close A canary; \
         5302 close A canary; 6302 close A canary; 6303 went v#6 B Expired start",
    );
}

#[test]
fn held_changes_of_one_key_stay_in_order() {
    changes(
        &format!(
            "{ONE} 10 down S; 20 up S; 21 expired S u#a; 22 set S u#a; 23 page S; 24 answered S u#a=30000"
        ),
        "1 came u#a S Heartbeat start; 10 gap S connection; 24 went u#a S Expired connection; \
         24 came u#a S Heartbeat connection",
    );
    // A later comparison finds it live.
    changes(
        &format!(
            "{ONE} 10 down S; 20 up S; 21 expired S u#a; 22 down S; 30 up S; 31 page S u#a; 32 answered S u#a=9"
        ),
        "1 came u#a S Heartbeat start; 10 gap S connection; 22 gap S connection",
    );
}

#[test]
fn held_end_waits_while_its_server_is_away() {
    changes(
        &format!(
            "{ONE} 10 down S; 20 up S; 21 expired S u#a; 22 down S; 2900 due; 3000 up S; 3001 page S; 3001 due"
        ),
        "1 came u#a S Heartbeat start; 10 gap S connection; 22 gap S connection; 3001 went u#a S Expired connection",
    );
}

#[test]
fn mark_waits_for_held_ends() {
    check(
        "passed went",
        &format!(
            "{TWO} 2400 expired A u#1; 2400 mark A 1; 2400 mark B 1; 2400 due; 2401 canary A; 2402 canary B"
        ),
        "2402 went u#1 A Expired start; 2402 passed 1",
    );
}

#[test]
fn too_many_held_changes_are_reported() {
    let sets: String = (0..9).map(|i| format!("2 set S {i}; 2 answered S {i}=30000;")).collect();
    let ends: String = (0..9).map(|i| format!("21 expired S {i};")).collect();
    let expected: String = (0..8).map(|i| format!("21 went {i} S Expired connection;")).collect();
    check("went", &format!("0 fleet S; 0 ready S; {sets} 10 down S; 20 up S; {ends}"), &expected);
}
