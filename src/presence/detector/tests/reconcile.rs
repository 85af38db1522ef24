//! The comparison after a gap, and sweeps.

use super::script::*;
use super::*;

#[test]
fn pass_after_gap_finds_missed_changes() {
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=30; 10 gap; 10 page c; 12 answered c=25 a=-",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 10 ask c a; \
         12 +c Reconciled seen 12; 12 -a Reconciled at 12 seen 0; 12 reconciled",
    );
}

#[test]
fn page_of_older_scan_is_ignored() {
    let mut detector = Detector::new(Settings::default());
    let now = Time::from_ms(0);
    detector.handle(now, UP);
    let Some(Output::Scan(first, 0)) = detector.poll(now) else { panic!("a scan") };
    detector.handle(now, Input::Gap);
    let Some(Output::Scan(second, 0)) = detector.poll(now) else { panic!("another scan") };
    detector.handle(now, Input::Page(first, vec![], 0));
    assert_eq!(detector.poll(now), None, "still waiting for the first page of the second scan");
    detector.handle(now, Input::Page(second, vec![], 0));
    assert_eq!(detector.poll(now), Some(Output::Reconciled));
}

#[test]
fn sweep_finds_changes_without_events() {
    // No `set` is told, only what ran out.
    check(
        "0 up r; 0 page; 10 sweep; 10 page a; 11 answered a=29; 20 sweep; 20 page a; 39 due; 40 due; 41 answered a=19; \
         50 sweep; 50 sweep; 50 page; 51 answered a=-",
        "0 reconciled; 10 ask a; 11 +a Heartbeat seen 11; 11 swept; 20 swept; 40 ask a; \
         50 ask a; 51 -a Deleted at 51 seen 29; 51 swept",
    );
    // A beat that follows an end is not told either: asked again.
    check(
        "0 up r; 0 page; 10 sweep; 10 page a; 10 open; 10 answers a=5; 10 expired a; 10 close; 10 next; 12 answered a=29",
        "0 reconciled; 10 ask a; 10 ask a; 12 +a Heartbeat seen 12; 12 swept",
    );
    // A gap comes before a sweep, and a sweep makes nothing unsettled.
    check(
        "0 up r; 0 page; 10 sweep; 10 gap; 10 page a; 11 answered a=29; 12 gap; 12 sweep; 12 page; 13 answered a=-",
        "0 reconciled; 10 ask a; 11 +a Reconciled seen 11; 11 reconciled; 12 ask a; 13 -a Reconciled at 13 seen 9; 13 reconciled",
    );
}

#[test]
fn sweep_keeps_the_server_settled() {
    let mut detector = Detector::new(Settings::default());
    let now = Time::from_ms(0);
    detector.handle(now, UP);
    let Some(Output::Scan(first, 0)) = detector.poll(now) else { panic!("a scan") };
    detector.handle(now, Input::Page(first, vec![], 0));
    assert_eq!(detector.poll(now), Some(Output::Reconciled));
    detector.handle(now, Input::Sweep);
    assert!(detector.settled());
    let Some(Output::Scan(second, 0)) = detector.poll(now) else { panic!("another scan") };
    detector.handle(now, Input::Page(second, vec![], 0));
    assert_eq!(detector.poll(now), Some(Output::Swept));
}
