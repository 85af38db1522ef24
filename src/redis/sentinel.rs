//! Which server is the primary, as the Sentinels say.
//!
//! fred could ask them too, but it does not report when their answer changes: after a planned failover the old
//! primary stays connected as a primary for seconds.

use crate::redis::resp::client::RespClient;
use crate::redis::resp::reply::RedisReply;
use crate::redis::target::Target;
use anyhow::{Context, Result, anyhow, bail};

/// The server to connect to now: the primary that the first Sentinel to answer names, or the one server
/// of a URL without Sentinels. A cluster's target is returned as it is.
///
/// # Errors
/// No Sentinel answered with a primary; the error is that of the last one.
pub(super) async fn resolve(target: &Target) -> Result<Target> {
    let Some((sentinels, service)) = target.sentinels() else { return Ok(target.clone()) };
    let mut last = anyhow!("{} does not name a Sentinel", target.shown());
    for sentinel in sentinels {
        match ask_for_primary(&sentinel, service).await {
            Ok((host, port)) => return Ok(target.at(host, port)),
            Err(why) => last = why,
        }
    }
    Err(last)
}

async fn ask_for_primary(sentinel: &Target, service: &str) -> Result<(String, u16)> {
    let client = RespClient::connect(sentinel, "keybeat-sentinel").await?;
    let command = ["SENTINEL", "get-master-addr-by-name", service];
    let reply = client.pipeline().one(&command).await?;
    if reply == RedisReply::Nil {
        bail!("{} does not know a primary named {service:?}", sentinel.shown());
    }
    let unreadable = || format!("{} named a primary without a host and a port", sentinel.shown());
    let Ok([host, port]) = <[RedisReply; 2]>::try_from(reply.list()?) else { bail!(unreadable()) };
    Ok((host.text()?, port.text()?.parse().with_context(unreadable)?))
}
