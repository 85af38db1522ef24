//! The state of a socket.

use super::super::frames::FrameIo;
use super::super::reader::Reader;
use super::waiting::WaitingWatches;
use super::worker::Worker;
use crate::web::access::token_watch::Permit;
use crate::web::app::App;
use crate::web::limits::connections::Place;
use crate::web::sessions::keeper::Hold;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

/// One open socket.
pub(super) struct Socket {
    pub(super) reader: Reader,
    pub(super) io: FrameIo,
    /// The session that the socket keeps online.
    pub(super) hold: Option<Hold>,
    /// Counted among the open sockets until it is dropped.
    pub(super) _place: Place,
    /// Watches that came before the first reconciliation.
    pub(super) waiting: WaitingWatches,
    /// Pings since the last sign of life, and when that was.
    pub(super) unanswered: u32,
    pub(super) alive: Instant,
    /// A message that came while a write had to wait. Nothing more is read until then.
    pub(super) unread: Option<Message>,
    /// Writes to Redis for the client's messages.
    pub(super) worker: Option<Worker>,
    /// The metrics count it among the watchers.
    pub(super) counted: bool,
}

impl Socket {
    pub(super) fn new(
        app: Arc<App>,
        io: FrameIo,
        hold: Option<Hold>,
        permit: Permit,
        place: Place,
    ) -> Socket {
        let speaks = hold.as_ref().map(|hold| hold.key().user());
        Socket {
            reader: Reader::new(app, place.address(), permit, speaks),
            io,
            hold,
            _place: place,
            waiting: WaitingWatches::default(),
            unanswered: 0,
            alive: Instant::now(),
            unread: None,
            worker: None,
            counted: false,
        }
    }
}
