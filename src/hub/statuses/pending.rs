//! The statuses that wait for one client: names, since the client is sent the status that holds when it reads.

use crate::presence::Name;
use std::collections::BTreeSet;

/// Memory of a pending name, in bytes; the name itself is shared.
pub(super) const PENDING_BYTES: usize = 48;

/// The statuses that wait for one client.
#[derive(Debug, Default)]
pub(in crate::hub) struct PendingStatuses {
    /// Users whose status the client has to be sent.
    pub(super) users: BTreeSet<Name>,
    /// Of a client that watches everybody: the number of the last change that it was sent.
    pub(super) all: Option<u64>,
}

impl PendingStatuses {
    /// Memory, in bytes.
    pub(in crate::hub) fn bytes(&self) -> usize {
        self.users.len() * PENDING_BYTES
    }

    /// A change of a user whom the client watches by name.
    pub(in crate::hub) fn push(&mut self, user: &Name) {
        if self.all.is_none() {
            self.users.insert(user.clone());
        }
    }

    /// The client no longer watches a user by name.
    pub(in crate::hub) fn forget(&mut self, user: &str) {
        self.users.remove(user);
    }
}
