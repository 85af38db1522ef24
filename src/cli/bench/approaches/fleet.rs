//! The servers of one approach, each with its own way to Redis.

use super::Approach;
use super::programs::{BUS, CHANGES, Parts, Server, Setup, members, polled, published, stored};
use super::proxy::Proxy;
use crate::cli::access::TokenArgs;
use crate::cli::address::AddressArgs;
use crate::cli::bench::site::{cpu_of, serve_url};
use crate::cli::bench::until;
use crate::cli::daemon::DaemonApi;
use crate::client::Address;
use crate::redis::private::Embedded;
use crate::redis::raw::RawClient;
use crate::redis::target::Target;
use anyhow::{Result, anyhow};
use axum::http::Method;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::process::Child;

/// Every approach must work with more than one server.
pub const SERVERS: usize = 2;

/// See the module's head.
pub struct Fleet {
    proxies: Vec<Proxy>,
    servers: Vec<Running>,
}

enum Running {
    Program(Server),
    Daemon(Child, SocketAddr),
}

impl Fleet {
    /// Starts the servers of an approach on this Redis.
    ///
    /// # Errors
    /// One of them does not start.
    pub async fn start(approach: Approach, embedded: &Embedded, ttl: Duration) -> Result<Fleet> {
        let (mut proxies, mut servers) = (Vec::new(), Vec::new());
        for number in 0..SERVERS {
            let proxy = Proxy::start(embedded.socket()).await?;
            let make: fn(Setup) -> Parts = match approach {
                Approach::Published => published,
                Approach::Members => members,
                Approach::Stored => stored,
                Approach::Polled => polled,
                Approach::Keybeat => {
                    servers.push(daemon(&proxy.url(), ttl).await?);
                    proxies.push(proxy);
                    continue;
                }
            };
            let setup = Setup { redis: Target::parse(&proxy.url())?, ttl, number };
            servers.push(Running::Program(Server::start(setup, make).await?));
            proxies.push(proxy);
        }
        match approach {
            Approach::Members => subscribed(embedded, BUS).await?,
            Approach::Stored => subscribed(embedded, CHANGES).await?,
            Approach::Published | Approach::Polled | Approach::Keybeat => {}
        }
        Ok(Fleet { proxies, servers })
    }

    /// The server of a user.
    pub fn of(&self, user: usize) -> SocketAddr {
        match &self.servers[user % SERVERS] {
            Running::Program(server) => server.at,
            Running::Daemon(_, at) => *at,
        }
    }

    /// The way from server 0 to Redis breaks, or is back.
    pub fn set_broken(&self, broken: bool) {
        self.proxies[0].set_broken(broken);
    }

    /// CPU seconds of all servers so far.
    pub fn cpu(&self) -> f64 {
        let of_one = |server: &Running| match server {
            Running::Program(server) => server.cpu(),
            Running::Daemon(process, _) => cpu_of(process),
        };
        self.servers.iter().filter_map(of_one).sum()
    }

    /// Ends all servers.
    ///
    /// # Errors
    /// A daemon cannot be killed.
    pub async fn stop(self) -> Result<()> {
        for server in self.servers {
            if let Running::Daemon(mut process, _) = server {
                process.kill().await?;
            }
        }
        Ok(())
    }
}

/// Waits until every server has subscribed. A change that is published before reaches no page that has loaded.
async fn subscribed(embedded: &Embedded, channel: &str) -> Result<()> {
    let redis = RawClient::new(&embedded.target()?);
    let count = Some(SERVERS.to_string());
    let all = async || {
        let answer = redis.one(&["PUBSUB", "NUMSUB", channel]).await;
        answer.is_ok_and(|texts| texts.get(1) == Some(&count))
    };
    until("each server has subscribed", all).await
}

async fn daemon(redis: &str, ttl: Duration) -> Result<Running> {
    let at = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let ttl = format!("{}ms", ttl.as_millis());
    let process = serve_url(redis, at, &["--ttl", &ttl])?;
    let url = Some(Address::parse(&format!("http://{at}")).map_err(|why| anyhow!(why))?);
    let http = DaemonApi::new(&AddressArgs { url, ca: None }, TokenArgs::none())?;
    let ready = async || {
        let answer = http.call(Method::GET, "/readyz", None).await;
        answer.is_ok_and(|(status, _)| status.is_success())
    };
    until("the daemon is ready", ready).await?;
    Ok(Running::Daemon(process, at))
}
