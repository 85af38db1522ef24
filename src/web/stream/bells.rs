//! The rare events that every client waits for.

use crate::hub::Health;
use crate::web::app::App;
use crate::web::shutdown::Shutdown;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// The rare events that every client waits for. A client waits for them in one future that outlives a
/// delivery. To leave each list of waiters and to join it again would cost every delivery four locks that all
/// clients share.
pub(super) struct Bells {
    health: watch::Receiver<Health>,
    opened: watch::Receiver<bool>,
    keys: watch::Receiver<u64>,
    shutdown: Arc<Shutdown>,
    /// Of the client.
    number: u64,
    /// When the client came.
    joined: Instant,
}

/// The bell that rang.
pub(super) enum Rang {
    Health,
    Opened,
    Keys,
    Stop,
}

impl Bells {
    /// A change from now on rings. `number` is that of the client.
    pub(super) fn new(app: &App, number: u64) -> Bells {
        let (health, opened) = (app.hub.health(), app.hub.opened());
        let (keys, shutdown) = (app.gate.changed(), app.shutdown.clone());
        Bells { health, opened, keys, shutdown, number, joined: Instant::now() }
    }

    pub(super) async fn next(mut self) -> (Bells, Rang) {
        let rang = tokio::select! {
            Ok(()) = self.health.changed() => Rang::Health,
            Ok(()) = self.opened.changed() => Rang::Opened,
            Ok(()) = self.keys.changed() => Rang::Keys,
            () = self.shutdown.turn(self.number, self.joined) => Rang::Stop,
        };
        (self, rang)
    }
}
