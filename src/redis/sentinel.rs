//! The primary, as the Sentinels name it.

use crate::redis::info::Info;
use crate::redis::resp::client::RespClient;
use crate::redis::resp::commands::Commands;
use crate::redis::resp::reply::RedisReply;
use crate::redis::target::Target;
use anyhow::{Context, Result, anyhow, bail};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long the other Sentinels may take after the first one has answered.
const OTHERS: Duration = Duration::from_millis(200);

/// A Sentinel's answer. The higher the epoch, the newer the failover that it knows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct NamedPrimary {
    epoch: u64,
    host: String,
    port: u16,
    /// How long it has been the primary as far as the Sentinel knows, in milliseconds.
    since_ms: u64,
}

/// The server to connect to now: the primary that the Sentinels name, or the one server of a URL without Sentinels.
/// A cluster's target is returned as it is. All Sentinels are asked at once, since a frozen one stays silent for three
/// seconds; of different answers, the one after the newest failover counts.
///
/// # Errors
/// No Sentinel answered with a primary; the error is that of the last one.
pub(super) async fn resolve(target: &Target) -> Result<Target> {
    Ok(resolve_with_age(target).await?.0)
}

/// The same, and how long the server has been the primary, in milliseconds; `u64::MAX` if that is not known.
///
/// # Errors
/// See [`resolve`].
pub(super) async fn resolve_with_age(target: &Target) -> Result<(Target, u64)> {
    let Some((sentinels, service)) = target.sentinels() else { return Ok((target.clone(), u64::MAX)) };
    let mut failed = anyhow!("{} does not name a Sentinel", target.shown());
    let mut newest: Option<NamedPrimary> = None;
    let mut end = None;
    let mut asked: FuturesUnordered<_> = sentinels.iter().map(|sentinel| ask(sentinel, service)).collect();
    loop {
        let answer = match end {
            Some(end) => timeout_at(end, asked.next()).await.ok().flatten(),
            None => asked.next().await,
        };
        match answer {
            Some(Ok(primary)) => {
                newest = newest.max(Some(primary));
                end.get_or_insert_with(|| Instant::now() + OTHERS);
            }
            Some(Err(why)) => failed = why,
            None => break,
        }
    }
    let primary = newest.ok_or(failed)?;
    Ok((target.at(primary.host, primary.port), primary.since_ms))
}

/// Connects to the server that [`resolve`] names, and checks that it has keys.
///
/// # Errors
/// See [`resolve`]; or the server cannot be reached, or it is a Sentinel.
pub(super) async fn connect(target: &Target, name: &str) -> Result<(Target, RespClient)> {
    let server = resolve(target).await?;
    let client = RespClient::connect(&server, name).await?;
    // An ACL may forbid INFO, but a Sentinel has no such ACL by default.
    if let RedisReply::Text(text) = client.pipeline().one(&["INFO", "server"]).await? {
        has_keys(&Info::parse(&String::from_utf8_lossy(&text)), &server)?;
    }
    Ok((server, client))
}

/// Checks that a server whose INFO was read is no Sentinel.
///
/// # Errors
/// It is one; the text has the URL to write.
pub(super) fn has_keys(info: &Info, server: &Target) -> Result<()> {
    if info.field("redis_mode") != "sentinel" {
        return Ok(());
    }
    bail!(
        "{} is a Sentinel, which has no keys; write redis-sentinel://{}?sentinelServiceName=NAME",
        server.shown(),
        server.address()
    )
}

async fn ask(sentinel: &Target, service: &str) -> Result<NamedPrimary> {
    let client = RespClient::connect(sentinel, "keybeat-sentinel").await?;
    let mut commands = Commands::one(&["SENTINEL", "get-master-addr-by-name", service]);
    commands.add(&["SENTINEL", "MASTER", service]);
    let mut replies = client.pipeline().send(commands).await?.into_iter();
    let address = replies.next().context("the Sentinel sent no reply")?;
    match &address {
        RedisReply::Nil => bail!(
            "{} does not know a primary named {service:?}; correct sentinelServiceName in the URL",
            sentinel.shown()
        ),
        RedisReply::Refused(why) if why.starts_with("ERR unknown command") => bail!(
            "{at} is a Redis server and no Sentinel; write redis://{at}, or name the port of a Sentinel",
            at = sentinel.address()
        ),
        _ => {}
    }
    let unreadable = || anyhow!("{} named a primary without a host and a port", sentinel.shown());
    let [host, port] = <[RedisReply; 2]>::try_from(address.list()?).map_err(|_| unreadable())?;
    let port = port.text()?.parse().map_err(|_| unreadable())?;
    let fields = replies.next().map(fields).unwrap_or_default();
    let epoch = number(&fields, "config-epoch").unwrap_or(0);
    // A Sentinel counts this from its own start, too.
    let since_ms = number(&fields, "role-reported-time").unwrap_or(u64::MAX);
    Ok(NamedPrimary { epoch, host: host.text()?, port, since_ms })
}

/// The reply to SENTINEL MASTER, names and values in turn; none if an ACL forbids the command.
fn fields(reply: RedisReply) -> Vec<String> {
    reply.list().unwrap_or_default().into_iter().filter_map(|field| field.text().ok()).collect()
}

fn number(fields: &[String], name: &str) -> Option<u64> {
    let at = fields.iter().step_by(2).position(|field| field == name)?;
    fields.get(2 * at + 1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::target::CONNECT;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A Sentinel that names the primary at `port`, or accepts connections and stays silent.
    async fn sentinel(primary: Option<(u16, u64)>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut bytes = [0; 4096];
                    while let Ok(1..) = socket.read(&mut bytes).await {
                        let Some((port, epoch)) = primary else { continue };
                        let text = String::from_utf8_lossy(&bytes).into_owned();
                        let reply = if text.contains("SENTINEL") {
                            let (port, epoch) = (port.to_string(), epoch.to_string());
                            format!(
                                "*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n*2\r\n$12\r\nconfig-epoch\r\n${}\r\n{epoch}\r\n",
                                port.len(),
                                epoch.len()
                            )
                        } else {
                            "+OK\r\n".to_owned()
                        };
                        bytes = [0; 4096];
                        drop(socket.write_all(reply.as_bytes()).await);
                    }
                });
            }
        });
        port
    }

    #[tokio::test]
    async fn frozen_sentinel_delays_nothing() {
        let frozen = sentinel(None).await;
        let others = [sentinel(Some((6001, 1))).await, sentinel(Some((6001, 1))).await];
        let url = format!(
            "redis-sentinel://127.0.0.1:{frozen}?sentinelServiceName=m&node=127.0.0.1:{}&node=127.0.0.1:{}",
            others[0], others[1]
        );
        let began = Instant::now();
        let target = resolve(&Target::parse(&url).unwrap()).await.unwrap();
        assert_eq!(target.shown(), "redis://127.0.0.1:6001");
        assert!(began.elapsed() < CONNECT, "{:?}", began.elapsed());
    }

    #[test]
    fn newest_failover_counts() {
        let named = |host: &str, epoch: u64| NamedPrimary { epoch, host: host.into(), port: 1, since_ms: 0 };
        let answers = [named("z", 3), named("a", 4), named("y", 3)];
        assert_eq!(answers.iter().max(), Some(&named("a", 4)));
        let text = |text: &str| RedisReply::Text(text.into());
        let reply = ["name", "m", "config-epoch", "7", "role-reported-time", "900"].map(text);
        let known = fields(RedisReply::List(reply.into()));
        let numbers = ["config-epoch", "role-reported-time", "quorum"].map(|name| number(&known, name));
        assert_eq!(numbers, [Some(7), Some(900), None]);
        assert_eq!(number(&fields(RedisReply::Refused("NOPERM".into())), "config-epoch"), None);
    }
}
