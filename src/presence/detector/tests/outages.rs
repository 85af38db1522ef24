//! Absence that proves nothing: restarts, flushes, evictions, and servers out of reach.

use super::script::*;
use super::*;

#[test]
fn replaced_keyspace_ends_keys_at_deadlines() {
    let (held, said) = HELD;
    check(
        &format!("{held} 5 set a; 10 replaced; 10 page c; 11 answered c=20 a=-; 36 due; 37 answered a=- c=-"),
        &format!(
            "{said} 10 ask c a; 11 +c Reconciled seen 11; 11 reconciled; 36 ask a c; \
             37 -a Expired at 35 seen 5; 37 -c Expired at 30 seen 0"
        ),
    );
    // Who beats goes on; a key without a TTL is there or is not.
    check(
        &format!(
            "{held} 5 set a; 10 replaced; 10 page; 11 answered a=-; 20 set a; 36 due; 51 due; 52 answered a=29"
        ),
        &format!("{said} 10 ask a; 11 reconciled; 51 ask a"),
    );
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=never; 10 replaced; 10 page; 11 answered a=-",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 10 ask a; 11 -a Reconciled at 11 seen 0; 11 reconciled",
    );
}

#[test]
fn evicted_user_stays_until_the_deadline() {
    let (held, said) = HELD;
    check(
        &format!("{held} 5 set a; 10 evicted a; 36 due; 37 answered a=-"),
        &format!("{said} 36 ask a; 37 -a Expired at 35 seen 5"),
    );
    // One that may have been renewed by EXPIRE since its only `set`: one TTL from now.
    check(
        &format!("{held} 10 evicted a; 31 due; 41 due; 42 answered a=-"),
        &format!("{said} 41 ask a; 42 -a Expired at 40 seen 0"),
    );
    check(
        "0 up r; 0 page; 0 set a; 5 evicted a; 6 answered a=-; 10 set a; 11 answered a=30; 41 due; 42 expired a",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 10 ask a; 41 ask a; 42 -a Expired at 40 seen 10",
    );
    // After a gap the last heartbeat is not the last that was heard: one TTL from now.
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=30; 5 gap; 5 page a; 6 answered a=20; 20 evicted a; 27 due; 51 due; \
         52 answered a=-",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 5 ask a; 6 reconciled; 51 ask a; 52 -a Expired at 50 seen 0",
    );
    // Its deadline has passed: the last renewal was one without an event.
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=30; 31 due; 32 evicted a; 33 answered a=-; 63 due; 64 answered a=-",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 31 ask a; 63 ask a; 64 -a Expired at 62 seen 0",
    );
}

#[test]
fn key_missing_from_same_server_ends() {
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=30; 1 set b; 1 answered b=30; 10 down; 20 up r; 20 page b; 21 answered b=11 a=-",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 1 +b Heartbeat seen 1; 1 ask b; \
         20 ask b a; 21 -a Reconciled at 21 seen 0; 21 reconciled",
    );
}

#[test]
fn key_missing_after_restart_gets_one_ttl() {
    let outage = "0 up r; 0 page; 0 set a; 0 answered a=30; 0 set b; 0 answered b=30; 0 calm; 10 down; 40 up r2; 40 page; 41 answered a=- b=-;";
    let before = "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 0 +b Heartbeat seen 0; 0 ask b; \
         40 ask a b; 41 reconciled;";
    check(
        &format!("{outage} 60 set a; 71 due; 72 answered b=-"),
        &format!("{before} 71 ask b; 72 -b Expired at 70 seen 0"),
    );
    // So too if the same server says that it was flushed.
    check(
        &format!("{} 60 set a; 71 due; 72 answered b=-", outage.replace("up r2", "flushed r")),
        &format!("{before} 71 ask b; 72 -b Expired at 70 seen 0"),
    );
}

#[test]
fn restored_copy_expires_without_verdict() {
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=30; 0 calm; 10 down; 28 up r2; 28 page a; 29 answered a=1; 31 expired a; 45 set a; 60 due",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 28 ask a; 29 reconciled",
    );
}

#[test]
fn key_found_after_restart_gets_one_ttl() {
    // Saved with 2 left; its user could not renew it meanwhile, and does at 20.
    let found = "0 up r; 0 page; 1 down; 10 up r2; 10 page a; 11 answered a=2; 13 due; 14 expired a;";
    let said = "0 reconciled; 10 ask a; 11 +a Reconciled seen 11; 11 reconciled;";
    check(&format!("{found} 20 set a; 20 answered a=30; 42 due"), &format!("{said} 20 ask a"));
    check(
        &format!("{found} 41 due; 42 due; 42 answered a=-"),
        &format!("{said} 42 ask a; 42 -a Expired at 41 seen 0"),
    );
    // So too by the pass that follows one that was cut short, but by no later one.
    let cut = found.replace("10 page a", "10 down; 10 up r2; 10 page a");
    check(&format!("{cut} 20 set a; 20 answered a=30; 42 due"), &format!("{said} 20 ask a"));
    check(
        "0 up r; 0 page; 1 down; 10 up r2; 10 page; 11 gap; 11 page a; 11 answered a=2; 14 expired a",
        "0 reconciled; 10 reconciled; 11 ask a; 11 +a Reconciled seen 11; 11 reconciled; 14 -a Expired at 13 seen 0",
    );
    // So too if the same server took no writes.
    check(
        &format!("{} 20 set a; 20 answered a=30; 42 due", found.replace("up r2", "flushed r")),
        &format!("{said} 20 ask a"),
    );
}

#[test]
fn key_that_a_pass_finds_after_a_refusal_gets_one_ttl() {
    // Its last renewal was refused, or waits in the stream.
    let found = "0 up r; 0 page; 1 gap; 10 refused 2; 10 page a; 11 answered a=2; 14 expired a;";
    let said = "0 reconciled; 10 ask a; 11 +a Reconciled seen 11; 11 reconciled;";
    check(&format!("{found} 20 set a; 20 answered a=30; 42 due"), &format!("{said} 20 ask a"));
    // A TTL after the outage users have renewed what is there, even if the first pass was cut short.
    check(
        "0 up r; 0 page; 1 down; 10 flushed r; 20 down; 41 up r; 41 page a; 42 answered a=2; 45 expired a",
        "0 reconciled; 41 ask a; 42 +a Reconciled seen 42; 42 reconciled; 45 -a Expired at 43 seen 13",
    );
}

#[test]
fn gap_hides_the_last_heartbeat_from_a_replacement() {
    // The pass has not asked for a key that was last heard of at 0: it may have been renewed since.
    check(
        &format!("{} 5 gap; 80 replaced; 80 page; 81 answered a=-; 100 set a; 111 due; 131 due", HELD.0),
        &format!("{} 80 ask a; 81 reconciled; 131 ask a", HELD.1),
    );
}

#[test]
fn young_first_server_grants_one_ttl() {
    let said = "100 ask a; 101 +a Reconciled seen 101; 101 reconciled;";
    check(
        "100 up r 29; 100 page a; 101 answered a=2; 104 expired a; 131 due; 132 due; 132 answered a=-",
        &format!("{said} 132 ask a; 132 -a Expired at 131 seen 72"),
    );
    check(
        "100 up r 30; 100 page a; 101 answered a=2; 104 expired a",
        &format!("{said} 104 -a Expired at 102 seen 72"),
    );
}

#[test]
fn grants_end_one_after_the_other() {
    const KEYS: usize = 1_000;
    let mut detector = Detector::new(Settings { first_ttl_ms: 30, ..Settings::default() });
    let at = Time::from_ms;
    detector.handle(at(0), UP);
    for i in 0..KEYS {
        detector.handle(at(0), Input::Renewed(format!("u{i}").as_bytes()));
    }
    detector.handle(at(1), Input::Down);
    detector.handle(
        at(100),
        Input::Up {
            run: "r2",
            outage: false,
            well: at(1),
            polled: false,
            role: Role::Alone,
            uptime_ms: u64::MAX,
        },
    );
    let ends: Vec<u64> = detector.table.values().map(|slot| slot.deadline().as_ms()).collect();
    let count = |end: u64| ends.iter().filter(|&&other| other == end).count();
    // 20 a millisecond would need 50 ms, so they share the 30 ms of one TTL: 40 in the first 20 of them.
    assert_eq!((130..160).map(count).sum::<usize>(), KEYS, "never before one TTL, nor after two");
    assert!((130..160).all(|end| (20..=40).contains(&count(end))), "{ends:?}");
}

#[test]
fn unreachable_server_changes_no_user() {
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=30; 10 down; 100 due; 100 set b; 100 expired a; 200 up r; 200 page a; 201 answered a=5",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 200 ask a; 201 reconciled",
    );
}

#[test]
fn grant_of_an_unknown_ttl_lasts_the_usual_one() {
    // The first answers came when 110 and 20 were left, which counts as a usual TTL of 119.
    let lost = "15 page; 16 answered a=- b=-; 133 due; 135 due; 135 answered b=- a=-";
    let said =
        "15 ask a b; 16 reconciled; 135 ask b a; 135 -b Expired at 134 seen 0; 135 -a Expired at 134 seen 0";
    check(
        &format!("0 up r; 0 page a b; 0 answered a=110 b=20; 11 down; 15 up r2; {lost}"),
        &format!("0 ask a b; 0 +a Reconciled seen 0; 0 +b Reconciled seen 0; 0 reconciled; {said}"),
    );
    // The TTL of b is known: 30.
    check(
        "0 up r; 0 page a; 0 answered a=110; 1 set b; 1 answered b=30; 11 down; 15 up r2; 15 page; 16 answered a=- b=-; \
         46 due; 47 answered b=-",
        "0 ask a; 0 +a Reconciled seen 0; 0 reconciled; 1 +b Heartbeat seen 1; 1 ask b; 15 ask a b; 16 reconciled; \
         46 ask b; 47 -b Expired at 45 seen 1",
    );
}

#[test]
fn flush_before_ttls_are_known_grants_the_usual_one() {
    // The names suffice for the first snapshot. Of two TTLs the daemon has asked for one when the flush comes.
    check(
        "100 met r; 101 page a b; 102 answered a=110; 103 replaced; 103 next; 103 page; 104 answered a=- b=-; 221 due; 223 due; \
         223 answered b=- a=-",
        "101 +a Reconciled seen 101; 101 +b Reconciled seen 101; 101 ask a; 101 ask b; 102 reconciled; 103 ask a b; \
         104 reconciled; 223 ask b a; 223 -b Expired at 222 seen 71; 223 -a Expired at 222 seen 101",
    );
}

#[test]
fn grant_lasts_the_longest_known_ttl() {
    // Its program went over to 120 where nobody heard it; the gap's answer tells of at least 100.
    let (held, said) = HELD;
    let restart = "11 down; 200 up r2; 200 page; 200 answered a=-;";
    check(
        &format!("{held} 10 gap; 10 page a; 10 answered a=100; {restart} 299 due; 300 set a"),
        &format!("{said} 10 ask a; 10 reconciled; 200 ask a; 200 reconciled; 300 ask a"),
    );
    // And where a probe met it.
    check(
        &format!("{held} 31 due; 31 answered a=99; {} 298 due; 299 set a", restart.replace("11", "32")),
        &format!("{said} 31 ask a; 200 ask a; 200 reconciled; 299 ask a"),
    );
    // The next `set` tells the TTL: 40, no longer 99.
    check(
        &format!(
            "{held} 10 gap; 10 page a; 10 answered a=99; 20 set a; 20 answered a=40; 50 set a; 50 answered a=40; 50 calm; 70 set a; 111 due"
        ),
        &format!("{said} 10 ask a; 10 reconciled; 20 ask a; 50 ask a; 111 ask a"),
    );
}

#[test]
fn grant_that_ended_during_a_question_is_asked_again() {
    let (held, said) = HELD;
    // Sent while the grant ran, answered after its end: the user may have returned since.
    check(
        &format!("{held} 10 down; 40 up r2; 40 page; 75 answered a=-; 75 due; 76 answered a=-"),
        &format!("{said} 40 ask a; 75 reconciled; 75 ask a; 76 -a Expired at 70 seen 0"),
    );
}

#[test]
fn answer_never_shortens_a_grant() {
    let (held, said) = HELD;
    check(
        &format!(
            "{held} 10 down; 28 up r2; 28 page a; 29 answered a=1; 30 expired a; 40 due; 58 due; 59 due"
        ),
        &format!("{said} 28 ask a; 29 reconciled; 59 ask a"),
    );
}

#[test]
fn eviction_after_the_deadline_grants_one_ttl() {
    let (held, said) = HELD;
    check(
        &format!("{held} 5 set a; 36 due; 37 evicted a; 38 answered a=-; 68 due"),
        &format!("{said} 36 ask a; 68 ask a"),
    );
}

#[test]
fn replacement_after_a_gap_grants_one_ttl() {
    let (held, said) = HELD;
    // The gap may hide a later `set`, so the deadline 35 is not certain.
    check(
        &format!("{held} 5 set a; 10 gap; 12 replaced; 12 page; 13 answered a=-; 36 due; 43 due"),
        &format!("{said} 12 ask a; 13 reconciled; 43 ask a"),
    );
}

#[test]
fn grants_add_up_to_outages_and_one_ttl() {
    let (held, said) = HELD;
    // Down for 10 of every 20: the user is gone at 0 + 30, plus 10 for each outage, plus 30.
    let (mut script, mut expected) = (held.to_owned(), said.to_owned());
    for up in (20..=120).step_by(20) {
        script += &format!("{} down; {up} flushed r; {up} page; {up} answered a=-;", up - 10);
        expected += &format!("{up} ask a; {up} reconciled;");
    }
    check(
        &format!("{script} 121 due; 122 answered a=-"),
        &format!("{expected} 121 ask a; 122 -a Expired at 120 seen 0"),
    );
}

#[test]
fn repeated_flushes_grant_one_ttl() {
    let (held, said) = HELD;
    let flushed = |at: u64| format!("{at} replaced; {at} page; {at} answered a=-;");
    check(
        &format!("{held} {} {} {} 61 due; 62 answered a=-", flushed(20), flushed(40), flushed(59)),
        &format!(
            "{said} 20 ask a; 20 reconciled; 40 ask a; 40 reconciled; 59 ask a; 59 reconciled; 61 ask a; \
             62 -a Expired at 60 seen 0"
        ),
    );
}

#[test]
fn absence_counts_after_a_canary_that_was_sent_later() {
    let (held, said) = HELD;
    let asked = format!("byhand; {held} 31 due; 32 answered a=-;").replacen("byhand", "0 byhand", 1);
    let said = format!("{said} 31 ask a; 32 prove;");
    check(&format!("{asked} 33 proven 32"), &said);
    check(&format!("{asked} 35 proven 33"), &format!("{said} 35 -a Expired at 30 seen 0"));
    // The keyspace was replaced: the user stays until the deadline that the grant gives.
    check(&format!("{asked} 35 replaced; 36 proven 35"), &said);
    // An event is newer than the answer.
    check(&format!("{asked} 33 set a; 35 proven 34"), &said);
    check(&format!("{asked} 33 expired a; 35 proven 34"), &format!("{said} 33 -a Expired at 30 seen 0"));
}

#[test]
fn renewal_by_expire_under_a_grant_is_found() {
    let (held, said) = HELD;
    // The server kept the key, whose user renews it by EXPIRE at 35. Then it loses the key.
    check(
        &format!(
            "{held} 10 down; 20 flushed r; 20 page a; 21 answered a=9; 31 due; 32 answered a=30; \
             45 down; 59 up r2; 59 page; 60 answered a=-; 88 set a"
        ),
        &format!("{said} 20 ask a; 21 reconciled; 31 ask a; 59 ask a; 60 reconciled"),
    );
}

#[test]
fn polled_server_grants_one_ttl_more() {
    check(
        "0 up r polled; 0 page a; 0 answered a=30; 20 flushed r; 20 page; 21 answered a=-; 49 flushed r polled; \
         49 page; 50 answered a=-; 80 due; 81 answered a=-",
        "0 ask a; 0 +a Reconciled seen 0; 0 reconciled; 20 ask a; 21 reconciled; 49 ask a; 50 reconciled; \
         80 ask a; 81 -a Expired at 79 seen 0",
    );
}

#[test]
fn short_refusal_grants_without_a_gap() {
    let (held, said) = HELD;
    // 5 of refusals before 20: the key may run out at 30, and its user has until 50.
    check(
        &format!("{held} 20 refused 15; 31 expired a; 49 due; 51 due; 52 answered a=-"),
        &format!("{said} 51 ask a; 52 -a Expired at 50 seen 0"),
    );
    check(&format!("{held} 20 refused 15; 31 expired a; 45 set a; 51 due"), said);
}
