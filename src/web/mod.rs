//! HTTP and WebSocket: what each path answers.

mod api;
mod asyncapi;
pub mod auth;
mod console;
pub mod door;
mod events;
pub mod listen;
mod names;
mod openapi;
pub mod origin;
mod permit;
pub mod quota;
mod recorder;
pub mod refusals;
mod socket;
pub mod tls;
mod token;
mod wire;

use crate::config::Limits;
use crate::error::Error;
use crate::hub::Hub;
use crate::keyspace::store::Store;
use crate::metrics::Metrics;
use crate::presence::{Key, NameError};
use crate::protocol::{ErrorBody, ErrorDetail};
use crate::traces;
use auth::Gate;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use door::{Doors, Peer};
use openapi::{Documents, Head, OfPage};
use origin::Origins;
use quota::Quotas;
use recorder::Recorder;
use refusals::{Refusal, Refusals};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What every request may need.
pub struct App {
    /// Who is online.
    pub hub: Arc<Hub>,
    /// Writes heartbeats.
    pub store: Store,
    /// Who is let in.
    pub gate: Arc<Gate>,
    /// Which web pages may come.
    pub origins: Origins,
    /// How many are in.
    pub doors: Doors,
    /// What one token may do how often.
    pub quotas: Quotas,
    /// Says who was turned away.
    pub refusals: Refusals,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Limits of requests and sockets.
    pub limits: Limits,
    /// The daemon stops: sockets say so and close.
    pub stop: CancellationToken,
    /// The sockets' tasks.
    pub sockets: TaskTracker,
    /// How many sockets keep each presence key.
    pub held: Mutex<HashMap<Key, u32>>,
    /// Counts sockets and streams, to tell them apart in the log.
    pub numbered: AtomicU64,
    /// When the daemon began.
    pub started: Instant,
}

impl App {
    /// The next number of a socket or stream.
    fn number(&self) -> u64 {
        self.numbered.fetch_add(1, Ordering::Relaxed) + 1
    }
}

type Shared = State<Arc<App>>;

/// All paths.
pub fn routes(app: Arc<App>) -> Router {
    let (router, mut document) = OpenApiRouter::with_openapi(Head::openapi())
        .routes(routes!(console::page))
        .routes(routes!(console::docs))
        .routes(routes!(console::client))
        .routes(routes!(console::part))
        .routes(routes!(openapi::openapi))
        .routes(routes!(openapi::asyncapi))
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
        .routes(routes!(api::list))
        // A user may be called so too.
        .routes(routes!(api::query, api::user_query, api::end_query))
        .routes(routes!(api::user, api::end))
        .routes(routes!(api::heartbeat))
        .routes(routes!(api::heartbeats))
        .routes(routes!(api::stats))
        .routes(routes!(events::stream))
        .routes(routes!(socket::upgrade))
        .split_for_parts();
    openapi::finish(&mut document);
    router
        .layer(Extension(Arc::new(Documents::new(&document))))
        .layer(Extension(Arc::new(Recorder::new())))
        .fallback(|request: Request| async move {
            let path = request.uri().path();
            // A path without the user's name, which no route takes.
            if path == "/v1/users/" || path.starts_with("/v1/users//") {
                return Failure(Error::user("", NameError::Empty));
            }
            Failure(Error::NotFound(crate::error::shown(path)))
        })
        .method_not_allowed_fallback(|request: Request| async move {
            let path = crate::error::shown(request.uri().path());
            Failure(Error::MethodNotAllowed { method: request.method().to_string(), path })
        })
        .layer(middleware::from_fn_with_state(app.clone(), auth::authenticate))
        // Before the tokens: a browser's preflight has none.
        .layer(app.origins.cors())
        .layer(middleware::from_fn_with_state(app.clone(), origin::guard))
        .layer(middleware::from_fn_with_state(app.clone(), count_refused))
        .with_state(app)
}

/// An error as a response.
pub struct Failure(pub Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure(error)
    }
}

/// The code of a refusal, for the counter.
#[derive(Clone)]
struct Refused(&'static str);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Failure(error) = self;
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let detail = ErrorDetail { code: error.code(), message: error.to_string() };
        let mut response = (status, axum::Json(ErrorBody { error: detail })).into_response();
        response.extensions_mut().insert(Refused(error.code()));
        if status == StatusCode::PAYLOAD_TOO_LARGE || error.code() == "too_many_wrong_tokens" {
            // The rest of the body stays unread, so nothing can follow on this connection; whoever tries tokens
            // has to make a new one for each.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

async fn count_refused(State(app): Shared, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map(MatchedPath::as_str);
    let span = traces::request(request.method(), route, request.headers());
    let query = percent_encoding::percent_decode_str(request.uri().query().unwrap_or_default());
    let response = match query.decode_utf8() {
        Ok(_) => next.run(request).instrument(span.clone()).await,
        // The reader of queries would put a � in its place, and so another name.
        Err(_) => Failure(Error::InvalidRequest("the query string is not UTF-8".into())).into_response(),
    };
    traces::answered(&span, response.status());
    if let Some(Refused(code)) = response.extensions().get() {
        app.metrics.refused(code);
        if let Some(Peer(address)) = peer {
            let route = route.unwrap_or("none");
            app.refusals.say(&Refusal { address, route, code, status: response.status().as_u16() });
        }
    }
    response
}

/// Does the daemon live?
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "daemon",
    responses((status = 200, description = "It does", body = String, content_type = "text/plain"), OfPage)
)]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Does the daemon follow Redis?
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "daemon",
    responses(
        (status = 200, description = "It does: every server is subscribed, compared and proven", body = String,
            content_type = "text/plain"),
        (status = 503, description = "It does not, and why", body = String, content_type = "text/plain"),
        OfPage
    )
)]
async fn readyz(State(app): Shared) -> Response {
    let status = app.hub.status().borrow().clone();
    if status.up {
        return "ready\n".into_response();
    }
    let text = format!("not ready: {}\n", status.cause);
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// Counts, for Prometheus
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "daemon",
    responses(
        (status = 200, description = "OpenMetrics", body = String, content_type = "application/openmetrics-text"),
        OfPage
    )
)]
async fn metrics(State(app): Shared) -> Response {
    let content = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content)], app.metrics.render()).into_response()
}
