//! The rights that a stream needs, for doctor.

use super::names::StreamNames;
use crate::redis::resp::reply::RedisReply;
use crate::redis::sentinel;
use crate::redis::target::Target;
use anyhow::Result;

/// The group of doctor's trials.
const GROUP: &str = "doctor";

/// The right that only the lag of webhooks needs.
pub const LAG_RIGHT: &str = "+xinfo|groups";

/// The rights that the user lacks for the stream, and for `webhooks` too, as an ACL names them. Tries each command with a key of its own
/// next to the stream and deletes it.
///
/// # Errors
/// The server cannot be reached.
pub async fn missing_rights(
    target: &Target,
    names: &StreamNames,
    webhooks: bool,
) -> Result<Vec<&'static str>> {
    let (_, client) = sentinel::connect(target, "keybeat-doctor").await?;
    let (stream, own) = (names.stream(), names.doctor());
    let of_webhooks: [(&'static str, &[&str]); 4] = [
        ("+xgroup|create", &["XGROUP", "CREATE", &own, GROUP, "0"]),
        ("+xreadgroup", &["XREADGROUP", "GROUP", GROUP, GROUP, "COUNT", "1", "STREAMS", &own, ">"]),
        ("+xack", &["XACK", &own, GROUP, "0-1"]),
        (LAG_RIGHT, &["XINFO", "GROUPS", &own]),
    ];
    let last: [(&'static str, &[&str]); 2] = [("+del", &["DEL", &own]), ("+ping", &["PING"])];
    let tries: [(&'static str, &[&str]); 16] = [
        ("access to the key", &["EXISTS", stream]),
        ("+exists", &["EXISTS", &own]),
        ("+eval", &["EVAL", "return 1", "0"]),
        ("+evalsha", &["EVALSHA", "0000000000000000000000000000000000000000", "0"]),
        ("+type", &["TYPE", &own]),
        ("+get", &["GET", &own]),
        ("+pttl", &["PTTL", &own]),
        ("+set", &["SET", &own, "1", "PX", "1000"]),
        ("+pexpire", &["PEXPIRE", &own, "1000"]),
        ("+del", &["DEL", &own]),
        ("+sadd", &["SADD", &own, "#"]),
        ("+sismember", &["SISMEMBER", &own, "#"]),
        ("+sscan", &["SSCAN", &own, "0"]),
        ("+srem", &["SREM", &own, "#"]),
        ("+xadd", &["XADD", &own, "MAXLEN", "~", "1", "*", "user", "#"]),
        ("+xrange", &["XRANGE", &own, "-", "-"]),
    ];
    let of_webhooks = of_webhooks.into_iter().filter(|_| webhooks);
    let mut missing = Vec::new();
    for (right, command) in tries.into_iter().chain(of_webhooks).chain(last) {
        // A node of a cluster that does not own the key checks the rights first.
        let reply = client.pipeline().one(command).await?;
        if matches!(reply, RedisReply::Refused(why) if why.starts_with("NOPERM")) && !missing.contains(&right)
        {
            missing.push(right);
        }
    }
    Ok(missing)
}
