//! Heartbeats, ends, probes and fences.

use super::script::*;
use super::*;

#[test]
fn heartbeat_starts_and_probe_ends_presence() {
    check(
        "0 up r; 0 page; 5 set a; 6 answered a=10; 6 calm; 14 set a; 23 due; 24 due; 25 expired a",
        "0 reconciled; 5 +a Heartbeat seen 5; 5 ask a; 25 -a Expired at 24 seen 14",
    );
    check(
        "0 up r; 0 page; 5 set a; 6 answered a=10; 6 calm; 14 set a; 24 due; 25 due; 26 answered a=-",
        "0 reconciled; 5 +a Heartbeat seen 5; 5 ask a; 25 ask a; 26 -a Expired at 24 seen 14",
    );
}

#[test]
fn renewal_costs_no_question() {
    check(
        "0 up r; 0 page; 5 set a; 6 answered a=29; 6 calm; 15 set a; 25 set a; 35 set a; 36 due; 60 set a; 66 due",
        "0 reconciled; 5 +a Heartbeat seen 5; 5 ask a",
    );
}

#[test]
fn live_answer_moves_the_deadline() {
    // Renewed by EXPIRE at 2001, which makes no event that is listened to.
    check_with(
        Settings { first_ttl_ms: 3000, ..Settings::default() },
        "0 up r; 0 page; 0 set a; 0 answered a=3000; 3001 due; 3001 answered a=2000; 5001 due; 5002 due; 5003 answered a=-",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 3001 ask a; 5002 ask a; 5003 -a Expired at 5001 seen 2001",
    );
}

#[test]
fn overtaken_answer_is_not_believed() {
    // The key expired at 31, was set again at 32, both after the answer; the events arrive late.
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=30; 31 due; 31 open; 31 answers a=-; 32 expired a; 32 set a; 33 close; 33 next; 40 answered a=23",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 31 ask a; \
         32 -a Expired at 30 seen 0; 32 +a Heartbeat seen 32; 33 ask a",
    );
    // The other way round: the answer counts in a `set` that is still on its way.
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=30; 31 due; 31 answers a=30; 32 set a; 32 open; 32 close",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 31 ask a",
    );
}

#[test]
fn missing_fence_restarts_the_stream() {
    check_with(
        Settings { first_ttl_ms: 30, fence_limit_ms: 100, ..Settings::default() },
        "0 up r; 0 page; 0 set a; 50 answers a=30; 100 due; 101 due; 102 due; 103 down; 110 up r",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 101 restart",
    );
}

#[test]
fn invalid_name_is_only_counted() {
    let mut detector = Detector::new(Settings::default());
    let now = Time::from_ms(0);
    detector.handle(now, UP);
    detector.handle(now, Input::Renewed(b"\xff\x00"));
    detector.handle(now, Input::Renewed(b""));
    detector.handle(now, Input::Ended(b"nobody", End::Deleted));
    assert_eq!((detector.counts().invalid, detector.counts().keys), (2, 0));
}

#[test]
fn slots_of_ended_keys_are_reused() {
    let mut detector = Detector::new(Settings::default());
    let mut now = Time::from_ms(0);
    detector.handle(now, UP);
    for i in 0..1000 {
        let name = format!("user{i}");
        detector.handle(now, Input::Renewed(name.as_bytes()));
        detector.handle(now, Input::Ended(name.as_bytes(), End::Deleted));
        now = now.plus(1);
        while let Some(output) = detector.poll(now) {
            if let Output::Ask(id, keys) = output {
                detector.handle(now, Input::Fence(id, Side::Open));
                detector.handle(now, Input::Answers(id, vec![Answer::Absent; keys.len()]));
                detector.handle(now, Input::Fence(id, Side::Close));
            }
        }
    }
    assert_eq!((detector.table.len(), detector.table.places()), (0, 0));
    assert!(detector.table.end() < 10, "{} slots for one key at a time", detector.table.end());
}

#[test]
fn batch_without_opening_fence_proves_nothing() {
    let (held, said) = HELD;
    check(&format!("{held} 31 due; 31 answers a=-; 31 close"), &format!("{said} 31 ask a; 31 ask a"));
}

#[test]
fn deadline_reached_is_not_yet_passed() {
    let (held, said) = HELD;
    // Its bucket comes due at 31, and the renewal moved the deadline to the same instant.
    check(&format!("{held} 1 set a; 31 due; 32 due"), &format!("{said} 32 ask a"));
}

#[test]
fn renewal_cancels_a_waiting_probe() {
    let settings = Settings { first_ttl_ms: 30, batch_keys: 1, due_batches: 1, ..Settings::default() };
    check_with(
        settings,
        "0 up r; 0 page; 0 set a; 0 set b; 0 answered a=30; 0 answered b=30; 0 calm; 31 due; 32 set b; 33 answered a=-; 63 due",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 0 +b Heartbeat seen 0; 0 ask b; 31 ask a; \
         33 -a Expired at 30 seen 0; 63 ask b",
    );
}
