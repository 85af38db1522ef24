//! The metrics of the stream of transitions.

use super::{CauseLabel, counter, family, gauge};
use crate::presence::StreamCounts;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// See the module's head.
#[allow(missing_docs)]
pub struct StreamMetrics {
    entries: Family<CauseLabel, Counter>,
    comparisons: Family<CauseLabel, Counter>,
    rebuilt_buckets: Counter,
    pub errors: Counter,
    pub writer: Gauge,
    pub lag: Gauge,
}

impl StreamMetrics {
    /// Registers all of them.
    pub(super) fn new(r: &mut Registry) -> StreamMetrics {
        StreamMetrics {
            entries: family(r, "stream_entries", "Entries of the stream, by outcome"),
            comparisons: family(
                r,
                "stream_comparisons",
                "Comparisons of all users with those whom the stream says are online, by cause",
            ),
            rebuilt_buckets: counter(
                r,
                "stream_rebuilt_buckets",
                "Parts of the set of users online next to the stream that were lost and written again",
            ),
            errors: counter(r, "stream_errors", "Commands for the stream that failed"),
            writer: gauge(r, "stream_writer", "1 while this daemon writes the stream"),
            lag: gauge(r, "stream_lag", "Transitions that this daemon has not written into the stream yet"),
        }
    }

    /// Adds what the writer has done since `before`.
    pub fn add(&self, before: StreamCounts, now: StreamCounts) {
        let add = |family: &Family<CauseLabel, Counter>, cause: &str, before: u64, now: u64| {
            if now > before {
                family.get_or_create(&CauseLabel { cause: cause.into() }).inc_by(now - before);
            }
        };
        add(&self.entries, "written", before.written, now.written);
        add(&self.entries, "dropped", before.repeated, now.repeated);
        add(&self.comparisons, "takeover", before.takeovers, now.takeovers);
        add(&self.comparisons, "behind", before.behind, now.behind);
        add(&self.comparisons, "lost_writes", before.lost_writes, now.lost_writes);
        add(&self.comparisons, "deleted", before.deleted, now.deleted);
        self.rebuilt_buckets.inc_by(now.rebuilt - before.rebuilt);
    }
}
