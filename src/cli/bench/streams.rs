//! Idle event streams: what each costs in memory, and what all of them cost the daemon while other users change.

use super::client::{LoadClient, Tally};
use super::report::{Report, known};
use super::{CONNECTING, Site};
use anyhow::Result;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Users who come and go, of whom no stream watches any.
const USERS: usize = 1_000;
/// Transitions per second.
const RATE: f64 = 1_000.0;
/// The daemon frees the memory of the requests that opened the streams.
const SETTLED: Duration = Duration::from_secs(1);

/// The daemon's CPU in milliseconds per second: without transitions, and with them.
struct Cpu {
    idle: Option<f64>,
    busy: Option<f64>,
}

impl Cpu {
    /// The part that the transitions cost.
    fn transitions(&self) -> Option<f64> {
        self.busy.zip(self.idle).map(|(busy, idle)| busy - idle)
    }
}

pub async fn measure(site: &mut Site, report: &Report, count: usize, lasts: Duration) -> Result<()> {
    report.head(&[
        "streams",
        "event streams",
        "transitions/s",
        "daemon's CPU, idle",
        "with transitions",
        "transitions alone",
        "daemon's memory per stream",
    ]);
    site.restart().await?;
    // The history begins with the first stream, and is no cost of the others. A stream gives a sign of life every
    // 10 to 15 s, also without transitions: with less than --seconds 30s that part is not the same in each run.
    let first = open(site, 1).await?;
    let before = row(site, report, 0, None, lasts).await?;
    let memory = site.memory();
    let streams = open(site, count).await?;
    sleep(SETTLED).await;
    let each = site.memory().zip(memory).map(|(after, before)| (after - before) / count as f64);
    let after = row(site, report, count, each, lasts).await?;
    let added = after.transitions().zip(before.transitions()).map(|(after, before)| after / before - 1.0);
    report.row(
        json!({"bench": "streams", "what": "added by the streams", "streams": count, "added": added}),
        &[
            "the streams add to the CPU of transitions".into(),
            count.to_string(),
            "-".into(),
            "-".into(),
            "-".into(),
            known(added, |added| format!("{:+.1} %", added * 100.0)),
            "-".into(),
        ],
    );
    drop((first, streams));
    Ok(())
}

async fn row(site: &Site, report: &Report, count: usize, each: Option<f64>, lasts: Duration) -> Result<Cpu> {
    let (idle, _) = run(site, 0.0, lasts).await?;
    let (busy, rate) = run(site, RATE, lasts).await?;
    let cpu = Cpu { idle, busy };
    let ms = |value: Option<f64>| known(value, |ms| format!("{ms:.1} ms/s"));
    report.row(
        json!({"bench": "streams", "what": "idle streams", "streams": count, "transitions_per_second": rate,
            "idle_cpu_ms": idle, "cpu_ms": busy, "bytes_each": each.map(f64::round)}),
        &[
            "each watches one user who never comes".into(),
            count.to_string(),
            format!("{rate:.0}"),
            ms(idle),
            ms(busy),
            ms(cpu.transitions()),
            known(each, |each| format!("{each:.0} B")),
        ],
    );
    Ok(cpu)
}

/// Makes transitions at this rate for a while. Returns the daemon's CPU in milliseconds per second, and the rate
/// reached. It ends with nobody online.
async fn run(site: &Site, rate: f64, lasts: Duration) -> Result<(Option<f64>, f64)> {
    let tally = Tally::new(USERS);
    let (cpu, began, mut made) = (site.cpu(), Instant::now(), 0);
    while began.elapsed() < lasts {
        let due = (began.elapsed().as_secs_f64() * rate) as usize;
        while made < due {
            let (user, come) = (made % USERS, (made / USERS).is_multiple_of(2));
            let some: Vec<usize> = (user..USERS.min(user + due - made)).collect();
            site.change(&tally, &some, come).await?;
            made += some.len();
        }
        sleep(Duration::from_millis(1)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    let used = site.cpu().zip(cpu).map(|(after, before)| (after - before) / seconds * 1e3);
    if rate > 0.0 {
        site.end(&(0..USERS).collect::<Vec<_>>()).await?;
    }
    Ok((used, made as f64 / seconds))
}

/// Opens event streams, each for one user who never comes.
async fn open(site: &Site, count: usize) -> Result<JoinSet<()>> {
    let (mut reading, mut connecting, tally) = (JoinSet::new(), JoinSet::new(), Tally::new(0));
    for number in 0..count {
        let (address, tally) = (site.address.clone(), Arc::clone(&tally));
        connecting.spawn(async move {
            let stream = LoadClient::stream(&address, number, &format!("users=idle-{number}")).await?;
            anyhow::Ok(stream.discard(tally))
        });
        if connecting.len() >= CONNECTING
            && let Some(client) = connecting.join_next().await
        {
            reading.spawn(client??);
        }
    }
    while let Some(client) = connecting.join_next().await {
        reading.spawn(client??);
    }
    Ok(reading)
}
