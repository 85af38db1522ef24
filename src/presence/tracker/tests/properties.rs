//! Random histories of up to three servers: what holds at each step, and what holds when everything is at rest.

use super::script::{fleet, settings, slot};
use crate::tracker::*;
use crate::{Answer, BatchId, End, Key, Side};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const SERVERS: [&str; 3] = ["A", "B", "C"];
const KEYS: [&str; 4] = ["u1", "u4", "v4", "w8"];

#[derive(Debug, Clone)]
enum Op {
    Wait(u64),
    /// The members as bits, and the first slot of the second and of the third server.
    Fleet(u8, u16, u16),
    Up {
        server: usize,
        run: bool,
        outage: bool,
        silent: bool,
    },
    Down(usize),
    Set(usize, usize),
    End(usize, usize, u8),
    Canary(usize),
    Mark(usize, u64),
    Replaced(usize),
    /// Answers the oldest batch, each key by one of the digits of this number.
    Answer(usize, u32),
    Page(usize, u8),
}

fn op() -> impl Strategy<Value = Op> {
    let server = || 0..SERVERS.len();
    let key = || 0..KEYS.len();
    prop_oneof![
        6 => (0..2_600u64).prop_map(Op::Wait),
        2 => (1..8u8, 0..11u16, 0..11u16).prop_map(|(members, a, b)| Op::Fleet(members, a.min(b), a.max(b))),
        4 => (server(), any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(server, run, outage, silent)| Op::Up { server, run, outage, silent }),
        1 => server().prop_map(Op::Down),
        5 => (server(), key()).prop_map(|(server, key)| Op::Set(server, key)),
        3 => (server(), key(), 0..3u8).prop_map(|(server, key, end)| Op::End(server, key, end)),
        4 => server().prop_map(Op::Canary),
        1 => (server(), 0..9u64).prop_map(|(server, mark)| Op::Mark(server, mark)),
        1 => server().prop_map(Op::Replaced),
        6 => (server(), any::<u32>()).prop_map(|(server, answers)| Op::Answer(server, answers)),
        3 => (server(), 0..16u8).prop_map(|(server, keys)| Op::Page(server, keys)),
    ]
}

/// A link as the driver has it.
#[derive(Default)]
struct Link {
    server: usize,
    up: bool,
    /// Ordered to close, and not down yet.
    closing: bool,
    asked: VecDeque<(BatchId, Vec<Key>)>,
    scan: Option<u8>,
    canary: bool,
    /// Events may be missing since the last comparison.
    gap: bool,
    /// A canary has come back since it was up.
    proven: bool,
}

struct Fleets {
    now: Time,
    tracker: Tracker,
    links: BTreeMap<LinkId, Link>,
    /// The slots of the servers as the tracker knows them, and as answers tell.
    owners: [usize; 10],
    believed: BTreeSet<(String, LinkId)>,
    opened: bool,
    passed: u64,
    status_up: bool,
}

impl Fleets {
    fn new() -> Fleets {
        Fleets {
            now: Time::from_ms(1_000_000),
            tracker: Tracker::new(settings()),
            links: BTreeMap::new(),
            owners: [0; 10],
            believed: BTreeSet::new(),
            opened: false,
            passed: 0,
            status_up: false,
        }
    }

    fn link_of(&self, server: usize) -> Option<LinkId> {
        self.links.iter().find(|(_, link)| link.server == server).map(|(&id, _)| id)
    }

    fn handle(&mut self, notice: Notice) {
        self.tracker.handle(self.now, notice);
        self.drain();
    }

    fn event(&mut self, link: LinkId, event: Event) {
        self.tracker.events(self.now, link, std::iter::once(event));
        self.drain();
    }

    /// An order goes to a link that is up and was not told to close.
    fn ordered(&mut self, link: LinkId) -> &mut Link {
        let link = self.links.get_mut(&link).expect("an order to a link that is open");
        assert!(link.up && !link.closing, "an order to a link that is not up");
        link
    }

    fn drain(&mut self) {
        while let Some(action) = self.tracker.poll(self.now) {
            self.carry_out(action);
        }
        // The status follows from the links at any time.
        let settled =
            !self.links.is_empty() && self.links.values().all(|link| link.up && !link.gap && link.proven);
        assert!(!self.status_up || settled, "up although a server is not settled and proven");
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Changed(link, change, _) => {
                let entry = (change.key.as_str().to_owned(), link);
                let fresh =
                    if change.live { self.believed.insert(entry) } else { self.believed.remove(&entry) };
                assert!(fresh, "{change:?} twice");
            }
            Action::Dropped(_) | Action::Known(_) | Action::Seek(..) | Action::Answer(..) => {
                panic!("this tracker keeps all users, and nobody asked")
            }
            Action::Ask(link, batch, keys) => self.ordered(link).asked.push_back((batch, keys)),
            Action::Scan(link, number, _) => self.ordered(link).scan = Some(number),
            Action::Canary(link) => self.ordered(link).canary = true,
            Action::Open { link, primary } => {
                let server = SERVERS.iter().position(|name| *name == primary).expect("a server's id");
                self.links.insert(link, Link { server, gap: true, ..Link::default() });
            }
            Action::Close(link, _) => {
                let link = self.links.get_mut(&link).expect("an open link");
                assert!(link.gap && link.up, "a dead stream is a gap");
                link.closing = true;
                link.proven = false;
            }
            Action::Forget(link) => assert!(self.links.remove(&link).is_some_and(|link| link.gap)),
            Action::Gap { link, .. } => self.links.get_mut(&link).expect("an open link").gap = true,
            Action::Compared { link, .. } => {
                let link = self.ordered(link);
                assert!(std::mem::take(&mut link.gap), "compared without a gap");
            }
            Action::Opened => assert!(!std::mem::replace(&mut self.opened, true), "opened twice"),
            Action::Passed(mark) => {
                assert!(mark > self.passed);
                self.passed = mark;
            }
            Action::EventLag(ms) => assert!(ms < 10_000),
            Action::Servers
            | Action::Announce(..)
            | Action::AnnounceEnds(..)
            | Action::AnnounceCommonTtl(..)
            | Action::AnnounceDigest(..)
            | Action::Digested(_)
            | Action::AnnounceCame(..)
            | Action::AnnounceDeleted(..)
            | Action::AnnounceTracks(..)
            | Action::Lease(..)
            | Action::Listen(..) => {}
            Action::Status(status) => {
                self.status_up = status.is_ok();
                let up = self.tracker.servers().iter().all(|server| server.up);
                assert!(up || !self.status_up);
            }
        }
    }

    fn follow(&mut self, members: u8, second: u16, third: u16) {
        let ranges = [(0, second), (second, third), (third, 10)];
        let mut words = Vec::new();
        for (server, (from, to)) in ranges.into_iter().enumerate() {
            if members & 1 << server != 0 {
                let slots = if from < to { format!("{from}-{}", to - 1) } else { String::new() };
                words.push(format!("{}={slots}", SERVERS[server]));
            }
            (from..to).for_each(|slot| self.owners[usize::from(slot)] = server);
        }
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        self.handle(Notice::Topology(fleet(&words)));
    }

    fn up(&mut self, id: LinkId, run: bool, outage: bool, silent: bool) {
        let link = self.links.get_mut(&id).expect("an open link");
        if link.up {
            return;
        }
        *link = Link { server: link.server, up: true, gap: true, ..Link::default() };
        let run = if run { "one" } else { "other" }.to_owned();
        let renewals = if outage { Renewals::New } else { Renewals::Set };
        let up = LinkNotice::Up { run, outage, uptime_ms: 1_000, silent, renewals, lease: None, mark: 3 };
        self.handle(Notice::Link(id, up));
    }

    fn down(&mut self, id: LinkId) {
        let link = self.links.get_mut(&id).expect("an open link");
        *link = Link { server: link.server, gap: true, ..Link::default() };
        self.handle(Notice::Link(id, LinkNotice::Down(Cause::Connection, "cut".into())));
    }

    fn canary(&mut self, id: LinkId) {
        let link = self.links.get_mut(&id).expect("an open link");
        if std::mem::take(&mut link.canary) {
            link.proven = !link.closing;
        }
        self.event(id, Event::Canary);
        self.handle(Notice::Link(id, LinkNotice::Intact { refused: false }));
    }

    /// Answers the oldest batch between its fences.
    fn answer(&mut self, id: LinkId, answer: impl Fn(&Key, usize) -> Answer) {
        let Some((batch, keys)) = self.links.get_mut(&id).and_then(|link| link.asked.pop_front()) else {
            return;
        };
        let answers: Vec<_> = keys.iter().enumerate().map(|(i, key)| answer(key, i)).collect();
        let elsewhere = answers.iter().enumerate().filter_map(|(place, answer)| {
            let slot = slot(&keys[place]);
            let address = format!("{}:1", SERVERS[self.owners[usize::from(slot)]]);
            matches!(answer, Answer::Moved | Answer::NotYet(_)).then_some(Elsewhere { place, slot, address })
        });
        let elsewhere = elsewhere.collect();
        self.event(id, Event::Key(Input::Fence(batch, Side::Open)));
        self.handle(Notice::Link(id, LinkNotice::Answers(batch, answers, elsewhere)));
        self.event(id, Event::Key(Input::Fence(batch, Side::Close)));
    }

    fn page(&mut self, id: LinkId, keys: impl Fn(usize) -> bool) {
        let Some(number) = self.links.get_mut(&id).and_then(|link| link.scan.take()) else { return };
        let names =
            (0..KEYS.len()).filter(|&key| keys(key)).map(|key| KEYS[key].as_bytes().to_vec()).collect();
        self.handle(Notice::Link(id, LinkNotice::Page { number, names, next: 0, likely: 4 }));
    }

    fn apply(&mut self, op: &Op) {
        let server = match *op {
            Op::Wait(ms) => {
                self.now = self.now.plus(ms);
                return self.handle(Notice::Due);
            }
            Op::Fleet(members, second, third) => return self.follow(members, second, third),
            Op::Up { server, .. } | Op::Down(server) | Op::Set(server, _) | Op::End(server, ..) => server,
            Op::Canary(server) | Op::Mark(server, _) | Op::Replaced(server) => server,
            Op::Answer(server, _) | Op::Page(server, _) => server,
        };
        let Some(id) = self.link_of(server) else { return };
        let ends = [End::Expired, End::Deleted, End::Evicted];
        match *op {
            Op::Up { run, outage, silent, .. } => self.up(id, run, outage, silent),
            Op::Down(_) => self.down(id),
            Op::Set(_, key) => self.event(id, Event::Key(Input::Renewed(KEYS[key].as_bytes()))),
            Op::End(_, key, end) => {
                self.event(id, Event::Key(Input::Ended(KEYS[key].as_bytes(), ends[usize::from(end)])));
            }
            Op::Canary(_) => self.canary(id),
            Op::Mark(_, mark) => self.event(id, Event::Mark(mark)),
            Op::Replaced(_) => self.handle(Notice::Link(id, LinkNotice::Replaced)),
            Op::Answer(_, digits) => self.answer(id, |_, i| match digits >> (3 * i) & 7 {
                0 | 1 => Answer::Absent,
                2 => Answer::NoTtl,
                3 => Answer::Moved,
                4 => Answer::NotYet(0),
                left => Answer::Left(u64::from(left) * 300),
            }),
            Op::Page(_, keys) => self.page(id, |key| keys & 1 << key != 0),
            Op::Wait(_) | Op::Fleet(..) => {}
        }
    }

    /// The faults end: each server is up, and says what is true of the keys that are `alive`.
    fn come_to_rest(&mut self, alive: &[bool]) {
        self.follow(7, 3, 6);
        let ids: Vec<_> = self.links.keys().copied().collect();
        for id in ids {
            self.down(id);
            self.up(id, true, false, false);
        }
        for _ in 0..600 {
            self.now = self.now.plus(250);
            self.handle(Notice::Due);
            let owners = self.owners;
            let owner = |key: &Key| owners[usize::from(slot(key))];
            let ids: Vec<_> = self.links.iter().map(|(&id, link)| (id, link.server)).collect();
            for (id, server) in ids {
                if self.links[&id].canary {
                    self.canary(id);
                }
                let lives =
                    |at: usize| alive[at] && owner(&Key::parse(KEYS[at].as_bytes()).unwrap()) == server;
                self.page(id, lives);
                self.answer(id, |key, _| {
                    let at = KEYS.iter().position(|name| *name == key.as_str()).expect("a key");
                    match owner(key) == server {
                        true if alive[at] => Answer::Left(20_000),
                        true => Answer::Absent,
                        false => Answer::Moved,
                    }
                });
            }
        }
    }

    /// The live keys, and their servers.
    fn lives(&self) -> Vec<(String, usize)> {
        self.believed.iter().map(|(key, link)| (key.clone(), self.links[link].server)).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_hold_every_rule(
        ops in prop::collection::vec(op(), 0..80),
        alive in prop::collection::vec(any::<bool>(), KEYS.len()),
    ) {
        let mut fleets = Fleets::new();
        fleets.follow(7, 3, 6);
        ops.iter().for_each(|op| fleets.apply(op));
        fleets.come_to_rest(&alive);
        let owner = |at: usize| fleets.owners[usize::from(slot(&Key::parse(KEYS[at].as_bytes()).unwrap()))];
        let truth: Vec<_> =
            (0..KEYS.len()).filter(|&at| alive[at]).map(|at| (KEYS[at].to_owned(), owner(at))).collect();
        prop_assert_eq!(fleets.lives(), truth, "each key at its owner, and nowhere else");
        prop_assert!(fleets.status_up && fleets.opened && fleets.tracker.settled());
        prop_assert_eq!(fleets.tracker.counts().keys as usize, fleets.believed.len());
        prop_assert_eq!(fleets.tracker.servers().len(), SERVERS.len(), "servers that left are forgotten");
    }
}
