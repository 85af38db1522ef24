//! Counters and gauges, by name, for `/metrics` and `/v1/stats`.

mod by_cause;
mod http;
mod lag;
mod process;
mod stream;
mod webhooks;

pub use http::{HttpMetrics, RouteMetrics};
pub use lag::{Lag, Percentiles};

use by_cause::ByCause;
use process::Process;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
pub use stream::StreamMetrics;
pub use webhooks::WebhookMetrics;

/// One label and its value.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
#[allow(missing_docs)]
pub struct CauseLabel {
    pub cause: String,
}

/// The label of transitions.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
#[allow(missing_docs)]
pub struct To {
    pub to: &'static str,
}

/// The label of servers.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RenewalsLabel {
    renewals: &'static str,
}

/// The label of leases.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

/// The labels of the program.
const BUILD: [(&str, &str); 4] = [
    ("version", env!("CARGO_PKG_VERSION")),
    ("features", if cfg!(feature = "otel") { "otel" } else { "" }),
    ("os", std::env::consts::OS),
    ("arch", std::env::consts::ARCH),
];

/// Handles of all metrics; the names are in [`Metrics::new`].
#[allow(missing_docs)]
pub struct Metrics {
    registry: Registry,
    pub users_online: Gauge,
    pub sessions: Gauge,
    /// Users that clients watch or have just asked for, where the daemon keeps no others.
    pub kept_users: Gauge,
    /// Requests and watches whose states were not all known in time.
    pub late_states: Counter,
    pub sockets: Gauge,
    pub watchers: Gauge,
    pub event_streams: Gauge,
    pub ready: Gauge,
    pub immortal_keys: Gauge,
    pub swept_servers: Gauge,
    servers: Family<RenewalsLabel, Gauge>,
    leases: Family<StateLabel, Gauge>,
    pub went_online: Counter,
    pub went_offline: Counter,
    pub events: Counter,
    pub probes: Counter,
    pub lookups: Counter,
    pub overtaken: Counter,
    /// Changes that the whole-user rule held back and that were reported early, because too many waited.
    pub early_reports: Counter,
    pub invalid_keys: Counter,
    pub heartbeats: Counter,
    /// Heartbeats of sockets that failed and were sent again.
    pub repeated_heartbeats: Counter,
    repairs: ByCause,
    gaps: ByCause,
    limits_reached: Family<CauseLabel, Counter>,
    reloads: Family<CauseLabel, Counter>,
    channel_messages: Family<CauseLabel, Counter>,
    digests: Family<CauseLabel, Counter>,
    pub conflated: Counter,
    pub too_slow: Counter,
    pub crowded: Counter,
    panics: Counter,
    pub audit_failures: Counter,
    pub statuses: Gauge,
    pub groups: Gauge,
    pub directory_reads: Counter,
    directory_faults: Family<CauseLabel, Counter>,
    /// Users whose time waits to be written.
    pub last_seen_waiting: Gauge,
    pub last_seen_written: Counter,
    pub last_seen_failed: Counter,
    pub last_seen_dropped: Counter,
    /// The reader of the history was too slow, and took all remembered users instead.
    pub last_seen_gaps: Counter,
    pub last_seen_removed: Counter,
    pub last_seen_unread: Counter,
    pub stream: StreamMetrics,
    pub webhooks: WebhookMetrics,
    pub http: HttpMetrics,
    pub mailbox_bytes: Gauge,
    pub replay_log_bytes: Gauge,
    pub request_errors: Family<CauseLabel, Counter>,
    pub detection_lag: Lag,
    pub event_lag: Lag,
}

/// The counters of transitions to online and to offline.
fn transitions(registry: &mut Registry) -> [Counter; 2] {
    let transitions = Family::<To, Counter>::default();
    registry.register("transitions", "Users who went online or offline", transitions.clone());
    // Two statements, because the guard of the first call would block the second call forever.
    let online = transitions.get_or_create(&To { to: "online" }).clone();
    let offline = transitions.get_or_create(&To { to: "offline" }).clone();
    [online, offline]
}

/// The gauge of servers by who holds the lease.
fn leases(registry: &mut Registry) -> Family<StateLabel, Gauge> {
    let leases = Family::<StateLabel, Gauge>::default();
    registry.register("leases", "Redis servers, by who holds the lease there", leases.clone());
    leases
}

/// The gauge of servers by source of renewals.
fn servers(registry: &mut Registry) -> Family<RenewalsLabel, Gauge> {
    let servers = Family::<RenewalsLabel, Gauge>::default();
    registry.register(
        "servers",
        "Redis servers, by how the daemon learns of renewals there",
        servers.clone(),
    );
    servers
}

/// A histogram in seconds.
fn lag(registry: &mut Registry, name: &str, help: &str) -> Lag {
    let lag = Lag::new();
    registry.register_with_unit(name, help, Unit::Seconds, lag.histogram());
    lag
}

impl Metrics {
    /// Registers everything.
    pub fn new() -> Metrics {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::default()));
        let r = registry.sub_registry_with_prefix("keybeat");
        r.register("build", "The program", Info::new(BUILD));
        let [went_online, went_offline] = transitions(r);
        let detection_lag = lag(r, "detection_lag", "Time from the end of a key's TTL to the transition");
        let event_lag = lag(r, "event_lag", "Time from the SET of the daemon's canary key to its event");
        Metrics {
            users_online: gauge(r, "users_online", "Users with at least one live key"),
            sessions: gauge(r, "sessions", "Live presence keys"),
            kept_users: gauge(
                r,
                "kept_users",
                "Users that clients watch or have just asked for, with --hold watched",
            ),
            late_states: counter(
                r,
                "late_states",
                "Requests and watches whose states were not all known within a second, with --hold watched",
            ),
            sockets: gauge(r, "sockets", "Open WebSockets"),
            watchers: gauge(r, "watchers", "Open WebSockets that watch at least one user"),
            event_streams: gauge(r, "event_streams", "Open streams of Server-Sent Events"),
            ready: gauge(
                r,
                "ready",
                "1 while every Redis server is subscribed, reconciled and verified, and the daemon does not drain",
            ),
            immortal_keys: gauge(
                r,
                "keys_without_ttl",
                "Live presence keys without a TTL, online until deleted",
            ),
            swept_servers: gauge(
                r,
                "swept_servers",
                "Redis servers that neither send all events nor allow client tracking, so that the daemon polls their keys with SCAN",
            ),
            servers: servers(r),
            leases: leases(r),
            went_online,
            went_offline,
            events: counter(r, "events", "Keyspace events received"),
            probes: counter(r, "probes", "Keys queried because their deadline had passed"),
            lookups: counter(r, "lookups", "Keys queried because they were new, or after a gap"),
            overtaken: counter(
                r,
                "overtaken_answers",
                "Answers that were discarded because an event may have overtaken them",
            ),
            early_reports: counter(r, "early_reports", "Changes reported early, because too many waited"),
            invalid_keys: counter(r, "invalid_keys", "Events of keys whose name is not a valid user name"),
            heartbeats: counter(r, "heartbeats", "Heartbeats that the daemon has written"),
            repeated_heartbeats: counter(
                r,
                "repeated_heartbeats",
                "Heartbeats of sockets that were not written and were sent again",
            ),
            repairs: ByCause::new(family(
                r,
                "repairs",
                "Keys whose change was found only by reconciling, by the cause of the gap",
            )),
            gaps: ByCause::new(family(r, "gaps", "Periods in which events may have been missed, by cause")),
            conflated: counter(r, "conflated_changes", "Pending changes of slow sockets that cancelled out"),
            too_slow: counter(r, "too_slow_sockets", "Lossless sockets closed because they fell behind"),
            limits_reached: family(r, "limits_reached", "Refusals because a limit was reached, by limit"),
            reloads: family(r, "reloads", "Reloads of keys and certificates, by outcome"),
            channel_messages: family(r, "channel_messages", "Messages between daemons, by outcome"),
            digests: family(
                r,
                "digests",
                "Comparisons of this daemon's keys with another daemon's, by result",
            ),
            crowded: counter(
                r,
                "crowded_sockets",
                "Sockets, streams and answers ended because all queues together exceeded their memory limit",
            ),
            panics: counter(r, "panics", "Panics that closed one connection"),
            audit_failures: counter(r, "audit_failures", "Lines that the audit file did not take"),
            statuses: gauge(r, "statuses", "Users with a status"),
            groups: gauge(r, "groups", "Groups that clients watch"),
            directory_reads: counter(r, "directory_reads", "Reads of a status or group"),
            directory_faults: family(
                r,
                "directory_faults",
                "Statuses, groups and members that the daemon did not use, by cause",
            ),
            last_seen_waiting: gauge(
                r,
                "last_seen_waiting",
                "Users whose last heartbeat this daemon has yet to write to Redis",
            ),
            last_seen_written: counter(r, "last_seen_written", "Last heartbeats of users written to Redis"),
            last_seen_failed: counter(
                r,
                "last_seen_failed_writes",
                "Writes of last heartbeats that Redis did not confirm and that are repeated",
            ),
            last_seen_dropped: counter(
                r,
                "last_seen_dropped",
                "Last heartbeats dropped because too many waited, and taken from memory later",
            ),
            last_seen_gaps: counter(
                r,
                "last_seen_gaps",
                "Times that the writer of last heartbeats fell behind and took all remembered users",
            ),
            last_seen_removed: counter(
                r,
                "last_seen_removed",
                "Last heartbeats removed from Redis because they were older than --last-seen",
            ),
            last_seen_unread: counter(
                r,
                "last_seen_unread",
                "Users whose last heartbeat was reported as null, because Redis did not return it in time",
            ),
            stream: StreamMetrics::new(r),
            webhooks: WebhookMetrics::new(r),
            http: HttpMetrics::new(r),
            mailbox_bytes: gauge(r, "mailbox_bytes", "Memory of what waits for slow clients, in bytes"),
            replay_log_bytes: gauge(
                r,
                "replay_log_bytes",
                "Memory of the latest transitions, which all clients that watch everybody read, in bytes",
            ),
            request_errors: family(r, "request_errors", "Refused requests and messages, by code"),
            detection_lag,
            event_lag,
            registry,
        }
    }

    /// The text of `/metrics`.
    pub fn render(&self) -> String {
        self.panics.inner().store(crate::panics::count(), Ordering::Relaxed);
        let mut text = String::new();
        if let Err(why) = prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            tracing::error!("cannot encode the metrics: {why}");
        }
        text
    }

    /// Sets how many servers' leases are in this state.
    pub fn set_leases(&self, state: &'static str, count: usize) {
        self.leases.get_or_create(&StateLabel { state }).set(count as i64);
    }

    /// Sets at how many servers the daemon learns of renewals in this way.
    pub fn set_servers(&self, renewals: &'static str, count: usize) {
        self.servers.get_or_create(&RenewalsLabel { renewals }).set(count as i64);
    }

    /// Counts a gap.
    pub fn gap(&self, cause: &'static str) {
        self.gaps.inc(cause);
    }

    /// The number of gaps, by cause.
    pub fn gaps_by_cause(&self) -> BTreeMap<&'static str, u64> {
        self.gaps.counts()
    }

    /// Counts a key whose change was found only by reconciling after a gap of this cause.
    pub fn repair(&self, cause: &'static str) {
        self.repairs.inc(cause);
    }

    /// The number of repaired keys, by the cause of the gap.
    pub fn repairs_by_cause(&self) -> BTreeMap<&'static str, u64> {
        self.repairs.counts()
    }

    /// Counts a refusal because a limit was reached.
    pub fn limited(&self, limit: &str) {
        self.limits_reached.get_or_create(&CauseLabel { cause: limit.into() }).inc();
    }

    /// Counts statuses, groups or members that are not used.
    pub fn directory_fault(&self, cause: &str, count: usize) {
        self.directory_faults.get_or_create(&CauseLabel { cause: cause.into() }).inc_by(count as u64);
    }

    /// Counts a reload of keys and certificates.
    pub fn reloaded(&self, done: bool) {
        let outcome = if done { "done" } else { "failed" };
        self.reloads.get_or_create(&CauseLabel { cause: outcome.into() }).inc();
    }

    /// Counts a message between daemons.
    pub fn channel_message(&self, outcome: &str) {
        self.channel_messages.get_or_create(&CauseLabel { cause: outcome.into() }).inc();
    }

    /// Counts a comparison of digests.
    pub fn digest(&self, result: &str) {
        self.digests.get_or_create(&CauseLabel { cause: result.into() }).inc();
    }

    /// Counts a refused request.
    pub fn refused(&self, code: &str) {
        self.request_errors.get_or_create(&CauseLabel { cause: code.into() }).inc();
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let metric = Gauge::default();
    registry.register(name, help, metric.clone());
    metric
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let metric = Counter::default();
    registry.register(name, help, metric.clone());
    metric
}

fn family(registry: &mut Registry, name: &str, help: &str) -> Family<CauseLabel, Counter> {
    let metric = Family::<CauseLabel, Counter>::default();
    registry.register(name, help, metric.clone());
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_text_has_names_and_units() {
        let metrics = Metrics::new();
        metrics.gap("stalled");
        assert_eq!(metrics.gaps_by_cause(), BTreeMap::from([("stalled", 1)]));
        metrics.detection_lag.observe_ms(1.5);
        let text = metrics.render();
        assert!(text.contains("keybeat_gaps_total{cause=\"stalled\"} 1"), "{text}");
        assert!(text.contains("keybeat_detection_lag_seconds_bucket{le=\"0.002\"} 1"), "{text}");
    }
}
