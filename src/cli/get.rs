//! `keybeat get`: the state of users.

use super::daemon::DaemonApi;
use super::{GetArgs, Source, Usage, logging, printed, progress, rights, values, watch};
use crate::error::shown;
use crate::presence::Key;
use crate::protocol::{GroupAnswer, QueriedUser, UserObject};
use crate::redis::Glob;
use crate::redis::listing::{Listing, LiveKey};
use crate::redis::target::Target;
use anyhow::{Result, anyhow, bail};
use serde_json::json;
use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// The exit code if any user is offline.
const SOMEBODY_OFFLINE: u8 = 3;

pub async fn run(mut args: GetArgs) -> Result<ExitCode> {
    logging::start_quiet();
    // A daemon has its own key pattern.
    let pattern = args.source.redis.as_ref().map(|_| args.source.pattern.pattern());
    let checked = args.users.iter().map(|user| {
        let valid = values::user(user);
        let valid = valid.and_then(|user| match &pattern {
            Some(pattern) => values::user_of(pattern, &user).map(|()| user),
            None => Ok(user),
        });
        valid.map_err(|why| format!("{}: {why}", shown(user)))
    });
    let (users, invalid): (Vec<_>, Vec<_>) = checked.partition(Result::is_ok);
    let invalid = invalid.into_iter().find_map(Result::err);
    args.users = users.into_iter().flatten().collect();
    // One invalid name does not hide the others.
    match invalid {
        Some(why) if args.users.is_empty() && args.groups.is_empty() => Err(Usage(why).into()),
        Some(why) => print(args).await.and_then(|_| bail!("{why}")),
        None => print(args).await,
    }
}

async fn print(args: GetArgs) -> Result<ExitCode> {
    let all_online = match args.source.source()? {
        Source::Daemon(daemon) => {
            let answers = progress::waiting_for(&daemon.shown(), daemon.query(&args.users)).await?;
            let (mut objects, mut refused) = (Vec::new(), None);
            for answer in answers {
                match answer {
                    QueriedUser::Known(object) => objects.push(object),
                    QueriedUser::Refused { error, .. } => refused = refused.or(Some(error)),
                }
            }
            print_objects(&objects, args.json)?;
            let mut all_online = objects.iter().all(UserObject::online);
            for group in &args.groups {
                all_online &= print_group(&daemon, group, args.json).await?;
            }
            if let Some(error) = refused {
                bail!("the daemon refused a user: {}", error.message);
            }
            all_online
        }
        Source::Redis(target) => {
            watch::no_groups(&args.groups)?;
            from_redis(&args, &target).await?
        }
    };
    Ok(if all_online { ExitCode::SUCCESS } else { ExitCode::from(SOMEBODY_OFFLINE) })
}

/// Prints the counts of a group and the states of its members; returns whether all are online.
async fn print_group(daemon: &DaemonApi, group: &str, as_json: bool) -> Result<bool> {
    let (mut cursor, mut all_online) = (String::new(), true);
    loop {
        let page = progress::waiting_for(&daemon.shown(), daemon.group(group, &cursor)).await?;
        if cursor.is_empty() {
            let GroupAnswer { members, online, .. } = page;
            let json = json!({"group": group, "members": members, "online": online});
            let text = || format!("{}: {online} of {members} members online", printed::text(group));
            writeln!(std::io::stdout(), "{}", if as_json { printed::json(&json)? } else { text() })?;
        }
        print_objects(&page.users, as_json)?;
        all_online &= page.users.iter().all(UserObject::online);
        match page.next_cursor {
            Some(next) => cursor = next,
            None => return Ok(all_online),
        }
    }
}

fn print_objects(objects: &[UserObject], as_json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for object in objects {
        if as_json {
            writeln!(out, "{}", printed::json(object)?)?;
            continue;
        }
        let user = printed::text(object.user());
        let status = object.status().map(printed::json).transpose()?;
        let status = status.map_or(String::new(), |status| format!(", status {status}"));
        match object {
            UserObject::Online { since_ms, sessions, .. } => {
                let plural = if *sessions == 1 { "" } else { "s" };
                let time = since_ms.map(|at| format!(" for {}", ago(at))).unwrap_or_default();
                writeln!(out, "{user}: online{time}, {sessions} session{plural}{status}")?;
            }
            UserObject::Offline { last_seen_ms: Some(at), .. } => {
                writeln!(out, "{user}: offline, last seen {} ago{status}", ago(*at))?;
            }
            UserObject::Offline { last_seen_ms: None, .. } => writeln!(out, "{user}: offline{status}")?,
        }
    }
    Ok(())
}

/// The time since `at_ms`, rounded down to seconds.
fn ago(at_ms: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let passed = now.saturating_sub(Duration::from_millis(at_ms));
    humantime::format_duration(Duration::from_secs(passed.as_secs())).to_string()
}

/// Prints the states from Redis, which knows who is online, but neither since when nor the last heartbeat.
async fn from_redis(args: &GetArgs, target: &Target) -> Result<bool> {
    let pattern = args.source.pattern.pattern();
    let read = async { online(&Listing::connect(target, &pattern).await?, &args.users).await };
    let online = read.await.map_err(|why| rights::advised(why, target, &pattern, rights::LIST))?;
    let mut out = std::io::stdout().lock();
    for user in &args.users {
        let state = if online.contains(user) { "online" } else { "offline" };
        if args.json {
            writeln!(out, "{}", printed::json(&json!({"user": user, "state": state}))?)?;
        } else {
            writeln!(out, "{}: {state}", printed::text(user))?;
        }
    }
    Ok(args.users.iter().all(|user| online.contains(user)))
}

/// Those of `users` who are online. It reads the keyspace at most once, and only if a user has no key without a session:
/// such a user may have keys with sessions.
async fn online(listing: &Listing, users: &[String]) -> Result<HashSet<String>> {
    let pattern = listing.pattern();
    let keys: Result<Vec<Key>, _> = users.iter().map(|user| Key::new(user, None)).collect();
    let keys = if pattern.needs_session() { Vec::new() } else { keys.map_err(|why| anyhow!("{why}"))? };
    let name = |live: LiveKey| live.key.user().to_owned();
    let mut online: HashSet<String> = listing.look_up(&keys).await?.into_iter().map(name).collect();
    let missing: HashSet<&str> =
        users.iter().map(|user| &**user).filter(|user| !online.contains(*user)).collect();
    if missing.is_empty() || !pattern.has_sessions() {
        return Ok(online);
    }
    let bar = progress::keys(listing.size().await.ok());
    let progress = |read: usize| bar.inc(read as u64);
    let found = match missing.iter().next() {
        Some(user) if missing.len() == 1 => listing.sessions_of(user, progress).await?,
        _ => listing.read(&Glob::new("*#*"), progress).await?,
    };
    let found: Vec<String> = found.into_iter().map(name).filter(|user| missing.contains(&**user)).collect();
    online.extend(found);
    Ok(online)
}
