//! The state of a socket.

use super::super::frames::FrameIo;
use super::super::reader::Reader;
use super::courier::CourierDoor;
use super::waiting::WaitingWatches;
use super::worker::Worker;
use crate::web::limits::connections::Place;
use crate::web::sessions::keeper::Hold;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

/// One open socket.
pub(super) struct Socket {
    pub(super) reader: Reader,
    pub(super) io: FrameIo,
    /// The session of the socket's user.
    pub(super) hold: Option<Hold>,
    /// Counted among the open sockets until it is dropped.
    pub(super) _place: Place,
    /// Watches that came before the first reconciliation.
    pub(super) waiting: WaitingWatches,
    /// Memory of the snapshot that is being sent, in bytes.
    pub(super) snapshot_bytes: usize,
    /// Pings since the last sign of life, and when that was.
    pub(super) unanswered: u32,
    pub(super) alive: Instant,
    /// A message that came while a write had to wait. Nothing more is read until then.
    pub(super) unread: Option<Message>,
    /// Writes to Redis for the client's messages.
    pub(super) worker: Option<Worker>,
    /// The door for couriers, if they can write to the connection.
    pub(super) door: Option<Arc<CourierDoor>>,
    /// The metrics count it among the watchers.
    pub(super) counted: bool,
}

impl Socket {
    pub(super) fn new(reader: Reader, mut io: FrameIo, hold: Option<Hold>, place: Place) -> Socket {
        io.count_unfinished(reader.watcher.clone());
        Socket {
            reader,
            io,
            hold,
            _place: place,
            waiting: WaitingWatches::default(),
            snapshot_bytes: 0,
            unanswered: 0,
            alive: Instant::now(),
            unread: None,
            worker: None,
            door: None,
            counted: false,
        }
    }
}
