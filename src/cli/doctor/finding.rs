//! The result of a check.

use crate::cli::rights::set_user;
use crate::redis::cluster::Node;
use crate::redis::target::Target;
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

    /// The same result, with commands that reach the server and name its user. An administrator changes rights, not the user.
    pub(super) fn reaching(self, target: &Target) -> Finding {
        let there = target.redis_cli();
        let fix = self.mend.map(|fix| {
            fix.replace("redis-cli ACL SETUSER USER ", &set_user(target))
                .replace("redis-cli CONFIG ", &format!("{there} CONFIG "))
                .replace("redis-cli EXPIRE ", &format!("{there} EXPIRE "))
                .replace("redis-cli DEL ", &format!("{there} DEL "))
        });
        let fix = match target.host_and_port() {
            Some(place) => fix.map(|fix| fix.replace("HOST:PORT", &place)),
            None => fix,
        };
        Finding { mend: fix, ..self }
    }

    /// The same result for one node of a cluster.
    pub(super) fn at(self, node: &Node) -> Finding {
        Finding { server: Some(node.shown().to_owned()), ..self }
    }
}
