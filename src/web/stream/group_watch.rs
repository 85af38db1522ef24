//! A client's watches of groups.

use crate::presence::Name;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};

/// Watches of one group that may wait for their answers.
const MOST_WAITING: usize = 16;

/// A watch message about a group.
struct Asked {
    id: Option<Value>,
    count: bool,
}

/// The watches of a group: each is answered, in order, and the last one holds.
pub(super) struct GroupWatch {
    /// The client watches the counts.
    pub(super) count: bool,
    /// Those that are not answered yet. The hub knows the first one.
    waiting: VecDeque<Asked>,
}

impl GroupWatch {
    /// A watch that the hub is to know.
    pub(super) fn new(id: Option<Value>, count: bool) -> GroupWatch {
        GroupWatch { count, waiting: VecDeque::from([Asked { id, count }]) }
    }

    /// Whether a further watch has to wait until this one is answered.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Adds a further watch. False if there is no room.
    pub(super) fn add(&mut self, id: Option<Value>, count: bool) -> bool {
        let fits = self.waiting.len() < MOST_WAITING;
        if fits {
            self.waiting.push_back(Asked { id, count });
        }
        fits
    }

    /// The watch that the hub knows is answered. Returns its `id`, and whether the hub is to know a further one.
    pub(super) fn answered(&mut self) -> (Option<Value>, bool) {
        let id = self.waiting.pop_front().and_then(|asked| asked.id);
        if let Some(next) = self.waiting.front() {
            self.count = next.count;
        }
        (id, self.is_waiting())
    }
}

/// The groups of a client.
pub(super) type GroupWatches = BTreeMap<Name, GroupWatch>;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_watch_is_answered_in_order() {
        let mut watch = GroupWatch::new(Some(json!(1)), false);
        assert!(watch.is_waiting() && watch.add(Some(json!(2)), true) && !watch.count);
        assert_eq!((watch.answered(), watch.count), ((Some(json!(1)), true), true));
        assert_eq!((watch.answered(), watch.is_waiting()), ((Some(json!(2)), false), false));
        assert_eq!(watch.answered(), (None, false), "the group ends later");
        let room = (0..100).filter(|_| watch.add(None, false)).count();
        assert_eq!(room, MOST_WAITING);
    }
}
