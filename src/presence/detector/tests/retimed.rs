//! Servers whose `expire` and `persist` events the daemon receives.

use super::script::*;

#[test]
fn expire_after_its_set_is_part_of_the_renewal() {
    let (held, said) = HELD;
    check(
        &format!("{held} 10 set a; 10 retimed a; 20 set a; 21 retimed a; 51 due; 52 expired a"),
        &format!("{said} 51 ask a; 52 -a Expired at 50 seen 20"),
    );
}

#[test]
fn lone_expire_is_asked_at_once() {
    let (held, said) = HELD;
    check(
        &format!("{held} 10 retimed a; 10 answered a=5; 16 due; 17 expired a"),
        &format!("{said} 10 ask a; 16 ask a; 17 -a Expired at 15 seen 10"),
    );
    // A second one after a `set`, one after the `set` of another key, and one that comes much later.
    for events in ["10 set a; 10 retimed a; 10 retimed a", "9 set a; 9 placed b; 10 retimed a"] {
        let (b, placed) =
            if events.contains('b') { (" b=30", " 9 +b Heartbeat seen 9; 9 ask b;") } else { ("", "") };
        let first = if b.is_empty() { "" } else { "9 answered b=30;" };
        let events = events.replace("9 placed b;", &format!("9 placed b; {first}"));
        check(
            &format!("{held} {events}; 10 answered a=5; 16 due; 17 expired a"),
            &format!("{said}{placed} 10 ask a; 16 ask a; 17 -a Expired at 15 seen 10"),
        );
    }
    check(
        &format!("{held} 1 set a; 20 placed b; 20 answered b=99; 21 set a; 21 retimed b; 21 answered b=5"),
        &format!("{said} 20 +b Heartbeat seen 20; 20 ask b; 21 ask b"),
    );
}

#[test]
fn next_event_much_later_is_not_part_of_the_set() {
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=500; 0 calm; 10 set a; 61 retimed a; 62 answered a=5; 67 due; 68 due; 69 expired a",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 61 ask a; 67 ask a; 69 -a Expired at 66 seen 61",
    );
}

#[test]
fn persist_and_expire_are_noticed() {
    let (held, said) = HELD;
    check(
        &format!(
            "{held} 10 retimed a; 10 answered a=never; 500 retimed a; 501 answered a=20; 522 due; 523 expired a"
        ),
        &format!("{said} 10 ask a; 500 ask a; 522 ask a; 523 -a Expired at 520 seen 500"),
    );
}

#[test]
fn expire_of_an_unknown_key_brings_its_user_online() {
    check(
        "0 up r; 0 page; 5 retimed a; 6 answered a=20; 20 retimed a; 21 answered a=30; 52 due; 53 expired a",
        "0 reconciled; 5 +a Heartbeat seen 5; 5 ask a; 20 ask a; 52 ask a; 53 -a Expired at 50 seen 20",
    );
}

#[test]
fn expire_ends_a_grant() {
    let (held, said) = HELD;
    check(
        &format!("{held} 10 evicted a; 20 retimed a; 20 answered a=5; 26 due; 27 expired a"),
        &format!("{said} 20 ask a; 26 ask a; 27 -a Expired at 25 seen 20"),
    );
}
