//! The metrics of webhooks.

use super::{CauseLabel, counter, family};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// See the module's head.
#[allow(missing_docs)]
pub struct WebhookMetrics {
    attempts: Family<CauseLabel, Counter>,
    pub delivered: Counter,
    pub trimmed: Counter,
}

impl WebhookMetrics {
    /// Registers all of them.
    pub(super) fn new(r: &mut Registry) -> WebhookMetrics {
        WebhookMetrics {
            attempts: family(r, "webhook_attempts", "Attempts to deliver a batch, by outcome"),
            delivered: counter(r, "webhook_events", "Events delivered to webhooks"),
            trimmed: counter(
                r,
                "webhook_trimmed_events",
                "Events that the stream no longer had before they were delivered",
            ),
        }
    }

    /// Counts an attempt.
    pub fn attempt(&self, outcome: &str) {
        self.attempts.get_or_create(&CauseLabel { cause: outcome.into() }).inc();
    }
}
