//! The users that this daemon keeps, where it keeps only those whom its clients watch.
//!
//! Events of all other users are dropped at the cost of one look-up. From the moment a user is chosen, the user's events are taken
//! in; then each server's part of the user's keys is found (`seeking.rs`). The user is known once that is done at each server. Until
//! then no end of the user's keys is reported, since other keys may be live.
//!
//! A daemon that holds a server's lease keeps all users of that server: it asks at deadlines for daemons that keep only some.

use super::{Action, Event, Input, Role, Time, Tracker};
use crate::Name;
use crate::key::split;
use std::collections::{HashMap, HashSet};

/// How often users are dropped who could not be dropped at once, in milliseconds.
const LEAVE_EVERY_MS: u64 = 1_000;
/// The user is kept only until nothing about the user is open; no keys were looked for.
const UNSOUGHT: u32 = u32::MAX;

/// See the module's head.
#[derive(Default)]
pub(super) struct Chosen {
    /// Each user, with the number of servers at which keys have yet to be found.
    users: HashMap<Name, u32>,
    /// Nobody watches them any longer. They are dropped once no question about them is open: an answer must not outlive the events
    /// that it is compared with.
    leaving: HashSet<Name>,
    leave_at: Option<Time>,
    /// They became known since the last report.
    known: Vec<Name>,
}

impl Chosen {
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    pub(super) fn has(&self, user: &str) -> bool {
        self.users.contains_key(user)
    }

    /// Whether keys of the user have yet to be found.
    pub(super) fn is_open(&self, user: &str) -> bool {
        self.users.get(user).is_some_and(|&open| open > 0 && open != UNSOUGHT)
    }

    /// Whether it keeps the user of the key of this name.
    fn has_key(&self, name: &[u8]) -> bool {
        std::str::from_utf8(name).is_ok_and(|name| self.has(split(name).0))
    }

    /// One more server's part of the user's keys is found.
    pub(super) fn found_at_one(&mut self, user: Name) {
        let Some(open) = self.users.get_mut(&user) else { return };
        *open = open.saturating_sub(1);
        if *open == 0 {
            self.known.push(user);
        }
    }
}

/// How much of a server this daemon keeps, where it keeps only chosen users elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Whole {
    /// Chosen users alone.
    #[default]
    No,
    /// All events from here on; the keys that were there before have yet to be found.
    Begun,
    /// The pass under way finds them.
    Covered,
    /// All keys.
    Complete,
}

impl Tracker {
    /// Clients watch these users from now on.
    pub(super) fn choose(&mut self, users: Vec<Name>) {
        let Some(chosen) = &mut self.chosen else { return };
        for user in users {
            chosen.leaving.remove(&user);
            if let Some(&open) = chosen.users.get(&user).filter(|&&open| open != UNSOUGHT) {
                chosen.known.extend(Some(user).filter(|_| open == 0));
                continue;
            }
            let mut open = 0;
            for server in self.servers.iter_mut().filter(|server| !server.has_left()) {
                server.seeking.begin(user.clone());
                open += 1;
            }
            chosen.known.extend(Some(user.clone()).filter(|_| open == 0));
            chosen.users.insert(user, open);
        }
    }

    /// No client watches these users any longer.
    pub(super) fn dismiss(&mut self, now: Time, users: Vec<Name>) {
        let Some(chosen) = &mut self.chosen else { return };
        chosen.leaving.extend(users.into_iter().filter(|user| chosen.users.contains_key(user)));
        self.leave(now);
    }

    /// Drops the users whom nobody watches any longer, as far as nothing about them is open.
    fn leave(&mut self, now: Time) {
        let Some(mut chosen) = self.chosen.take() else { return };
        let mut leaving = std::mem::take(&mut chosen.leaving);
        let is_busy = |user: &Name| self.held.of(user).next().is_some();
        let mut busy: HashSet<Name> = leaving.iter().filter(|&user| is_busy(user)).cloned().collect();
        for server in self.servers.iter().filter(|_| !leaving.is_empty()) {
            busy.extend(server.detector.users_in_question(|user| !leaving.contains(user)));
        }
        (chosen.leaving, leaving) = leaving.into_iter().partition(|user| busy.contains(user));
        chosen.leave_at = (!chosen.leaving.is_empty()).then(|| now.plus(LEAVE_EVERY_MS));
        chosen.users.retain(|user, _| !leaving.contains(user));
        self.chosen = Some(chosen);
        for at in 0..self.servers.len() {
            leaving.iter().for_each(|user| self.servers[at].seeking.end(user));
            if self.servers[at].whole == Whole::No && !leaving.is_empty() {
                self.drop_users(now, at, |user| !leaving.contains(user));
            }
        }
    }

    pub(super) fn leave_again(&mut self, now: Time) {
        if self.chosen.as_ref().and_then(|chosen| chosen.leave_at).is_some_and(|at| at <= now) {
            self.leave(now);
        }
    }

    pub(super) fn leave_due(&self) -> Option<Time> {
        self.chosen.as_ref().and_then(|chosen| chosen.leave_at)
    }

    fn drop_users(&mut self, now: Time, at: usize, keeps: impl Fn(&str) -> bool) {
        let keys = self.servers[at].detector.drop_users(now, keeps);
        if !keys.is_empty() {
            self.out.push_back(Action::Dropped(keys));
        }
    }

    /// Whether the keys of all users of this server are known.
    pub(super) fn keeps_all(&self, at: usize) -> bool {
        self.chosen.is_none() || self.servers[at].whole == Whole::Complete
    }

    /// All users of this server are kept from here on, if this daemon holds the lease.
    pub(super) fn keep_whole(&mut self, now: Time, at: usize) {
        let holds = self.servers[at].role() == Role::Holds;
        if self.chosen.is_some() && holds && self.servers[at].whole == Whole::No {
            self.servers[at].whole = Whole::Begun;
            self.servers[at].polling.wanted(now);
        }
    }

    /// Only chosen users of this server are kept from here on.
    pub(super) fn keep_chosen(&mut self, now: Time, at: usize) {
        if self.servers[at].whole == Whole::No {
            return;
        }
        self.drain(now, at);
        self.servers[at].whole = Whole::No;
        let Some(mut chosen) = self.chosen.take() else { return };
        // Their events count until nothing about them is open.
        let mut open = self.servers[at].detector.users_in_question(|user| chosen.has(user));
        open.extend(self.held.users().filter(|user| !chosen.has(user)).cloned());
        for user in open {
            chosen.users.insert(user.clone(), UNSOUGHT);
            chosen.leaving.insert(user);
        }
        chosen.leave_at = (!chosen.leaving.is_empty()).then(|| now.plus(LEAVE_EVERY_MS));
        let keeps = |user: &str| chosen.has(user);
        let keys = self.servers[at].detector.drop_users(now, keeps);
        self.out.extend((!keys.is_empty()).then_some(Action::Dropped(keys)));
        self.chosen = Some(chosen);
    }

    /// Whether the key of this name is kept at this server.
    pub(super) fn keeps(&self, at: usize, name: &[u8]) -> bool {
        let chosen = self.chosen.as_ref().filter(|_| self.servers[at].whole == Whole::No);
        chosen.is_none_or(|chosen| chosen.has_key(name))
    }

    /// Whether an event concerns this daemon.
    pub(super) fn keeps_event(&self, at: usize, event: &Event) -> bool {
        match event {
            Event::Key(input) => input.name().is_none_or(|name| self.keeps(at, name)),
            _ => true,
        }
    }

    /// Whether keys of the user have yet to be found.
    pub(super) fn is_sought(&self, user: &str) -> bool {
        self.chosen.as_ref().is_some_and(|chosen| chosen.is_open(user))
    }

    /// Reports whose keys are found.
    pub(super) fn report_known(&mut self) {
        let Some(chosen) = self.chosen.as_mut().filter(|chosen| !chosen.known.is_empty()) else { return };
        self.out.push_back(Action::Known(std::mem::take(&mut chosen.known)));
    }

    /// The page of a scan, without the keys that are not kept.
    pub(super) fn page(&mut self, now: Time, at: usize, number: u8, mut names: Vec<Vec<u8>>, next: u64) {
        names.retain(|name| self.keeps(at, name));
        self.feed(now, at, Input::Page(number, names, next));
    }

    /// Begins the scan of a pass, or goes on with it. Where nobody is kept, there is nothing to find.
    pub(super) fn scan(&mut self, now: Time, at: usize, number: u8, cursor: u64) {
        let server = &mut self.servers[at];
        if cursor == 0 {
            server.seeking.cover();
            if server.whole == Whole::Begun {
                server.whole = Whole::Covered;
            }
        }
        let is_kept = server.whole != Whole::No;
        if !is_kept && self.chosen.as_ref().is_some_and(Chosen::is_empty) {
            self.feed(now, at, Input::Page(number, Vec::new(), 0));
        } else {
            self.out.push_back(Action::Scan(server.link, number, cursor));
        }
    }

    /// A pass is over that began with the scan of all names.
    pub(super) fn scanned(&mut self, at: usize) {
        let server = &mut self.servers[at];
        if server.whole == Whole::Covered {
            server.whole = Whole::Complete;
        }
        let found = server.seeking.take_covered();
        self.found_at(found);
    }

    pub(super) fn found_at(&mut self, users: Vec<Name>) {
        let Some(chosen) = &mut self.chosen else { return };
        self.may_release |= !users.is_empty();
        users.into_iter().for_each(|user| chosen.found_at_one(user));
    }
}
