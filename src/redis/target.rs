//! A Redis URL: how it is parsed, and what it names. No I/O.

use crate::redis::password_file::PasswordFile;
use crate::redis::tls::RedisTlsFiles;
use crate::redis::url;
use anyhow::{Context, Result, anyhow, bail};
use fred::types::RespVersion;
use fred::types::config::{Config, Server, ServerConfig};
use std::time::Duration;

/// The longest time to connect and log in.
pub(super) const CONNECT: Duration = Duration::from_secs(3);
/// The longest time for a command. A server that takes longer counts as unreachable.
pub(super) const COMMAND: Duration = Duration::from_secs(5);

/// A Redis as the user named it: one server, Sentinels, or the seeds of a cluster.
#[derive(Debug, Clone)]
pub struct Target {
    config: Config,
    /// Where the password is, if it is not in the URL.
    password: Option<PasswordFile>,
    shown: String,
}

/// The arguments of AUTH.
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: String,
}

impl Target {
    /// Parses a `redis://`, `rediss://`, `redis+unix://`, `redis-sentinel://` or `redis-cluster://` URL, or the
    /// `valkey` spelling of one.
    ///
    /// # Errors
    /// The URL cannot be parsed. The text says how to write one and hides its secrets.
    pub fn parse(url: &str) -> Result<Target> {
        let shown = redacted(url);
        let checked = url::check(url).with_context(|| format!("the Redis URL {shown} is not valid"))?;
        let config = Config::from_url(&checked.url)
            .with_context(|| format!("the Redis URL {shown} cannot be parsed; {}", url::FORMS))?;
        let mut config = Config { database: checked.db.or(config.database), ..config };
        remove_brackets(&mut config.server);
        let config = Config { version: RespVersion::RESP3, fail_fast: true, ..config };
        Ok(Target { config, password: None, shown })
    }

    /// The same Redis, with certificates that the user named.
    ///
    /// # Errors
    /// The URL does not use TLS, or the files cannot be used.
    pub fn with_tls(mut self, tls: &RedisTlsFiles) -> Result<Target> {
        if tls.is_empty() {
            return Ok(self);
        }
        if self.config.tls.is_none() {
            bail!(
                "{} does not use TLS, so certificates for Redis have no effect; write rediss://",
                self.shown
            );
        }
        self.config.tls = Some(tls.config()?);
        Ok(self)
    }

    /// The same Redis, with its password in a file. Of Sentinels, it is the password of their primary.
    ///
    /// # Errors
    /// The URL has a password too, or the file cannot be used.
    pub fn with_password(mut self, file: PasswordFile) -> Result<Target> {
        if self.config.password.is_some() {
            bail!(
                "{} has a password, and --redis-password-file names another one; remove the password from the URL",
                self.shown
            );
        }
        file.read()?;
        self.password = Some(file);
        Ok(self)
    }

    /// The login of a connection that is made now; `None` without a password.
    ///
    /// # Errors
    /// The file with the password cannot be used.
    pub(super) fn login(&self) -> Result<Option<Login>> {
        let password = match &self.password {
            Some(file) => Some(file.read()?),
            None => self.config.password.clone(),
        };
        Ok(password.map(|password| Login { user: self.config.username.clone(), password }))
    }

    /// The URL without its secrets.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The number of the database.
    pub fn db(&self) -> u8 {
        self.config.database.unwrap_or(0)
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Does the URL name Sentinels, so that the primary can change?
    pub fn is_sentinel(&self) -> bool {
        matches!(self.config.server, ServerConfig::Sentinel { .. })
    }

    /// The nodes of a cluster that the URL names; `None` if it does not name a cluster.
    pub fn cluster_seeds(&self) -> Option<Vec<(String, u16)>> {
        let ServerConfig::Clustered { hosts, .. } = &self.config.server else { return None };
        Some(hosts.iter().map(|server| (server.host.to_string(), server.port)).collect())
    }

    /// The Sentinels that the URL names, each as a target of its own, and the name of the primary that they watch;
    /// `None` if it does not name Sentinels.
    pub(super) fn sentinels(&self) -> Option<(Vec<Target>, &str)> {
        let ServerConfig::Sentinel { hosts, service_name, username, password } = &self.config.server else {
            return None;
        };
        let sentinel = |host: &Server| Target {
            config: Config {
                server: ServerConfig::Centralized { server: host.clone() },
                username: username.clone(),
                password: password.clone(),
                database: None,
                ..self.config.clone()
            },
            password: None,
            shown: format!("the Sentinel at {host}"),
        };
        Some((hosts.iter().map(sentinel).collect(), service_name))
    }

    /// One server at this address, with the same login, database and TLS.
    pub(super) fn at(&self, host: String, port: u16) -> Target {
        // An IPv6 address stands in brackets in a URL.
        let shown = if host.contains(':') {
            format!("redis://[{host}]:{port}")
        } else {
            format!("redis://{host}:{port}")
        };
        let server = ServerConfig::Centralized { server: Server::new(host, port) };
        Target { config: Config { server, ..self.config.clone() }, password: self.password.clone(), shown }
    }

    /// The error of a connection that failed for the reason `why`, with advice.
    pub(super) fn unreachable(&self, why: &str) -> anyhow::Error {
        let advice = if is_about_password(why) {
            "the URL needs the right user and password, redis://USER:PASSWORD@HOST:PORT"
        } else {
            "is it running? Another one is named with --redis URL"
        };
        anyhow!("cannot connect to {}: {why}; {advice}", self.shown)
    }

    /// The error of a server that did not answer in time.
    pub(super) fn silent(&self) -> anyhow::Error {
        anyhow!("{} did not answer within {CONNECT:?}; is it stopped?", self.shown)
    }
}

/// An IPv6 address stands in brackets in a URL, but not where the system connects to it.
fn remove_brackets(server: &mut ServerConfig) {
    let servers = match server {
        ServerConfig::Centralized { server } => std::slice::from_mut(server),
        ServerConfig::Clustered { hosts, .. } | ServerConfig::Sentinel { hosts, .. } => hosts,
        ServerConfig::Unix { .. } => return,
    };
    for server in servers {
        let inner = server.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if let Some(inner) = inner.map(str::to_owned) {
            server.host = inner.into();
        }
    }
}

/// Does Redis reject the login?
pub fn is_about_password(why: &str) -> bool {
    why.contains("WRONGPASS") || why.contains("NOAUTH")
}

/// The URL without its secrets, for logs and errors.
fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return crate::error::shown(url);
    };
    // The `://` that was found is part of a password.
    if !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
        return "…".into();
    }
    match (rest.split_once('?'), rest.rsplit_once('@')) {
        // The question mark may be part of the password or begin the query: hide all of it.
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
    fn ipv6_addresses_lose_their_brackets() {
        let target = Target::parse("redis://[::1]:6380/3").unwrap();
        let ServerConfig::Centralized { server } = &target.config().server else { panic!("one server") };
        assert_eq!((&*server.host, server.port, target.shown()), ("::1", 6380, "redis://[::1]:6380/3"));
        let cluster = Target::parse("redis-cluster://[::1]:1").unwrap();
        assert_eq!(cluster.cluster_seeds().unwrap(), [("::1".to_owned(), 1)]);
        assert_eq!(target.at("::1".into(), 7).shown(), "redis://[::1]:7");
    }

    #[test]
    fn urls_are_parsed_and_redacted() {
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
