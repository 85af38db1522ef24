//! Users whose last key ends while something older may be unread.

use super::script::{Run, check};
use crate::Time;

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
    // The end is an event that came during the comparison of its server.
    changes(
        &format!(
            "{TWO} 1100 down A; 1100 down B; 1150 up A; 1151 expired A u#1; 1152 page A; 1153 due; 1500 up B; \
             1501 page B u#6; 1502 answered B u#6=30000; 1502 due; 1503 canary A; 1503 canary B"
        ),
        &format!("{both} 1502 came u#6 B Reconciled connection; 1503 went u#1 A Expired connection"),
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
fn hidden_session_covers_an_end_and_a_return() {
    let said = "1 came u#a S Heartbeat start; 10 gap S connection;";
    // b was set during the gap, and was there while a was not.
    let back = |hidden: &str| {
        format!("{ONE} 10 down S; 20 up S; 21 expired S u#a; 22 set S u#a; {hidden}; 24 page S")
    };
    changes(&format!("{}; 25 answered S u#a=30000", back("23 del S u#b")), said);
    changes(&format!("{}; 25 answered S u#a=30000", back("23 expired S u#b")), said);
    // Another user's session covers nothing.
    changes(
        &format!("{}; 25 answered S u#a=30000", back("23 del S v#b")),
        &format!("{said} 25 went u#a S Expired connection; 25 came u#a S Heartbeat connection"),
    );
    // In the second gap b may have been there, and a may have come back before.
    changes(
        &format!(
            "{ONE} 10 down S; 20 up S; 21 expired S u#a; 22 down S; 30 up S; 31 set S u#a; 32 page S; 33 answered S u#a=30000"
        ),
        &format!("{said} 22 gap S connection"),
    );
}

#[test]
fn session_elsewhere_covers_an_end_and_a_return() {
    // After a stall B is read first, although u#6 ended last.
    changes(
        &format!(
            "{TWO} 2400 set B u#6; 2400 expired B u#6; 2400 expired A u#1; 2400 set A u#1; 2400 due; 2401 canary A; 2402 canary B"
        ),
        "1 came u#1 A Heartbeat start; 2400 came u#6 B Heartbeat start; 2401 went u#6 B Expired start",
    );
    // Without one, the user left and returned.
    changes(
        &format!("{TWO} 2400 expired A u#1; 2400 set A u#1; 2400 due; 2401 canary A; 2402 canary B"),
        "1 came u#1 A Heartbeat start; 2402 went u#1 A Expired start; 2402 came u#1 A Heartbeat start",
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

/// The connection to `B` is lost and back, so that an end at `A` waits until `B` is compared at 1150.
const HELD: &str = "1100 down B; 1110 up B; 1120 expired A u#1;";

#[test]
fn start_is_reported_with_the_end_before_it() {
    // A's canary of 2302 says that everything older than the end has been read; the start came later, and A is behind.
    let late = format!(
        "{TWO} 2001 due; 2002 canary B; 2100 due; 2200 due; 2253 set B u#6; 2253 answered B u#6=30000;"
    );
    changes(
        &format!(
            "{late} 2255 expired A u#1; 2255 expired B u#6; 2301 canary A; 2302 due; 2303 canary B; 2400 set B u#6; 2401 due; \
             2500 due; 2560 canary A"
        ),
        "1 came u#1 A Heartbeat start; 2253 came u#6 B Heartbeat start; 2255 went u#1 A Expired start; \
         2560 went u#6 B Expired start; 2560 came u#6 B Heartbeat start",
    );
    // So is the start of another session.
    changes(
        &format!(
            "{late} 2255 expired A u#1; 2255 expired B u#6; 2301 canary A; 2302 due; 2303 canary B; 2400 set B u#7; 2401 due; \
             2500 due; 2560 canary A"
        ),
        "1 came u#1 A Heartbeat start; 2253 came u#6 B Heartbeat start; 2255 went u#1 A Expired start; \
         2560 went u#6 B Expired start; 2560 came u#7 B Heartbeat start",
    );
}

#[test]
fn later_end_does_not_overtake_a_start_that_waits() {
    changes(
        &format!(
            "{TWO} {HELD} 1121 set A u#2; 1122 set A u#3; 1123 expired A u#2; 1130 page B; 1131 due; 1132 canary B; 1133 canary A"
        ),
        "1 came u#1 A Heartbeat start; 1100 gap B connection; 1121 came u#2 A Heartbeat start; \
         1122 came u#3 A Heartbeat start; 1132 went u#1 A Expired start; 1132 went u#2 A Expired start",
    );
}

#[test]
fn server_that_is_not_compared_may_hide_a_session() {
    // B may have had a session of u in between: an end and a start meanwhile prove nothing.
    changes(
        &format!("{TWO} {HELD} 1121 set A u#2; 1130 page B; 1131 due; 1132 canary B"),
        "1 came u#1 A Heartbeat start; 1100 gap B connection; 1121 came u#2 A Heartbeat start; \
         1132 went u#1 A Expired start",
    );
    // So may a server that has never been compared.
    changes(
        &format!(
            "{TWO} 1100 fleet A=0-4 B=5-8 C=9-9; 1120 expired A u#1; 1121 set A u#2; 1122 ready C; 1123 due; 1124 canary C; \
             1125 canary A; 1126 canary B"
        ),
        "1 came u#1 A Heartbeat start; 1121 came u#2 A Heartbeat start; 1126 went u#1 A Expired start",
    );
}

#[test]
fn stream_that_was_behind_is_waited_for_after_its_end() {
    // A's canary of 2001 is dead at 3502: until 4001 an end waits for A to come back.
    let dead = format!(
        "{TWO} 2001 due; 2002 canary B; {} 2300 set B v#6; 2300 answered B v#6=30000; {} 3001 canary B; {} 3502 due;",
        dues(2_100, 2_300),
        dues(2_400, 3_100),
        dues(3_100, 3_500),
    );
    let said = "1 came u#1 A Heartbeat start; 2300 came v#6 B Heartbeat start; \
                3502 gap A canary (the event stream is dead (canary not seen in time)); 3502 close A canary;";
    changes(
        &format!(
            "{dead} 3600 expired B v#6; 3601 down A; 3650 up A; 3651 page A u#1 v#2; 3652 answered A u#1=9 v#2=9; 3653 due; 3654 canary A; 3655 canary B"
        ),
        &format!("{said} 3652 came v#2 A Reconciled canary; 3654 went v#6 B Expired start"),
    );
    changes(
        &format!("{dead} 3600 expired B v#6; 3601 down A; 4001 due; 4002 due"),
        &format!("{said} 4002 went v#6 B Expired start"),
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

#[test]
fn driver_wakes_when_a_wait_is_over() {
    let mut run = Run::new();
    let script = format!(
        "{TWO} 2001 due; 2002 canary B; {} 3001 canary B; {} 3502 due; 3600 expired B v#6; 3601 down A; 4001 due",
        dues(2_100, 3_100),
        dues(3_100, 3_500),
    );
    let script = script.replace("2100 due;", "2100 due; 2101 set B v#6; 2102 answered B v#6=30000;");
    for step in script.split(';').map(str::trim) {
        let words: Vec<&str> = step.split_whitespace().collect();
        run.step(Time::from_ms(words[0].parse().unwrap()), words[1], &words[2..]);
    }
    // A was waited for since 2001.
    assert!(run.said.iter().all(|line| !line.contains("went")), "{:#?}", run.said);
    assert_eq!(run.tracker.next_due(), Some(Time::from_ms(4002)));
}
