//! Events that stay in the stream, read and not acknowledged, because earlier events of their users are refused.

use super::{BATCH_EVENTS, HookEvent};
use crate::Name;
use std::collections::{HashMap, HashSet};

/// A place in the stream.
pub(super) type Place = (u64, u64);

/// The events that were left, and those of them that are read again.
#[derive(Default)]
pub(super) struct LeftEvents {
    /// The first event of each user that was left; all later ones of that user were left too.
    first: HashMap<Name, Place>,
    /// How many further events of each user are taken from those that are read again; `None` while new ones are read.
    wanted: Option<HashMap<Name, usize>>,
}

impl LeftEvents {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Whether an event that was read is to be delivered now. Leaves it otherwise, unless it is held already.
    pub(super) fn takes(&mut self, event: &HookEvent, refused: bool) -> bool {
        let takes = match &mut self.wanted {
            None => !refused && !self.has(event),
            Some(wanted) => {
                let Some(more) = wanted.get_mut(&event.user) else { return false };
                let takes = !refused && *more > 0;
                *more -= usize::from(takes);
                takes
            }
        };
        if !takes {
            self.leave(event);
        }
        takes
    }

    /// This event is left, and all later ones of its user.
    pub(super) fn leave(&mut self, event: &HookEvent) {
        let place = place(&event.id);
        let first = self.first.entry(event.user.clone()).or_insert(place);
        *first = place.min(*first);
        if let Some(wanted) = &mut self.wanted {
            wanted.remove(&event.user);
        }
    }

    /// Whether this event was left.
    pub(super) fn has(&self, event: &HookEvent) -> bool {
        self.first.get(&event.user).is_some_and(|first| *first <= place(&event.id))
    }

    /// Begins to read the events again of users who are not `held`: the id after which they begin.
    pub(super) fn read_again(&mut self, held: &HashSet<&Name>) -> Option<String> {
        let free = |user: &Name| !held.contains(user);
        let (ms, number) = self.first.iter().filter(|(user, _)| free(user)).map(|(_, place)| *place).min()?;
        let users: Vec<Name> = self.first.keys().filter(|user| free(user)).cloned().collect();
        for user in &users {
            self.first.remove(user);
        }
        self.wanted = Some(users.into_iter().map(|user| (user, BATCH_EVENTS)).collect());
        Some(match number.checked_sub(1) {
            Some(number) => format!("{ms}-{number}"),
            None => format!("{}-{}", ms.saturating_sub(1), u64::MAX),
        })
    }

    /// Events are read again, and no further one is wanted.
    pub(super) fn has_read_enough(&self) -> bool {
        self.wanted.as_ref().is_some_and(HashMap::is_empty)
    }

    pub(super) fn end(&mut self) {
        self.wanted = None;
    }
}

/// The place of an id: milliseconds and a number.
pub(super) fn place(id: &str) -> Place {
    let (ms, number) = id.split_once('-').unwrap_or((id, "0"));
    (ms.parse().unwrap_or_default(), number.parse().unwrap_or_default())
}
