//! Servers whose `set` events the daemon does not receive: renewals are found by questions.

use super::script::*;
use super::*;

const LONG: u64 = 30_000;

fn long() -> Settings {
    Settings { first_ttl_ms: LONG, trusted_uptime_ms: u64::MAX, ..Settings::default() }
}

#[test]
fn renewal_is_found_shortly_before_the_deadline() {
    check_with(
        long(),
        "0 up r polled; 0 page; 0 created a; 1 answered a=9999; 9983 due; 9984 due; 9985 answered a=6000; \
         15872 due; 15873 answered a=113; 15985 due; 15986 due; 15987 answered a=-",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 9984 ask a; 15872 ask a; 15986 ask a; \
         15987 -a Expired at 15985 seen 5985",
    );
}

#[test]
fn near_deadlines_share_a_question() {
    check_with(
        long(),
        "0 up r polled; 0 page; 0 created a; 1 answered a=9999; 40 created b; 41 answered b=9999; 9984 due; \
         9985 answered a=9000 b=9000",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 40 +b Heartbeat seen 40; 40 ask b; 9984 ask a b",
    );
}

#[test]
fn ttl_of_a_created_key_is_learnt() {
    // The user returns with a shorter TTL while an eviction still holds the key.
    check_with(
        long(),
        "0 up r polled; 0 page; 0 created a; 1 answered a=9999; 5000 evicted a; 6000 created a; 6001 answered a=1999; \
         8001 due; 8002 expired a",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 6000 ask a; 8001 ask a; 8002 -a Expired at 8000 seen 6000",
    );
}

#[test]
fn evicted_key_may_have_been_renewed_unheard() {
    // The `new` of a live key is no sign that its renewals are heard.
    check(
        "0 up r polled; 0 page; 0 created a; 0 answered a=30; 10 created a; 10 answered a=30; 20 evicted a; 41 due; \
         51 due; 51 answered a=-",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 10 ask a; 51 ask a; 51 -a Expired at 50 seen 10",
    );
}

#[test]
fn ttl_that_a_daemon_writes_moves_the_question() {
    check_with(
        long(),
        "0 up r polled; 0 page; 0 created a; 1 answered a=9999; 500 written a 1000; 1408 due; 1408 answered a=92; \
         1501 due; 1502 expired a",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 1408 ask a; 1501 ask a; 1502 -a Expired at 1500 seen 500",
    );
}

#[test]
fn user_who_is_back_after_a_flush_can_leave() {
    // The daemon noticed the flush 300 ms after the user had returned, and the first answer came 100 ms after the heartbeat.
    let held =
        "0 up r polled; 0 page a; 0 answered a=29900; 1000 replaced; 1000 page a; 1001 answered a=29700;";
    let said = "0 ask a; 0 +a Reconciled seen 0; 0 reconciled; 1000 ask a; 1001 reconciled;";
    check_with(
        long(),
        &format!("{held} 2000 sweep; 2000 page; 2001 answered a=-"),
        &format!("{said} 2000 ask a; 2001 -a Deleted at 2001 seen 700; 2001 swept"),
    );
    // A copy that SWAPDB brought: the user has yet to come back.
    check_with(
        long(),
        &format!("{} 2000 sweep; 2000 page; 2001 answered a=-", held.replace("29700", "900")),
        &format!("{said} 2000 ask a; 2001 swept"),
    );
    // Users could not renew their keys since.
    let barred = held.replace("1001 answered a=29700", "1200 refused 1100; 1201 answered a=29500");
    check_with(
        long(),
        &format!("{barred} 2000 sweep; 2000 page; 2001 answered a=-"),
        &format!("{} 2000 ask a; 2001 swept", said.replace("1001", "1201")),
    );
}
