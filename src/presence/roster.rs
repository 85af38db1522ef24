//! Keys to users: a user is online while at least one of the user's keys is live, on any server.

use super::table::{Named, Table};
use super::{Change, Key, Name, Time, Transition};
use std::collections::VecDeque;

/// The state of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// At least one key is live.
    Online {
        /// The start of the presence, if the roster saw it.
        since: Option<Time>,
        /// The number of live keys.
        sessions: u32,
    },
    /// No key is live.
    Offline {
        /// The last heartbeat; `None` if the roster never saw the user or forgot the user.
        last_seen: Option<Time>,
    },
}

impl Presence {
    /// Whether the user is offline and the last heartbeat is not known.
    pub fn lacks_last_seen(self) -> bool {
        self == Presence::Offline { last_seen: None }
    }

    /// The same, with this last heartbeat where it is not known.
    pub fn with_last_seen(self, seen: Option<Time>) -> Presence {
        if self.lacks_last_seen() { Presence::Offline { last_seen: seen } } else { self }
    }
}

/// The start of a presence that nobody saw begin.
const UNSEEN: Time = Time::from_ms(0);

struct UserEntry {
    name: Name,
    sessions: u32,
    /// See [`Named::kept_hash`].
    hash: u32,
    /// The last transition. While the user is offline it identifies the absence.
    since: Time,
    /// The last heartbeat of the sessions that have ended.
    last_seen: Time,
    /// Kept while the user is online with a key that names a session. Most users have none, so the field is one word.
    named: Option<Box<Sessions>>,
}

/// The sessions of a user that have names.
#[derive(Default)]
struct Sessions {
    /// The live keys that name a session.
    keys: Vec<Key>,
    /// The latest instant at which a key of the user began or ended: the user was there then.
    latest: Time,
}

impl UserEntry {
    fn add_named(&mut self, key: &Key, at: Time) {
        if key.session().is_some() {
            self.named.get_or_insert_default().keys.push(key.clone());
        }
        self.note_change(at);
    }

    fn drop_named(&mut self, key: &Key, at: Time) {
        let Some(named) = &mut self.named else { return };
        // Remove one entry only: while a key moves, two servers hold it.
        if let Some(at) = named.keys.iter().position(|other| other == key) {
            named.keys.remove(at);
        }
        self.note_change(at);
    }

    /// A user with one key needs no note: its end is no earlier than its start.
    fn note_change(&mut self, at: Time) {
        if let Some(named) = &mut self.named {
            named.latest = named.latest.max(at);
        }
    }

    fn presence(&self) -> Presence {
        if self.sessions > 0 {
            let since = Some(self.since).filter(|&since| since != UNSEEN);
            Presence::Online { since, sessions: self.sessions }
        } else {
            Presence::Offline { last_seen: Some(self.last_seen) }
        }
    }
}

impl Named for UserEntry {
    fn name(&self) -> &[u8] {
        self.name.as_bytes()
    }

    fn kept_hash(&self) -> Option<u32> {
        Some(self.hash)
    }
}

/// The users of one or many servers.
pub struct Roster {
    users: Table<UserEntry>,
    online: usize,
    sessions: u64,
    /// Users who went offline, oldest absence first. The roster forgets them in this order. An entry
    /// is valid only while its user is still in that absence.
    gone: VecDeque<(u32, Time)>,
    remember: usize,
}

impl Roster {
    /// An empty roster that remembers the last heartbeats of at most `remember` users offline.
    pub fn new(remember: usize) -> Roster {
        Roster { users: Table::new(), online: 0, sessions: 0, gone: VecDeque::new(), remember }
    }

    /// The number of online users.
    pub fn online(&self) -> usize {
        self.online
    }

    /// The number of live keys.
    pub fn sessions(&self) -> u64 {
        self.sessions
    }

    /// The state of a user.
    pub fn get(&self, user: &str) -> Presence {
        self.find(user).map_or(Presence::Offline { last_seen: None }, |at| self.users[at].presence())
    }

    /// The roster's copy of a user's name, if the roster knows the user.
    pub fn name(&self, user: &str) -> Option<Name> {
        self.find(user).map(|at| self.users[at].name.clone())
    }

    /// The live keys of a user that name a session.
    pub fn keys(&self, user: &str) -> Vec<Key> {
        let named = self.find(user).and_then(|at| self.users[at].named.as_deref());
        named.map(|named| named.keys.clone()).unwrap_or_default()
    }

    /// The state of a user and the live keys, sorted; `sessions` counts these keys. A key that moves between two servers is one.
    pub fn live_keys(&self, user: &str) -> (Presence, Vec<Key>) {
        let Some(at) = self.find(user) else { return (Presence::Offline { last_seen: None }, Vec::new()) };
        let entry = &self.users[at];
        let mut keys = self.keys(user);
        if entry.sessions as usize > keys.len() {
            keys.extend(Key::new(user, None));
        }
        keys.sort_unstable();
        keys.dedup();
        match entry.presence() {
            Presence::Online { since, .. } => (Presence::Online { since, sessions: keys.len() as u32 }, keys),
            offline => (offline, keys),
        }
    }

    /// Passes up to `most` users to `take`, starting at slot `from`: those that `wanted` accepts by name and by whether they are
    /// online. Offline users are those who are remembered.
    /// Returns the slot where the next page starts.
    ///
    /// A user who stays throughout all pages is passed exactly once, since a user keeps the slot.
    pub fn page(
        &self,
        from: u32,
        most: usize,
        mut wanted: impl FnMut(&str, bool) -> bool,
        mut take: impl FnMut(&Name, Presence),
    ) -> Option<u32> {
        let mut taken = 0;
        for at in from..self.users.end() {
            let Some(user) = self.users.get(at) else {
                continue;
            };
            if !wanted(&user.name, user.sessions > 0) {
                continue;
            }
            if taken == most {
                return Some(at);
            }
            take(&user.name, user.presence());
            taken += 1;
        }
        None
    }

    /// Applies the change of a key. Returns the user's transition if the change causes one.
    pub fn apply(&mut self, change: &Change) -> Option<Transition> {
        if change.live { self.came(change) } else { self.went(change) }
    }

    /// Nobody saw the user's presence begin.
    pub fn forget_start(&mut self, user: &str) {
        if let Some(at) = self.find(user).filter(|&at| self.users[at].sessions > 0) {
            self.users[at].since = UNSEEN;
        }
    }

    /// Forgets a user who is offline.
    pub fn forget_absence(&mut self, user: &str) {
        if let Some(at) = self.find(user).filter(|&at| self.users[at].sessions == 0) {
            self.users.remove(at);
        }
    }

    /// Forgets a live key, without a transition, and with a user's last key the user.
    pub fn drop_key(&mut self, key: &Key) {
        let Some(at) = self.find(key.user()) else { return };
        let user = &mut self.users[at];
        let Some(sessions) = user.sessions.checked_sub(1) else { return };
        user.sessions = sessions;
        user.drop_named(key, Time::default());
        self.sessions -= 1;
        if sessions == 0 {
            self.online -= 1;
            self.users.remove(at);
        }
    }

    fn find(&self, user: &str) -> Option<u32> {
        self.users.find(user.as_bytes())
    }

    fn came(&mut self, change: &Change) -> Option<Transition> {
        let at = self.find(change.key.user()).unwrap_or_else(|| self.add(change));
        self.sessions += 1;
        let user = &mut self.users[at];
        user.sessions += 1;
        // The end of the presence before may have come from another server, whose stream was read first.
        let first = user.sessions == 1;
        let came = if first { change.at.max(user.since) } else { change.at };
        user.add_named(&change.key, came);
        if !first {
            return None;
        }
        user.since = change.last_seen.max(user.since).min(came);
        self.online += 1;
        Some(Transition {
            user: user.name.clone(),
            online: true,
            at: came,
            mark: user.since,
            reason: change.reason,
        })
    }

    fn went(&mut self, change: &Change) -> Option<Transition> {
        let at = self.find(change.key.user())?;
        let user = &mut self.users[at];
        user.sessions = user.sessions.checked_sub(1)?;
        user.drop_named(&change.key, change.at);
        self.sessions -= 1;
        user.last_seen = user.last_seen.max(change.last_seen);
        if user.sessions > 0 {
            return None;
        }
        // A comparison may know less about the last heartbeat than about the start of the presence.
        user.last_seen = user.last_seen.max(user.since);
        // Another key may have begun or ended later than the one that ends last here.
        let latest = user.named.take().map_or(change.at, |named| named.latest.max(change.at));
        user.since = latest.max(user.last_seen);
        self.online -= 1;
        let transition = Transition {
            user: user.name.clone(),
            online: false,
            at: user.since,
            mark: user.last_seen,
            reason: change.reason,
        };
        self.gone.push_back((at, user.since));
        self.forget();
        Some(transition)
    }

    fn add(&mut self, change: &Change) -> u32 {
        self.users.insert(change.key.user().as_bytes(), |hash| UserEntry {
            name: change.key.shared_user(),
            sessions: 0,
            hash,
            since: Time::default(),
            last_seen: Time::default(),
            named: None,
        })
    }

    fn forget(&mut self) {
        while self.gone.len() > self.remember {
            let Some((at, since)) = self.gone.pop_front() else {
                return;
            };
            let Some(user) = self.users.get(at) else {
                continue;
            };
            if user.sessions > 0 || user.since != since {
                continue;
            }
            self.users.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Key, Reason};

    fn change(key: &str, live: bool, at: u64, last_seen: u64) -> Change {
        Change {
            key: Key::parse(key.as_bytes()).unwrap(),
            live,
            at: Time::from_ms(at),
            last_seen: Time::from_ms(last_seen),
            reason: if live { Reason::Heartbeat } else { Reason::Expired },
            deadline: None,
        }
    }

    #[test]
    fn user_is_online_until_last_session_ends() {
        let mut roster = Roster::new(10);
        assert!(roster.apply(&change("a#phone", true, 10, 10)).unwrap().online);
        assert_eq!(roster.apply(&change("a#tab", true, 20, 20)), None);
        assert_eq!(roster.keys("a").len(), 2);
        assert_eq!(roster.get("a"), Presence::Online { since: Some(Time::from_ms(10)), sessions: 2 });
        assert_eq!(roster.apply(&change("a#tab", false, 60, 50)), None);
        let off = roster.apply(&change("a#phone", false, 61, 40)).unwrap();
        assert!(!off.online);
        assert_eq!(off.mark, Time::from_ms(50), "the last heartbeat of any session");
        assert_eq!((roster.online(), roster.sessions()), (0, 0));
        assert_eq!(roster.apply(&change("a#phone", false, 62, 40)), None, "nothing left to end");
    }

    #[test]
    fn times_of_a_user_are_in_order() {
        let mut roster = Roster::new(10);
        // Found by a comparison that knows the user, but not the last heartbeat.
        assert_eq!(roster.apply(&change("a", true, 100, 100)).unwrap().mark, Time::from_ms(100));
        let off = roster.apply(&change("a", false, 90, 70)).unwrap();
        assert_eq!((off.mark, off.at), (Time::from_ms(100), Time::from_ms(100)), "since, last seen, end");
        // Back, with a heartbeat that was sent before the end was reported.
        let on = roster.apply(&change("a", true, 120, 80)).unwrap();
        assert_eq!((on.mark, on.at), (Time::from_ms(100), Time::from_ms(120)));
        let off = roster.apply(&change("a", false, 130, 140)).unwrap();
        assert_eq!((off.mark, off.at), (Time::from_ms(140), Time::from_ms(140)));
    }

    #[test]
    fn start_is_no_earlier_than_the_end_before() {
        let mut roster = Roster::new(10);
        roster.apply(&change("a#1", true, 10, 10));
        // The stream of the server that has this key was read first.
        assert_eq!(roster.apply(&change("a#1", false, 120, 110)).unwrap().at, Time::from_ms(120));
        let on = roster.apply(&change("a#2", true, 100, 100)).unwrap();
        assert_eq!((on.mark, on.at), (Time::from_ms(120), Time::from_ms(120)));
        let off = roster.apply(&change("a#2", false, 115, 105)).unwrap();
        assert_eq!((off.mark, off.at), (Time::from_ms(120), Time::from_ms(120)));
    }

    #[test]
    fn user_is_there_until_the_latest_session_ends() {
        let mut roster = Roster::new(10);
        // Found at 50 by a comparison, with a heartbeat of 20.
        roster.apply(&change("a", true, 50, 20));
        roster.apply(&change("a#tab", true, 60, 30));
        assert_eq!(roster.apply(&change("a#tab", false, 90, 70)), None);
        // This key had ended before, but that was learnt later.
        let off = roster.apply(&change("a", false, 80, 75)).unwrap();
        assert_eq!((off.mark, off.at), (Time::from_ms(75), Time::from_ms(90)));
        assert_eq!(roster.keys("a"), [], "nothing is kept of the sessions");
    }

    #[test]
    fn moving_key_counts_twice_without_transition() {
        let mut roster = Roster::new(10);
        assert!(roster.apply(&change("a#phone", true, 10, 10)).is_some());
        assert_eq!(roster.apply(&change("a#phone", true, 20, 10)), None, "the new owner adopted it");
        assert_eq!(roster.apply(&change("a#phone", false, 20, 10)), None, "the old owner dropped it");
        assert_eq!(roster.get("a"), Presence::Online { since: Some(Time::from_ms(10)), sessions: 1 });
        assert_eq!(roster.keys("a").len(), 1, "the session name stays");
    }

    #[test]
    fn live_keys_are_as_many_as_sessions() {
        let mut roster = Roster::new(10);
        let names = |roster: &Roster, user: &str| {
            let (presence, keys) = roster.live_keys(user);
            let names: Vec<String> = keys.iter().map(|key| key.as_str().to_owned()).collect();
            match presence {
                Presence::Online { sessions, .. } => assert_eq!(sessions as usize, names.len()),
                Presence::Offline { .. } => assert!(names.is_empty()),
            }
            names
        };
        assert_eq!(names(&roster, "a"), [""; 0], "an unknown user");
        for key in ["a#tab", "a", "a#phone"] {
            roster.apply(&change(key, true, 10, 10));
        }
        assert_eq!(names(&roster, "a"), ["a", "a#phone", "a#tab"]);
        roster.apply(&change("a#tab", true, 20, 10));
        assert_eq!(names(&roster, "a"), ["a", "a#phone", "a#tab"], "one key moves between two servers");
        roster.apply(&change("a", false, 30, 10));
        roster.apply(&change("a#tab", false, 30, 10));
        assert_eq!(names(&roster, "a"), ["a#phone", "a#tab"]);
        roster.apply(&change("a#tab", false, 30, 10));
        roster.apply(&change("a#phone", false, 30, 10));
        assert_eq!(names(&roster, "a"), [""; 0]);
    }

    #[test]
    fn oldest_absence_is_forgotten_first() {
        let mut roster = Roster::new(2);
        for (i, user) in ["a", "b", "a", "c", "d"].iter().enumerate() {
            let at = i as u64 * 10;
            roster.apply(&change(user, true, at, at));
            roster.apply(&change(user, false, at + 5, at));
        }
        let known = |user| roster.get(user) != Presence::Offline { last_seen: None };
        assert_eq!(["a", "b", "c", "d"].map(known), [false, false, true, true]);
    }

    #[test]
    fn pages_return_each_user_once() {
        let mut roster = Roster::new(10);
        for i in 0..2500 {
            roster.apply(&change(&format!("u{i}"), true, 1, 1));
        }
        roster.apply(&change("u7", false, 2, 1));
        let (mut seen, mut from) = (Vec::new(), Some(0));
        while let Some(at) = from {
            from = roster.page(at, 1000, |_, online| online, |name, _| seen.push(name.clone()));
        }
        assert_eq!(seen.len(), 2499);
        seen.dedup();
        assert_eq!(seen.len(), 2499);
    }
}
