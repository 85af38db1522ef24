//! One bell for all clients. It rings when something rare happens that each of them must look at: the state of Redis, the first
//! snapshot, new key files, the end of the daemon.
//!
//! An idle socket costs what its task holds, so it waits for one bell, and not for each of the causes.

use crate::hub::Hub;
use crate::web::access::auth::Gate;
use crate::web::shutdown::Shutdown;
use tokio::sync::watch;

/// See the module's head.
#[derive(Default)]
pub struct Bell(watch::Sender<()>);

impl Bell {
    /// Changes whenever the bell rings.
    pub(super) fn listen(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }

    /// Rings for each cause, until it is dropped.
    pub async fn ring(&self, hub: &Hub, gate: &Gate, shutdown: &Shutdown) {
        let (mut health, mut opened, mut keys) = (hub.health(), hub.opened(), gate.changed());
        let mut draining = false;
        // Something may have happened before.
        self.0.send_replace(());
        loop {
            tokio::select! {
                Ok(()) = health.changed() => {}
                Ok(()) = opened.changed() => {}
                Ok(()) = keys.changed() => {}
                () = shutdown.draining(), if !draining => draining = true,
            }
            self.0.send_replace(());
        }
    }
}
