//! What is traced: requests, what they write to Redis, and gaps until they are compared. Where no traces are sent
//! nobody takes the spans, and each costs a branch.
//!
//! Names of fields are OpenTelemetry's semantic conventions for HTTP and databases; those of gaps are the log's.
//! No user, token, path or query is in them.

#[cfg_attr(not(feature = "otel"), path = "traces/absent.rs")]
mod export;
#[cfg(feature = "otel")]
mod sender;

pub use export::Traces;

use axum::http::{HeaderMap, Method, StatusCode};
use tracing::field::Empty;
use tracing::{Metadata, Span, info_span};
use tracing_subscriber::{Layer, Registry};

/// Something that takes what is logged and traced.
pub type Layered = Box<dyn Layer<Registry> + Send + Sync>;

/// The address of a collector: the first that is set, as OpenTelemetry says.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// The variable that names a collector and what it says, unless another forbids traces.
fn collector() -> Option<(&'static str, String)> {
    let said = |name| std::env::var(name).unwrap_or_default();
    if said("OTEL_SDK_DISABLED").eq_ignore_ascii_case("true") || said("OTEL_TRACES_EXPORTER") == "none" {
        return None;
    }
    ENDPOINTS.into_iter().map(|name| (name, said(name))).find(|(_, address)| !address.is_empty())
}

/// Is this said by the exporter with each batch that fails? It is said once here, in better words.
pub fn said_once(of: &Metadata) -> bool {
    of.name().starts_with("Export.Failed")
        || matches!(of.name(), "BatchSpanProcessor.ExportError" | "BatchSpanProcessor.Shutdown.Timeout")
}

/// The span of a request, within the caller's trace where the headers name one (`traceparent`).
pub fn request(method: &Method, route: Option<&str>, headers: &HeaderMap) -> Span {
    let method = known(method);
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

/// Whoever makes up methods does not make up names of spans.
fn known(method: &Method) -> &str {
    match *method {
        Method::GET | Method::POST | Method::PUT | Method::DELETE | Method::HEAD | Method::OPTIONS => {
            method.as_str()
        }
        _ => "_OTHER",
    }
}

/// How the request of this span was answered.
pub fn answered(span: &Span, status: StatusCode) {
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        failed(span);
    }
}

/// What this span is about has failed.
pub fn failed(span: &Span) {
    span.record("otel.status_code", "ERROR");
}

/// The span of so many commands that a request has Redis do. What sockets write is nobody's request: no span.
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

/// The span of a gap of this server, until it has been compared with Redis.
pub fn gap(server: &str, cause: &str) -> Span {
    info_span!(parent: None, "gap", server, cause, repaired = Empty, keys = Empty)
}

/// The server of this gap has been compared with Redis.
pub fn compared(gap: &Span, repaired: u64, keys: u64) {
    gap.record("repaired", repaired);
    gap.record("keys", keys);
}
