//! Client tracking: a server that publishes no event of a key pushes the names of the keys that have changed, at the end of a turn of
//! its event loop, on a connection of its own.

use super::link::{Deaf, Feed};
use super::redis::Event as Message;
use super::world::{Act, Broken, World};
use keybeat::presence::{Event, Input, Time};
use std::collections::{BTreeSet, VecDeque};

/// The names that a server has yet to push.
#[derive(Default)]
pub struct Pushes {
    names: BTreeSet<String>,
    /// The daemon's canary is among them.
    canary: bool,
    /// A database was flushed.
    pub flushed: bool,
    /// The end of the turn is planned.
    planned: bool,
}

impl Pushes {
    /// Is there something to push?
    pub fn wait(&self) -> bool {
        !self.names.is_empty() || self.canary
    }
}

/// Both proofs of a canary, which come on two connections. A daemon to which nothing is pushed needs the mark alone.
#[derive(Default)]
pub struct Proofs {
    /// Of each canary under way, whether its key is to be pushed.
    sent: VecDeque<bool>,
    marks: u32,
    pushes: u32,
}

impl Proofs {
    pub fn send(&mut self, pushed: bool) {
        self.sent.push_back(pushed);
    }

    /// How many pushes are still to come.
    fn awaited(&self) -> usize {
        let needed = self.sent.iter().filter(|pushed| **pushed).count();
        needed.saturating_sub(self.pushes as usize)
    }

    /// A mark came; does it prove a canary?
    pub fn marked(&mut self) -> bool {
        self.marks += 1;
        self.prove()
    }

    fn pushed(&mut self) -> bool {
        self.pushes += 1;
        self.prove()
    }

    fn prove(&mut self) -> bool {
        let needed = self.sent.front().is_some_and(|pushed| *pushed);
        let proven = !self.sent.is_empty() && self.marks > 0 && (!needed || self.pushes > 0);
        if proven {
            self.sent.pop_front();
            self.marks -= 1;
            self.pushes -= u32::from(needed);
        }
        proven
    }
}

impl World {
    /// A key has changed at a node.
    pub fn note_push(&mut self, node: usize, event: &Message) {
        self.plan_to_say(node, event);
        let pushes = &mut self.nodes[node].pushes;
        match event {
            Message::New(key) | Message::Set(key) | Message::Retimed(key) | Message::Placed(key) => {
                pushes.names.insert(key.clone());
            }
            Message::Ended(key, _) => {
                pushes.names.insert(key.clone());
            }
            Message::Canary => pushes.canary = true,
            // The server pushes null at once.
            Message::Exchanged(_) if std::mem::take(&mut pushes.flushed) => self.push(node, Feed::Suspect),
            _ => {}
        }
    }

    /// The turn goes on for a while, perhaps with questions in it.
    pub fn plan_pushes(&mut self, node: usize) {
        let pushes = &mut self.nodes[node].pushes;
        if pushes.wait() && !std::mem::replace(&mut pushes.planned, true) {
            let long = if self.rng.bool() { self.rng.u64(..2) } else { 0 };
            self.at(self.now + long, Act::Push(node));
        }
    }

    /// The turn ends.
    pub fn end_turn(&mut self, node: usize) {
        let Pushes { names, canary, .. } = std::mem::take(&mut self.nodes[node].pushes);
        if self.nodes[node].up && (canary || !names.is_empty()) {
            self.push(node, Feed::Pushed(names.into_iter().collect(), canary));
        }
    }

    /// On the connection that tracks, what comes first arrives first.
    fn push(&mut self, node: usize, feed: Feed) {
        let found = self.relay.servers.iter().position(|server| server.node == node && server.link.on);
        let Some(at) = found else { return };
        let when = self.now + self.wire_latency(at);
        self.order += 1;
        let link = &mut self.relay.servers[at].link;
        if !link.listens && matches!(feed, Feed::Pushed(..)) {
            return;
        }
        if !matches!(link.deaf, Some(Deaf::All | Deaf::Keys)) {
            link.pushed_at = link.pushed_at.max(when);
            link.replies.insert((link.pushed_at, self.order), feed);
        }
    }

    /// Nothing is pushed any longer: the canaries under way do without.
    pub fn push_no_more(&mut self, at: usize) {
        for _ in 0..self.relay.servers[at].proofs.awaited() {
            self.reply(at, Feed::Pushed(Vec::new(), true));
        }
    }

    /// Names have arrived. They have no order, so the canary among them is proven behind them.
    pub fn take_pushes(&mut self, at: usize, mut names: Vec<String>, canary: bool) {
        if self.knobs.broken == Broken::PushesLost && self.rng.u8(..4) == 0 {
            names.pop();
        }
        let server = &mut self.relay.servers[at];
        let id = server.id;
        let proven = canary && server.proofs.pushed();
        let keys = names.iter().map(|name| Event::Key(Input::Pushed(name.as_bytes())));
        let events = keys.chain(proven.then_some(Event::Canary));
        self.relay.tracker.events(Time::from_ms(self.now), id, events);
        self.settle();
    }
}
