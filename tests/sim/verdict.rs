//! Is what is believed what Redis holds?

use super::daemon::users_of;
use super::programs::Kind;
use super::world::{Act, World};
use std::collections::BTreeSet;

/// A user who ran out so long ago is known to have.
const PUNCTUAL_MS: u64 = 300;

impl World {
    /// In a quiet moment each belief must be what Redis holds.
    pub fn compare(&mut self) -> bool {
        let (link, now) = (&self.link, self.now);
        let asking = self.acts.values().any(|act| matches!(act, Act::Question(..)));
        let under_way = asking || !link.wire.is_empty() || !link.replies.is_empty();
        let just = |&deadline: &u64| deadline < now && now - deadline <= PUNCTUAL_MS;
        if under_way || !link.on || !self.redis.up || self.redis.keys.values().any(just) {
            return false;
        }
        if !self.daemon.detector.settled() || !self.daemon.open {
            return false;
        }
        self.compared += 1;
        let keys = &self.redis.keys;
        let held = users_of(keys.keys());
        let alive = users_of(keys.iter().filter(|&(_, &deadline)| deadline >= now).map(|(key, _)| key));
        let believed = self.daemon.online();
        let strict = self.programs.iter().filter(|program| program.one_ttl());
        let strict: BTreeSet<_> = strict.map(|program| program.user.clone()).collect();
        // Too long a TTL is believed until its end, or Redis' own word.
        let late = believed.difference(&alive).find(|user| strict.contains(*user) || !held.contains(*user));
        if let Some(user) = alive.difference(&believed).next().or(late) {
            let user = user.clone();
            self.fail(format!("{user} is not what Redis holds: believed {believed:?}, alive {alive:?}"));
            return true;
        }
        self.compare_readers(&believed);
        true
    }

    fn compare_readers(&mut self, believed: &BTreeSet<String>) {
        for i in 0..self.daemon.readers.len() {
            let daemon = &mut self.daemon;
            let wrong = match daemon.readers[i].drain(&daemon.hub, self.now) {
                Ok(view) => view
                    .iter()
                    .find(|&(user, online)| believed.contains(user) != *online)
                    .map(|(user, online)| format!("{user} is believed online={online}")),
                Err(why) => Some(why),
            };
            if let Some(why) = wrong {
                self.fail(format!("reader {i} at the end: {why}"));
            }
        }
    }

    pub fn check_end(&mut self) {
        let held = users_of(self.redis.keys.keys());
        let believed = self.daemon.online();
        let settled = self.daemon.detector.settled();
        if !settled || self.compared < 2 || held != believed {
            let compared = self.compared;
            self.fail(format!(
                "at the end settled={settled} compared={compared}: believed {believed:?}, held {held:?}"
            ));
        } else if self.quiet() && !self.daemon.exact {
            self.fail("nothing went wrong, and it is not exact".into());
        } else if self.daemon.detector.counts().keys as usize != self.redis.keys.len() {
            self.fail("another number of keys is believed live".into());
        }
        let wild = self.programs.iter().any(|program| matches!(program.kind, Kind::Wild(_)));
        if !wild && !believed.is_empty() {
            self.fail(format!("nobody beats, and {believed:?} are online"));
        }
    }
}
