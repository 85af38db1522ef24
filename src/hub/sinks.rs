//! How the sinks of transitions are, for stats.

use super::Hub;
use crate::lock::lock;

/// The state of the stream of transitions at this daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamState {
    /// The stream's key.
    pub name: String,
    /// This daemon writes it.
    pub writes: bool,
    /// Transitions that are not written yet; `None` if another daemon writes, or if this one has not begun.
    pub lag: Option<u64>,
    /// Entries that this daemon has added.
    pub written: u64,
    /// Entries that it dropped, since their users were in that state already.
    pub dropped: u64,
    /// Why the last command failed, until one succeeds.
    pub error: Option<String>,
}

/// The state of a webhook at this daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebhookState {
    /// The URL without path and query.
    pub url: String,
    /// This daemon sends it.
    pub sends: bool,
    /// Events that the daemon holds and has not delivered yet.
    pub waiting: usize,
    /// How many of these wait because the receiver refused them.
    pub refused: usize,
    /// Entries of the stream that the receiver has not acknowledged; `None` if it is not known, or if another daemon sends.
    pub lag: Option<u64>,
    /// Events that this daemon has delivered.
    pub delivered: u64,
    /// Why the last attempt failed that did, until one succeeds and nothing waits that the receiver refused.
    pub error: Option<String>,
}

impl WebhookState {
    /// This daemon no longer sends.
    pub fn end_term(&mut self) {
        (self.sends, self.waiting, self.refused, self.lag) = (false, 0, 0, None);
    }
}

impl Hub {
    /// Publishes how the webhook with this URL is.
    pub fn set_webhook(&self, url: &str, state: WebhookState) {
        lock(&self.board.webhooks).insert(url.to_owned(), state);
    }

    /// How each webhook was when that was last published.
    pub fn webhooks(&self) -> Vec<WebhookState> {
        lock(&self.board.webhooks).values().cloned().collect()
    }

    /// Publishes how the stream is.
    pub fn set_stream(&self, state: StreamState) {
        *lock(&self.board.stream) = Some(state);
    }

    /// How the stream was when that was last published; `None` if there is none.
    pub fn stream(&self) -> Option<StreamState> {
        lock(&self.board.stream).clone()
    }
}
