//! One server as the daemon follows it, as `src/driver/server.rs` and `src/driver/shards.rs` do.

use super::cluster::{View, slot};
use super::daemon::Daemon;
use super::link::{Link, Question};
use super::world::{Act, Broken, World};
use keybeat::presence::{Answer, Canary, Detector, Input, Moved, ServerId, Settings, Sweeps, Time};

const CANARY_EVERY_MS: u64 = 1_000;
const RETIRE_EVERY_MS: u64 = 500;

/// The driver's state of one server, and its link.
pub struct Server {
    /// Names it among all there were.
    pub id: u64,
    pub node: usize,
    pub link: Link,
    /// It is no member any more: there is no link, and others take over its keys.
    pub leaves: bool,
    pub detector: Detector,
    pub canary: Canary,
    pub connected: bool,
    pub compared: bool,
    pub run_seen: Option<u32>,
    /// That the keys are others was noticed then, and the canary's place in the stream is awaited.
    pub replaced: Option<u64>,
    pub sweeps: Sweeps,
}

impl Server {
    pub fn new(id: u64, node: usize, settings: Settings, canary_limit_ms: u64) -> Server {
        Server {
            id,
            node,
            link: Link::default(),
            leaves: false,
            detector: Detector::new(settings),
            canary: Canary::new(CANARY_EVERY_MS, canary_limit_ms),
            connected: false,
            compared: false,
            run_seen: None,
            replaced: None,
            sweeps: Sweeps::default(),
        }
    }

    /// Its name for the detectors.
    pub fn number(&self) -> ServerId {
        (self.id % u64::from(ServerId::MAX)) as ServerId + 1
    }

    pub fn next_due(&self) -> Option<Time> {
        let canary = self.connected.then(|| self.canary.next_due());
        [self.detector.next_due(), canary, self.sweeps.next_due()].into_iter().flatten().min()
    }

    pub fn up(&mut self, now: Time, sweeps: bool) {
        self.connected = true;
        self.canary.restart(now);
        self.sweeps.up(now, sweeps);
    }

    pub fn down(&mut self) {
        self.connected = false;
        self.sweeps.down();
    }
}

impl Daemon {
    /// The server that follows this node.
    fn place_of(&self, node: usize) -> Option<usize> {
        self.servers.iter().position(|server| server.node == node && !server.leaves)
    }
}

impl World {
    /// Deadlines, canaries and sweeps have their turn.
    pub fn tick(&mut self) {
        let now = self.time();
        if self.daemon.retire_at.is_some_and(|due| due <= now) {
            self.retire();
        }
        for at in 0..self.daemon.servers.len() {
            self.tick_canary(at);
            let server = &mut self.daemon.servers[at];
            if server.sweeps.due(now) && self.knobs.broken != Broken::NeverSweeps {
                server.detector.handle(now, Input::Sweep);
            }
            server.detector.handle(now, Input::Due);
            self.settle(at);
        }
    }

    fn tick_canary(&mut self, at: usize) {
        let now = self.time();
        let server = &mut self.daemon.servers[at];
        if !server.connected {
        } else if server.canary.dead(now) {
            self.restart(at, "canary");
        } else if server.canary.due(now) {
            self.order(at, Question::Canary);
        }
    }

    pub fn restart(&mut self, at: usize, cause: &str) {
        if self.quiet() {
            self.fail(format!("nothing was late, and the stream is said to be dead ({cause})"));
        }
        let again = self.time().plus(CANARY_EVERY_MS);
        self.daemon.servers[at].canary.restart(again);
        self.cut(at);
    }

    /// Follows the servers that there are now.
    pub fn follow(&mut self, view: View) {
        if view.number <= self.daemon.view.number {
            return;
        }
        self.trail.note(self.now, format_args!("<- {view:?}"));
        self.daemon.redirections.clear();
        for at in 0..self.daemon.servers.len() {
            self.compare_node(at, &view);
        }
        for &node in &view.members {
            if self.daemon.place_of(node).is_none() {
                self.daemon.ids += 1;
                let id = self.daemon.ids;
                let (settings, limit) = (self.knobs.settings.clone(), self.knobs.canary_limit_ms);
                self.daemon.servers.push(Server::new(id, node, settings, limit));
                self.later(1..3_000, Act::Connect(id));
            }
        }
        self.daemon.view = view;
        self.retire();
        self.open_if_compared();
    }

    fn compare_node(&mut self, at: usize, view: &View) {
        let now = self.time();
        let server = &mut self.daemon.servers[at];
        if server.leaves {
            return;
        }
        let node = server.node;
        if !view.members.contains(&node) {
            self.drop_link(at);
            let server = &mut self.daemon.servers[at];
            server.leaves = true;
            server.down();
            server.sweeps = Sweeps::default();
            server.detector.handle(now, Input::Down);
            return self.settle(at);
        }
        let before = &self.daemon.view.owners;
        let differs = |slot: usize| (before.get(slot) == Some(&node)) != (view.owners[slot] == node);
        if (0..view.owners.len()).any(differs) {
            server.sweeps.slots_moved(now, server.connected && server.detector.settled());
        }
    }

    /// Gives over the keys of servers that left, and forgets those that have none left.
    fn retire(&mut self) {
        let now = self.time();
        for at in 0..self.daemon.servers.len() {
            if self.daemon.servers[at].leaves {
                self.daemon.servers[at].detector.handle(now, Input::Retired);
                self.settle(at);
            }
        }
        let servers = &mut self.daemon.servers;
        servers.retain(|server| !server.leaves || server.detector.counts().keys > 0);
        let waits = servers.iter().any(|server| server.leaves);
        self.daemon.retire_at = waits.then(|| now.plus(RETIRE_EVERY_MS));
    }

    /// A node said where the keys of some slots are.
    pub fn redirect(&mut self, answers: &mut [Answer], redirections: Vec<[usize; 3]>) {
        for [place, slot, node] in redirections {
            if self.daemon.view.members.contains(&node) {
                if let Answer::NotYet(left) = &mut answers[place]
                    && let Some(owner) = self.daemon.place_of(node)
                {
                    *left = self.daemon.servers[owner].number();
                }
                self.daemon.redirections.insert(slot, node);
            } else {
                self.daemon.redirections.remove(&slot);
            }
        }
    }

    pub fn hand_over(&mut self, from: usize, moved: &Moved) {
        let slot = slot(moved.key.as_str());
        let said = self.daemon.redirections.get(&slot);
        let owner = said.or(self.daemon.view.owners.get(slot)).copied();
        let to = owner.and_then(|owner| self.daemon.place_of(owner)).filter(|&to| to != from);
        let Some(to) = to else { return };
        let (now, name) = (self.time(), moved.key.as_str().as_bytes());
        if self.knobs.broken == Broken::LetsGoFirst {
            self.daemon.servers[from].detector.handle(now, Input::LetGo(name));
            self.drain(from);
        }
        let number = self.daemon.servers[from].number();
        self.daemon.servers[to].detector.handle(now, Input::Adopted(moved, number));
        self.drain(to);
        self.daemon.servers[from].detector.handle(now, Input::LetGo(name));
    }

    /// What is held once all servers were compared is the first snapshot.
    pub fn open_if_compared(&mut self) {
        let daemon = &mut self.daemon;
        if !daemon.open && daemon.servers.iter().all(|server| server.compared || server.leaves) {
            daemon.open = true;
            daemon.hub.open();
        }
    }
}
