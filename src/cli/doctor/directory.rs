//! What statuses and groups need: client tracking, and the rights to read them.

use super::finding::{Finding, Severity};
use crate::config::{DEFAULT_GROUP_PREFIX, DEFAULT_STATUS_PREFIX};
use crate::presence::KeyPattern;
use crate::redis::Names;
use crate::redis::cluster::Node;
use crate::redis::directory::{self, DirectoryNames};

/// The rights, with the prefixes that the daemon has by default.
const RIGHTS: &str = "redis-cli ACL SETUSER USER ~presence-status:* ~presence-group:* +client|tracking +getrange +scard +sscan";

/// Asks a server. `None` if it cannot be reached, which other checks report.
pub async fn look_at(node: &Node, pattern: &KeyPattern) -> Option<Finding> {
    let names = DirectoryNames { status: DEFAULT_STATUS_PREFIX.into(), group: DEFAULT_GROUP_PREFIX.into() };
    let channels = Names::new(pattern, node.target.db());
    let refused = directory::check(&node.target, &names, &channels).await.ok()?;
    Some(match refused {
        None => Finding::ok("directory", "statuses and groups can be followed"),
        Some(why) => {
            Finding::new("directory", Severity::Note, format!("statuses and groups are off: {why}"), RIGHTS)
        }
    })
}
