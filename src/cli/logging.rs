//! Logs on standard error.

use clap::ValueEnum;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

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

pub fn start(format: Format, level: &str) {
    let filter = EnvFilter::new(filter(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !super::colour::forbidden());
    match format {
        Format::Text => builder.with_target(false).init(),
        Format::Json => builder.json().flatten_event(true).init(),
    }
}

/// For commands whose output is for people: only what went wrong.
pub fn start_quiet() {
    start(Format::Text, "warn");
}

/// For a command that draws on the whole screen.
pub fn start_silent() {
    start(Format::Text, "off");
}
