//! This daemon's part at a server that publishes no events and pushes the names of changed keys: see `tracking.rs`.

use crate::Time;

/// See the module's head.
#[derive(Default)]
pub(super) struct Tracked {
    /// Names are pushed to this daemon.
    pushed: bool,
    /// This daemon has announced each change since then.
    since: Option<Time>,
    look: Look,
    /// The daemon whose announcements this one follows, and since when they are complete.
    followed: Option<(String, u64)>,
}

/// Whether this daemon has to look at the names of all keys: another daemon announces changes now, or this one does, or this one has
/// given the lease away.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Look {
    #[default]
    Done,
    Wanted,
    UnderWay,
}

impl Tracked {
    /// The server is connected, and names are pushed to this daemon or not.
    pub(super) fn up(pushed: bool) -> Tracked {
        Tracked { pushed, ..Tracked::default() }
    }

    /// Since when this daemon has announced each change, if it does.
    pub(super) fn since(&self) -> Option<Time> {
        self.since
    }

    /// Whether this daemon can begin to announce each change: it misses none.
    pub(super) fn may_announce(&self) -> bool {
        self.pushed && self.since.is_none() && !self.looks()
    }

    /// This daemon announces each change from now on.
    pub(super) fn announce(&mut self, now: Time) {
        self.since = Some(now);
        self.followed = None;
    }

    /// Changes may be missing.
    pub(super) fn stop(&mut self) {
        (self.since, self.look) = (None, Look::Done);
    }

    /// Another daemon holds the lease. Until it announces changes, keys may come unnoticed.
    pub(super) fn give_way(&mut self) {
        let looks = self.pushed;
        self.stop();
        (self.pushed, self.followed) = (false, None);
        self.look = if looks { Look::Wanted } else { Look::Done };
    }

    /// Names are pushed to this daemon from now on.
    pub(super) fn begin(&mut self) {
        self.pushed = true;
        self.want_look();
    }

    /// Another daemon has announced each change since then. Returns whether that is news.
    pub(super) fn follow(&mut self, from: &str, since: u64) -> bool {
        let known = self.followed.as_ref().is_some_and(|(name, then)| name == from && *then == since);
        if !known {
            self.followed = Some((from.to_owned(), since));
        }
        !known
    }

    /// The next poll is to find all keys.
    pub(super) fn want_look(&mut self) {
        self.look = Look::Wanted;
    }

    /// A poll of all names begins.
    pub(super) fn look_begins(&mut self) {
        if self.look == Look::Wanted {
            self.look = Look::UnderWay;
        }
    }

    /// A poll of all names is done. Returns whether it was the one that was wanted.
    pub(super) fn look_ends(&mut self) -> bool {
        let done = self.look == Look::UnderWay;
        if done {
            self.look = Look::Done;
        }
        done
    }

    /// May there be a key that this daemon has yet to find?
    pub(super) fn looks(&self) -> bool {
        self.look != Look::Done
    }
}
