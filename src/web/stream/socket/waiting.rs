//! Watches that wait for the daemon's first comparison with Redis: bounded per socket, and all sockets together.

use crate::error::Error;
use crate::protocol::ClientMessage;
use crate::web::app::App;
use serde_json::Value;
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
            ClientMessage::Watch { users: Some(users), .. } => users.as_slice(),
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

    /// All of them; none waits any more.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (Option<Value>, ClientMessage)> + use<> {
        self.users = 0;
        std::mem::take(&mut self.watches).into_iter().map(|(id, message, _)| (id, message))
    }
}
