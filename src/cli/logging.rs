//! Logs, written to standard error.

use super::Usage;
use crate::traces::{self, Layered, Traces};
use anyhow::Result;
use clap::ValueEnum;
use serde_json::json;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::SystemTime;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Clone, Copy, ValueEnum)]
pub enum Format {
    /// Text for people
    Text,
    /// One JSON object per line
    Json,
}

/// A level, or a level for each part of the daemon and its libraries.
pub fn level(text: &str) -> Result<String, String> {
    match targets(text) {
        Some(_) => Ok(text.to_owned()),
        None => {
            Err("write error, warn, info, debug, trace or off, or a filter such as warn,keybeat=debug".into())
        }
    }
}

/// The levels of a filter; `None` if it is malformed. A level alone applies to keybeat, libraries log from `warn` on, and fred logs
/// nothing, because the demo receives each of its errors as a result.
fn targets(text: &str) -> Option<Targets> {
    let is_filter = text.contains(['=', ',']);
    let text = if is_filter { text.to_owned() } else { format!("warn,fred=off,keybeat={text}") };
    // The parser takes an empty level for one.
    if text.split(',').any(|part| part.trim().is_empty() || part.trim_end().ends_with('=')) {
        return None;
    }
    let targets: Targets = text.parse().ok()?;
    let is_name =
        |name: &str| name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_:-".contains(letter));
    targets.iter().all(|(name, _)| !name.is_empty() && is_name(name)).then_some(targets)
}

/// Starts the log, and traces if the environment names a collector.
///
/// # Errors
/// The address of the collector cannot be used.
pub fn start(format: Format, level: &str) -> Result<Traces> {
    let (traces, layer) = Traces::start()?;
    let layers: Vec<Layered> = std::iter::once(lines(format, level)).chain(layer).collect();
    tracing_subscriber::registry().with(layers).init();
    traces.begun();
    Ok(traces)
}

/// The layer that writes log lines. It ignores spans: they are for traces, and every line is complete by itself.
fn lines(format: Format, level: &str) -> Layered {
    // With the hint TRACE the level alone decides what is enabled.
    let wanted =
        filter_fn(|of| !of.is_span() && !traces::said_once(of)).with_max_level_hint(LevelFilter::TRACE);
    // clap has checked the level.
    let filter = targets(level).unwrap_or_default().and(wanted);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !super::colour::forbidden());
    match format {
        Format::Text => lines.with_target(false).with_filter(filter).boxed(),
        Format::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    }
}

/// The result of a daemon; with JSON logs, an error becomes a line of the log and an exit code.
pub fn result(format: Format, result: Result<ExitCode>) -> Result<ExitCode> {
    match (format, result) {
        (Format::Json, Err(why)) => {
            eprintln!("{}", json_line(&format!("{why:#}")));
            Ok(if why.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE })
        }
        (_, result) => result,
    }
}

/// Whether the command line, the environment or else the file of `--config` selects JSON logs. For errors that prevent
/// parsing them.
pub fn wants_json(words: &[OsString], in_file: bool) -> bool {
    let typed = words
        .iter()
        .position(|word| word == "--log-format")
        .map(|at| words.get(at + 1) == Some(&"json".into()));
    let typed = typed.or_else(|| words.iter().any(|word| word == "--log-format=json").then_some(true));
    let serves = words.get(1).is_some_and(|word| word == "serve" || word == "demo");
    serves && typed.or_else(|| format_variable().map(|format| format == "json")).unwrap_or(in_file)
}

fn format_variable() -> Option<OsString> {
    std::env::var_os("KEYBEAT_LOG_FORMAT").filter(|format| !format.is_empty())
}

/// An error as a line of the JSON log.
pub fn json_line(message: &str) -> String {
    let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    json!({"timestamp": timestamp, "level": "ERROR", "message": message, "target": "keybeat"}).to_string()
}

/// Logs warnings and errors only, for commands that print a result.
pub fn start_quiet() {
    start_lines(Format::Text, "warn");
}

/// Starts the log without traces.
pub fn start_lines(format: Format, level: &str) {
    tracing_subscriber::registry().with(lines(format, level)).init();
}

/// Logs nothing, for a command that draws on the whole screen.
pub fn start_silent() {
    tracing_subscriber::registry().with(lines(Format::Text, "off")).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_names_levels_and_targets() {
        for good in ["info", "off", "warn,keybeat=debug", "keybeat::redis=trace", "warn,fred=off", "DEBUG"] {
            assert!(targets(good).is_some(), "{good:?}");
        }
        for bad in ["", "=", "loud", "=debug", "keybeat=loud", "warn,[span{user=a}]=debug", "a b=info", ","] {
            assert!(targets(bad).is_none(), "{bad:?}");
        }
        let alone = targets("debug").expect("a level");
        let enables = |target, level| alone.would_enable(target, &level);
        assert!(enables("keybeat::web", tracing::Level::DEBUG) && !enables("hyper", tracing::Level::INFO));
        assert!(!enables("fred::router", tracing::Level::ERROR) && enables("hyper", tracing::Level::WARN));
    }
}
