//! Spans of requests, of their writes to Redis, and of gaps until they are reconciled. Without an export nothing records
//! the spans, and each costs a branch.
//!
//! Field names follow OpenTelemetry's semantic conventions for HTTP and databases; those of gaps are the names in the
//! log. No span contains a user, token, path or query.

#[cfg_attr(not(feature = "otel"), path = "traces/absent.rs")]
mod export;
#[cfg(feature = "otel")]
mod sender;

pub use export::Traces;

use axum::http::{HeaderMap, Method, StatusCode};
use tracing::field::Empty;
use tracing::{Metadata, Span, info_span};
use tracing_subscriber::{Layer, Registry};

/// A layer that receives log lines or spans.
pub type Layered = Box<dyn Layer<Registry> + Send + Sync>;

/// The variables with the address of a collector. The first one that is set counts, as OpenTelemetry specifies.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// The variable that names a collector, and its value, unless another variable disables traces.
fn collector() -> Option<(&'static str, String)> {
    let value = |name| std::env::var(name).unwrap_or_default();
    if value("OTEL_SDK_DISABLED").eq_ignore_ascii_case("true") || value("OTEL_TRACES_EXPORTER") == "none" {
        return None;
    }
    ENDPOINTS.into_iter().map(|name| (name, value(name))).find(|(_, address)| !address.is_empty())
}

/// Checks the address of the collector.
///
/// # Errors
/// It cannot be used.
pub fn check() -> anyhow::Result<()> {
    export::check()
}

/// Whether the exporter logs this for every failed batch. `sender.rs` logs the failure once instead.
pub fn said_once(of: &Metadata) -> bool {
    of.name().starts_with("Export.Failed")
        || matches!(of.name(), "BatchSpanProcessor.ExportError" | "BatchSpanProcessor.Shutdown.Timeout")
}

/// The span of a request, in the caller's trace if the headers name one (`traceparent`).
pub fn request(method: &Method, route: Option<&str>, headers: &HeaderMap) -> Span {
    let method = known_method(method);
    let span = info_span!(
        parent: None,
        "request",
        otel.name = route.map_or(method.to_owned(), |route| format!("{method} {route}")),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
    );
    export::join(&span, headers);
    span
}

/// The method, or `_OTHER` for an unknown one: clients must not be able to create names of spans or metrics.
pub fn known_method(method: &Method) -> &'static str {
    const KNOWN: [&str; 6] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

/// Records the status of the answer.
pub fn answered(span: &Span, status: StatusCode) {
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        failed(span);
    }
}

/// Marks the span as failed.
pub fn failed(span: &Span) {
    span.record("otel.status_code", "ERROR");
}

/// The span of the commands that a request sends to Redis. Heartbeats of sockets belong to no request and get no span.
pub fn write(commands: usize) -> Span {
    if Span::current().is_none() {
        return Span::none();
    }
    info_span!(
        "redis write",
        otel.kind = "client",
        otel.status_code = Empty,
        db.system.name = "redis",
        db.operation.batch.size = commands as u64,
    )
}

/// The span of a gap of this server, until it is reconciled.
pub fn gap(server: &str, cause: &str) -> Span {
    info_span!(parent: None, "gap", server, cause, repaired = Empty, keys = Empty)
}

/// Records the result of reconciling.
pub fn compared(gap: &Span, repaired: u64, keys: u64) {
    gap.record("repaired", repaired);
    gap.record("keys", keys);
}
