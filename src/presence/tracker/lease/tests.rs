//! Two to five daemons, one key and a network that loses, delays and cuts.

use super::*;
use fastrand::Rng;
use std::collections::BTreeMap;

fn at(ms: u64) -> Time {
    Time::from_ms(ms)
}

fn other(name: &str) -> LeaseReply {
    LeaseReply::Other(name.into())
}

const MINE: LeaseReply = LeaseReply::Mine { daemons: 2 };

/// A lease whose key another daemon, `b`, held when the server was connected.
fn followed() -> Lease {
    let mut lease = Lease::default();
    lease.up(at(0), Some(other("b")), Candidacy::Never);
    lease
}

fn held() -> Lease {
    let mut lease = Lease::default();
    lease.up(at(0), Some(MINE), Candidacy::Stands);
    lease
}

#[test]
fn holder_renews_once_a_second() {
    let mut lease = held();
    assert_eq!(lease.state(), LeaseState::Held);
    assert_eq!(lease.due(at(999), Fitness::Fit), (None, Turn::Stay));
    assert_eq!(lease.due(at(1_000), Fitness::Fit), (Some(LeaseOrder::Renew), Turn::Stay));
    assert_eq!(lease.due(at(2_000), Fitness::Fit), (None, Turn::Stay), "the reply is under way");
    assert_eq!(lease.replied(at(2_001), MINE), (None, Turn::Stay));
    assert_eq!(lease.due(at(3_000), Fitness::Fit), (Some(LeaseOrder::Renew), Turn::Stay));
}

#[test]
fn daemon_leads_until_it_hears_another_one() {
    let mut lease = Lease::default();
    lease.up(at(0), Some(other("b")), Candidacy::Stands);
    assert!(lease.leads() && lease.state() == LeaseState::None);
    let mut heard = lease.clone();
    assert_eq!(
        (heard.beat(at(800), "b", 2, false), heard.beat(at(1_800), "b", 2, false)),
        (Turn::Follow, Turn::Stay)
    );
    assert!(!heard.leads());
    // The one that the key names has died.
    assert_eq!(lease.due(at(3_000), Fitness::Fit).0, Some(LeaseOrder::Take));
    assert_eq!(lease.replied(at(3_001), MINE), (None, Turn::Stay), "it leads already");
    assert!(lease.is_held() && lease.leads());
}

#[test]
fn stand_in_waits_twice_as_long() {
    let mut lease = Lease::default();
    lease.up(at(0), Some(other("b")), Candidacy::StandsIn);
    assert!(!lease.leads() && lease.has_other_holder(at(2_999)) && !lease.has_other_holder(at(3_000)));
    assert_eq!(lease.due(at(3_000), Fitness::Fit), (None, Turn::Stay));
    assert_eq!(lease.next_due(), Some(at(6_000)));
    assert_eq!(lease.due(at(6_000), Fitness::Fit).0, Some(LeaseOrder::Take));
    assert_eq!(lease.replied(at(6_001), MINE), (None, Turn::Lead));
}

#[test]
fn stand_in_loses_the_lease_to_a_daemon_that_keeps_all() {
    let mut lease = followed();
    lease.candidacy = Candidacy::Stands;
    for s in 1..=3 {
        assert_eq!(lease.beat(at(s * 1_000), "c", 2, true), Turn::Stay);
    }
    assert_eq!(lease.due(at(3_000), Fitness::Fit).0, Some(LeaseOrder::Take));
    assert_eq!(lease.replied(at(3_001), other("c")).0, None);
    for s in 4..=6 {
        lease.beat(at(s * 1_000), "c", 2, true);
    }
    assert!(!lease.is_orphaned(at(6_000)), "the stand-in asks at deadlines");
    assert_eq!(lease.due(at(6_001), Fitness::Fit).0, Some(LeaseOrder::Take));
    assert_eq!(lease.replied(at(6_002), other("c")).0, Some(LeaseOrder::Seize));
    // A daemon that never leads needs the stand-in.
    let mut lease = followed();
    lease.beat(at(2_000), "c", 2, true);
    assert_eq!(lease.next_due(), Some(at(1_000)));
    assert_eq!(lease.due(at(4_999), Fitness::Barred), (None, Turn::Stay));
    assert_eq!(lease.next_due(), Some(at(5_000)));
}

#[test]
fn silent_holder_loses_the_lease_whatever_its_key_says() {
    let mut lease = followed();
    lease.beat(at(1_000), "b", 2, false);
    assert_eq!(lease.due(at(3_999), Fitness::Fit), (None, Turn::Stay));
    assert_eq!(lease.next_due(), Some(at(4_000)));
    assert_eq!(lease.due(at(4_000), Fitness::Fit), (Some(LeaseOrder::Take), Turn::Stay));
    // The key is immortal.
    assert_eq!(lease.replied(at(4_001), other("b")), (Some(LeaseOrder::Seize), Turn::Stay));
    assert_eq!(lease.replied(at(4_002), MINE), (None, Turn::Lead));
    assert!(lease.is_held());
}

#[test]
fn another_daemon_that_was_faster_is_followed() {
    let mut lease = followed();
    assert_eq!(lease.due(at(3_000), Fitness::Fit).0, Some(LeaseOrder::Take));
    assert_eq!(lease.replied(at(3_001), other("c")), (None, Turn::Stay));
    assert_eq!(lease.due(at(6_000), Fitness::Fit).0, None, "it has 3 s to say so");
    assert_eq!(lease.due(at(6_001), Fitness::Fit).0, Some(LeaseOrder::Take));
}

#[test]
fn holder_that_finds_another_name_gives_way() {
    let mut lease = held();
    assert_eq!(lease.due(at(1_000), Fitness::Fit).0, Some(LeaseOrder::Renew));
    assert_eq!(lease.replied(at(1_001), other("b")), (None, Turn::Follow));
    assert_eq!(lease.state(), LeaseState::Other);
}

#[test]
fn lease_that_nobody_else_took_goes_back_without_a_pass() {
    let mut lease = held();
    assert_eq!(lease.due(at(1_000), Fitness::Fit).0, Some(LeaseOrder::Renew));
    assert_eq!(lease.replied(at(1_001), LeaseReply::Nobody), (Some(LeaseOrder::Take), Turn::Stay));
    assert_eq!(lease.replied(at(1_002), MINE), (None, Turn::Stay));
}

#[test]
fn server_that_refuses_the_lease_for_a_moment_is_not_flooded() {
    let mut lease = held();
    assert_eq!(lease.due(at(1_000), Fitness::Fit).0, Some(LeaseOrder::Renew));
    assert_eq!(lease.replied(at(1_001), LeaseReply::Nobody).0, Some(LeaseOrder::Take));
    assert_eq!(lease.replied(at(1_002), LeaseReply::Nobody), (None, Turn::Stay));
    assert_eq!(lease.due(at(2_000), Fitness::Fit).0, Some(LeaseOrder::Renew));
}

#[test]
fn holder_gives_the_lease_up_only_to_others() {
    for (fitness, after_ms) in [(Fitness::Late, 0), (Fitness::Leaves, 0), (Fitness::Busy, BUSY_MS + 1)] {
        let mut alone = Lease::default();
        alone.up(at(0), Some(LeaseReply::Mine { daemons: 1 }), Candidacy::Stands);
        let mut lease = held();
        for lease in [&mut alone, &mut lease] {
            lease.due(at(1_000), Fitness::Busy);
            lease.ordered = None;
        }
        let now = at(2_000 + after_ms);
        assert_eq!(alone.due(now, fitness), (Some(LeaseOrder::Renew), Turn::Stay), "{fitness:?}");
        assert_eq!(lease.due(now, fitness), (Some(LeaseOrder::Release), Turn::Follow), "{fitness:?}");
        assert_eq!(lease.replied(now, LeaseReply::Nobody), (None, Turn::Stay));
        let mut other = lease.clone();
        let again = (0..60).find(|s| lease.due(now.plus(s * 1_000), Fitness::Fit).0.is_some());
        assert_eq!(again, Some(if fitness == Fitness::Late { 6 } else { 3 }), "nobody else stands");
        // Another daemon holds the lease for a while.
        for s in 0..25 {
            other.beat(now.plus(s * 1_000), "b", 2, false);
        }
        let again = (25..60).find(|s| other.due(now.plus(s * 1_000), Fitness::Fit).0.is_some());
        assert_eq!(again, Some(if fitness == Fitness::Late { 30 } else { 27 }));
    }
}

#[test]
fn lease_that_is_given_up_is_taken_at_once() {
    let mut lease = followed();
    lease.beat(at(9_000), "b", 2, false);
    lease.released(at(9_500), "c");
    assert_eq!(lease.due(at(9_500), Fitness::Fit).0, None, "c does not hold it");
    lease.released(at(9_500), "b");
    assert_eq!(lease.due(at(9_500), Fitness::Fit).0, Some(LeaseOrder::Take));
}

#[test]
fn daemon_that_may_not_lead_takes_no_lease() {
    let mut lease = followed();
    for fitness in [Fitness::Busy, Fitness::Late, Fitness::Leaves, Fitness::Barred] {
        assert_eq!(lease.due(at(60_000), fitness).0, None);
        lease.hurry(at(0));
    }
    assert!(lease.is_orphaned(at(60_000)));
}

#[test]
fn server_without_lease_is_led_by_each() {
    let mut lease = followed();
    assert_eq!(lease.due(at(3_000), Fitness::Fit).0, Some(LeaseOrder::Take));
    assert_eq!(lease.replied(at(3_001), LeaseReply::Refused), (None, Turn::Lead));
    assert!(lease.is_off() && lease.next_due().is_none());
}

/// One daemon of the simulation.
struct Daemon {
    lease: Lease,
    /// When it runs again, and when it is connected again.
    runs: u64,
    connected: u64,
    /// It leads, as the turns say.
    leads: bool,
}

enum Sent {
    Order(usize, LeaseOrder),
    Reply(usize, LeaseReply),
    Beat(usize, usize, bool),
}

struct World {
    rng: Rng,
    now: u64,
    key: Option<(usize, u64)>,
    /// How far the server's clock is ahead.
    ahead: u64,
    daemons: Vec<Daemon>,
    sent: BTreeMap<(u64, u64), Sent>,
    order: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng::with_seed(seed);
        let daemon = |_| Daemon { lease: Lease::default(), runs: 0, connected: 0, leads: false };
        let daemons = (0..rng.usize(2..=5)).map(daemon).collect();
        let mut world = World { rng, now: 1, key: None, ahead: 0, daemons, sent: BTreeMap::new(), order: 0 };
        (0..world.daemons.len()).for_each(|i| world.connect(i));
        world
    }

    fn name(i: usize) -> String {
        i.to_string()
    }

    fn clock(&self) -> u64 {
        self.now + self.ahead
    }

    fn holder(&self) -> Option<usize> {
        self.key.filter(|&(_, until)| until > self.clock()).map(|(i, _)| i)
    }

    /// The link finds what the key holds, or takes it.
    fn connect(&mut self, i: usize) {
        let reply = self.carry_out(i, LeaseOrder::Take);
        let daemon = &mut self.daemons[i];
        daemon.lease.up(at(self.now), Some(reply), Candidacy::Stands);
        daemon.leads = daemon.lease.leads();
    }

    fn send(&mut self, what: Sent) {
        let when = self.now + self.rng.u64(1..60);
        self.order += 1;
        self.sent.insert((when, self.order), what);
    }

    /// As the server does.
    fn carry_out(&mut self, i: usize, order: LeaseOrder) -> LeaseReply {
        let (holder, until) = (self.holder(), self.clock() + LEASE_MS);
        let mine = LeaseReply::Mine { daemons: self.daemons.len() as u64 };
        match (order, holder) {
            (LeaseOrder::Take, Some(other)) if other != i => LeaseReply::Other(World::name(other)),
            (LeaseOrder::Take | LeaseOrder::Seize, _) => {
                self.key = Some((i, until));
                self.publish(i, false);
                mine
            }
            (LeaseOrder::Renew, None) => LeaseReply::Nobody,
            (LeaseOrder::Renew, Some(other)) => {
                self.key = Some((other, until));
                if other != i {
                    return LeaseReply::Other(World::name(other));
                }
                self.publish(i, false);
                mine
            }
            (LeaseOrder::Release, holder) => {
                if holder == Some(i) {
                    self.key = None;
                }
                self.publish(i, true);
                LeaseReply::Nobody
            }
        }
    }

    fn publish(&mut self, from: usize, released: bool) {
        for to in (0..self.daemons.len()).filter(|&to| to != from) {
            self.send(Sent::Beat(to, from, released));
        }
    }

    fn take(&mut self, i: usize, (order, turn): (Option<LeaseOrder>, Turn)) {
        match turn {
            Turn::Stay => {}
            Turn::Lead => self.daemons[i].leads = true,
            Turn::Follow => self.daemons[i].leads = false,
        }
        if let Some(order) = order {
            self.send(Sent::Order(i, order));
        }
    }

    fn fault(&mut self) {
        let i = self.rng.usize(..self.daemons.len());
        let until = self.now + self.rng.u64(100..9_000);
        match self.rng.u8(..7) {
            0 => self.daemons[i].runs = until,
            // Cut off, or killed: it connects again.
            1 | 2 => {
                self.daemons[i].connected = until;
                self.daemons[i].leads &= self.rng.bool();
            }
            3 => self.key = None,
            4 => self.key = self.key.map(|(holder, _)| (holder, u64::MAX)),
            5 => self.ahead += self.rng.u64(..20_000),
            _ => self.key = Some((i, self.clock() + LEASE_MS)),
        }
    }

    fn deliver(&mut self, sent: Sent) {
        let to = match &sent {
            Sent::Order(i, _) | Sent::Reply(i, _) | Sent::Beat(i, ..) => *i,
        };
        let daemon = &self.daemons[to];
        if daemon.connected > self.now {
            return;
        }
        if daemon.runs > self.now && !matches!(sent, Sent::Order(..)) {
            // It reads on when it runs again.
            self.order += 1;
            self.sent.insert((daemon.runs, self.order), sent);
            return;
        }
        match sent {
            Sent::Order(i, order) => {
                let reply = self.carry_out(i, order);
                if order != LeaseOrder::Release {
                    self.send(Sent::Reply(i, reply));
                }
            }
            Sent::Reply(i, reply) => {
                let step = self.daemons[i].lease.replied(at(self.now), reply);
                self.take(i, step);
            }
            Sent::Beat(i, from, released) => {
                let (lease, now) = (&mut self.daemons[i].lease, at(self.now));
                if released {
                    lease.released(now, &World::name(from));
                } else {
                    let turn = lease.beat(now, &World::name(from), 2, false);
                    self.take(i, (None, turn));
                }
            }
        }
    }

    fn step(&mut self) {
        while let Some(entry) = self.sent.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let sent = entry.remove();
            self.deliver(sent);
        }
        for i in 0..self.daemons.len() {
            let daemon = &mut self.daemons[i];
            if daemon.connected != 0 && daemon.connected <= self.now {
                daemon.connected = 0;
                self.connect(i);
            } else if daemon.connected == 0 && daemon.runs <= self.now {
                let step = daemon.lease.due(at(self.now), Fitness::Fit);
                self.take(i, step);
            }
        }
        self.now += 10;
    }
}

#[test]
fn one_daemon_holds_the_lease_within_three_seconds() {
    for seed in 0..400 {
        let mut world = World::new(seed);
        let chaos_ms = 60_000;
        while world.now < chaos_ms {
            if world.rng.u16(..300) == 0 {
                world.fault();
            }
            world.step();
        }
        for daemon in &mut world.daemons {
            daemon.runs = 0;
            daemon.connected = daemon.connected.min(world.now);
        }
        let leaders = |world: &World| world.daemons.iter().filter(|daemon| daemon.leads).count();
        let healed = world.now;
        // The last beat of the old holder may be on its way.
        while world.now < healed + SILENT_MS + 500 {
            world.step();
        }
        assert_eq!(leaders(&world), 1, "seed {seed}");
        for _ in 0..1_000 {
            world.step();
            assert_eq!(leaders(&world), 1, "seed {seed}: the lease stays where it is");
        }
        // The holder dies: within three seconds, and the time of a message or two, another one leads.
        let dead = world.daemons.iter().position(|daemon| daemon.leads).expect("a holder");
        world.daemons[dead].connected = u64::MAX;
        world.daemons[dead].leads = false;
        let died = world.now;
        while leaders(&world) == 0 {
            world.step();
            assert!(world.now < died + SILENT_MS + 200, "seed {seed}: nobody took the lease");
        }
    }
}
