//! The result of a check.

use crate::redis::cluster::Node;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    Ok,
    Note,
    Warning,
    Fatal,
}

/// The result of one check.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The node of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server: Option<String>,
    pub(super) check: &'static str,
    pub(super) severity: Severity,
    pub(super) cause: String,
    /// The command that fixes the problem, or what to do. Programs read this field name, so it stays.
    pub(super) mend: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, cause: impl Into<String>) -> Finding {
        Finding { server: None, check, severity: Severity::Ok, cause: cause.into(), mend: None }
    }

    pub(super) fn new(
        check: &'static str,
        severity: Severity,
        cause: impl Into<String>,
        mend: impl Into<String>,
    ) -> Finding {
        Finding { server: None, check, severity, cause: cause.into(), mend: Some(mend.into()) }
    }

    /// The same result for one node of a cluster; its fix addresses that node.
    pub(super) fn at(self, node: &Node) -> Finding {
        let (host, port) =
            node.primary.addresses.first().and_then(|at| at.rsplit_once(':')).unwrap_or_default();
        let there = format!("redis-cli -h {host} -p {port} ");
        let mend = self.mend.map(|mend| mend.replace("redis-cli ", &there));
        Finding { server: Some(node.shown().to_owned()), mend, ..self }
    }
}
