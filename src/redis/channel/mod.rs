//! The channel on which the daemons of one prefix and server talk to each other.
//!
//! It is an ordinary PUBLISH channel ([`Names::daemons_channel`](crate::redis::Names::daemons_channel)). A message takes
//! its place in the event stream of the server: it arrives after the events of the commands that were sent before it. In
//! a cluster each node forwards it, so a daemon receives it once per node, and each message must be harmless when it is
//! repeated.
//!
//! Anybody who may publish there can forge a message, and a message can be lost. So a message may cause a question to
//! Redis, but it is never evidence that a user is online or offline. An action that must not be forged carries its own
//! proof. A daemon whose ACL user has no right to the channel works without it.

mod message;

pub use message::{Message, Received};

use crate::metrics::Metrics;
use std::sync::Arc;
use tokio::sync::broadcast;

/// How many received messages a reader may have waiting. A slower reader misses the oldest ones and learns how many.
const WAITING: usize = 1_024;

/// The daemon's end of the channel; clones share it.
#[derive(Clone)]
pub struct Channel {
    /// The daemon's name, the same at all servers.
    daemon: Arc<str>,
    received: broadcast::Sender<Message>,
    metrics: Arc<Metrics>,
}

impl Channel {
    /// The end of the daemon named `daemon`.
    pub fn new(daemon: &str, metrics: Arc<Metrics>) -> Channel {
        Channel { daemon: daemon.into(), received: broadcast::Sender::new(WAITING), metrics }
    }

    /// The daemon's name on the channel.
    pub(in crate::redis) fn daemon(&self) -> &str {
        &self.daemon
    }

    /// The messages of other daemons, as far as they are not about keys: those take their place in the event stream.
    pub fn subscribe(&self) -> broadcast::Receiver<Message> {
        self.received.subscribe()
    }

    /// The payloads that carry a message.
    pub(in crate::redis) fn payloads(&self, message: &Message) -> Vec<String> {
        message.encode(&self.daemon)
    }

    /// Reads a payload. `None` for messages that the daemon does not understand, and for its own, except those that take their
    /// place in the event stream.
    pub(in crate::redis) fn read(&self, payload: &[u8]) -> Option<Received> {
        let Some(received) = Message::decode(payload) else {
            self.metrics.channel_message("unknown");
            return None;
        };
        if received.from == *self.daemon {
            return Some(received).filter(|received| received.message.is_for_sender());
        }
        self.metrics.channel_message("received");
        Some(received)
    }

    /// Passes a message to all readers.
    pub(in crate::redis) fn pass_on(&self, message: Message) {
        // Without a reader nobody needs it.
        drop(self.received.send(message));
    }

    /// Counts a message that was published, or could not be.
    pub(in crate::redis) fn sent(&self, done: bool) {
        self.metrics.channel_message(if done { "sent" } else { "refused" });
    }

    /// Counts a message that was dropped because too many waited.
    pub fn dropped(&self) {
        self.metrics.channel_message("dropped");
    }
}
