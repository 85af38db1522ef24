//! The open sockets and streams of each user, so that an operator can close them.

use crate::hub::{Overflow, Watcher};
use crate::lock::lock;
use crate::presence::Name;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long to wait until closed sockets send no more heartbeats. A heartbeat that is under way takes at most 2 s.
const LEAVE: Duration = Duration::from_millis(2_500);

/// The open sockets and streams of each user, by the user that they speak for or whose token opened them.
#[derive(Default)]
pub struct Connected {
    users: Mutex<HashMap<Name, Vec<Arc<Watcher>>>>,
    /// Somebody left.
    left: Notify,
}

/// One socket or stream among them, until it is dropped.
pub struct Membership {
    connected: Arc<Connected>,
    user: Name,
    watcher: Arc<Watcher>,
}

impl Connected {
    /// Adds a socket or stream of this user.
    pub fn enter(self: &Arc<Self>, user: &str, watcher: &Arc<Watcher>) -> Membership {
        let user = Name::from(user);
        lock(&self.users).entry(user.clone()).or_default().push(watcher.clone());
        Membership { connected: self.clone(), user, watcher: watcher.clone() }
    }

    /// Ends all sockets and streams of this user that are open now, and waits until they send no more heartbeats. Returns how
    /// many there were.
    pub async fn close(&self, user: &str) -> usize {
        let closed = {
            let users = lock(&self.users);
            let open = users.get(user).map_or(&[][..], Vec::as_slice);
            open.iter().for_each(|watcher| watcher.dismiss());
            open.len()
        };
        let gone = async {
            loop {
                let left = self.left.notified();
                if !self.has_dismissed(user) {
                    return;
                }
                left.await;
            }
        };
        if timeout(LEAVE, gone).await.is_err() {
            tracing::debug!("some of the closed sockets still wait for Redis");
        }
        closed
    }

    fn has_dismissed(&self, user: &str) -> bool {
        let users = lock(&self.users);
        let mut open = users.get(user).into_iter().flatten();
        open.any(|watcher| watcher.overflow_cause() == Some(Overflow::Dismissed))
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut users = lock(&self.connected.users);
        if let Some(open) = users.get_mut(&self.user) {
            if let Some(at) = open.iter().position(|other| Arc::ptr_eq(other, &self.watcher)) {
                open.swap_remove(at);
            }
            if open.is_empty() {
                users.remove(&self.user);
            }
        }
        drop(users);
        self.connected.left.notify_waiters();
    }
}
