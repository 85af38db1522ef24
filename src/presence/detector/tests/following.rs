//! A detector that follows the holder of a lease, and one that takes over.

use super::script::{check, outputs};
use super::*;

#[test]
fn follower_asks_for_nothing_that_the_holder_asks_for() {
    check(
        "0 up r follows; 1 page; 10 created alice; 500 due; 5000 due; 9000 expired alice",
        "1 reconciled; 10 +alice Heartbeat seen 10; 9000 -alice Expired at 9000 seen 8970",
    );
}

#[test]
fn pass_of_a_follower_keeps_no_deadlines() {
    check(
        "0 up r follows; 1 page alice; 2 answered alice=20; 500 due; 5000 due; 6000 del alice",
        "1 ask alice; 2 +alice Reconciled seen 2; 2 reconciled; 6000 -alice Deleted at 6000 seen 6000",
    );
}

#[test]
fn follower_asks_at_the_end_of_a_grant() {
    check(
        "0 up r follows; 1 page; 10 created alice; 500 evicted alice; 530 due; 531 due; 532 answered alice=-",
        "1 reconciled; 10 +alice Heartbeat seen 10; 531 ask alice; 532 -alice Expired at 530 seen 500",
    );
}

#[test]
fn follower_asks_for_a_key_that_the_holder_found_absent() {
    check(
        "0 up r follows; 1 page; 10 created alice; 50 suspected alice; 51 answered alice=9; 60 suspected alice; \
         61 answered alice=-; 70 suspected bob",
        "1 reconciled; 10 +alice Heartbeat seen 10; 50 ask alice; 60 ask alice; 61 -alice Expired at 61 seen 31",
    );
}

#[test]
fn holder_reports_ends_that_no_event_reported() {
    check(
        "0 up r holds; 1 page; 10 set alice; 10 answered alice=30; 41 due; 42 answered alice=-",
        "1 reconciled; 10 +alice Heartbeat seen 10; 10 ask alice; 41 ask alice; 42 unannounced alice; \
         42 -alice Expired at 40 seen 10",
    );
}

#[test]
fn holder_reports_ttls_that_others_cannot_guess() {
    check(
        "0 up r holds; 1 page; 10 set alice; 10 answered alice=30; 12 set bob; 12 answered bob=60",
        "1 reconciled; 10 +alice Heartbeat seen 10; 10 ask alice; 12 +bob Heartbeat seen 12; 12 ask bob; 12 learnt bob 60",
    );
    check(
        "0 up r follows; 1 page; 12 created bob; 14 written bob 60; 900 expired bob",
        "1 reconciled; 12 +bob Heartbeat seen 12; 900 -bob Expired at 900 seen 840",
    );
}

#[test]
fn takeover_asks_for_every_key_without_a_gap() {
    check(
        "0 up r follows; 1 page; 10 created alice; 11 created bob; 500 leads; 501 answered alice=20 bob=-; 521 due; \
         522 due; 523 answered alice=-",
        "1 reconciled; 10 +alice Heartbeat seen 10; 11 +bob Heartbeat seen 11; 500 ask alice bob; 501 unannounced bob; \
         501 -bob Expired at 501 seen 471; 521 ask alice; 523 unannounced alice; 523 -alice Expired at 520 seen 490",
    );
}

#[test]
fn detector_that_gives_the_lease_up_keeps_no_deadlines() {
    check(
        "0 up r holds; 1 page; 10 set alice; 10 answered alice=30; 20 follows; 41 due; 900 due; 950 expired alice",
        "1 reconciled; 10 +alice Heartbeat seen 10; 10 ask alice; 950 -alice Expired at 950 seen 920",
    );
}

#[test]
fn outage_grants_a_ttl_though_renewals_were_not_heard() {
    // alice was seen last at 10, and renewed until 990.
    check(
        "0 up r follows; 1 page; 10 created alice; 990 down; 1000 up other holds; 1000 page; 1001 answered alice=-; \
         1030 due; 1031 due; 1032 answered alice=-",
        "1 reconciled; 10 +alice Heartbeat seen 10; 1000 ask alice; 1001 reconciled; 1031 ask alice; \
         1032 -alice Expired at 1030 seen 1000",
    );
}

#[test]
fn evicted_key_may_have_been_renewed_since_the_lease_was_given_up() {
    check(
        "0 up r holds; 1 page; 10 set alice; 10 answered alice=30; 20 set alice; 20 answered alice=30; 30 set alice; \
         31 follows; 55 evicted alice; 61 due; 62 created alice",
        "1 reconciled; 10 +alice Heartbeat seen 10; 10 ask alice; 20 ask alice",
    );
}

#[test]
fn key_without_announced_ttl_has_the_common_one() {
    check(
        "0 up r follows; 1 page; 10 created alice; 12 common 900; 14 created bob; 15 common 99; 1000 expired alice; 1000 expired bob",
        "1 reconciled; 10 +alice Heartbeat seen 10; 14 +bob Heartbeat seen 14; 1000 -alice Expired at 1000 seen 970; \
         1000 -bob Expired at 1000 seen 100",
    );
}

#[test]
fn holder_announces_the_common_ttl_instead_of_each() {
    let user = |i: u32| format!("{t} set u{i}; {t} answered u{i}=60; ", t = 10 + i);
    let script: String = (0..70).map(user).collect();
    let settings = Settings { first_ttl_ms: 30, trusted_uptime_ms: u64::MAX, ..Settings::default() };
    let mut said = outputs(settings, &format!("0 up r holds; 1 page; {script}"));
    said.retain(|line| line.contains("learnt") || line.contains("common"));
    assert_eq!(said.len(), 64, "{said:?}");
    assert_eq!(said[63], "73 common 60");
}

#[test]
fn pass_of_a_follower_asks_about_differences_only() {
    let follows = "0 up r follows; 1 page a b; 2 answered a=30 b=30; 3 created c; 10 gap; 11 next; 11 next";
    let said =
        "1 ask a b; 2 +a Reconciled seen 2; 2 +b Reconciled seen 2; 2 reconciled; 3 +c Heartbeat seen 3";
    // One question closes the pass where nothing differs.
    check(&format!("{follows}; 12 page a b c; 13 answered c=9"), &format!("{said}; 12 ask c; 13 reconciled"));
    check(
        &format!("{follows}; 12 page a c d; 13 answered d=9 b=-"),
        &format!(
            "{said}; 12 ask d b; 13 +d Reconciled seen 13; 13 -b Reconciled at 13 seen 1; 13 reconciled"
        ),
    );
    // A page may be older than an end.
    check(
        &format!("{follows}; 11 expired b; 12 page a b c; 13 answered b=-"),
        &format!("{said}; 11 -b Expired at 11 seen 1; 12 ask b; 13 reconciled"),
    );
}

#[test]
fn follower_notices_a_granted_key_that_is_back() {
    check(
        "0 up r follows; 1 page; 10 created a; 12 replaced; 13 page a; 14 answered a=30; 20 expired a; 43 due; 44 answered a=-",
        "1 reconciled; 10 +a Heartbeat seen 10; 13 ask a; 14 reconciled; 20 -a Expired at 20 seen 13",
    );
}

#[test]
fn page_does_not_hide_the_end_of_a_granted_key() {
    // The page may be older than the end, so a is asked for.
    check(
        "0 up r follows; 1 page a b; 2 answered a=30 b=30; 5 up s follows; 6 expired a; 7 page a b; 8 answered a=-",
        "1 ask a b; 2 +a Reconciled seen 2; 2 +b Reconciled seen 2; 2 reconciled; 7 ask a; 8 reconciled",
    );
}

#[test]
fn granted_key_that_a_page_names_is_asked_for_at_the_end() {
    check(
        "0 up r follows; 1 page a b; 2 answered a=30 b=30; 5 up s follows; 7 page a b; 8 answered b=9; 100 due",
        "1 ask a b; 2 +a Reconciled seen 2; 2 +b Reconciled seen 2; 2 reconciled; 7 ask b; 8 reconciled; 100 ask a b",
    );
}
