//! `keybeat ls`: the live presence keys.

use super::{LsArgs, logging, printed, progress, rights};
use crate::config::DEFAULT_TTL;
use crate::presence::KeyPattern;
use crate::redis::Glob;
use crate::redis::listing::{Listing, LiveKey};
use crate::redis::target::Target;
use anyhow::Result;
use clap::ValueEnum;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

#[derive(Clone, Copy, ValueEnum)]
pub enum Sort {
    /// Time left, shortest first
    Ttl,
    /// User name
    User,
    /// Last heartbeat, oldest first
    Age,
}

/// Maximum width of a column of names, in characters; a longer name widens only its own row.
const WIDEST: usize = 32;

/// The assumed TTL of keys whose age Redis does not report, in seconds.
const USUAL_TTL_S: u64 = DEFAULT_TTL.as_secs();

pub async fn run(args: LsArgs) -> Result<ExitCode> {
    logging::start_quiet();
    let target = super::redis(&args.redis.redis, &args.redis.redis_access)?;
    let pattern = args.redis.pattern.pattern();
    let keys = live(&target, &pattern, &Glob::new(&args.pattern)).await;
    let mut keys = keys.map_err(|why| rights::advised(why, &target, &pattern, rights::LIST))?;
    sort(&mut keys, args.sort);
    let total = keys.len();
    keys.truncate(args.limit.unwrap_or(usize::MAX));
    if args.json {
        print_json(&keys)?
    } else {
        print_table(&keys, total, &args)?
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the keys whose names match.
async fn live(target: &Target, pattern: &KeyPattern, wanted: &Glob) -> Result<Vec<LiveKey>> {
    let listing = Listing::connect(target, pattern).await?;
    let bar = progress::keys(listing.size().await.ok());
    let keys = listing.read(wanted, |looked_at| bar.inc(looked_at as u64)).await?;
    bar.finish_and_clear();
    Ok(keys)
}

fn sort(keys: &mut [LiveKey], by: Sort) {
    keys.sort_by(|a, b| a.key.cmp(&b.key));
    match by {
        Sort::User => {}
        Sort::Ttl => keys.sort_by_key(|key| key.left_ms.unwrap_or(u64::MAX)),
        // Without an age: among keys of one TTL, the oldest has the least time left.
        Sort::Age => keys.sort_by_key(|key| (std::cmp::Reverse(key.idle_ms), key.left_ms)),
    }
}

/// The full TTL of a key in milliseconds, and whether it is a guess.
///
/// Redis does not store the full TTL. It is the time left plus the time since the key was written. Redis does not
/// report the latter for values such as `1`; then the guess is the default TTL, or the time left if that is longer.
fn ttl_ms(key: &LiveKey) -> Option<(u64, bool)> {
    let left = key.left_ms?;
    Some(match key.idle_ms {
        Some(idle) => ((left + idle + 500) / 1000 * 1000, false),
        None => (left.div_ceil(1000).max(USUAL_TTL_S) * 1000, true),
    })
}

fn print_json(keys: &[LiveKey]) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for key in keys {
        let object = json!({
            "user": key.key.user(),
            "session": key.key.session(),
            "left_ms": key.left_ms,
            "ttl_ms": ttl_ms(key).map(|(ttl, _)| ttl),
            "ttl_guessed": ttl_ms(key).map(|(_, guessed)| guessed),
        });
        writeln!(out, "{}", printed::json(&object)?)?;
    }
    Ok(out.flush()?)
}

fn print_table(keys: &[LiveKey], total: usize, args: &LsArgs) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let bars = std::io::stdout().is_terminal();
    let name = |key: &LiveKey| printed::text(key.key.user()).into_owned();
    let session_of = |key: &LiveKey| printed::text(key.key.session().unwrap_or("")).into_owned();
    let width = |of: &dyn Fn(&LiveKey) -> String, least: usize| {
        keys.iter().map(|key| of(key).chars().count()).max().unwrap_or(0).clamp(least, WIDEST)
    };
    let (user, session) = (width(&name, 4), width(&session_of, 7));
    if !keys.is_empty() {
        writeln!(out, "{:user$}  {:session$}  {:>9}  {:>7}", "USER", "SESSION", "LEFT", "TTL")?;
    }
    for key in keys {
        let left = key.left_ms.map_or("no TTL".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1000.0));
        let ttl = ttl_ms(key).map_or(String::new(), |(ms, guessed)| {
            format!("{}{} s", if guessed { "~" } else { "" }, ms / 1000)
        });
        let (name, of) = (name(key), session_of(key));
        write!(out, "{name:user$}  {of:session$}  {left:>9}  {ttl:>7}")?;
        if bars {
            write!(out, "  {}", bar(key))?;
        }
        writeln!(out)?;
    }
    let without = keys.iter().filter(|key| key.left_ms.is_none()).count();
    let plural = if total == 1 { "" } else { "s" };
    write!(out, "{total} live presence key{plural}")?;
    if keys.len() < total {
        write!(out, ", {} shown", keys.len())?;
    }
    if without > 0 {
        write!(out, "; {without} without a TTL (online until deleted)")?;
    }
    if total == 0 {
        let pattern = args.redis.pattern.pattern();
        write!(out, " with the key pattern {:?} that match {:?}", pattern.text(), args.pattern)?;
    }
    writeln!(out)?;
    Ok(out.flush()?)
}

/// A bar of 20 characters: the part of the TTL that is left.
fn bar(key: &LiveKey) -> String {
    let (Some(left), Some((ttl, _))) = (key.left_ms, ttl_ms(key)) else { return String::new() };
    let full = (left * 20).div_ceil(ttl.max(1)).min(20) as usize;
    "█".repeat(full) + &"░".repeat(20 - full)
}
