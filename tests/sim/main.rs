//! Whole worlds from a seed: Redis, the users' programs, the network and its faults are models; the detectors, the
//! hub and the watchers are the real ones. No clock, no socket, no thread, so each run can be run again.
//!
//! There is one server, or a cluster of up to three, whose slots move key by key while users beat, whose primaries
//! fail over and come and go, and of which the daemon learns up to a second late. Some servers tell no `set`, or
//! nothing at all, so that keys are looked for by sweeps.
//!
//! At each step it holds:
//!
//! - What is said of a user alternates, and so does what each reader is told, from its snapshot on; numbers
//!   grow; a reader that conflates has one pending change a user at most; a lossless one is told each change, or
//!   that it overflowed.
//! - Of one server that tells all, wherever nothing is missing (from a comparison with Redis to the next fault),
//!   the transitions are those that Redis made, at the same point of the stream, and no other. While grants or what
//!   Redis lost without a word may still be open, this is not asked.
//! - A user whose program renews at least twice a TTL whenever Redis can be reached is never seen offline, whatever
//!   happens, but once for each time that Redis threw the key away and the daemon could not know: an eviction whose
//!   event was lost or not told, or came while a gap was being compared; a failover before the daemon's start; FLUSHALL
//!   or SWAPDB. In the worlds where only that happens, only a user whose key was asked for and found absent, or whose
//!   exchanged key ran out, before the next canary noticed.
//! - Nobody changes while the server is out of reach.
//! - In a cluster that announces each coming and going of a key, no more of them are said than there were.
//!
//! Then the faults end, and some TTLs later everybody's view is what Redis holds.
//!
//! `KEYBEAT_SIM_SECONDS=60 cargo test --test sim` looks longer; `KEYBEAT_SIM_SEED=7 cargo test --test sim fresh`
//! runs one seed and, if it fails, tells the end of its story (all of it with `KEYBEAT_SIM_ALL=1`).

mod book;
mod cluster;
mod daemon;
mod faults;
mod link;
mod programs;
mod redis;
mod server;
mod verdict;
mod watcher;
mod world;

use std::time::{Duration, Instant};
use world::{Broken, World};

/// Lines of a story that are told.
const TOLD: usize = 150;
/// In so many seeds a broken relay must be caught.
const CAUGHT_WITHIN: u64 = 100;

/// Names the seed if the code under test panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in the world of KEYBEAT_SIM_SEED={}", self.0);
        }
    }
}

fn run(seed: u64, broken: Broken, record: bool) -> World {
    let _named = Named(seed);
    let mut world = World::new(seed, broken, record);
    world.run();
    world
}

/// Runs a seed; if it fails, tells its end.
fn check(seed: u64) -> World {
    let world = run(seed, Broken::No, false);
    if world.failure.is_none() {
        return world;
    }
    let told = run(seed, Broken::No, true);
    let lines = told.trail.lines.unwrap_or_default();
    let start =
        if std::env::var_os("KEYBEAT_SIM_ALL").is_some() { 0 } else { lines.len().saturating_sub(TOLD) };
    eprintln!("{}\n{}", lines[0], lines[start..].join("\n"));
    let why = told.failure.unwrap_or_default();
    panic!("{why}\nagain: KEYBEAT_SIM_SEED={seed} cargo test --test sim fresh -- --nocapture");
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// New ones each time: what it finds may be older than the change that is tested, but it is a fault.
#[test]
fn many_fresh_seeds_hold_every_rule() {
    if let Some(seed) = from_env("KEYBEAT_SIM_SEED") {
        check(seed);
        return;
    }
    let limit = Duration::from_secs(from_env("KEYBEAT_SIM_SECONDS").unwrap_or(10));
    let (start, mut seeds, mut steps, mut virtual_ms) = (Instant::now(), 0, 0, 0);
    while start.elapsed() < limit {
        let world = check(fastrand::u64(..));
        (seeds, steps, virtual_ms) = (seeds + 1, steps + world.steps, virtual_ms + world.now - 1_000_000);
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = steps as f64 / seconds;
    println!(
        "{seeds} seeds, {rate:.0} steps/s, {} h of virtual time in {seconds:.0} s",
        virtual_ms / 3_600_000
    );
}

#[test]
fn one_seed_gives_one_run() {
    for seed in 0..10 {
        let [one, other] = [run(seed, Broken::No, false), run(seed, Broken::No, true)];
        assert_eq!((one.trail.hash, one.steps), (other.trail.hash, other.steps), "seed {seed}");
    }
    assert_ne!(run(1, Broken::No, false).trail.hash, run(2, Broken::No, false).trail.hash);
}

/// Seeds that once found a fault.
const FOUND: [u64; 3] = [2601290503133509578, 10616702476772897011, 17577835325271908578];

#[test]
fn the_same_seeds_hold_each_time() {
    for seed in (0..40).chain(FOUND) {
        check(seed);
    }
}

#[test]
fn a_broken_relay_is_caught() {
    use Broken::{DeafToGaps, DelBelieved, FencesJump, LetsGoFirst, NeverSweeps, ReplacedAtOnce};
    for broken in [DeafToGaps, FencesJump, DelBelieved, LetsGoFirst, ReplacedAtOnce, NeverSweeps] {
        let caught = (0..CAUGHT_WITHIN).find(|&seed| run(seed, broken, false).failure.is_some());
        assert!(caught.is_some(), "{broken:?} went unseen");
    }
}
