//! The faults.

use super::cluster::SLOTS;
use super::link::Deaf;
use super::redis::Return;
use super::scenes::{STOPPED, Scene};
use super::world::{Act, World};

/// Longer than it takes until a canary shows it, in milliseconds.
pub const SHORTEST_FREEZE_MS: u64 = 3_500;

/// Where they come often, refusals are shorter, in milliseconds.
const SHORT_REFUSAL_MS: u64 = 900;

/// The faults that lose keys, or keep users from them.
const LOSES: u32 = 0b111_1111 << 9 | 1 << 18;
/// Those that keep users from their keys for a while.
const BARS: u32 = 1 << 14 | 1 << 15 | 1 << 18;

impl World {
    /// Something goes wrong. The first four lose nothing; see [`LOSES`].
    pub fn fault(&mut self) {
        let servers = self.relay.servers.len();
        if servers == 0 {
            return;
        }
        let faults = self.knobs.faults;
        let allowed = self.knobs.scene.faults(faults);
        let which = allowed[self.rng.usize(..allowed.len())];
        let at = self.rng.usize(..servers);
        let members: Vec<usize> = self.cluster.view.members.iter().copied().collect();
        let node = members[self.rng.usize(..members.len())];
        self.trail.note(self.now, format_args!("fault {which}"));
        match which {
            0..=2 => {
                // Questions, stream and stalls together stay below the limit of a fence in a quiet world.
                let slow = if self.quiet() { 800 } else { 3_000 };
                // A server that refuses writes is noticed when a canary was carried out.
                let slow = if self.refuses() { 300 } else { slow };
                // Of several streams one that is behind for 2 s is dead.
                let late = if self.quiet() && self.cluster.on { 800 } else { 3_000 };
                let late = if self.refuses() { 300 } else { late };
                self.lagged = true;
                let extra = (self.rng.u64(1..late), self.rng.u64(1..slow));
                self.relay.servers[at].link.lag = [(extra.0, 0), (0, extra.1), extra][usize::from(which)];
                self.later(1..4_000, Act::EndLag);
            }
            3 => self.stalled_until = self.now + self.rng.u64(1..700),
            4 | 5 => {
                // The comparison that begins is cut short by another gap.
                self.relay.servers[at].link.short = Some(self.rng.u64(1..40));
                self.cut(at);
            }
            6 if self.relay.servers[at].link.on => {
                let deaf = [Deaf::All, Deaf::Keys][self.rng.usize(..2)];
                self.relay.servers[at].link.deaf = Some(deaf);
                self.relay.book.exact = false;
            }
            7 => self.cut(at),
            8 if self.knobs.scene == Scene::Movers => self.stop_daemon(false),
            8 => self.stalled_until = self.now + self.rng.u64(700..9_000),
            9 => self.crash(node, Return::Whole),
            10 => {
                let how = [Return::Older, Return::Empty][self.rng.usize(..2)];
                self.crash(node, how);
            }
            11 => self.crash(node, Return::Failover),
            12 if self.nodes[node].takes_writes(self.now) => self.exchange(node),
            13 if self.nodes[node].takes_writes(self.now) && !self.nodes[node].keys.is_empty() => {
                let at = self.rng.usize(..self.nodes[node].keys.len());
                if let Some(key) = self.nodes[node].keys.keys().nth(at).cloned() {
                    self.taint();
                    self.nodes[node].evict(&key);
                }
            }
            // While a slot moves, a node that refuses or freezes keeps users from their keys at the other one.
            14 | 15 if self.cluster.moves(node) => {}
            14 if self.nodes[node].takes_writes(self.now) => {
                let most = if self.knobs.scene == Scene::Weary { SHORT_REFUSAL_MS } else { 9_000 };
                let until = self.now + self.rng.u64(300..most);
                self.nodes[node].refuses_until = until;
                self.refusals.push((node, self.now, until));
            }
            15 if self.nodes[node].takes_writes(self.now) => {
                self.nodes[node].frozen_until = self.now + self.rng.u64(SHORTEST_FREEZE_MS..12_000);
            }
            16 if self.relay.servers[at].link.on && !self.knobs.silent.any() => self.lose_class(at),
            17 => self.relay.servers[at].link.denied_until = self.now + self.rng.u64(100..9_000),
            18 if self.cluster.on => {
                let slot = self.rng.usize(..SLOTS);
                self.disown(slot);
            }
            STOPPED => self.stop_daemon(true),
            _ => {}
        }
    }

    /// Somebody takes a class from `notify-keyspace-events`. Where the daemon may read the setting, it does so now and then.
    fn lose_class(&mut self, at: usize) {
        let class = [Deaf::New, Deaf::Generic, Deaf::Expired][self.rng.usize(..3)];
        if self.knobs.mode.tracks() || (class == Deaf::New && !self.knobs.mode.new) {
            return;
        }
        let server = &mut self.relay.servers[at];
        server.link.deaf = Some(class);
        self.relay.book.exact = false;
        if class == Deaf::Expired && self.rng.bool() {
            let id = server.id;
            self.later(1..10_000, Act::Cut(id));
        }
    }

    /// A daemon that follows keeps no deadlines: without `expired` it learns of an end from the next digest, half a minute later. So
    /// somebody gives the class back, and the daemon connects again.
    pub fn give_class_back(&mut self) {
        for at in 0..self.relay.servers.len() {
            if self.knobs.mode.shared && self.relay.servers[at].link.deaf == Some(Deaf::Expired) {
                self.cut(at);
            }
        }
    }

    /// Do faults lose keys, or keep users from them?
    pub fn loses(&self) -> bool {
        self.knobs.faults & LOSES != 0
    }

    /// Do servers refuse writes now and then, or freeze, or do slots lose their owners?
    pub fn refuses(&self) -> bool {
        self.knobs.faults & BARS != 0
    }

    /// FLUSHALL, or SWAPDB, which a cluster does not know.
    fn exchange(&mut self, node: usize) {
        self.taint();
        if self.cluster.on || self.nodes[node].exchanged {
            // A slot that moves before the flush is noticed takes the loss to a server that knows nothing of it. The first of two
            // exchanges that no canary parts is never noticed.
            for program in &self.programs {
                *self.relay.book.debt.entry(program.user.clone()).or_default() += 1;
            }
        }
        if self.cluster.on || self.rng.bool() {
            self.nodes[node].flush(self.now);
        } else {
            self.nodes[node].swap(self.now);
        }
    }

    fn crash(&mut self, node: usize, how: Return) {
        if !self.nodes[node].up || self.cluster.moves(node) {
            return;
        }
        self.nodes[node].up = false;
        self.cut_off(node);
        self.later(1..5_000, Act::Begin(node, how));
    }

    /// A daemon that follows the node loses it.
    pub fn cut_off(&mut self, node: usize) {
        if let Some(at) = self.relay.servers.iter().position(|server| server.node == node) {
            self.cut(at);
        }
    }

    /// The node comes back, or another one takes over from it.
    pub fn begin(&mut self, node: usize, how: Return) {
        if self.cluster.on && matches!(how, Return::Failover) {
            return self.take_over(node);
        }
        let cluster = &self.cluster;
        self.nodes[node].begin(self.now, how, |key| cluster.owns(node, key));
        let keys = &self.nodes[node].keys;
        self.trail.note(self.now, format_args!("{node} begins {how:?} with {keys:?}"));
    }
}
