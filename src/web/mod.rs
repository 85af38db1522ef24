//! HTTP and WebSocket: what each path answers.

pub mod access;
mod api;
pub mod app;
mod console;
mod describe;
mod failure;
pub mod limits;
pub mod listen;
mod middleware;
mod stream;
pub mod tls;

use crate::error::Error;
use crate::presence::NameError;
use access::{auth, origin};
use api::health;
use app::App;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::{Extension, Router};
use describe::openapi::{self, Documents, Head};
use failure::Failure;
use std::sync::Arc;
use stream::recorder::Recorder;
use stream::{sse, websocket};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// All paths.
pub fn routes(app: Arc<App>) -> Router {
    let (router, mut document) = OpenApiRouter::with_openapi(Head::openapi())
        .routes(routes!(console::page))
        .routes(routes!(console::docs))
        .routes(routes!(console::client))
        .routes(routes!(console::part))
        .routes(routes!(openapi::openapi))
        .routes(routes!(openapi::asyncapi))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(api::list))
        // A user may be called so too.
        .routes(routes!(api::query, api::user_query, api::end_query))
        .routes(routes!(api::user, api::end))
        .routes(routes!(api::heartbeat))
        .routes(routes!(api::heartbeats))
        .routes(routes!(api::stats))
        .routes(routes!(sse::stream))
        .routes(routes!(websocket::upgrade))
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
        .layer(from_fn_with_state(app.clone(), auth::authenticate))
        // Before the tokens: a browser's preflight has none.
        .layer(app.origins.cors())
        .layer(from_fn_with_state(app.clone(), origin::guard))
        .layer(from_fn_with_state(app.clone(), middleware::count_refused))
        .with_state(app)
}
