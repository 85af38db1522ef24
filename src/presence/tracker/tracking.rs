//! Servers that publish no events: the holder of the lease tracks the keys for all daemons.
//!
//! The server pushes names to the holder alone. The holder announces each key that comes or ends, and repeats once a second since when it has
//! announced all of them without a gap. A daemon that follows asks for each key announced. When the holder is another one, or had a
//! gap, the announcements of a while are missing: so each daemon looks once at the names of all keys. So does a new holder, once
//! names are pushed to it.

use super::held::Entry;
use super::lease::LeaseState;
use super::server::Server;
use super::{Action, Tracker};
use crate::{Reason, Renewals, Role, Time};

impl Server {
    fn is_tracked(&self) -> bool {
        self.renewals == Renewals::Tracking
    }

    /// Names are pushed from here on. Keys may have come before.
    pub(super) fn begin_tracking(&mut self, now: Time) {
        if self.is_tracked() {
            self.tracked.begin();
            self.plan_look(now);
        }
    }

    /// Another daemon has announced all changes since then. If this is news, keys may have come or ended before.
    pub(super) fn follow_tracker(&mut self, now: Time, from: &str, since: u64) {
        if self.is_tracked() && self.role() == Role::Follows && self.tracked.follow(from, since) {
            self.tracked.want_look();
            self.plan_look(now);
        }
    }

    fn plan_look(&mut self, now: Time) {
        let settled = self.settled();
        self.polling.once(now, settled);
    }
}

impl Tracker {
    /// From now on each change is announced, if this daemon holds the lease, all keys are known, and names are pushed to it. One that only
    /// leads until it receives a beat of the holder announces nothing.
    pub(super) fn begin_announcing(&mut self, now: Time, at: usize) {
        let server = &mut self.servers[at];
        let holds = server.is_tracked() && server.lease.state() == LeaseState::Held;
        if holds && server.settled() && server.tracked.may_announce() {
            server.tracked.announce(now);
            self.out.push_back(Action::AnnounceTracks(server.link, now));
        }
    }

    /// A poll of all names is done.
    pub(super) fn swept(&mut self, now: Time, at: usize) {
        if self.servers[at].tracked.look_ends() {
            self.may_release = true;
            self.begin_announcing(now, at);
        }
    }

    /// Reports a change, and announces it where no event does.
    pub(super) fn publish(&mut self, entry: Entry) {
        let found = self.servers.iter_mut().find(|server| server.link == entry.link);
        if let Some(server) = found.filter(|server| server.tracked.since().is_some()) {
            let (key, news) = (entry.change.key.clone(), &mut server.news);
            match entry.change.reason {
                _ if entry.change.live => news.came.push(key),
                Reason::Deleted => news.deleted.push(key),
                _ => news.ends.push(key),
            }
        }
        self.out.push_back(entry.report());
    }
}
