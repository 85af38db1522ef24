//! Servers that push names: one daemon tracks the keys and announces changes, the others follow.

use super::script::*;

const SHOWN: &str = "came went came-news deleted-news ends tracks scan ask";

#[test]
fn holder_announces_each_change() {
    check(
        SHOWN,
        "0 fleet S; 0 up S r tracked holds; 0 page S a; 1 answered S a=1999; 2 canary S; 10 pushed S b; 11 answered S b=9999; \
         20 pushed S b; 21 answered S b=-; 22 due; 23 due; 24 canary S; 1100 due; 1101 canary S; \
         2001 due; 2002 answered S a=-; 2004 due; 2005 canary S",
        "0 scan S; 0 ask S a; 1 came a S Reconciled start; 1 tracks S 1; 10 ask S b; 11 came b S Heartbeat start; \
         11 came-news S [b]; 20 ask S b; 22 tracks S 1; 24 went b S Deleted start; 24 deleted-news S [b]; 1100 tracks S 1; \
         2001 ask S a; 2004 tracks S 1; 2005 went a S Expired start; 2005 ends S [a]",
    );
}

#[test]
fn follower_asks_for_announced_keys() {
    check(
        SHOWN,
        "0 fleet S; 0 up S r tracked follows; 0 page S; 0 due; 1 canary S; 2 beat S b; 3 tracks S b 7; 3 due; 4 page S; \
         10 pushed S a; 11 answered S a=9999; \
         900 removed S a; 901 answered S a=-; 903 due; 904 canary S; 905 pushed S c; 906 answered S c=99; \
         1500 suspected S c; 1501 answered S c=-; 1503 due; 1504 canary S",
        "0 scan S; 3 scan S; 10 ask S a; 11 came a S Heartbeat start; 900 ask S a; 904 went a S Deleted start; \
         905 ask S c; 906 came c S Heartbeat start; 1500 ask S c; 1504 went c S Expired start",
    );
}

#[test]
fn follower_looks_at_all_names_when_another_daemon_tracks() {
    // Until then no session may end: another one may have come.
    check(
        SHOWN,
        "0 fleet S; 0 up S r tracked follows; 0 page S a; 0 answered S a=99999; 1 due; 1 canary S; 2 beat S b; 3 tracks S b 7; 3 due; 4 page S a; \
         5 tracks S b 7; 5 due; 6 tracks S b 8; 6 removed S a; 6 due; 7 answered S a=-; 9 due; 10 canary S; 11 page S a#2; 12 answered S a#2=99999; 13 due",
        "0 scan S; 0 ask S a; 0 came a S Reconciled start; 3 scan S; 6 ask S a; 6 scan S; 11 ask S a#2; \
         12 came a#2 S Heartbeat start; 12 went a S Deleted start",
    );
}

#[test]
fn session_that_came_and_went_holds_the_end_before() {
    // b came and went while the end of a waited for its answer. c was set before b went, and its push comes later.
    check(
        SHOWN,
        "0 fleet S; 0 up S r tracked holds; 0 page S u#a; 1 answered S u#a=9999; 2 canary S; 10 pushed S u#a; 11 pushed S u#b; \
         12 answered S u#a=-; 14 due; 15 canary S; 16 answered S u#b=-; 18 due; 19 pushed S u#c; 20 answered S u#c=99; 21 canary S",
        "0 scan S; 0 ask S u#a; 1 came u#a S Reconciled start; 1 tracks S 1; 10 ask S u#a; 11 ask S u#b; 14 tracks S 1; \
         18 tracks S 1; 19 ask S u#c; 20 came u#c S Heartbeat start; 20 came-news S [u#c]; 21 went u#a S Deleted start; \
         21 deleted-news S [u#a]",
    );
    // Nothing came before b went.
    check(
        "went",
        "0 fleet S; 0 up S r tracked holds; 0 page S u#a; 1 answered S u#a=9999; 2 canary S; 10 pushed S u#a; 11 pushed S u#b; \
         12 answered S u#a=-; 14 due; 15 canary S; 16 answered S u#b=-; 18 due; 19 canary S",
        "19 went u#a S Deleted start",
    );
}

#[test]
fn late_push_holds_the_end_of_another_server() {
    // The stream of B is late: the session 6 was set before 1 was deleted.
    check(
        "came went",
        "0 fleet A=0-4 B=5-9; 0 up A r tracked holds; 0 page A u#1; 0 answered A u#1=99999; 0 up B r tracked holds; 0 page B; 1 due; \
         2 canary A; 2 canary B; 1001 due; 1002 canary A; 1100 due; 1200 due; 1300 due; 1302 pushed A u#1; 1303 answered A u#1=-; \
         1305 due; 1306 canary A; 1400 canary B; 1400 due; 1500 pushed B u#6; 1501 canary B; 1502 answered B u#6=999; 1503 due; \
         1504 canary A; 1504 canary B",
        "0 came u#1 A Reconciled start; 1502 came u#6 B Heartbeat start; 1502 went u#1 A Deleted start",
    );
}

#[test]
fn look_that_is_due_during_a_comparison_is_not_lost() {
    // The look of 3 is due, but a stall begins a comparison, in which another daemon begins to announce.
    check(
        "went scan",
        "0 fleet S; 0 up S r tracked follows; 0 page S a; 0 answered S a=99999; 1 due; 1 canary S; 2 beat S b; 3 tracks S b 7; \
         3000 tracks S b 8; 3000 due; 3001 page S a; 3002 answered S a=99999; 3003 canary S; 3600 removed S a; \
         3601 answered S a=-; 3603 due; 3604 canary S; 3605 page S; 3606 due",
        "0 scan S; 3000 scan S; 3603 scan S; 3605 went a S Deleted stalled",
    );
}

#[test]
fn daemon_that_gives_the_lease_away_looks_before_it_reports_an_end() {
    // b comes while no daemon announces changes.
    check(
        "came went scan",
        "0 fleet S; 0 up S r tracked holds; 0 page S u#a; 1 answered S u#a=99999; 2 canary S; 10 draining; 11 pushed S u#a; \
         12 answered S u#a=-; 13 canary S; 15 due; 16 canary S; 20 tracks S b 7; 20 due; 21 page S u#b; 22 answered S u#b=999; 22 due",
        "0 scan S; 1 came u#a S Reconciled start; 20 scan S; 22 came u#b S Heartbeat start; 22 went u#a S Expired start",
    );
}

#[test]
fn daemon_that_takes_a_free_lease_announces_at_once() {
    // It tracks since it connected, and has heard no beat.
    check(
        "came came-news tracks scan listen",
        "0 fleet S; 0 up S r tracked follows; 0 page S; 0 due; 1 canary S; 1000 due; 1001 canary S; 2000 due; 2001 canary S; \
         3000 due; 3001 canary S; 3100 due; 3101 mine S; 4100 due; 4101 canary S; 4102 pushed S a; 4103 answered S a=99",
        "0 scan S; 4100 tracks S 4100; 4103 came a S Heartbeat start; 4103 came-news S [a]",
    );
}

#[test]
fn new_holder_looks_at_all_names_before_it_announces() {
    check(
        SHOWN,
        "0 fleet S; 0 up S r tracked follows; 0 page S; 0 due; 1 canary S; 2 beat S b; 1000 due; 1001 canary S; 2000 due; 2001 canary S; \
         3000 due; 3001 canary S; 3100 due; 3101 mine S; 3102 leads S; 3102 due; \
         3103 page S a; 3104 answered S a=99; 3105 due",
        "0 scan S; 3102 scan S; 3103 ask S a; 3104 came a S Heartbeat start; 3104 tracks S 3104",
    );
}
