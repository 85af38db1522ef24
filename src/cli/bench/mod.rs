//! `keybeat bench`: what a daemon holds and how fast it tells, measured by clients of its own.

mod client;

use super::BenchArgs;
use crate::cli::access::TokenArgs;
use crate::cli::address::{Address, AddressArgs};
use crate::cli::daemon;
use crate::keyspace::Names;
use crate::keyspace::client::{Connection, NO_EVENTS, Target};
use crate::keyspace::embedded::Embedded;
use anyhow::{Context, Result, bail};
use axum::http::Method;
use client::{Client, Tally, name};
use fred::prelude::*;
use serde_json::json;
use std::net::SocketAddr;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// Files that a process needs beside one for each client.
const OTHER_FILES: u64 = 200;
/// Clients that connect at the same time.
const CONNECTING: usize = 200;
/// Users who come and go for the fan-out.
const USERS: usize = 1_000;
/// How long something may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Transitions a second; the last is as many as the clients take in.
const RATES: [Option<u64>; 5] = [Some(1), Some(10), Some(100), Some(1_000), None];

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// Sockets: how soon they stand, and what each costs in memory
    Connections,
    /// Transitions told to clients who watch everybody: lag and CPU
    Fanout,
}

/// A daemon of our own, on a Redis of our own.
struct Bench {
    daemon: Child,
    address: SocketAddr,
    redis: Connection,
    names: Names,
    embedded: Embedded,
}

pub async fn run(args: BenchArgs) -> Result<ExitCode> {
    super::logging::start_quiet();
    check_files(args.clients as u64)?;
    let bench = Bench::start().await?;
    if args.what != Some(What::Fanout) {
        connections(&bench, args.clients as usize, args.json).await?;
    }
    if args.what != Some(What::Connections) {
        fanout(&bench, args.watchers as usize, args.seconds, args.json).await?;
    }
    bench.stop().await?;
    Ok(ExitCode::SUCCESS)
}

/// Each client is an open file here, and one in the daemon.
fn check_files(clients: u64) -> Result<()> {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let may = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    match may {
        Some(may) if may < clients + OTHER_FILES => bail!(
            "{clients} clients need {} open files and this process may have {may}; raise it: ulimit -n {}, or take fewer: \
             --clients {}",
            clients + OTHER_FILES,
            clients + OTHER_FILES,
            may.saturating_sub(OTHER_FILES)
        ),
        _ => Ok(()),
    }
}

impl Bench {
    async fn start() -> Result<Bench> {
        let embedded = Embedded::start().await?;
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let daemon = Command::new(std::env::current_exe()?)
            .args(["serve", "--redis", &embedded.url(), "--listen", &address.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("the daemon cannot be started")?;
        let target: Target = embedded.target()?;
        let redis = target.connect(NO_EVENTS).await?;
        let bench = Bench { daemon, address, redis, names: Names::new("presence:", target.db()), embedded };
        until("the daemon is ready", async || is_ready(address).await).await?;
        Ok(bench)
    }

    async fn stop(mut self) -> Result<()> {
        self.daemon.kill().await?;
        self.embedded.stop().await;
        Ok(())
    }

    fn process(&self) -> Result<u32> {
        self.daemon.id().context("the daemon has ended")
    }

    /// Resident memory in bytes.
    fn memory(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.split_whitespace().next().context("no number")?.parse::<f64>()? * 1024.0)
    }

    /// Seconds of CPU so far.
    fn cpu(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process()?))?;
        let after = stat.rsplit_once(')').context("no name")?.1;
        let ticks = after.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
        // 100 a second on Linux.
        Ok(ticks.sum::<Result<f64, _>>()? / 100.0)
    }

    /// Connects clients, a few hundred at a time, each of which asks `message` and then counts.
    async fn clients(&self, count: usize, message: Option<&str>, tally: &Arc<Tally>) -> Result<JoinSet<()>> {
        let (mut counting, mut done) = (JoinSet::new(), 0);
        while done < count {
            let mut connecting = JoinSet::new();
            for number in done..count.min(done + CONNECTING) {
                let (address, message) = (self.address, message.map(str::to_owned));
                connecting.spawn(async move {
                    let mut client = Client::connect(address, number).await?;
                    if let Some(message) = message {
                        client.send(&message).await?;
                    }
                    anyhow::Ok(client)
                });
            }
            while let Some(client) = connecting.join_next().await {
                counting.spawn(client??.count(tally.clone()));
                done += 1;
            }
        }
        Ok(counting)
    }

    /// Lets users come or go, in one pipeline.
    async fn change(&self, tally: &Tally, users: &[usize], come: bool) -> Result<()> {
        let pipeline = self.redis.client().pipeline();
        for &user in users {
            let key = self.names.redis_key(&name(user));
            if come {
                pipeline.set::<(), _, _>(key, 1, Some(Expiration::EX(3600)), None, false).await?;
            } else {
                pipeline.del::<(), _>(key).await?;
            }
            // Early by the way to Redis: lags are rather told too long.
            tally.changed[user].store(tally.now_us(), Relaxed);
        }
        pipeline.all::<Vec<Value>>().await?;
        Ok(())
    }
}

async fn is_ready(address: SocketAddr) -> bool {
    let url = Address::parse(&format!("http://{address}")).ok();
    let Ok(daemon) = daemon::Daemon::new(&AddressArgs { url, ca: None }, TokenArgs::none()) else {
        return false;
    };
    let answer = daemon.call(Method::GET, "/readyz", None).await;
    answer.is_ok_and(|(status, _)| status.is_success())
}

async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !check().await {
        if Instant::now() > end {
            bail!("{PATIENCE:?} were not enough until {what}");
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn connections(bench: &Bench, count: usize, json: bool) -> Result<()> {
    let users: Vec<String> = (0..100).map(name).collect();
    let watch = json!({"type": "watch", "users": users}).to_string();
    if !json {
        println!(
            "| connections | sockets | connected within | daemon's memory per socket |\n|---|---|---|---|"
        );
    }
    for (what, message) in [("idle", None), ("watching 100 users each", Some(watch.as_str()))] {
        let (tally, before, began) = (Tally::new(0), bench.memory()?, Instant::now());
        let clients = bench.clients(count, message, &tally).await?;
        let expected = if message.is_some() { count as u64 } else { 0 };
        until("all have their snapshot", async || tally.snapshots.load(Relaxed) >= expected).await?;
        let seconds = began.elapsed().as_secs_f64();
        // What passing requests needed is given back.
        sleep(Duration::from_secs(1)).await;
        let each = (bench.memory()? - before) / count as f64;
        if json {
            println!(
                "{}",
                json!({"bench": "connections", "what": what, "sockets": count, "seconds": seconds, "bytes_each": each.round()})
            );
        } else {
            println!("| {what} | {count} | {seconds:.1} s | {each:.0} B |");
        }
        drop(clients);
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

async fn fanout(bench: &Bench, watchers: usize, lasts: Duration, json: bool) -> Result<()> {
    let tally = Tally::new(USERS);
    let watch = r#"{"type":"watch","all":true,"lossless":true}"#;
    let clients = bench.clients(watchers, Some(watch), &tally).await?;
    until("all have their snapshot", async || tally.snapshots.load(Relaxed) >= watchers as u64).await?;
    if !json {
        println!(
            "\n| fanout: transitions/s to {watchers} who watch everybody | deliveries/s | lost | a message | p50 | p99 | max | daemon's CPU per delivery |\n|---|---|---|---|---|---|---|---|"
        );
    }
    for rate in RATES {
        let (told, frames) = (tally.told.load(Relaxed), tally.frames.load(Relaxed));
        let (cpu, began) = (bench.cpu()?, Instant::now());
        let made = drive(bench, &tally, watchers as u64, rate, lasts).await?;
        let expected = made * watchers as u64;
        let all_told = async || tally.told.load(Relaxed) - told >= expected;
        let lost = if until("all is told", all_told).await.is_ok() {
            0
        } else {
            expected - (tally.told.load(Relaxed) - told)
        };
        let seconds = began.elapsed().as_secs_f64();
        let (per_second, each_us) = (expected as f64 / seconds, (bench.cpu()? - cpu) / expected as f64 * 1e6);
        let packed = (expected - lost) as f64 / (tally.frames.load(Relaxed) - frames).max(1) as f64;
        let lags = tally.take_lags();
        let [p50, p99, max] = [0.5, 0.99, 1.0]
            .map(|q| lags.get((q * lags.len().saturating_sub(1) as f64) as usize).copied().unwrap_or(0.0));
        let rate = made as f64 / seconds;
        if json {
            println!(
                "{}",
                json!({"bench": "fanout", "watchers": watchers, "transitions_per_second": rate, "deliveries_per_second": per_second, "lost": lost, "packed": packed, "p50_ms": p50, "p99_ms": p99, "max_ms": max, "cpu_us": each_us})
            );
        } else {
            println!(
                "| {rate:.0} | {per_second:.0} | {lost} | {packed:.1} | {p50:.1} ms | {p99:.1} ms | {max:.1} ms | {each_us:.2} µs |"
            );
        }
    }
    drop(clients);
    Ok(())
}

/// Makes transitions for a while, so many a second, or as many as are taken in; says how many.
async fn drive(
    bench: &Bench,
    tally: &Tally,
    watchers: u64,
    rate: Option<u64>,
    lasts: Duration,
) -> Result<u64> {
    let (began, told) = (Instant::now(), tally.told.load(Relaxed));
    let (mut made, mut user, mut come) = (0, 0, true);
    while began.elapsed() < lasts || (user, come) != (0, true) {
        // So that each round ends as it began, with nobody online, a round is as long as the rate allows.
        let round = rate.map_or(USERS, |rate| (rate as usize).min(USERS));
        let some: Vec<usize> = match rate {
            Some(_) => vec![user],
            None => (user..round.min(user + 100)).collect(),
        };
        bench.change(tally, &some, come).await?;
        made += some.len() as u64;
        user += some.len();
        if user >= round {
            (user, come) = (0, !come);
        }
        match rate {
            Some(rate) => sleep_until(began + Duration::from_secs_f64(made as f64 / rate as f64)).await,
            // As fast as the clients are told, a few hundred ahead of them.
            None => {
                until("the clients are told", async || {
                    made < (tally.told.load(Relaxed) - told) / watchers + 500
                })
                .await?
            }
        }
    }
    Ok(made)
}
