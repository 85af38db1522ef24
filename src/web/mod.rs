//! HTTP and WebSocket: which handler answers which path, and what every request passes first.
//!
//! The floors of this folder, from low to high; `tests/it/docs/floors.rs` checks them:
//!
//! ```text
//! mod.rs      routes, and the layers around them
//! api/ stream/   what a request does: heartbeats, users, stats, health | WebSocket, Server-Sent Events
//! app.rs      what handlers share, and the way of a write       answers.rs  counts answers that wait for clients
//! audit/      the line of --audit for each request
//! access/     who may: tokens, origins           middleware.rs  span, counter and log line of a request
//! parameters.rs  refuses unknown query parameters
//! sessions/   the sessions that sockets keep online, and their heartbeats
//! limits/     how much: connections, quotas      console/  the pages      listen.rs  from a port to requests
//! shutdown.rs  the drain and the stop
//! failure.rs  errors as responses     describe/  OpenAPI and AsyncAPI     tls.rs  the port's certificate
//! protective_headers.rs  headers of every answer     query_string.rs  the parameters of a query
//! refused_head.rs  explains why a request cannot be read
//! ```

pub mod access;
mod answers;
mod api;
pub mod app;
pub mod audit;
pub mod bell;
mod console;
mod describe;
mod failure;
pub mod limits;
pub mod listen;
mod middleware;
mod pace;
mod parameters;
mod protective_headers;
mod query_string;
mod refused_head;
pub mod sessions;
pub mod shutdown;
mod stream;
pub mod tls;

use crate::error::{Error, shown};
use crate::presence::NameError;
use access::auth::{self, Guard};
use access::origin::{self, Origins};
pub use api::sockets::obey_others;
use api::{groups, health, heartbeats, listing, sockets, stats, statuses, users};
use app::App;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::{Extension, Router};
use describe::openapi::{self, Documents, Head};
use failure::Failure;
use middleware::Observer;
use parameters::Parameters;
use std::sync::Arc;
use stream::socket::opening;
use stream::sse;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The paths of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paths {
    /// All.
    All,
    /// All but those of [`Paths::Admin`].
    Public,
    /// Health, metrics and stats.
    Admin,
}

/// The paths of a port. A request passes the layers from the last one that is added to the first.
pub fn routes(app: Arc<App>, origins: Arc<Origins>, paths: Paths) -> Router {
    let handlers = match paths {
        Paths::All => public().merge(admin()),
        Paths::Public => public(),
        Paths::Admin => admin(),
    };
    let described = OpenApiRouter::with_openapi(Head::openapi()).merge(handlers);
    let (router, mut document) = described.split_for_parts();
    openapi::finish(&mut document);
    let templates = document.paths.paths.keys().map(String::as_str);
    let observer = Observer::new(app.metrics.clone(), app.refusals.clone(), templates);
    let audit = app.audit.clone();
    let guard = Guard { gate: app.gate.clone(), quotas: app.quotas.clone(), is_public };
    let router = router
        .layer(Extension(Arc::new(Documents::new(&document))))
        // After the tokens: a client without a token learns nothing of the parameters.
        .layer(from_fn_with_state(Arc::new(Parameters::new(&document)), parameters::guard))
        .layer(from_fn_with_state(app.hub.clone(), answers::count))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(guard, auth::authenticate))
        // Before the tokens: a browser's preflight has none.
        .layer(origins.cors())
        .layer(from_fn_with_state(origins, origin::guard))
        .layer(from_fn_with_state(observer, middleware::observe));
    let router = match audit {
        Some(log) => router.layer(from_fn_with_state(log, audit::layer)),
        None => router,
    };
    router.with_state(app)
}

fn admin() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(stats::stats))
}

fn public() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(console::page))
        .routes(routes!(console::docs))
        .routes(routes!(console::client))
        .routes(routes!(console::part))
        .routes(routes!(openapi::openapi))
        .routes(routes!(openapi::asyncapi))
        .routes(routes!(listing::list))
        // A user may be called "query" too.
        .routes(routes!(users::query, users::user_query, heartbeats::end_query))
        .routes(routes!(users::user, heartbeats::end))
        .routes(routes!(heartbeats::heartbeat))
        .routes(routes!(statuses::set, statuses::remove))
        .routes(routes!(heartbeats::heartbeats))
        .routes(routes!(groups::group))
        .routes(routes!(sockets::close))
        .routes(routes!(sse::stream))
        .routes(routes!(opening::upgrade))
}

/// The paths that need no token, because they reveal nothing about users: the pages and their parts, health, metrics and the
/// descriptions.
fn is_public(path: &str) -> bool {
    path.starts_with(console::FOLDER)
        || matches!(
            path,
            "/" | "/keybeat.js"
                | "/docs"
                | "/openapi.json"
                | "/asyncapi.json"
                | "/healthz"
                | "/readyz"
                | "/metrics"
        )
}

async fn not_found(request: Request) -> Failure {
    let path = request.uri().path();
    // A path with an empty user name matches no route.
    if path == "/v1/users/" || path.starts_with("/v1/users//") {
        return Failure(Error::user("", NameError::Empty));
    }
    Failure(Error::NotFound(shown(path)))
}

async fn method_not_allowed(request: Request) -> Failure {
    let path = shown(request.uri().path());
    Failure(Error::MethodNotAllowed { method: request.method().to_string(), path })
}
