//! Counters by cause, and the causes that occurred.

use super::CauseLabel;
use crate::lock::lock;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// See the module's head.
pub(super) struct ByCause {
    counters: Family<CauseLabel, Counter>,
    causes: Mutex<BTreeSet<&'static str>>,
}

impl ByCause {
    pub(super) fn new(counters: Family<CauseLabel, Counter>) -> ByCause {
        ByCause { counters, causes: Mutex::default() }
    }

    pub(super) fn inc(&self, cause: &'static str) {
        self.counters.get_or_create(&CauseLabel { cause: cause.into() }).inc();
        lock(&self.causes).insert(cause);
    }

    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let causes = lock(&self.causes);
        let count = |cause: &&'static str| {
            (*cause, self.counters.get_or_create(&CauseLabel { cause: (*cause).into() }).get())
        };
        causes.iter().map(count).collect()
    }
}
