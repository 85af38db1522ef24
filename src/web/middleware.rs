//! The layer that every request passes: a span and a counter, and for refusals another counter and a log line.

use super::failure::Refused;
use super::limits::connections::Peer;
use super::limits::refusal_log::{Refusal, Refusals};
use crate::metrics::{Metrics, RouteMetrics};
use crate::traces;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tracing::Instrument;

/// The routes whose answers go on for as long as the client stays. [`Observer`] does not time them.
const LONG_LIVED: [&str; 2] = ["/v1/ws", "/v1/events"];

/// Where [`observe`] counts requests, and counts and logs refusals.
#[derive(Clone)]
pub(super) struct Observer {
    metrics: Arc<Metrics>,
    refusals: Arc<Refusals>,
    /// By the route's template.
    routes: Arc<HashMap<String, RouteMetrics>>,
}

impl Observer {
    /// Observes the requests of routes with these templates.
    pub(super) fn new<'a>(
        metrics: Arc<Metrics>,
        refusals: Arc<Refusals>,
        templates: impl Iterator<Item = &'a str>,
    ) -> Observer {
        let route = |template: &str| metrics.http.route(template, !LONG_LIVED.contains(&template));
        let routes = templates.map(|template| (template.to_owned(), route(template))).collect();
        Observer { metrics, refusals, routes: Arc::new(routes) }
    }

    fn count(&self, route: Option<&str>, method: &'static str, status: u16, began: Instant) {
        match route.and_then(|route| self.routes.get(route)) {
            Some(route) => route.answered(method, status, began.elapsed()),
            None => self.metrics.http.unrouted(method, status),
        }
    }
}

/// Traces and counts a request, and counts and logs its refusal.
pub(super) async fn observe(State(observer): State<Observer>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map(MatchedPath::as_str);
    let (began, method) = (Instant::now(), traces::known_method(request.method()));
    let span = traces::request(request.method(), route, request.headers());
    let response = next.run(request).instrument(span.clone()).await;
    traces::answered(&span, response.status());
    observer.count(route, method, response.status().as_u16(), began);
    if let Some(Refused(code)) = response.extensions().get() {
        observer.metrics.refused(code);
        if let Some(Peer(address)) = peer {
            let (route, status) = (route.unwrap_or("none"), response.status().as_u16());
            observer.refusals.log(&Refusal { address, route, code, status });
        }
    }
    response
}
