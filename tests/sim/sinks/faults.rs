//! The faults.

use super::knobs::Knobs;
use super::presence::{BUCKETS, bucket_of};
use super::server::{Rules, Server};
use super::world::{Act, World};
use crate::redis::Return;

/// The server of the stream.
pub struct Store {
    pub server: Server,
    pub up: bool,
    pub frozen_until: u64,
    /// The data that a replica, or the file on disk, has.
    replica: Server,
}

impl Store {
    pub fn new(rules: Rules) -> Store {
        let mut server = Server::new();
        server.rules = rules;
        Store { replica: server.clone(), server, up: true, frozen_until: 0 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    // The faults of a daemon.
    Kill,
    KillAll,
    Freeze,
    Slow,
    CutOff,
    Leave,
    CutLink,
    Lag,
    /// The writer leaves, and the others lag.
    Handover,
    // Faults of the stream's keys.
    LoseLease,
    KeepLease,
    LoseBucket,
    LoseBuckets,
    Trim,
    DeleteStream,
    // Faults of the stream's server.
    StreamStops,
    StreamFreezes,
    StreamLoses,
    // Faults on the way to the presence keys.
    Blind,
    Deaf,
    NodeStops,
}

impl Fault {
    pub const ALL: [Fault; 21] = [
        Fault::Kill,
        Fault::KillAll,
        Fault::Freeze,
        Fault::Slow,
        Fault::CutOff,
        Fault::Leave,
        Fault::CutLink,
        Fault::Handover,
        Fault::LoseLease,
        Fault::KeepLease,
        Fault::LoseBucket,
        Fault::LoseBuckets,
        Fault::Trim,
        Fault::DeleteStream,
        Fault::StreamStops,
        Fault::StreamFreezes,
        Fault::StreamLoses,
        Fault::Blind,
        Fault::Lag,
        Fault::Deaf,
        Fault::NodeStops,
    ];

    pub fn is_allowed(self, knobs: &Knobs) -> bool {
        match self {
            Fault::LoseBucket | Fault::LoseBuckets => knobs.loses_buckets,
            Fault::Trim => knobs.trims,
            Fault::DeleteStream | Fault::StreamLoses => knobs.loses_data,
            Fault::Blind | Fault::Deaf | Fault::NodeStops => knobs.blinds,
            _ => true,
        }
    }
}

impl World {
    /// Something goes wrong.
    pub fn fault(&mut self) {
        let fault = self.knobs.faults[self.rng.usize(..self.knobs.faults.len())];
        // Most faults concern the daemon that writes.
        let any = self.rng.usize(..self.daemons.len());
        let writer = self.writer().filter(|_| self.rng.u8(..3) > 0).unwrap_or(any);
        self.note(format_args!("{fault:?} {writer}"));
        match fault {
            Fault::Kill => self.kill_for(writer, 1..8_000),
            Fault::KillAll => {
                let rest_ms = self.duration();
                (0..self.daemons.len()).for_each(|at| self.kill_for(at, rest_ms..rest_ms + 3_000));
            }
            Fault::Freeze | Fault::Slow | Fault::CutOff | Fault::Leave | Fault::CutLink => {
                self.hurt(writer, fault);
            }
            Fault::Blind | Fault::Deaf => self.hurt(writer, fault),
            Fault::Lag => self.hurt(any, fault),
            Fault::Handover => {
                (0..self.daemons.len()).filter(|&at| at != writer).for_each(|at| self.hurt(at, Fault::Lag));
                self.hurt(writer, Fault::Leave);
            }
            Fault::LoseLease => self.store.server.lose_lease(),
            Fault::KeepLease => self.store.server.keep_lease(),
            Fault::LoseBucket => {
                let user = self.rng.usize(..self.users.len());
                self.store.server.lose_bucket(bucket_of(&self.users[user].name));
            }
            Fault::LoseBuckets => (0..BUCKETS).for_each(|bucket| self.store.server.lose_bucket(bucket)),
            Fault::Trim => self.trim(),
            Fault::DeleteStream => {
                self.store.server.delete_stream();
                self.book.checked = 0;
            }
            Fault::StreamStops => self.stop_stream(Return::Whole),
            Fault::StreamFreezes => self.store.frozen_until = self.now + self.duration(),
            Fault::StreamLoses => {
                let how = [Return::Older, Return::Older, Return::Empty][self.rng.usize(..3)];
                self.stop_stream(how);
            }
            Fault::NodeStops => self.stop_node(),
        }
    }

    /// How long a fault lasts: mostly shorter than the lease.
    fn duration(&mut self) -> u64 {
        let most_ms = [1_000, 1_000, 3_500, 12_000][self.rng.usize(..4)];
        self.rng.u64(1..most_ms)
    }

    /// The daemon that holds the lease.
    fn writer(&self) -> Option<usize> {
        let holder = self.store.server.holder(self.time())?;
        let name = holder.split(':').next()?;
        self.daemons.iter().flatten().find(|daemon| daemon.name == name).map(|daemon| daemon.at)
    }

    /// All daemons end but the writer and one more.
    pub fn thin_out(&mut self) {
        let writer = self.writer();
        let others: Vec<usize> = (0..self.daemons.len()).filter(|&at| Some(at) != writer).collect();
        others.into_iter().skip(1).for_each(|at| self.kill(at));
    }

    fn kill_for(&mut self, at: usize, rest_ms: std::ops::Range<u64>) {
        self.kill(at);
        self.later(rest_ms, Act::Start(at));
    }

    fn hurt(&mut self, at: usize, fault: Fault) {
        let Some(mut daemon) = self.daemons[at].take() else { return };
        let until = self.now + self.duration();
        match fault {
            Fault::Freeze => daemon.frozen_until = until,
            Fault::Slow => daemon.slow_until = until,
            Fault::CutOff => daemon.cut_off_until = until,
            Fault::Leave => daemon.leaving = true,
            Fault::Lag => {
                // Longer than a mark may take, only where a gap is allowed.
                let lag_ms = self.rng.u64(1..if self.knobs.blinds { 3_000 } else { 900 });
                daemon.links.iter_mut().for_each(|link| link.lag_ms = lag_ms);
                self.later(1..6_000, Act::EndLag);
            }
            _ if daemon.links.is_empty() => {}
            Fault::Deaf => {
                let link = self.rng.usize(..daemon.links.len());
                daemon.links[link].deaf = daemon.links[link].on;
            }
            _ => {
                let link = self.rng.usize(..daemon.links.len());
                self.cut(&mut daemon, link);
                if fault == Fault::Blind {
                    daemon.links[link].barred_until = until;
                }
            }
        }
        self.daemons[at] = Some(daemon);
    }

    pub fn end_lag(&mut self) {
        self.daemons
            .iter_mut()
            .flatten()
            .flat_map(|daemon| &mut daemon.links)
            .for_each(|link| link.lag_ms = 0);
    }

    /// MAXLEN.
    fn trim(&mut self) {
        let server = &mut self.store.server;
        let kept = self.rng.usize(..=server.entries.len());
        server.trimmed = server.trimmed.max(server.entries.len() - kept);
    }

    pub fn replicate(&mut self) {
        self.nodes.iter_mut().filter(|node| node.up).for_each(|node| node.replicate());
        if self.store.up {
            self.store.replica = self.store.server.clone();
        }
    }

    fn stop_stream(&mut self, how: Return) {
        if std::mem::take(&mut self.store.up) {
            let ends = self.now + self.duration();
            self.at(ends, Act::BeginStream(how));
        }
    }

    pub fn begin_stream(&mut self, how: Return) {
        let rules = self.store.server.rules;
        match how {
            Return::Whole => {}
            Return::Empty => self.store.server = Server::new(),
            Return::Older | Return::Failover => self.store.server = self.store.replica.clone(),
        }
        self.store.server.rules = rules;
        (self.store.up, self.store.frozen_until) = (true, 0);
        self.book.checked = 0;
        self.trail
            .note(self.now, format_args!("the stream's server begins {how:?}: {:?}", self.store.server));
        self.replicate();
    }

    fn stop_node(&mut self) {
        let node = self.rng.usize(..self.nodes.len());
        if !self.nodes[node].up {
            return;
        }
        let ways = [Return::Whole, Return::Older, Return::Empty, Return::Failover];
        let takes_stream = node == 0 && self.knobs.together;
        let most = if takes_stream && !self.knobs.loses_data { 1 } else { ways.len() };
        let how = ways[self.rng.usize(..most)];
        self.nodes[node].up = false;
        self.cut_all(node);
        self.later(1..5_000, Act::Begin(node, how));
        if takes_stream {
            self.stop_stream(how);
        }
    }

    pub fn begin(&mut self, node: usize, how: Return) {
        self.nodes[node].begin(self.now, how, |_| true);
        let keys = &self.nodes[node].keys;
        self.trail.note(self.now, format_args!("{node} begins {how:?} with {keys:?}"));
    }

    /// The faults end, and all daemons run.
    pub fn heal(&mut self) {
        self.calm = true;
        self.note(format_args!("the faults end"));
        self.end_lag();
        self.store.frozen_until = 0;
        for at in 0..self.daemons.len() {
            if let Some(daemon) = &mut self.daemons[at] {
                daemon.frozen_until = daemon.frozen_until.min(self.now);
                (daemon.slow_until, daemon.cut_off_until) = (0, 0);
                daemon.links.iter_mut().for_each(|link| link.barred_until = 0);
            } else {
                self.later(1..3_000, Act::Start(at));
            }
        }
    }
}
