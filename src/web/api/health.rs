//! Liveness, readiness and metrics.

use crate::web::app::Shared;
use crate::web::describe::openapi::OfPage;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Liveness
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "daemon",
    responses((status = 200, description = "The daemon runs", body = String, content_type = "text/plain"), OfPage)
)]
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// Readiness
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "daemon",
    responses(
        (status = 200, description = "Ready: every Redis server is subscribed, reconciled and its event stream verified", body = String,
            content_type = "text/plain"),
        (status = 503, description = "Not ready, with the cause", body = String, content_type = "text/plain"),
        OfPage
    )
)]
pub async fn readyz(State(app): Shared) -> Response {
    match app.unready() {
        None => "ready\n".into_response(),
        Some(cause) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {cause}\n")).into_response(),
    }
}

/// Metrics for Prometheus
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "daemon",
    responses(
        (status = 200, description = "OpenMetrics", body = String, content_type = "application/openmetrics-text"),
        OfPage
    )
)]
pub async fn metrics(State(app): Shared) -> Response {
    app.metrics.ready.set(i64::from(app.unready().is_none()));
    let content = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content)], app.metrics.render()).into_response()
}
