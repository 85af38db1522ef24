//! CONFIG: settings of a server, read and changed. A server may refuse either.

use crate::redis::resp::client::Pipeline;
use crate::redis::resp::reply::{Allowed, RedisReply};
use anyhow::Result;

/// The setting that decides which keyspace events a server publishes.
pub(super) const EVENTS: &str = "notify-keyspace-events";

/// The value of a setting; `None` if this server does not have the setting.
///
/// # Errors
/// The connection was lost.
pub(super) async fn get(pipeline: &Pipeline, name: &str) -> Result<Allowed<Option<String>>> {
    Ok(match pipeline.one(&["CONFIG", "GET", name]).await? {
        RedisReply::Refused(why) => Err(why),
        reply => Ok(reply.list()?.into_iter().nth(1).map(RedisReply::text).transpose()?),
    })
}

/// Changes a setting until the server restarts.
///
/// # Errors
/// The connection was lost.
pub(super) async fn set(pipeline: &Pipeline, name: &str, value: &str) -> Result<Allowed<()>> {
    Ok(match pipeline.one(&["CONFIG", "SET", name, value]).await? {
        RedisReply::Refused(why) => Err(why),
        _ => Ok(()),
    })
}
