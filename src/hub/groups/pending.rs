//! What a client is still to be sent of the groups that it watches. Each member stands here once, so a slow client costs at most
//! two entries per member.

use crate::presence::Name;
use std::collections::{BTreeMap, BTreeSet};

/// Memory of an entry, in bytes; the name is shared.
const ENTRY_BYTES: usize = 64;

/// Why a client no longer watches a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupEnd {
    /// The group has so many members, more than a client may watch without `count`.
    TooLarge(usize),
    /// The key is no SET.
    Invalid,
    /// The daemon may not read the group.
    Unreadable,
}

/// The next news of a group.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::hub) enum Next {
    /// The group is read: the client gets its answer.
    Begin(Name),
    /// Members came or went.
    Members(Name, MemberChanges),
    /// The counts changed.
    Occupancy(Name),
    /// The client no longer watches the group.
    Ended(Name, GroupEnd),
}

/// Members who came and went since the client was sent the group.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::hub) struct MemberChanges {
    /// Each with whether the client knew the user as a member before.
    pub(super) joined: BTreeMap<Name, bool>,
    pub(super) left: BTreeSet<Name>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(in crate::hub) struct PendingGroups {
    begin: BTreeSet<Name>,
    members: BTreeMap<Name, MemberChanges>,
    occupancy: BTreeSet<Name>,
    ended: BTreeMap<Name, GroupEnd>,
}

impl PendingGroups {
    pub(super) fn begin(&mut self, group: &Name) {
        self.begin.insert(group.clone());
    }

    pub(super) fn joined(&mut self, group: &Name, user: &Name) {
        let changes = self.members.entry(group.clone()).or_default();
        // The client's state of the user may be old: it gets the state again.
        let known = changes.left.remove(user);
        changes.joined.insert(user.clone(), known);
    }

    pub(super) fn left(&mut self, group: &Name, user: &Name) {
        let changes = self.members.entry(group.clone()).or_default();
        if changes.joined.remove(user) != Some(false) {
            changes.left.insert(user.clone());
        }
        if changes.joined.is_empty() && changes.left.is_empty() {
            self.members.remove(group);
        }
    }

    pub(super) fn occupancy(&mut self, group: &Name) {
        self.occupancy.insert(group.clone());
    }

    pub(super) fn ended(&mut self, group: &Name, end: GroupEnd) {
        self.forget(group);
        self.ended.insert(group.clone(), end);
    }

    /// The client no longer watches the group, or gets a new answer.
    pub(super) fn forget(&mut self, group: &str) {
        self.begin.remove(group);
        self.members.remove(group);
        self.occupancy.remove(group);
        self.ended.remove(group);
    }

    /// Takes the next news.
    pub(in crate::hub) fn pop(&mut self) -> Option<Next> {
        let begin = self.begin.pop_first().map(Next::Begin);
        let members = || self.members.pop_first().map(|(group, changes)| Next::Members(group, changes));
        let next = begin.or_else(members);
        let next = next.or_else(|| self.occupancy.pop_first().map(Next::Occupancy));
        next.or_else(|| self.ended.pop_first().map(|(group, end)| Next::Ended(group, end)))
    }

    /// Whether members came: their transitions must not be sent before them.
    pub(in crate::hub) fn owes_members(&self) -> bool {
        !self.members.is_empty()
    }

    /// Memory, in bytes.
    pub(in crate::hub) fn bytes(&self) -> usize {
        let changed: usize =
            self.members.values().map(|changes| changes.joined.len() + changes.left.len()).sum();
        let groups = self.begin.len() + self.members.len() + self.occupancy.len() + self.ended.len();
        (changed + groups) * ENTRY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_cancel_out_are_not_sent() {
        let (mut pending, group) = (PendingGroups::default(), Name::from("g"));
        let [a, b, c]: [Name; 3] = ["a".into(), "b".into(), "c".into()];
        pending.joined(&group, &a);
        pending.left(&group, &a);
        assert_eq!((pending.pop(), pending.bytes()), (None, 0), "the client never knew the member");
        pending.left(&group, &b);
        pending.joined(&group, &b);
        pending.joined(&group, &c);
        assert!(pending.owes_members());
        let joined = BTreeMap::from([(b.clone(), true), (c, false)]);
        let changes = MemberChanges { joined, left: BTreeSet::new() };
        assert_eq!(
            pending.pop(),
            Some(Next::Members(group.clone(), changes)),
            "the state of b may have changed"
        );
        pending.left(&group, &b);
        pending.joined(&group, &b);
        pending.left(&group, &b);
        let changes = MemberChanges { joined: BTreeMap::new(), left: BTreeSet::from([b]) };
        assert_eq!(pending.pop(), Some(Next::Members(group, changes)));
    }

    #[test]
    fn answer_comes_before_changes() {
        let (mut pending, group) = (PendingGroups::default(), Name::from("g"));
        pending.occupancy(&group);
        pending.left(&group, &"a".into());
        pending.begin(&group);
        assert!(pending.bytes() > 0);
        assert_eq!(pending.pop(), Some(Next::Begin(group.clone())));
        pending.ended(&group, GroupEnd::Invalid);
        assert_eq!(pending.pop(), Some(Next::Ended(group, GroupEnd::Invalid)), "what was pending is void");
        assert_eq!((pending.pop(), pending.bytes()), (None, 0));
    }
}
