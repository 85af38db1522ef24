//! Transitions sent to many clients: lag, and the daemon's CPU per delivery.

use super::client::{LoadClient, Tally, name};
use super::report::{Report, bar, known, ms, quantiles};
use super::{Site, crowd, until};
use anyhow::{Result, ensure};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Users who go online and offline.
const USERS: usize = 1_000;
/// Users that a client watches by name.
const WATCHED: usize = 100;
/// Transitions per second.
const RATES: [f64; 4] = [1.0, 10.0, 100.0, 1_000.0];
/// Clients that never read, the rate in transitions per second next to them, and the number of runs with and without
/// them.
const STUCK: usize = 10;
const BESIDE: f64 = 1_000.0;
const PAIRS: usize = 3;
/// Undelivered transitions at the highest rate.
const AHEAD: u64 = 500;
/// Transitions in one pipeline.
const AT_ONCE: usize = 100;
/// Transitions of the one user that all clients watch.
const FLIPS: usize = 20;
const EVERYBODY: &str = r#"{"type":"watch","all":true,"lossless":true}"#;

pub struct Sizes {
    /// Clients that watch everybody, or some by name.
    pub watchers: usize,
    /// Clients that all watch one user.
    pub crowd: usize,
    /// Duration of each rate.
    pub lasts: Duration,
}

pub async fn measure(site: &mut Site, report: &Report, sizes: Sizes) -> Result<()> {
    report.head(&[
        "fanout",
        "clients",
        "transitions/s",
        "deliveries/s",
        "lost",
        "per message",
        "p50",
        "p99",
        "max",
        "daemon's CPU per delivery",
    ]);
    let Sizes { watchers, crowd: all, lasts } = sizes;
    let group = Group::connect(site, watchers, |_| EVERYBODY.into(), vec![watchers as u64; USERS]).await?;
    for rate in RATES {
        group.row(site, report, "all watch everybody, lossless", Some(rate), lasts).await?;
    }
    let most = group.row(site, report, "the same, as fast as possible", None, lasts).await?;
    group.row(site, report, "the same, at half that rate", Some(most / 2.0), lasts).await?;
    group.beside_stuck(site, report, lasts).await?;
    drop(group);
    site.restart().await?;
    let some = |number: usize| (0..WATCHED).map(move |i| (number * WATCHED + i) % USERS);
    let watch = |number: usize| json!({"type": "watch", "users": some(number).map(name).collect::<Vec<_>>()});
    let mut each = vec![0; USERS];
    (0..watchers).flat_map(some).for_each(|user| each[user] += 1);
    let group = Group::connect(site, watchers, |number| watch(number).to_string(), each).await?;
    group.row(site, report, "each watches 100 of 1,000 users", Some(1_000.0), lasts).await?;
    drop(group);
    site.restart().await?;
    one_user(site, report, all).await
}

/// Connected clients that have received their snapshot.
struct Group {
    tally: Arc<Tally>,
    _clients: tokio::task::JoinSet<()>,
    count: usize,
    /// The number of clients that receive each user's transitions.
    each: Vec<u64>,
}

/// The result at one rate.
struct Run {
    /// Transitions per second.
    rate: f64,
    /// Deliveries per second: transitions times receiving clients.
    deliveries: f64,
    /// Deliveries that did not arrive.
    lost: u64,
    /// Transitions per message.
    packed: f64,
    /// Lag in milliseconds: median, 99th percentile, maximum.
    quantiles: [f64; 3],
    /// The daemon's CPU per delivery in microseconds, if it is known.
    cpu_us: Option<f64>,
}

impl Group {
    async fn connect(
        site: &Site,
        count: usize,
        message: impl Fn(usize) -> String,
        each: Vec<u64>,
    ) -> Result<Group> {
        let tally = Tally::new(USERS);
        let clients = crowd(site, count, |number| Some(message(number)), &tally).await?;
        let snapshots = async || tally.snapshots.load(Relaxed) >= count as u64;
        until("all clients receive their snapshot", snapshots).await?;
        Ok(Group { tally, _clients: clients, count, each })
    }

    /// Measures one rate (`None`: as fast as the clients receive), prints the row and returns the rate reached.
    async fn row(
        &self,
        site: &Site,
        report: &Report,
        what: &str,
        rate: Option<f64>,
        lasts: Duration,
    ) -> Result<f64> {
        let run = self.run(site, rate, lasts).await?;
        self.print(report, what, &run);
        Ok(run.rate)
    }

    /// Measures one rate (`None`: as fast as the clients receive).
    async fn run(&self, site: &Site, rate: Option<f64>, lasts: Duration) -> Result<Run> {
        let tally = &self.tally;
        tally.take_lags();
        let (received, frames) = (tally.received.load(Relaxed), tally.frames.load(Relaxed));
        let (cpu, began) = (site.cpu(), Instant::now());
        let (made, expected) = self.drive(site, rate, lasts, received).await?;
        let all_arrived = async || tally.received.load(Relaxed) - received >= expected;
        let lost = match until("all transitions arrive", all_arrived).await {
            Ok(()) => 0,
            Err(_) => expected - (tally.received.load(Relaxed) - received),
        };
        let seconds = began.elapsed().as_secs_f64();
        let cpu_us = site.cpu().zip(cpu).map(|(after, before)| (after - before) / expected as f64 * 1e6);
        Ok(Run {
            rate: made as f64 / seconds,
            deliveries: expected as f64 / seconds,
            lost,
            packed: (expected - lost) as f64 / (tally.frames.load(Relaxed) - frames).max(1) as f64,
            quantiles: quantiles(&tally.take_lags()),
            cpu_us,
        })
    }

    fn print(&self, report: &Report, what: &str, run: &Run) {
        let Run { rate, deliveries, lost, packed, quantiles: [p50, p99, max], cpu_us } = *run;
        report.row(
            json!({"bench": "fanout", "what": what, "watchers": self.count, "transitions_per_second": rate,
                "deliveries_per_second": deliveries, "lost": lost, "packed": packed, "p50_ms": p50, "p99_ms": p99,
                "max_ms": max, "cpu_us": cpu_us}),
            &[
                what.into(),
                self.count.to_string(),
                format!("{rate:.0}"),
                format!("{deliveries:.0}"),
                lost.to_string(),
                format!("{packed:.1}"),
                ms(p50),
                ms(p99),
                ms(max),
                known(cpu_us, |us| format!("{us:.2} µs")),
            ],
        );
    }

    /// Measures the same rate without and with clients that never read, in turn, and prints the run with the median p99
    /// of each.
    async fn beside_stuck(&self, site: &Site, report: &Report, lasts: Duration) -> Result<()> {
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        let conflated = async || site.counter("keybeat_conflated_changes_total").await;
        let before = conflated().await?;
        for _ in 0..PAIRS {
            alone.push(self.run(site, Some(BESIDE), lasts).await?);
            let stuck = stuck(site, self.count).await?;
            beside.push(self.run(site, Some(BESIDE), lasts).await?);
            drop(stuck);
        }
        ensure!(
            conflated().await? > before,
            "the kernel buffered everything for the clients that never read, so they did not slow the daemon down"
        );
        for (runs, what) in [
            (&mut alone, ""),
            (&mut beside, &*format!(", next to {STUCK} that watch all by name and never read")),
        ] {
            runs.sort_by(|one, other| one.quantiles[1].total_cmp(&other.quantiles[1]));
            let what = format!("all watch everybody, lossless, median of {PAIRS} runs{what}");
            self.print(report, &what, &runs[PAIRS / 2]);
        }
        Ok(())
    }

    /// Makes transitions for a while; returns the number of transitions and of expected deliveries. It starts and ends with
    /// nobody online.
    async fn drive(
        &self,
        site: &Site,
        rate: Option<f64>,
        lasts: Duration,
        received: u64,
    ) -> Result<(u64, u64)> {
        // All users go online and offline within the time.
        let round = rate.map_or(USERS, |rate| ((rate * lasts.as_secs_f64() / 2.0) as usize).clamp(1, USERS));
        let bar = bar("transitions", lasts.as_millis() as u64);
        let (began, mut made, mut expected, mut user, mut come) = (Instant::now(), 0_u64, 0_u64, 0, true);
        while began.elapsed() < lasts || (user, come) != (0, true) {
            bar.set_position(began.elapsed().as_millis() as u64);
            let due = match rate {
                Some(rate) => ((began.elapsed().as_secs_f64() * rate) as u64 + 1).saturating_sub(made),
                None => {
                    let ahead = self.each[0] * AHEAD;
                    let behind = async || expected < self.tally.received.load(Relaxed) - received + ahead;
                    until("the clients receive transitions", behind).await?;
                    AT_ONCE as u64
                }
            };
            if due == 0 {
                sleep(Duration::from_millis(1)).await;
                continue;
            }
            let some: Vec<usize> = (user..round.min(user + AT_ONCE.min(due as usize))).collect();
            site.change(&self.tally, &some, come).await?;
            made += some.len() as u64;
            expected += some.iter().map(|&user| self.each[user]).sum::<u64>();
            user += some.len();
            if user >= round {
                (user, come) = (0, !come);
            }
        }
        bar.finish_and_clear();
        Ok((made, expected))
    }
}

/// Clients that watch all users by name, request more than the kernel buffers for them, and never read.
async fn stuck(site: &Site, number: usize) -> Result<Vec<LoadClient>> {
    let watch = |users: Vec<String>| json!({"type": "watch", "users": users}).to_string();
    let (all, long) =
        (watch((0..USERS).map(name).collect()), watch((0..200).map(|i| format!("{i:0>250}")).collect()));
    let mut clients = Vec::new();
    for number in number..number + STUCK {
        let mut client = LoadClient::narrow(&site.address, number).await?;
        client.send(&all).await?;
        for _ in 0..6 {
            client.send(&long).await?;
        }
        clients.push(client);
    }
    Ok(clients)
}

/// One user that all clients watch: the time from each change until the last client has received it.
async fn one_user(site: &Site, report: &Report, count: usize) -> Result<()> {
    let watch = json!({"type": "watch", "users": [name(0)]}).to_string();
    let group = Group::connect(site, count, |_| watch.clone(), vec![count as u64]).await?;
    let (mut lasts, mut all) = (Vec::new(), Vec::new());
    let cpu = site.cpu();
    for flip in 0..FLIPS {
        let received = group.tally.received.load(Relaxed);
        site.change(&group.tally, &[0], flip % 2 == 0).await?;
        let done = async || group.tally.received.load(Relaxed) - received >= count as u64;
        until("all clients receive the transition", done).await?;
        let lags = group.tally.take_lags();
        lasts.extend(lags.last().copied());
        all.extend(lags);
    }
    let deliveries = (FLIPS * count) as f64;
    let cpu_us = site.cpu().zip(cpu).map(|(after, before)| (after - before) / deliveries * 1e6);
    lasts.sort_by(f64::total_cmp);
    all.sort_by(f64::total_cmp);
    let [[p50, p99, _], [last, _, latest]] = [quantiles(&all), quantiles(&lasts)];
    let what = format!(
        "all watch one user, {FLIPS} transitions; the last client receives it after {} (median)",
        ms(last)
    );
    report.row(
        json!({"bench": "fanout", "what": "all watch one user", "watchers": count, "lost": 0, "p50_ms": p50,
            "p99_ms": p99, "max_ms": latest, "last_ms": last, "cpu_us": cpu_us}),
        &[
            what,
            count.to_string(),
            "-".into(),
            "-".into(),
            "0".into(),
            "1.0".into(),
            ms(p50),
            ms(p99),
            ms(latest),
            known(cpu_us, |us| format!("{us:.2} µs")),
        ],
    );
    Ok(())
}
