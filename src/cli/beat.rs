//! `keybeat beat`

use super::{BeatArgs, Source, logging, serve};
use crate::keyspace::Names;
use crate::keyspace::client::{Connection, NO_EVENTS, Target};
use anyhow::{Context, Result};
use fred::prelude::*;
use std::process::ExitCode;
use std::time::Duration;

pub async fn run(args: BeatArgs) -> Result<ExitCode> {
    logging::start_quiet();
    let sender = Sender::new(&args).await?;
    if let Some(every) = args.every {
        if every >= args.ttl {
            eprintln!(
                "keybeat: --every {every:?} is not shorter than --ttl {:?}: the users will blink",
                args.ttl
            );
        }
        let stop = serve::stop_signal()?;
        let beats = async {
            let mut ticks = tokio::time::interval(every);
            loop {
                ticks.tick().await;
                // One that fails is said, and the next may not: whoever beats outlives a restart.
                if let Err(why) = sender.beat(&args).await {
                    eprintln!("keybeat: {why:#}");
                }
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

enum Sender {
    Daemon(super::daemon::Daemon),
    Redis(Connection, Names),
}

impl Sender {
    async fn new(args: &BeatArgs) -> Result<Sender> {
        Ok(match args.source.source()? {
            Source::Daemon(daemon) => Sender::Daemon(daemon),
            Source::Redis(target) => Sender::redis(args, &target).await?,
        })
    }

    async fn redis(args: &BeatArgs, target: &Target) -> Result<Sender> {
        let names = Names::new(&args.source.prefix, target.db());
        let connection = match args.every {
            // Once: a Redis that is not there is an error now.
            None => target.connect(NO_EVENTS).await?,
            Some(_) => target.persistent()?,
        };
        Ok(Sender::Redis(connection, names))
    }

    async fn beat(&self, args: &BeatArgs) -> Result<()> {
        match self {
            Sender::Daemon(daemon) => daemon.beat(&args.users, args.ttl).await?,
            Sender::Redis(connection, names) => {
                for key in &args.users {
                    set(connection, names.redis_key(key.as_str()), args.ttl).await?;
                }
            }
        }
        Ok(())
    }
}

async fn set(connection: &Connection, name: String, ttl: Duration) -> Result<()> {
    let expire = Some(Expiration::PX(ttl.as_millis() as i64));
    let set: Result<(), _> = connection.client().set(name, 1, expire, None, false).await;
    set.context("the heartbeat was not written")
}
