//! Logs on standard error.

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
    Text,
    Json,
}

/// A level, or what `RUST_LOG` takes for those who need it finer.
pub fn level(text: &str) -> Result<String, String> {
    EnvFilter::builder().parse(filter(text)).map_err(|why| why.to_string())?;
    Ok(text.to_owned())
}

/// A level is ours; of libraries only warnings are wanted, and of fred none: each of its errors comes
/// to us as a result, and is said once, not with each attempt.
fn filter(text: &str) -> String {
    if text.contains(['=', ',']) { text.to_owned() } else { format!("warn,fred=off,keybeat={text}") }
}

/// Logs, and where the environment names a collector, traces.
///
/// # Errors
/// The collector's address cannot be used.
pub fn start(format: Format, level: &str) -> Result<Traces> {
    let (traces, layer) = Traces::start()?;
    let layers: Vec<Layered> = std::iter::once(lines(format, level)).chain(layer).collect();
    tracing_subscriber::registry().with(layers).init();
    traces.begun();
    Ok(traces)
}

/// Lines in the log. Spans are for traces: a line says itself what it is about.
fn lines(format: Format, level: &str) -> Layered {
    // The hint leaves it to the level to say that nobody asks for more.
    let said =
        filter_fn(|of| !of.is_span() && !traces::said_once(of)).with_max_level_hint(LevelFilter::TRACE);
    let filter = EnvFilter::new(filter(level)).and(said);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !super::colour::forbidden());
    match format {
        Format::Text => lines.with_target(false).with_filter(filter).boxed(),
        Format::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    }
}

/// For commands whose output is for people: only what went wrong.
pub fn start_quiet() {
    tracing_subscriber::registry().with(lines(Format::Text, "warn")).init();
}

/// For a command that draws on the whole screen.
pub fn start_silent() {
    tracing_subscriber::registry().with(lines(Format::Text, "off")).init();
}
