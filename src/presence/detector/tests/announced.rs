//! Ends that a daemon announces: the last socket of a session has closed, and its page may come back.

use super::script::*;
use super::*;

/// TTLs that differ by more than a late event can explain.
fn long() -> Settings {
    Settings { first_ttl_ms: 6000, ..Settings::default() }
}

/// Live at 0 with a TTL of 6000.
const LIVE: (&str, &str) =
    ("0 up r; 0 page; 0 set a; 0 answered a=6000; 0 calm;", "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a;");

/// The same, where no event reports a renewal: at 1152 an early question finds one.
const POLLED: (&str, &str) = (
    "0 up r polled; 0 page; 0 created a; 0 answered a=6000; 0 calm;",
    "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a;",
);

#[test]
fn announced_end_is_met_to_the_millisecond() {
    let (held, said) = LIVE;
    // The write of the same transaction comes before the message.
    check_with(
        long(),
        &format!("{held} 2000 set a; 2000 ends a 1000; 3000 due; 3001 due; 3001 expired a"),
        &format!("{said} 3001 ask a; 3001 -a Expired at 3000 seen 2000"),
    );
    check_with(
        long(),
        &format!("{held} 2000 set a; 2000 ends a 1000; 3001 due; 3002 answered a=-"),
        &format!("{said} 3001 ask a; 3002 -a Expired at 3000 seen 2000"),
    );
}

#[test]
fn user_who_returns_before_the_announced_end_costs_no_question() {
    let (held, said) = LIVE;
    check_with(
        long(),
        &format!(
            "{held} 2000 set a; 2000 ends a 1000; 2400 set a; 3001 due; 4000 set a; 8000 set a; 14001 due"
        ),
        &format!("{said} 14001 ask a"),
    );
}

#[test]
fn announced_end_teaches_no_ttl() {
    // The question that learns the TTL is under way: its answer is that of the grace.
    check_with(
        long(),
        "0 up r; 0 page; 0 set a; 1 set a; 1 ends a 1000; 1 answered a=999; 2 set a; 2 answered a=5999; 3 set a; \
         3 answered a=6000; 1002 due; 3000 set a; 9001 due",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 2 ask a; 3 ask a; 9001 ask a",
    );
    // The second question was to confirm it. The user counts as steady, so later renewals cost none.
    check_with(
        long(),
        "0 up r; 0 page; 0 set a; 0 answered a=6000; 100 set a; 100 ends a 1000; 101 answered a=999; 200 set a; \
         200 answered a=6000; 300 set a; 400 set a",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 100 ask a; 200 ask a",
    );
}

#[test]
fn announced_end_is_met_where_no_event_reports_renewals() {
    let (held, said) = POLLED;
    // Last seen when the message came, although no event has shown it.
    check_with(
        long(),
        &format!("{held} 2000 ends a 1000; 2944 due; 2944 answered a=56; 3001 due; 3001 expired a"),
        &format!("{said} 2944 ask a; 3001 ask a; 3001 -a Expired at 3000 seen 2000"),
    );
    // An answer from before the message is no longer believed.
    check_with(
        long(),
        &format!(
            "{held} 1000 doubted a; 1000 open; 1001 ends a 1000; 1001 answers a=5000; 1001 close; 1001 next; \
             1002 answered a=999; 1920 due; 1920 answered a=81; 2002 due; 2002 expired a"
        ),
        &format!("{said} 1000 ask a; 1001 ask a; 1920 ask a; 2002 ask a; 2002 -a Expired at 2001 seen 1001"),
    );
}

#[test]
fn user_who_returns_unheard_is_found_by_the_question() {
    let (held, said) = POLLED;
    check_with(
        long(),
        &format!(
            "{held} 2000 ends a 1000; 2944 due; 2944 answered a=5500; 8320 due; 8320 answered a=124; 8445 due; 8446 expired a"
        ),
        &format!("{said} 2944 ask a; 8320 ask a; 8445 ask a; 8446 -a Expired at 8444 seen 2444"),
    );
}

#[test]
fn forged_end_costs_questions_only() {
    let (held, said) = LIVE;
    check_with(long(), "0 up r; 0 page; 0 ends a 10; 11 due", "0 reconciled");
    check_with(long(), &format!("{held} 1001 ends a 4294967295; 6001 due"), &format!("{said} 6001 ask a"));
    check_with(
        long(),
        &format!("{held} 1001 ends a 0; 1002 due; 1002 answered a=4998; 6001 due; 6001 expired a"),
        &format!("{said} 1002 ask a; 6001 ask a; 6001 -a Expired at 6000 seen 0"),
    );
    // Where no event reports renewals, the answer also says when the user was last seen.
    let (held, said) = POLLED;
    check_with(
        long(),
        &format!("{held} 2000 ends a 500; 2501 due; 2501 answered a=3499; 6001 due; 6001 expired a"),
        &format!("{said} 2501 ask a; 6001 ask a; 6001 -a Expired at 6000 seen 0"),
    );
    // It ends no grant, and makes no key without a TTL mortal.
    let (held, said) = LIVE;
    check_with(
        long(),
        &format!("{held} 2000 evicted a; 2001 ends a 10; 2100 due; 8001 due"),
        &format!("{said} 8001 ask a"),
    );
    check_with(
        long(),
        "0 up r; 0 page; 0 set a; 600 answered a=never; 601 ends a 10; 612 due; 613 answered a=never; 700 due",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 612 ask a",
    );
}

#[test]
fn answer_is_older_than_a_write_of_this_daemon() {
    let (held, said) = LIVE;
    // Wherever the fences are, the question may have been carried out before.
    for write in ["2000 open; 2000 wrote a 1000", "2000 wrote a 1000; 2000 open"] {
        check_with(
            long(),
            &format!(
                "{held} 2000 retimed a; {write}; 2001 answers a=5999; 2001 close; 2001 next; 2002 answered a=998; 3001 due"
            ),
            &format!("{said} 2000 ask a; 2001 ask a; 3001 ask a"),
        );
    }
    // The message of another daemon has a place in the stream.
    check_with(
        long(),
        &format!(
            "{held} 2000 retimed a; 2000 open; 2000 written a 1000; 2001 answers a=5999; 2001 close; 2001 next; 2002 answered a=998; \
             3001 due"
        ),
        &format!("{said} 2000 ask a; 2001 ask a; 3001 ask a"),
    );
    // The answer counts for a key that a page named: no event would report the key again.
    for write in ["wrote", "written"] {
        check_with(
            Settings { trusted_uptime_ms: u64::MAX, ..long() },
            &format!("0 up r polled; 0 page a; 1 open; 1 {write} a 1000; 1 answers a=5999; 1 close"),
            "0 ask a; 1 +a Reconciled seen 1; 1 reconciled",
        );
    }
}
