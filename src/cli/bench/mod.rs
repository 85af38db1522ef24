//! `keybeat bench`: the load and the latency of a daemon, measured with real clients.

mod approaches;
mod capacity;
mod client;
mod connections;
mod fanout;
mod heartbeats;
mod lag;
mod report;
mod simulation;
mod site;
mod streams;

use super::{BenchArgs, Usage};
use anyhow::{Result, bail};
use client::{LoadClient, Tally};
use report::{Report, bar};
use site::Site;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Open files of a process apart from one per client.
const OTHER_FILES: u64 = 200;
/// Clients that connect at the same time.
const CONNECTING: usize = 200;
/// Time limit of each step.
const PATIENCE: Duration = Duration::from_secs(60);

/// The parts of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// Time from a change to a client's message: SET, DEL, deadline, many deadlines in one second
    Lag,
    /// Heartbeats per second, and the daemon's CPU per heartbeat
    Heartbeats,
    /// Transitions sent to many clients: lag, and the daemon's CPU per delivery
    Fanout,
    /// Many sockets: time to connect, memory per socket, CPU per heartbeat of users whom sockets keep online, time to reconnect
    /// after the daemon was killed
    Connections,
    /// Event streams: memory of each, and CPU that idle ones add while other users change
    Streams,
    /// CPU of Redis and of each daemon per heartbeat, by the number of daemons and the mode of --events; only by its name
    Capacity,
    /// Five ways to build a presence indicator, on the same workload; only by its name
    Approaches,
    /// The tracker with many users in simulated time: CPU per heartbeat, memory per user, lateness; only by its name
    Simulation,
}

pub async fn run(args: BenchArgs) -> Result<ExitCode> {
    super::logging::start_quiet();
    let report = Report { json: args.json };
    match args.what {
        Some(What::Capacity) => return capacity(&args, &report).await,
        Some(What::Approaches) => return approaches(&args, &report).await,
        Some(What::Simulation) => return simulation(&args, &report),
        _ => {}
    }
    check_files(u64::from(args.clients.max(args.watchers)))?;
    let mut site = match &args.url {
        Some(url) => Site::running(url, &args.token).await?,
        None => Site::own().await?,
    };
    let wanted = |what| args.what.is_none_or(|wanted| wanted == what);
    if wanted(What::Lag) {
        lag::measure(&site, &report, args.users as usize).await?;
    }
    if wanted(What::Heartbeats) {
        heartbeats::measure(&site, &report, args.users as usize, args.seconds).await?;
    }
    if wanted(What::Fanout) {
        let sizes = fanout::Sizes {
            watchers: args.watchers as usize,
            crowd: args.clients as usize,
            lasts: args.seconds,
        };
        fanout::measure(&mut site, &report, sizes).await?;
    }
    if wanted(What::Connections) {
        connections::measure(&mut site, &report, args.clients as usize, args.seconds).await?;
    }
    if wanted(What::Streams) {
        streams::measure(&mut site, &report, args.clients as usize, args.seconds).await?;
    }
    site.stop().await?;
    Ok(ExitCode::SUCCESS)
}

/// The unit costs need several daemons on a Redis of their own.
async fn capacity(args: &BenchArgs, report: &Report) -> Result<ExitCode> {
    if let Some(url) = &args.url {
        bail!(Usage(format!("capacity starts its own daemons, so it cannot measure {url}; leave out --url")));
    }
    let sizes =
        capacity::Sizes { users: args.users as usize, daemons: args.daemons.clone(), lasts: args.seconds };
    capacity::measure(report, &sizes).await?;
    Ok(ExitCode::SUCCESS)
}

/// The approaches need servers of their own.
async fn approaches(args: &BenchArgs, report: &Report) -> Result<ExitCode> {
    if let Some(url) = &args.url {
        bail!(Usage(format!(
            "approaches starts its own servers, so it cannot measure {url}; leave out --url"
        )));
    }
    let (users, contacts) = (args.watchers as usize, args.contacts as usize);
    if users < approaches::ROUND {
        bail!(Usage(format!(
            "approaches needs at least {} users, not {users}: --watchers 100",
            approaches::ROUND
        )));
    }
    if contacts >= users {
        bail!(Usage(format!("of {users} users nobody has {contacts} contacts; use fewer: --contacts 10")));
    }
    // The small programs run in this process, which has both ends of each connection.
    check_files(2 * u64::from(args.watchers))?;
    approaches::measure(
        report,
        &approaches::Sizes { users, contacts, every: args.every, lasts: args.seconds },
    )
    .await?;
    Ok(ExitCode::SUCCESS)
}

/// The simulation has no Redis and no daemon.
fn simulation(args: &BenchArgs, report: &Report) -> Result<ExitCode> {
    if let Some(url) = &args.url {
        bail!(Usage(format!("simulation starts no daemon, so it cannot measure {url}; leave out --url")));
    }
    let sizes = simulation::Sizes { users: args.users as usize, every: args.every, lasts: args.seconds };
    simulation::measure(report, &sizes)?;
    Ok(ExitCode::SUCCESS)
}

/// Checks the limit of open files: each client needs one here and one in the daemon.
fn check_files(clients: u64) -> Result<()> {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let may = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    match may {
        Some(may) if may < clients + OTHER_FILES => bail!(
            "{clients} clients need {} open files, but the limit is {may}; raise it (ulimit -n {}) or use fewer clients: \
             --clients {}",
            clients + OTHER_FILES,
            clients + OTHER_FILES,
            may.saturating_sub(OTHER_FILES)
        ),
        _ => Ok(()),
    }
}

/// Waits until `check` returns true.
///
/// # Errors
/// It does not within [`PATIENCE`].
async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !check().await {
        if Instant::now() > end {
            bail!("gave up after {PATIENCE:?} of waiting until {what}");
        }
        sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Connects `count` clients, a few hundred at a time. Each sends its message, if any, and then counts what it receives.
async fn crowd(
    site: &Site,
    count: usize,
    message: impl Fn(usize) -> Option<String>,
    tally: &Arc<Tally>,
) -> Result<JoinSet<()>> {
    let connect = |number: usize| {
        let (address, message) = (site.address.clone(), message(number));
        async move {
            let mut client = LoadClient::connect(&address, number).await?;
            if let Some(message) = message {
                client.send(&message).await?;
            }
            anyhow::Ok(client)
        }
    };
    gather(count, connect, tally).await
}

/// Connects `count` clients, a few hundred at a time. Each counts what it receives.
async fn gather<F>(count: usize, connect: impl Fn(usize) -> F, tally: &Arc<Tally>) -> Result<JoinSet<()>>
where
    F: Future<Output = Result<LoadClient>> + Send + 'static,
{
    let (mut counting, mut connecting, mut next) = (JoinSet::new(), JoinSet::new(), 0);
    let bar = bar("connecting", count as u64);
    while counting.len() < count {
        while next < count && connecting.len() < CONNECTING {
            connecting.spawn(connect(next));
            next += 1;
        }
        if let Some(client) = connecting.join_next().await {
            counting.spawn(client??.count(tally.clone()));
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(counting)
}
