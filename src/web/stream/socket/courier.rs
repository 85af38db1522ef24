//! Couriers of the hub at a socket: they send transitions while the socket's task waits.

use super::super::frame_queue::FrameQueue;
use super::super::line::Line;
use crate::hub::{Direct, Watcher};
use crate::lock::lock;
use crate::web::access::auth::Pass;
use crate::web::app::App;
use std::sync::{Arc, Mutex};

/// Bytes of one round; the socket's task goes on with more.
const ROUND_BYTES: usize = 32 * 1024;

/// A socket, as a courier sees it.
pub(super) struct CourierDoor {
    app: Arc<App>,
    line: Arc<Line>,
    /// The socket's current pass.
    pass: Mutex<Pass>,
}

impl CourierDoor {
    pub(super) fn new(app: Arc<App>, line: Arc<Line>, pass: Pass) -> Arc<CourierDoor> {
        Arc::new(CourierDoor { app, line, pass: Mutex::new(pass) })
    }

    /// The socket has a new token.
    pub(super) fn renew(&self, pass: Pass) {
        *lock(&self.pass) = pass;
    }

    /// May the client be sent transitions, and nothing else before them? The task finds out why not.
    fn is_open(&self, reader: &Watcher) -> bool {
        !self.app.shutdown.is_stopping()
            && !reader.overflowed()
            && !reader.owes_groups()
            && self.app.gate.still_good(&lock(&self.pass)).is_ok()
    }
}

impl Direct for CourierDoor {
    fn deliver(&self, reader: &Watcher) -> bool {
        let Some(turn) = self.line.turn() else { return false };
        if !self.is_open(reader) {
            return false;
        }
        let mut frames = FrameQueue::default();
        frames.put(reader.messages().into_iter().map(|message| message.text));
        let is_all = frames.bytes() < ROUND_BYTES;
        turn.send(frames) && is_all
    }
}
