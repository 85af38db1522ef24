//! The members of a group as Redis has them.

use super::group::{Group, Members};
use super::pending::GroupEnd;
use crate::hub::Hub;
use crate::lock::lock;
use crate::presence::{Name, Presence};
use std::collections::HashSet;
use std::sync::Arc;

/// A group as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupState {
    /// Its members, perhaps repeated.
    Members(Vec<Name>),
    /// It has so many members that they were not read.
    TooLarge(usize),
    /// The key is no SET.
    Invalid,
}

impl Hub {
    /// Takes in a group as it was read. `most` members may be watched. Only one task calls this.
    pub fn set_group(&self, name: &str, state: GroupState, most: usize) {
        if let Some(group) = self.group(name) {
            self.set(&group, state, most);
            self.want_counts(&group);
            self.drop_unwatched(&group);
            self.readers.relieve();
        }
    }

    /// The same for the group itself, which its last client may no longer watch.
    pub(super) fn set(&self, group: &Arc<Group>, state: GroupState, most: usize) {
        let mut members = group.members();
        let first = !matches!(*members, Members::Known(_));
        match state {
            GroupState::Members(read) => {
                let before = match std::mem::take(&mut *members) {
                    Members::Known(before) => before,
                    _ => HashSet::new(),
                };
                let now: HashSet<Name> = read.into_iter().collect();
                if now.len() > most {
                    self.end_watches(group, &before, GroupEnd::TooLarge(now.len()));
                }
                *members = Members::Known(self.edit(group, before, now));
            }
            GroupState::TooLarge(count) => {
                self.forget_members(group, &mut members, GroupEnd::TooLarge(count));
                *members = Members::TooLarge(count);
            }
            GroupState::Invalid => {
                self.forget_members(group, &mut members, GroupEnd::Invalid);
                *members = Members::Invalid;
                end_counts(group, GroupEnd::Invalid);
            }
        }
        if first {
            answer_all(group, !matches!(*members, Members::TooLarge(_)));
        }
    }

    /// Has a group read with all members, if it was found too large for watches of members and a client watches the counts since.
    fn want_counts(&self, group: &Group) {
        let lacks = matches!(*group.members(), Members::TooLarge(_)) && !group.watchers().counting.is_empty();
        if lacks {
            lock(&self.groups.registry).unread.push(group.name.clone());
            self.groups.wanted.notify_one();
        }
    }

    /// The daemon may not read a group: ends the watches that only a read could answer. Clients that have an answer still watch.
    pub fn refuse_group(&self, name: &str) {
        let Some(group) = self.group(name) else { return };
        let members = group.members();
        if !matches!(*members, Members::Known(_)) {
            let mut watchers = group.watchers();
            let full = watchers.full.extract_if(|_, full| !full.begun).map(|(_, full)| full.watcher);
            let full: Vec<_> = full.collect();
            let counting = watchers.counting.extract_if(|_, counting| counting.sent.is_none());
            for watcher in full.into_iter().chain(counting.map(|(_, counting)| counting.watcher)) {
                watcher.change_groups(|pending| pending.ended(&group.name, GroupEnd::Unreadable));
                watcher.ring();
            }
        }
        drop(members);
        self.drop_unwatched(&group);
    }

    /// Applies the difference between two sets of members. Returns the members, with the names that are shared.
    fn edit(&self, group: &Arc<Group>, mut before: HashSet<Name>, now: HashSet<Name>) -> HashSet<Name> {
        let left: Vec<Name> = before.iter().filter(|user| !now.contains(*user)).cloned().collect();
        for user in left {
            before.remove(&user);
            self.remove_member(group, &user);
        }
        for user in now {
            if !before.contains(&user) {
                let user = self.add_member(group, user);
                before.insert(user);
            }
        }
        group.watchers().begun().for_each(|watcher| watcher.ring());
        before
    }

    /// Adds a member, and has the group's clients sent it. Both happen with the member's shard locked, so no transition comes before.
    fn add_member(&self, group: &Arc<Group>, user: Name) -> Name {
        let mut shard = self.shard(&user);
        let user = shard.roster.name(&user).unwrap_or(user);
        if matches!(shard.roster.get(&user), Presence::Online { .. }) {
            group.count(true);
        }
        shard.grouped.entry(user.clone()).or_default().push(group.clone());
        group.each_watcher(|watcher| {
            watcher.change_groups(|pending| pending.joined(&group.name, &user));
        });
        user
    }

    /// Removes a member, and has the group's clients sent that.
    fn remove_member(&self, group: &Arc<Group>, user: &Name) {
        let at = self.shard_of(user);
        let mut shard = lock(&self.shards[at]);
        if matches!(shard.roster.get(user), Presence::Online { .. }) {
            group.count(false);
        }
        shard.leave(group, user);
        group.each_watcher(|watcher| {
            watcher.change_groups(|pending| pending.left(&group.name, user));
            if !shard.is_watched_by(watcher, user) {
                watcher.forget(user, at);
            }
        });
    }

    /// Ends the watches of the members, and forgets the members.
    fn forget_members(&self, group: &Arc<Group>, members: &mut Members, end: GroupEnd) {
        let known = match std::mem::take(members) {
            Members::Known(known) => known,
            _ => HashSet::new(),
        };
        self.end_watches(group, &known, end);
        known.iter().for_each(|user| self.remove_member(group, user));
    }

    /// Ends the watches of the members: the group cannot be watched any more.
    fn end_watches(&self, group: &Group, members: &HashSet<Name>, end: GroupEnd) {
        let ended = std::mem::take(&mut group.watchers().full);
        for full in ended.into_values() {
            members.iter().filter(|_| full.begun).for_each(|user| self.release_member(&full.watcher, user));
            full.watcher.change_groups(|pending| pending.ended(&group.name, end));
            full.watcher.ring();
        }
    }

    /// Forgets a group without clients: its last client was ended here, or went while the group was edited. No client can watch
    /// a group that is not registered.
    pub(super) fn drop_unwatched(&self, group: &Arc<Group>) {
        {
            let mut registry = lock(&self.groups.registry);
            let current = registry.groups.get(&group.name).is_some_and(|other| Arc::ptr_eq(other, group));
            if current && !group.watchers().is_empty() {
                return;
            }
            if current {
                registry.groups.remove(&group.name);
            }
        }
        if let Members::Known(known) = std::mem::take(&mut *group.members()) {
            known.iter().for_each(|user| self.leave(group, user));
        }
    }
}

/// Ends the watches of the counts.
fn end_counts(group: &Group, end: GroupEnd) {
    for (_, counting) in std::mem::take(&mut group.watchers().counting) {
        counting.watcher.change_groups(|pending| pending.ended(&group.name, end));
        counting.watcher.ring();
    }
}

/// The group is known now: all watches can be answered, or all but those of counts.
fn answer_all(group: &Group, counts: bool) {
    let watchers = group.watchers();
    let full = watchers.full.values().filter(|full| !full.begun).map(|full| &full.watcher);
    let counting = watchers.counting.values().filter(|counting| counts && counting.sent.is_none());
    for watcher in full.chain(counting.map(|counting| &counting.watcher)) {
        watcher.change_groups(|pending| pending.begin(&group.name));
        watcher.ring();
    }
}
