//! The commands and their arguments.

mod access;
mod address;
mod arguments;
mod beat;
mod bench;
mod check;
mod colour;
mod config_file;
mod daemon;
mod demo;
mod directory;
mod doctor;
mod environment;
mod get;
mod healthcheck;
mod help;
mod key_pattern;
mod limits;
mod list;
mod logging;
mod manual;
mod printed;
mod progress;
mod redis_access;
mod rights;
mod serve;
#[cfg(test)]
mod settings_page;
mod source;
mod stream;
mod strict;
mod tls;
mod top;
mod values;
mod watch;
mod webhooks;

use crate::client::Address;
use crate::config::{Config, DEFAULT_CLOSE_GRACE, DEFAULT_LISTEN, DEFAULT_TTL, EventsMode, Hold, LeaseMode};
use crate::presence::Key;
use crate::redis::directory::DirectoryNames;
use crate::server;
use anyhow::{Result, bail};
use clap::{ArgAction, Parser, Subcommand, ValueEnum};
pub use environment::parse;
use ipnet::IpNet;
use key_pattern::PatternArgs;
pub use printed::error as printed_error;
use source::{RedisArgs, Source, SourceArgs, redis};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Exact presence from Redis keys with a TTL: who is online, pushed over WebSockets
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
    /// Run the daemon: follow Redis, serve HTTP and WebSocket
    #[command(after_help = help::SERVE)]
    Serve(ServeArgs),
    /// Run the daemon on a private Redis with simulated users
    #[command(after_help = help::DEMO)]
    Demo(DemoArgs),
    /// List the live presence keys, directly from Redis
    #[command(after_help = help::LS)]
    Ls(LsArgs),
    /// Print the state of users; exit code 0 if all are online, 3 if any is offline
    #[command(after_help = help::GET)]
    Get(GetArgs),
    /// Print transitions as they happen; reconnects after a restart of the daemon or of Redis
    #[command(after_help = help::WATCH)]
    Watch(WatchArgs),
    /// Show a full-screen live view: users online, transitions per second, lag, next deadlines
    #[command(after_help = help::TOP)]
    Top(TopArgs),
    /// Send heartbeats, once or repeatedly
    #[command(after_help = help::BEAT)]
    Beat(BeatArgs),
    /// Check a Redis server for everything that breaks presence and suggest a fix for each problem;
    /// exit code 1 if a problem is fatal
    #[command(after_help = help::DOCTOR)]
    Doctor(DoctorArgs),
    /// Print the completion script of a shell
    #[command(after_help = help::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Write the man pages to a folder
    #[command(after_help = help::MAN)]
    Man(ManArgs),
    /// Check whether a daemon is alive; exit code 0 if it is, 1 if not
    #[command(after_help = help::HEALTHCHECK)]
    Healthcheck(HealthcheckArgs),
    /// Test a receiver of webhooks
    #[command(after_help = help::WEBHOOKS, subcommand)]
    Webhooks(WebhooksCommand),
    /// Measure lag, heartbeats per second, fan-out and memory of a daemon
    #[command(after_help = help::BENCH)]
    Bench(BenchArgs),
}

#[derive(Parser, Clone)]
struct ServeArgs {
    /// Redis or Valkey URL: redis://HOST:PORT/DB, rediss://, redis+unix:///PATH, redis-sentinel:// or redis-cluster://;
    /// "private" starts a private Redis [default: private, if --listen is a loopback address]
    #[arg(long, env = "KEYBEAT_REDIS", value_name = "URL", hide_env_values = true)]
    redis: Option<String>,
    #[command(flatten)]
    redis_access: redis_access::RedisAccessArgs,
    /// File with settings in TOML: keys are these flags without --, lists for flags with several values. Arguments and
    /// variables take precedence; an unknown key is refused
    #[arg(long, env = "KEYBEAT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check all settings and the files that they name, print each fault, and exit without a connection: 0 if there is no
    /// fault, else 2
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
    /// The refused arguments, variables and lines of the file; only with --check.
    #[arg(skip)]
    refused: Box<arguments::Refused>,
}

#[derive(Parser, Clone)]
struct DaemonArgs {
    /// IP address and port for HTTP and WebSocket
    #[arg(long, env = "KEYBEAT_LISTEN", value_name = "ADDR", default_value = DEFAULT_LISTEN, value_parser = values::listen)]
    listen: SocketAddr,
    /// IP address and port for /healthz, /readyz, /metrics and /v1/stats alone, which are then not at --listen
    /// [default: reserved places at --listen]
    #[arg(long, env = "KEYBEAT_ADMIN_LISTEN", value_name = "ADDR", value_parser = values::listen)]
    admin_listen: Option<SocketAddr>,
    #[command(flatten)]
    pattern: PatternArgs,
    #[command(flatten)]
    directory: directory::DirectoryArgs,
    #[command(flatten)]
    stream: stream::StreamArgs,
    /// TTL of the heartbeats that the daemon writes, 100ms to 1day
    #[arg(long, env = "KEYBEAT_TTL", value_name = "DURATION", default_value_t = DEFAULT_TTL.into(), value_parser = values::ttl)]
    ttl: humantime::Duration,
    /// Time for which a user stays online after the user's socket closed with 1001, as browsers close it when a page reloads;
    /// 0s to 1day; with 0s the user is offline at once
    #[arg(long, env = "KEYBEAT_CLOSE_GRACE", value_name = "DURATION", default_value_t = DEFAULT_CLOSE_GRACE.into(), value_parser = values::grace)]
    close_grace: humantime::Duration,
    /// Time for which Redis remembers when users were last seen, such as 30d, at least 1m; then all daemons know it, also after a
    /// restart [default: off]
    #[arg(long, env = "KEYBEAT_LAST_SEEN", value_name = "DURATION", value_parser = values::last_seen)]
    last_seen: Option<humantime::Duration>,
    /// Whether to add missing classes to notify-keyspace-events; none is ever removed
    #[arg(long, env = "KEYBEAT_CONFIGURE_REDIS", value_name = "BOOL", default_value_t = true, action = ArgAction::Set, value_parser = values::boolean)]
    configure_redis: bool,
    /// How the daemon learns of renewals: from each set event; from set and expire events, so that EXPIRE and GETEX count at once;
    /// or by one question per user and TTL (new, which needs Redis 7 or newer, or Valkey; elsewhere it is as set)
    #[arg(long, env = "KEYBEAT_EVENTS", value_name = "KIND", default_value = "set")]
    events: EventsKind,
    /// The users that the daemon keeps: all, or those whom a client watches or has just asked for (watched), so that its memory
    /// grows with them alone; then requests for all users are refused with not_held
    #[arg(long, env = "KEYBEAT_HOLD", value_name = "USERS", default_value = "all")]
    hold: HoldKind,
    /// Whether to send deadline probes; turn them off only to measure their effect
    #[arg(long, env = "KEYBEAT_PROBES", value_name = "BOOL", default_value_t = true, action = ArgAction::Set, value_parser = values::boolean)]
    probes: bool,
    /// Whether this daemon may hold the lease of a Redis server: one daemon per server listens to the heartbeats and asks at
    /// deadlines, for all daemons
    #[arg(long, env = "KEYBEAT_LEASE", value_name = "BOOL", default_value_t = true, action = ArgAction::Set, value_parser = values::boolean)]
    lease: bool,
    /// Networks of proxies, such as 10.0.0.0/8 or 192.0.2.7; several separated by commas. From these peers the client's address is
    /// the last one in X-Forwarded-For that is not in them [default: none]
    #[arg(long, env = "KEYBEAT_TRUSTED_PROXY", value_name = "CIDR", value_delimiter = ',', value_parser = values::network)]
    trusted_proxy: Vec<IpNet>,
    /// Time between SIGTERM and the stop: /readyz is 503, requests are still served, sockets and event streams close one
    /// after the other (1001)
    #[arg(long, env = "KEYBEAT_DRAIN", value_name = "DURATION", default_value = "0s", value_parser = values::duration_or_zero)]
    drain: humantime::Duration,
    #[command(flatten)]
    access: access::AccessArgs,
    #[command(flatten)]
    tls: tls::TlsArgs,
    /// Append one JSON line for each write, refusal and administrative call to this file; opened again at SIGHUP
    #[arg(long, env = "KEYBEAT_AUDIT", value_name = "FILE")]
    audit: Option<PathBuf>,
    /// Format of the log on standard error
    #[arg(long, env = "KEYBEAT_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: logging::Format,
    /// Log level: error, warn, info, debug or trace; or levels per target, as warn,keybeat::web=debug
    #[arg(long, env = "KEYBEAT_LOG", value_name = "LEVEL", default_value = "info", value_parser = logging::level)]
    log: String,
    // The last field: its heading in --help applies to all that follow.
    #[command(flatten)]
    limits: limits::LimitArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum EventsKind {
    /// From each set event
    Set,
    /// From each set and expire event
    Expire,
    /// By questions: Redis publishes no message for a renewal
    New,
    /// new where the server has its event class, otherwise set
    Auto,
}

#[derive(Clone, Copy, ValueEnum)]
enum HoldKind {
    /// All users
    All,
    /// Users whom a client watches or has just asked for
    Watched,
}

impl From<HoldKind> for Hold {
    fn from(kind: HoldKind) -> Hold {
        match kind {
            HoldKind::All => Hold::All,
            HoldKind::Watched => Hold::Watched,
        }
    }
}

impl From<EventsKind> for EventsMode {
    fn from(kind: EventsKind) -> EventsMode {
        match kind {
            EventsKind::Set => EventsMode::Set,
            EventsKind::Expire => EventsMode::Expire,
            EventsKind::New => EventsMode::New,
            EventsKind::Auto => EventsMode::Auto,
        }
    }
}

#[derive(Parser)]
struct DemoArgs {
    /// Number of simulated users, 1 to 100000
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = values::whole(1..=100_000_u32))]
    users: u32,
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[derive(Parser)]
struct LsArgs {
    /// Glob of names, alice or alice#phone, such as 'team-*'
    #[arg(default_value = "*")]
    pattern: String,
    /// Sort order
    #[arg(long, value_name = "FIELD", default_value = "user")]
    sort: list::Sort,
    /// Maximum number of keys to print; the total counts all
    #[arg(long, value_name = "N", value_parser = values::count())]
    limit: Option<usize>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    redis: RedisArgs,
}

#[derive(Parser)]
struct GetArgs {
    /// Users to print
    #[arg(required_unless_present = "groups", value_name = "USER")]
    users: Vec<String>,
    /// Group to print: its counts and all its members; may be repeated
    #[arg(long = "group", value_name = "NAME", value_parser = values::group)]
    groups: Vec<String>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Parser)]
struct WatchArgs {
    /// Users to watch [default: everybody, unless --group names groups]
    #[arg(value_name = "USER", value_parser = values::user)]
    users: Vec<String>,
    /// Group to watch: its members, their transitions, and members who come and go; may be repeated
    #[arg(long = "group", value_name = "NAME", value_parser = values::group)]
    groups: Vec<String>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Parser)]
struct TopArgs {
    /// Group whose counts to show; may be repeated
    #[arg(long = "group", value_name = "NAME", value_parser = values::group)]
    groups: Vec<String>,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Parser)]
struct BeatArgs {
    /// Users to send a heartbeat for; alice#phone names a session
    #[arg(required = true, value_name = "USER", value_parser = values::key)]
    users: Vec<Key>,
    /// Repeat at this interval until stopped; must be shorter than --ttl
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    every: Option<Duration>,
    /// TTL of a heartbeat, 100ms to 1day
    #[arg(long, value_name = "DURATION", default_value_t = DEFAULT_TTL.into(), value_parser = values::ttl)]
    ttl: humantime::Duration,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Parser)]
struct DoctorArgs {
    /// Stream of a daemon with --stream: check the rights for it, too [default: none]
    #[arg(long, env = "KEYBEAT_STREAM", value_name = "NAME")]
    stream: Option<String>,
    /// Webhooks of a daemon with --webhook: check the rights for them, too; no webhook receives anything [default: none]
    #[arg(long, env = "KEYBEAT_WEBHOOK", value_name = "URL", value_delimiter = ',', hide_env_values = true)]
    webhook: Vec<String>,
    /// File with the settings of a daemon; doctor uses those that are arguments here, too
    #[arg(long, env = "KEYBEAT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    redis: RedisArgs,
}

#[derive(Parser)]
struct CompletionsArgs {
    /// Name of the shell
    shell: clap_complete::Shell,
}

#[derive(Parser)]
struct ManArgs {
    /// Target folder; created if it does not exist
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

#[derive(Parser)]
struct HealthcheckArgs {
    /// Also check that the daemon follows Redis (/readyz instead of /healthz)
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    address: address::AddressArgs,
}

#[derive(Subcommand)]
enum WebhooksCommand {
    /// Send a signed sample event; exit code 0 if the receiver acknowledges it
    #[command(after_help = help::WEBHOOKS)]
    Test(WebhookTestArgs),
}

#[derive(Parser)]
struct WebhookTestArgs {
    /// URL of the receiver
    #[arg(value_name = "URL")]
    url: String,
    /// File with the secret that signs the event: one line, whsec_ and 24 to 64 bytes in base64
    #[arg(long, env = "KEYBEAT_WEBHOOK_SECRET", value_name = "FILE")]
    webhook_secret: PathBuf,
    /// Whether an https:// URL may have a private address
    #[arg(long, env = "KEYBEAT_WEBHOOK_ALLOW_PRIVATE", action = ArgAction::SetTrue, value_parser = values::boolean)]
    webhook_allow_private: bool,
}

#[derive(Parser)]
struct BenchArgs {
    /// The parts to measure [default: everything]
    #[arg(value_name = "WHAT")]
    what: Option<bench::What>,
    /// Running daemon to measure; the bench creates users bench-… on it [default: start a daemon and a private Redis]
    #[arg(long, value_name = "URL", value_parser = Address::parse)]
    url: Option<Address>,
    #[command(flatten)]
    token: access::TokenArgs,
    /// Number of users for lag, heartbeats, capacity and simulation
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = values::whole(1..=u32::MAX))]
    users: u32,
    /// Number of sockets for connections, and for the fanout row in which all watch one user
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = values::whole(1..=u32::MAX))]
    clients: u32,
    /// Number of sockets for the other rows of fanout, and of users for approaches
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = values::whole(1..=u32::MAX))]
    watchers: u32,
    /// Numbers of daemons for capacity, 0 to 64, separated by commas; 0 is Redis without notifications
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "0,1,2,4,8", value_parser = values::whole(0..=64_u8))]
    daemons: Vec<u8>,
    /// Interval of a user's heartbeats for approaches, a quarter of the TTL, and for simulation, a third of it
    #[arg(long, value_name = "DURATION", default_value = "1250ms", value_parser = values::duration)]
    every: Duration,
    /// Number of contacts that each user of approaches watches
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = values::whole(1..=10_000_u32))]
    contacts: u32,
    /// Duration of each rate of fanout, of each row of heartbeats and capacity, of the even load of approaches, and of the
    /// simulated time
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = values::duration)]
    seconds: Duration,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<ExitCode> {
    if matches!(args.command, Command::Serve(_) | Command::Demo(_)) {
        crate::panics::install();
    }
    match args.command {
        Command::Serve(args) if args.check => check::run(&args),
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
        Command::Webhooks(WebhooksCommand::Test(args)) => webhooks::test(args).await,
        Command::Bench(args) => bench::run(args).await,
    }
}

impl DaemonArgs {
    /// The settings of the daemon. Warns of an open one.
    ///
    /// # Errors
    /// [`Usage`] if the daemon must not start with these settings, or cannot use a file that they name.
    fn config(&self) -> Result<Config> {
        let config = self.settings();
        if let Some(fault) = self.faults().into_iter().next() {
            bail!(fault);
        }
        if let Some(fault) = server::faults(&config).first() {
            bail!(Usage(format!("{fault:#}")));
        }
        self.access.warn(self.listen);
        self.directory.warn(&config.key_pattern);
        Ok(config)
    }

    /// Each reason why the daemon must not start with these settings, the files aside.
    fn faults(&self) -> Vec<Usage> {
        let same = self.admin_listen.filter(|admin| values::overlap(self.listen, *admin)).map(|admin| {
            Usage(format!(
                "--admin-listen {admin} and --listen {} are the same port; give --admin-listen another port",
                self.listen
            ))
        });
        let prefixes = self.directory.faults(&self.pattern.pattern());
        let pattern = self.pattern.pattern();
        let stream = self.stream.faults(&pattern, &self.directory.names(&pattern));
        self.access.faults(self.listen).into_iter().chain(same).chain(prefixes).chain(stream).collect()
    }

    /// The settings, which may not suit each other.
    fn settings(&self) -> Config {
        let DirectoryNames { status, group } = self.directory.names(&self.pattern.pattern());
        Config {
            listen: self.listen,
            admin_listen: self.admin_listen,
            key_pattern: self.pattern.pattern(),
            status_prefix: status,
            group_prefix: group,
            ttl: self.ttl.into(),
            close_grace: self.close_grace.into(),
            last_seen: self.last_seen.map(Into::into),
            configure_redis: self.configure_redis,
            events: self.events.into(),
            probes: self.probes,
            lease: match (self.probes, self.lease, self.hold) {
                // Without questions at deadlines it can neither lead nor follow.
                (false, ..) => LeaseMode::Alone,
                (true, true, HoldKind::All) => LeaseMode::Stands,
                (true, true, HoldKind::Watched) => LeaseMode::StandsIn,
                (true, false, _) => LeaseMode::Follows,
            },
            hold: self.hold.into(),
            access: self.access.access(),
            tls: self.tls.files(),
            audit: self.audit.clone(),
            trusted_proxies: self.trusted_proxy.clone(),
            drain: self.drain.into(),
            stream: self.stream.settings(),
            limits: self.limits.limits(),
        }
    }
}

/// Wrong usage: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(String);

impl Args {
    /// The arguments of `serve --check`.
    fn checked_mut(&mut self) -> Option<&mut ServeArgs> {
        match &mut self.command {
            Command::Serve(args) if args.check => Some(args),
            _ => None,
        }
    }

    /// The source of a command that reads from a daemon or from Redis.
    fn source_mut(&mut self) -> Option<&mut SourceArgs> {
        match &mut self.command {
            Command::Get(args) => Some(&mut args.source),
            Command::Watch(args) => Some(&mut args.source),
            Command::Top(args) => Some(&mut args.source),
            Command::Beat(args) => Some(&mut args.source),
            _ => None,
        }
    }

    /// The key pattern of a command that has one.
    fn pattern_mut(&mut self) -> Option<&mut PatternArgs> {
        match &mut self.command {
            Command::Serve(args) => Some(&mut args.daemon.pattern),
            Command::Demo(args) => Some(&mut args.daemon.pattern),
            Command::Ls(args) => Some(&mut args.redis.pattern),
            Command::Doctor(args) => Some(&mut args.redis.pattern),
            Command::Get(args) => Some(&mut args.source.pattern),
            Command::Watch(args) => Some(&mut args.source.pattern),
            Command::Top(args) => Some(&mut args.source.pattern),
            Command::Beat(args) => Some(&mut args.source.pattern),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn clap_accepts_the_definitions() {
        Args::command().debug_assert();
    }
}
