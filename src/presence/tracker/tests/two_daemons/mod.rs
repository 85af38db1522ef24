//! Two daemons at one server, from a seed: one keeps all users and holds the lease, the other keeps only chosen users. Commands,
//! replies and the event streams are delayed at random; connections break; the holder freezes, dies and comes back.
//!
//! A user who is there all the time is never reported offline once the user is known, and a user who never came is never online. In
//! the end the second daemon has exactly the keys of the users who are chosen, or all keys if it has taken the lease.

mod daemon;
mod server;

use crate::tracker::*;
use crate::{Change, End, Key, Name, Side};
use daemon::{CHOOSER, Command, Daemon, HOLDER, Item, NAMES};
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};

/// `s…` is online all the time, `n…` never comes, and the others come and go.
const USERS: [&str; 6] = ["s1", "s2", "n1", "u1", "u2", "u3"];
/// Keys that programs renew all the time, and their TTL in milliseconds.
const STEADY: [&str; 3] = ["s1#phone", "s2", "s2#tab"];
const STEADY_TTL_MS: u64 = 5_000;

struct World {
    seed: u64,
    rng: Rng,
    now: u64,
    keys: BTreeMap<String, u64>,
    stream: Vec<Item>,
    lease: Option<(usize, u64)>,
    daemons: [Daemon; 2],
    chosen: BTreeSet<Name>,
    calm: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let mut world = World {
            seed,
            rng: Rng::with_seed(seed),
            now: 1_000_000,
            keys: BTreeMap::new(),
            stream: Vec::new(),
            lease: None,
            daemons: [Daemon::new(HOLDER), Daemon::new(CHOOSER)],
            chosen: BTreeSet::new(),
            calm: false,
        };
        for key in STEADY {
            world.keys.insert(key.into(), world.now + STEADY_TTL_MS);
        }
        for at in [HOLDER, CHOOSER] {
            world.handle(at, Notice::Topology(super::script::fleet(&["S"])));
            world.connect(at);
        }
        world
    }

    fn time(&self) -> Time {
        Time::from_ms(self.now)
    }

    fn connect(&mut self, at: usize) {
        let (now, daemon) = (self.now, &mut self.daemons[at]);
        let Some(link) = daemon.link.filter(|_| !daemon.up && !daemon.dead) else { return };
        (daemon.up, daemon.read) = (true, self.stream.len());
        daemon.commands.clear();
        daemon.replies.clear();
        daemon.answers.clear();
        let holder = self.lease.filter(|&(_, until)| until > now).map(|(holder, _)| holder);
        let lease = match holder {
            Some(holder) if holder != at || at == CHOOSER => LeaseReply::Other(NAMES[holder].into()),
            None if at == CHOOSER => LeaseReply::Nobody,
            _ => {
                self.lease = Some((at, now + LEASE_MS));
                LeaseReply::Mine { daemons: 2 }
            }
        };
        self.daemons[at].listens = at == HOLDER;
        let up = LinkNotice::Up {
            run: "r".into(),
            outage: false,
            uptime_ms: u64::MAX - 1,
            silent: false,
            renewals: Renewals::Set,
            lease: Some(lease),
            mark: 0,
        };
        self.handle(at, Notice::Link(link, up));
    }

    fn cut(&mut self, at: usize) {
        let daemon = &mut self.daemons[at];
        if let Some(link) = daemon.link.filter(|_| std::mem::take(&mut daemon.up)) {
            self.handle(at, Notice::Link(link, LinkNotice::Down(Cause::Connection, "cut".into())));
        }
    }

    fn handle(&mut self, at: usize, notice: Notice) {
        self.daemons[at].tracker.handle(Time::from_ms(self.now), notice);
        self.drain(at);
    }

    fn drain(&mut self, at: usize) {
        while let Some(action) = self.daemons[at].tracker.poll(self.time()) {
            self.carry_out(at, action);
        }
        if std::mem::take(&mut self.daemons[at].closing) {
            self.cut(at);
        }
    }

    fn carry_out(&mut self, at: usize, action: Action) {
        let daemon = &mut self.daemons[at];
        let mut send = |command| daemon.commands.push_back(command);
        match action {
            Action::Open { link, .. } => daemon.link = Some(link),
            Action::Changed(_, change, _) => self.change(at, &change),
            Action::Dropped(keys) => keys.iter().for_each(|key| {
                assert!(
                    daemon.believed.remove(key),
                    "seed {}: {key:?} is dropped and was not there",
                    self.seed
                );
            }),
            Action::Known(users) => users.into_iter().for_each(|user| self.know(at, user)),
            Action::Ask(_, batch, keys) => {
                send(Command::Fence(batch, Side::Open));
                keys.into_iter().for_each(|key| send(Command::Question(key)));
                send(Command::Answers(batch));
                send(Command::Fence(batch, Side::Close));
            }
            Action::Scan(_, number, _) => send(Command::Scan(number)),
            Action::Canary(_) => send(Command::Canary),
            Action::Lease(_, order) => send(Command::Lease(order)),
            Action::Listen(_, on) => send(Command::Listen(on)),
            Action::Seek(_, number, users) => {
                users.into_iter().for_each(|user| send(Command::Publish(Item::Sought(at, number, user))));
            }
            Action::Answer(link, Request { from, number, users }) => {
                let to = NAMES.iter().position(|name| *name == from).unwrap();
                for user in &users {
                    let reported =
                        daemon.believed.iter().filter(|key| key.user() == *user).cloned().collect();
                    for key in daemon.tracker.keys_at(link, user, reported) {
                        send(Command::Publish(Item::Named(to, number, key.as_str().to_owned())));
                    }
                }
                users.into_iter().for_each(|user| send(Command::Publish(Item::NamedAll(to, number, user))));
            }
            Action::Close(..) => daemon.closing = true,
            _ => {}
        }
    }

    fn change(&mut self, at: usize, change: &Change) {
        let (seed, daemon) = (self.seed, &mut self.daemons[at]);
        let user = Name::from(change.key.user());
        let fresh = match change.live {
            true => daemon.believed.insert(change.key.clone()),
            false => daemon.believed.remove(&change.key),
        };
        assert!(fresh, "seed {seed}: {change:?} twice");
        assert!(!user.starts_with('n'), "seed {seed}: {change:?} never came");
        if at == CHOOSER && daemon.known.contains(&user) {
            self.check_steady(at, &user);
        }
    }

    fn know(&mut self, at: usize, user: Name) {
        assert_eq!(at, CHOOSER, "seed {}: the holder keeps all users", self.seed);
        if self.chosen.contains(&user) {
            self.check_steady(at, &user);
            self.daemons[at].known.insert(user);
        }
    }

    fn check_steady(&self, at: usize, user: &str) {
        let online = self.daemons[at].believed.iter().any(|key| key.user() == user);
        assert!(online || !user.starts_with('s'), "seed {}: {user} is known and offline", self.seed);
    }

    /// The daemon reads one message of the stream.
    fn read(&mut self, at: usize) {
        let daemon = &mut self.daemons[at];
        let Some(link) = daemon.link.filter(|_| daemon.up) else { return };
        let Some(item) = self.stream.get(daemon.read).cloned() else { return };
        daemon.read += 1;
        let event = match &item {
            Item::Created(key) => Event::Key(Input::Created(key.as_bytes())),
            Item::Set(key) if daemon.listens => Event::Key(Input::Renewed(key.as_bytes())),
            Item::Ended(key, end) => Event::Key(Input::Ended(key.as_bytes(), *end)),
            Item::Fence(of, batch, side) if *of == at => Event::Key(Input::Fence(*batch, *side)),
            Item::Canary(of) if *of == at => Event::Canary,
            Item::Leads(of) if *of == at => Event::Leads,
            Item::Beat(of) if *of != at => {
                Event::Beat { from: NAMES[*of], released: false, daemons: 2, stands_in: *of == CHOOSER }
            }
            Item::Released(of) if *of != at => {
                Event::Beat { from: NAMES[*of], released: true, daemons: 2, stands_in: *of == CHOOSER }
            }
            Item::Sought(from, number, user) if *from != at => {
                Event::Sought { from: NAMES[*from], number: *number, user }
            }
            Item::Named(to, number, key) if *to == at => Event::Named(*number, key),
            Item::NamedAll(to, number, user) if *to == at => Event::NamedAll(*number, user),
            _ => return,
        };
        daemon.tracker.events(Time::from_ms(self.now), link, std::iter::once(event));
        self.drain(at);
    }

    fn take_reply(&mut self, at: usize) {
        let daemon = &mut self.daemons[at];
        let Some(link) = daemon.link.filter(|_| daemon.up) else { return };
        if let Some(reply) = daemon.replies.pop_front() {
            self.handle(at, Notice::Link(link, reply));
        }
    }

    fn runs(&self, at: usize) -> bool {
        !self.daemons[at].dead && self.daemons[at].frozen_until <= self.now
    }

    fn step(&mut self) {
        let at = self.rng.usize(..2);
        let user = USERS[self.rng.usize(..USERS.len())];
        match self.rng.u8(..100) {
            0..10 if self.runs(at) => self.handle(at, Notice::Due),
            0..10 => {}
            10..22 => {
                let ms = self.rng.u64(..60);
                self.pass_time(ms);
            }
            22..40 => self.execute(at),
            40..62 if self.runs(at) => self.read(at),
            62..74 if self.runs(at) => self.take_reply(at),
            40..74 => {}
            74..80 => self.stir(),
            80..83 => self.sweep(),
            83..89 if self.runs(CHOOSER) => self.want(user),
            89..91 if self.rng.u8(..8) == 0 && !self.calm => self.cut(at),
            91..98 => self.connect(at),
            98 if self.rng.u8(..10) == 0 && !self.calm => {
                self.daemons[HOLDER].frozen_until = self.now + self.rng.u64(..9_000);
            }
            _ => {}
        }
    }

    /// Time passes, and programs renew the steady users' keys.
    fn pass_time(&mut self, ms: u64) {
        self.now += ms;
        for key in STEADY {
            if self.keys.get(key).is_none_or(|&until| until < self.now + STEADY_TTL_MS / 2) {
                self.set(key, STEADY_TTL_MS);
            }
        }
    }

    /// A program sets or deletes a key.
    fn stir(&mut self) {
        if self.calm {
            return;
        }
        let key = ["u1", "u1#a", "u1#b", "u2#a", "u3", "u3#a"][self.rng.usize(..6)];
        match self.rng.u8(..4) {
            0 => {
                self.touch(key);
                if self.keys.remove(key).is_some() {
                    self.stream.push(Item::Ended(key.into(), End::Deleted));
                }
            }
            ttl => self.set(key, [600, 2_000, 5_000][usize::from(ttl) - 1]),
        }
    }

    /// A client begins to watch a user, or ends.
    fn want(&mut self, user: &str) {
        if self.calm {
            return;
        }
        let user = Name::from(user);
        if self.chosen.insert(user.clone()) {
            self.handle(CHOOSER, Notice::Choose(vec![user]));
        } else {
            self.chosen.remove(&user);
            self.daemons[CHOOSER].known.remove(&user);
            self.handle(CHOOSER, Notice::Dismiss(vec![user]));
        }
    }

    /// The faults end; the holder lives, or is dead. Everything arrives.
    fn rest(&mut self) {
        self.calm = true;
        if self.rng.u8(..3) == 0 {
            self.cut(HOLDER);
            self.daemons[HOLDER].dead = true;
        }
        self.daemons[HOLDER].frozen_until = 0;
        for _ in 0..1_200 {
            self.pass_time(25);
            for at in [HOLDER, CHOOSER] {
                if self.daemons[at].dead {
                    continue;
                }
                self.connect(at);
                self.handle(at, Notice::Due);
                while !self.daemons[at].commands.is_empty() && self.daemons[at].up {
                    self.execute(at);
                }
                while self.daemons[at].up && self.daemons[at].read < self.stream.len() {
                    self.read(at);
                }
                while self.daemons[at].up && !self.daemons[at].replies.is_empty() {
                    self.take_reply(at);
                }
            }
        }
    }

    fn check_end(&self) {
        let seed = self.seed;
        let chooser = &self.daemons[CHOOSER];
        assert!(chooser.tracker.settled(), "seed {seed}: not settled");
        assert_eq!(chooser.known, self.chosen, "seed {seed}: all who are chosen are known");
        let all: BTreeSet<Key> = self.keys.keys().map(|key| Key::parse(key.as_bytes()).unwrap()).collect();
        let leads = chooser.tracker.servers()[0].lease == LeaseState::Held;
        assert_eq!(leads, self.daemons[HOLDER].dead, "seed {seed}: who holds the lease");
        let kept = |key: &&Key| leads || self.chosen.contains(key.user());
        let wanted: BTreeSet<Key> = all.iter().filter(kept).cloned().collect();
        assert_eq!(chooser.believed, wanted, "seed {seed}: the keys of the chooser");
        assert_eq!(chooser.tracker.counts().keys as usize, wanted.len(), "seed {seed}");
        if !self.daemons[HOLDER].dead {
            assert_eq!(self.daemons[HOLDER].believed, all, "seed {seed}: the keys of the holder");
        }
    }
}

#[test]
fn chooser_knows_what_the_server_holds() {
    let seed = std::env::var("KEYBEAT_SIM_SEED").ok().map(|seed| seed.parse().unwrap());
    for seed in seed.map_or(0..150, |seed| seed..seed + 1) {
        let mut world = World::new(seed);
        for _ in 0..6_000 {
            world.step();
        }
        world.rest();
        world.check_end();
    }
}
