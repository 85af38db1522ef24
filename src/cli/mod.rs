//! What can be typed, and what it means.

mod access;
mod address;
mod beat;
mod bench;
mod colour;
mod daemon;
mod demo;
mod doctor;
mod get;
mod healthcheck;
mod help;
mod limits;
mod list;
mod logging;
mod manual;
mod progress;
mod serve;
mod tls;
mod top;
mod watch;

use crate::client::Address;
use crate::config::{Config, DEFAULT_LISTEN, DEFAULT_PREFIX, DEFAULT_REDIS, DEFAULT_TTL};
use crate::error::{MAX_TTL_MS, MIN_TTL_MS};
use crate::presence::Key;
use crate::redis::target::Target;
use anyhow::{Result, bail};
use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

/// Who is online, exactly and on time, from Redis keys with a TTL.
#[derive(Parser)]
#[command(
    version,
    about,
    max_term_width = 100,
    after_help = help::KEYBEAT
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The daemon: follows a Redis and serves HTTP and WebSocket
    #[command(after_help = help::SERVE)]
    Serve(ServeArgs),
    /// The daemon on a private Redis with simulated users
    #[command(after_help = help::DEMO)]
    Demo(DemoArgs),
    /// The live presence keys, straight from Redis
    #[command(after_help = help::LS)]
    Ls(LsArgs),
    /// The state of users; exit code 0 if all are online, 3 if any is not
    #[command(after_help = help::GET)]
    Get(GetArgs),
    /// Prints transitions as they come, through restarts of daemon and Redis
    #[command(after_help = help::WATCH)]
    Watch(WatchArgs),
    /// A full-screen live view: users online, transitions per second, lag, the soonest deadlines
    #[command(after_help = help::TOP)]
    Top(TopArgs),
    /// Sends heartbeats, once or until stopped
    #[command(after_help = help::BEAT)]
    Beat(BeatArgs),
    /// Checks a Redis for whatever breaks presence, and says the mend; exit code 1 if something is fatal
    #[command(after_help = help::DOCTOR)]
    Doctor(DoctorArgs),
    /// Prints the completions of a shell
    #[command(after_help = help::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Writes the man pages into a folder
    #[command(after_help = help::MAN)]
    Man(ManArgs),
    /// Is a daemon alive? Exit code 0 if it is
    #[command(after_help = help::HEALTHCHECK)]
    Healthcheck(HealthcheckArgs),
    /// What a daemon takes in, tells and holds, measured on one that runs or one started for it
    #[command(after_help = help::BENCH)]
    Bench(BenchArgs),
}

#[derive(Parser, Clone)]
struct ServeArgs {
    /// Redis or Valkey: redis://HOST:PORT/DB, rediss://…, redis+unix:///PATH, redis-sentinel://…
    /// [default: a private one is started]
    #[arg(long, env = "KEYBEAT_REDIS", value_name = "URL", hide_env_values = true)]
    redis: Option<String>,
    #[command(flatten)]
    redis_tls: tls::RedisTlsArgs,
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Parser, Clone)]
struct DaemonArgs {
    /// HTTP and WebSocket
    #[arg(long, env = "KEYBEAT_LISTEN", value_name = "ADDR", default_value = DEFAULT_LISTEN, value_parser = listen)]
    listen: SocketAddr,
    /// Presence keys start so
    #[arg(long, env = "KEYBEAT_PREFIX", value_name = "TEXT", default_value = DEFAULT_PREFIX, value_parser = prefix)]
    prefix: String,
    /// The TTL of heartbeats that the daemon writes
    #[arg(long, env = "KEYBEAT_TTL", value_name = "DURATION", default_value = DEFAULT_TTL, value_parser = ttl)]
    ttl: Duration,
    /// Add the missing classes to notify-keyspace-events, never removing one
    #[arg(long, env = "KEYBEAT_CONFIGURE_REDIS", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    configure_redis: bool,
    /// Which event says that a user came online; auto is set in this version
    #[arg(long, env = "KEYBEAT_EVENTS", value_name = "KIND", default_value = "set")]
    events: EventsKind,
    /// Deadline probes; off only to measure what they are worth
    #[arg(long, env = "KEYBEAT_PROBES", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    probes: bool,
    #[command(flatten)]
    access: access::AccessArgs,
    #[command(flatten)]
    tls: tls::TlsArgs,
    #[command(flatten)]
    limits: limits::LimitArgs,
    /// How to log
    #[arg(long, env = "KEYBEAT_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: logging::Format,
    /// What to log: error, warn, info, debug or trace
    #[arg(long, env = "KEYBEAT_LOG", value_name = "LEVEL", default_value = "info", value_parser = logging::level)]
    log: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum EventsKind {
    /// Every set
    Set,
    /// The best that this version can use
    Auto,
}

#[derive(Parser)]
struct DemoArgs {
    /// Simulated users
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    users: u32,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Where a command finds Redis.
#[derive(Parser)]
struct RedisArgs {
    /// Redis or Valkey
    #[arg(long, env = "KEYBEAT_REDIS", value_name = "URL", default_value = DEFAULT_REDIS, hide_env_values = true)]
    redis: String,
    #[command(flatten)]
    redis_tls: tls::RedisTlsArgs,
    /// Presence keys start so
    #[arg(long, env = "KEYBEAT_PREFIX", value_name = "TEXT", default_value = DEFAULT_PREFIX, value_parser = prefix)]
    prefix: String,
}

/// From where a command learns: a daemon, or Redis itself.
#[derive(Parser)]
struct SourceArgs {
    #[command(flatten)]
    address: address::AddressArgs,
    /// Straight from Redis, without a daemon
    #[arg(long, env = "KEYBEAT_REDIS", value_name = "URL", hide_env_values = true)]
    redis: Option<String>,
    /// Presence keys start so (with --redis)
    #[arg(long, env = "KEYBEAT_PREFIX", value_name = "TEXT", default_value = DEFAULT_PREFIX, value_parser = prefix)]
    prefix: String,
    #[command(flatten)]
    redis_tls: tls::RedisTlsArgs,
    #[command(flatten)]
    token: access::TokenArgs,
}

enum Source {
    Daemon(daemon::Daemon),
    Redis(Target),
}

impl SourceArgs {
    fn source(&self) -> Result<Source> {
        match (&self.address.url, &self.redis) {
            (None, Some(redis)) => Ok(Source::Redis(self::redis(redis, &self.redis_tls)?)),
            _ => Ok(Source::Daemon(daemon::Daemon::new(&self.address, self.token.clone())?)),
        }
    }
}

#[derive(Parser)]
struct LsArgs {
    /// Which keys, as a glob without the prefix: 'team-*'
    #[arg(default_value = "*")]
    pattern: String,
    /// What to sort by
    #[arg(long, value_name = "FIELD", default_value = "user")]
    sort: list::Sort,
    /// Print at most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    redis: RedisArgs,
}

#[derive(Parser)]
struct GetArgs {
    /// Whose state
    #[arg(required = true, value_name = "USER", value_parser = user)]
    users: Vec<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Parser)]
struct WatchArgs {
    /// Whom to watch [default: everybody]
    #[arg(value_name = "USER", value_parser = user)]
    users: Vec<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Parser)]
struct TopArgs {
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Parser)]
struct BeatArgs {
    /// Whose heartbeat; alice#phone names a session
    #[arg(required = true, value_name = "USER", value_parser = key)]
    users: Vec<Key>,
    /// Again and again, until stopped
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    every: Option<Duration>,
    /// How long a heartbeat lasts
    #[arg(long, value_name = "DURATION", default_value = DEFAULT_TTL, value_parser = ttl)]
    ttl: Duration,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Parser)]
struct DoctorArgs {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    redis: RedisArgs,
}

#[derive(Parser)]
struct CompletionsArgs {
    /// Which shell
    shell: clap_complete::Shell,
}

#[derive(Parser)]
struct ManArgs {
    /// Where to; the folder is made if it is not there
    #[arg(value_name = "FOLDER")]
    folder: std::path::PathBuf,
}

#[derive(Parser)]
struct HealthcheckArgs {
    /// Ask whether it follows Redis too, and so knows who is online (/readyz instead of /healthz)
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    address: address::AddressArgs,
}

#[derive(Parser)]
struct BenchArgs {
    /// What to measure [default: all]
    #[arg(value_name = "WHAT")]
    what: Option<bench::What>,
    /// A daemon that runs, which bench-… users then visit [default: one is started, on a Redis of its own]
    #[arg(long, value_name = "URL", value_parser = Address::parse)]
    url: Option<Address>,
    #[command(flatten)]
    token: access::TokenArgs,
    /// Users for lag and heartbeats
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,
    /// Sockets for connections, and for a user whom everybody watches
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Sockets of fanout that watch everybody, or 100 users each
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    watchers: u32,
    /// How long each rate of fanout, and each row of heartbeats, is held
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    seconds: Duration,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Does what was typed.
pub async fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Serve(args) => serve::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Ls(args) => list::run(args).await,
        Command::Get(args) => get::run(args).await,
        Command::Watch(args) => watch::run(args).await,
        Command::Top(args) => top::run(args).await,
        Command::Beat(args) => beat::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
        Command::Healthcheck(args) => healthcheck::run(args).await,
        Command::Bench(args) => bench::run(args).await,
    }
}

impl DaemonArgs {
    /// The settings; an error where the daemon must not start with them.
    fn config(&self) -> Result<Config> {
        Ok(Config {
            listen: self.listen,
            prefix: self.prefix.clone(),
            ttl: self.ttl,
            configure_redis: self.configure_redis,
            probes: self.probes,
            access: self.access.access(self.listen)?,
            tls: self.tls.files(),
            limits: self.limits.limits(),
        })
    }
}

/// What was typed cannot be meant: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(String);

/// Reads a Redis URL. Not as clap's value parser: clap would show it, password and all.
fn redis(url: &str, tls: &tls::RedisTlsArgs) -> Result<Target> {
    if !url.contains("://") {
        // It may hold a password, and where it begins cannot be known.
        let host = url.rsplit('@').next().unwrap_or_default();
        let text = format!(
            "the Redis URL that ends in {} has no scheme; write redis://[USER:PASSWORD@]HOST[:PORT][/DB]",
            crate::error::shown(host)
        );
        bail!(Usage(text));
    }
    let target = Target::parse(url).map_err(|why| Usage(format!("{why:#}")))?;
    target.with_tls(&tls.files())
}

/// A name is not looked up: it may stand for several addresses, of which some are open to all.
fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let example = port.map_or(DEFAULT_LISTEN.to_owned(), |port| format!("127.0.0.1:{port}"));
        format!("not IP:PORT with a port up to 65535; write it as {example} (for IPv6 as [::1]:PORT)")
    })
}

/// A prefix is what keeps the daemon to keys of its own.
fn prefix(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err(
            "an empty one would take every key for presence, and overwrite it; write presence:".into()
        );
    }
    Ok(text.to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|why| format!("{why}; write 10s, 500ms or 1m"))?;
    if duration.is_zero() { Err("it must be longer than nothing".into()) } else { Ok(duration) }
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    let allowed = Duration::from_millis(MIN_TTL_MS)..=Duration::from_millis(MAX_TTL_MS);
    if allowed.contains(&ttl) { Ok(ttl) } else { Err("it must be from 100ms to 1day".into()) }
}

fn user(text: &str) -> Result<String, String> {
    crate::presence::check_user(text).map_err(|why| format!("a user name {why}"))?;
    Ok(text.to_owned())
}

fn key(text: &str) -> Result<Key, String> {
    Key::parse(text.as_bytes()).map_err(|why| format!("a user or session name {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use proptest::prelude::*;

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }

    proptest! {
        #[test]
        fn whatever_is_typed_is_read_or_refused(text in ".{0,40}", number in "-?[0-9]{0,25}(ms|s|m|h|years| )?") {
            for text in [&text, &number] {
                if let Ok(duration) = super::duration(text) {
                    prop_assert!(!duration.is_zero());
                }
                if let Ok(ttl) = super::ttl(text) {
                    prop_assert!((MIN_TTL_MS..=MAX_TTL_MS).contains(&(ttl.as_millis() as u64)));
                }
                prop_assert_eq!(super::user(text).is_ok(), crate::presence::check_user(text).is_ok());
                prop_assert_eq!(super::prefix(text).is_ok(), !text.is_empty());
                if let Ok(key) = super::key(text) {
                    prop_assert_eq!(key.as_str(), text);
                }
            }
        }

        #[test]
        fn a_redis_url_is_read_or_refused_and_its_secret_is_not_shown(
            scheme in "(redis|rediss|valkey|redis\\+unix|redis-sentinel|.{0,6})(://)?",
            host in "[a-z0-9.:/\\[\\]?=&%-]{0,24}", any in ".{0,30}",
        ) {
            for url in [format!("{scheme}u:hunter2@{host}"), format!("{scheme}{any}")] {
                let none = tls::RedisTlsArgs::parse_from(["keybeat"]);
                let shown = match super::redis(&url, &none) {
                    Ok(target) => target.shown().to_owned(),
                    Err(why) => format!("{why:#}"),
                };
                prop_assert!(!shown.contains("hunter2"), "{}", shown);
            }
        }
    }
}
