//! `keybeat demo`: simulated users who go online, go silent, leave and return.

use super::{DemoArgs, logging, serve};
use crate::config::DEFAULT_LISTEN;
use crate::redis::Names;
use crate::redis::target::Target;
use crate::redis::writer::WriteConnection;
use crate::server::Daemon;
use anyhow::Result;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

const TTL: Duration = Duration::from_secs(5);
const BEAT_EVERY: Duration = Duration::from_millis(1_700);

pub async fn run(args: DemoArgs) -> Result<ExitCode> {
    let format = args.daemon.log_format;
    logging::result(format, demo(args).await)
}

async fn demo(args: DemoArgs) -> Result<ExitCode> {
    let traces = logging::start(args.daemon.log_format, &args.daemon.log)?;
    let mut config = args.daemon.config()?;
    if config.listen.to_string() == DEFAULT_LISTEN && std::net::TcpListener::bind(config.listen).is_err() {
        tracing::warn!("{DEFAULT_LISTEN} is in use; listening on a free port instead");
        config.listen.set_port(0);
    }
    let names = Names::new(&config.key_pattern, 0);
    let daemon = Daemon::bind(config, None).await?;
    println!(
        "{} simulated users; open the console at {}://{}",
        args.users,
        daemon.scheme(),
        daemon.address()?
    );
    let crowd = tokio::spawn(simulate(args.users, daemon.target().clone(), names));
    serve::reload_at_hangup(&daemon)?;
    let ran = daemon.run(serve::stop_signals()?).await;
    crowd.abort();
    traces.end().await;
    ran?;
    Ok(ExitCode::SUCCESS)
}

/// The next action of a simulated user.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Beat,
    Return,
}

/// One loop for all users: a heap holds the next action of each.
async fn simulate(users: u32, target: Target, names: Names) -> Result<()> {
    let connection = WriteConnection::new(&target);
    let soon = |ms: u64| Instant::now() + Duration::from_millis(fastrand::u64(..ms));
    let mut queue: BinaryHeap<_> =
        (0..users).map(|user| Reverse((soon(8_000), user, Next::Return))).collect();
    while let Some(Reverse((at, user, next))) = queue.pop() {
        sleep_until(at).await;
        let key = names.redis_key(&name(user, &names));
        let (at, next) = match (next, fastrand::u32(..100)) {
            // The user goes silent: Redis expires the key.
            (Next::Beat, 0..4) => (soon(20_000) + TTL, Next::Return),
            (Next::Beat, 4..6) => {
                end(&connection, key).await;
                (soon(15_000), Next::Return)
            }
            _ => {
                beat(&connection, key).await;
                (Instant::now() + BEAT_EVERY, Next::Beat)
            }
        };
        queue.push(Reverse((at, user, next)));
    }
    Ok(())
}

async fn beat(connection: &WriteConnection, key: String) {
    if let Err(why) = connection.set([key], TTL).await {
        tracing::warn!("a simulated heartbeat failed: {why:#}");
    }
}

async fn end(connection: &WriteConnection, key: String) {
    if let Err(why) = connection.delete([key]).await {
        tracing::warn!("a simulated leave failed: {why:#}");
    }
}

const FIRST: [&str; 20] = [
    "ada", "björn", "chen", "divya", "elif", "femi", "grace", "hana", "igor", "jola", "kofi", "lena", "mika",
    "noor", "otto", "priya", "quentin", "rosa", "sami", "tove",
];

fn name(user: u32, names: &Names) -> String {
    let (first, number) = (FIRST[user as usize % FIRST.len()], user as usize / FIRST.len());
    let session = if names.pattern().needs_session() { "#demo" } else { "" };
    if number == 0 { format!("{first}{session}") } else { format!("{first}-{number}{session}") }
}
