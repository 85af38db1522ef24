//! The needs of `--stream` and `--webhook`: rights on the stream and on the keys next to it.

use super::finding::{Finding, Severity};
use crate::cli::rights::quoted;
use crate::redis::cluster::Node;
use crate::redis::stream::{LAG_RIGHT, StreamNames, missing_rights};

/// The commands of a writer.
const RIGHTS: &str =
    "+eval +evalsha +xadd +xrange +type +exists +get +pttl +set +pexpire +del +sadd +srem +sismember +sscan";
/// The commands that webhooks need too.
const OF_WEBHOOKS: &str = "'+xgroup|create' +xreadgroup +xack '+xinfo|groups'";

/// Asks a server. `None` if it cannot be reached, which other checks report.
pub async fn look_at(node: &Node, names: &StreamNames, webhooks: bool) -> Option<Finding> {
    let missing = missing_rights(&node.target, names, webhooks).await.ok()?;
    let use_it = if webhooks { "write the stream and send it to webhooks" } else { "write the stream" };
    if missing.is_empty() {
        return Some(Finding::ok("stream", format!("the user may {use_it}: {}", names.stream())));
    }
    let (severity, cause) = if missing == [LAG_RIGHT] {
        let cause = format!(
            "the user may {use_it} ({}), but lacks {LAG_RIGHT}: the lag of webhooks is unknown",
            names.stream()
        );
        (Severity::Note, cause)
    } else {
        let missing = missing.join(" ");
        let cause = format!("the daemon cannot {use_it} ({}): the user lacks {missing}", names.stream());
        (Severity::Warning, cause)
    };
    let rights = if webhooks { format!("{RIGHTS} {OF_WEBHOOKS}") } else { RIGHTS.to_owned() };
    let keys = names.globs().map(|glob| quoted(&format!("~{glob}"))).join(" ");
    Some(Finding::new("stream", severity, cause, format!("redis-cli ACL SETUSER USER {keys} {rights}")))
}
