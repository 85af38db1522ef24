//! Five ways to build a presence indicator, on the same workload in one run. Each is built as those who recommend it would build it;
//! each has two servers, an own Redis, and real clients. Only the messages between clients, servers and Redis differ.

mod counted;
mod fleet;
mod lines;
mod programs;
mod proxy;
mod run;
mod sight;
mod verdict;
mod viewer;

use super::report::{Report, ms, quantiles};
use anyhow::Result;
use run::Outcome;
pub use run::{ROUND, Sizes};
use serde_json::{Value, json};
use verdict::Verdict;

/// See `programs` for how each one works; keybeat is the daemon itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Approach {
    Published,
    Members,
    Stored,
    Polled,
    Keybeat,
}

impl Approach {
    const ALL: [Approach; 5] =
        [Approach::Published, Approach::Members, Approach::Stored, Approach::Polled, Approach::Keybeat];

    fn label(self) -> &'static str {
        match self {
            Approach::Published => "heartbeats over pub/sub",
            Approach::Members => "a map in the servers",
            Approach::Stored => "a store, and fan-out",
            Approach::Polled => "polling",
            Approach::Keybeat => "a TTL, and notifications (keybeat)",
        }
    }
}

/// Measures the approaches one after the other.
///
/// # Errors
/// A server does not start, or a client is refused.
pub async fn measure(report: &Report, sizes: &Sizes) -> Result<()> {
    report.head(&[
        "approach; costs are per user and minute",
        "Redis' CPU",
        "Redis' commands",
        "Redis' bytes",
        "clients' bytes",
        "servers' CPU",
        "silence noticed p50",
        "p99",
        "leave noticed p50",
        "no Redis for 2 s: late",
        "lost",
        "no server for 2 s: late",
        "lost",
        "invented",
    ]);
    for approach in Approach::ALL {
        let outcome = run::run(approach, sizes).await?;
        row(report, approach, sizes, &outcome);
    }
    Ok(())
}

fn row(report: &Report, approach: Approach, sizes: &Sizes, outcome: &Outcome) {
    let [p50, p99, max] = quantiles(&outcome.silent.lags_ms);
    let [left, ..] = quantiles(&outcome.left.lags_ms);
    let commands: f64 = outcome.calls.values().sum();
    let (redis, server) = (&outcome.without_redis, &outcome.without_server);
    report.row(
        json!({"bench": "approaches", "approach": approach.label(), "users": sizes.users, "contacts": sizes.contacts,
            "every_ms": sizes.every.as_millis() as u64, "ttl_ms": sizes.ttl().as_millis() as u64,
            "redis_cpu_us": outcome.redis_cpu_us, "redis_commands": commands, "redis_calls": outcome.calls,
            "redis_bytes": outcome.redis_bytes, "client_bytes": outcome.client_bytes,
            "server_cpu_us": outcome.server_cpu_us, "silence": object(&outcome.silent), "silence_p50_ms": p50,
            "silence_p99_ms": p99, "silence_max_ms": max, "leave": object(&outcome.left), "leave_p50_ms": left,
            "without_redis": object(redis), "without_server": object(server), "invented": outcome.invented,
            "lost_connections": outcome.lost_connections}),
        &[
            approach.label().into(),
            cpu(outcome.redis_cpu_us),
            format!("{commands:.1}"),
            format!("{:.0} B", outcome.redis_bytes),
            format!("{:.0} B", outcome.client_bytes),
            cpu(outcome.server_cpu_us),
            ms(p50),
            ms(p99),
            ms(left),
            late(redis),
            redis.lost.to_string(),
            late(server),
            server.lost.to_string(),
            outcome.invented.to_string(),
        ],
    );
}

fn cpu(us: f64) -> String {
    format!("{:.2} ms", us / 1e3)
}

/// How many changes were late, and by how much the last one was.
fn late(verdict: &Verdict) -> String {
    let Verdict { late, expected, lags_ms, .. } = verdict;
    let most = lags_ms.last().map_or_else(|| "-".into(), |&most| ms(most));
    format!("{late} of {expected}, at most {most}")
}

fn object(verdict: &Verdict) -> Value {
    let latest_ms = verdict.lags_ms.last();
    json!({"expected": verdict.expected, "late": verdict.late, "lost": verdict.lost, "latest_ms": latest_ms})
}
