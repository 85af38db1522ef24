//! The cost and punctuality of presence, measured next to what it is compared with, in one run.
//!
//! `make bench` runs all; `cargo bench --bench bench -- lag` only those whose name begins so. Figures of
//! one machine: quote them with it, and their ratios rather than themselves.

#[path = "../common/mod.rs"]
mod common;

mod faults;
mod flood;
mod lag;
mod last_seen;
mod load;
mod modes;
mod peers;

use std::process::Command;

/// A named measurement that prints its table.
type Bench = (&'static str, fn(&tokio::runtime::Runtime));

const BENCHES: [Bench; 10] = [
    ("churn", lag::churn),
    ("lag", lag::with_and_without_probes),
    ("modes", modes::lag_at_two_daemons),
    ("follower", modes::cost_of_a_follower),
    ("flood", flood::events_taken_in),
    ("memory", load::memory_and_start),
    ("watched", load::memory_of_watched_users),
    ("last_seen", last_seen::memory_and_pages),
    ("peers", peers::one_change_to_many),
    ("faults", faults::table),
];

fn main() {
    peers::serve_if_asked();
    // cargo passes --bench; what else is given is a name.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    println!("machine: {}", machine());
    for (name, bench) in BENCHES {
        // The faults are no figures of speed; 10,000,000 users take minutes, and the peers need Node: these are run by their names alone.
        let by_default = wanted.is_empty() && !["faults", "last_seen", "peers"].contains(&name);
        if by_default || wanted.iter().any(|word| name.starts_with(word.as_str())) {
            println!();
            bench(&runtime);
        }
    }
}

fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let redis = Command::new(crate::common::redis::program())
        .arg("--version")
        .output()
        .map(|out| out.stdout)
        .unwrap_or_default();
    let redis = String::from_utf8_lossy(&redis);
    let version = redis.split_whitespace().find(|word| word.starts_with("v=")).unwrap_or("?").to_owned();
    format!(
        "{} cores of {}, {}, redis-server {version}",
        cores,
        field(&read("/proc/cpuinfo"), "model name"),
        field(&read("/proc/meminfo"), "MemTotal")
    )
}

/// p50, p99 and the largest of sorted values, for a table's cells.
fn cells(sorted: &[f64]) -> String {
    if sorted.is_empty() {
        return "- | - | -".into();
    }
    let at = |q: f64| sorted[(q * (sorted.len() - 1) as f64).round() as usize];
    format!("{} | {} | {}", ms(at(0.5)), ms(at(0.99)), ms(at(1.0)))
}

fn ms(value: f64) -> String {
    if value < 1_000.0 { format!("{value:.1} ms") } else { format!("{:.1} s", value / 1000.0) }
}
