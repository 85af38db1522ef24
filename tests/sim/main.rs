//! Whole worlds from a seed. Redis, the users' programs, the network and its faults are models; the tracker with its
//! detectors, the hub and the watchers are the product's own. There is no clock, socket or thread, so each run can be
//! repeated.
//!
//! There is one server, or a cluster of up to three, whose slots move key by key, or as a whole, while users beat, whose primaries
//! fail over and come and go, and whose shape the daemon learns up to a second late. Some servers publish no `set`, or
//! nothing at all, so the daemon polls them. Connections break, also again during the comparison that follows; streams
//! go deaf while their sockets look alive, to all events or to those of one class; servers refuse writes for a while, or freeze;
//! the daemon loses a right for a while; slots of a cluster lose their owner; the process is stopped. Some
//! users change their sessions all the time, also from one server to another. Some are kept online with another
//! TTL each time, by programs or by daemons.
//!
//! At each step these rules hold:
//!
//! - Transitions of a user alternate, and so does what each reader receives, from its snapshot on. Numbers grow. A
//!   reader that conflates has at most one pending change per user. A lossless reader receives each change, or
//!   learns that it overflowed.
//! - With one server that publishes all events, wherever nothing is missing (from a comparison with Redis to the next
//!   fault), the transitions are exactly those that Redis made, at the same point of the stream. The rule pauses while
//!   grants, or losses that Redis did not announce, may still be open.
//! - A user whose program renews at least twice a TTL whenever Redis can be reached is never seen offline, except once
//!   for each time that Redis threw the key away and the daemon could not know: an eviction whose event was lost or not
//!   published, or came while a gap was being compared or before the daemon found the key at its slot's new owner; a failover before the daemon's start; a key of another database
//!   that SWAPDB brought and that ran out before the next canary noticed; FLUSHALL in a cluster, where slots move. Where
//!   servers refuse writes or freeze, TTLs shorter than 3 s are left out, since they may run out before a canary shows it.
//! - Nobody changes while the server is out of reach.
//! - In a cluster that announces each coming and going of a key, the daemon reports no more of them than there were.
//! - A comparison ends a gap. The status is up only while each server is compared.
//!
//! - A user whose program falls silent is offline after the last heartbeat, the TTL, the sum of the outages and one more TTL.
//! - A transition names a heartbeat at which the user's key was there. The times of a user never go back.
//!
//! Some worlds have a scene of their own, see `scenes.rs`: a cluster in which nothing is lost and nothing moves, nodes that change
//! addresses, servers that refuse writes or lose their keys again and again, users who change sessions while the daemon is stopped.
//!
//! Then the faults end, and some TTLs later everybody's view is what Redis holds.
//!
//! In some worlds there are other daemons: one of them, or this one, holds each server's lease; they die and freeze, take the lease
//! although another holds it, and the lease's key is lost or becomes immortal.
//!
//! In some of them the daemon keeps only chosen users, as with `--hold watched`: all users are chosen, and it asks at their deadlines
//! itself, whoever holds the lease.
//!
//! Each world has a mode: the daemon hears each `set`, or each `expire` too, or renewals are found by questions alone; and servers publish `new`, or,
//! as Redis 6, they do not. Or the servers publish no event of a key, and push the names of those that changed: then a key that changes and
//! changes back before it is asked for is not reported, and an eviction looks like a deletion.
//!
//! The stream of transitions has a world of its own with several daemons, see `sinks/mod.rs`.
//!
//! `make test` runs a fixed set of seeds in each mode. `KEYBEAT_SIM_SECONDS=60 cargo test --test sim fresh` runs new ones for that
//! long; `KEYBEAT_SIM_SEED=7 cargo test --test sim fresh` runs one seed and, if it fails, prints the end of its story
//! (all of it with `KEYBEAT_SIM_ALL=1`). `KEYBEAT_SIM_MODE=new` runs one mode alone.

mod book;
mod cluster;
mod faults;
mod link;
mod others;
mod programs;
mod pushes;
mod redis;
mod relay;
mod scenes;
mod sinks;
mod times;
mod verdict;
mod watcher;
mod world;

use std::time::{Duration, Instant};
use world::{Broken, Mode, World};

/// Lines of a story that are printed.
const TOLD: usize = 150;
/// A broken relay must be caught within so many seeds.
const CAUGHT_WITHIN: u64 = 400;
/// The seeds that run each time.
const FIXED: std::ops::Range<u64> = 0..120;

/// Names the seed if the code under test panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in the world of KEYBEAT_SIM_SEED={}", self.0);
        }
    }
}

fn run(seed: u64, mode: Mode, broken: Broken, record: bool) -> World {
    let _named = Named(seed);
    let mut world = World::new(seed, mode, broken, record);
    world.run();
    world
}

/// Runs a seed; if it fails, prints its end.
fn check(seed: u64, (name, mode): (&str, Mode)) -> World {
    let world = run(seed, mode, Broken::No, false);
    if world.failure.is_none() {
        return world;
    }
    let again = run(seed, mode, Broken::No, true);
    let lines = again.trail.lines.unwrap_or_default();
    let start =
        if std::env::var_os("KEYBEAT_SIM_ALL").is_some() { 0 } else { lines.len().saturating_sub(TOLD) };
    eprintln!("{}\n{}", lines[0], lines[start..].join("\n"));
    let why = again.failure.unwrap_or_default();
    panic!(
        "{why}\nagain: KEYBEAT_SIM_SEED={seed} KEYBEAT_SIM_MODE='{name}' cargo test --test sim fresh -- --nocapture"
    );
}

/// The modes that the environment asks for: all, or the one of that name.
fn modes() -> Vec<(&'static str, Mode)> {
    let wanted = std::env::var("KEYBEAT_SIM_MODE").ok();
    let is_wanted = |(name, _): &(&str, Mode)| wanted.as_deref().is_none_or(|wanted| wanted == *name);
    let modes: Vec<_> = Mode::ALL.into_iter().filter(is_wanted).collect();
    assert!(!modes.is_empty(), "KEYBEAT_SIM_MODE is one of {:?}", Mode::ALL.map(|(name, _)| name));
    modes
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Only when asked for: a failure may be older than the change under test, but it is always a fault.
#[test]
fn fresh_seeds_hold_every_rule() {
    if let Some(seed) = from_env("KEYBEAT_SIM_SEED") {
        modes().into_iter().for_each(|mode| drop(check(seed, mode)));
        return;
    }
    let Some(seconds) = from_env("KEYBEAT_SIM_SECONDS") else { return };
    let modes = modes();
    let (start, mut seeds, mut steps, mut virtual_ms) = (Instant::now(), 0, 0, 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        let mode = modes[fastrand::usize(..modes.len())];
        let world = check(fastrand::u64(..), mode);
        (seeds, steps, virtual_ms) = (seeds + 1, steps + world.steps, virtual_ms + world.now - 1_000_000);
    }
    let rate = steps / seconds.max(1);
    println!("{seeds} seeds, {rate} steps/s, {} h of virtual time in {seconds} s", virtual_ms / 3_600_000);
}

#[test]
fn one_seed_gives_one_run() {
    for seed in 0..10 {
        let [one, other] = [false, true].map(|record| run(seed, Mode::SET, Broken::No, record));
        assert_eq!((one.trail.hash, one.steps), (other.trail.hash, other.steps), "seed {seed}");
    }
    let [one, two] = [1, 2].map(|seed| run(seed, Mode::SET, Broken::No, false).trail.hash);
    assert_ne!(one, two);
}

/// Seeds that once found a fault.
const FOUND: [u64; 22] = [
    11677972393369865025,
    2601290503133509578,
    10616702476772897011,
    17577835325271908578,
    5498828392587265041,
    15574281372943176134,
    11612332493297657167,
    12410492806549291187,
    14002222583873109109,
    9214544283500680901,
    2894298744546472421,
    11423339345522224468,
    856758447003955797,
    2435103538280404699,
    17565151653222669389,
    1510532097696574543,
    3644421187870748594,
    3328910283971922068,
    12074271757161873202,
    3023838760997355840,
    4001492987936363484,
    15571334677457871865,
];

fn mode(name: &str) -> Mode {
    Mode::ALL.into_iter().find(|(known, _)| *known == name).expect("a mode").1
}

fn fixed_seeds_hold_in(name: &str) {
    for seed in FIXED.chain(FOUND) {
        check(seed, (name, mode(name)));
    }
}

#[test]
fn fixed_seeds_hold_every_rule() {
    fixed_seeds_hold_in("set without new");
}

#[test]
fn fixed_seeds_hold_every_rule_with_new() {
    fixed_seeds_hold_in("set");
}

#[test]
fn fixed_seeds_hold_every_rule_by_questions() {
    fixed_seeds_hold_in("new");
}

#[test]
fn fixed_seeds_hold_every_rule_with_other_daemons() {
    fixed_seeds_hold_in("set with others");
}

#[test]
fn fixed_seeds_hold_every_rule_by_questions_with_other_daemons() {
    fixed_seeds_hold_in("new with others");
}

#[test]
fn fixed_seeds_hold_every_rule_with_watched_users() {
    fixed_seeds_hold_in("watched with others");
}

#[test]
fn fixed_seeds_hold_every_rule_by_tracking() {
    fixed_seeds_hold_in("tracking");
}

#[test]
fn fixed_seeds_hold_every_rule_by_tracking_with_other_daemons() {
    fixed_seeds_hold_in("tracking with others");
}

#[test]
fn fixed_seeds_hold_every_rule_with_expire() {
    fixed_seeds_hold_in("expire");
}

#[test]
fn fixed_seeds_hold_every_rule_with_expire_without_new() {
    fixed_seeds_hold_in("expire without new");
}

fn is_caught(broken: Broken) {
    is_caught_in("set without new", broken);
}

fn is_caught_in(name: &str, broken: Broken) {
    let mode = mode(name);
    let caught = (0..CAUGHT_WITHIN).find(|&seed| run(seed, mode, broken, false).failure.is_some());
    assert!(caught.is_some(), "{broken:?} went unseen in the mode {name}");
}

#[test]
fn broken_worlds_are_caught_by_questions() {
    [Broken::GapsUnseen, Broken::FencesJump].into_iter().for_each(|broken| is_caught_in("new", broken));
}

#[test]
fn broken_tracking_is_caught() {
    [Broken::GapsUnseen, Broken::PushesLost].into_iter().for_each(|broken| is_caught_in("tracking", broken));
}

#[test]
fn broken_leases_are_caught() {
    [Broken::LeadsUnseen, Broken::BeatsForever]
        .into_iter()
        .for_each(|broken| is_caught_in("set with others", broken));
}

#[test]
fn broken_connections_are_caught() {
    [Broken::GapsUnseen, Broken::RestartsUnseen, Broken::CanariesEchoed].into_iter().for_each(is_caught);
    [Broken::OutagesUnseen, Broken::ProofsAtOnce].into_iter().for_each(is_caught);
}

#[test]
fn broken_streams_are_caught() {
    [Broken::FencesJump, Broken::ReplacedAtOnce, Broken::NeverPolls].into_iter().for_each(is_caught);
}

#[test]
fn broken_moves_are_caught() {
    [Broken::DelBelieved, Broken::LetsGoFirst, Broken::OwnersUnseen].into_iter().for_each(is_caught);
}
