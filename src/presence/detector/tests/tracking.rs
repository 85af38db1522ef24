//! Servers that push the names of changed keys and publish no events.

use super::script::*;

/// Pushed and asked at 0, with a TTL of 10 s.
const TRACKED: &str = "0 tracks; 0 up r; 0 page; 0 pushed a; 1 answered a=9999;";
const CAME: &str = "0 reconciled; 0 ask a; 1 +a Heartbeat seen 0;";

#[test]
fn pushed_key_comes_by_its_answer() {
    check(
        &format!("{TRACKED} 10000 due; 10001 answered a=-"),
        &format!("{CAME} 10000 ask a; 10001 -a Expired at 9999 seen 0"),
    );
    // The name of a key that is not there, or of another database.
    check(
        "0 tracks; 0 up r; 0 page; 0 pushed a; 1 answered a=-; 2 pushed a",
        "0 reconciled; 0 ask a; 2 ask a",
    );
}

#[test]
fn push_without_tracking_is_ignored() {
    check("0 up r; 0 page; 0 pushed a", "0 reconciled");
}

#[test]
fn each_renewal_moves_the_deadline() {
    check(
        &format!("{TRACKED} 4000 pushed a; 4001 answered a=9999; 10001 due; 14000 due; 14002 answered a=-"),
        &format!("{CAME} 4000 ask a; 14000 ask a; 14002 -a Expired at 13999 seen 3999"),
    );
    // A shorter TTL, then another command that changes no TTL.
    check(
        &format!(
            "{TRACKED} 4000 pushed a; 4001 answered a=999; 4500 pushed a; 4501 answered a=499; 5001 due; 5002 answered a=-"
        ),
        &format!("{CAME} 4000 ask a; 4500 ask a; 5001 ask a; 5002 -a Expired at 4999 seen 3999"),
    );
}

#[test]
fn pushed_end_before_the_deadline_is_a_deletion() {
    check(
        &format!("{TRACKED} 4000 pushed a; 4001 answered a=-"),
        &format!("{CAME} 4000 ask a; 4001 -a Deleted at 4001 seen 0"),
    );
}

#[test]
fn absence_needs_the_proof_of_a_canary() {
    let asked = "1 byhand; 4000 pushed a; 4001 answered a=-;";
    check(
        &format!("{TRACKED} {asked} 4003 proven 4002"),
        &format!("{CAME} 4000 ask a; 4001 prove; 4003 -a Deleted at 4003 seen 0"),
    );
    // The canary finds that the keyspace was replaced: a grant, which no absent answer ends.
    check(
        &format!(
            "{TRACKED} {asked} 4003 replaced; 4003 page; 4004 answered a=-; 4005 pushed a; 4006 answered a=-"
        ),
        &format!("{CAME} 4000 ask a; 4001 prove; 4003 ask a; 4004 reconciled; 4005 ask a"),
    );
}

#[test]
fn starts_come_before_ends_of_one_chunk() {
    // The session b was set before a was deleted. The canary that proves the end, and the fence of b, come in one chunk.
    check(
        "0 tracks; 0 up r; 0 page; 0 pushed u#a; 1 answered u#a=9999; 1 byhand; 4000 pushed u#a; 4000 pushed u#b; \
         4001 open; 4001 answers u#a=-; 4001 close; 4001 next; 4001 open; 4001 answers u#b=9999; \
         4003 chunk; 4003 proven 4002; 4003 close",
        "0 reconciled; 0 ask u#a; 1 +u#a Heartbeat seen 0; 4000 ask u#a; 4000 ask u#b; 4001 prove; \
         4003 +u#b Heartbeat seen 3999; 4003 -u#a Deleted at 4003 seen 0",
    );
}

#[test]
fn renewal_after_a_flush_ends_the_grant() {
    check(
        &format!(
            "{TRACKED} 4000 replaced; 4000 page; 4001 answered a=-; 5000 pushed a; 5001 answered a=9999; 6000 pushed a; 6001 answered a=-"
        ),
        &format!(
            "{CAME} 4000 ask a; 4001 reconciled; 5000 ask a; 6000 ask a; 6001 -a Deleted at 6001 seen 4999"
        ),
    );
}

#[test]
fn push_after_its_question_is_asked_again() {
    // Before the fence is seen, between the fences, and while a canary is awaited: the answer holds, and the next one tells the
    // rest.
    check(
        "0 tracks; 0 up r; 0 page; 0 pushed a; 1 pushed a; 1 open; 1 answers a=9999; 1 close; 1 next; 2 answered a=-",
        "0 reconciled; 0 ask a; 1 +a Heartbeat seen 0; 1 ask a; 2 -a Deleted at 2 seen 0",
    );
    check(
        &format!(
            "{TRACKED} 1 byhand; 4000 pushed a; 4001 open; 4001 pushed a; 4001 answers a=-; 4001 close; 4001 next; \
             4003 proven 4002; 4004 answered a=9999"
        ),
        &format!(
            "{CAME} 4000 ask a; 4001 prove; 4003 -a Deleted at 4003 seen 0; 4003 ask a; 4004 +a Heartbeat seen 4002"
        ),
    );
}

#[test]
fn page_that_is_older_than_a_push_is_asked_for() {
    check(
        "0 tracks; 0 met r; 0 pushed a; 0 page a b; 1 answered a=-; 2 answered b=9",
        "0 ask a; 0 +b Reconciled seen 0; 0 ask b; 2 reconciled",
    );
}

#[test]
fn key_without_ttl_is_asked_when_it_changes() {
    check(
        "0 tracks; 0 up r; 0 page; 0 pushed a; 1 answered a=never; 400 pushed a; 401 answered a=99; 501 due; 502 answered a=-",
        "0 reconciled; 0 ask a; 1 +a Heartbeat seen 1; 400 ask a; 501 ask a; 502 -a Expired at 499 seen 399",
    );
}
