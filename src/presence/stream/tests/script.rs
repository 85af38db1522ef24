//! Single situations.

use super::server::LEASE_MS;
use super::world::{Fate, World};
use crate::stream::{StreamOrder, StreamRole, bucket_of};

fn settle(world: &mut World) {
    for at in 0..world.daemons.len() {
        world.see(at, usize::MAX);
        while world.turn(at, |_| Fate::Answered) {}
    }
}

fn roles(world: &World) -> Vec<StreamRole> {
    world.daemons.iter().map(|daemon| daemon.writer.role()).collect()
}

fn entries(world: &World) -> String {
    let sign = |online: bool| if online { '+' } else { '-' };
    let entries = world.server.entries.iter();
    entries.map(|written| format!("{}{}", sign(written.entry.online), written.user())).collect()
}

#[test]
fn one_daemon_writes_and_another_takes_over() {
    let mut world = World::new(2);
    settle(&mut world);
    assert_eq!(roles(&world), [StreamRole::Writer, StreamRole::Waits]);
    for user in ["a", "b", "a"] {
        world.truth.toggle(user);
    }
    settle(&mut world);
    assert_eq!(entries(&world), "+a+b-a");
    // The writer freezes. A user goes, another comes and goes.
    world.truth.toggle("b");
    world.now = world.now.plus(LEASE_MS + 1_000);
    world.see(1, usize::MAX);
    while world.turn(1, |_| Fate::Answered) {}
    assert_eq!(roles(&world)[1], StreamRole::Writer);
    assert_eq!(entries(&world), "+a+b-a-b");
    settle(&mut world);
    assert_eq!((roles(&world)[0], entries(&world)), (StreamRole::Waits, "+a+b-a-b".into()));
}

#[test]
fn start_adds_what_is_missing() {
    let mut world = World::new(1);
    ["a", "b"].iter().for_each(|user| world.truth.toggle(user));
    settle(&mut world);
    assert_eq!(world.server.online().len(), 2);
    // Nobody runs.
    ["a", "c", "b", "b"].iter().for_each(|user| world.truth.toggle(user));
    world.restart(0);
    world.now = world.now.plus(LEASE_MS + 1_000);
    settle(&mut world);
    world.check_right();
    assert_eq!(world.server.entries.len(), 4, "a went, c came; b went and came back unseen");
}

#[test]
fn repeated_write_takes_effect_once() {
    let mut world = World::new(1);
    settle(&mut world);
    world.truth.toggle("a");
    world.truth.toggle("a");
    world.see(0, usize::MAX);
    assert!(world.turn(0, |_| Fate::Unanswered));
    world.now = world.now.plus(100);
    settle(&mut world);
    assert_eq!(entries(&world), "+a-a");
}

#[test]
fn late_write_of_an_earlier_term_takes_no_effect() {
    let mut world = World::new(1);
    settle(&mut world);
    world.truth.toggle("a");
    world.see(0, usize::MAX);
    assert!(world.turn(0, |_| Fate::Late));
    world.now = world.now.plus(LEASE_MS + 1_000);
    settle(&mut world);
    world.truth.toggle("a");
    settle(&mut world);
    assert_eq!(entries(&world), "+a-a");
    let late = world.late.pop().expect("an order");
    world.server.execute(world.now, &late);
    assert_eq!(entries(&world), "+a-a");
}

#[test]
fn lost_bucket_is_rebuilt_without_entries() {
    let mut world = World::new(1);
    ["a", "b"].iter().for_each(|user| world.truth.toggle(user));
    settle(&mut world);
    let before = entries(&world);
    for user in ["a", "b"] {
        world.server.lose_bucket(bucket_of(user));
    }
    world.truth.toggle("a");
    settle(&mut world);
    assert_eq!(entries(&world), before.clone() + "-a");
    // The other bucket is noticed by the slow comparison, or by a daemon that takes over: it reads the stream.
    world.restart(0);
    world.now = world.now.plus(LEASE_MS + 1_000);
    settle(&mut world);
    assert_eq!(entries(&world), before + "-a");
    world.check_right();
}

#[test]
fn refused_write_repeats_nothing_in_a_lost_bucket() {
    let mut world = World::new(1);
    world.truth.toggle("z");
    settle(&mut world);
    ["a", "b"].iter().for_each(|user| world.truth.toggle(user));
    world.see(0, usize::MAX);
    // The server adds the first entry, and refuses the second one.
    assert!(world.turn(0, |_| Fate::Refused(1)));
    assert_eq!(entries(&world), "+z+a");
    world.server.lose_bucket(bucket_of("a"));
    world.now = world.now.plus(100);
    settle(&mut world);
    assert_eq!(entries(&world), "+z+a+b");
    world.calm();
    world.check_right();
}

#[test]
fn view_that_is_not_current_yields_the_lease() {
    let mut world = World::new(2);
    settle(&mut world);
    world.daemons[0].current = false;
    world.truth.toggle("a");
    for _ in 0..6 {
        world.now = world.now.plus(1_000);
        while world.turn(0, |_| Fate::Answered) {}
    }
    assert_eq!(roles(&world), [StreamRole::Writer, StreamRole::Waits], "nobody else asked for it");
    settle(&mut world);
    assert_eq!(roles(&world)[1], StreamRole::Writer);
    world.now = world.now.plus(1_000);
    settle(&mut world);
    assert_eq!((roles(&world)[0], entries(&world)), (StreamRole::Waits, "+a".into()));
}

#[test]
fn deleted_stream_begins_with_everybody_online() {
    let mut world = World::new(1);
    ["a", "b", "b"].iter().for_each(|user| world.truth.toggle(user));
    settle(&mut world);
    world.server.delete_stream();
    world.now = world.now.plus(1_500);
    settle(&mut world);
    assert_eq!(entries(&world), "+a");
    assert_eq!(world.daemons[0].writer.counts().deleted, 1);
}

#[test]
fn slow_comparison_corrects_what_a_program_changed() {
    let mut world = World::new(1);
    ["a", "b"].iter().for_each(|user| world.truth.toggle(user));
    settle(&mut world);
    world.server.tamper("a");
    world.calm();
    assert_eq!(world.server.online().len(), 2);
    assert_eq!(world.daemons[0].writer.counts().takeovers, 1, "the lease was never lost");
}

#[test]
fn writer_leaves_after_its_last_entry() {
    let mut world = World::new(2);
    settle(&mut world);
    world.truth.toggle("a");
    world.see(0, usize::MAX);
    assert!(!world.daemons[0].writer.leave());
    while world.turn(0, |_| Fate::Answered) {}
    assert!(world.daemons[0].writer.leave());
    assert_eq!((entries(&world), world.server.holder(world.now)), ("+a".into(), None));
    assert!(!world.turn(0, |_| Fate::Answered), "it takes no lease again");
}

#[test]
fn writer_that_falls_behind_compares_again() {
    let mut world = World::new(1);
    settle(&mut world);
    (0..41).for_each(|_| world.truth.toggle("a"));
    settle(&mut world);
    assert_eq!((entries(&world), world.daemons[0].writer.counts().behind), ("+a".into(), 1));
}

#[test]
fn order_is_sent_again_unchanged() {
    let mut world = World::new(1);
    settle(&mut world);
    world.truth.toggle("a");
    world.see(0, usize::MAX);
    let mut sent: Vec<StreamOrder> = Vec::new();
    for _ in 0..3 {
        world.now = world.now.plus(100);
        world.turn(0, |order| {
            sent.push(order.clone());
            Fate::Dropped
        });
        world.truth.toggle("a");
        world.see(0, usize::MAX);
    }
    assert_eq!((sent.len(), &sent[0]), (3, &sent[1]));
    assert_eq!(sent[1], sent[2]);
}
