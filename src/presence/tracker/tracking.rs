//! Servers that publish no events: the holder of the lease tracks the keys for all daemons.
//!
//! The server pushes names to the holder alone. The holder announces each key that comes or ends, and says once a second since when it has
//! announced all of them without a gap. A daemon that follows asks for each key announced. When the holder is another one, or had a
//! gap, the announcements of a while are missing: so each daemon looks once at the names of all keys. So does a new holder, once names are pushed to it.

use super::held::Entry;
use super::server::Server;
use super::{Action, Tracker};
use crate::presence::{Reason, Renewals, Role, Time};

/// What this daemon does for a server that pushes names.
#[derive(Default)]
pub(super) struct Tracked {
    /// This daemon has announced each change since then.
    since: Option<Time>,
    look: Look,
    /// The daemon whose announcements this one follows, and since when they are complete.
    followed: Option<(String, u64)>,
}

/// Whether this daemon has to look at the names of all keys: somebody else announces changes now, or this daemon does.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Look {
    #[default]
    Done,
    Wanted,
    UnderWay,
}

impl Tracked {
    /// Since when this daemon has announced each change, if it does.
    pub(super) fn since(&self) -> Option<Time> {
        self.since
    }

    /// This daemon announces no more, or changes may be missing.
    pub(super) fn stop(&mut self) {
        (self.since, self.look) = (None, Look::Done);
    }

    /// A poll of all names begins.
    pub(super) fn sweep_begins(&mut self) {
        if self.look == Look::Wanted {
            self.look = Look::UnderWay;
        }
    }

    /// Is there a key that this daemon may have yet to find?
    pub(super) fn looks(&self) -> bool {
        self.look != Look::Done
    }
}

impl Server {
    fn is_tracked(&self) -> bool {
        self.renewals == Renewals::Tracking
    }

    /// Names are pushed from here on. Keys may have come before.
    pub(super) fn begin_tracking(&mut self, now: Time) {
        if self.is_tracked() {
            self.look_at_names(now);
        }
    }

    fn look_at_names(&mut self, now: Time) {
        self.tracked.look = Look::Wanted;
        let settled = self.settled();
        self.polling.once(now, settled);
    }

    /// Another daemon has announced all changes since then. If this is news, keys may have come or ended before.
    pub(super) fn follow_tracker(&mut self, now: Time, from: &str, since: u64) {
        let news = !self.tracked.followed.as_ref().is_some_and(|(name, then)| name == from && *then == since);
        if news && self.is_tracked() && self.role() == Role::Follows {
            self.tracked.followed = Some((from.to_owned(), since));
            self.look_at_names(now);
        }
    }
}

impl Tracker {
    /// All keys are known, and names are pushed: from now on each change is announced.
    pub(super) fn begin_announcing(&mut self, now: Time, at: usize) {
        let server = &mut self.servers[at];
        if server.is_tracked() && server.role() == Role::Holds {
            server.tracked = Tracked { since: Some(now), ..Tracked::default() };
            self.out.push_back(Action::AnnounceTracks(server.link, now));
        }
    }

    /// A poll of all names is done.
    pub(super) fn swept(&mut self, now: Time, at: usize) {
        let tracked = &mut self.servers[at].tracked;
        if tracked.look == Look::UnderWay {
            tracked.look = Look::Done;
            self.may_release = true;
            self.begin_announcing(now, at);
        }
    }

    /// Reports a change, and announces it where no event does.
    pub(super) fn tell(&mut self, entry: Entry) {
        let found = self.servers.iter_mut().find(|server| server.link == entry.link);
        if let Some(server) = found.filter(|server| server.tracked.since.is_some()) {
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
