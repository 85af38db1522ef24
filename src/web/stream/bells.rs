//! The rare events that every client waits for.

use crate::hub::Health;
use crate::web::app::App;
use crate::web::shutdown::Shutdown;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// The rare events that every client waits for, all with one bell. A client waits for it in one future that outlives a
/// delivery. To leave the list of waiters and to join it again would cost every delivery a lock that all clients share.
pub(super) struct Bells {
    bell: watch::Receiver<()>,
    health: watch::Receiver<Health>,
    opened: watch::Receiver<bool>,
    keys: watch::Receiver<u64>,
    shutdown: Arc<Shutdown>,
    /// Of the client.
    number: u64,
    /// When the client came.
    joined: Instant,
}

/// The event that came.
pub(super) enum Rang {
    Health,
    Opened,
    Keys,
    Stop,
}

impl Bells {
    /// A change from now on rings. `number` is that of the client.
    pub(super) fn new(app: &App, number: u64) -> Bells {
        Bells {
            bell: app.bell.listen(),
            health: app.hub.health(),
            opened: app.hub.opened(),
            keys: app.gate.changed(),
            shutdown: app.shutdown.clone(),
            number,
            joined: Instant::now(),
        }
    }

    pub(super) async fn next(mut self) -> (Bells, Rang) {
        loop {
            if let Some(rang) = self.rang() {
                return (self, rang);
            }
            if !self.shutdown.is_draining() {
                self.wait().await;
                continue;
            }
            // In a box of its own: a client waits for its turn during a drain only.
            let turn = Box::pin(self.shutdown.clone().turn(self.number, self.joined));
            tokio::select! {
                () = turn => return (self, Rang::Stop),
                () = self.wait() => {}
            }
        }
    }

    async fn wait(&mut self) {
        if self.bell.changed().await.is_err() {
            // Nobody rings any longer, so the daemon has ended.
            std::future::pending::<()>().await;
        }
    }

    fn rang(&mut self) -> Option<Rang> {
        if is_changed(&mut self.health) {
            Some(Rang::Health)
        } else if is_changed(&mut self.opened) {
            Some(Rang::Opened)
        } else {
            is_changed(&mut self.keys).then_some(Rang::Keys)
        }
    }
}

fn is_changed<T>(receiver: &mut watch::Receiver<T>) -> bool {
    let changed = receiver.has_changed().unwrap_or(false);
    if changed {
        receiver.mark_unchanged();
    }
    changed
}
