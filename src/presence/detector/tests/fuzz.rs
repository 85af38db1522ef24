//! Any input in any order: the detector must not panic, and its books must agree with each other.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::HashMap;

#[derive(Debug, Clone)]
enum Op {
    Wait(u64),
    Renewed(Vec<u8>),
    Created(Vec<u8>),
    Retimed(Vec<u8>),
    Pushed(Vec<u8>),
    Placed(Vec<u8>),
    Written(Vec<u8>, u32),
    EndsIn(Vec<u8>, u32),
    Ended(Vec<u8>, End),
    Doubted(Vec<u8>),
    Fence(BatchId, Side),
    Answers(BatchId, Vec<Answer>),
    /// To the oldest batch that was asked for: fences and answers as they should be, each or not.
    Answered([bool; 3], Vec<Answer>),
    Up {
        run: u8,
        outage: bool,
        uptime_ms: u64,
    },
    Gap,
    Down,
    Page(u8, Vec<Vec<u8>>, u64),
    /// Of the scan that was asked for last.
    NextPage(Vec<Vec<u8>>, u64),
    Adopted(Moved, ServerId),
    LetGo(Vec<u8>),
    Retired,
    Sweep,
    Proven,
    Leads(bool),
    Follows,
    Suspected(Vec<u8>),
    CommonTtl(u32),
    Refused,
}

/// Mostly names that meet again, and some that cannot be keys.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        12 => (0u8..6).prop_map(|i| [&b"a"[..], b"b", b"a#x", b"a#y", "é".as_bytes(), b"c"][usize::from(i)].to_vec()),
        1 => vec(any::<u8>(), 0..8),
        1 => vec(any::<u8>(), 250..330),
    ]
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![Just("a"), Just("a#x"), Just("c")].prop_map(|name| Key::parse(name.as_bytes()).unwrap())
}

/// Short and long spans, and absurd ones.
fn ms() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0u64..100, 4 => 0u64..100_000, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        3 => Just(Answer::Absent),
        1 => Just(Answer::NoTtl),
        1 => Just(Answer::Moved),
        1 => (0u64..3).prop_map(Answer::NotYet),
        6 => ms().prop_map(Answer::Left),
    ]
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Expired), Just(End::Deleted), Just(End::Evicted)]
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Open), Just(Side::Close)]
}

fn moved() -> impl Strategy<Value = Moved> {
    (key(), ms(), ms(), any::<u32>(), any::<[bool; 3]>()).prop_map(
        |(key, last_seen, deadline, ttl_ms, [granted, fickle, not_yet])| Moved {
            key,
            last_seen: Time::from_ms(last_seen),
            deadline: Time::from_ms(deadline),
            ttl_ms,
            granted,
            fickle,
            not_yet,
        },
    )
}

fn cursor() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0), 1 => any::<u64>()]
}

fn op() -> impl Strategy<Value = Op> {
    let up = (0u8..2, any::<bool>(), ms());
    prop_oneof![
        4 => (0u64..60).prop_map(Op::Wait),
        1 => (0u64..1 << 33).prop_map(Op::Wait),
        8 => name().prop_map(Op::Renewed),
        2 => name().prop_map(Op::Created),
        2 => name().prop_map(Op::Retimed),
        3 => name().prop_map(Op::Pushed),
        2 => name().prop_map(Op::Placed),
        2 => (name(), prop_oneof![0u32..100, any::<u32>()]).prop_map(|(name, ttl)| Op::Written(name, ttl)),
        2 => (name(), prop_oneof![0u32..100, any::<u32>()]).prop_map(|(name, left)| Op::EndsIn(name, left)),
        5 => (name(), end()).prop_map(|(name, end)| Op::Ended(name, end)),
        2 => name().prop_map(Op::Doubted),
        2 => (0u32..9, side()).prop_map(|(id, side)| Op::Fence(id, side)),
        2 => (0u32..9, vec(answer(), 0..4)).prop_map(|(id, answers)| Op::Answers(id, answers)),
        8 => (any::<[bool; 3]>(), vec(answer(), 8)).prop_map(|(which, answers)| Op::Answered(which, answers)),
        8 => vec(answer(), 8).prop_map(|answers| Op::Answered([true; 3], answers)),
        2 => up.prop_map(|(run, outage, uptime_ms)| Op::Up { run, outage, uptime_ms }),
        1 => Just(Op::Gap),
        1 => Just(Op::Down),
        1 => (any::<u8>(), vec(name(), 0..4), cursor()).prop_map(|(pass, names, next)| Op::Page(pass, names, next)),
        4 => (vec(name(), 0..4), cursor()).prop_map(|(names, next)| Op::NextPage(names, next)),
        3 => (moved(), 0u64..3).prop_map(|(moved, from)| Op::Adopted(moved, from)),
        2 => name().prop_map(Op::LetGo),
        1 => Just(Op::Retired),
        1 => Just(Op::Sweep),
        8 => Just(Op::Proven),
        1 => any::<bool>().prop_map(Op::Leads),
        1 => Just(Op::Follows),
        1 => name().prop_map(Op::Suspected),
        1 => any::<u32>().prop_map(Op::CommonTtl),
        1 => Just(Op::Refused),
    ]
}

struct Run {
    now: Time,
    detector: Detector,
    asked: VecDeque<(BatchId, usize)>,
    scan: u8,
    said: HashMap<Key, bool>,
}

impl Run {
    fn new() -> Run {
        let settings = Settings {
            first_ttl_ms: 30,
            batch_keys: 3,
            learn_batches: 2,
            trusted_uptime_ms: 50,
            ..Settings::default()
        };
        Run {
            now: Time::from_ms(1_000),
            detector: Detector::new(settings),
            asked: VecDeque::new(),
            scan: 0,
            said: HashMap::new(),
        }
    }

    fn feed(&mut self, input: Input) {
        self.detector.handle(self.now, input);
        while let Some(output) = self.detector.poll(self.now) {
            match output {
                Output::Changed(change) => {
                    assert!(
                        change.at <= self.now && change.last_seen <= self.now,
                        "{change:?} at {:?}",
                        self.now
                    );
                    let before = self.said.insert(change.key.clone(), change.live).unwrap_or(false);
                    assert_ne!(before, change.live, "said twice: {change:?}");
                }
                Output::Ask(id, keys) => self.asked.push_back((id, keys.len())),
                Output::Scan(number, _) => self.scan = number,
                Output::Moved(_) | Output::Reconciled | Output::Swept => {}
                Output::Restart | Output::Prove | Output::Learnt(..) | Output::Unannounced(_) => {}
                Output::CommonTtl(_) | Output::Unknown { .. } => {}
            }
        }
        self.audit();
    }

    fn apply(&mut self, op: &Op) {
        match op.clone() {
            Op::Wait(ms) => {
                self.now = self.now.plus(ms);
                self.feed(Input::Due);
            }
            Op::Renewed(name) => self.feed(Input::Renewed(&name)),
            Op::Created(name) => self.feed(Input::Created(&name)),
            Op::Retimed(name) => self.feed(Input::Retimed(&name)),
            Op::Pushed(name) => self.feed(Input::Pushed(&name)),
            Op::Placed(name) => self.feed(Input::Placed(&name)),
            Op::Written(name, ttl) => self.feed(Input::Written(&name, ttl)),
            Op::EndsIn(name, left) => self.feed(Input::EndsIn(&name, left)),
            Op::Ended(name, end) => self.feed(Input::Ended(&name, end)),
            Op::Doubted(name) => self.feed(Input::Doubted(&name)),
            Op::Fence(id, side) => self.feed(Input::Fence(id, side)),
            Op::Answers(id, answers) => self.feed(Input::Answers(id, answers)),
            Op::Answered(which, answers) => self.answer(which, answers),
            Op::Up { run, outage, uptime_ms } => {
                let (well, polled) = (self.now.minus(uptime_ms), uptime_ms.is_multiple_of(2));
                let role = [Role::Alone, Role::Holds, Role::Follows][(uptime_ms % 3) as usize];
                self.detector.track(uptime_ms.is_multiple_of(5));
                self.feed(Input::Up { run: &run.to_string(), outage, well, polled, role, uptime_ms });
            }
            Op::Leads(polled) => self.feed(Input::Leads { polled }),
            Op::Follows => self.feed(Input::Follows),
            Op::Suspected(name) => self.feed(Input::Suspected(&name)),
            Op::CommonTtl(ttl) => self.feed(Input::CommonTtl(ttl)),
            Op::Gap => self.feed(Input::Gap),
            Op::Down => self.feed(Input::Down),
            Op::Page(pass, names, next) => self.feed(Input::Page(pass, names, next)),
            Op::NextPage(names, next) => self.feed(Input::Page(self.scan, names, next)),
            Op::Adopted(moved, from) => self.feed(Input::Adopted(&moved, from)),
            Op::LetGo(name) => self.feed(Input::LetGo(&name)),
            Op::Retired => self.feed(Input::Retired { lossy: !self.detector.up }),
            Op::Sweep => self.feed(Input::Sweep),
            Op::Refused => self.feed(Input::Refused(self.now.minus(20))),
            Op::Proven => self.feed(Input::Proven(self.now.plus(1))),
        }
    }

    fn answer(&mut self, [open, told, close]: [bool; 3], mut answers: Vec<Answer>) {
        let Some((id, count)) = self.asked.pop_front() else { return };
        answers.truncate(count);
        if open {
            self.feed(Input::Fence(id, Side::Open));
        }
        if told {
            self.feed(Input::Answers(id, answers));
        }
        if close {
            self.feed(Input::Fence(id, Side::Close));
        }
    }

    /// The books agree with each other.
    fn audit(&self) {
        let detector = &self.detector;
        let (mut live, mut immortal, mut open) = (0, 0, 0);
        let mut digest = Digest::default();
        for at in 0..detector.table.end() {
            let Some(slot) = detector.table.get(at) else { continue };
            self.audit_slot(at, slot);
            assert_eq!(self.said.get(slot.key()).copied().unwrap_or(false), slot.is_live());
            live += u64::from(slot.is_live());
            if slot.is_live() && !slot.is_gone() {
                digest.note(slot.key().as_bytes(), true);
            }
            immortal += u64::from(slot.is_immortal());
            open += usize::from(slot.in_pass());
            assert_eq!(detector.origins.of(at).is_some(), slot.is_adopted(), "{:?}: where from", slot.key());
        }
        assert_eq!(*detector.digest(), digest);
        assert_eq!((detector.counts.keys, detector.counts.immortal), (live, immortal));
        assert_eq!(self.said.values().filter(|live| **live).count() as u64, live);
        assert_eq!(detector.table.places(), detector.table.len());
        assert_eq!(detector.pass.as_ref().map_or(0, ReconcilePass::open), open, "what a pass waits for");
    }

    /// A live key has a place that will look at it again, one that is not has its question.
    fn audit_slot(&self, at: u32, slot: &Slot) {
        let detector = &self.detector;
        let [queued, batched] = detector.asks.places(at, slot.batch());
        assert_eq!(queued, usize::from(slot.is_queued()), "{:?} in the queues", slot.key());
        assert_eq!(batched, usize::from(slot.batch() != 0), "{:?} in its batch", slot.key());
        let waits = queued + batched;
        assert!(waits <= 1, "{:?} is asked for twice", slot.key());
        if !slot.is_live() {
            assert_eq!(waits, 1, "{:?} is dead and its slot was not given back", slot.key());
        } else if detector.up && waits == 0 {
            let filed = slot.is_filed() && detector.deadlines.has(at, slot.filed());
            let unasked = detector.unasked.is_some_and(|from| at >= from);
            let awaits_pass = detector.pass.as_ref().is_some_and(|pass| !pass.sweeps() && !pass.is_read());
            let others = detector.leaves_to_holder(at);
            assert!(filed || unasked || awaits_pass || others, "nobody will look at {:?} again", slot.key());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn any_input_keeps_the_books(ops in vec(op(), 0..80)) {
        let mut run = Run::new();
        ops.iter().for_each(|op| run.apply(op));
    }
}
