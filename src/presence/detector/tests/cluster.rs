//! Keys that move between servers.

use super::script::*;
use super::*;

#[test]
fn doubted_deletion_is_asked_for() {
    let (held, said) = HELD;
    check(
        &format!("{held} 10 doubted a; 11 answered a=-"),
        &format!("{said} 10 ask a; 11 -a Deleted at 11 seen 0"),
    );
    // It is there: what the event deleted is older than what is.
    check(
        &format!("{held} 10 doubted a; 11 answered a=19; 31 due; 32 answered a=-"),
        &format!("{said} 10 ask a; 31 ask a; 32 -a Expired at 30 seen 0"),
    );
    // A `set` after it proves it; another server's key that is placed here does not.
    check(
        &format!("{held} 10 doubted a; 10 open; 10 answers a=-; 10 set a; 11 close; 11 due"),
        &format!("{said} 10 ask a; 10 -a Deleted at 10 seen 0; 10 +a Heartbeat seen 10; 11 ask a"),
    );
    check(
        &format!("{held} 10 doubted a; 10 open; 10 answers a=-; 10 placed a; 11 close; 11 due"),
        &format!("{said} 10 ask a; 11 ask a"),
    );
}

#[test]
fn new_key_after_a_deletion_is_not_taken_for_a_move() {
    let (held, said) = HELD;
    // The `set` or `restore` of the same command says which of the two it was.
    check(
        &format!("{held} 10 doubted a; 10 open; 10 answers a=-; 10 created a; 10 set a; 11 close; 11 due"),
        &format!("{said} 10 ask a; 10 -a Deleted at 10 seen 0; 10 +a Heartbeat seen 10; 11 ask a"),
    );
    check(
        &format!("{held} 10 doubted a; 10 open; 10 answers a=-; 10 created a; 10 placed a; 11 close; 11 due"),
        &format!("{said} 10 ask a; 11 ask a"),
    );
    // Another command created it, which no further event reports.
    check(
        &format!(
            "{held} 10 doubted a; 10 open; 10 answers a=-; 10 created a; 11 close; 11 next; 12 answered a=25"
        ),
        &format!("{said} 10 ask a; 11 ask a"),
    );
    // Without `set` events the next event says that nothing was restored; a fence always follows.
    let held = "0 up r polled; 0 page; 0 created a; 0 answered a=30;";
    let said = "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a;";
    check(
        &format!("{held} 10 doubted a; 10 created a; 11 open"),
        &format!("{said} 10 ask a; 11 -a Deleted at 10 seen 0; 11 +a Heartbeat seen 10"),
    );
    check(&format!("{held} 10 doubted a; 10 created a; 10 placed a; 11 open"), &format!("{said} 10 ask a"));
    check(
        &format!("{held} 10 doubted a; 10 created a; 11 gap; 11 page a; 12 next; 12 answered a=25"),
        &format!("{said} 10 ask a; 11 ask a; 12 reconciled"),
    );
}

#[test]
fn moved_key_stays_until_adopted() {
    let (held, said) = HELD;
    let moved = format!("{held} 10 doubted a; 11 answered a=moved;");
    let handed = format!("{said} 10 ask a; 11 moved a 0 30;");
    check(&format!("{moved} 11 letgo a; 600 due"), &format!("{handed} 11 -a Reconciled at 11 seen 0"));
    // Nobody could adopt it: said again, and nobody goes offline meanwhile.
    check(
        &format!("{moved} 511 due; 512 answered a=moved; 512 letgo a"),
        &format!("{handed} 511 ask a; 512 moved a 0 30; 512 -a Reconciled at 30 seen 0"),
    );
    // It came back before it was let go.
    check(&format!("{moved} 12 set a; 12 letgo a; 41 due"), &handed);
}

#[test]
fn importing_server_knows_arrived_keys() {
    let (held, said) = HELD;
    check(
        "0 up r; 0 page; 20 adopted a 5 35; 21 answered a=notyet",
        "0 reconciled; 20 +a Reconciled seen 5; 20 ask a; 21 -a Reconciled at 21 seen 5",
    );
    // The slot comes from a third server by now, which may have it still.
    check(
        "0 up r; 0 page; 20 adopted a 5 35; 21 answered a=other; 521 due; 522 answered a=other",
        "0 reconciled; 20 +a Reconciled seen 5; 20 ask a; 521 ask a; 522 moved a 5 35 notyet",
    );
    // It went with its slot, which is on its way back by now: the other server has it still.
    check(
        &format!("{held} 10 doubted a; 11 answered a=notyet; 11 letgo a"),
        &format!("{said} 10 ask a; 11 moved a 0 30 notyet; 11 -a Reconciled at 11 seen 0"),
    );
    // It is not there either: back it goes, for this time at once.
    check(
        "0 up r; 0 page; 20 adopted a 5 35 notyet; 21 answered a=moved; 521 due; 522 answered a=moved",
        "0 reconciled; 20 +a Reconciled seen 5; 20 ask a; 21 moved a 5 35; 521 ask a; 522 moved a 5 35",
    );
    // It had gone to another server, and comes back perhaps.
    check(
        &format!("{held} 10 doubted a; 11 answered a=moved; 511 due; 512 answered a=notyet"),
        &format!("{said} 10 ask a; 11 moved a 0 30; 511 ask a; 512 moved a 0 30 notyet"),
    );
}

#[test]
fn adopted_key_lives_until_an_answer() {
    let up = "0 up r; 0 page; 20 adopted a 5 35;";
    let said = "0 reconciled; 20 +a Reconciled seen 5; 20 ask a;";
    check(
        &format!("{up} 21 answered a=15; 36 due; 36 answered a=-"),
        &format!("{said} 36 ask a; 36 -a Expired at 35 seen 5"),
    );
    check(&format!("{up} 21 answered a=-"), &format!("{said} 21 -a Reconciled at 21 seen 5"));
    check(&format!("{up} 36 answered a=-"), &format!("{said} 36 -a Expired at 35 seen 5"));
    // The stream lags: this end is older than the move, and so is the answer before the fence.
    check(&format!("{up} 21 expired a; 22 answered a=14"), said);
    check(
        &format!("{up} 21 open; 21 answers a=-; 21 del a; 21 close; 21 next; 22 answered a=14"),
        &format!("{said} 21 ask a"),
    );
    // An old `del`, and then the server comes back without its keys.
    check(
        &format!(
            "{up} 21 doubted a; 22 down; 22 next; 30 up s; 30 page; 31 answered a=-; 61 due; 62 answered a=-"
        ),
        &format!("{said} 30 ask a; 31 reconciled; 61 ask a; 62 -a Expired at 60 seen 5"),
    );
    // What proves nothing there proves nothing here.
    check(
        &format!("{up} 21 answered a=-; 36 due; 36 answered a=-").replace("35", "35 granted"),
        &format!("{said} 36 ask a; 36 -a Expired at 35 seen 5"),
    );
}

#[test]
fn question_before_adoption_proves_nothing() {
    check(
        "0 up r; 0 page a; 1 adopted a 0 30; 2 answered a=-; 3 answered a=27",
        "0 ask a; 1 +a Reconciled seen 0; 2 ask a; 2 reconciled",
    );
}

#[test]
fn disowned_key_is_passed_on_slowly() {
    check(
        "0 up r; 0 page; 20 adopted a 5 35; 21 answered a=moved; 520 due; 521 due; 523 answered a=moved",
        "0 reconciled; 20 +a Reconciled seen 5; 20 ask a; 521 ask a; 523 moved a 5 35",
    );
}

#[test]
fn key_adopted_while_down_gets_a_grant() {
    check(
        "0 adopted a 0 30; 100 due; 200 up r; 200 page; 201 answered a=-; 231 due; 232 answered a=-",
        "0 +a Reconciled seen 0; 200 ask a; 201 reconciled; 231 ask a; 232 -a Expired at 230 seen 0",
    );
}

#[test]
fn retired_server_hands_over_all_keys() {
    let (held, said) = HELD;
    check(
        &format!("{held} 10 retired; 10 letgo a"),
        &format!("{said} 10 moved a 0 30; 10 -a Reconciled at 10 seen 0"),
    );
    // It may have lost them, and nobody could renew: one TTL.
    check(
        &format!("{held} 10 down; 20 retired; 20 letgo a"),
        &format!("{said} 20 moved a 0 50 granted; 20 -a Reconciled at 20 seen 0"),
    );
}

#[test]
fn doubt_is_asked_before_ttls() {
    let settings = Settings { first_ttl_ms: 30, batch_keys: 1, learn_batches: 1, ..Settings::default() };
    check_with(
        settings,
        "0 up r; 0 page; 0 set a; 0 answered a=30; 5 set b; 6 doubted a",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 5 +b Heartbeat seen 5; 5 ask b; 6 ask a",
    );
}

#[test]
fn expired_adopted_key_does_not_end_as_deleted() {
    check(
        "0 up r; 0 page; 20 adopted a 5 35; 21 doubted a; 21 expired a; 22 answered a=-",
        "0 reconciled; 20 +a Reconciled seen 5; 20 ask a; 22 -a Reconciled at 22 seen 5",
    );
}

#[test]
fn overtaken_answer_still_confirms_an_adopted_key() {
    check(
        "0 up r; 0 page; 20 adopted a 5 35; 21 open; 21 set a; 21 answers a=14; 21 close; 21 next; 23 expired a",
        "0 reconciled; 20 +a Reconciled seen 5; 20 ask a; 21 ask a; 23 -a Expired at 23 seen 21",
    );
}

#[test]
fn grant_of_the_other_server_counts_for_a_live_key() {
    // The key moved away, was renewed and evicted there, and comes back: its absence here proves nothing.
    check(
        "0 up r; 0 page; 1 set a; 2 answered a=29; 20 doubted a; 21 adopted a 10 40 granted; 22 answered a=-; \
         23 answered a=-; 41 due; 42 answered a=-",
        "0 reconciled; 1 +a Heartbeat seen 1; 1 ask a; 20 ask a; 22 ask a; 41 ask a; 42 -a Expired at 40 seen 10",
    );
    // A heartbeat that was heard here later decides.
    check(
        "0 up r; 0 page; 1 set a; 2 answered a=29; 2 calm; 20 set a; 21 adopted a 10 40 granted; 22 answered a=-",
        "0 reconciled; 1 +a Heartbeat seen 1; 1 ask a; 21 ask a; 22 -a Reconciled at 22 seen 20",
    );
}

/// A server without keys.
const EMPTY: &str = "0 up r; 0 page;";

fn check_claims(script: &str, expected: &str) {
    check(&format!("{EMPTY} {script}"), &format!("0 reconciled; {expected}"));
}

#[test]
fn claim_is_a_question() {
    check_claims("1 claimed a; 2 answered a=-", "1 ask a");
    check_claims("1 claimed a; 2 answered a=moved", "1 ask a");
    check_claims("1 claimed a; 2 answered a=20", "1 ask a; 2 +a Reconciled seen 2");
    check_claims("1 claimed a; 2 gap; 2 page; 3 next; 3 due", "1 ask a; 2 reconciled");
}

#[test]
fn claim_between_the_fences_is_asked_again() {
    check_claims(
        "1 claimed a; 1 open; 2 claimed a; 2 answers a=-; 2 close; 2 next; 3 answered a=20",
        "1 ask a; 2 ask a; 3 +a Reconciled seen 3",
    );
    // The key was there, and nothing has ended it since.
    check_claims(
        "1 claimed a; 1 open; 2 claimed a; 2 answers a=20; 2 close",
        "1 ask a; 2 +a Reconciled seen 2",
    );
    check_claims("1 claimed a; 1 open; 2 claimed a; 2 expired a; 2 answers a=20; 2 close", "1 ask a");
    check_claims("1 claimed a; 1 open; 2 claimed a; 2 doubted a; 2 answers a=20; 2 close", "1 ask a");
    // A heartbeat needs no answer.
    check_claims(
        "1 claimed a; 1 open; 2 set a; 2 answers a=-; 2 close",
        "1 ask a; 2 +a Reconciled seen 2; 2 ask a",
    );
}

#[test]
fn slot_that_came_back_proves_no_deletion() {
    let (held, said) = HELD;
    check(
        &format!("{held} 10 doubted a; 10 open; 11 claimed a; 12 set a; 12 answers a=29; 12 close"),
        &format!("{said} 10 ask a"),
    );
    check(
        &format!(
            "{held} 10 doubted a; 10 open; 12 set a; 12 answers a=29; 12 close; 12 next; 13 answered a=29"
        ),
        &format!("{said} 10 ask a; 12 -a Deleted at 12 seen 0; 12 +a Heartbeat seen 12; 12 ask a"),
    );
}

#[test]
fn claim_is_settled_by_any_evidence() {
    let at = Time::from_ms;
    let mut detector = Detector::new(Settings::default());
    detector.handle(at(0), UP);
    detector.handle(at(1), Input::Claimed(b"a"));
    assert_eq!(detector.oldest_claim(), Some(at(1)));
    // Its question is still under way.
    detector.handle(at(2), Input::Renewed(b"a"));
    assert_eq!(detector.oldest_claim(), None);
}

#[test]
fn claimed_key_that_a_sweep_finds_may_be_older() {
    check(
        "0 up r; 1 page; 10 sweep; 11 claimed alice; 12 answered alice=20",
        "1 reconciled; 11 ask alice; 12 +alice Reconciled seen 12",
    );
}

#[test]
fn grant_outlives_a_restore() {
    // The key runs out where it arrived, before its user could renew it.
    check(
        "0 up r; 1 page; 10 set alice; 10 answered alice=30; 12 refused 11; 13 placed alice; 14 answered alice=5; 19 expired alice; \
         43 due; 44 due; 45 answered alice=-",
        "1 reconciled; 10 +alice Heartbeat seen 10; 10 ask alice; 13 ask alice; 44 ask alice; 45 -alice Expired at 43 seen 13",
    );
}
