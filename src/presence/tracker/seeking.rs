//! How the keys of a chosen user are found at one server.
//!
//! Sessions have free names, and Redis has no index of them. So this daemon asks the holder of the server's lease, which keeps all
//! keys, over the daemons' channel. The holder answers at the request's place in the event stream, or later: it names the keys that
//! it knew there. All events since the user was chosen are taken in, so a key that is not named, and that no event has brought, is
//! absent. This daemon asks for the named keys itself.
//!
//! The request is repeated once a second. Where no daemon holds the lease, or none answers, one scan finds the keys of all users
//! who wait. A comparison that begins after the user was chosen finds them, too.

use super::chosen::Whole;
use super::{Action, Event, Input, LinkId, Request, Time, Tracker};
use crate::{Key, Name};
use std::collections::{BTreeSet, HashMap};

/// The pause before a request is repeated, in milliseconds.
const AGAIN_MS: u64 = 1_000;
/// After so many requests without an answer, a scan finds the keys.
const TRIES: u32 = 3;

/// A user whose keys have yet to be found.
#[derive(Default)]
struct Want {
    /// The first request that named the user; 0 if there was none.
    first: u64,
    /// The answer is complete.
    answered: bool,
    /// Keys that it named, and that this daemon asks for.
    keys: BTreeSet<Key>,
    /// The pass under way finds the keys.
    covered: bool,
}

/// The users whose keys have yet to be found at one server.
#[derive(Default)]
pub(super) struct Seeking {
    wants: HashMap<Name, Want>,
    again_at: Option<Time>,
    tries: u32,
}

impl Seeking {
    pub(super) fn is_empty(&self) -> bool {
        self.wants.is_empty()
    }

    pub(super) fn begin(&mut self, user: Name) {
        self.wants.entry(user).or_default();
    }

    pub(super) fn end(&mut self, user: &str) {
        self.wants.remove(user);
    }

    /// A pass begins that finds the keys of all users who wait now.
    pub(super) fn cover(&mut self) {
        self.wants.values_mut().for_each(|want| want.covered = true);
    }

    /// The pass is over. Returns the users whose keys it has found.
    pub(super) fn take_covered(&mut self) -> Vec<Name> {
        self.tries = 0;
        self.take(|want| want.covered)
    }

    /// Returns the users whose named keys have all been asked for. `awaits`: the question for a key is open.
    fn take_answered(&mut self, awaits: impl Fn(&Key) -> bool) -> Vec<Name> {
        for want in self.wants.values_mut() {
            want.keys.retain(&awaits);
        }
        self.take(|want| want.answered && want.keys.is_empty())
    }

    fn take(&mut self, is_done: impl Fn(&Want) -> bool) -> Vec<Name> {
        self.wants.extract_if(|_, want| is_done(want)).map(|(user, _)| user).collect()
    }

    /// The holder names a key, or has named all keys of the user. Answers to requests from before the user was chosen
    /// do not count.
    fn want(&mut self, user: &str, number: u64) -> Option<&mut Want> {
        self.wants.get_mut(user).filter(|want| want.first != 0 && number >= want.first)
    }

    /// A server of the cluster has lost a key to another one: all answers so far are void.
    pub(super) fn start_over(&mut self) {
        for want in self.wants.values_mut().filter(|want| want.answered || !want.keys.is_empty()) {
            want.answered = false;
            want.keys.clear();
        }
    }

    /// Whether requests are to be repeated now. True once per pause.
    fn repeats(&mut self, now: Time) -> bool {
        let repeats = self.again_at.is_some_and(|at| at <= now);
        if repeats {
            self.tries += 1;
        }
        if repeats || self.again_at.is_none() {
            self.again_at = Some(now.plus(AGAIN_MS));
        }
        repeats
    }

    /// The users to ask the holder for now, in a request of this number.
    fn due(&mut self, number: u64, repeats: bool) -> Vec<Name> {
        let is_due = |want: &Want| want.first == 0 || (repeats && !want.answered && !want.covered);
        let due: Vec<Name> =
            self.wants.iter().filter(|(_, want)| is_due(want)).map(|(user, _)| user.clone()).collect();
        for user in &due {
            if let Some(want) = self.wants.get_mut(user).filter(|want| want.first == 0) {
                want.first = number;
            }
        }
        due
    }

    /// Nothing is left to find.
    fn rest(&mut self) {
        *self = Seeking::default();
    }

    pub(super) fn next_due(&self) -> Option<Time> {
        self.again_at.filter(|_| !self.wants.is_empty())
    }
}

impl Tracker {
    /// Takes the next step for users whose keys have yet to be found.
    pub(super) fn seek(&mut self, now: Time) {
        if self.chosen.is_none() {
            return;
        }
        for at in 0..self.servers.len() {
            self.seek_at(now, at);
        }
    }

    fn seek_at(&mut self, now: Time, at: usize) {
        let server = &mut self.servers[at];
        if server.whole == Whole::Begun && server.settled() {
            server.polling.wanted(now);
        }
        // A server that left hands its keys over; other servers' comparisons find them.
        let knows_all = server.has_left() || (server.whole == Whole::Complete && server.settled());
        if server.seeking.is_empty() || !(server.settled() || knows_all) {
            return;
        }
        let detector = &server.detector;
        let found = match knows_all {
            true => server.seeking.take(|_| true),
            false => server.seeking.take_answered(|key| detector.awaits(key.as_bytes())),
        };
        self.found_at(found);
        let server = &mut self.servers[at];
        if server.seeking.is_empty() {
            return server.seeking.rest();
        }
        let repeats = server.seeking.repeats(now);
        if server.lease.has_other_holder(now) && server.seeking.tries < TRIES {
            let number = self.requests + 1;
            let users = server.seeking.due(number, repeats);
            if !users.is_empty() {
                self.requests = number;
                self.out.push_back(Action::Seek(server.link, number, users));
            }
        } else {
            server.polling.wanted(now);
        }
    }

    /// The holder of the server's lease names a key.
    pub(super) fn named(&mut self, now: Time, at: usize, number: u64, name: &str) {
        let Ok(key) = Key::parse(name.as_bytes()) else { return };
        if let Some(want) = self.servers[at].seeking.want(key.user(), number) {
            want.keys.insert(key);
            self.servers[at].detector.handle(now, Input::Named(name.as_bytes()));
        }
    }

    /// The holder has named all keys of the user.
    pub(super) fn named_all(&mut self, at: usize, number: u64, user: &str) {
        if let Some(want) = self.servers[at].seeking.want(user, number) {
            want.answered = true;
        }
    }

    /// Another daemon asks for the names of a user's keys, at this place in the stream.
    pub(super) fn take_request(requests: &mut Vec<Request>, event: &Event) {
        let Event::Sought { from, number, user } = event else { return };
        let user = Name::from(*user);
        match requests.last_mut() {
            Some(last) if last.from == *from && last.number == *number => last.users.push(user),
            _ => requests.push(Request { from: (*from).to_owned(), number: *number, users: vec![user] }),
        }
    }

    /// Answers them, if this daemon holds the lease and knows all keys of the server. What it found before is reported first.
    pub(super) fn answer_requests(&mut self, now: Time, at: usize, requests: Vec<Request>) {
        if requests.is_empty() || !self.servers[at].knows_all(self.chosen.is_some()) {
            return;
        }
        self.drain(now, at);
        let link = self.servers[at].link;
        self.out.extend(requests.into_iter().map(|request| Action::Answer(link, request)));
    }

    /// The keys of a user at one server, as an answer names them. `reported` are those named by session that have been reported.
    pub fn keys_at(&self, link: LinkId, user: &str, reported: Vec<Key>) -> Vec<Key> {
        let Some(server) = self.servers.iter().find(|server| server.link == link) else { return Vec::new() };
        let held = self.held.of(user).map(|entry| entry.change.key.clone());
        let claimed = server.detector.claimed_keys(user).cloned();
        let mut keys: Vec<Key> = reported.into_iter().chain(held).chain(claimed).collect();
        keys.extend(Key::new(user, None));
        keys.retain(|key| server.detector.knows(key));
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}
