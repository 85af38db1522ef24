//! The metrics of the driver and of all detectors.

use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::presence::{Cause, Change, Counts, LeaseState, Reason, Renewals, ServerState};
use std::sync::Arc;

/// See the module's head.
pub(super) struct Meters {
    pub(super) metrics: Arc<Metrics>,
    /// The part of the tracker's counts that the metrics contain.
    counted: Counts,
}

impl Meters {
    pub(super) fn new(metrics: Arc<Metrics>) -> Meters {
        Meters { metrics, counted: Counts::default() }
    }

    /// Counts a transition that `change` caused. `now_ms` is the time on the clock of the deadlines.
    pub(super) fn count(&self, change: &Change, online: bool, cause: Cause, now_ms: f64) {
        if change.reason == Reason::Reconciled {
            self.metrics.repair(cause.label());
        }
        let counter = if online { &self.metrics.went_online } else { &self.metrics.went_offline };
        counter.inc();
        if let Some(deadline) = change.deadline {
            self.metrics.detection_lag.observe_ms(now_ms - deadline.as_ms() as f64);
        }
    }

    /// Publishes the tracker's counts and the hub's.
    pub(super) fn publish(&mut self, servers: &[ServerState], counts: Counts, hub: &Hub) {
        let (metrics, before) = (&self.metrics, std::mem::replace(&mut self.counted, counts));
        metrics.probes.inc_by(counts.probes - before.probes);
        metrics.lookups.inc_by(counts.lookups - before.lookups);
        metrics.overtaken.inc_by(counts.overtaken - before.overtaken);
        metrics.early_reports.inc_by(counts.early - before.early);
        metrics.invalid_keys.inc_by(counts.invalid - before.invalid);
        metrics.immortal_keys.set(counts.immortal as i64);
        metrics.swept_servers.set(servers.iter().filter(|server| server.polled).count() as i64);
        for renewals in Renewals::ALL {
            let count = servers.iter().filter(|server| server.renewals == renewals).count();
            metrics.set_servers(renewals.label(), count);
        }
        for state in LeaseState::ALL {
            metrics.set_leases(state.label(), servers.iter().filter(|server| server.lease == state).count());
        }
        let (users, sessions) = hub.count();
        metrics.users_online.set(users as i64);
        metrics.sessions.set(sessions as i64);
        metrics.kept_users.set(hub.kept_users() as i64);
        metrics.mailbox_bytes.set(hub.mailbox_bytes() as i64);
        metrics.replay_log_bytes.set(hub.log_bytes() as i64);
    }
}
