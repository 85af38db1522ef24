//! The rules, one script each: what is fed in at which millisecond, and what must come out.

use super::*;

/// Runs a script and compares all that comes out.
///
/// `up RUN [UPTIME]`, `met RUN` (it has long been running), `flushed RUN`, `down`, `gap`, `replaced`, `sweep`, `due`; `set`, `placed`, `expired`, `del`, `evicted` with a key;
/// `page KEY…` answers the scan as its last page; `open`, `close`: the fences of the oldest batch;
/// `answers KEY=MS|-|never|moved|notyet …`: its answers; `answered …`: all three in order; `doubted KEY`, `letgo KEY`,
/// `adopted KEY SEEN DEADLINE [granted] [notyet]` (of the server 1), `retired`.
fn check(script: &str, expected: &str) {
    let settings = Settings { first_ttl_ms: 30, trusted_uptime_ms: u64::MAX, ..Settings::default() };
    check_with(settings, script, expected);
}

fn check_with(settings: Settings, script: &str, expected: &str) {
    let mut run = Run { detector: Detector::new(settings), asked: Default::default(), scan: 0, said: vec![] };
    for step in script.split(';').map(str::trim).filter(|step| !step.is_empty()) {
        let mut words = step.split_whitespace();
        let now = Time::from_ms(words.next().unwrap().parse().unwrap());
        run.step(now, words.next().unwrap(), &words.collect::<Vec<_>>());
    }
    let expected: Vec<_> = expected.split(';').map(str::trim).filter(|s| !s.is_empty()).collect();
    assert_eq!(run.said, expected, "\nscript: {script}");
}

const UP: Input = Input::Up { run: "r", flushed: false, uptime_ms: u64::MAX };

struct Run {
    detector: Detector,
    asked: VecDeque<BatchId>,
    scan: u8,
    said: Vec<String>,
}

impl Run {
    fn step(&mut self, now: Time, verb: &str, words: &[&str]) {
        let word = || words[0].as_bytes();
        let oldest = *self.asked.front().unwrap_or(&0);
        match verb {
            "up" | "flushed" => {
                let uptime_ms = words.get(1).map_or(u64::MAX - 1, |word| word.parse().unwrap());
                let flushed = verb == "flushed";
                self.feed(now, Input::Up { run: words[0], flushed, uptime_ms });
            }
            "met" => self.feed(now, Input::Up { run: words[0], flushed: false, uptime_ms: u64::MAX }),
            "sweep" => self.feed(now, Input::Sweep),
            "down" => self.feed(now, Input::Down),
            "gap" => self.feed(now, Input::Gap),
            "replaced" => self.feed(now, Input::Replaced),
            "due" => self.feed(now, Input::Due),
            "set" => self.feed(now, Input::Renewed(word())),
            "placed" => self.feed(now, Input::Placed(word())),
            "expired" => self.feed(now, Input::Ended(word(), End::Expired)),
            "del" => self.feed(now, Input::Ended(word(), End::Deleted)),
            "evicted" => self.feed(now, Input::Ended(word(), End::Evicted)),
            "doubted" => self.feed(now, Input::Doubted(word())),
            "letgo" => self.feed(now, Input::LetGo(word())),
            "retired" => self.feed(now, Input::Retired),
            "adopted" => self.feed(now, Input::Adopted(&moved(words), 1)),
            "page" => {
                let names = words.iter().map(|word| word.as_bytes().to_vec()).collect();
                self.feed(now, Input::Page(self.scan, names, 0));
            }
            "open" => self.feed(now, Input::Fence(oldest, Side::Open)),
            "close" => self.feed(now, Input::Fence(oldest, Side::Close)),
            "answers" => self.feed(now, Input::Answers(oldest, answers(words))),
            "answered" => {
                self.feed(now, Input::Fence(oldest, Side::Open));
                self.feed(now, Input::Answers(oldest, answers(words)));
                self.feed(now, Input::Fence(oldest, Side::Close));
                self.asked.pop_front();
            }
            "next" => {
                self.asked.pop_front();
            }
            other => panic!("no such verb: {other}"),
        }
    }

    fn feed(&mut self, now: Time, input: Input) {
        self.detector.handle(now, input);
        while let Some(output) = self.detector.poll(now) {
            let ms = now.as_ms();
            self.said.push(match output {
                Output::Changed(c) if c.live => {
                    format!("{ms} +{:?} {:?} seen {:?}", c.key, c.reason, c.last_seen)
                }
                Output::Changed(c) => {
                    format!("{ms} -{:?} {:?} at {:?} seen {:?}", c.key, c.reason, c.at, c.last_seen)
                }
                Output::Ask(batch, keys) => {
                    self.asked.push_back(batch);
                    let keys: Vec<_> = keys.iter().map(Key::as_str).collect();
                    format!("{ms} ask {}", keys.join(" "))
                }
                Output::Scan(number, cursor) => {
                    self.scan = number;
                    if cursor == 0 {
                        continue;
                    } else {
                        format!("{ms} scan on")
                    }
                }
                Output::Moved(moved) => {
                    let granted = if moved.granted { " granted" } else { "" };
                    let not_yet = if moved.not_yet { " notyet" } else { "" };
                    let Moved { key, last_seen, deadline, .. } = moved;
                    format!("{ms} moved {key:?} {last_seen:?} {deadline:?}{granted}{not_yet}")
                }
                Output::Reconciled => format!("{ms} reconciled"),
                Output::Swept => format!("{ms} swept"),
                Output::Restart => format!("{ms} restart"),
            });
        }
    }
}

fn moved(words: &[&str]) -> Moved {
    let time = |at: usize| Time::from_ms(words[at].parse().unwrap());
    Moved {
        key: Key::parse(words[0].as_bytes()).unwrap(),
        last_seen: time(1),
        deadline: time(2),
        ttl_ms: 30,
        granted: words[3..].contains(&"granted"),
        not_yet: words[3..].contains(&"notyet"),
    }
}

fn answers(words: &[&str]) -> Vec<Answer> {
    let answer = |word: &&str| match word.split_once('=').unwrap().1 {
        "-" => Answer::Absent,
        "never" => Answer::NoTtl,
        "moved" => Answer::Moved,
        "notyet" => Answer::NotYet(1),
        "other" => Answer::NotYet(2),
        left => Answer::Left(left.parse().unwrap()),
    };
    words.iter().map(answer).collect()
}

#[test]
fn a_heartbeat_makes_live_and_a_probe_at_the_deadline_ends() {
    check(
        "0 up r; 0 page; 5 set a; 6 answered a=10; 14 set a; 23 due; 24 due; 25 expired a",
        "0 reconciled; 5 +a Heartbeat seen 5; 5 ask a; 25 -a Expired at 24 seen 14",
    );
    check(
        "0 up r; 0 page; 5 set a; 6 answered a=10; 14 set a; 24 due; 25 due; 26 answered a=-",
        "0 reconciled; 5 +a Heartbeat seen 5; 5 ask a; 25 ask a; 26 -a Expired at 24 seen 14",
    );
}

#[test]
fn a_renewal_costs_no_question() {
    check(
        "0 up r; 0 page; 5 set a; 6 answered a=29; 15 set a; 25 set a; 35 set a; 36 due; 60 set a; 66 due",
        "0 reconciled; 5 +a Heartbeat seen 5; 5 ask a",
    );
}

#[test]
fn a_probe_that_finds_the_key_alive_moves_its_deadline() {
    // Renewed by EXPIRE at 2001, which makes no event that is listened to.
    check_with(
        Settings { first_ttl_ms: 3000, ..Settings::default() },
        "0 up r; 0 page; 0 set a; 0 answered a=3000; 3001 due; 3001 answered a=2000; 5001 due; 5002 due; 5003 answered a=-",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 3001 ask a; 5002 ask a; 5003 -a Expired at 5001 seen 2001",
    );
}

#[test]
fn an_answer_that_an_event_overtook_is_asked_again_not_believed() {
    // The key expired at 31, was set again at 32, both after the answer; the events arrive late.
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=30; 31 due; 31 open; 31 answers a=-; 32 expired a; 32 set a; 33 close; 33 next; 40 answered a=23",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 31 ask a; \
         32 -a Expired at 30 seen 0; 32 +a Heartbeat seen 32; 33 ask a",
    );
    // The other way round: the answer counts in a `set` that is still on its way.
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=30; 31 due; 31 answers a=30; 32 set a; 32 open; 32 close",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 31 ask a",
    );
}

#[test]
fn where_all_keys_were_replaced_who_is_there_is_online_and_who_is_not_stays_until_the_deadline() {
    let (held, said) = HELD;
    check(
        &format!("{held} 5 set a; 10 replaced; 10 page c; 11 answered c=20 a=-; 36 due; 37 answered a=- c=-"),
        &format!(
            "{said} 10 ask c a; 11 +c Reconciled seen 0; 11 reconciled; 36 ask a c; \
             37 -a Expired at 35 seen 5; 37 -c Expired at 30 seen 0"
        ),
    );
    // Who beats goes on; a key without a TTL is there or is not.
    check(
        &format!(
            "{held} 5 set a; 10 replaced; 10 page; 11 answered a=-; 20 set a; 36 due; 51 due; 52 answered a=29"
        ),
        &format!("{said} 10 ask a; 11 reconciled; 51 ask a"),
    );
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=never; 10 replaced; 10 page; 11 answered a=-",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 10 ask a; 11 -a Reconciled at 11 seen 0; 11 reconciled",
    );
}

#[test]
fn evicted_is_redis_short_of_memory_and_nobody_leaving() {
    let (held, said) = HELD;
    check(
        &format!("{held} 5 set a; 10 evicted a; 36 due; 37 answered a=-"),
        &format!("{said} 36 ask a; 37 -a Expired at 35 seen 5"),
    );
    // One that may have been renewed by EXPIRE since its only `set`: one TTL from now.
    check(
        &format!("{held} 10 evicted a; 31 due; 41 due; 42 answered a=-"),
        &format!("{said} 41 ask a; 42 -a Expired at 40 seen 0"),
    );
    check(
        "0 up r; 0 page; 0 set a; 5 evicted a; 6 answered a=-; 10 set a; 11 answered a=30; 41 due; 42 expired a",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 10 ask a; 41 ask a; 42 -a Expired at 40 seen 10",
    );
    // After a gap the last heartbeat is not the last that was heard: one TTL from now.
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=30; 5 gap; 5 page a; 6 answered a=20; 20 evicted a; 27 due; 51 due; \
         52 answered a=-",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 5 ask a; 6 reconciled; 51 ask a; 52 -a Expired at 50 seen 0",
    );
    // Its deadline has passed: the last renewal was one without an event.
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=30; 31 due; 32 evicted a; 33 answered a=-; 63 due; 64 answered a=-",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 31 ask a; 63 ask a; 64 -a Expired at 62 seen 0",
    );
}

#[test]
fn a_key_gone_from_the_same_server_is_gone() {
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=30; 1 set b; 1 answered b=30; 10 down; 20 up r; 20 page b; 21 answered b=11 a=-",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 1 +b Heartbeat seen 1; 1 ask b; \
         20 ask b a; 21 -a Reconciled at 21 seen 0; 21 reconciled",
    );
}

#[test]
fn a_key_gone_from_another_server_has_one_ttl_to_come_back() {
    let outage = "0 up r; 0 page; 0 set a; 0 answered a=30; 0 set b; 0 answered b=30; 10 down; 40 up r2; 40 page; 41 answered a=- b=-;";
    let before = "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 0 +b Heartbeat seen 0; 0 ask b; \
         40 ask a b; 41 reconciled;";
    check(
        &format!("{outage} 60 set a; 71 due; 72 answered b=-"),
        &format!("{before} 71 ask b; 72 -b Expired at 70 seen 0"),
    );
    // So too if the same server says that it was flushed.
    check(
        &format!("{} 60 set a; 71 due; 72 answered b=-", outage.replace("up r2", "flushed r")),
        &format!("{before} 71 ask b; 72 -b Expired at 70 seen 0"),
    );
}

#[test]
fn the_old_copy_of_a_restarted_server_expires_without_a_verdict() {
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=30; 10 down; 28 up r2; 28 page a; 29 answered a=1; 31 expired a; 45 set a; 60 due",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 28 ask a; 29 reconciled",
    );
}

#[test]
fn a_key_found_on_a_server_that_restarted_has_one_ttl() {
    // Saved with 2 left; its user could not renew it meanwhile, and does at 20.
    let found = "0 up r; 0 page; 1 down; 10 up r2; 10 page a; 11 answered a=2; 13 due; 14 expired a;";
    let said = "0 reconciled; 10 ask a; 11 +a Reconciled seen 0; 11 reconciled;";
    check(&format!("{found} 20 set a; 20 answered a=30; 42 due"), &format!("{said} 20 ask a"));
    check(
        &format!("{found} 41 due; 42 due; 42 answered a=-"),
        &format!("{said} 42 ask a; 42 -a Expired at 41 seen 0"),
    );
    // So too by the pass that follows one that was cut short, but by no later one.
    let cut = found.replace("10 page a", "10 down; 10 up r2; 10 page a");
    check(&format!("{cut} 20 set a; 20 answered a=30; 42 due"), &format!("{said} 20 ask a"));
    check(
        "0 up r; 0 page; 1 down; 10 up r2; 10 page; 11 gap; 11 page a; 11 answered a=2; 14 expired a",
        "0 reconciled; 10 reconciled; 11 ask a; 11 +a Reconciled seen 0; 11 reconciled; 14 -a Expired at 13 seen 0",
    );
    // A flushed server holds what was written since.
    check(&found.replace("up r2", "flushed r"), &format!("{said} 13 ask a; 14 -a Expired at 12 seen 0"));
}

#[test]
fn the_first_server_grants_a_ttl_if_it_is_younger_than_that() {
    let said = "100 ask a; 101 +a Reconciled seen 72; 101 reconciled;";
    check(
        "100 up r 29; 100 page a; 101 answered a=2; 104 expired a; 131 due; 132 due; 132 answered a=-",
        &format!("{said} 132 ask a; 132 -a Expired at 131 seen 72"),
    );
    check(
        "100 up r 30; 100 page a; 101 answered a=2; 104 expired a",
        &format!("{said} 104 -a Expired at 102 seen 72"),
    );
}

#[test]
fn the_grants_of_an_outage_end_one_after_the_other() {
    const KEYS: usize = 1_000;
    let mut detector = Detector::new(Settings { first_ttl_ms: 30, ..Settings::default() });
    let at = Time::from_ms;
    detector.handle(at(0), UP);
    for i in 0..KEYS {
        detector.handle(at(0), Input::Renewed(format!("u{i}").as_bytes()));
    }
    detector.handle(at(1), Input::Down);
    detector.handle(at(100), Input::Up { run: "r2", flushed: false, uptime_ms: u64::MAX });
    let ends: Vec<u64> = detector.table.values().map(|slot| slot.deadline().as_ms()).collect();
    let count = |end: u64| ends.iter().filter(|&&other| other == end).count();
    // 20 a millisecond would need 50 ms, so they share the 30 ms of one TTL: 40 in the first 20 of them.
    assert_eq!((130..160).map(count).sum::<usize>(), KEYS, "never before one TTL, nor after two");
    assert!((130..160).all(|end| (20..=40).contains(&count(end))), "{ends:?}");
}

#[test]
fn the_first_snapshot_of_a_server_that_has_long_been_running_waits_for_no_ttls() {
    let met = "100 met r; 101 page a b c";
    let said = "101 +a Reconciled seen 71; 101 +b Reconciled seen 71; 101 +c Reconciled seen 71; 101 ask a; 101 ask b c";
    check(
        &format!("{met}; 102 answered a=20; 103 answered b=10 c=5; 109 due; 109 answered c=-; 114 due"),
        &format!("{said}; 102 reconciled; 109 ask c; 109 -c Expired at 106 seen 76; 114 ask b"),
    );
    // What its events say of a key before its TTL is known stands.
    check(
        &format!("{met}; 102 answered a=20; 103 expired b; 104 set c; 105 open; 106 del c"),
        &format!("{said}; 102 reconciled; 103 -b Expired at 103 seen 71; 106 -c Deleted at 106 seen 104"),
    );
    // Of one who leaves before that, only that is known.
    check(
        &format!("{met}; 102 answered a=20; 200 expired b"),
        &format!("{said}; 102 reconciled; 200 -b Expired at 200 seen 71"),
    );
    // A gap before that: the next comparison asks for all.
    check(
        &format!("{met}; 102 gap; 102 next; 102 next; 103 page a; 104 answered a=20 b=- c=7"),
        &format!("{said}; 103 ask a b c; 104 -b Reconciled at 104 seen 71; 104 reconciled"),
    );
}

#[test]
fn a_page_that_names_a_key_whose_end_was_heard_before_is_not_taken_at_its_word() {
    check(
        "100 met r; 101 del a; 102 page a b; 103 answered b=20; 104 answered a=-",
        "102 +b Reconciled seen 72; 102 ask b; 102 ask a; 104 reconciled",
    );
    check(
        "100 met r; 101 doubted a; 102 page a b; 103 answered b=20; 104 answered a=-",
        "102 +b Reconciled seen 72; 102 ask b; 102 ask a; 104 reconciled",
    );
    // Also when nothing else is there.
    check("100 met r; 101 expired a; 102 page a; 104 answered a=-", "102 ask a; 104 reconciled");
    // Nor is any page once the ends were too many to note.
    let mut detector = Detector::new(Settings::default());
    let now = Time::from_ms(0);
    detector.handle(now, UP);
    let Some(Output::Scan(number, 0)) = detector.poll(now) else { panic!("a scan") };
    for i in 0..=65_536 {
        detector.handle(now, Input::Ended(format!("u{i}").as_bytes(), End::Deleted));
    }
    detector.handle(now, Input::Page(number, vec![b"u65536".to_vec(), b"v".to_vec()], 0));
    let Some(Output::Ask(_, keys)) = detector.poll(now) else { panic!("a question first") };
    assert_eq!(keys.iter().map(Key::as_str).collect::<Vec<_>>(), ["u65536", "v"]);
}

#[test]
fn the_first_snapshot_is_whole_once_all_that_its_pages_count_in_has_come_by() {
    // Set after a deletion, both before the page was read; the events come late, but before the fence.
    check(
        "100 met r; 101 page a; 102 open; 103 del a; 104 set a; 105 answers a=29; 106 close",
        "101 +a Reconciled seen 71; 101 ask a; 103 -a Deleted at 103 seen 71; 104 +a Heartbeat seen 104; \
         106 ask a; 106 reconciled",
    );
}

#[test]
fn a_first_snapshot_of_keys_that_were_all_set_meanwhile_is_closed_by_a_question_too() {
    check(
        "100 met r; 100 set a; 101 page a; 102 open; 103 del a; 104 set a; 105 answers a=29; 106 close",
        "100 +a Heartbeat seen 100; 100 ask a; 103 -a Deleted at 103 seen 100; 104 +a Heartbeat seen 104; \
         106 ask a; 106 reconciled",
    );
    check(
        "100 met r; 100 set a; 101 answered a=29; 102 page a; 103 answered a=27",
        "100 +a Heartbeat seen 100; 100 ask a; 102 ask a; 103 reconciled",
    );
}

#[test]
fn the_ttls_of_a_first_snapshot_are_asked_for_when_nothing_else_is() {
    let settings = Settings {
        first_ttl_ms: 30,
        trusted_uptime_ms: u64::MAX,
        batch_keys: 1,
        learn_batches: 1,
        ..Settings::default()
    };
    // Who comes is asked for first, and who is thrown away has a deadline already.
    check_with(
        settings,
        "100 met r; 101 page a b c d; 102 set z; 103 evicted c; 104 answered a=20; 105 answered b=20; \
         106 answered z=26; 107 answered d=60; 132 due; 134 due",
        "101 +a Reconciled seen 71; 101 +b Reconciled seen 71; 101 +c Reconciled seen 71; \
         101 +d Reconciled seen 71; 101 ask a; 101 ask b; 102 +z Heartbeat seen 102; 104 reconciled; \
         105 ask z; 106 ask d; 132 ask a; 132 ask b; 132 ask z; 134 ask c",
    );
}

#[test]
fn who_leaves_before_the_ttl_is_known_is_no_sign_that_ttls_change() {
    let settings = Settings { first_ttl_ms: 30_000, trusted_uptime_ms: u64::MAX, ..Settings::default() };
    check_with(
        settings,
        "100 met r; 101 page a b; 102 answered a=20000; 105 expired b; 106 answered b=-; 200 set c; \
         201 answered c=29999; 300 set c",
        "101 +a Reconciled seen 0; 101 +b Reconciled seen 0; 101 ask a; 101 ask b; 102 reconciled; \
         105 -b Expired at 105 seen 0; 200 +c Heartbeat seen 200; 200 ask c",
    );
}

#[test]
fn nobody_changes_while_the_server_is_out_of_reach() {
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=30; 10 down; 100 due; 100 set b; 100 expired a; 200 up r; 200 page a; 201 answered a=5",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 200 ask a; 201 reconciled",
    );
}

#[test]
fn a_gap_finds_who_came_and_who_went_unseen() {
    check(
        "0 up r; 0 page; 0 set a; 0 answered a=30; 10 gap; 10 page c; 12 answered c=25 a=-",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 10 ask c a; \
         12 +c Reconciled seen 5; 12 -a Reconciled at 12 seen 0; 12 reconciled",
    );
}

#[test]
fn a_page_of_an_older_scan_is_not_taken_for_the_new_one() {
    let mut detector = Detector::new(Settings::default());
    let now = Time::from_ms(0);
    detector.handle(now, UP);
    let Some(Output::Scan(first, 0)) = detector.poll(now) else { panic!("a scan") };
    detector.handle(now, Input::Gap);
    let Some(Output::Scan(second, 0)) = detector.poll(now) else { panic!("another scan") };
    detector.handle(now, Input::Page(first, vec![], 0));
    assert_eq!(detector.poll(now), None, "still waiting for the first page of the second scan");
    detector.handle(now, Input::Page(second, vec![], 0));
    assert_eq!(detector.poll(now), Some(Output::Reconciled));
}

#[test]
fn a_key_without_a_ttl_is_online_until_it_is_deleted() {
    check(
        "0 up r; 0 page; 0 set a; 1 answered a=never; 500 due; 900 del a",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 900 -a Deleted at 900 seen 0",
    );
}

#[test]
fn a_program_that_sets_and_then_expires_is_found_out() {
    check_with(
        Settings { first_ttl_ms: 3000, ..Settings::default() },
        "0 up r; 0 page; 0 set a; 1 answered a=never; 501 due; 502 answered a=1500; 2001 due; 2002 due; 2003 answered a=-",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 501 ask a; 2002 ask a; 2003 -a Expired at 2001 seen 0",
    );
}

#[test]
fn a_fence_that_does_not_come_back_is_a_dead_stream() {
    check_with(
        Settings { first_ttl_ms: 30, fence_limit_ms: 100, ..Settings::default() },
        "0 up r; 0 page; 0 set a; 50 answers a=30; 100 due; 101 due; 102 due; 103 down; 110 up r",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 101 restart",
    );
}

#[test]
fn a_shorter_ttl_is_noticed_from_the_second_time_on() {
    let long = Settings { first_ttl_ms: 3000, ..Settings::default() };
    check_with(
        long,
        "0 up r; 0 page; 0 set a; 0 answered a=2000; 100 set a; 300 expired a; \
         400 set b; 400 answered b=2000; 500 set b; 501 answered b=199; 701 due; 702 expired b",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 300 -a Expired at 300 seen 100; \
         400 +b Heartbeat seen 400; 400 ask b; 500 ask b; 701 ask b; 702 -b Expired at 700 seen 500",
    );
}

#[test]
fn a_longer_ttl_is_learnt_from_the_heartbeat_after_the_probe_that_met_it() {
    check_with(
        Settings { first_ttl_ms: 1000, ..Settings::default() },
        "0 up r; 0 page; 0 set a; 0 answered a=1000; 900 set a; 1901 due; 1901 answered a=4999; \
         2900 set a; 2900 answered a=6000; 4900 set a; 4900 answered a=6000; 6900 set a; 8000 due",
        "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a; 1901 ask a; 2900 ask a; 4900 ask a",
    );
}

#[test]
fn a_grant_is_as_long_as_the_longest_ttl_that_was_told() {
    // Its program went over to 120 where nobody heard it; the gap's answer tells of at least 100.
    let (held, said) = HELD;
    let restart = "11 down; 200 up r2; 200 page; 200 answered a=-;";
    check(
        &format!("{held} 10 gap; 10 page a; 10 answered a=100; {restart} 299 due; 300 set a"),
        &format!("{said} 10 ask a; 10 reconciled; 200 ask a; 200 reconciled; 300 ask a"),
    );
    // So too where no `set` was heard at all.
    check(
        &format!("0 up r; 0 page a; 0 answered a=100; {restart} 299 due; 301 due; 301 answered a=-"),
        "0 ask a; 0 +a Reconciled seen 0; 0 reconciled; 200 ask a; 200 reconciled; \
         301 ask a; 301 -a Expired at 300 seen 0",
    );
    // And where a probe met it.
    check(
        &format!("{held} 31 due; 31 answered a=99; {} 298 due; 299 set a", restart.replace("11", "32")),
        &format!("{said} 31 ask a; 200 ask a; 200 reconciled; 299 ask a"),
    );
    // The next `set` tells the TTL: 40, no longer 99.
    check(
        &format!(
            "{held} 10 gap; 10 page a; 10 answered a=99; 20 set a; 20 answered a=40; 50 set a; 50 answered a=40; 70 set a; 111 due"
        ),
        &format!("{said} 10 ask a; 10 reconciled; 20 ask a; 50 ask a; 111 ask a"),
    );
}

#[test]
fn a_set_heard_before_a_gap_teaches_no_ttl() {
    // Asked for before the scan names it, and renewed unheard meanwhile.
    check(
        "0 up r; 0 page a; 0 answered a=10; 5 set a; 6 gap; 6 next; 11 due; 21 answered a=29; 30 set a; 30 answered a=30; 61 due",
        "0 ask a; 0 +a Reconciled seen 0; 0 reconciled; 5 ask a; 11 ask a; 30 ask a; 61 ask a",
    );
}

#[test]
fn a_sweep_finds_who_came_and_who_left_without_an_event() {
    // No `set` is told, only what ran out.
    check(
        "0 up r; 0 page; 10 sweep; 10 page a; 11 answered a=29; 20 sweep; 20 page a; 39 due; 40 due; 41 answered a=19; \
         50 sweep; 50 sweep; 50 page; 51 answered a=-",
        "0 reconciled; 10 ask a; 11 +a Heartbeat seen 9; 11 swept; 20 swept; 40 ask a; \
         50 ask a; 51 -a Deleted at 51 seen 29; 51 swept",
    );
    // A beat that follows an end is not told either: asked again.
    check(
        "0 up r; 0 page; 10 sweep; 10 page a; 10 open; 10 answers a=5; 10 expired a; 10 close; 10 next; 12 answered a=29",
        "0 reconciled; 10 ask a; 10 ask a; 12 +a Heartbeat seen 9; 12 swept",
    );
    // A gap comes before a sweep, and a sweep makes nothing unsettled.
    check(
        "0 up r; 0 page; 10 sweep; 10 gap; 10 page a; 11 answered a=29; 12 gap; 12 sweep; 12 page; 13 answered a=-",
        "0 reconciled; 10 ask a; 11 +a Reconciled seen 9; 11 reconciled; 12 ask a; 13 -a Reconciled at 13 seen 9; 13 reconciled",
    );
}

#[test]
fn a_sweep_is_no_gap() {
    let mut detector = Detector::new(Settings::default());
    let now = Time::from_ms(0);
    detector.handle(now, UP);
    let Some(Output::Scan(first, 0)) = detector.poll(now) else { panic!("a scan") };
    detector.handle(now, Input::Page(first, vec![], 0));
    assert_eq!(detector.poll(now), Some(Output::Reconciled));
    detector.handle(now, Input::Sweep);
    assert!(detector.settled());
    let Some(Output::Scan(second, 0)) = detector.poll(now) else { panic!("another scan") };
    detector.handle(now, Input::Page(second, vec![], 0));
    assert_eq!(detector.poll(now), Some(Output::Swept));
}

#[test]
fn a_name_that_cannot_be_a_user_is_counted_and_nothing_else() {
    let mut detector = Detector::new(Settings::default());
    let now = Time::from_ms(0);
    detector.handle(now, UP);
    detector.handle(now, Input::Renewed(b"\xff\x00"));
    detector.handle(now, Input::Renewed(b""));
    detector.handle(now, Input::Ended(b"nobody", End::Deleted));
    assert_eq!((detector.counts().invalid, detector.counts().keys), (2, 0));
}

#[test]
fn slots_are_given_back() {
    let mut detector = Detector::new(Settings::default());
    let mut now = Time::from_ms(0);
    detector.handle(now, UP);
    for i in 0..1000 {
        let name = format!("user{i}");
        detector.handle(now, Input::Renewed(name.as_bytes()));
        detector.handle(now, Input::Ended(name.as_bytes(), End::Deleted));
        now = now.plus(1);
        while let Some(output) = detector.poll(now) {
            if let Output::Ask(id, keys) = output {
                detector.handle(now, Input::Fence(id, Side::Open));
                detector.handle(now, Input::Answers(id, vec![Answer::Absent; keys.len()]));
                detector.handle(now, Input::Fence(id, Side::Close));
            }
        }
    }
    assert_eq!((detector.table.len(), detector.table.places()), (0, 0));
    assert!(detector.table.end() < 10, "{} slots for one key at a time", detector.table.end());
}

/// Live at 0 with a TTL of 30.
const HELD: (&str, &str) =
    ("0 up r; 0 page; 0 set a; 0 answered a=30;", "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a;");

#[test]
fn a_deletion_in_doubt_is_asked_about() {
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
    // Renewed after it.
    check(
        &format!("{held} 10 doubted a; 10 open; 10 answers a=-; 10 set a; 11 close; 11 due"),
        &format!("{said} 10 ask a"),
    );
}

#[test]
fn a_key_that_has_moved_is_let_go_only_once_it_is_adopted() {
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
fn a_server_that_a_slot_migrates_to_knows_of_keys_that_have_come() {
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
fn an_adopted_key_is_live_until_this_server_says_otherwise() {
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
fn a_question_older_than_the_adoption_tells_nothing() {
    check(
        "0 up r; 0 page a; 1 adopted a 0 30; 2 answered a=-; 3 answered a=27",
        "0 ask a; 1 +a Reconciled seen 0; 2 ask a; 2 reconciled",
    );
}

#[test]
fn two_servers_that_both_disown_a_key_pass_it_on_slowly() {
    check(
        "0 up r; 0 page; 20 adopted a 5 35; 21 answered a=moved; 520 due; 521 due; 523 answered a=moved",
        "0 reconciled; 20 +a Reconciled seen 5; 20 ask a; 521 ask a; 523 moved a 5 35",
    );
}

#[test]
fn a_key_adopted_by_a_server_out_of_reach_waits_for_it_and_one_ttl_more() {
    check(
        "0 adopted a 0 30; 100 due; 200 up r; 200 page; 201 answered a=-; 231 due; 232 answered a=-",
        "0 +a Reconciled seen 0; 200 ask a; 201 reconciled; 231 ask a; 232 -a Expired at 230 seen 0",
    );
}

#[test]
fn a_server_that_leaves_gives_over_all_its_keys() {
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
