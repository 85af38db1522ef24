//! Watches that wait for the daemon's first comparison with Redis: bounded per socket, and all sockets together.

use crate::error::Error;
use crate::protocol::ClientMessage;
use crate::web::app::App;
use serde_json::Value;
use std::collections::HashSet;
use tokio::sync::OwnedSemaphorePermit;

/// Watches of one socket that may wait.
const MESSAGES: usize = 64;
/// Bytes that a message or a name takes besides its text.
const OVERHEAD: usize = 64;

/// A watch, and its share of the memory for unanswered requests.
type Waiting = (Option<Value>, ClientMessage, OwnedSemaphorePermit);

/// See the module's head.
#[derive(Default)]
pub(super) struct WaitingWatches {
    watches: Vec<Waiting>,
    users: usize,
}

impl WaitingWatches {
    /// Keeps a watch. Errors: `not_ready` if this socket has too many, `busy` if all sockets together have.
    pub(super) fn push(&mut self, app: &App, id: Option<Value>, message: ClientMessage) -> Result<(), Error> {
        let users = match &message {
            ClientMessage::Watch { users: Some(users), .. }
            | ClientMessage::Watch { groups: Some(users), .. } => users.as_slice(),
            _ => &[],
        };
        let all = self.users + users.len();
        if self.watches.len() >= MESSAGES || all > app.limits.watches_per_socket {
            app.metrics.limited("waiting_watches");
            return Err(Error::NotReady);
        }
        let id_bytes = id.as_ref().map_or(0, |id| id.to_string().len());
        let bytes = users.iter().map(|user| user.len() + OVERHEAD).sum::<usize>() + id_bytes + OVERHEAD;
        let share = app.bodies.hold(bytes)?;
        self.users = all;
        self.watches.push((id, message, share));
        Ok(())
    }

    /// The client no longer wants these users. The watches are still answered, with the users that are left.
    pub(super) fn unwatch(&mut self, users: &[String]) {
        let gone: HashSet<&String> = users.iter().collect();
        for (_, watch, _) in &mut self.watches {
            if let ClientMessage::Watch { users: Some(users), .. } = watch {
                users.retain(|user| !gone.contains(user));
            }
        }
    }

    /// The client no longer wants these groups.
    pub(super) fn unwatch_groups(&mut self, groups: &[String]) {
        for (_, watch, _) in &mut self.watches {
            if let ClientMessage::Watch { groups: Some(wanted), .. } = watch {
                wanted.retain(|group| !groups.contains(group));
            }
        }
    }

    /// The client no longer wants everybody. The answer is then an empty snapshot.
    pub(super) fn unwatch_all(&mut self) {
        for (_, watch, _) in &mut self.watches {
            if matches!(watch, ClientMessage::Watch { users: None, all: true, .. }) {
                let users = Some(Vec::new());
                *watch = ClientMessage::Watch {
                    users,
                    all: false,
                    lossless: false,
                    replace: false,
                    groups: None,
                    count: false,
                };
            }
        }
    }

    /// All of them; none waits any more.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (Option<Value>, ClientMessage)> + use<> {
        self.users = 0;
        std::mem::take(&mut self.watches).into_iter().map(|(id, message, _)| (id, message))
    }
}
