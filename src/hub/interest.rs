//! The users whom clients watch or have just asked for, at a daemon that keeps no others.
//!
//! The driver learns of them by [`Hub::take_wishes`], and reports by [`Hub::know`] whose state is known. A user whom nobody watches
//! any longer is kept for a few seconds more, so that a page that reloads costs nothing.

use super::Hub;
use crate::lock::lock;
use crate::presence::{Key, Name, Time};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// A user whom nobody watches any longer is kept for so long, in milliseconds.
const LINGER_MS: u64 = 5_000;
/// How long a client waits for the state of users who were not watched before. After that their states are marked as stale.
pub const KNOWN_WITHIN: Duration = Duration::from_secs(1);
/// At most so many users are kept. Requests for further ones are refused, and watches of further ones have states marked as stale.
const USERS_MOST: usize = 1 << 20;

/// What the driver is to do for the clients.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Users to keep from now on.
    pub chosen: Vec<Name>,
    /// Users whom nobody watches any longer.
    pub dismissed: Vec<Name>,
}

/// A user.
#[derive(Default)]
struct Entry {
    /// How many requests are under way, plus one while somebody watches the user.
    clients: u32,
    known: bool,
    /// It is in the queue of those whom nobody watches.
    queued: bool,
}

#[derive(Default)]
struct Table {
    users: HashMap<Name, Entry>,
    /// Those whom the driver does not know of.
    chosen: Vec<Name>,
    /// Those whom nobody watched, and when the driver first saw that.
    idle: VecDeque<(Name, Option<Time>)>,
}

/// See the module's head.
#[derive(Default)]
pub(super) struct Interest {
    // Taken after the lock of a shard.
    table: Mutex<Table>,
    wished: Notify,
    /// Changes when more users are known.
    known: watch::Sender<()>,
}

impl Interest {
    /// One more client wants this user. Returns whether there is room.
    pub(super) fn enter(&self, user: &str) -> bool {
        let mut table = lock(&self.table);
        if let Some(entry) = table.users.get_mut(user) {
            entry.clients += 1;
            return true;
        }
        if table.users.len() >= USERS_MOST {
            return false;
        }
        let name = Name::from(user);
        table.users.insert(name.clone(), Entry { clients: 1, ..Entry::default() });
        table.chosen.push(name);
        self.wished.notify_one();
        true
    }

    /// A client no longer wants this user.
    pub(super) fn leave(&self, user: &str) {
        let mut table = lock(&self.table);
        let Table { users, idle, .. } = &mut *table;
        let Some((name, entry)) =
            users.get_key_value(user).map(|(name, _)| name.clone()).zip(users.get_mut(user))
        else {
            return;
        };
        entry.clients = entry.clients.saturating_sub(1);
        if entry.clients == 0 && !std::mem::replace(&mut entry.queued, true) {
            idle.push_back((name, None));
        }
    }

    fn take_wishes(&self, now: Time) -> Wishes {
        let mut table = lock(&self.table);
        let chosen = std::mem::take(&mut table.chosen);
        let unseen = table.idle.iter_mut().rev().take_while(|(_, since)| since.is_none());
        unseen.for_each(|(_, since)| *since = Some(now));
        let mut dismissed = Vec::new();
        while table.idle.front().is_some_and(|(_, since)| since.is_some_and(|at| now.since(at) >= LINGER_MS))
        {
            let Some((user, _)) = table.idle.pop_front() else { break };
            let Some(entry) = table.users.get_mut(&user) else { continue };
            entry.queued = false;
            if entry.clients == 0 {
                table.users.remove(&user);
                dismissed.push(user);
            }
        }
        Wishes { chosen, dismissed }
    }

    fn know(&self, users: &[Name]) {
        let mut table = lock(&self.table);
        for user in users {
            if let Some(entry) = table.users.get_mut(user) {
                entry.known = true;
            }
        }
        drop(table);
        self.known.send_replace(());
    }

    pub(super) fn is_known(&self, user: &str) -> bool {
        lock(&self.table).users.get(user).is_some_and(|entry| entry.known)
    }
}

/// Users who are kept until this is dropped, and a few seconds more.
pub struct Kept {
    hub: Arc<Hub>,
    users: Vec<String>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(interest) = &self.hub.interest {
            self.users.iter().for_each(|user| interest.leave(user));
        }
    }
}

impl Kept {
    /// Waits until the state of each of them is known, at most [`KNOWN_WITHIN`].
    pub async fn known(&self) {
        let Some(interest) = &self.hub.interest else { return };
        let mut changes = interest.known.subscribe();
        let all_known = async {
            let mut left: Vec<&String> = self.users.iter().collect();
            loop {
                left.retain(|user| !interest.is_known(user));
                if left.is_empty() || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        if timeout(KNOWN_WITHIN, all_known).await.is_err() {
            self.hub.readers.metrics.late_states.inc();
        }
    }
}

impl Hub {
    /// The same hub, of a daemon that keeps only users whom clients watch or have just asked for.
    pub fn choosing(self) -> Hub {
        Hub { interest: Some(Interest::default()), ..self }
    }

    /// Whether it has the state of all users.
    pub fn holds_all(&self) -> bool {
        self.interest.is_none()
    }

    /// How many users clients watch or have just asked for, where it keeps no others.
    pub fn kept_users(&self) -> usize {
        self.interest.as_ref().map_or(0, |interest| lock(&interest.table).users.len())
    }

    /// Keeps users whom nobody may watch; `None` if too many are kept.
    pub fn keep(self: &Arc<Hub>, users: Vec<String>) -> Option<Kept> {
        let mut kept = Kept { hub: self.clone(), users: Vec::with_capacity(users.len()) };
        let Some(interest) = &self.interest else { return Some(kept) };
        for user in users {
            if !interest.enter(&user) {
                self.readers.metrics.limited("kept_users");
                return None;
            }
            kept.users.push(user);
        }
        Some(kept)
    }

    /// Whether the state of a user is known, as far as the servers are.
    pub fn is_known(&self, user: &str) -> bool {
        self.interest.as_ref().is_none_or(|interest| interest.is_known(user))
    }

    /// Waits until [`take_wishes`](Hub::take_wishes) has users to keep.
    pub async fn wished(&self) {
        match &self.interest {
            Some(interest) => interest.wished.notified().await,
            None => std::future::pending().await,
        }
    }

    /// What the clients want since the last call. The driver calls this at each turn.
    pub fn take_wishes(&self, now: Time) -> Wishes {
        let Some(interest) = &self.interest else { return Wishes::default() };
        let wishes = interest.take_wishes(now);
        // Nobody has seen them come.
        wishes.chosen.iter().for_each(|user| self.shard(user).roster.forget_start(user));
        wishes.dismissed.iter().for_each(|user| self.shard(user).roster.forget_absence(user));
        wishes
    }

    /// The state of these users is known.
    pub fn know(&self, users: &[Name]) {
        if let Some(interest) = &self.interest {
            interest.know(users);
        }
    }

    /// Forgets these live keys, without a transition.
    pub fn drop_keys(&self, keys: &[Key]) {
        keys.iter().for_each(|key| self.shard(key.user()).roster.drop_key(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::tests::{change, hub};
    use crate::presence::{Presence, Reason};

    fn chooser() -> Arc<Hub> {
        Arc::new(hub().choosing())
    }

    fn at(ms: u64) -> Time {
        Time::from_ms(ms)
    }

    fn wishes(chosen: &[&str], dismissed: &[&str]) -> Wishes {
        let names = |users: &[&str]| users.iter().map(|&user| Name::from(user)).collect();
        Wishes { chosen: names(chosen), dismissed: names(dismissed) }
    }

    #[test]
    fn user_is_kept_while_somebody_watches() {
        let hub = chooser();
        let (one, other) = (hub.watcher(), hub.watcher());
        hub.watch(&one, &"a".into());
        hub.watch(&other, &"a".into());
        assert_eq!(hub.take_wishes(at(1)), wishes(&["a"], &[]));
        assert!(!hub.is_known("a"));
        hub.know(&["a".into()]);
        assert!(hub.is_known("a"));
        hub.unwatch(&one, "a");
        assert_eq!(hub.take_wishes(at(90_000)), wishes(&[], &[]));
        hub.unwatch(&other, "a");
        assert_eq!(hub.take_wishes(at(100_000)), wishes(&[], &[]));
        assert_eq!(hub.take_wishes(at(104_999)), wishes(&[], &[]));
        assert_eq!(hub.take_wishes(at(105_000)), wishes(&[], &["a"]));
        assert!(!hub.is_known("a"));
    }

    #[test]
    fn user_who_is_asked_for_again_stays() {
        let hub = chooser();
        drop(hub.keep(vec!["a".into(), "b".into()]));
        assert_eq!(hub.take_wishes(at(1)), wishes(&["a", "b"], &[]));
        let kept = hub.keep(vec!["a".into()]).unwrap();
        assert_eq!(hub.take_wishes(at(6_000)), wishes(&[], &["b"]));
        drop(kept);
        assert_eq!(hub.take_wishes(at(7_000)), wishes(&[], &[]));
        assert_eq!(hub.take_wishes(at(12_000)), wishes(&[], &["a"]));
    }

    #[test]
    fn start_of_a_user_found_online_is_unknown() {
        let hub = chooser();
        let _kept = hub.keep(vec!["a".into(), "b".into()]);
        hub.take_wishes(at(1));
        hub.apply(&change("a", true));
        assert_eq!(hub.get("a"), Presence::Online { since: None, sessions: 1 });
        hub.know(&["a".into(), "b".into()]);
        let found = hub.apply(&change("b", true)).unwrap();
        assert!(matches!(hub.get("b"), Presence::Online { since: Some(_), .. }) && found.online);
        // The next presence of a is seen from its start.
        hub.apply(&change("a", false));
        hub.apply(&change("a", true));
        assert!(matches!(hub.get("a"), Presence::Online { since: Some(_), .. }));
    }

    #[test]
    fn dropped_keys_are_no_transition() {
        let hub = chooser();
        let _kept = hub.keep(vec!["a".into()]);
        let change = change("a#phone", true);
        assert_eq!(change.reason, Reason::Heartbeat);
        hub.apply(&change);
        let seq = hub.seq();
        hub.drop_keys(&[change.key]);
        assert_eq!((hub.get("a"), hub.seq()), (Presence::Offline { last_seen: None }, seq));
        assert_eq!(hub.count(), (0, 0));
    }
}
