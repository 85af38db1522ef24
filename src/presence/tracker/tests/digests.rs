//! Digests: a daemon's mistake is found and ends.

use super::script::{Run, check};
use crate::Time;

/// A daemon that follows and believes that alice and bob are live.
const FOLLOWS: &str = "0 fleet S; 1 up S r follows; 2 page S; 3 beat S b; 4 due; 5 canary S; 10 created S alice; \
                       11 created S bob";

/// What differs only once may be a key that one of the daemons has yet to ask for.
#[test]
fn mistake_is_polled_after_its_second_difference() {
    // The deletion of bob, and the start of carol, were lost.
    check(
        "digest digested scan ask went came",
        &format!(
            "{FOLLOWS}; 20 marked S 7; 21 digest S 7 alice carol; 30 marked S 8; 31 digest S 8 alice carol; \
             32 page S alice carol; 33 answered S carol=900 bob=-; 34 due; 36 due; 40 canary S"
        ),
        "1 scan S; 10 came alice S Heartbeat start; 11 came bob S Heartbeat start; 21 digested differs; \
         21 digest S Differs { again: false }; 31 digested differs; 31 digest S Differs { again: true }; \
         31 digested polled; 31 scan S; 32 ask S carol bob; 40 came carol S Heartbeat start; \
         40 went bob S Deleted start",
    );
}

#[test]
fn passing_difference_costs_no_poll() {
    check(
        "digested scan",
        &format!(
            "{FOLLOWS}; 20 marked S 7; 21 digest S 7 alice; 30 marked S 8; 31 digest S 8 alice bob; \
             40 marked S 9; 41 digest S 9 bob; 50 digest S 9 alice"
        ),
        "1 scan S; 21 digested differs; 31 digested equal; 41 digested differs",
    );
}

#[test]
fn difference_that_polls_do_not_end_costs_ever_less() {
    let mut run = Run::new();
    let mut polls = Vec::new();
    let step = |run: &mut Run, ms: u64, text: &str| {
        let words: Vec<&str> = text.split(' ').collect();
        run.step(Time::from_ms(ms), words[0], &words[1..]);
    };
    for (ms, text) in
        [(0, "fleet S"), (1, "up S r follows"), (2, "page S"), (3, "beat S b"), (4, "due"), (5, "canary S")]
    {
        step(&mut run, ms, text);
    }
    for second in 1..400 {
        let now = 1_000 * second;
        run.said.clear();
        for text in ["due", "canary S", "beat S b", "marked S 1", "digest S 1 dave"] {
            step(&mut run, now, text);
        }
        if run.said.iter().any(|line| line.contains("scan")) {
            polls.push(second);
            step(&mut run, now, "page S");
        }
    }
    assert_eq!(polls, [2, 12, 32, 72, 152, 312]);
}

#[test]
fn holder_publishes_its_digest_and_polls_when_a_follower_asks() {
    check(
        "common digest digested scan",
        "0 fleet S; 1 up S r holds; 2 page S; 3 due; 4 canary S; 5 due; 6 marked S 3; 7 differs S; 100 due; 2007 due; \
         2008 marked S 2007; 2009 differs S again; 2010 page S; 2011 differs S again",
        "1 scan S; 3 common S 30000; 3 digest S Mark(3); 6 digest S 3; 2007 common S 30000; 2007 digest S Mark(2007); \
         2008 digest S 2007; 2009 digested polled; 2009 scan S",
    );
}

#[test]
fn daemon_that_compares_notes_no_digest() {
    check("digested", "0 fleet S; 1 up S r follows; 2 marked S 1; 3 page S; 4 digest S 1 alice", "");
}
