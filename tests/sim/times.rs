//! The times of transitions: a user was there at the heartbeat that a transition names.

use super::book::user_of;
use super::redis::Event;
use super::world::{Broken, World};
use keybeat::presence::{Change, Transition};
use std::collections::BTreeMap;

/// A key may have come while it was asked for: so long, in milliseconds, a question may take, where nothing was late, and elsewhere.
const EARLY_MS: (u64, u64) = (1_000, 4_000);
/// An event may come so late, in milliseconds, where nothing is lost, and elsewhere. Where nothing is lost, streams lag by up to 3 s,
/// and the daemon is stopped for up to 0.7 s.
const LATE_MS: (u64, u64) = (4_000, 15_000);

/// When the keys were there, and the last time that was reported of each user.
#[derive(Default)]
pub struct Times {
    /// From when until when.
    presences: BTreeMap<String, Vec<(u64, Option<u64>)>>,
    /// The last transition of each user: its mark and when it was.
    last: BTreeMap<String, (u64, u64)>,
}

impl Times {
    /// The key has come, or is gone.
    pub fn note(&mut self, now: u64, key: &str, came: bool) {
        let presences = self.presences.entry(key.to_owned()).or_default();
        if came {
            presences.push((now, None));
        } else if let Some((_, went)) = presences.last_mut() {
            *went = Some(now);
        }
    }

    /// Was the key there then, or a moment before or after?
    fn was_there(&self, key: &str, then: u64, (early_ms, late_ms): (u64, u64)) -> bool {
        let by_then = |(came, _): &&(u64, Option<u64>)| *came <= then + early_ms;
        let found = self.presences.get(key).and_then(|all| all.iter().rev().find(by_then));
        found.is_some_and(|(_, went)| went.is_none_or(|went| then <= went + late_ms))
    }
}

impl World {
    /// The key of a user who has come was there at the heartbeat that the change names. The times of a user never go back.
    pub fn check_times(&mut self, change: &Change, transition: &Transition) {
        let (user, mark, at) = (user_of(change.key.as_str()), transition.mark.as_ms(), transition.at.as_ms());
        let last = self.times.last.insert(user.to_owned(), (mark, at)).unwrap_or_default();
        // A presence begins no earlier than the absence before it has begun.
        let earliest = if transition.online { last.1 } else { last.0 };
        if mark < earliest || at < mark || at < last.1 {
            self.fail(format!("{user} is reported {transition:?}, after {last:?}"));
        }
        if !change.live || self.loses() || self.knobs.broken != Broken::No {
            return;
        }
        let early_ms = if self.lagged { EARLY_MS.1 } else { EARLY_MS.0 };
        let late_ms = if self.quiet() { LATE_MS.0 } else { LATE_MS.1 };
        let seen = change.last_seen.as_ms();
        if !self.times.was_there(change.key.as_str(), seen, (early_ms, late_ms)) {
            self.fail(format!("{} was not there at {seen}: {change:?}", change.key.as_str()));
        }
    }

    /// A key has come or is gone for all nodes.
    pub fn note_presence(&mut self, event: &Event, came: bool) {
        let (Event::New(key) | Event::Set(key) | Event::Placed(key) | Event::Ended(key, _)) = event else {
            return;
        };
        self.times.note(self.now, key, came);
    }
}
