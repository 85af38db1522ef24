//! The content of one user's page, and a record of how it came about. It gets the time as a number and opens nothing.

use std::collections::HashMap;

/// A user's change from offline to online or back, as it really was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    pub user: usize,
    pub online: bool,
    /// When it took effect: the deadline of a user who fell silent, otherwise when the user's message was sent. Microseconds.
    pub at_us: u64,
    pub how: How,
}

/// How a user goes or comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The device stops without a word: the user is offline at the deadline.
    FellSilent,
    /// The client says that the user leaves.
    Left,
    /// The user comes back.
    Came,
}

/// A page showed another state of a contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub user: usize,
    pub online: bool,
    pub at_us: u64,
}

/// See the module's head.
pub struct Sight {
    contacts: HashMap<usize, Contact>,
    /// The page itself decides that a contact is offline: so long after the last heartbeat that it received.
    timeout_us: Option<u64>,
    /// Each change of what the page shows, oldest first.
    pub seen: Vec<Seen>,
}

#[derive(Default)]
struct Contact {
    online: bool,
    /// When the page times the contact out.
    until_us: u64,
}

impl Sight {
    /// A page that shows these contacts, all offline.
    pub fn new(contacts: &[usize], timeout_us: Option<u64>) -> Sight {
        let contacts = contacts.iter().map(|&user| (user, Contact::default())).collect();
        Sight { contacts, timeout_us, seen: Vec::new() }
    }

    /// The server reports the state of a user; where pages time users out, online is a heartbeat.
    pub fn hear(&mut self, now_us: u64, user: usize, online: bool) {
        let Some(contact) = self.contacts.get_mut(&user) else { return };
        contact.until_us = now_us + self.timeout_us.unwrap_or_default();
        if contact.online != online {
            contact.online = online;
            self.seen.push(Seen { user, online, at_us: now_us });
        }
    }

    /// When the page must next look at its contacts by itself.
    pub fn next_due_us(&self) -> Option<u64> {
        self.timeout_us?;
        self.contacts.values().filter(|contact| contact.online).map(|contact| contact.until_us).min()
    }

    /// Contacts whose heartbeats stay away are offline.
    pub fn expire(&mut self, now_us: u64) {
        for (&user, contact) in &mut self.contacts {
            if self.timeout_us.is_some() && contact.online && contact.until_us <= now_us {
                contact.online = false;
                self.seen.push(Seen { user, online: false, at_us: now_us });
            }
        }
    }

    /// How many contacts the page shows as online.
    pub fn online(&self) -> usize {
        self.contacts.values().filter(|contact| contact.online).count()
    }

    /// Whether the page shows this contact as online; `None` if it is no contact.
    #[cfg(test)]
    pub fn shows(&self, user: usize) -> Option<bool> {
        self.contacts.get(&user).map(|contact| contact.online)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_records_changes_only() {
        let mut sight = Sight::new(&[1, 2], None);
        sight.hear(10, 1, true);
        sight.hear(20, 1, true);
        sight.hear(30, 1, false);
        sight.hear(40, 9, true);
        let seen = |online, at_us| Seen { user: 1, online, at_us };
        assert_eq!(sight.seen, [seen(true, 10), seen(false, 30)]);
        assert_eq!((sight.online(), sight.shows(9), sight.next_due_us()), (0, None, None));
    }

    #[test]
    fn page_times_contacts_out() {
        let mut sight = Sight::new(&[1, 2], Some(100));
        sight.hear(10, 1, true);
        sight.hear(50, 2, true);
        sight.hear(60, 1, true);
        assert_eq!(sight.next_due_us(), Some(150));
        sight.expire(149);
        assert_eq!(sight.online(), 2);
        sight.expire(150);
        assert_eq!(
            (sight.shows(1), sight.shows(2), sight.next_due_us()),
            (Some(true), Some(false), Some(160))
        );
    }
}
