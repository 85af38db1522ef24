//! Stands in for the export if the program was built without the feature `otel`.

use super::{Layered, collector};
use anyhow::Result;
use axum::http::HeaderMap;
use tracing::{Span, warn};

/// No export.
pub struct Traces;

impl Traces {
    /// Does nothing.
    ///
    /// # Errors
    /// None.
    pub fn start() -> Result<(Traces, Option<Layered>)> {
        Ok((Traces, None))
    }

    /// Warns if the environment names a collector.
    pub fn begun(&self) {
        if let Some((name, _)) = collector() {
            warn!(
                "{name} is set, but this keybeat was built without traces; build it with: cargo build --release --features otel"
            );
        }
    }

    /// Does nothing.
    pub async fn end(self) {}
}

pub(super) fn check() -> Result<()> {
    Ok(())
}

pub(super) fn join(_: &Span, _: &HeaderMap) {}
