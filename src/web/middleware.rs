//! The layers that every request passes: a span, and for refusals a counter and a log line.

use super::failure::{Failure, Refused};
use super::limits::connections::Peer;
use super::limits::refusal_log::{Refusal, Refusals};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::traces;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use tracing::Instrument;

/// Where [`observe`] counts and logs refusals.
#[derive(Clone)]
pub(super) struct Observer {
    pub(super) metrics: Arc<Metrics>,
    pub(super) refusals: Arc<Refusals>,
}

/// Traces a request, and counts and logs its refusal.
pub(super) async fn observe(State(observer): State<Observer>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map(MatchedPath::as_str);
    let span = traces::request(request.method(), route, request.headers());
    let query = percent_encoding::percent_decode_str(request.uri().query().unwrap_or_default());
    let response = match query.decode_utf8() {
        Ok(_) => next.run(request).instrument(span.clone()).await,
        // axum's query extractor would replace these bytes with �, and so change the name.
        Err(_) => Failure(Error::InvalidRequest("the query string is not UTF-8".into())).into_response(),
    };
    traces::answered(&span, response.status());
    if let Some(Refused(code)) = response.extensions().get() {
        observer.metrics.refused(code);
        if let Some(Peer(address)) = peer {
            let (route, status) = (route.unwrap_or("none"), response.status().as_u16());
            observer.refusals.log(&Refusal { address, route, code, status });
        }
    }
    response
}
