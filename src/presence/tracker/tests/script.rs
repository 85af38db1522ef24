//! Runs a script against a tracker and compares what comes out.

use crate::tracker::*;
use crate::{Answer, BatchId, Digest, End, Key, Renewals, Side};
use std::collections::{BTreeSet, HashMap};

/// How many slots the scripts' cluster has; a key's last digit is its slot.
const SLOTS: u16 = 10;

/// The outputs that a script shows, by their first word. Everything else is left out.
pub(super) const ALL_BUT_KEYS: &str = "open close forget gap compared opened passed lag status";

pub(super) fn settings() -> FleetSettings {
    FleetSettings {
        detector: Settings { first_ttl_ms: 30_000, trusted_uptime_ms: u64::MAX, ..Settings::default() },
        canary_limit_ms: 1_500,
        lease: Candidacy::Stands,
        chooses: false,
        requests: 0,
        slot: Box::new(slot),
    }
}

/// The slot of a key: its last digit.
pub(super) fn slot(key: &Key) -> u16 {
    key.as_str().bytes().last().map_or(0, |digit| u16::from(digit.wrapping_sub(b'0') % SLOTS as u8))
}

/// A fleet of `A=0-4` and the like; `S` alone is one server that has all keys.
pub(super) fn fleet(words: &[&str]) -> Fleet {
    if words == ["S"] {
        let one = Primary { name: "S".into(), ..Primary::default() };
        return Fleet { slots: 0, primaries: vec![one], unknown: String::new() };
    }
    let primary = |word: &&str| {
        let (id, slots) = word.split_once('=').unwrap();
        let (id, port) = id.split_once(':').unwrap_or((id, "1"));
        let range = |text: &str| {
            let (from, to) = text.split_once('-').unwrap();
            from.parse().unwrap()..=to.parse().unwrap()
        };
        let slots = slots.split(',').filter(|text| !text.is_empty()).map(range).collect();
        Primary { id: id.into(), name: id.into(), addresses: vec![format!("{id}:{port}")], slots }
    };
    Fleet { slots: SLOTS, primaries: words.iter().map(primary).collect(), unknown: "no node answers".into() }
}

/// Runs `script` and compares those outputs whose first word is in `shown`.
///
/// A step is `TIME VERB …`. `fleet S` or `fleet A=0-4 B=5-9`: the topology; `due`; `draining`; `wrote KEY TTL`: the daemon itself wrote the key. Of a server: `up A [RUN] [flushed]
/// [silent] [unheard|tracked] [holds|follows] [mark=N]`, `down A [CAUSE]`, `page A KEY…` (the last page of its scan), `set A KEY`, `placed A KEY`, `expired A KEY`, `del A
/// KEY`, `canary A` (its event and its reply; `sung A` and `intact A` are one of them), `suspect A`, `mark A N`, `replaced A`; `answered A KEY=MS|-|moved:SLOT:ADDRESS|notyet:SLOT:ADDRESS …`: its oldest
/// batch, with both fences; `marked A N`, `digest A N KEY…` (of these keys), `differs A [again]`: about digests; `idle A`: from the step before until then, nothing but canaries; `choose USER…`, `dismiss USER…`; `sought A FROM NUMBER USER`, `named A NUMBER KEY`, `namedall A NUMBER USER`: of the names of
/// keys; `leads A`, `beat A FROM [DAEMONS] [standsin]`, `released A FROM`, `mine A`, `other A NAME`: of its lease; `pushed A KEY`, `removed A KEY`, `tracks A FROM SINCE`: of a server that pushes names.
/// `ready A…`: up, compared without keys, and the canary is back.
pub(super) fn check(shown: &str, script: &str, expected: &str) {
    check_run(Run::new(), shown, script, expected);
}

pub(super) fn check_run(mut run: Run, shown: &str, script: &str, expected: &str) {
    for step in script.split(';').map(str::trim).filter(|step| !step.is_empty()) {
        let words: Vec<&str> = step.split_whitespace().collect();
        run.step(Time::from_ms(words[0].parse().unwrap()), words[1], &words[2..]);
    }
    let shown: Vec<_> = shown.split(' ').collect();
    let said = run.said.iter().filter(|line| shown.contains(&line.split(' ').nth(1).unwrap_or_default()));
    let expected: Vec<_> = expected.split(';').map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(said.collect::<Vec<_>>(), expected, "\nscript: {script}\nall: {:#?}", run.said);
}

pub(super) struct Run {
    pub(super) tracker: Tracker,
    links: HashMap<String, LinkId>,
    names: HashMap<LinkId, String>,
    asked: HashMap<LinkId, VecDeque<BatchId>>,
    scans: HashMap<LinkId, u8>,
    pub(super) said: Vec<String>,
    now: Time,
    /// The keys that are live by what was reported.
    reported: BTreeSet<Key>,
    /// The last heartbeat of the key that changed last.
    pub(super) last_seen: Option<Time>,
}

impl Run {
    pub(super) fn new() -> Run {
        Run {
            tracker: Tracker::new(settings()),
            links: HashMap::new(),
            names: HashMap::new(),
            asked: HashMap::new(),
            scans: HashMap::new(),
            said: Vec::new(),
            now: Time::default(),
            reported: BTreeSet::new(),
            last_seen: None,
        }
    }

    /// The same, with a tracker that keeps only chosen users.
    pub(super) fn choosing(lease: Candidacy) -> Run {
        let settings = FleetSettings { chooses: true, lease, ..settings() };
        Run { tracker: Tracker::new(settings), ..Run::new() }
    }

    pub(super) fn step(&mut self, now: Time, verb: &str, words: &[&str]) {
        if verb != "idle" {
            self.now = now;
        }
        match verb {
            "fleet" => return self.handle(now, Notice::Topology(fleet(words))),
            "due" => return self.handle(now, Notice::Due),
            "idle" => return self.idle(now, words[0]),
            "draining" => return self.handle(now, Notice::Draining),
            "choose" => {
                return self.handle(now, Notice::Choose(words.iter().map(|&user| user.into()).collect()));
            }
            "dismiss" => {
                return self.handle(now, Notice::Dismiss(words.iter().map(|&user| user.into()).collect()));
            }
            "wrote" => {
                let key = Key::parse(words[0].as_bytes()).unwrap();
                return self.handle(now, Notice::Written(vec![(key, words[1].parse().unwrap())]));
            }
            "ready" => return words.iter().for_each(|server| self.make_ready(now, server)),
            _ => {}
        }
        let link = self.links[words[0]];
        let word = |at: usize| words[at].as_bytes();
        match verb {
            "up" => {
                let mark = words.iter().find_map(|word| word.strip_prefix("mark="));
                let up = LinkNotice::Up {
                    run: (*words.get(1).unwrap_or(&"r")).to_owned(),
                    outage: words.contains(&"flushed"),
                    uptime_ms: u64::MAX - 1,
                    silent: words.contains(&"silent"),
                    renewals: match () {
                        () if words.contains(&"tracked") => Renewals::Tracking,
                        () if words.contains(&"unheard") => Renewals::New,
                        () => Renewals::Set,
                    },
                    lease: if words.contains(&"holds") {
                        Some(LeaseReply::Mine { daemons: 2 })
                    } else {
                        words.contains(&"follows").then(|| LeaseReply::Other("b".into()))
                    },
                    mark: mark.map_or(0, |mark| mark.parse().unwrap()),
                };
                self.handle(now, Notice::Link(link, up));
            }
            "down" => {
                let label = *words.get(1).unwrap_or(&"connection");
                let cause = Cause::ALL.into_iter().find(|cause| cause.label() == label).unwrap();
                self.handle(now, Notice::Link(link, LinkNotice::Down(cause, "why".into())));
            }
            "page" => {
                let names = words[1..].iter().map(|word| word.as_bytes().to_vec()).collect();
                let number = self.scans[&link];
                let page = LinkNotice::Page { number, names, next: 0, likely: 0 };
                self.handle(now, Notice::Link(link, page));
            }
            "replaced" => self.handle(now, Notice::Link(link, LinkNotice::Replaced)),
            "suspect" => self.handle(now, Notice::Link(link, LinkNotice::Suspect)),
            "intact" => self
                .handle(now, Notice::Link(link, LinkNotice::Intact { refused: words.contains(&"refused") })),
            "set" => self.event(now, link, Event::Key(Input::Renewed(word(1)))),
            "placed" => self.event(now, link, Event::Key(Input::Placed(word(1)))),
            "expired" => self.event(now, link, Event::Key(Input::Ended(word(1), End::Expired))),
            "del" => self.event(now, link, Event::Key(Input::Ended(word(1), End::Deleted))),
            "canary" => {
                self.event(now, link, Event::Canary);
                self.handle(
                    now,
                    Notice::Link(link, LinkNotice::Intact { refused: words.contains(&"refused") }),
                );
            }
            "leads" => self.event(now, link, Event::Leads),
            "beat" | "released" => {
                let daemons = words.get(2).and_then(|word| word.parse().ok()).unwrap_or(2);
                self.event(
                    now,
                    link,
                    Event::Beat {
                        from: words[1],
                        released: verb == "released",
                        daemons,
                        stands_in: words.contains(&"standsin"),
                    },
                );
            }
            "marked" => self.digest(now, link, &DigestMessage::Mark(words[1].parse().unwrap())),
            "differs" => {
                self.digest(now, link, &DigestMessage::Differs { again: words.contains(&"again") });
            }
            "digest" => {
                let mut digest = Digest::default();
                words[2..].iter().for_each(|word| digest.note(word.as_bytes(), true));
                self.digest(now, link, &DigestMessage::Digest(words[1].parse().unwrap(), digest));
            }
            "common" => self.event(now, link, Event::Key(Input::CommonTtl(words[1].parse().unwrap()))),
            "sought" => {
                let number = words[2].parse().unwrap();
                self.event(now, link, Event::Sought { from: words[1], number, user: words[3] });
            }
            "named" => self.event(now, link, Event::Named(words[1].parse().unwrap(), words[2])),
            "namedall" => self.event(now, link, Event::NamedAll(words[1].parse().unwrap(), words[2])),
            "pushed" => self.event(now, link, Event::Key(Input::Pushed(word(1)))),
            "removed" => self.event(now, link, Event::Key(Input::Removed(word(1)))),
            "tracks" => {
                self.event(now, link, Event::Tracks { from: words[1], since: words[2].parse().unwrap() });
            }
            "mine" => self.lease(now, link, LeaseReply::Mine { daemons: 2 }),
            "other" => self.lease(now, link, LeaseReply::Other(words[1].into())),
            "suspected" => self.event(now, link, Event::Key(Input::Suspected(word(1)))),
            "created" => self.event(now, link, Event::Key(Input::Created(word(1)))),
            "sung" => self.event(now, link, Event::Canary),
            "mark" => self.event(now, link, Event::Mark(words[1].parse().unwrap())),
            "answered" => self.answered(now, link, &words[1..]),
            other => panic!("no such verb: {other}"),
        }
    }

    /// Until then nothing happens at the server but its canaries.
    fn idle(&mut self, until: Time, server: &str) {
        while self.now < until {
            let now = self.now.plus(1_000).min(until);
            self.step(now, "due", &[]);
            self.step(now, "canary", &[server]);
        }
    }

    fn make_ready(&mut self, now: Time, server: &str) {
        self.step(now, "up", &[server]);
        self.step(now, "page", &[server]);
        self.step(now, "due", &[]);
        self.step(now, "canary", &[server]);
    }

    fn lease(&mut self, now: Time, link: LinkId, reply: LeaseReply) {
        self.handle(now, Notice::Link(link, LinkNotice::Lease(reply)));
    }

    fn answered(&mut self, now: Time, link: LinkId, words: &[&str]) {
        let batch = self.asked.get_mut(&link).unwrap().pop_front().expect("a batch under way");
        let (mut answers, mut elsewhere) = (Vec::new(), Vec::new());
        for (place, word) in words.iter().enumerate() {
            let answer = word.split_once('=').unwrap().1;
            let parts: Vec<_> = answer.splitn(3, ':').collect();
            answers.push(match parts[0] {
                "-" => Answer::Absent,
                "moved" => Answer::Moved,
                "notyet" => Answer::NotYet(0),
                left => Answer::Left(left.parse().unwrap()),
            });
            if let [_, slot, address] = parts[..] {
                elsewhere.push(Elsewhere { place, slot: slot.parse().unwrap(), address: address.into() });
            }
        }
        self.event(now, link, Event::Key(Input::Fence(batch, Side::Open)));
        self.handle(now, Notice::Link(link, LinkNotice::Answers(batch, answers, elsewhere)));
        self.event(now, link, Event::Key(Input::Fence(batch, Side::Close)));
    }

    fn digest(&mut self, now: Time, link: LinkId, message: &DigestMessage) {
        self.event(now, link, Event::Digest(message));
    }

    fn event(&mut self, now: Time, link: LinkId, event: Event) {
        self.tracker.events(now, link, std::iter::once(event));
        self.drain(now);
    }

    fn handle(&mut self, now: Time, notice: Notice) {
        self.tracker.handle(now, notice);
        self.drain(now);
    }

    fn drain(&mut self, now: Time) {
        while let Some(action) = self.tracker.poll(now) {
            let said = self.describe(action);
            self.said.push(format!("{} {said}", now.as_ms()));
        }
    }

    fn describe(&mut self, action: Action) -> String {
        let name = |link: LinkId| self.names.get(&link).cloned().unwrap_or_default();
        match action {
            Action::Changed(link, change, cause) => {
                let sign = if change.live { "came" } else { "went" };
                self.last_seen = Some(change.last_seen);
                if change.live {
                    self.reported.insert(change.key.clone());
                } else {
                    self.reported.remove(&change.key);
                }
                format!("{sign} {:?} {} {:?} {}", change.key, name(link), change.reason, cause.label())
            }
            Action::Ask(link, batch, keys) => {
                self.asked.entry(link).or_default().push_back(batch);
                let keys: Vec<_> = keys.iter().map(Key::as_str).collect();
                format!("ask {} {}", name(link), keys.join(" "))
            }
            Action::Scan(link, number, _) => {
                self.scans.insert(link, number);
                format!("scan {}", name(link))
            }
            Action::Canary(link) => format!("canary {}", name(link)),
            Action::Announce(link, keys) => format!("announce {} {keys:?}", name(link)),
            Action::AnnounceEnds(link, keys) => format!("ends {} {keys:?}", name(link)),
            Action::AnnounceCommonTtl(link, ttl_ms) => format!("common {} {ttl_ms}", name(link)),
            Action::AnnounceDigest(link, DigestMessage::Digest(number, _)) => {
                format!("digest {} {number}", name(link))
            }
            Action::AnnounceDigest(link, message) => format!("digest {} {message:?}", name(link)),
            Action::Digested(result) => format!("digested {}", result.label()),
            Action::Dropped(mut keys) => {
                keys.sort_unstable();
                self.reported.retain(|key| !keys.contains(key));
                format!("dropped {keys:?}")
            }
            Action::Known(mut users) => {
                users.sort_unstable();
                format!("known {}", users.join(" "))
            }
            Action::Seek(link, number, mut users) => {
                users.sort_unstable();
                format!("seek {} {number} {}", name(link), users.join(" "))
            }
            Action::Answer(link, Request { from, number, users }) => {
                let reported =
                    |user: &str| self.reported.iter().filter(|key| key.user() == user).cloned().collect();
                let keys: Vec<_> =
                    users.iter().map(|user| self.tracker.keys_at(link, user, reported(user))).collect();
                format!("answer {} {from} {number} {keys:?}", name(link))
            }
            Action::AnnounceCame(link, keys) => format!("came-news {} {keys:?}", name(link)),
            Action::AnnounceDeleted(link, keys) => format!("deleted-news {} {keys:?}", name(link)),
            Action::AnnounceTracks(link, since) => format!("tracks {} {since:?}", name(link)),
            Action::Lease(link, order) => format!("lease {} {order:?}", name(link)),
            Action::Listen(link, on) => format!("listen {} {on}", name(link)),
            Action::Open { link, primary } => {
                let primary = if primary.is_empty() { "S".into() } else { primary };
                self.links.insert(primary.clone(), link);
                self.names.insert(link, primary.clone());
                format!("open {primary}")
            }
            Action::Close(link, cause) => {
                self.asked.remove(&link);
                format!("close {} {}", name(link), cause.label())
            }
            Action::Forget(link) => format!("forget {}", name(link)),
            Action::Gap { link, cause, why } => {
                self.asked.remove(&link);
                let why = if why == "why" { "" } else { &format!(" ({why})") };
                format!("gap {} {}{why}", name(link), cause.label())
            }
            Action::Compared { link, cause, after_ms, keys } => {
                format!("compared {} {} {after_ms} {keys}", name(link), cause.label())
            }
            Action::Opened => "opened".into(),
            Action::Passed(mark) => format!("passed {mark}"),
            Action::EventLag(ms) => format!("lag {ms}"),
            Action::Servers => "servers".into(),
            Action::Status(Ok(())) => "status up".into(),
            Action::Status(Err(why)) => format!("status down: {why}"),
        }
    }
}
