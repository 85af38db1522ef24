//! Where a command gets its data: from a daemon, or from Redis itself.

use super::key_pattern::PatternArgs;
use super::{Usage, access, address, daemon, redis_access};
use crate::config::DEFAULT_REDIS;
use crate::redis::target::Target;
use anyhow::{Result, bail};
use clap::Parser;

/// The Redis of a command that needs no daemon.
#[derive(Parser)]
pub struct RedisArgs {
    /// Redis or Valkey URL: redis://, rediss://, redis+unix://, redis-sentinel:// or redis-cluster://
    #[arg(long, env = "KEYBEAT_REDIS", value_name = "URL", default_value = DEFAULT_REDIS, hide_env_values = true)]
    pub redis: String,
    #[command(flatten)]
    pub redis_access: redis_access::RedisAccessArgs,
    #[command(flatten)]
    pub pattern: PatternArgs,
}

/// The daemon or the Redis of a command that can use both.
#[derive(Parser)]
pub struct SourceArgs {
    #[command(flatten)]
    pub address: address::AddressArgs,
    /// Use this Redis directly, without a daemon; KEYBEAT_REDIS in the environment does not select it
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    #[command(flatten)]
    pub pattern: PatternArgs,
    #[command(flatten)]
    pub redis_access: redis_access::RedisAccessArgs,
    #[command(flatten)]
    pub token: access::TokenArgs,
}

/// The meaning of the arguments of [`SourceArgs`].
pub enum Source {
    Daemon(daemon::DaemonApi),
    Redis(Target),
}

impl SourceArgs {
    /// Decides between a daemon and Redis, by which of `--url` and `--redis` was typed.
    ///
    /// # Errors
    /// Both were typed.
    pub fn decide(&mut self, url_typed: bool, redis_typed: bool) -> Result<(), Usage> {
        if url_typed && redis_typed {
            let text = "--url reads from a daemon and --redis from Redis; use only one of them";
            return Err(Usage(text.into()));
        }
        if redis_typed {
            // Its value came from KEYBEAT_URL.
            self.address.url = None;
        }
        Ok(())
    }

    /// The source that the arguments name.
    ///
    /// # Errors
    /// A URL or a certificate cannot be used.
    pub fn source(&self) -> Result<Source> {
        match &self.redis {
            Some(url) => Ok(Source::Redis(redis(url, &self.redis_access)?)),
            None => Ok(Source::Daemon(daemon::DaemonApi::new(&self.address, self.token.clone())?)),
        }
    }
}

/// Parses a Redis URL. This is no value parser of clap: clap would print the URL with its password.
///
/// # Errors
/// [`Usage`] if the URL cannot be parsed, or a file for it cannot be used; the text hides the password.
pub fn redis(url: &str, access: &redis_access::RedisAccessArgs) -> Result<Target> {
    if url.trim() != url {
        bail!(Usage("the Redis URL begins or ends with a space or line break; remove it".into()));
    }
    if let Some(url) = host_and_port(url) {
        return self::redis(&format!("redis://{url}"), access);
    }
    if !url.contains("://") {
        // The text may contain a password, and it is unknown where the password begins.
        let host = url.rsplit('@').next().unwrap_or_default();
        let text = format!(
            "the Redis URL that ends in {} has no scheme; write redis://[USER:PASSWORD@]HOST[:PORT][/DB]",
            crate::error::shown(host)
        );
        bail!(Usage(text));
    }
    let target = Target::parse(url).map_err(|why| Usage(format!("{why:#}")))?;
    access.apply(target).map_err(|why| Usage(format!("{why:#}")).into())
}

/// `HOST:PORT` or `[IPv6]:PORT`, as redis-cli's users write it.
fn host_and_port(text: &str) -> Option<&str> {
    let (host, port) = text.rsplit_once(':')?;
    let is_host =
        !host.is_empty() && host.chars().all(|char| char.is_ascii_alphanumeric() || ".-_[]:".contains(char));
    (is_host && port.parse::<u16>().is_ok()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn redis_urls_never_show_their_password(
            scheme in "(redis|rediss|valkey|redis\\+unix|redis-sentinel|.{0,6})(://)?",
            host in "[a-z0-9.:/\\[\\]?=&%-]{0,24}", any in ".{0,30}",
        ) {
            for url in [format!("{scheme}u:hunter2@{host}"), format!("{scheme}{any}")] {
                let none = redis_access::RedisAccessArgs::parse_from(["keybeat"]);
                let shown = match super::redis(&url, &none) {
                    Ok(target) => target.shown().to_owned(),
                    Err(why) => format!("{why:#}"),
                };
                prop_assert!(!shown.contains("hunter2"), "{}", shown);
            }
        }
    }
}
