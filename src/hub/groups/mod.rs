//! Groups: SETs of users in Redis, of which the daemon knows those that clients watch.
//!
//! ```text
//! edit      the members as Redis has them: who joined, who left
//! group     one group: its members, and its clients
//! pending   what a client is still to be sent
//! ```
//!
//! A client that watches a group is registered with the group, not with each member. So a group of 1,000 members costs each of its
//! 10,000 clients one entry. A shard knows the groups of its users; a transition goes to the clients of all of them, and a client
//! that watches a user in several ways receives each transition once, by its number.
//!
//! The order of locks: the registry, a group's members, a shard, a group's clients, a watcher.

mod edit;
mod group;
mod pending;

pub use edit::GroupState;
pub(super) use group::Group;
pub use pending::GroupEnd;
pub(super) use pending::{Next, PendingGroups};

use super::{Hub, Shard, Watcher};
use crate::lock::lock;
use crate::presence::{Name, Presence};
use group::{CountWatcher, FullWatcher, Members};
use pending::MemberChanges;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// The groups that clients watch.
#[derive(Default)]
pub(super) struct Groups {
    registry: Mutex<Registry>,
    /// A group has to be read.
    wanted: Notify,
}

#[derive(Default)]
struct Registry {
    groups: HashMap<Name, Arc<Group>>,
    /// Groups that have to be read.
    unread: Vec<Name>,
    /// Seconds in which the counts were compared.
    tick: u64,
}

/// The answer to a watch of a group.
#[derive(Debug)]
pub struct GroupBegin {
    /// How many members there are.
    pub members: usize,
    /// How many of them are online.
    pub online: usize,
    /// The members online; empty if the client watches the counts.
    pub users: Vec<(Name, Presence)>,
}

/// The next news of a group for a client.
#[derive(Debug)]
pub enum GroupNews {
    /// The client's watch can be answered, with [`Hub::begin_group`].
    Begin(Name),
    /// Members came, each with the state that the next transition follows, or went.
    Members {
        /// The group.
        group: Name,
        /// Members who came.
        joined: Vec<(Name, Presence)>,
        /// Members who went.
        left: Vec<Name>,
    },
    /// The counts changed.
    Occupancy {
        /// The group.
        group: Name,
        /// How many members there are.
        members: usize,
        /// How many of them are online.
        online: usize,
    },
    /// The client no longer watches the group.
    Ended(Name, GroupEnd),
}

/// How much of a group its clients need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupNeed {
    /// All members, however many there are; otherwise as many as a client may watch.
    pub all: bool,
    /// How many members were known.
    pub known: usize,
}

impl Hub {
    /// Registers `watcher` for a group: for its members, or with `count` for its counts. [`next_group_news`](Hub::next_group_news)
    /// reports when the watch can be answered.
    pub fn watch_group(&self, watcher: &Arc<Watcher>, name: &str, count: bool) {
        let otherwise = |group: &Group| match count {
            true => group.watchers().full.contains_key(&watcher.id),
            false => group.watchers().counting.contains_key(&watcher.id),
        };
        if self.group(name).is_some_and(|group| otherwise(&group)) {
            self.unwatch_group(watcher, name);
        }
        let mut registry = lock(&self.groups.registry);
        let group = registry.groups.get(name).cloned().unwrap_or_else(|| {
            let group = Arc::new(Group::new(name.into()));
            registry.groups.insert(group.name.clone(), group.clone());
            registry.unread.push(group.name.clone());
            group
        });
        if count {
            let counting = CountWatcher { watcher: watcher.clone(), sent: None, from_tick: u64::MAX };
            group.watchers().counting.insert(watcher.id, counting);
        } else {
            // One that asks again is still sent what changes, until its new answer.
            let full = FullWatcher { watcher: watcher.clone(), begun: false };
            group.watchers().full.entry(watcher.id).or_insert(full);
        }
        // A group whose members are too many for watches is read again for counts.
        let again = count && matches!(*group.members(), Members::TooLarge(_));
        if again {
            registry.unread.push(group.name.clone());
        } else if !matches!(*group.members(), Members::Unread) {
            watcher.change_groups(|pending| pending.begin(&group.name));
            watcher.ring();
        }
        drop(registry);
        self.groups.wanted.notify_one();
    }

    /// Answers a watch whose group is known: from now on the client is sent what changes. `most` members may be watched. `None`: the
    /// client no longer watches the group, or it is not read yet.
    ///
    /// # Errors
    /// The group cannot be watched like this, and the client no longer watches it.
    pub fn begin_group(
        &self,
        watcher: &Watcher,
        name: &str,
        most: usize,
    ) -> Result<Option<GroupBegin>, GroupEnd> {
        let tick = lock(&self.groups.registry).tick;
        let Some(group) = self.group(name) else { return Ok(None) };
        let members = group.members();
        let known = match &*members {
            Members::Unread => return Ok(None),
            Members::Known(known) => Ok(known),
            // All members are read for the counts.
            Members::TooLarge(_) if group.watchers().counting.contains_key(&watcher.id) => return Ok(None),
            Members::TooLarge(count) => Err(GroupEnd::TooLarge(*count)),
            Members::Invalid => Err(GroupEnd::Invalid),
        };
        let mut watchers = group.watchers();
        if let (Ok(known), Some(counting)) = (&known, watchers.counting.get_mut(&watcher.id)) {
            let (members, online) = (known.len(), group.online());
            (counting.sent, counting.from_tick) = (Some((members, online)), tick);
            return Ok(Some(GroupBegin { members, online, users: Vec::new() }));
        }
        let fits = known.and_then(|known| match known.len() {
            count if count > most && watchers.full.contains_key(&watcher.id) => {
                Err(GroupEnd::TooLarge(count))
            }
            _ => Ok(known),
        });
        let known = match fits {
            Ok(known) => known,
            Err(end) => {
                drop((watchers, members));
                self.unwatch_group(watcher, name);
                return Err(end);
            }
        };
        let Some(full) = watchers.full.get_mut(&watcher.id) else { return Ok(None) };
        full.begun = true;
        // The snapshot covers what is pending; no edit comes between.
        watcher.change_groups(|pending| pending.forget(name));
        // From here on transitions of the members reach the client's mailbox, and each state that it is given covers those before.
        drop(watchers);
        let (mut users, mut offline) = (Vec::new(), Vec::new());
        for user in known {
            let presence = self.give_member(watcher, user);
            if matches!(presence, Presence::Online { .. }) {
                users.push((user.clone(), presence));
            } else {
                offline.push(user);
            }
        }
        // The answer does not name them, and their transitions have no status.
        self.owe_statuses_of(watcher, &offline);
        users.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        Ok(Some(GroupBegin { members: known.len(), online: users.len(), users }))
    }

    /// The state of a user, which the client's next transition of that user follows.
    fn give_member(&self, watcher: &Watcher, user: &Name) -> Presence {
        let at = self.shard_of(user);
        let shard = lock(&self.shards[at]);
        watcher.give(user, at, self.seq());
        shard.roster.get(user)
    }

    /// Ends what [`watch_group`](Hub::watch_group) began. Users whom the client watches otherwise stay watched.
    pub fn unwatch_group(&self, watcher: &Watcher, name: &str) {
        let (group, unused) = {
            let mut registry = lock(&self.groups.registry);
            let Some(group) = registry.groups.get(name).cloned() else { return };
            let mut watchers = group.watchers();
            watchers.full.remove(&watcher.id);
            watchers.counting.remove(&watcher.id);
            let unused = watchers.is_empty();
            drop(watchers);
            if unused {
                registry.groups.remove(name);
            }
            (group, unused)
        };
        watcher.change_groups(|pending| pending.forget(name));
        let mut members = group.members();
        if let Members::Known(known) = &*members {
            known.iter().for_each(|user| self.release_member(watcher, user));
        }
        if unused && let Members::Known(known) = std::mem::take(&mut *members) {
            known.iter().for_each(|user| self.leave(&group, user));
        }
    }

    /// The client no longer watches a user by a group.
    fn release_member(&self, watcher: &Watcher, user: &Name) {
        let at = self.shard_of(user);
        let shard = lock(&self.shards[at]);
        if !shard.is_watched_by(watcher, user) {
            watcher.forget(user, at);
        }
    }

    /// The user is no longer a member of the group, for transitions.
    fn leave(&self, group: &Arc<Group>, user: &Name) {
        self.shard(user).leave(group, user);
    }

    fn group(&self, name: &str) -> Option<Arc<Group>> {
        lock(&self.groups.registry).groups.get(name).cloned()
    }

    /// How many groups are watched.
    pub fn count_groups(&self) -> usize {
        lock(&self.groups.registry).groups.len()
    }

    /// The groups that are watched.
    pub fn watched_groups(&self) -> Vec<Name> {
        lock(&self.groups.registry).groups.keys().cloned().collect()
    }

    /// Whether a client watches a group.
    pub fn is_group_watched(&self, name: &str) -> bool {
        lock(&self.groups.registry).groups.contains_key(name)
    }

    /// What the clients of a group need; `None` if nobody watches it.
    pub fn group_need(&self, name: &str) -> Option<GroupNeed> {
        let group = self.group(name)?;
        let known = match &*group.members() {
            Members::Known(known) => known.len(),
            _ => 0,
        };
        Some(GroupNeed { all: !group.watchers().counting.is_empty(), known })
    }

    /// Waits until groups have to be read, and takes their names.
    pub async fn groups_wanted(&self) -> Vec<Name> {
        loop {
            self.groups.wanted.notified().await;
            let unread = std::mem::take(&mut lock(&self.groups.registry).unread);
            if !unread.is_empty() {
                return unread;
            }
        }
    }

    /// Compares the counts of all groups with those of the second before, and has the clients sent those that changed. Called once
    /// a second.
    pub fn tick_groups(&self) {
        let (groups, tick) = {
            let mut registry = lock(&self.groups.registry);
            registry.tick += 1;
            (registry.groups.values().cloned().collect::<Vec<_>>(), registry.tick)
        };
        groups.iter().for_each(|group| tick_group(group, tick));
    }

    /// The next news of a group for a client. News of members come before their transitions.
    pub fn next_group_news(&self, watcher: &Watcher) -> Option<GroupNews> {
        Some(match watcher.pop_group()? {
            Next::Begin(group) => GroupNews::Begin(group),
            Next::Ended(group, end) => GroupNews::Ended(group, end),
            Next::Members(group, MemberChanges { joined, left }) => {
                let give = |user: Name| (user.clone(), self.give_member(watcher, &user));
                let joined = joined.into_keys().map(give).collect();
                GroupNews::Members { group, joined, left: left.into_iter().collect() }
            }
            Next::Occupancy(name) => {
                let group = self.group(&name)?;
                let mut watchers = group.watchers();
                let (members, online) = watchers.counts?;
                watchers.counting.get_mut(&watcher.id)?.sent = Some((members, online));
                GroupNews::Occupancy { group: name, members, online }
            }
        })
    }
}

fn tick_group(group: &Group, tick: u64) {
    let members = match &*group.members() {
        Members::Known(known) => known.len(),
        _ => return,
    };
    let counts = (members, group.online());
    let mut watchers = group.watchers();
    if watchers.counting.is_empty() || watchers.counts == Some(counts) && !watchers.late {
        return;
    }
    watchers.counts = Some(counts);
    let mut late = false;
    for counting in
        watchers.counting.values().filter(|counting| counting.sent.is_some_and(|sent| sent != counts))
    {
        if counting.from_tick.saturating_add(1) >= tick {
            late = true;
            continue;
        }
        counting.watcher.change_groups(|pending| pending.occupancy(&group.name));
        counting.watcher.ring();
    }
    watchers.late = late;
}

impl Shard {
    /// The user is no longer a member of a group.
    fn leave(&mut self, group: &Arc<Group>, user: &str) {
        let Some(groups) = self.grouped.get_mut(user) else { return };
        groups.retain(|other| !Arc::ptr_eq(other, group));
        if groups.is_empty() {
            self.grouped.remove(user);
        }
    }

    /// Whether a client watches a user by name or by a group.
    pub(super) fn is_watched_by(&self, watcher: &Watcher, user: &str) -> bool {
        let by_name = || self.watched.get(user).is_some_and(|audience| audience.has(watcher));
        let groups = || self.grouped.get(user).into_iter().flatten();
        by_name() || groups().any(|group| group.watchers().has_begun(watcher.id))
    }
}

#[cfg(test)]
mod tests;
