//! The stream of transitions, from a seed. Two to five daemons watch the same users, and one of them at a time writes the stream. Each
//! daemon is the product's own tracker, hub and stream writer, with the view that the writer has of the hub. The servers of the
//! presence keys, the server of the stream, the users and the messages are models. The scripts are one model, which the unit tests of the
//! writer use as well: `src/presence/stream/tests/server.rs`.
//!
//! Daemons are killed, freeze, become slow, lose the stream's server, leave, and come back; for a while there may be none. Orders are
//! lost on their way, or done without a reply, or done long after the daemon has given them up, or refused in the middle.
//! The lease's key is lost, or becomes immortal. The SETs of users online are lost, also between two pages of a read. The stream is
//! trimmed. Its server restarts with all data, with older data or with none, or fails over, alone or together with a server of presence
//! keys. Connections to presence keys break, lag and go deaf. The hub moves on while the writer reads it.
//!
//! These rules hold all the time, see `verdict.rs`:
//!
//! - The entries of each user alternate.
//! - Once another daemon has written, an earlier term writes no more.
//! - An entry is not before its cause, and its times are in order.
//!
//! Then the faults end, and some seconds later the users come and go no more:
//!
//! - Where no server lost data and no event was late or lost, the entries of each user are the transitions that Redis made. Only those may be
//!   missing that came and went again while no daemon followed its own transitions: during a takeover, a comparison, or a gap.
//! - The last entry of each user is the truth, and so are the SETs. One daemon writes.
//! - Where SETs were lost or changed by another program, the same holds after each SET was compared once.
//!
//! `make test` runs a fixed set of seeds. `KEYBEAT_SIM_SECONDS=60 cargo test --test sim sinks::fresh` runs new ones for that long;
//! `KEYBEAT_SIM_SEED=7 cargo test --test sim sinks::fresh` runs one seed and, if it fails, prints the end of its story.

mod daemon;
mod desk;
mod faults;
mod knobs;
#[path = "../../../src/presence/stream/tests/server.rs"]
mod server;
mod users;
mod verdict;
mod view;
mod world;

// See the head of `server`.
use keybeat::presence;
use knobs::Broken;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use world::World;

/// Lines of a story that are printed.
const TOLD: usize = 150;
/// A broken rule must be caught within so many seeds.
const CAUGHT_WITHIN: u64 = 300;
/// The seeds that run each time.
const FIXED: std::ops::Range<u64> = 0..100;
/// The kinds of replies of the stream's server.
const REPLIES: usize = 14;
/// Seeds that once found a fault.
const FOUND: [u64; 1] = [16810961728947012523];

fn run(seed: u64, broken: Broken, record: bool) -> World {
    let _named = super::Named(seed);
    let mut world = World::new(seed, broken, record);
    world.run();
    world
}

/// Runs a seed; if it fails, prints its end.
fn check(seed: u64) -> World {
    let world = run(seed, Broken::No, false);
    if world.failure.is_none() {
        return world;
    }
    let again = run(seed, Broken::No, true);
    let lines = again.trail.lines.unwrap_or_default();
    let start =
        if std::env::var_os("KEYBEAT_SIM_ALL").is_some() { 0 } else { lines.len().saturating_sub(TOLD) };
    eprintln!("{}\n{}", lines[0], lines[start..].join("\n"));
    let why = again.failure.unwrap_or_default();
    panic!("{why}\nagain: KEYBEAT_SIM_SEED={seed} cargo test --test sim sinks::fresh -- --nocapture");
}

/// Only when asked for: a failure may be older than the change under test, but it is always a fault.
#[test]
fn fresh_seeds_hold_every_rule() {
    if let Some(seed) = super::from_env("KEYBEAT_SIM_SEED") {
        return drop(check(seed));
    }
    let Some(seconds) = super::from_env("KEYBEAT_SIM_SECONDS") else { return };
    let (start, mut seeds) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        check(fastrand::u64(..));
        seeds += 1;
    }
    println!("{seeds} seeds of sinks in {seconds} s");
}

#[test]
fn one_seed_gives_one_run() {
    for seed in 0..10 {
        let [one, other] = [false, true].map(|record| run(seed, Broken::No, record));
        assert_eq!((one.trail.hash, one.steps), (other.trail.hash, other.steps), "seed {seed}");
    }
}

#[test]
fn fixed_seeds_hold_every_rule() {
    let mut replies: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in FIXED.chain(FOUND) {
        let world = check(seed);
        world.book.replies.into_iter().for_each(|(name, count)| *replies.entry(name).or_default() += count);
    }
    // A kind of reply that never comes tests nothing.
    assert!(replies.len() == REPLIES && replies.values().all(|&count| count > 1), "{replies:?}");
}

fn is_caught(broken: Broken) {
    let caught = (0..CAUGHT_WITHIN).find(|&seed| run(seed, broken, false).failure.is_some());
    assert!(caught.is_some(), "{broken:?} went unseen");
}

#[test]
fn broken_scripts_are_caught() {
    Broken::SCRIPTS.into_iter().for_each(is_caught);
}

#[test]
fn broken_views_are_caught() {
    is_caught(Broken::MarksAtOnce);
}
