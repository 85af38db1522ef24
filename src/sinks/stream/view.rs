//! The hub as the writer of a stream sees it.

use crate::hub::{Hub, PageCursor};
use crate::presence::{Name, Presence, StreamView, Transition, bucket_of};
use tokio::runtime::{Handle, RuntimeFlavor};

/// See the module's head.
pub struct HubView<'a>(pub &'a Hub);

impl StreamView for HubView<'_> {
    fn seq(&self) -> u64 {
        self.0.seq()
    }

    fn transitions(&self, after: u64, most: usize) -> Option<Vec<Transition>> {
        let mut cursor = self.0.cursor(after).ok()?;
        let read = self.0.read_history(&mut cursor, most).ok()?;
        Some(read.iter().map(|entry| entry.transition.clone()).collect())
    }

    fn online(&self, wanted: &dyn Fn(usize) -> bool) -> Vec<Name> {
        let wants = |user: &str, online: bool| online && wanted(bucket_of(user));
        let read = || self.0.page(PageCursor::default(), usize::MAX, wants).0;
        let users = match Handle::try_current().map(|handle| handle.runtime_flavor()) {
            // With millions of users it takes longer than other tasks should wait.
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(read),
            _ => read(),
        };
        users.into_iter().map(|(user, _)| user).collect()
    }

    fn presence(&self, user: &str) -> Presence {
        self.0.get(user)
    }

    fn is_current(&self) -> bool {
        self.0.health().borrow().up
    }
}
