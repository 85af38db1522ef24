//! The rules that must hold of the stream.

use super::presence::{StreamReply, StreamRole, Time};
use super::server::Written;
use super::world::World;
use crate::redis::Event;
use std::collections::{BTreeMap, BTreeSet};

/// The changes that Redis made to the presence keys, and those that the stream may lack.
pub struct Book {
    live: BTreeSet<String>,
    /// The transitions of each user, and when Redis made them.
    truth: BTreeMap<String, Vec<(u64, bool)>>,
    /// The stream had everything then.
    pub caught_up_at: u64,
    /// A user who comes and goes again in one of these stretches may be missing.
    hidden: Vec<(u64, u64)>,
    pub tampered: bool,
    /// The time at which each term got the lease.
    pub terms: BTreeMap<String, u64>,
    /// So many entries were checked.
    pub checked: usize,
    /// How often the stream's server gave each reply.
    pub replies: BTreeMap<&'static str, u64>,
}

impl Book {
    pub fn new(now: u64) -> Book {
        Book {
            live: BTreeSet::new(),
            truth: BTreeMap::new(),
            caught_up_at: now,
            hidden: Vec::new(),
            tampered: false,
            terms: BTreeMap::new(),
            checked: 0,
            replies: BTreeMap::new(),
        }
    }

    /// The stream's server replies.
    pub fn count(&mut self, reply: &StreamReply) {
        let name = match reply {
            StreamReply::Held { number: 0, .. } => "held",
            StreamReply::Held { .. } => "held again",
            StreamReply::Other => "other",
            StreamReply::Marked | StreamReply::Released => "released",
            StreamReply::Members { whole: true, .. } => "whole",
            StreamReply::Members { .. } => "not whole",
            StreamReply::Page { .. } => "page",
            StreamReply::Done { repeated: 0, .. } => "done",
            StreamReply::Done { .. } => "repeated",
            StreamReply::BucketLost(_) => "bucket lost",
            StreamReply::Gone => "gone",
            StreamReply::Lost => "lost",
            StreamReply::Changed => "changed",
            StreamReply::Failed => "refused",
        };
        *self.replies.entry(name).or_default() += 1;
    }

    /// A server publishes an event.
    pub fn record(&mut self, now: u64, event: &Event) {
        let (key, live) = match event {
            Event::New(key) | Event::Set(key) | Event::Placed(key) => (key, true),
            Event::Ended(key, _) => (key, false),
            _ => return,
        };
        let user = user_of(key).to_owned();
        let before = self.is_online(&user);
        if live {
            self.live.insert(key.clone());
        } else {
            self.live.remove(key);
        }
        if before != self.is_online(&user) {
            self.truth.entry(user).or_default().push((now, live));
        }
    }

    fn is_online(&self, user: &str) -> bool {
        self.live.range(user.to_owned()..).next().is_some_and(|key| user_of(key) == user)
    }

    /// A daemon has compared what it could not follow.
    pub fn hide(&mut self, now: u64) {
        self.hidden.push((self.caught_up_at, now));
    }

    fn hides(&self, from: u64, to: u64) -> bool {
        self.hidden.iter().any(|&(begin, end)| begin <= from && to <= end)
    }

    /// Adds the places behind transitions that may be missing.
    fn skip_hidden(&self, truth: &[(u64, bool)], reached: &mut BTreeSet<usize>) {
        let pairs = truth.windows(2).enumerate();
        for (place, pair) in pairs {
            if reached.contains(&place) && self.hides(pair[0].0, pair[1].0) {
                reached.insert(place + 2);
            }
        }
    }

    /// Are the entries of a user the transitions, without some that came and went again in a hidden stretch? None is before its cause,
    /// and none is of a state that ended before its term began.
    fn explains(&self, truth: &[(u64, bool)], entries: &[&Written]) -> bool {
        // How many transitions may be behind the entries so far.
        let mut reached = BTreeSet::from([0]);
        for written in entries {
            self.skip_hidden(truth, &mut reached);
            let began = self.terms.get(&written.token).copied().unwrap_or(0);
            let is_cause = |&place: &usize| {
                let state =
                    |&(at, online): &(u64, bool)| online == written.entry.online && at <= written.at.as_ms();
                let lasts = truth.get(place + 1).is_none_or(|&(ended, _)| ended >= began);
                truth.get(place).is_some_and(state) && lasts
            };
            reached = reached.into_iter().filter(is_cause).map(|place| place + 1).collect();
        }
        self.skip_hidden(truth, &mut reached);
        reached.contains(&truth.len())
    }
}

fn user_of(key: &str) -> &str {
    key.split('#').next().unwrap_or(key)
}

impl World {
    /// The entries that a reader can rely on.
    fn entries(&self) -> &[Written] {
        let server = &self.store.server;
        let first = if self.knobs.forgets() { server.trimmed } else { 0 };
        &server.entries[first..]
    }

    /// After each order that the stream's server has carried out.
    pub fn check_entries(&mut self) {
        let count = self.store.server.entries.len();
        if std::mem::replace(&mut self.book.checked, count) == count {
            return;
        }
        if let Err(why) = self.entries_in_order() {
            self.fail(why);
        }
    }

    fn entries_in_order(&self) -> Result<(), String> {
        let mut states: BTreeMap<&str, bool> = BTreeMap::new();
        let mut terms: Vec<&str> = Vec::new();
        for written in self.entries() {
            let (user, entry) = (written.user(), &written.entry);
            let before = states.insert(user, entry.online);
            let repeats = before.map_or(!entry.online && !self.knobs.forgets(), |on| on == entry.online);
            if repeats && !self.book.tampered {
                return Err(format!("{user} does not alternate: {written:?}"));
            }
            let mark = entry.mark.unwrap_or(Time::default());
            if mark > entry.at || entry.at > written.at {
                return Err(format!("the times of {written:?} are out of order"));
            }
            if terms.last() != Some(&written.token.as_str()) {
                if terms.contains(&written.token.as_str()) && !self.knobs.loses_data {
                    return Err(format!("{written:?} comes after another term has begun: {terms:?}"));
                }
                terms.push(&written.token);
            }
        }
        Ok(())
    }

    /// The entries of each user are what Redis did.
    pub fn check_entries_at_end(&mut self) {
        if !self.knobs.is_exact() {
            return;
        }
        let book = &self.book;
        let wrong = self.users.iter().find_map(|user| {
            let truth = book.truth.get(&user.name).map_or(&[][..], Vec::as_slice);
            let entries = self.store.server.entries.iter();
            let entries: Vec<&Written> = entries.filter(|written| written.user() == user.name).collect();
            if book.explains(truth, &entries) {
                return None;
            }
            let entries: Vec<_> = entries
                .iter()
                .map(|written| {
                    (written.at.as_ms(), written.entry.online, &written.token, written.entry.reason)
                })
                .collect();
            let hidden = &book.hidden;
            Some(format!("{}: Redis made {truth:?}, written is {entries:?}, hidden {hidden:?}", user.name))
        });
        if let Some(why) = wrong {
            self.fail(why);
        }
    }

    /// The last entries are the truth. So are the SETs, if none of them was lost or changed, or all were compared since.
    pub fn check_end(&mut self, with_sets: bool) {
        let held: BTreeSet<String> = self.nodes.iter().flat_map(|node| node.keys.keys()).cloned().collect();
        let held: BTreeSet<String> = held.iter().map(|key| user_of(key).to_owned()).collect();
        let mut last: BTreeMap<&str, bool> = BTreeMap::new();
        for written in self.entries() {
            last.insert(written.user(), written.entry.online);
        }
        let says = |user: &str| match last.get(user) {
            // The state in the last entry that was trimmed is not known any more.
            None if self.knobs.forgets() => None,
            state => Some(state.copied().unwrap_or(false)),
        };
        let wrong = |user: &&str| says(user).is_some_and(|online| online != held.contains(*user));
        let wrong = self.users.iter().map(|user| user.name.as_str()).find(wrong).map(str::to_owned);
        let sets = self.store.server.online();
        let roles = self.daemons.iter().flatten().map(|daemon| daemon.writer.role());
        let writers = roles.filter(|&role| role == StreamRole::Writer).count();
        if let Some(user) = wrong {
            self.fail(format!("at the end the last entry of {user} is wrong; online are {held:?}"));
        } else if with_sets && sets != held {
            self.fail(format!("at the end online are {held:?}, and in the SETs {sets:?}"));
        } else if writers != 1 {
            self.fail(format!("at the end {writers} daemons write"));
        }
    }
}
