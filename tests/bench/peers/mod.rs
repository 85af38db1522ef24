//! One change to many sockets: keybeat next to a plain broadcast in axum, a Node server and a loop of `send`, with the same
//! clients in the same run.

mod clients;
mod servers;

use crate::common::daemon::Daemon;
use crate::common::redis::{Client, Redis};
use crate::load::cpu_seconds;
use crate::{cells, ms};
use clients::Crowd;
use servers::Peer;
pub use servers::serve_if_asked;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const SOCKETS: usize = 10_000;
/// Changes a second, and how many.
const RATES: [(u32, u64); 2] = [(1, 15), (10, 60)];
/// Each server is measured so often, in turn.
const ROUNDS: usize = 3;
/// The user whom all clients of keybeat watch.
const USER: &str = "presence:crowd";

/// A server whose clients all receive each change.
enum Server {
    Keybeat { daemon: Daemon, redis: Box<Redis>, writer: Client },
    Peer(Peer),
}

/// One run of one server at one rate.
struct Run {
    /// Milliseconds from the change to each client, sorted.
    lags: Vec<f64>,
    /// Milliseconds until the last client had it, for each change.
    last: Vec<f64>,
    cpu_us: f64,
}

const NAMES: [&str; 5] =
    ["keybeat", "axum, broadcast channel", "Node, ws", "send, one thread", "send, two threads"];

impl Server {
    async fn start(name: &str) -> Option<Server> {
        if name != "keybeat" {
            return Peer::start(name).map(Server::Peer);
        }
        let redis = Redis::start();
        let most = (SOCKETS + 100).to_string();
        let url = redis.url();
        let args = ["--redis", &url, "--max-sockets", &most, "--max-sockets-per-address", &most];
        let daemon = Daemon::with(&args).await;
        let writer = redis.client();
        Some(Server::Keybeat { daemon, redis: Box::new(redis), writer })
    }

    fn port(&self) -> u16 {
        match self {
            Server::Keybeat { daemon, .. } => daemon.port,
            Server::Peer(peer) => peer.port,
        }
    }

    fn pid(&self) -> u32 {
        match self {
            Server::Keybeat { daemon, .. } => daemon.pid(),
            Server::Peer(peer) => peer.pid(),
        }
    }

    /// Makes the change with this number; the first is 1.
    fn change(&mut self, number: u64) {
        match self {
            Server::Keybeat { writer, .. } if number % 2 == 1 => {
                writer.call(&["SET", USER, "1", "EX", "3600"]);
            }
            Server::Keybeat { writer, .. } => {
                writer.call(&["DEL", USER]);
            }
            Server::Peer(peer) => peer.change(number),
        }
    }
}

/// The table.
pub fn one_change_to_many(runtime: &Runtime) {
    println!("peers: one change to {SOCKETS} sockets, each server {ROUNDS} times in turn; medians");
    println!(
        "| server | changes/s | p50 | p99 | max | the last client | server's CPU per delivery | p99 and CPU against axum |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut runs: Vec<Vec<(usize, Run)>> = RATES.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (at, name) in NAMES.iter().enumerate() {
            runtime.block_on(async {
                let Some(mut server) = Server::start(name).await else { return };
                let crowd = Crowd::connect(server.port(), SOCKETS).await;
                for (rate, runs) in RATES.iter().zip(&mut runs) {
                    runs.push((at, run(&mut server, &crowd, *rate).await));
                }
            });
        }
    }
    for ((rate, _), runs) in RATES.iter().zip(&mut runs) {
        let medians: Vec<_> = (0..NAMES.len()).map(|at| median(runs, at)).collect();
        for (name, run) in NAMES.iter().zip(&medians) {
            match run {
                None => println!("| {name} | {rate} | not installed | | | | | |"),
                Some(run) => println!("| {name} | {rate} | {} |", row(run, medians[1].as_ref())),
            }
        }
    }
}

/// The middle one of a server's runs, by its p99.
fn median(runs: &mut Vec<(usize, Run)>, server: usize) -> Option<Run> {
    let mut own: Vec<Run> = runs.extract_if(.., |(at, _)| *at == server).map(|(_, run)| run).collect();
    own.sort_by(|one, other| p99(one).total_cmp(&p99(other)));
    let middle = own.len() / 2;
    own.into_iter().nth(middle)
}

fn p99(run: &Run) -> f64 {
    run.lags[(0.99 * (run.lags.len() - 1) as f64).round() as usize]
}

fn row(run: &Run, axum: Option<&Run>) -> String {
    let against = axum
        .map_or("-".into(), |axum| format!("{:.2}, {:.2}", p99(run) / p99(axum), run.cpu_us / axum.cpu_us));
    let last = ms(run.last[run.last.len() / 2]);
    format!("{} | {last} | {:.2} µs | {against}", cells(&run.lags), run.cpu_us)
}

async fn run(server: &mut Server, crowd: &Crowd, (rate, changes): (u32, u64)) -> Run {
    let before = crowd.changes();
    let pause = Duration::from_secs(1) / rate;
    let (cpu, began) = (cpu_seconds(server.pid()), Instant::now());
    let mut made = Vec::new();
    for change in 1..=changes {
        tokio::time::sleep_until((began + pause * (change as u32 - 1)).into()).await;
        made.push(Instant::now());
        // Each rate begins and ends with the user offline.
        tokio::task::block_in_place(|| server.change(before + change));
    }
    crowd.receive(before + changes).await;
    let cpu_us = (cpu_seconds(server.pid()) - cpu) / (changes as usize * SOCKETS) as f64 * 1e6;
    let (mut lags, mut last) = (Vec::new(), vec![0.0_f64; made.len()]);
    for (change, at) in crowd.take() {
        let number = (change - before - 1) as usize;
        let lag = at.saturating_duration_since(made[number]).as_secs_f64() * 1e3;
        last[number] = last[number].max(lag);
        lags.push(lag);
    }
    lags.sort_by(f64::total_cmp);
    last.sort_by(f64::total_cmp);
    Run { lags, last, cpu_us }
}
