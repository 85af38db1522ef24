//! `keybeat watch`

use super::address::advised;
use super::{
    Source, SourceArgs, Usage, WatchArgs, colour, daemon::DaemonApi, logging, printed, progress, serve,
    values,
};
use crate::client::{ClientError, ClientEvent};
use crate::config::{Access, Config, EventsMode, Hold, LeaseMode, Limits};
use crate::error::shown;
use crate::metrics::Metrics;
use crate::presence::Name;
use crate::protocol::{State, StatusObject, TransitionObject, UserObject};
use crate::redis::target::Target;
use crate::server;
pub use crate::server::Belief;
use anyhow::{Error, Result, anyhow, bail};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::Write;
use std::mem::{Discriminant, discriminant};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub async fn run(args: WatchArgs) -> Result<ExitCode> {
    logging::start_quiet();
    let stop = serve::stop_signal()?;
    let printer = Printer { json: args.json, colours: colour::wanted() };
    let watch = async {
        match args.source.source()? {
            Source::Daemon(daemon) => from_daemon(printer, &args, &daemon).await,
            Source::Redis(target) => from_redis(printer, &args, &target).await,
        }
    };
    tokio::select! {
        done = watch => done?,
        () = stop => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// How transitions are printed.
struct Printer {
    json: bool,
    colours: bool,
}

impl Printer {
    fn print(&self, transition: &TransitionObject) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", printed::json(transition)?)?;
        } else {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(transition.at_ms);
            let state = match transition.state {
                State::Online => colour::green("online ", self.colours),
                State::Offline => colour::grey("offline", self.colours),
            };
            let reason = format!("{:?}", transition.reason).to_lowercase();
            writeln!(
                out,
                "{}  {state}  {}  ({reason})",
                humantime::format_rfc3339_millis(at),
                printed::text(&transition.user)
            )?;
        }
        Ok(out.flush()?)
    }
}

impl Printer {
    /// One line, as JSON or as a time, a word and a text.
    fn print_line(&self, word: &str, text: &str, json: &Value) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", printed::json(json)?)?;
        } else {
            let at = humantime::format_rfc3339_millis(SystemTime::now());
            writeln!(out, "{at}  {}  {}", colour::grey(word, self.colours), printed::text(text))?;
        }
        Ok(out.flush()?)
    }

    /// The states before the first change. A program that reads JSON asks for them with `keybeat get --json`.
    fn print_states(&self, users: &[UserObject], everybody: bool) -> Result<()> {
        if self.json {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        let at = humantime::format_rfc3339_millis(SystemTime::now());
        if everybody {
            let count =
                if users.len() == 1 { "1 user is".into() } else { format!("{} users are", users.len()) };
            writeln!(out, "{at}  {count} online")?;
        }
        for object in users.iter().filter(|_| !everybody) {
            let state = match object.online() {
                true => colour::green("online ", self.colours),
                false => colour::grey("offline", self.colours),
            };
            writeln!(out, "{at}  {state}  {}  (now)", printed::text(object.user()))?;
        }
        Ok(out.flush()?)
    }

    fn print_counts(&self, group: &str, members: usize, online: usize) -> Result<()> {
        let json = json!({"group": group, "members": members, "online": online});
        self.print_line("group  ", &format!("{group}: {online} of {members} members online"), &json)
    }

    fn print_members(&self, group: &str, joined: &[UserObject], left: &[String]) -> Result<()> {
        for object in joined {
            let state = if object.online() { "online" } else { "offline" };
            let json = json!({"group": group, "joined": object});
            self.print_line("joined ", &format!("{group}: {} ({state})", object.user()), &json)?;
        }
        for user in left {
            self.print_line("left   ", &format!("{group}: {user}"), &json!({"group": group, "left": user}))?;
        }
        Ok(())
    }

    fn print_status(&self, status: &StatusObject) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", printed::json(status)?)?;
        } else {
            let at = humantime::format_rfc3339_millis(SystemTime::now());
            let (user, status) = (printed::text(&status.user), printed::json(&status.status)?);
            writeln!(out, "{at}  {}  {user}  {status}", colour::grey("status ", self.colours))?;
        }
        Ok(out.flush()?)
    }
}

async fn from_daemon(printer: Printer, args: &WatchArgs, daemon: &DaemonApi) -> Result<()> {
    let mut client = daemon.client()?;
    args.groups.iter().for_each(|group| client.watch_group(group));
    let everybody = args.users.is_empty() && args.groups.is_empty();
    if everybody {
        client.watch_all_lossless();
    } else {
        client.watch(args.users.iter().cloned());
    }
    let mut outage = Outage::of(daemon);
    let mut wanted = Wanted::new(args);
    loop {
        let event = client.next().await.map_err(advised)?;
        if !matches!(event, ClientEvent::Waiting { .. }) {
            outage.line = None;
        }
        match event {
            ClientEvent::Snapshot(users) => printer.print_states(&users, everybody)?,
            ClientEvent::Transitions(transitions) => {
                transitions.iter().try_for_each(|transition| printer.print(transition))?;
            }
            ClientEvent::Group { group, members, online, .. }
            | ClientEvent::Occupancy { group, members, online } => {
                printer.print_counts(&group, members, online)?;
            }
            ClientEvent::Members { group, joined, left } => printer.print_members(&group, &joined, &left)?,
            ClientEvent::GroupRefused { group, message, .. } => wanted.group_refused(&group, &message)?,
            ClientEvent::Statuses(statuses) => {
                statuses.iter().try_for_each(|status| printer.print_status(status))?;
            }
            ClientEvent::Status { redis, .. } => {
                eprintln!("keybeat: the daemon says that Redis is {}", format!("{redis:?}").to_lowercase());
            }
            ClientEvent::Refused { code, message, users } => wanted.users_refused(users, &code, &message)?,
            ClientEvent::Live => outage.printed.clear(),
            ClientEvent::Waiting { why, .. } => outage.goes_on(daemon, why),
        }
    }
}

/// The users and groups that are still watched.
struct Wanted {
    users: HashSet<String>,
    groups: HashSet<String>,
}

impl Wanted {
    fn new(args: &WatchArgs) -> Wanted {
        Wanted { users: args.users.iter().cloned().collect(), groups: args.groups.iter().cloned().collect() }
    }

    /// The daemon does not watch these users; none if it refused another request. An error if nothing is left to watch.
    fn users_refused(&mut self, users: Vec<String>, code: &str, message: &str) -> Result<()> {
        let named = users.iter().map(|user| printed::text(user)).collect::<Vec<_>>().join(", ");
        self.users.retain(|user| !users.contains(user));
        if !named.is_empty() && !self.is_empty() {
            eprintln!("keybeat: {named} is not watched: {message}");
            return Ok(());
        }
        if code == "forbidden" {
            return Err(advised(ClientError::Refused(message.to_owned())));
        }
        bail!("the daemon refused: {message}")
    }

    /// The daemon does not watch a group. An error if nothing is left to watch.
    fn group_refused(&mut self, group: &str, message: &str) -> Result<()> {
        self.groups.remove(group);
        let why = refused(group, message);
        if self.is_empty() {
            return Err(why);
        }
        eprintln!("keybeat: {why}");
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

/// A time without the daemon, also before the first connection.
struct Outage {
    /// Shows on a terminal that the command is connecting.
    line: Option<ProgressBar>,
    /// The kinds of causes printed: each once in an outage, not with each attempt.
    printed: Vec<Discriminant<ClientError>>,
}

impl Outage {
    fn of(daemon: &DaemonApi) -> Outage {
        Outage { line: Some(Outage::line(daemon)), printed: Vec::new() }
    }

    fn line(daemon: &DaemonApi) -> ProgressBar {
        progress::step(&format!("connecting to {}", daemon.shown()))
    }

    /// An attempt failed, and another follows.
    fn goes_on(&mut self, daemon: &DaemonApi, why: ClientError) {
        let line = self.line.get_or_insert_with(|| Outage::line(daemon));
        // A daemon that ends the connection because it stops is unreachable afterwards.
        let lost = ClientError::Lost { address: String::new(), why: String::new() };
        let kind = discriminant(if matches!(why, ClientError::Unreachable { .. }) { &lost } else { &why });
        if !self.printed.contains(&kind) {
            self.printed.push(kind);
            let why = printed::error(&advised(why));
            line.suspend(|| eprintln!("keybeat: {why}; trying again until it is back"));
        }
    }
}

/// The view of a daemon, without a daemon: a hub in this process that follows Redis.
pub fn belief(source: &SourceArgs, target: &Target, metrics: Arc<Metrics>) -> Belief {
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        admin_listen: None,
        key_pattern: source.pattern.pattern(),
        status_prefix: String::new(),
        group_prefix: String::new(),
        ttl: Duration::from_secs(30),
        close_grace: Duration::ZERO,
        last_seen: None,
        configure_redis: true,
        events: EventsMode::default(),
        probes: true,
        // It may end at any time.
        lease: LeaseMode::Alone,
        hold: Hold::All,
        access: Access::default(),
        tls: None,
        audit: None,
        trusted_proxies: Vec::new(),
        drain: Duration::ZERO,
        stream: None,
        limits: Limits::default(),
    };
    server::believe(&config, target, metrics)
}

/// A group that the daemon refused.
pub fn refused(group: &str, message: &str) -> Error {
    anyhow!("the daemon does not watch the group {}: {message}", shown(group))
}

/// A usage error for groups without a daemon.
pub fn no_groups(groups: &[String]) -> Result<()> {
    if groups.is_empty() {
        return Ok(());
    }
    bail!(Usage("--group needs a daemon: name it with --url, and leave out --redis".into()))
}

async fn from_redis(printer: Printer, args: &WatchArgs, target: &Target) -> Result<()> {
    no_groups(&args.groups)?;
    let pattern = args.source.pattern.pattern();
    for user in &args.users {
        values::user_of(&pattern, user).map_err(|why| Usage(format!("{}: {why}", shown(user))))?;
    }
    let belief = belief(&args.source, target, Arc::new(Metrics::new()));
    belief.hub.opened().wait_for(|&open| open).await?;
    let watcher = belief.hub.watcher();
    let everybody = args.users.is_empty();
    let mut users = Vec::new();
    if everybody {
        watcher.make_lossless(Limits::default().lossless_pending);
        users.extend(belief.hub.watch_all(&watcher).flatten());
    }
    for user in &args.users {
        let name = Name::from(user.as_str());
        let presence = belief.hub.watch(&watcher, &name);
        users.push((name, presence));
    }
    let users: Vec<_> =
        users.iter().map(|(name, presence)| UserObject::new(name, *presence, false)).collect();
    printer.print_states(&users, everybody)?;
    loop {
        watcher.rung().await;
        if watcher.overflowed() {
            bail!("transitions came faster than they could be printed");
        }
        for entry in watcher.take(usize::MAX) {
            printer.print(&entry.object())?;
        }
    }
}
