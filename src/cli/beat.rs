//! `keybeat beat`: heartbeats, once or repeatedly.

use super::{BeatArgs, Source, Usage, logging, printed, progress, rights, serve};
use crate::error::shown;
use crate::metrics::Metrics;
use crate::redis::Names;
use crate::redis::cluster::{self, Followed};
use crate::redis::link::parser::Seal;
use crate::redis::target::Target;
use crate::redis::writer::{Store, WriteConnection};
use anyhow::{Context, Result, anyhow};
use indicatif::ProgressBar;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub async fn run(args: BeatArgs) -> Result<ExitCode> {
    logging::start_quiet();
    if let Some(every) = args.every.filter(|every| *every >= *args.ttl) {
        return Err(Usage(format!(
            "--every {every:?} is not shorter than --ttl {}, so the users would go offline between heartbeats; shorten \
             --every, or lengthen --ttl",
            args.ttl
        ))
        .into());
    }
    let sender = HeartbeatSender::new(&args).await?;
    if let Some(every) = args.every {
        let stop = serve::stop_signal()?;
        let beats = async {
            let mut ticks = tokio::time::interval(every);
            let mut shown = Shown::new(&args, every);
            loop {
                ticks.tick().await;
                // The next one may succeed after a restart of Redis or the daemon.
                shown.result(sender.beat(&args).await);
            }
        };
        tokio::select! {
            () = beats => {}
            () = stop => {}
        }
    } else {
        sender.beat(&args).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The messages about repeated heartbeats, on standard error: an opening line, the beginning and the end of each time in which they
/// fail, and on a terminal a line that counts them.
struct Shown {
    line: ProgressBar,
    users: String,
    sent: u64,
    failing: bool,
}

impl Shown {
    fn new(args: &BeatArgs, every: Duration) -> Shown {
        let users = match args.users.as_slice() {
            [one] => printed::text(one.as_str()).into_owned(),
            users => format!("{} users", users.len()),
        };
        eprintln!("keybeat: sending heartbeats of {users} every {every:?}, until you stop it (Ctrl-C)");
        Shown { line: progress::step(""), users, sent: 0, failing: false }
    }

    fn result(&mut self, beat: Result<()>) {
        match beat {
            Ok(()) => {
                self.sent += 1;
                if std::mem::take(&mut self.failing) {
                    self.print("heartbeats arrive again");
                }
                self.line.set_message(format!("{} heartbeats of {}", self.sent, self.users));
            }
            // An outage is printed once, and not with each heartbeat.
            Err(why) if !self.failing => {
                self.failing = true;
                self.print(&format!("{}; trying again with each heartbeat", printed::error(&why)));
            }
            Err(_) => {}
        }
    }

    fn print(&self, text: &str) {
        self.line.suspend(|| eprintln!("keybeat: {text}"));
    }
}

enum HeartbeatSender {
    Daemon(super::daemon::DaemonApi),
    Redis { connection: Box<WriteConnection>, names: Names, target: Box<Target> },
    Cluster { store: Box<Store>, _followed: Followed, target: Box<Target> },
}

impl HeartbeatSender {
    async fn new(args: &BeatArgs) -> Result<HeartbeatSender> {
        Ok(match args.source.source()? {
            Source::Daemon(daemon) => HeartbeatSender::Daemon(daemon),
            Source::Redis(target) => {
                let sender = HeartbeatSender::redis(args, &target).await;
                sender.map_err(|why| refused(why, args, &target))?
            }
        })
    }

    async fn redis(args: &BeatArgs, target: &Target) -> Result<HeartbeatSender> {
        let pattern = args.source.pattern.pattern();
        for key in &args.users {
            let checked = pattern.key(key.user(), key.session());
            checked.map_err(|why| Usage(format!("{}: {why}", shown(key.as_str()))))?;
        }
        let names = Names::new(&pattern, target.db());
        if target.cluster_seeds().is_some() {
            // A cluster that is unreachable now is an error, too.
            cluster::primaries(target).await?;
            let followed = cluster::follow(target);
            let servers = (followed.topology.clone(), watch::channel(target.clone()).1);
            let nobody = (String::new(), Seal::default());
            let store = Store::new(servers, names, nobody, *args.ttl, Arc::new(Metrics::new()));
            let (store, target) = (Box::new(store), Box::new(target.clone()));
            return Ok(HeartbeatSender::Cluster { store, _followed: followed, target });
        }
        let connection = match args.every {
            // For a single heartbeat, a Redis that is unreachable now is an error.
            None => WriteConnection::open(target).await?,
            Some(_) => WriteConnection::new(target),
        };
        let (connection, target) = (Box::new(connection), Box::new(target.clone()));
        Ok(HeartbeatSender::Redis { connection, names, target })
    }

    async fn beat(&self, args: &BeatArgs) -> Result<()> {
        match self {
            HeartbeatSender::Daemon(daemon) => {
                progress::waiting_for(&daemon.shown(), daemon.beat(&args.users, *args.ttl)).await?;
            }
            HeartbeatSender::Redis { connection, names, target } => {
                let keys = args.users.iter().map(|key| names.redis_key(key.as_str()));
                let set = connection.set(keys, *args.ttl).await.context("cannot write the heartbeat");
                set.map_err(|why| refused(why, args, target))?;
            }
            HeartbeatSender::Cluster { store, target, .. } => {
                let keys: Vec<_> = args.users.iter().map(|key| (key.clone(), None)).collect();
                store.beat(&keys).await.map_err(|why| refused(anyhow!("{why}"), args, target))?;
            }
        }
        Ok(())
    }
}

/// The error; if Redis refused the heartbeat, with the rule that allows it.
fn refused(why: anyhow::Error, args: &BeatArgs, target: &Target) -> anyhow::Error {
    rights::advised(why, target, &args.source.pattern.pattern(), rights::BEAT)
}
