//! Logs on standard error.

use clap::ValueEnum;
use anyhow::Result;
use std::io::IsTerminal;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

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

/// Logs, and where the program was built for it and the environment names a collector, traces.
///
/// # Errors
/// The collector cannot be used.
pub fn start(format: Format, level: &str) -> Result<Traces> {
    let mut layers = vec![lines(format, level)];
    let traces = Traces::start(&mut layers)?;
    tracing_subscriber::registry().with(layers).init();
    Ok(traces)
}

type Lines = Box<dyn Layer<Registry> + Send + Sync>;

/// Spans are for traces: a line says itself what it is about.
fn lines(format: Format, level: &str) -> Lines {
    let filter = EnvFilter::new(filter(level)).and(filter_fn(|of| !of.is_span()));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !super::colour::forbidden());
    match format {
        Format::Text => lines.with_target(false).with_filter(filter).boxed(),
        Format::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    }
}

/// What sends traces, until it is ended.
pub struct Traces {
    #[cfg(feature = "otel")]
    export: Option<crate::traces::Export>,
}

impl Traces {
    #[cfg(feature = "otel")]
    fn start(layers: &mut Vec<Lines>) -> Result<Traces> {
        let Some((export, layer)) = crate::traces::Export::start()? else { return Ok(Traces { export: None }) };
        layers.push(layer.boxed());
        Ok(Traces { export: Some(export) })
    }

    #[cfg(not(feature = "otel"))]
    fn start(_: &mut Vec<Lines>) -> Result<Traces> {
        Ok(Traces {})
    }

    /// Sends what has not been sent.
    pub async fn end(self) {
        #[cfg(feature = "otel")]
        if let Some(export) = self.export {
            export.end().await;
        }
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
