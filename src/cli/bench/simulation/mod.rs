//! More users than a machine can hold sockets for: the product's tracker and roster against a model of a server, in simulated
//! time. The CPU time and the memory are real.

mod redis;
mod users;
mod world;

use super::report::{Report, bar, ms, quantiles};
use super::site::own_memory;
use crate::presence::Renewals;
use anyhow::{Result, ensure};
use serde_json::json;
use std::time::Duration;
use users::{PER_TTL, Users};
use world::World;

/// The sizes of the simulation.
pub struct Sizes {
    pub users: usize,
    /// The interval between two heartbeats of a user. The TTL is three times as long.
    pub every: Duration,
    /// Simulated time.
    pub lasts: Duration,
}

/// The ways to learn of renewals that are simulated: an event for each, and none.
const MODES: [Renewals; 2] = [Renewals::Set, Renewals::New];

/// Measures each mode in turn.
///
/// # Errors
/// A transition was missed or invented, or the simulated time is not enough.
pub fn measure(report: &Report, sizes: &Sizes) -> Result<()> {
    report.head(&[
        "simulation: --events",
        "users",
        "simulated",
        "heartbeats",
        "CPU each",
        "questions",
        "memory per user",
        "first snapshot",
        "offline",
        "online",
        "missed",
        "invented",
        "late p50",
        "late p99",
        "late max",
    ]);
    // What one mode has freed, the next one uses again.
    let before = own_memory();
    MODES.into_iter().try_for_each(|renewals| row(report, sizes, renewals, before))
}

fn row(report: &Report, sizes: &Sizes, renewals: Renewals, before: Option<f64>) -> Result<()> {
    ensure!(
        sizes.lasts > sizes.every * 2 * PER_TTL as u32,
        "{:?} of simulated time are too short for a TTL of {:?}; use more than two TTLs: --seconds, or a shorter --every",
        sizes.lasts,
        sizes.every * PER_TTL as u32
    );
    let milliseconds = |time: Duration| time.as_millis() as u64;
    let users =
        Users { count: sizes.users, every_ms: milliseconds(sizes.every), end_ms: milliseconds(sizes.lasts) };
    let bar = bar(&format!("simulated ms, {}", renewals.label()), users.end_ms);
    let mut world = World::new(users, renewals);
    let found = world.run(|now_ms| bar.set_position(now_ms));
    bar.finish_and_clear();
    let grown = own_memory().zip(before).map(|(after, before)| after - before);
    let memory = grown.map_or(0.0, |grown| (grown - found.model_bytes) / users.count.max(1) as f64);
    let cpu_us = found.cpu_s / found.heartbeats.max(1) as f64 * 1e6;
    let [p50, p99, max] = quantiles(&found.lateness_ms);
    report.row(
        json!({"bench": "simulation", "events": renewals.label(), "users": users.count,
            "simulated_ms": users.end_ms, "every_ms": users.every_ms, "heartbeats": found.heartbeats,
            "cpu_us": cpu_us, "questions": found.questions, "memory_bytes_per_user": memory,
            "first_snapshot_ms": found.opened_ms,
            "start_cpu_s": found.start_cpu_s, "offline": found.offline, "online": found.online,
            "missed": found.missed, "invented": found.invented, "gaps": found.gaps, "late_p50_ms": p50, "late_p99_ms": p99,
            "late_max_ms": max}),
        &[
            renewals.label().into(),
            users.count.to_string(),
            format!("{:.0} s", users.end_ms as f64 / 1e3),
            found.heartbeats.to_string(),
            format!("{cpu_us:.2} µs"),
            found.questions.to_string(),
            format!("{memory:.0} B"),
            format!("{:.1} s", found.opened_ms as f64 / 1e3),
            found.offline.to_string(),
            found.online.to_string(),
            found.missed.to_string(),
            found.invented.to_string(),
            ms(p50),
            ms(p99),
            ms(max),
        ],
    );
    Ok(())
}
