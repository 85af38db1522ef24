//! A daemon that keeps only the users whom its clients watch, and daemons that answer it.

use super::script::{Run, check, check_run};
use crate::Candidacy;

/// Runs a script against a tracker that keeps only chosen users and connects to a server whose lease another daemon holds. It is
/// ready at 1.
fn check_chosen(shown: &str, script: &str, expected: &str) {
    let ready = "0 fleet S; 0 up S r follows; 0 due; 1 canary S;";
    check_run(Run::choosing(Candidacy::StandsIn), shown, &format!("{ready}{script}"), expected);
}

#[test]
fn holder_names_the_keys_of_a_chosen_user() {
    check_chosen(
        "scan compared seek ask came known",
        "20 choose alice; 21 named S 1 alice#phone; 21 namedall S 1 alice; 22 answered S alice#phone=20000",
        "0 compared S start 0 0; 20 seek S 1 alice; 21 ask S alice#phone; 22 came alice#phone S Reconciled start; \
         22 known alice",
    );
}

#[test]
fn user_without_named_keys_is_known_at_once() {
    check_chosen(
        "seek ask came known",
        "20 choose alice bob; 21 namedall S 1 alice; 25 namedall S 1 bob",
        "20 seek S 1 alice bob; 21 known alice; 25 known bob",
    );
}

#[test]
fn events_of_other_users_are_dropped() {
    check_chosen(
        "ask came went known",
        "10 created S bob; 20 choose alice; 20 namedall S 1 alice; 30 created S alice#tab; 31 created S bob; \
         32 expired S bob; 40 expired S alice#tab",
        "20 known alice; 30 came alice#tab S Heartbeat start; 30 ask S alice#tab; 40 went alice#tab S Expired start",
    );
}

#[test]
fn end_waits_until_all_keys_are_known() {
    check_chosen(
        "came went known",
        "20 choose alice; 25 created S alice#tab; 26 expired S alice#tab; 27 named S 1 alice#phone; \
         27 namedall S 1 alice; 27 answered S alice#tab=-; 30 answered S alice#phone=20000; 31 due",
        "25 came alice#tab S Reconciled start; 30 came alice#phone S Reconciled start; \
         30 went alice#tab S Expired start; 30 known alice",
    );
}

#[test]
fn request_is_repeated_and_then_a_scan_finds_the_keys() {
    check_chosen(
        "seek scan ask came known",
        "20 choose alice; 900 beat S b; 1020 due; 1021 choose bob; 1021 canary S; 1900 beat S b; 2020 due; 2021 canary S; \
         2900 beat S b; 3020 due; 3020 due; 3025 page S alice#phone carol; 3026 answered S alice#phone=9000",
        "20 seek S 1 alice; 1020 seek S 2 alice; 1021 seek S 3 bob; 2020 seek S 4 alice bob; 3020 scan S; 3025 ask S alice#phone; 3026 came alice#phone S Reconciled start; 3026 known alice bob",
    );
}

#[test]
fn scan_finds_the_keys_where_there_is_no_lease() {
    check_run(
        Run::choosing(Candidacy::StandsIn),
        "seek scan ask came went known",
        "0 fleet S; 0 up S; 0 due; 0 canary S; 600 choose alice bob; 600 due; 601 choose carol; 602 page S alice#phone carol dora; \
         603 answered S alice#phone=9000 carol=9000; 604 due; 1102 due; 1103 due; 1104 page S alice#phone carol",
        "600 scan S; 602 ask S alice#phone carol; 603 came alice#phone S Reconciled start; \
         603 came carol S Reconciled start; 603 known alice bob; 1103 scan S; 1104 known carol",
    );
}

#[test]
fn comparison_finds_the_keys_of_all_chosen_users() {
    check_chosen(
        "seek scan ask came known compared",
        "20 choose alice; 21 down S; 22 choose bob; 30 up S r follows; 31 page S alice#phone bob carol; \
         32 choose dora; 33 answered S alice#phone=9000 bob=9000; 34 namedall S 2 dora",
        "0 compared S start 0 0; 20 seek S 1 alice; 30 scan S; 31 ask S alice#phone bob; \
         33 came alice#phone S Reconciled connection; 33 came bob S Reconciled connection; \
         33 compared S connection 12 2; 33 seek S 2 dora; 33 known alice bob; 34 known dora",
    );
}

#[test]
fn dismissed_user_is_dropped_without_a_transition() {
    check_chosen(
        "came went dropped known ask",
        "20 choose alice bob; 20 namedall S 1 alice; 20 namedall S 1 bob; 30 created S alice#tab; 30 created S bob; \
         31 answered S alice#tab=9000; 40 dismiss alice bob; 50 expired S alice#tab; 60 answered S bob=9000; \
         1039 due; 1040 due; 1050 created S bob",
        "20 known alice; 20 known bob; 30 came alice#tab S Heartbeat start; 30 ask S alice#tab; 30 came bob S Heartbeat start; \
         30 ask S bob; 40 dropped [alice#tab]; 1040 dropped [bob]",
    );
}

#[test]
fn user_who_is_chosen_again_before_the_end_stays_known() {
    check_chosen(
        "came went dropped known seek",
        "20 choose alice; 20 namedall S 1 alice; 30 created S alice; 40 dismiss alice; 45 choose alice; \
         46 answered S alice=9000; 1040 due; 2040 due; 3000 expired S alice",
        "20 seek S 1 alice; 20 known alice; 30 came alice S Heartbeat start; 45 known alice; \
         3000 went alice S Expired start",
    );
}

#[test]
fn answer_from_before_the_choice_does_not_count() {
    check_chosen(
        "seek known ask",
        "20 choose alice; 21 dismiss alice; 22 choose alice; 23 named S 1 alice#phone; 23 namedall S 1 alice; \
         24 namedall S 2 alice",
        "20 seek S 1 alice; 22 seek S 2 alice; 24 known alice",
    );
}

#[test]
fn deadline_of_a_chosen_key_is_asked_at_without_the_holder() {
    check_chosen(
        "came went ask known",
        "20 choose alice; 20 namedall S 1 alice; 30 created S alice; 31 answered S alice=2000; 1000 idle S; 1920 due; \
         1921 answered S alice=110; 2001 idle S; 2031 due; 2032 answered S alice=-; 2034 due; 2035 canary S",
        "20 known alice; 30 came alice S Heartbeat start; 30 ask S alice; 1920 ask S alice; 2031 ask S alice; \
         2035 went alice S Expired start",
    );
}

#[test]
fn stand_in_takes_a_lease_that_nobody_takes() {
    check_chosen(
        "lease listen scan ask came known compared answer",
        "900 beat S b; 6899 idle S; 6900 due; 6901 mine S; 6902 leads S; 6902 due; 6903 sought S d2 7 bob; \
         6904 page S bob#tab carol; 6905 answered S bob#tab=9000 carol=9000; 6906 sought S d2 8 bob; 6907 choose carol",
        "0 compared S start 0 0; 6900 lease S Take; 6901 listen S true; 6902 scan S; 6904 ask S bob#tab carol; \
         6905 came bob#tab S Heartbeat start; 6905 came carol S Heartbeat start; 6906 answer S d2 8 [[bob#tab]]; \
         6907 known carol",
    );
}

#[test]
fn stand_in_that_gives_way_keeps_chosen_users() {
    check_chosen(
        "came went dropped listen known",
        "900 beat S b; 6899 idle S; 6900 due; 6901 mine S; 6902 leads S; 6902 due; 6904 page S bob#tab carol; \
         6905 answered S bob#tab=90000 carol=90000; 6907 choose carol; 7901 due; 7902 other S c; 7905 expired S bob#tab; \
         7906 expired S carol",
        "6901 listen S true; 6905 came bob#tab S Heartbeat start; 6905 came carol S Heartbeat start; 6907 known carol; \
         7902 dropped [bob#tab]; 7902 listen S false; 7906 went carol S Expired start",
    );
}

#[test]
fn holder_answers_with_the_keys_that_it_knows() {
    check(
        "answer ask compared",
        "0 fleet S; 0 up S r holds; 1 sought S d2 1 alice; 2 page S alice#phone bob; 3 answered S alice#phone=9000 bob=9000; \
         4 sought S d2 2 alice; 5 set S alice; 6 sought S d2 3 alice; 7 del S alice; 8 sought S d2 4 alice; \
         8 sought S d2 4 bob; 9 sought S d3 1 carol",
        "2 ask S alice#phone bob; 3 compared S start 3 2; 4 answer S d2 2 [[alice#phone]]; 5 ask S alice; \
         6 answer S d2 3 [[alice, alice#phone]]; 8 answer S d2 4 [[alice, alice#phone]]; 8 answer S d2 4 [[bob]]; \
         9 answer S d3 1 [[]]",
    );
    check("answer", "0 fleet S; 0 up S r follows; 1 beat S b; 2 page S alice; 3 sought S d2 2 alice", "");
}

#[test]
fn chosen_user_is_sought_at_each_server() {
    check_run(
        Run::choosing(Candidacy::Never),
        "seek known",
        "0 fleet A=0-4 B=5-9; 0 up A r follows; 0 up B r follows; 0 due; 1 canary A; 1 canary B; 20 choose alice; \
         21 namedall A 1 alice; 22 namedall B 1 alice; 23 namedall B 2 alice",
        "20 seek A 1 alice; 20 seek B 2 alice; 23 known alice",
    );
}

#[test]
fn moving_key_is_sought_again() {
    check_run(
        Run::choosing(Candidacy::Never),
        "seek known ask came",
        "0 fleet A=0-4 B=5-9; 0 up A r follows; 0 up B r follows; 0 due; 1 canary A; 1 canary B; 20 choose alice; \
         21 namedall B 2 alice; 22 named A 1 alice#3; 22 namedall A 1 alice; 23 answered A alice#3=moved:3:B:1; \
         900 beat A b; 900 beat B b; 1020 due; 1021 namedall A 3 alice",
        "20 seek A 1 alice; 20 seek B 2 alice; 22 ask A alice#3; 1020 seek A 3 alice; 1021 known alice",
    );
}

#[test]
fn stand_in_that_gives_way_asks_at_deadlines_itself() {
    check_chosen(
        "ask",
        "900 beat S b; 6899 idle S; 6900 due; 6901 mine S; 6902 leads S; 6902 due; 6904 page S carol; \
         6905 answered S carol=3000; 6907 choose carol; 7901 due; 7902 other S c; 7903 canary S; 9904 idle S; 9905 due",
        "6904 ask S carol; 9905 ask S carol",
    );
}

#[test]
fn question_under_way_outlives_the_lease() {
    check_chosen(
        "came dropped",
        "900 beat S b; 6899 idle S; 6900 due; 6901 mine S; 6902 leads S; 6902 due; 6904 page S bob; 7901 due; \
         7902 other S c; 7903 answered S bob=90000; 8901 due; 8902 due",
        "7903 came bob S Heartbeat start; 8902 dropped [bob]",
    );
}

#[test]
fn scan_from_before_the_lease_does_not_find_all() {
    check_chosen(
        "scan answer",
        "3499 idle S; 3500 choose alice; 3501 due; 5999 idle S; 6000 due; 6001 mine S; 6002 leads S; 6003 page S bob; \
         6004 answered S bob=90000; 6005 sought S d2 7 bob; 8506 idle S; 8507 due; 8508 page S bob carol; \
         8509 answered S carol=90000; 8510 sought S d2 8 carol",
        "3501 scan S; 8507 scan S; 8510 answer S d2 8 [[carol]]",
    );
}
