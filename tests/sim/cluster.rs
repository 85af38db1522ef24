//! The owners of keys: slots that move while users beat, and nodes that come and go.

use super::link::Feed;
use super::redis::{Event, NEVER, Redis, hash};
use super::scenes::Scene;
use super::world::{Act, Broken, World};
use keybeat::presence::Key;
use std::collections::{BTreeMap, BTreeSet};

pub const SLOTS: usize = 6;
const MOST_MEMBERS: usize = 3;
/// The first address that no node has by its number.
const FIRST_NEW_ADDRESS: u64 = 1_000;
/// The owner of a slot that has none.
pub const NOBODY: usize = usize::MAX;
/// The daemon asks the nodes so often.
const LEARNS_WITHIN_MS: u64 = 1_000;

/// The daemon's view of the cluster.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub number: u64,
    pub owners: Vec<usize>,
    pub members: BTreeSet<usize>,
    /// The node that owned each slot which has no owner, and that has its keys still.
    pub orphans: [Option<usize>; SLOTS],
    /// The addresses of nodes that have not kept their first one: where each is, and where it was before.
    addresses: BTreeMap<usize, [u64; 2]>,
    last_address: u64,
}

impl View {
    pub fn address(&self, node: usize) -> String {
        self.addresses_of(node)[0].to_string()
    }

    /// The address of a node, and the one that it had before, which it may announce still.
    pub fn addresses_of(&self, node: usize) -> [u64; 2] {
        self.addresses.get(&node).copied().unwrap_or([node as u64; 2])
    }

    /// Two nodes change addresses with each other; one alone gets a new one.
    pub fn readdress(&mut self, one: usize, other: usize) {
        let [now, next] = [one, other].map(|node| self.addresses_of(node)[0]);
        if one == other {
            self.last_address += 1;
            self.addresses.insert(one, [FIRST_NEW_ADDRESS + self.last_address, now]);
        } else {
            self.addresses.insert(one, [next, now]);
            self.addresses.insert(other, [now, next]);
        }
    }
}

/// The slots of one server that stands alone, or of several.
pub struct Cluster {
    pub on: bool,
    pub view: View,
    /// Where each slot is on its way to.
    pub to: Vec<Option<usize>>,
    /// The keys of each slot that moves as a whole: its new owner publishes a `set` for each, before it owns the slot.
    copied: Vec<Option<Vec<String>>>,
    /// When each slot last moved. One that moves away and then back as a whole, before the daemon has heard of either, looks like
    /// keys that are deleted and set again.
    moved: [u64; SLOTS],
    /// Loses its slots, and leaves then.
    leaving: Option<usize>,
}

impl Cluster {
    pub fn new(on: bool, members: usize) -> Cluster {
        let owners = (0..SLOTS).map(|slot| slot % members).collect();
        let view = View {
            number: 1,
            owners,
            members: (0..members).collect(),
            orphans: [None; SLOTS],
            ..View::default()
        };
        Cluster {
            on,
            view,
            to: vec![None; SLOTS],
            copied: vec![None; SLOTS],
            moved: [0; SLOTS],
            leaving: None,
        }
    }

    pub fn owns(&self, node: usize, key: &str) -> bool {
        self.view.owners[slot(key)] == node || self.view.orphans[slot(key)] == Some(node)
    }

    /// The node to which the keys of a slot go one by one.
    pub fn importer(&self, slot: usize) -> Option<usize> {
        self.to[slot].filter(|_| self.copied[slot].is_none())
    }

    /// Does it have a part in a move that is under way?
    pub fn moves(&self, node: usize) -> bool {
        (0..SLOTS).any(|slot| self.to[slot].is_some_and(|to| to == node || self.view.owners[slot] == node))
    }
}

pub fn slot(key: &str) -> usize {
    (hash(key) >> 20) as usize % SLOTS
}

/// The servers as programs see them: each command goes to where its key is.
pub struct Keys<'a> {
    pub now: u64,
    pub nodes: &'a mut [Redis],
    pub cluster: &'a Cluster,
    /// The daemon's own writes.
    pub own: &'a mut Vec<(Key, u32)>,
}

impl Keys<'_> {
    /// The node that carries out a command for this key, redirected by MOVED and ASK; `None` while it is down.
    fn node(&mut self, key: &str) -> Option<&mut Redis> {
        let (owner, to) = (self.cluster.view.owners[slot(key)], self.cluster.importer(slot(key)));
        let node = self.nodes.get_mut(owner)?;
        if !node.up || node.frozen_until > self.now {
            return None;
        }
        node.touch(self.now, key);
        // A node that refuses writes still redirects.
        let at = to.filter(|_| !node.keys.contains_key(key)).unwrap_or(owner);
        let (now, node) = (self.now, &mut self.nodes[at]);
        node.refused |= node.up && !node.takes_writes(now);
        Some(node).filter(|node| node.takes_writes(now))
    }

    /// Whether a server took it.
    pub fn set(&mut self, key: &str, ttl: u64) -> bool {
        let now = self.now;
        self.node(key).map(|node| node.set(now, key, ttl)).is_some()
    }

    /// A daemon sets it: the one under test, which notes it, or another one, which says so.
    pub fn set_by_daemon(&mut self, key: &str, ttl: u64, own: bool) {
        let now = self.now;
        let Some(node) = self.node(key) else { return };
        node.set(now, key, ttl);
        if !own {
            return node.say_written(key, ttl);
        }
        if let Ok(key) = Key::parse(key.as_bytes()) {
            self.own.push((key, ttl as u32));
        }
    }

    /// The last socket of a session has closed at a daemon, and its page may come back.
    pub fn end_soon(&mut self, key: &str, ttl: u64) {
        let now = self.now;
        if let Some(node) = self.node(key) {
            node.end_soon(now, key, ttl);
        }
    }

    pub fn restore(&mut self, key: &str, ttl: u64) {
        let now = self.now;
        if let Some(node) = self.node(key) {
            node.restore(now, key, ttl);
        }
    }

    pub fn del(&mut self, key: &str) {
        let now = self.now;
        if let Some(node) = self.node(key) {
            node.del(now, key);
        }
    }

    /// INCR and EXPIRE, as a script does it.
    pub fn count(&mut self, key: &str, ttl: u64) {
        let now = self.now;
        if let Some(node) = self.node(key) {
            node.count(now, key, ttl);
        }
    }

    pub fn expire(&mut self, key: &str, ttl: u64) -> bool {
        let now = self.now;
        self.node(key).is_some_and(|node| node.expire(now, key, ttl))
    }

    /// Refused in a cluster, where the two keys lie in two slots.
    pub fn rename(&mut self, from: &str, to: &str) {
        let now = self.now;
        if !self.cluster.on
            && let Some(node) = self.node(from)
        {
            node.rename(now, from, to);
        }
    }
}

impl World {
    /// Something changes in the cluster's shape.
    pub fn reshape(&mut self) {
        match self.knobs.scene {
            Scene::Addresses if self.rng.u8(..3) == 0 => return self.readdress(),
            scene if scene.is_fixed() => return,
            _ => {}
        }
        let slot = self.rng.usize(..SLOTS);
        let members = self.cluster.view.members.clone();
        let any = self.rng.usize(..members.len());
        let Some(&node) = members.iter().nth(any) else { return };
        match self.rng.u8(..8) {
            0 if members.len() < MOST_MEMBERS => {
                self.add_node(Redis::new());
                self.cluster.view.members.insert(self.nodes.len() - 1);
                self.tell_view();
            }
            1 if members.len() > 1 && self.cluster.leaving.is_none() => {
                self.cluster.leaving = Some(node);
                (0..SLOTS).for_each(|slot| self.begin_move(slot));
            }
            _ => self.begin_move(slot),
        }
        self.leave();
    }

    /// A slot begins to move to another node; where one leaves, only its own do.
    fn begin_move(&mut self, slot: usize) {
        let owner = self.cluster.view.owners[slot];
        let leaving = self.cluster.leaving;
        if self.cluster.to[slot].is_some()
            || owner == NOBODY
            || !self.nodes[owner].takes_writes(self.now)
            || leaving.is_some_and(|node| node != owner)
        {
            return;
        }
        let fits = |&node: &usize| node != owner && self.nodes[node].takes_writes(self.now);
        let others: Vec<usize> = self.cluster.view.members.iter().copied().filter(fits).collect();
        if others.is_empty() {
            return;
        }
        let to = others[self.rng.usize(..others.len())];
        self.trail.note(self.now, format_args!("slot {slot} begins to move from {owner} to {to}"));
        self.cluster.to[slot] = Some(to);
        let known = self.now > self.cluster.moved[slot] + LEARNS_WITHIN_MS;
        let whole = (self.rng.u8(..3) == 0 || self.knobs.scene == Scene::Copied) && known;
        self.cluster.copied[slot] = whole.then(|| self.names(owner, slot));
        self.later(1..1_000, Act::Move(slot));
    }

    fn names(&self, node: usize, slot: usize) -> Vec<String> {
        self.nodes[node].keys.keys().filter(|key| self::slot(key) == slot).cloned().collect()
    }

    /// One more key of the slot moves, or it is done.
    pub fn step_move(&mut self, slot: usize) {
        let Some(to) = self.cluster.to[slot] else { return };
        let from = self.cluster.view.owners[slot];
        if [from, to].iter().any(|&node| self.nodes[node].up && !self.nodes[node].takes_writes(self.now)) {
            return self.later(1..1_000, Act::Move(slot));
        }
        if self.healing && self.rng.u8(..8) == 0 {
            // It stays half moved.
            return;
        }
        if let Some(name) = self.cluster.copied[slot].as_mut().and_then(Vec::pop) {
            if self.leaves_before_copy(&name, from) {
                self.cluster.copied[slot].get_or_insert_default().push(name);
            } else {
                self.copy(&name, to);
            }
        } else if self.cluster.copied[slot].take().is_some() {
            self.names(from, slot).iter().for_each(|name| self.carry(name, from, to));
            self.end_move(slot, from, to);
        } else if let Some(name) = self.names(from, slot).first() {
            self.migrate(name, from, to);
        } else {
            self.end_move(slot, from, to);
        }
        let pause = [3, 300, 2_000][self.rng.usize(..3)];
        self.later(1..pause, Act::Move(slot));
    }

    fn end_move(&mut self, slot: usize, from: usize, to: usize) {
        self.trail.note(self.now, format_args!("slot {slot} has moved from {from} to {to}"));
        self.cluster.to[slot] = None;
        self.cluster.view.owners[slot] = to;
        self.cluster.moved[slot] = self.now;
        self.tell_view();
        self.leave();
    }

    /// The node that copies a slot publishes a `set` for a key that may have ended since.
    fn copy(&mut self, name: &str, to: usize) {
        self.trail.note(self.now, format_args!("{name} is copied to {to}"));
        for event in [Event::New, Event::Set, Event::Retimed].map(|event| event(name.to_owned())) {
            if self.knobs.mode.tracks() {
                self.note_push(to, &event);
            }
            if self.knobs.silent.tells(&event, self.knobs.mode)
                && let Some(at) = self.relay.hears(to, &event)
            {
                self.send(at, Feed::Event(event));
            }
        }
    }

    /// The key changes nodes with its slot, without a word.
    fn carry(&mut self, name: &str, from: usize, to: usize) {
        if let Some(deadline) = self.nodes[from].keys.remove(name) {
            self.nodes[to].keys.insert(name.to_owned(), deadline);
            // The daemons that track the nodes find the key by looking at the names of the slot.
            self.nodes[from].known.remove(name);
            self.nodes[to].known.insert(name.to_owned());
            let holders = self.holders.entry(name.to_owned()).or_default();
            holders.remove(&from);
            holders.insert(to);
        }
    }

    /// It is at the new owner before the old one lets it go.
    fn migrate(&mut self, name: &str, from: usize, to: usize) {
        self.nodes[from].touch(self.now, name);
        let Some(&deadline) = self.nodes[from].keys.get(name) else { return };
        self.trail.note(self.now, format_args!("{name} moves from {from} to {to}"));
        self.nodes[to].receive(name, deadline);
        self.publish_of(to);
        self.nodes[from].give(self.now, name);
    }

    /// A node that is to leave and owns nothing any more leaves.
    fn leave(&mut self) {
        let Some(node) = self.cluster.leaving else { return };
        let view = &mut self.cluster.view;
        if view.owners.contains(&node) || self.cluster.to.contains(&Some(node)) {
            return;
        }
        view.members.remove(&node);
        self.cluster.leaving = None;
        self.tell_view();
    }

    /// Another node takes over from one that is down.
    pub fn take_over(&mut self, node: usize) {
        let cluster = &self.cluster;
        let next = self.nodes[node].successor(self.now, |key| cluster.owns(node, key));
        let at = self.nodes.len();
        self.trail.note(self.now, format_args!("{at} takes over from {node} with {:?}", next.keys));
        self.add_node(next);
        let cluster = &mut self.cluster;
        cluster.view.members.remove(&node);
        cluster.view.members.insert(at);
        cluster.view.owners.iter_mut().filter(|owner| **owner == node).for_each(|owner| *owner = at);
        cluster
            .view
            .orphans
            .iter_mut()
            .filter(|orphan| **orphan == Some(node))
            .for_each(|orphan| *orphan = Some(at));
        if cluster.leaving == Some(node) {
            cluster.leaving = Some(at);
        }
        self.tell_view();
    }

    /// A slot loses its owner, as by CLUSTER DELSLOTS.
    pub fn disown(&mut self, slot: usize) {
        let owner = self.cluster.view.owners[slot];
        if owner == NOBODY || self.cluster.to[slot].is_some() {
            return;
        }
        self.trail.note(self.now, format_args!("slot {slot} loses its owner {owner}"));
        self.cluster.view.orphans[slot] = Some(owner);
        self.cluster.view.owners[slot] = NOBODY;
        self.tell_view();
        self.later(300..9_000, Act::Own(slot));
    }

    /// A slot has an owner again: the one that it had before, or another one, which has no keys.
    pub fn own_again(&mut self, slot: usize) {
        let members: Vec<usize> = self.cluster.view.members.iter().copied().collect();
        let before = self.cluster.view.orphans[slot].take();
        let stays = before.filter(|node| members.contains(node) && self.rng.u8(..3) > 0);
        let owner = stays.unwrap_or(members[self.rng.usize(..members.len())]);
        self.trail.note(self.now, format_args!("slot {slot} has the owner {owner}"));
        if let Some(before) = before.filter(|&before| before != owner) {
            self.nodes[before].keys.retain(|key, _| self::slot(key) != slot);
        }
        self.cluster.view.owners[slot] = owner;
        self.tell_view();
    }

    /// The daemon hears of it later.
    pub fn tell_view(&mut self) {
        self.cluster.view.number += 1;
        let view = self.cluster.view.clone();
        self.later(1..LEARNS_WITHIN_MS, Act::View(view));
    }

    /// The keys of all servers.
    pub fn held(&self) -> impl Iterator<Item = (&String, &u64)> {
        self.cluster.view.members.iter().flat_map(|&node| &self.nodes[node].keys)
    }

    fn add_node(&mut self, node: Redis) {
        if self.knobs.mode.shared {
            self.later(1..1_000, Act::Others(self.nodes.len()));
        }
        self.nodes.push(node);
    }

    /// Counts how often each key came and went, as it is announced.
    pub fn account(&mut self, node: usize, event: &Event) {
        let (key, live) = match event {
            Event::New(key) | Event::Set(key) | Event::Placed(key) => (key, true),
            Event::Ended(key, _) => (key, false),
            Event::Retimed(_) | Event::Fence(..) | Event::Written(..) | Event::EndsIn(..) => return,
            Event::Canary | Event::Exchanged(_) | Event::Leads => return,
            Event::Lease(_) | Event::Digest(_) => return,
            Event::Came(_) | Event::Gone(..) | Event::Tracks(_) => return,
        };
        if live {
            for node in &mut self.nodes {
                node.unsaid.remove(key);
            }
        }
        let holders = self.holders.entry(key.clone()).or_default();
        let before = holders.is_empty();
        if live {
            holders.insert(node)
        } else {
            holders.remove(&node)
        };
        if before != holders.is_empty() {
            let (came, went) = self.done.entry(key.clone()).or_default();
            *if live { came } else { went } += 1;
            self.note_presence(event, live);
        }
    }

    /// Are all comings and goings of keys announced, and in time? A `set` that is seconds late can come when the key
    /// has moved and run out elsewhere; nothing tells that it is old.
    pub fn accounts(&self) -> bool {
        self.cluster.on && !self.lagged && self.knobs.broken == Broken::No && !self.loses()
    }

    pub fn all_up(&self) -> bool {
        self.cluster.view.members.iter().all(|&node| self.nodes[node].up)
    }

    /// Has a key run out a moment ago?
    pub fn just_ran_out(&self, within_ms: u64) -> bool {
        let now = self.now;
        let deleted = self.nodes.iter().any(|node| now - node.ran_out <= within_ms);
        let held = |&deadline: &u64| deadline != NEVER && deadline < now && now - deadline <= within_ms;
        deleted || self.held().any(|(_, deadline)| held(deadline))
    }
}
