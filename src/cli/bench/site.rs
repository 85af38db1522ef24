//! The daemon that is measured: a running one, or one that the bench starts on a private Redis.

use super::client::{LoadTarget, Tally, name};
use super::until;
use crate::cli::access::TokenArgs;
use crate::cli::address::AddressArgs;
use crate::cli::daemon::DaemonApi;
use crate::client::Address;
use crate::config::DEFAULT_PREFIX;
use crate::presence::KeyPattern;
use crate::redis::Names;
use crate::redis::private::Embedded;
use crate::redis::writer::WriteConnection;
use anyhow::{Context, Result, anyhow, bail};
use axum::http::Method;
use futures_util::StreamExt;
use serde_json::{Value as Json, json};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::process::{Child, Command};

/// TTL of keys that are not renewed.
const LONG: Duration = Duration::from_secs(3600);
/// Concurrent requests to a daemon whose Redis is unknown.
const REQUESTS: usize = 32;
/// Clock ticks per second on Linux, the unit of CPU times in `/proc`.
const TICKS: f64 = 100.0;

pub struct Site {
    pub address: LoadTarget,
    http: DaemonApi,
    own: Option<Own>,
}

struct Own {
    daemon: Child,
    redis: WriteConnection,
    names: Names,
    embedded: Embedded,
}

/// A program that sends heartbeats to Redis.
pub struct RedisWriter {
    redis: WriteConnection,
    names: Names,
}

impl RedisWriter {
    /// Sends heartbeats in one pipeline, and waits for the replies.
    ///
    /// # Errors
    /// Redis is gone.
    pub async fn beat(&self, users: &[usize], ttl: Duration) -> Result<()> {
        self.redis.set(users.iter().map(|&user| self.names.redis_key(&name(user))), ttl).await
    }
}

impl Site {
    /// A running daemon.
    ///
    /// # Errors
    /// It uses TLS, cannot be reached, or refuses the token.
    pub async fn running(url: &Address, token: &TokenArgs) -> Result<Site> {
        if url.is_secure() {
            bail!(
                "{url} uses TLS, which bench does not support; name a daemon without TLS: http://HOST:PORT"
            );
        }
        let host = url.host();
        let mut found = tokio::net::lookup_host(&host).await?;
        let at = found.next().with_context(|| format!("{host} has no address"))?;
        let args = AddressArgs { url: Some(url.clone()), ca: None };
        let http = DaemonApi::new(&args, token.clone())?;
        let site = Site { address: LoadTarget { at, token: token.token()? }, http, own: None };
        site.stats().await?;
        Ok(site)
    }

    /// Starts a daemon on a private Redis.
    ///
    /// # Errors
    /// One of them does not start.
    pub async fn own() -> Result<Site> {
        let embedded = Embedded::start().await?;
        let at = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let target = embedded.target()?;
        let redis = WriteConnection::open(&target).await?;
        let names = Names::new(&KeyPattern::of_prefix(DEFAULT_PREFIX), target.db());
        let own = Own { daemon: serve(&embedded, at, &[])?, redis, names, embedded };
        let url = Some(Address::parse(&format!("http://{at}")).map_err(|why| anyhow!(why))?);
        let http = DaemonApi::new(&AddressArgs { url, ca: None }, TokenArgs::none())?;
        let site = Site { address: LoadTarget { at, token: None }, http, own: Some(own) };
        site.ready().await?;
        Ok(site)
    }

    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Kills and restarts the daemon, if the bench has started it.
    pub async fn restart(&mut self) -> Result<()> {
        let Some(own) = &mut self.own else { return Ok(()) };
        own.daemon.kill().await?;
        own.daemon = serve(&own.embedded, self.address.at, &[])?;
        self.ready().await
    }

    /// Kills the daemon, which the bench must have started.
    pub async fn kill(&mut self) -> Result<()> {
        let own = self.own.as_mut().context("the bench has not started this daemon")?;
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

    /// Resident memory of the daemon in bytes, if the bench has started it.
    pub fn memory(&self) -> Option<f64> {
        memory_of(&self.own.as_ref()?.daemon)
    }

    /// CPU seconds of the daemon so far, if the bench has started it.
    pub fn cpu(&self) -> Option<f64> {
        cpu_of(&self.own.as_ref()?.daemon)
    }

    /// The answer of `/v1/stats`.
    pub async fn stats(&self) -> Result<Json> {
        let text = self.http.ask(Method::GET, "/v1/stats", None).await?;
        serde_json::from_slice(&text).context("cannot parse the answer of the daemon")
    }

    /// A counter of `/metrics`; 0 if the daemon does not report it.
    pub async fn counter(&self, name: &str) -> Result<f64> {
        let text = self.http.ask(Method::GET, "/metrics", None).await?;
        let text = String::from_utf8_lossy(&text);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Ok(value.unwrap_or(0.0))
    }

    /// Makes users go online or offline.
    pub async fn change(&self, tally: &Tally, users: &[usize], come: bool) -> Result<()> {
        // This is before the write reaches Redis, so the lags are rather too long than too short.
        users.iter().for_each(|&user| tally.changed[user].store(tally.now_us(), Relaxed));
        if come { self.beat(users, LONG).await } else { self.end(users).await }
    }

    /// Deletes the users' keys, in one pipeline if the bench has started Redis.
    pub async fn end(&self, users: &[usize]) -> Result<()> {
        let Some(own) = &self.own else { return self.delete(users).await };
        own.redis.delete(users.iter().map(|&user| own.names.redis_key(&name(user)))).await
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

    /// Sends heartbeats: directly to Redis if the bench has started it, else through the daemon.
    pub async fn beat(&self, users: &[usize], ttl: Duration) -> Result<()> {
        let Some(own) = &self.own else { return self.beat_by_http(users, ttl).await };
        own.redis.set(users.iter().map(|&user| own.names.redis_key(&name(user))), ttl).await
    }

    /// Another connection to the Redis that the bench has started.
    ///
    /// # Errors
    /// Redis cannot be reached.
    pub async fn writer(&self) -> Result<Option<RedisWriter>> {
        let Some(own) = &self.own else { return Ok(None) };
        let redis = WriteConnection::open(&own.embedded.target()?).await?;
        Ok(Some(RedisWriter { redis, names: own.names.clone() }))
    }

    /// Sends heartbeats through the daemon in one request.
    pub async fn beat_by_http(&self, users: &[usize], ttl: Duration) -> Result<()> {
        let beat = |&user: &usize| json!({"user": name(user), "ttl_ms": ttl.as_millis() as u64});
        let users: Vec<Json> = users.iter().map(beat).collect();
        self.http.ask(Method::POST, "/v1/heartbeats", Some(json!({ "users": users }))).await.map(drop)
    }
}

fn file_of(process: &Child, file: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{}/{file}", process.id()?)).ok()
}

/// Resident memory of a process in bytes.
pub fn memory_of(process: &Child) -> Option<f64> {
    memory_in(&file_of(process, "status")?)
}

/// Resident memory of this process in bytes.
pub fn own_memory() -> Option<f64> {
    memory_in(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn memory_in(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
}

/// CPU seconds of a process so far.
pub fn cpu_of(process: &Child) -> Option<f64> {
    cpu_in(&file_of(process, "stat")?)
}

/// CPU seconds in the text of a `stat` file, of a process or of a thread.
pub fn cpu_in(stat: &str) -> Option<f64> {
    let after = stat.rsplit_once(')')?.1;
    let ticks = after.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Some(ticks.sum::<Result<f64, _>>().ok()? / TICKS)
}

/// Starts a daemon at this address on a private Redis.
pub fn serve(embedded: &Embedded, at: SocketAddr, args: &[&str]) -> Result<Child> {
    serve_url(&embedded.url(), at, args)
}

/// Starts a daemon at this address on the Redis of this URL.
pub fn serve_url(redis: &str, at: SocketAddr, args: &[&str]) -> Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(["serve", "--redis", redis, "--listen", &at.to_string()])
        .args(args)
        // Event streams count as connections.
        .args(["--max-connections", "1000000"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the daemon")
}
