//! Random worlds.

use super::world::{Fate, World};
use crate::stream::{BUCKETS, StreamOrder};
use fastrand::Rng;
use proptest::prelude::*;

/// The faults apart from kills, freezes, lost messages and views that are not current.
#[derive(Clone, Copy)]
struct Harm {
    /// The server loses buckets.
    buckets: bool,
    /// The server loses the latest writes, or the stream is deleted.
    data: bool,
}

fn fate(rng: &mut Rng, order: &StreamOrder) -> Fate {
    match rng.u8(..20) {
        0 => Fate::Unanswered,
        1 => Fate::Dropped,
        2 if *order != StreamOrder::Mark => Fate::Late,
        3 if *order != StreamOrder::Mark => Fate::Refused(rng.usize(..2)),
        _ => Fate::Answered,
    }
}

/// One thing happens.
fn step(world: &mut World, rng: &mut Rng, harm: Harm, before: &mut super::server::Server) {
    let at = rng.usize(..world.daemons.len());
    match rng.u8(..100) {
        0..25 => world.truth.toggle(&format!("u{}", rng.u8(..6))),
        25..40 => world.see(at, rng.usize(..4)),
        40..80 => {
            for _ in 0..rng.usize(1..BUCKETS * 2) {
                if !world.turn(at, |order| fate(rng, order)) {
                    world.now = world.now.plus(rng.u64(..30));
                }
            }
        }
        80..86 => world.now = world.now.plus(rng.u64(..2_000)),
        86..89 => world.now = world.now.plus(rng.u64(..12_000)),
        89..92 => world.restart(at),
        92..94 => world.daemons[at].current ^= true,
        94..96 if !world.late.is_empty() => {
            let order = world.late.swap_remove(rng.usize(..world.late.len()));
            world.server.execute(world.now, &order);
        }
        96 if rng.bool() => world.server.lose_lease(),
        96 if !harm.buckets => world.server.keep_lease(),
        96 => world.server.lose_bucket(rng.usize(..BUCKETS)),
        97..98 if harm.data => *before = world.server.clone(),
        98..99 if harm.data => world.server = before.clone(),
        99 if harm.data => world.server.delete_stream(),
        _ => {}
    }
}

fn run(seed: u64, harm: Harm) -> World {
    let mut rng = Rng::with_seed(seed);
    let mut world = World::new(rng.usize(1..4));
    let mut before = world.server.clone();
    for _ in 0..300 {
        step(&mut world, &mut rng, harm, &mut before);
        world.reported();
    }
    world.calm();
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn entries_alternate_and_are_right_in_the_end(seed: u64, buckets: bool) {
        let world = run(seed, Harm { buckets, data: false });
        world.check_right();
        world.check_true();
    }

    #[test]
    fn lost_data_is_written_again(seed: u64) {
        run(seed, Harm { buckets: true, data: true }).check_right();
    }
}
