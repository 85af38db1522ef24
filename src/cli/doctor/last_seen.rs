//! The needs of `--last-seen`: sorted sets whose scores only grow, and the rights to use them.

use super::finding::{Finding, Severity};
use crate::presence::KeyPattern;
use crate::redis::Names;
use crate::redis::cluster::Node;
use crate::redis::last_seen;

/// The rights.
const RIGHTS: &str =
    "redis-cli ACL SETUSER USER +zadd +zmscore +zrangebyscore +zrevrangebyscore +zremrangebyscore";

/// Asks a server. `None` if it cannot be reached, which other checks report.
pub async fn look_at(node: &Node, pattern: &KeyPattern) -> Option<Finding> {
    let refused = last_seen::check(node, &Names::new(pattern, node.target.db())).await.ok()?;
    Some(match refused {
        None => Finding::ok("last-seen", "--last-seen can be used"),
        Some(why) if why.starts_with("NOPERM") => {
            Finding::new("last-seen", Severity::Note, format!("--last-seen cannot be used: {why}"), RIGHTS)
        }
        Some(why) => {
            let cause = format!("--last-seen cannot be used, it needs Redis 6.2 or newer: {why}");
            Finding::new(
                "last-seen",
                Severity::Note,
                cause,
                "update Redis, or run the daemon without --last-seen",
            )
        }
    })
}
