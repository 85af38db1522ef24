//! Logs, written to standard error.

use crate::traces::{self, Layered, Traces};
use anyhow::Result;
use clap::ValueEnum;
use std::io::IsTerminal;
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

#[derive(Clone, Copy, ValueEnum)]
pub enum Format {
    /// Text for people
    Text,
    /// One JSON object per line
    Json,
}

/// A level, or a filter in the syntax of `RUST_LOG`.
pub fn level(text: &str) -> Result<String, String> {
    EnvFilter::builder().parse(filter(text)).map_err(|why| why.to_string())?;
    Ok(text.to_owned())
}

/// The filter of a level: the level applies to keybeat, libraries log from `warn` on, and fred logs nothing, because
/// keybeat receives each of its errors as a result and logs it once, not once per attempt.
fn filter(text: &str) -> String {
    if text.contains(['=', ',']) { text.to_owned() } else { format!("warn,fred=off,keybeat={text}") }
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
    let filter = EnvFilter::new(filter(level)).and(wanted);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !super::colour::forbidden());
    match format {
        Format::Text => lines.with_target(false).with_filter(filter).boxed(),
        Format::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    }
}

/// Logs warnings and errors only, for commands that print a result.
pub fn start_quiet() {
    tracing_subscriber::registry().with(lines(Format::Text, "warn")).init();
}

/// Logs nothing, for a command that draws on the whole screen.
pub fn start_silent() {
    tracing_subscriber::registry().with(lines(Format::Text, "off")).init();
}
