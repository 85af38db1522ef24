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
use fred::clients::Pipeline;
use fred::prelude::*;
use fred::types::config::ServerConfig;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

/// The shortest interval between two heartbeats of a user.
const LEAST_BEAT: Duration = Duration::from_millis(1_700);
/// Heartbeats of all users together in a second: a daemon and a Redis on one small machine take that many with ease.
const BEATS_PER_SECOND: u32 = 5_000;
const BEATS_PER_TTL: u32 = 3;
/// The most actions in one pipeline.
const BATCH: usize = 500;
/// Between two warnings that the crowd is late.
const WARN_EVERY: Duration = Duration::from_secs(10);

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

/// How fast the crowd lives: the more users, the slower each, so that one machine keeps up with all of them.
struct Pace {
    /// Between two heartbeats of a user.
    beat: Duration,
    ttl: Duration,
}

impl Pace {
    fn of(users: u32) -> Pace {
        let beat = LEAST_BEAT.max(Duration::from_secs(1) * users / BEATS_PER_SECOND);
        Pace { beat, ttl: beat * BEATS_PER_TTL }
    }

    /// An instant at random, at most so many heartbeats from now.
    fn within(&self, beats: u32) -> Instant {
        Instant::now() + self.beat.mul_f64(f64::from(beats) * fastrand::f64())
    }
}

/// Notices that the crowd is late with its heartbeats.
#[derive(Default)]
struct Lateness {
    warned: Option<Instant>,
}

impl Lateness {
    /// The warning that is due, at most every [`WARN_EVERY`]: a user whose heartbeat is late by one interval is close to going
    /// offline by mistake.
    fn note(&mut self, late: Duration, now: Instant, users: u32, pace: &Pace) -> Option<String> {
        let silent = self.warned.is_some_and(|warned| now - warned < WARN_EVERY);
        if late < pace.beat || silent {
            return None;
        }
        self.warned = Some(now);
        Some(format!(
            "the simulated users are {late:.1?} late with their heartbeats, so some go offline that should stay online; this \
             machine is too slow for {users} users, start with fewer: --users {}",
            (users / 2).max(1)
        ))
    }
}

/// One loop for all users: a heap holds the next action of each. Actions that are due go to Redis in one pipeline.
async fn simulate(users: u32, target: Target, names: Names) -> Result<()> {
    let (client, _connection) = connect(&target)?;
    let (pace, mut lateness) = (Pace::of(users), Lateness::default());
    let mut queue: BinaryHeap<_> =
        (0..users).map(|user| Reverse((pace.within(5), user, Next::Return))).collect();
    while let Some(&Reverse((at, ..))) = queue.peek() {
        sleep_until(at).await;
        let now = Instant::now();
        if let Some(warning) = lateness.note(now - at, now, users, &pace) {
            tracing::warn!("{warning}");
        }
        let pipeline = client.pipeline();
        let mut acted = Vec::new();
        while acted.len() < BATCH
            && let Some(&Reverse((at, user, next))) = queue.peek()
            && at <= now
        {
            queue.pop();
            let key = names.redis_key(&name(user, &names));
            acted.push((user, act(&pipeline, key, next, &pace).await?));
        }
        if let Err(why) = pipeline.all::<Vec<Value>>().await {
            tracing::warn!("a simulated heartbeat failed: {why}");
        }
        queue.extend(acted.into_iter().map(|(user, (at, next))| Reverse((at, user, next))));
    }
    Ok(())
}

/// Adds the action of a user to the pipeline, and returns the next one. Most go on, few go silent or leave.
async fn act(pipeline: &Pipeline<Client>, key: String, next: Next, pace: &Pace) -> Result<(Instant, Next)> {
    Ok(match (next, fastrand::u32(..100)) {
        // The user goes silent: Redis expires the key.
        (Next::Beat, 0..4) => (pace.within(12) + pace.ttl, Next::Return),
        (Next::Beat, 4..6) => {
            pipeline.del::<(), _>(key).await?;
            (pace.within(9), Next::Return)
        }
        _ => {
            let ttl = Some(Expiration::PX(pace.ttl.as_millis() as i64));
            pipeline.set::<(), _, _>(key, 1, ttl, None, false).await?;
            (Instant::now() + pace.beat, Next::Beat)
        }
    })
}

/// A connection to the private Redis that connects again by itself. It lasts as long as the handle.
fn connect(target: &Target) -> Result<(Client, AbortOnDropHandle<Result<(), Error>>)> {
    let path = target.shown().strip_prefix("redis+unix://").context("the demo's Redis has no unix socket")?;
    let config = Config { server: ServerConfig::Unix { path: path.into() }, ..Config::default() };
    let client = Builder::from_config(config)
        .with_performance_config(|config| config.default_command_timeout = LEAST_BEAT)
        .set_policy(ReconnectPolicy::new_exponential(0, 50, 2_000, 2))
        .build()?;
    let connection = AbortOnDropHandle::new(client.connect());
    Ok((client, connection))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_crowd_lives_more_slowly() {
        for users in [1, 200, 8_000, 50_000, 100_000] {
            let Pace { beat, ttl } = Pace::of(users);
            let rate = f64::from(users) / beat.as_secs_f64();
            assert!(rate <= f64::from(BEATS_PER_SECOND), "{users} users send {rate} heartbeats a second");
            assert!(beat >= LEAST_BEAT && ttl == beat * 3, "{users}");
        }
    }

    #[test]
    fn late_heartbeats_are_reported_now_and_then() {
        let (start, pace, mut lateness) = (Instant::now(), Pace::of(50_000), Lateness::default());
        let mut note = |late_s, at_s| {
            let at = start + Duration::from_secs(at_s);
            lateness.note(Duration::from_secs(late_s), at, 50_000, &pace)
        };
        assert_eq!(note(9, 0), None, "less than an interval");
        let warning = note(12, 1).unwrap();
        assert!(warning.contains("12.0s late") && warning.contains("--users 25000"), "{warning}");
        assert_eq!(note(13, 5), None, "just reported");
        assert!(note(14, 11).is_some());
    }
}
