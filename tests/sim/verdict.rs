//! Is what is believed what the servers hold together?

use super::book::users_of;
use super::cluster::slot;
use super::link::Deaf;
use super::programs::{Kind, Program};
use super::world::{Act, World};
use std::collections::BTreeSet;

/// A user who ran out so long ago is known to have.
const PUNCTUAL_MS: u64 = 300;
/// A sweep finds whoever has been there, or gone, for so long.
pub const SWEPT_MS: u64 = 4_000;

impl World {
    /// In a quiet moment each belief must be what the servers hold.
    pub fn compare(&mut self) -> bool {
        let asking = self.acts.values().any(|act| matches!(act, Act::Question(..)))
            || self.relay.tracker.counts().waiting > 0;
        let idle = self.relay.servers.iter().all(|server| {
            let link = &server.link;
            link.on && link.wire.is_empty() && link.replies.is_empty()
        });
        let pushing = self.nodes.iter().any(|node| node.pushes.wait());
        if asking || pushing || !idle || !self.all_up() || self.just_ran_out(PUNCTUAL_MS) {
            return false;
        }
        let says = self.acts.values().any(|act| matches!(act, Act::OthersSay(..)));
        if says || self.just_followed(SWEPT_MS) || !self.relay.tracker.settled() || !self.relay.open {
            return false;
        }
        self.compared += 1;
        let wrong = if self.is_swept() { self.wrong_though_swept() } else { self.wrong() };
        let believed = self.relay.book.online();
        if let Some(user) = wrong {
            let held: Vec<_> = self.held().collect();
            self.fail(format!("{user} is not what the servers hold: believed {believed:?}, held {held:?}"));
            return true;
        }
        self.compare_readers(&believed);
        true
    }

    /// The next poll finds users who come or go.
    fn is_swept(&self) -> bool {
        self.knobs.silent.any() && self.now < self.frozen_at.saturating_add(SWEPT_MS)
    }

    /// A user who is not what the servers hold.
    fn wrong(&self) -> Option<String> {
        let held = users_of(self.held().map(|(key, _)| key));
        let alive = users_of(self.held().filter(|&(_, &deadline)| deadline >= self.now).map(|(key, _)| key));
        let believed = self.relay.book.online();
        // After a fault the two questions that confirm a TTL may meet the same one by chance.
        let known = |program: &&Program| program.one_ttl() && (program.kind != Kind::Varier || self.quiet());
        let strict = self.programs.iter().filter(known);
        let strict: BTreeSet<_> = strict.map(|program| program.user.clone()).collect();
        // Too long a TTL is believed until its end, or Redis' own word.
        // Without the class of `expired`, Redis says nothing.
        let mut links = self.relay.servers.iter().map(|server| &server.link);
        let mute = links.any(|link| link.deaf == Some(Deaf::Expired));
        // The two nodes of a slot that stays half moved may pass a key on to each other, twice a second.
        let halfway =
            |user: &str| self.relay.book.keys_of(user).any(|key| self.cluster.to[slot(key)].is_some());
        let is_known =
            |user: &&String| (strict.contains(*user) || (!mute && !held.contains(*user))) && !halfway(user);
        let late = believed.difference(&alive).find(is_known);
        alive.difference(&believed).next().or(late).cloned()
    }

    /// Until nobody beats any more: a steady user who is not believed online.
    fn wrong_though_swept(&self) -> Option<String> {
        let believed = self.relay.book.online();
        // The next poll finds a mover's new session.
        let steady = |program: &&Program| program.steady(self.now) && program.kind != Kind::Mover;
        let steady = self.programs.iter().filter(steady);
        steady.map(|program| program.user.clone()).find(|user| !self.frozen && !believed.contains(user))
    }

    fn compare_readers(&mut self, believed: &BTreeSet<String>) {
        for i in 0..self.relay.readers.len() {
            let relay = &mut self.relay;
            let wrong = match relay.readers[i].drain(&relay.hub, self.now) {
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
        let held = users_of(self.held().map(|(key, _)| key));
        let believed = self.relay.book.online();
        let settled = self.relay.tracker.settled();
        let keys = self.relay.tracker.counts().keys;
        if !settled || self.compared < 2 || held != believed {
            let compared = self.compared;
            self.fail(format!(
                "at the end settled={settled} compared={compared}: believed {believed:?}, held {held:?}"
            ));
        } else if self.quiet() && self.is_told_all() && !self.relay.book.exact {
            self.fail("nothing went wrong, and it is not exact".into());
        } else if keys as usize != self.held().count() {
            self.fail("another number of keys is believed live".into());
        } else if self.relay.viewed != self.cluster.view.number {
            self.fail("the daemon never heard of the cluster's shape".into());
        }
        let wild = self.programs.iter().any(|program| matches!(program.kind, Kind::Wild(_)));
        if !wild && !believed.is_empty() {
            self.fail(format!("nobody beats, and {believed:?} are online"));
        }
    }
}
