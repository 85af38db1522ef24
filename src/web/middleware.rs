//! What every request passes: a span, a counter and a log line for refusals.

use super::app::Shared;
use super::failure::{Failure, Refused};
use super::limits::connections::Peer;
use super::limits::refusal_log::Refusal;
use crate::error::Error;
use crate::traces;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

pub(super) async fn count_refused(State(app): Shared, request: Request, next: Next) -> Response {
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
