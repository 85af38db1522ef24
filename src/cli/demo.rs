//! `keybeat demo`: simulated users who go online, go silent, leave and return.
//!
//! They are a program like any other, so they write through fred, as an application would, and not through keybeat's own
//! RESP client. Their server is always the private one that the demo starts: fred sets no limit to nested answers, so it
//! must not meet a server that somebody else controls.

use super::{DemoArgs, logging, serve};
use crate::config::DEFAULT_LISTEN;
use crate::redis::Names;
use crate::redis::target::Target;
use crate::server::Daemon;
use anyhow::{Context, Result};
use fred::prelude::*;
use fred::types::config::ServerConfig;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

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
        tracing::info!("{DEFAULT_LISTEN} is in use; listening on a free port instead");
        config.listen.set_port(0);
    }
    let names = Names::new(&config.key_pattern, 0);
    let mut daemon = Daemon::bind(config, None).await?;
    let mut signals = serve::stop_signals()?;
    let banner = banner(args.users, &format!("{}://{}", daemon.scheme(), daemon.address()?));
    daemon.at_first_view(move || println!("{banner}"));
    let crowd = tokio::spawn(simulate(args.users, daemon.target().clone(), names));
    serve::reload_at_hangup(&daemon)?;
    let users = crowd.abort_handle();
    let ran = daemon.run(async move || {
        let signal = signals().await;
        // Their Redis ends with the daemon.
        users.abort();
        signal
    });
    let ran = ran.await;
    crowd.abort();
    traces.end().await;
    ran?;
    Ok(ExitCode::SUCCESS)
}

/// The last lines of a start.
fn banner(users: u32, url: &str) -> String {
    format!(
        "\n  keybeat runs, with a private Redis and {users} simulated users who come and go.\n\n  \
         Open    {url}   to see who is online, live\n  \
         Ask     curl {url}/v1/users/ada\n  \
         Stop    Ctrl-C   stops the users and their Redis too\n"
    )
}

/// The next action of a simulated user.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Beat,
    Return,
}

/// One loop for all users: a heap holds the next action of each.
async fn simulate(users: u32, target: Target, names: Names) -> Result<()> {
    let (client, _connection) = connect(&target)?;
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
                end(&client, key).await;
                (soon(15_000), Next::Return)
            }
            _ => {
                beat(&client, key).await;
                (Instant::now() + BEAT_EVERY, Next::Beat)
            }
        };
        queue.push(Reverse((at, user, next)));
    }
    Ok(())
}

/// A connection to the private Redis that connects again by itself. It lasts as long as the handle.
fn connect(target: &Target) -> Result<(Client, AbortOnDropHandle<Result<(), Error>>)> {
    let path = target.shown().strip_prefix("redis+unix://").context("the demo's Redis has no unix socket")?;
    let config = Config { server: ServerConfig::Unix { path: path.into() }, ..Config::default() };
    let client = Builder::from_config(config)
        .with_performance_config(|config| config.default_command_timeout = BEAT_EVERY)
        .set_policy(ReconnectPolicy::new_exponential(0, 50, 2_000, 2))
        .build()?;
    let connection = AbortOnDropHandle::new(client.connect());
    Ok((client, connection))
}

async fn beat(client: &Client, key: String) {
    let ttl = Some(Expiration::PX(TTL.as_millis() as i64));
    if let Err(why) = client.set::<(), _, _>(key, 1, ttl, None, false).await {
        tracing::warn!("a simulated heartbeat failed: {why}");
    }
}

async fn end(client: &Client, key: String) {
    if let Err(why) = client.del::<(), _>(key).await {
        tracing::warn!("a simulated leave failed: {why}");
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
