//! The daemon that is measured: one that runs, or one of our own on a Redis of our own.

use super::client::{Place, Tally, name};
use super::until;
use crate::cli::access::TokenArgs;
use crate::cli::address::AddressArgs;
use crate::cli::daemon::Daemon;
use crate::client::Address;
use crate::redis::Names;
use crate::redis::private::Embedded;
use crate::redis::target::Connection;
use anyhow::{Context, Result, anyhow, bail};
use axum::http::Method;
use fred::prelude::*;
use futures_util::StreamExt;
use serde_json::{Value as Json, json};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::process::{Child, Command};

/// What the keys live for that nobody renews.
const LONG: Duration = Duration::from_secs(3600);
/// Requests under way to a daemon whose Redis we do not know.
const REQUESTS: usize = 32;
/// Clock ticks a second on Linux, in which the CPU of a process is counted.
const TICKS: f64 = 100.0;

pub struct Site {
    pub address: Place,
    http: Daemon,
    own: Option<Own>,
}

struct Own {
    daemon: Child,
    redis: Connection,
    names: Names,
    embedded: Embedded,
}

impl Site {
    /// A daemon that runs.
    pub async fn running(url: &Address, token: &TokenArgs) -> Result<Site> {
        if url.is_secure() {
            bail!("{url} speaks TLS, which is not measured; name it as http://HOST:PORT, without TLS");
        }
        let host = url.host();
        let mut found = tokio::net::lookup_host(&host).await?;
        let at = found.next().with_context(|| format!("{host} has no address"))?;
        let args = AddressArgs { url: Some(url.clone()), ca: None };
        let http = Daemon::new(&args, token.clone())?;
        let site = Site { address: Place { at, token: token.token()? }, http, own: None };
        site.stats().await?;
        Ok(site)
    }

    /// A daemon of our own.
    pub async fn own() -> Result<Site> {
        let embedded = Embedded::start().await?;
        let at = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let target = embedded.target()?;
        let redis = target.connect().await?;
        let names = Names::new("presence:", target.db());
        let own = Own { daemon: serve(&embedded, at)?, redis, names, embedded };
        let url = Some(Address::parse(&format!("http://{at}")).map_err(|why| anyhow!(why))?);
        let http = Daemon::new(&AddressArgs { url, ca: None }, TokenArgs::none())?;
        let site = Site { address: Place { at, token: None }, http, own: Some(own) };
        site.ready().await?;
        Ok(site)
    }

    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Kills a daemon of our own and starts it again; does nothing to another.
    pub async fn restart(&mut self) -> Result<()> {
        let Some(own) = &mut self.own else { return Ok(()) };
        own.daemon.kill().await?;
        own.daemon = serve(&own.embedded, self.address.at)?;
        self.ready().await
    }

    /// Kills a daemon of our own.
    pub async fn kill(&mut self) -> Result<()> {
        let own = self.own.as_mut().context("the daemon is not our own")?;
        Ok(own.daemon.kill().await?)
    }

    pub async fn stop(self) -> Result<()> {
        if let Some(mut own) = self.own {
            own.daemon.kill().await?;
            own.embedded.stop().await;
        }
        Ok(())
    }

    async fn ready(&self) -> Result<()> {
        let asked = async || {
            let answer = self.http.call(Method::GET, "/readyz", None).await;
            answer.is_ok_and(|(status, _)| status.is_success())
        };
        until("the daemon is ready", asked).await
    }

    fn own_file(&self, file: &str) -> Option<String> {
        let pid = self.own.as_ref()?.daemon.id()?;
        std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()
    }

    /// Resident memory of a daemon of our own, in bytes.
    pub fn memory(&self) -> Option<f64> {
        let status = self.own_file("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
    }

    /// Seconds of CPU of a daemon of our own so far.
    pub fn cpu(&self) -> Option<f64> {
        let stat = self.own_file("stat")?;
        let after = stat.rsplit_once(')')?.1;
        let ticks = after.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
        Some(ticks.sum::<Result<f64, _>>().ok()? / TICKS)
    }

    /// The daemon's counts.
    pub async fn stats(&self) -> Result<Json> {
        let text = self.http.ask(Method::GET, "/v1/stats", None).await?;
        serde_json::from_slice(&text).context("the daemon's answer cannot be read")
    }

    /// A counter of the metrics; 0 where the daemon has none such.
    pub async fn counter(&self, name: &str) -> Result<f64> {
        let text = self.http.ask(Method::GET, "/metrics", None).await?;
        let text = String::from_utf8_lossy(&text);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Ok(value.unwrap_or(0.0))
    }

    /// Lets users come or go.
    pub async fn change(&self, tally: &Tally, users: &[usize], come: bool) -> Result<()> {
        // Early by the way to Redis: lags are rather told too long.
        users.iter().for_each(|&user| tally.changed[user].store(tally.now_us(), Relaxed));
        if come { self.beat(users, LONG).await } else { self.end(users).await }
    }

    /// Deletes the users' keys, in one pipeline where the Redis is ours.
    pub async fn end(&self, users: &[usize]) -> Result<()> {
        let Some(own) = &self.own else { return self.delete(users).await };
        let pipeline = own.redis.client().pipeline();
        for &user in users {
            pipeline.del::<(), _>(own.names.redis_key(&name(user))).await?;
        }
        pipeline.all::<Vec<Value>>().await?;
        Ok(())
    }

    async fn delete(&self, users: &[usize]) -> Result<()> {
        let delete = async |&user: &usize| {
            self.http.ask(Method::DELETE, &format!("/v1/users/{}", name(user)), None).await
        };
        let mut gone = futures_util::stream::iter(users.iter().map(delete)).buffer_unordered(REQUESTS);
        while let Some(done) = gone.next().await {
            done?;
        }
        Ok(())
    }

    /// Heartbeats of users: straight to a Redis of our own, else through the daemon.
    pub async fn beat(&self, users: &[usize], ttl: Duration) -> Result<()> {
        let Some(own) = &self.own else { return self.beat_by_http(users, ttl).await };
        let pipeline = own.redis.client().pipeline();
        for &user in users {
            let expires = Some(Expiration::PX(ttl.as_millis() as i64));
            pipeline.set::<(), _, _>(own.names.redis_key(&name(user)), 1, expires, None, false).await?;
        }
        pipeline.all::<Vec<Value>>().await?;
        Ok(())
    }

    /// Heartbeats of users in one request.
    pub async fn beat_by_http(&self, users: &[usize], ttl: Duration) -> Result<()> {
        let beat = |&user: &usize| json!({"user": name(user), "ttl_ms": ttl.as_millis() as u64});
        let users: Vec<Json> = users.iter().map(beat).collect();
        self.http.ask(Method::POST, "/v1/heartbeats", Some(json!({ "users": users }))).await.map(drop)
    }
}

fn serve(embedded: &Embedded, at: SocketAddr) -> Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(["serve", "--redis", &embedded.url(), "--listen", &at.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("the daemon cannot be started")
}
