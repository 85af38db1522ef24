//! The first snapshot of a server that has been up for long.

use super::script::*;
use super::*;

#[test]
fn first_snapshot_waits_for_no_ttls() {
    let met = "100 met r; 101 page a b c";
    let said = "101 +a Reconciled seen 101; 101 +b Reconciled seen 101; 101 +c Reconciled seen 101; 101 ask a; 101 ask b c";
    check(
        &format!("{met}; 102 answered a=20; 103 answered b=10 c=5; 109 due; 109 answered c=-; 114 due"),
        &format!("{said}; 102 reconciled; 109 ask c; 109 -c Expired at 106 seen 76; 114 ask b"),
    );
    // What its events say of a key before its TTL is known stands.
    check(
        &format!("{met}; 102 answered a=20; 103 expired b; 104 set c; 105 open; 106 del c"),
        &format!("{said}; 102 reconciled; 103 -b Expired at 103 seen 71; 106 -c Deleted at 106 seen 104"),
    );
    // Of one who leaves before that, only that is known.
    check(
        &format!("{met}; 102 answered a=20; 200 expired b"),
        &format!("{said}; 102 reconciled; 200 -b Expired at 200 seen 71"),
    );
    // A gap before that: the next comparison asks for all.
    check(
        &format!("{met}; 102 gap; 102 next; 102 next; 103 page a; 104 answered a=20 b=- c=7"),
        &format!("{said}; 103 ask a b c; 104 -b Reconciled at 104 seen 71; 104 reconciled"),
    );
}

#[test]
fn name_after_its_end_is_asked_for() {
    check(
        "100 met r; 101 del a; 102 page a b; 103 answered b=20; 104 answered a=-",
        "102 +b Reconciled seen 102; 102 ask b; 102 ask a; 104 reconciled",
    );
    check(
        "100 met r; 101 doubted a; 102 page a b; 103 answered b=20; 104 answered a=-",
        "102 +b Reconciled seen 102; 102 ask b; 102 ask a; 104 reconciled",
    );
    // Also when nothing else is there.
    check("100 met r; 101 expired a; 102 page a; 104 answered a=-", "102 ask a; 104 reconciled");
    // Nor is any page once the ends were too many to note.
    let mut detector = Detector::new(Settings::default());
    let now = Time::from_ms(0);
    detector.handle(now, UP);
    let Some(Output::Scan(number, 0)) = detector.poll(now) else { panic!("a scan") };
    for i in 0..=65_536 {
        detector.handle(now, Input::Ended(format!("u{i}").as_bytes(), End::Deleted));
    }
    while let Some(Output::Unknown { .. }) = detector.poll(now) {}
    detector.handle(now, Input::Page(number, vec![b"u65536".to_vec(), b"v".to_vec()], 0));
    let Some(Output::Ask(_, keys)) = detector.poll(now) else { panic!("a question first") };
    assert_eq!(keys.iter().map(Key::as_str).collect::<Vec<_>>(), ["u65536", "v"]);
}

#[test]
fn closing_question_ends_the_first_pass() {
    // Set after a deletion, both before the page was read; the events come late, but before the fence.
    check(
        "100 met r; 101 page a; 102 open; 103 del a; 104 set a; 105 answers a=29; 106 close",
        "101 +a Reconciled seen 101; 101 ask a; 103 -a Deleted at 103 seen 71; 104 +a Heartbeat seen 104; \
         106 ask a; 106 reconciled",
    );
}

#[test]
fn closing_question_needs_no_found_key() {
    check(
        "100 met r; 100 set a; 101 page a; 102 open; 103 del a; 104 set a; 105 answers a=29; 106 close",
        "100 +a Heartbeat seen 100; 100 ask a; 103 -a Deleted at 103 seen 100; 104 +a Heartbeat seen 104; \
         106 ask a; 106 reconciled",
    );
    check(
        "100 met r; 100 set a; 101 answered a=29; 102 page a; 103 answered a=27",
        "100 +a Heartbeat seen 100; 100 ask a; 102 ask a; 103 reconciled",
    );
}

#[test]
fn first_snapshot_ttls_are_asked_for_last() {
    let settings = Settings {
        first_ttl_ms: 30,
        trusted_uptime_ms: u64::MAX,
        batch_keys: 1,
        learn_batches: 1,
        ..Settings::default()
    };
    // Who comes is asked for first, and who is thrown away has a deadline already.
    check_with(
        settings,
        "100 met r; 101 page a b c d; 102 set z; 103 evicted c; 104 answered a=20; 105 answered b=20; \
         106 answered z=26; 107 answered d=60; 132 due; 134 due",
        "101 +a Reconciled seen 101; 101 +b Reconciled seen 101; 101 +c Reconciled seen 101; \
         101 +d Reconciled seen 101; 101 ask a; 101 ask b; 102 +z Heartbeat seen 102; 104 reconciled; \
         105 ask z; 106 ask d; 132 ask a; 132 ask b; 132 ask z; 134 ask c",
    );
}

#[test]
fn early_end_of_unknown_ttl_is_no_surprise() {
    let settings = Settings { first_ttl_ms: 30_000, trusted_uptime_ms: u64::MAX, ..Settings::default() };
    check_with(
        settings,
        "100 met r; 101 page a b; 102 answered a=20000; 105 expired b; 106 answered b=-; 200 set c; \
         201 answered c=29999; 201 confirmed; 300 set c",
        "101 +a Reconciled seen 101; 101 +b Reconciled seen 101; 101 ask a; 101 ask b; 102 reconciled; \
         105 -b Expired at 105 seen 0; 200 +c Heartbeat seen 200; 200 ask c",
    );
}

#[test]
fn names_are_asked_for_if_keys_were_adopted_before() {
    check(
        "0 adopted a 0 30; 100 met r; 100 page a b; 101 answered a=20 b=-",
        "0 +a Reconciled seen 0; 100 ask a b; 101 reconciled",
    );
}

#[test]
fn too_many_waiting_questions_stop_the_scan() {
    let now = Time::from_ms(0);
    // Four batches of 512 are sent; the rest waits.
    let scans_on = |ends: usize, names: usize, uptime_ms: u64| {
        let mut detector = Detector::new(Settings::default());
        detector.handle(
            now,
            Input::Up {
                run: "r",
                outage: false,
                well: Time::from_ms(0),
                polled: false,
                role: Role::Alone,
                uptime_ms,
            },
        );
        let Some(Output::Scan(number, 0)) = detector.poll(now) else { panic!("a scan") };
        for i in 0..ends {
            detector.handle(now, Input::Ended(format!("u{i}").as_bytes(), End::Deleted));
        }
        let page = (0..names).map(|i| format!("u{i}").into_bytes()).collect();
        detector.handle(now, Input::Page(number, page, 7));
        let mut asked = 0;
        let mut scanned = false;
        while let Some(output) = detector.poll(now) {
            asked += usize::from(matches!(output, Output::Ask(..)));
            scanned |= output == Output::Scan(number, 7);
        }
        (scanned, asked)
    };
    assert_eq!(scans_on(0, 6_143, 0), (true, 4), "4,095 questions wait");
    assert_eq!(scans_on(0, 6_144, 0), (false, 4), "4,096 questions wait");
    assert_eq!(scans_on(0, 10_000, u64::MAX), (true, 0), "a first pass believes the names");
    assert_eq!(scans_on(65_537, 10_000, u64::MAX), (false, 4), "after too many ends it asks");
}

#[test]
fn new_keys_do_not_stop_a_first_scan() {
    let (now, mut detector) = (Time::from_ms(0), Detector::new(Settings::default()));
    detector.handle(now, UP);
    let Some(Output::Scan(number, 0)) = detector.poll(now) else { panic!("a scan") };
    for i in 0..10_000 {
        detector.handle(now, Input::Renewed(format!("u{i}").as_bytes()));
    }
    detector.handle(now, Input::Page(number, vec![], 7));
    let scanned = std::iter::from_fn(|| detector.poll(now)).any(|output| output == Output::Scan(number, 7));
    assert!(scanned, "its pages cause no questions, so it need not wait");
}
