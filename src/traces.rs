//! What is traced: requests, writes to Redis, and gaps until they are compared. Without the feature `otel` nobody
//! takes the spans, and each costs a branch.
//!
//! Names of fields are OpenTelemetry's semantic conventions for HTTP.

#[cfg(feature = "otel")]
mod export;

#[cfg(feature = "otel")]
pub use export::Export;

use axum::http::{HeaderMap, Method, StatusCode};
use tracing::field::Empty;
use tracing::{Span, info_span};

/// The span of a request for this route, within the caller's trace where the headers name one (`traceparent`).
pub fn request(method: &Method, route: &str, headers: &HeaderMap) -> Span {
    let span = info_span!(
        "request",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method.as_str(),
        http.route = route,
        http.response.status_code = Empty,
    );
    #[cfg(feature = "otel")]
    export::join(&span, headers);
    #[cfg(not(feature = "otel"))]
    let _ = headers;
    span
}

/// How the request of this span was answered.
pub fn answered(span: &Span, status: StatusCode) {
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

/// The span of a gap of this server, until it has been compared with Redis.
pub fn gap(server: &str, cause: &str) -> Span {
    info_span!("gap", server, cause, repaired = Empty, keys = Empty)
}

/// The server of this gap has been compared with Redis.
pub fn compared(span: &Span, repaired: u64, keys: u64) {
    span.record("repaired", repaired);
    span.record("keys", keys);
}
