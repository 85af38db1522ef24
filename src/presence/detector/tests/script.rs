//! Runs a rule written as a script: inputs with their times, and the outputs expected.

use super::*;

/// Runs a script and compares all outputs. Steps are separated by `;` and start with the time in milliseconds.
///
/// - `up RUN [UPTIME|polled|holds|follows]`; `leads [unheard]`; `follows`; `suspected KEY`; `common TTL`; `met RUN` (up for long); `flushed RUN`; `down`; `gap`; `replaced`; `sweep`; `retired`; `due`
/// - `refused MS`: writes were refused, no earlier than then
/// - `byhand`: proofs do not come by themselves; `proven MS`: that of a canary which was ordered then
/// - `chunk`: the next two inputs come in one chunk
/// - `tracks`: names are pushed from the next `up` on; `pushed KEY`
/// - `set KEY`; `created KEY`; `placed KEY`; `retimed KEY`; `claimed KEY`; `expired KEY`; `del KEY`; `evicted KEY`; `doubted KEY`; `letgo KEY`
/// - `wrote KEY TTL`: this daemon did; `written KEY TTL`, `ends KEY MS`: another one says so; `confirmed`: the second question has confirmed all TTLs; `calm`:
///   and no surprise counts any longer
/// - `adopted KEY SEEN DEADLINE [granted] [fickle] [notyet]`, from the server 1
/// - `ttl KEY`: adds the TTL that the key is believed to have to the outputs
/// - `page KEY…`: the last page of the scan
/// - `open`, `close`: the fences of the oldest batch; `answers KEY=MS|-|never|moved|notyet …`: its answers;
///   `next`: go on to the next batch; `answered …`: all four in order
pub(super) fn check(script: &str, expected: &str) {
    let settings = Settings { first_ttl_ms: 30, trusted_uptime_ms: u64::MAX, ..Settings::default() };
    check_with(settings, script, expected);
}

pub(super) fn check_with(settings: Settings, script: &str, expected: &str) {
    let expected: Vec<_> = expected.split(';').map(str::trim).filter(|s| !s.is_empty()).collect();
    assert_eq!(outputs(settings, script), expected, "\nscript: {script}");
}

/// All outputs of a script.
pub(super) fn outputs(settings: Settings, script: &str) -> Vec<String> {
    let mut run = Run {
        detector: Detector::new(settings),
        asked: Default::default(),
        scan: 0,
        said: vec![],
        well: Time::from_ms(0),
        proves: true,
        waits: false,
    };
    for step in script.split(';').map(str::trim).filter(|step| !step.is_empty()) {
        let mut words = step.split_whitespace();
        let now = Time::from_ms(words.next().unwrap().parse().unwrap());
        run.step(now, words.next().unwrap(), &words.collect::<Vec<_>>());
    }
    run.said
}

pub(super) const UP: Input = Input::Up {
    run: "r",
    outage: false,
    well: Time::from_ms(0),
    polled: false,
    role: Role::Alone,
    uptime_ms: u64::MAX,
};

struct Run {
    detector: Detector,
    asked: VecDeque<BatchId>,
    scan: u8,
    said: Vec<String>,
    /// When the connection was lost.
    well: Time,
    /// Each proof that the detector wants comes at once.
    proves: bool,
    /// The outputs of the next input are taken with those of the one after it.
    waits: bool,
}

impl Run {
    fn step(&mut self, now: Time, verb: &str, words: &[&str]) {
        let word = || words[0].as_bytes();
        let oldest = *self.asked.front().unwrap_or(&0);
        match verb {
            "up" | "flushed" => {
                let uptime_ms = words.get(1).and_then(|word| word.parse().ok()).unwrap_or(u64::MAX - 1);
                let role = match words.get(1) {
                    Some(&"holds") => Role::Holds,
                    Some(&"follows") => Role::Follows,
                    _ => Role::Alone,
                };
                let polled = words.get(1) == Some(&"polled") || role == Role::Follows;
                let outage = verb == "flushed";
                self.feed(now, Input::Up { run: words[0], outage, well: self.well, polled, role, uptime_ms });
            }
            "met" => {
                let well = self.well;
                let up = Input::Up {
                    run: words[0],
                    outage: false,
                    well,
                    polled: false,
                    role: Role::Alone,
                    uptime_ms: u64::MAX,
                };
                self.feed(now, up);
            }
            "proven" => self.feed(now, Input::Proven(Time::from_ms(words[0].parse().unwrap()))),
            "refused" => self.feed(now, Input::Refused(Time::from_ms(words[0].parse().unwrap()))),
            "byhand" => self.proves = false,
            "chunk" => self.waits = true,
            "sweep" => self.feed(now, Input::Sweep),
            "down" => {
                self.well = now;
                self.feed(now, Input::Down);
            }
            "leads" => self.feed(now, Input::Leads { polled: words == ["unheard"] }),
            "follows" => self.feed(now, Input::Follows),
            "common" => self.feed(now, Input::CommonTtl(words[0].parse().unwrap())),
            "suspected" => self.feed(now, Input::Suspected(word())),
            "gap" => self.feed(now, Input::Gap),
            "replaced" => self.feed(now, Input::Replaced),
            "due" => self.feed(now, Input::Due),
            "set" => self.feed(now, Input::Renewed(word())),
            "created" => self.feed(now, Input::Created(word())),
            "tracks" => self.detector.track(true),
            "pushed" => self.feed(now, Input::Pushed(word())),
            "retimed" => self.feed(now, Input::Retimed(word())),
            "placed" => self.feed(now, Input::Placed(word())),
            "claimed" => self.feed(now, Input::Claimed(word())),
            "wrote" => {
                self.detector.written(now, word(), words[1].parse().unwrap());
                self.feed(now, Input::Due);
            }
            "written" => self.feed(now, Input::Written(word(), words[1].parse().unwrap())),
            "ends" => self.feed(now, Input::EndsIn(word(), words[1].parse().unwrap())),
            "ttl" => {
                let ttl = self.detector.ttl_ms(&Key::parse(word()).unwrap());
                self.said.push(format!("{} ttl {} {ttl:?}", now.as_ms(), words[0]));
            }
            "confirmed" => self.detector.confirm_all(),
            "calm" => {
                self.detector.confirm_all();
                self.detector.checks = Checks::default();
            }
            "expired" => self.feed(now, Input::Ended(word(), End::Expired)),
            "del" => self.feed(now, Input::Ended(word(), End::Deleted)),
            "evicted" => self.feed(now, Input::Ended(word(), End::Evicted)),
            "doubted" => self.feed(now, Input::Doubted(word())),
            "letgo" => self.feed(now, Input::LetGo(word())),
            "retired" => self.feed(now, Input::Retired { lossy: !self.detector.up }),
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
        if std::mem::take(&mut self.waits) {
            return;
        }
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
                Output::Prove if self.proves => {
                    self.detector.handle(now, Input::Proven(now.plus(1)));
                    continue;
                }
                Output::Prove => format!("{ms} prove"),
                Output::Unknown { .. } => continue,
                Output::CommonTtl(ttl_ms) => format!("{ms} common {ttl_ms}"),
                Output::Learnt(key, ttl_ms) => format!("{ms} learnt {key:?} {ttl_ms}"),
                Output::Unannounced(key) => format!("{ms} unannounced {key:?}"),
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
        fickle: words[3..].contains(&"fickle"),
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

/// Live at 0 with a TTL of 30.
pub(super) const HELD: (&str, &str) =
    ("0 up r; 0 page; 0 set a; 0 answered a=30; 0 calm;", "0 reconciled; 0 +a Heartbeat seen 0; 0 ask a;");
