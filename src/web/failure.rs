//! Errors as responses.

use crate::error::Error;
use crate::protocol::{ErrorBody, ErrorDetail};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// An error as a response.
pub struct Failure(pub Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure(error)
    }
}

/// The code of a refusal, for the counter.
#[derive(Clone)]
pub(super) struct Refused(pub(super) &'static str);

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
