//! The differences between worlds.

use super::faults::Fault;
use super::server::Rules;
use fastrand::Rng;

/// A rule that a world breaks, to see that it can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    No,
    /// The scripts write whoever holds the lease.
    LeaseUnchecked,
    /// The scripts write whatever number a batch has.
    NumbersUnchecked,
    /// A bucket counts as whole without its member `#`.
    SentinelsUnchecked,
    /// The scripts add entries that do not alternate.
    StatesUnchecked,
    /// A mark has passed as soon as it is sent.
    MarksAtOnce,
}

impl Broken {
    pub const SCRIPTS: [Broken; 4] = [
        Broken::LeaseUnchecked,
        Broken::NumbersUnchecked,
        Broken::SentinelsUnchecked,
        Broken::StatesUnchecked,
    ];

    /// The rules that the scripts keep.
    pub fn rules(self) -> Rules {
        Rules {
            lease: self != Broken::LeaseUnchecked,
            numbers: self != Broken::NumbersUnchecked,
            sentinels: self != Broken::SentinelsUnchecked,
            states: self != Broken::StatesUnchecked,
        }
    }
}

#[derive(Debug)]
pub struct Knobs {
    pub broken: Broken,
    pub daemons: usize,
    pub users: usize,
    /// Servers of presence keys.
    pub nodes: usize,
    /// Up to so many milliseconds a message takes.
    pub latency_ms: u64,
    pub chaos_ms: u64,
    pub fault_every_ms: u64,
    pub canary_limit_ms: u64,
    pub faults: Vec<Fault>,
    /// SETs are lost.
    pub loses_buckets: bool,
    /// The stream is trimmed.
    pub trims: bool,
    /// The stream's server loses writes, or the stream is deleted.
    pub loses_data: bool,
    /// Connections to presence keys fail, or their servers.
    pub blinds: bool,
    /// Orders are refused in the middle.
    pub refuses: bool,
    /// The stream is at the first server of presence keys, and fails with it.
    pub together: bool,
    /// Nobody comes or goes as soon as the faults end.
    pub ends_still: bool,
}

impl Knobs {
    pub fn new(rng: &mut Rng, broken: Broken) -> Knobs {
        let one_in = |rng: &mut Rng, of: u8| rng.u8(..of) == 0;
        let mut knobs = Knobs {
            broken,
            daemons: rng.usize(2..=5),
            users: rng.usize(1..=8),
            nodes: if one_in(rng, 3) { 2 } else { 1 },
            latency_ms: [0, 3, 20, 60, 150][rng.usize(..5)],
            chaos_ms: rng.u64(20_000..80_000),
            fault_every_ms: [1_000, 4_000, 12_000][rng.usize(..3)],
            canary_limit_ms: [1_500, 8_000][rng.usize(..2)],
            faults: Vec::new(),
            loses_buckets: one_in(rng, 3),
            trims: one_in(rng, 4),
            loses_data: one_in(rng, 4),
            blinds: one_in(rng, 3),
            refuses: one_in(rng, 4),
            together: rng.bool(),
            ends_still: rng.bool(),
        };
        knobs.faults = Fault::ALL.into_iter().filter(|fault| fault.is_allowed(&knobs)).collect();
        if rng.bool() {
            // A few kinds, but often.
            rng.shuffle(&mut knobs.faults);
            knobs.faults.truncate(3);
        }
        knobs
    }

    /// Can the entries of each user be foretold from what Redis did? In a cluster, a daemon asks before it believes a deletion; a session
    /// that begins before the answer hides it.
    pub fn is_exact(&self) -> bool {
        self.nodes == 1 && !self.loses_data && !self.blinds && !self.forgets()
    }

    /// May an entry repeat one that was trimmed? The daemon that reads a lost SET again from the stream does not find it.
    pub fn forgets(&self) -> bool {
        self.loses_buckets && self.trims
    }
}
