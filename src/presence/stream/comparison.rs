//! Compares all users with those whom the stream says are online.

use super::order::{BUCKETS, StreamEntry, StreamOrder, StreamView, bucket_of};
use crate::{Name, Time};
use std::collections::{HashMap, HashSet};

/// The users online in one bucket, and those whose transitions follow later.
pub(super) struct Sight {
    pub(super) online: HashSet<Name>,
    /// Users with transitions after the writer's place, and the state that the first of them leads to.
    pub(super) pending: HashMap<Name, bool>,
}

impl Sight {
    /// The view of a bucket; `None` if transitions after `place` are no longer kept.
    pub(super) fn of(view: &dyn StreamView, bucket: usize, place: u64) -> Option<Sight> {
        let online = view.online(&|of| of == bucket).into_iter().collect();
        // After the states: a state that changed since `place` has its transition in here.
        Some(Sight { online, pending: pending(view, place)?.0 })
    }

    /// The users who were online at the writer's place.
    pub(super) fn members(&self, bucket: usize) -> Vec<Name> {
        let steady = self.online.iter().filter(|user| !self.pending.contains_key(*user));
        let left = self.pending.iter().filter(|&(user, online)| !online && bucket_of(user) == bucket);
        sorted(steady.cloned().chain(left.map(|(user, _)| user.clone())))
    }
}

/// The same order in each run.
fn sorted(users: impl Iterator<Item = Name>) -> Vec<Name> {
    let mut users: Vec<Name> = users.collect();
    users.sort_unstable();
    users
}

/// The users with transitions after `place`, and the number of the last of these.
fn pending(view: &dyn StreamView, place: u64) -> Option<(HashMap<Name, bool>, u64)> {
    let mut pending = HashMap::new();
    let transitions = view.transitions(place, usize::MAX)?;
    let until = place + transitions.len() as u64;
    for transition in transitions {
        pending.entry(transition.user).or_insert(transition.online);
    }
    Some((pending, until))
}

/// The entries that lead from `members` to the users online, in the order of their names. Users whose transitions follow are left
/// out.
pub(super) fn differences(
    members: &HashSet<Name>,
    online: &HashSet<Name>,
    pending: &HashMap<Name, bool>,
    (now, view): (Time, &dyn StreamView),
) -> Vec<StreamEntry> {
    let steady = |user: &&Name| !pending.contains_key(*user);
    let gone = members.difference(online).filter(steady);
    let gone = gone.map(|user| StreamEntry::missing(user, false, now, view));
    let come = online.difference(members).filter(steady);
    let come = come.map(|user| StreamEntry::missing(user, true, now, view));
    let mut entries: Vec<StreamEntry> = gone.chain(come).collect();
    entries.sort_unstable_by(|one, other| one.user.cmp(&other.user));
    entries
}

/// A bucket that is to be written, and its members.
pub(super) struct Restored {
    pub(super) bucket: usize,
    pub(super) members: Vec<Name>,
}

/// The next step of a comparison.
pub(super) enum Step {
    Ask(StreamOrder),
    Restore(Restored),
    Write(Vec<StreamEntry>),
    Finished,
}

/// A comparison of all buckets.
pub(super) struct Comparison {
    /// The number of the last transition before it began.
    pub(super) place: u64,
    /// The number of the last transition of those who are left out.
    pub(super) until: u64,
    online: Vec<HashSet<Name>>,
    pending: HashMap<Name, bool>,
    /// The bucket to read next.
    next: usize,
    /// Buckets that are not whole.
    lost: Vec<usize>,
    /// The users of lost buckets whom the stream says are online.
    recalled: HashSet<Name>,
    /// The entries that the stream lacks of the users in lost buckets. It is written once all buckets are whole: until then another daemon may take
    /// over, and it must not find entries next to a bucket of an older stream.
    entries: Vec<StreamEntry>,
    /// Where the stream is to be read on; `None` once it was read.
    recall: Option<Option<String>>,
}

impl Comparison {
    /// A comparison with the view of now; `None` if too much happens at this moment.
    pub(super) fn begin(view: &dyn StreamView, exists: bool) -> Option<Comparison> {
        let place = view.seq();
        let mut online = vec![HashSet::new(); BUCKETS];
        for user in view.online(&|_| true) {
            online[bucket_of(&user)].insert(user);
        }
        let (pending, until) = pending(view, place)?;
        // Without a stream the users whom it named count for nothing.
        let (next, lost) = if exists { (0, Vec::new()) } else { (BUCKETS, (0..BUCKETS).collect()) };
        let recall = exists.then_some(None);
        Some(Comparison {
            place,
            until,
            online,
            pending,
            next,
            lost,
            recalled: HashSet::new(),
            entries: Vec::new(),
            recall,
        })
    }

    /// A bucket was read. Returns the entries that the stream lacks.
    pub(super) fn read(
        &mut self,
        members: Vec<Name>,
        whole: bool,
        seen: (Time, &dyn StreamView),
    ) -> Vec<StreamEntry> {
        let Some(online) = self.online.get(self.next) else { return Vec::new() };
        self.next += 1;
        if !whole {
            self.lost.push(self.next - 1);
            return Vec::new();
        }
        differences(&members.into_iter().collect(), online, &self.pending, seen)
    }

    /// A page of the stream was read.
    pub(super) fn recalled(&mut self, states: Vec<(Name, bool)>, next: Option<String>) {
        for (user, online) in states {
            if !self.lost.contains(&bucket_of(&user)) {
                continue;
            }
            if online {
                self.recalled.insert(user);
            } else {
                self.recalled.remove(&user);
            }
        }
        self.recall = next.map(Some);
    }

    /// The next step.
    pub(super) fn step(&mut self, seen: (Time, &dyn StreamView)) -> Step {
        if self.next < BUCKETS {
            return Step::Ask(StreamOrder::Read { bucket: self.next });
        }
        if let Some(after) = self.recall.as_ref().filter(|_| !self.lost.is_empty()) {
            return Step::Ask(StreamOrder::Recall { after: after.clone() });
        }
        let Some(bucket) = self.lost.pop() else {
            let entries = std::mem::take(&mut self.entries);
            return if entries.is_empty() { Step::Finished } else { Step::Write(entries) };
        };
        let known: HashSet<Name> =
            self.recalled.iter().filter(|user| bucket_of(user) == bucket).cloned().collect();
        self.entries.extend(differences(&known, &self.online[bucket], &self.pending, seen));
        Step::Restore(Restored { bucket, members: sorted(known.into_iter()) })
    }
}
