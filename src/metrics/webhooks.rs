//! The metrics of webhooks.

use super::{CauseLabel, counter, family};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct UrlLabel {
    url: String,
}

/// See the module's head.
#[allow(missing_docs)]
pub struct WebhookMetrics {
    attempts: Family<CauseLabel, Counter>,
    waiting: Family<UrlLabel, Gauge>,
    refused: Family<UrlLabel, Gauge>,
    lag: Family<UrlLabel, Gauge>,
    pub delivered: Counter,
    pub trimmed: Counter,
}

fn gauges(r: &mut Registry, name: &str, help: &str) -> Family<UrlLabel, Gauge> {
    let gauges = Family::default();
    r.register(name, help, gauges.clone());
    gauges
}

impl WebhookMetrics {
    /// Registers all of them.
    pub(super) fn new(r: &mut Registry) -> WebhookMetrics {
        WebhookMetrics {
            attempts: family(r, "webhook_attempts", "Attempts to deliver a batch, by outcome"),
            waiting: gauges(
                r,
                "webhook_waiting",
                "Events that this daemon holds and has not delivered to a webhook yet",
            ),
            refused: gauges(
                r,
                "webhook_refused",
                "Events that wait because a webhook's receiver refused them",
            ),
            lag: gauges(
                r,
                "webhook_lag",
                "Entries of the stream that a webhook's receiver has not acknowledged",
            ),
            delivered: counter(r, "webhook_events", "Events delivered to webhooks"),
            trimmed: counter(
                r,
                "webhook_trimmed_events",
                "Events that the stream no longer had before they were delivered",
            ),
        }
    }

    /// Sets what waits for the webhooks at a URL, without its path. An unknown lag has no value.
    pub fn set(&self, url: &str, waiting: u64, refused: u64, lag: Option<u64>) {
        let label = UrlLabel { url: url.to_owned() };
        self.waiting.get_or_create(&label).set(waiting as i64);
        self.refused.get_or_create(&label).set(refused as i64);
        match lag {
            Some(lag) => drop(self.lag.get_or_create(&label).set(lag as i64)),
            None => drop(self.lag.remove(&label)),
        }
    }

    /// Counts an attempt.
    pub fn attempt(&self, outcome: &str) {
        self.attempts.get_or_create(&CauseLabel { cause: outcome.into() }).inc();
    }
}
