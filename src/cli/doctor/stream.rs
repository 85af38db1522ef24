//! The needs of `--stream`: rights on the stream and on the keys next to it.

use super::finding::{Finding, Severity};
use super::keys::quoted;
use crate::redis::cluster::Node;
use crate::redis::stream::{StreamNames, missing_rights};

/// The commands of a writer.
const RIGHTS: &str =
    "+eval +evalsha +xadd +xrange +type +exists +get +pttl +set +pexpire +del +sadd +srem +sismember +sscan";

/// Asks a server. `None` if it cannot be reached, which other checks report.
pub async fn look_at(node: &Node, names: &StreamNames) -> Option<Finding> {
    let missing = missing_rights(&node.target, names).await.ok()?;
    if missing.is_empty() {
        return Some(Finding::ok("stream", format!("the user may write the stream {}", names.stream())));
    }
    let keys = names.globs().map(|glob| quoted(&format!("~{glob}"))).join(" ");
    Some(Finding::new(
        "stream",
        Severity::Warning,
        format!(
            "the daemon cannot write the stream {}: the user lacks {}",
            names.stream(),
            missing.join(" ")
        ),
        format!("redis-cli ACL SETUSER USER {keys} {RIGHTS}"),
    ))
}
