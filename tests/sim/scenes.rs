//! Worlds with one thing in common each: see [`Scene`]. They draw from a source of their own, so that all other worlds of a
//! seed stay what they were.

use super::book::user_of;
use super::cluster::{Cluster, Keys, slot};
use super::programs::{Kind, LONGEST_TTL, Program};
use super::world::{Act, Knobs, World};
use fastrand::Rng;
use keybeat::presence::Renewals;
use std::collections::BTreeMap;

/// No seed that once found a fault has a scene.
const SOURCE: u64 = 12_190_124;
/// An outage counts from the last canary before it to the end of the comparison after it: longer than it was by so much at most.
const OUTAGE_SLACK_MS: u64 = 1_500;
/// The fault that ends all connections of a daemon that is stopped.
pub const STOPPED: u8 = 19;
/// A daemon that was stopped for less may not notice it, in milliseconds: it sends a canary once a second, and one step may be late by
/// 250 ms. Then it does not know that streams of several servers were read in the wrong order.
const NOTICED_STOP_MS: u64 = 1_260;
/// A fault that does nothing.
const NOTHING: u8 = 20;
/// The longest grant of a key whose TTL is not known for certain.
const LONGEST_GRANT_MS: u64 = LONGEST_TTL * 4 / 3;

/// What is special in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// Nothing.
    Plain,
    /// A cluster in which nothing is lost and nothing moves: each coming and going of a key is reported.
    Still,
    /// A cluster whose nodes change their addresses, also for each other's.
    Addresses,
    /// A server refuses writes or loses its keys so often that one grant could follow another, while users fall silent.
    Weary,
    /// A cluster whose slots move as a whole, while users leave.
    Copied,
    /// Users change their sessions, also from one server to another, while the daemon is stopped, with or without the loss of all
    /// its connections. No stream lags.
    Movers,
}

impl Scene {
    /// Draws the scene of a world, and sets the knobs for it.
    pub fn draw(seed: u64, knobs: &mut Knobs, cluster: &Cluster) -> Scene {
        let mut rng = Rng::with_seed(seed ^ SOURCE);
        let heard = !knobs.silent.any();
        match rng.u8(..12) {
            0 | 1 if cluster.on && heard && !knobs.mode.tracks() => {
                knobs.faults = 0;
                Scene::Still
            }
            2 if cluster.on => Scene::Addresses,
            3 if cluster.on && heard && !knobs.mode.tracks() => {
                knobs.copy_slots();
                Scene::Copied
            }
            4 if heard => {
                let faults = [1 << 14, 1 << 12, 1 << 14 | 1 << 12][rng.usize(..3)];
                // Nobody announces a key that is set again while a grant keeps it.
                let told = !(knobs.mode.tracks() && knobs.mode.shared);
                knobs.faults = if told { faults } else { 1 << 14 };
                knobs.weary(rng.u64(80_000..120_000));
                Scene::Weary
            }
            5 | 6 if heard => {
                knobs.faults = 1 << 8;
                Scene::Movers
            }
            _ => Scene::Plain,
        }
    }

    /// Some programs become others.
    pub fn cast(self, seed: u64, knobs: &Knobs, programs: &mut [Program]) {
        let mut rng = Rng::with_seed(seed ^ SOURCE ^ 1);
        let created = knobs.mode.new || knobs.mode.tracks();
        for program in programs {
            match program.kind {
                Kind::Flaky | Kind::Wild(_) if self == Scene::Weary => program.become_quitter(),
                Kind::Wild(_) | Kind::Flaky | Kind::Pair if self == Scene::Movers => {
                    program.kind = Kind::Mover
                }
                Kind::Expirer if created && self != Scene::Plain && rng.bool() => {
                    program.kind = Kind::Counter
                }
                _ => {}
            }
        }
    }

    /// The faults that may happen, where that does not depend on the knobs alone.
    pub fn faults(self, faults: u32) -> Vec<u8> {
        match self {
            Scene::Movers => vec![8, STOPPED],
            Scene::Still | Scene::Copied => vec![NOTHING],
            Scene::Weary => (4..STOPPED).filter(|which| faults & 1 << which != 0).collect(),
            _ => (0..STOPPED).filter(|&which| which < 4 || faults & 1 << which != 0).collect(),
        }
    }

    /// Does nothing of the cluster change?
    pub fn is_fixed(self) -> bool {
        matches!(self, Scene::Still | Scene::Weary | Scene::Movers)
    }
}

impl World {
    /// Where nothing is lost, each coming and going of a key is reported by the time at which nothing is under way.
    pub fn tally(&mut self) {
        if self.knobs.scene != Scene::Still || !self.relay.tracker.settled() || !self.relay.open {
            return;
        }
        let asks = self.acts.values().any(|act| matches!(act, Act::Question(..)));
        let waits = self.relay.tracker.counts().waiting > 0 || !self.views.is_empty();
        let idle = |link: &super::link::Link| link.on && link.wire.is_empty() && link.replies.is_empty();
        if asks || waits || !self.relay.servers.iter().all(|server| idle(&server.link)) {
            return;
        }
        let balance = self.done.iter().map(|(key, &(came, went))| {
            let said = self.relay.book.said_of(key);
            (key.clone(), (i64::from(came) - i64::from(said.0), i64::from(went) - i64::from(said.1)))
        });
        let balance: BTreeMap<String, (i64, i64)> = balance.collect();
        let before = self.balance.get_or_insert_with(|| balance.clone());
        // A key that comes later is known from its start on.
        let unsaid = balance.iter().find(|&(key, sum)| *sum != before.get(key).copied().unwrap_or_default());
        if let Some((key, _)) = unsaid {
            let (said, done) = (self.relay.book.said_of(key), self.done[key]);
            self.fail(format!("{key} came and went {done:?} times, and {said:?} times it is said"));
        }
    }

    /// The daemon is stopped. Meanwhile some users change their sessions, and all its connections may be killed.
    pub fn stop_daemon(&mut self, kills: bool) {
        // A session that begins at a server which is known to be out of reach holds nobody online; nor does one that begins in
        // one gap and ends in the next, if no comparison is done in between.
        let near = self.relay.servers.iter().all(|server| server.connected && server.link.on);
        if self.now < self.stalled_until || !near || !self.relay.tracker.settled() {
            return;
        }
        let least_ms = if self.cluster.on { NOTICED_STOP_MS } else { 700 };
        let stops_ms = self.rng.u64(least_ms..4_000);
        self.stalled_until = self.now + stops_ms;
        if kills {
            (0..self.relay.servers.len()).for_each(|at| self.cut(at));
        }
        for i in 0..self.programs.len() {
            if self.programs[i].is_moving() {
                self.later(1..stops_ms, Act::Switch(i));
            }
        }
    }

    /// The user of a key that is about to be copied may leave before.
    pub fn leaves_before_copy(&mut self, name: &str, from: usize) -> bool {
        let steady = |program: &Program| program.user == user_of(name) && program.steady(self.now);
        let may = self.knobs.scene == Scene::Copied && !self.programs.iter().any(steady);
        let leaves = may && self.nodes[from].keys.contains_key(name) && self.rng.bool();
        if leaves {
            self.nodes[from].del(self.now, name);
        }
        leaves
    }

    /// A user changes the session.
    pub fn switch(&mut self, i: usize) {
        let mut own = Vec::new();
        let mut keys = Keys { now: self.now, nodes: &mut self.nodes, cluster: &self.cluster, own: &mut own };
        self.programs[i].switch(&mut keys, &mut self.rng);
    }

    /// A user who has fallen silent is online no longer than the last heartbeat, the TTL, all outages since and one TTL.
    pub fn check_quitters(&mut self) {
        if self.knobs.scene != Scene::Weary || self.frozen {
            return;
        }
        let mode = self.knobs.mode;
        // Where no event reports a renewal, the last one may have been missed.
        let unheard = mode.renewals == Renewals::New || mode.shared;
        let grants = LONGEST_GRANT_MS * if unheard { 3 } else { 2 };
        for i in 0..self.programs.len() {
            let program = &self.programs[i];
            let (Kind::Quitter, Some(heard)) = (program.kind, program.heard) else { continue };
            let owner = self.cluster.view.owners[slot(&program.user)];
            let of_owner = self.refusals.iter().filter(|&&(node, _, to)| node == owner && to > heard);
            let outages: u64 = of_owner.map(|(_, from, to)| to - from + OUTAGE_SLACK_MS).sum();
            let latest = heard + grants + outages + 2 * OUTAGE_SLACK_MS;
            if self.now > latest && self.relay.book.online().contains(&program.user) {
                let why =
                    format!("{} has been silent since {heard}, and is online after {latest}", program.user);
                self.fail(why);
            }
        }
    }

    /// Two nodes change addresses with each other, or one gets an address that no node had before.
    pub fn readdress(&mut self) {
        let members: Vec<usize> = self.cluster.view.members.iter().copied().collect();
        let mut any = || members[self.rng.usize(..members.len())];
        let (one, other) = (any(), any());
        self.cluster.view.readdress(one, other);
        let addresses = [one, other].map(|node| self.cluster.view.address(node));
        self.trail.note(self.now, format_args!("{one} and {other} are at {addresses:?}"));
        [one, other].into_iter().for_each(|node| self.cut_off(node));
        self.tell_view();
    }
}
