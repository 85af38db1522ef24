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
        "0 fleet S; 0 up S r tracked follows; 0 page S; 0 due; 1 canary S; 2 beat S b; 10 pushed S a; 11 answered S a=9999; \
         900 removed S a; 901 answered S a=-; 903 due; 904 canary S; 905 pushed S c; 906 answered S c=99; \
         1500 suspected S c; 1501 answered S c=-; 1503 due; 1504 canary S",
        "0 scan S; 10 ask S a; 11 came a S Heartbeat start; 900 ask S a; 904 went a S Deleted start; \
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
