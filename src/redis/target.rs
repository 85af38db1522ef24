//! Connections to Redis: one way to read a URL, one way to connect.

use crate::redis::tls::TlsFiles;
use crate::redis::url;
use anyhow::{Context, Result, anyhow, bail};
use fred::prelude::*;
use fred::types::config::{PerformanceConfig, Server, ServerConfig, UnresponsiveConfig};
use fred::types::{ClusterHash, CustomCommand, RespVersion};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// How long a connection may take to come about.
pub(super) const CONNECT: Duration = Duration::from_secs(3);
/// How long a command may take; more means that the server is out of reach.
pub(super) const COMMAND: Duration = Duration::from_secs(5);

/// A Redis as the user named it.
#[derive(Debug, Clone)]
pub struct Target {
    config: Config,
    shown: String,
}

/// A client that goes with its connection: dropped, it takes its tasks along.
pub struct Connection {
    client: Client,
    task: AbortOnDropHandle<Result<(), Error>>,
}

impl Target {
    /// Reads a `redis://`, `rediss://`, `redis+unix://`, `redis-sentinel://` or `redis-cluster://` URL, or the `valkey`
    /// spelling of one.
    pub fn parse(url: &str) -> Result<Target> {
        let shown = redacted(url);
        let checked = url::check(url).with_context(|| format!("the Redis URL {shown} is not valid"))?;
        let config = Config::from_url(&checked.url)
            .with_context(|| format!("the Redis URL {shown} cannot be parsed; {}", url::FORMS))?;
        let config = Config { database: checked.db.or(config.database), ..config };
        Ok(Target { config: Config { version: RespVersion::RESP3, fail_fast: true, ..config }, shown })
    }

    /// The same, with certificates of one's own.
    pub fn with_tls(mut self, tls: &TlsFiles) -> Result<Target> {
        if tls.is_empty() {
            return Ok(self);
        }
        if self.config.tls.is_none() {
            bail!("{} speaks no TLS, so certificates for Redis mean nothing; write rediss://", self.shown);
        }
        self.config.tls = Some(tls.config()?);
        Ok(self)
    }

    /// The URL without its secrets.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Which database.
    pub fn db(&self) -> u8 {
        self.config.database.unwrap_or(0)
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    fn builder(&self) -> Builder {
        let mut builder = Builder::from_config(self.config.clone());
        builder.with_connection_config(|connection| {
            connection.connection_timeout = CONNECT;
            connection.internal_command_timeout = CONNECT;
            connection.max_command_attempts = 1;
            connection.auto_client_setname = true;
            connection.tcp.nodelay = Some(true);
            connection.unresponsive = UnresponsiveConfig::default();
        });
        builder.set_performance_config(PerformanceConfig {
            default_command_timeout: COMMAND,
            ..PerformanceConfig::default()
        });
        builder
    }

    /// One connection, without a life after it: whoever holds it makes a new one when it breaks, and
    /// knows so of each gap.
    pub async fn connect(&self) -> Result<Connection> {
        let client = self.builder().build()?;
        let mut task = None;
        // Whoever waits has to be there before it begins: what comes of it is told only once. (`init` does that,
        // but would wait for ever where a server accepts and then says nothing.)
        let begin = async { task = Some(AbortOnDropHandle::new(client.connect())) };
        let connected = async { tokio::join!(biased; client.wait_for_connect(), begin).0 };
        let waited = tokio::time::timeout(CONNECT, connected).await;
        let Some(task) = task else { bail!("the connection to {} was not begun", self.shown) };
        let connection = Connection { client, task };
        match waited {
            Ok(Ok(())) => Ok(connection),
            Ok(Err(why)) => Err(self.unreachable(&in_words(&why))),
            Err(_) => Err(self.silent()),
        }
    }

    /// It cannot be connected to; why, and what to do.
    pub(super) fn unreachable(&self, why: &str) -> anyhow::Error {
        let advice = if is_about_password(why) {
            "the URL needs the right user and password, redis://USER:PASSWORD@HOST:PORT"
        } else {
            "is it running? Another one is named with --redis URL"
        };
        anyhow!("cannot connect to {}: {why}; {advice}", self.shown)
    }

    /// It has not answered in time.
    pub(super) fn silent(&self) -> anyhow::Error {
        anyhow!("{} did not answer within {CONNECT:?}; is it stopped?", self.shown)
    }

    /// A client that connects again by itself, for commands that stand alone. It starts unconnected
    /// where the server is out of reach.
    pub fn persistent(&self) -> Result<Connection> {
        let mut builder = self.builder();
        builder.with_config(|config| config.fail_fast = false);
        // Without a policy fred's init would wait for ever.
        builder.set_policy(ReconnectPolicy::new_exponential(0, 50, 2_000, 2));
        let client = builder.build()?;
        let task = AbortOnDropHandle::new(client.connect());
        Ok(Connection { client, task })
    }

    /// Is it a Sentinel's, where the primary can become another server?
    pub fn is_sentinel(&self) -> bool {
        matches!(self.config.server, ServerConfig::Sentinel { .. })
    }

    /// The nodes of a cluster that the URL names; `None` if it names no cluster.
    pub fn cluster_seeds(&self) -> Option<Vec<(String, u16)>> {
        let ServerConfig::Clustered { hosts, .. } = &self.config.server else { return None };
        Some(hosts.iter().map(|server| (server.host.to_string(), server.port)).collect())
    }

    /// The server to speak to now: with Sentinels, the one that the first of them to answer names as the
    /// primary. They are asked by us and not by fred, since only so it is known when their answer changes:
    /// after a planned failover the old primary goes on as one for seconds.
    pub async fn resolve(&self) -> Result<Target> {
        let ServerConfig::Sentinel { hosts, service_name, username, password } = &self.config.server else {
            return Ok(self.clone());
        };
        let mut last = anyhow!("{} names no Sentinel", self.shown);
        for host in hosts {
            let config = Config {
                server: ServerConfig::Centralized { server: host.clone() },
                username: username.clone(),
                password: password.clone(),
                database: None,
                ..self.config.clone()
            };
            let sentinel = Target { config, shown: format!("the Sentinel at {host}") };
            match sentinel.ask_for_primary(service_name).await {
                Ok((name, port)) => return Ok(self.at(name, port)),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    async fn ask_for_primary(&self, service: &str) -> Result<(String, u16)> {
        let connection = self.connect().await?;
        let command = CustomCommand::new_static("SENTINEL", ClusterHash::FirstKey, false);
        let args = vec!["get-master-addr-by-name", service];
        let primary: Option<(String, u16)> = connection.client().custom(command, args).await?;
        primary.with_context(|| format!("{} knows no primary called {service:?}", self.shown))
    }

    /// The same, but for one server at this address.
    pub(super) fn at(&self, host: String, port: u16) -> Target {
        let shown = format!("redis://{host}:{port}");
        let server = ServerConfig::Centralized { server: Server::new(host, port) };
        Target { config: Config { server, ..self.config.clone() }, shown }
    }
}

impl Connection {
    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Waits until the connection is lost, and says why.
    pub async fn lost(&self) -> String {
        let mut errors = self.client.error_rx();
        let mut check = tokio::time::interval(Duration::from_millis(250));
        loop {
            tokio::select! {
                error = errors.recv() => return match error {
                    Ok((why, _)) => in_words(&why),
                    Err(_) => "the connection ended".into(),
                },
                _ = check.tick() => if self.task.is_finished() {
                    return "the connection ended".into();
                },
            }
        }
    }
}

/// What the system says, without the error's number.
pub(super) fn of_system(why: &std::io::Error) -> String {
    let text = why.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// What fred says, without the debug print of the system's error in it.
pub fn in_words(why: &Error) -> String {
    let details = why.details();
    let message = details.split_once("message: \"").and_then(|(_, rest)| rest.split_once('"'));
    message.map_or(details, |(message, _)| message).to_owned()
}

/// Does Redis refuse who we are?
pub fn is_about_password(why: &str) -> bool {
    why.contains("WRONGPASS") || why.contains("NOAUTH")
}

/// A URL without its password, as it may be shown and logged.
fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return crate::error::shown(url);
    };
    // It was written twice, or stands in a password.
    if !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
        return "…".into();
    }
    match (rest.split_once('?'), rest.rsplit_once('@')) {
        // Of a password, or of what follows the question mark: that cannot be known.
        (Some((_, query)), Some(_)) if query.contains('@') => format!("{scheme}://…"),
        (Some((place, _)), None) => format!("{scheme}://{place}"),
        (_, Some((_, host))) => {
            format!("{scheme}://…@{}", host.split_once('?').map_or(host, |(place, _)| place))
        }
        (None, None) => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_is_told_in_words() {
        let system = r#"Os { code: 111, kind: ConnectionRefused, message: "Connection refused" }"#;
        assert_eq!(in_words(&Error::new(ErrorKind::IO, system)), "Connection refused");
        let redis = "NOAUTH Authentication required.";
        assert_eq!(in_words(&Error::new(ErrorKind::Auth, redis)), redis);
    }

    #[test]
    fn a_url_is_read_and_shown_without_its_secret() {
        let target = Target::parse("redis://user:secret@localhost:6380/3").unwrap();
        assert_eq!((target.db(), target.shown()), (3, "redis://…@localhost:6380/3"));
        assert_eq!(Target::parse("valkey://localhost").unwrap().db(), 0);
        assert!(Target::parse("redis+unix:///tmp/x.sock").is_ok());
        let sentinel = "redis-sentinel://h:26379?sentinelServiceName=m&sentinelPassword=secret";
        let target = Target::parse(sentinel).unwrap();
        assert!(target.is_sentinel() && !target.shown().contains("secret"));
        for hides in [
            "redisu:secret@://h",
            "redis://:se?cret@h:1/0",
            "redis-sentinel://u:x@h?sentinelPassword=se@cret",
        ] {
            let shown = redacted(hides);
            assert!(!shown.contains("cret"), "{shown}");
        }
        assert_eq!(redacted("redis://u:x@h:1/0?a=b"), "redis://…@h:1/0");
        let cluster = Target::parse("valkey-cluster://h:1?node=i:2").unwrap();
        let mut seeds = cluster.cluster_seeds().unwrap();
        seeds.sort();
        assert_eq!(seeds, [("h".into(), 1), ("i".into(), 2)]);
        for bad in ["localhost:6379", "http://x", "redis://:x@h:99999", ""] {
            let message = format!("{:#}", Target::parse(bad).unwrap_err());
            assert!(message.contains("write redis://"), "{message}");
        }
    }
}
