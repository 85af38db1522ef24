//! Errors as responses.

use crate::error::{Error, code::TOO_MANY_WRONG_TOKENS};
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

/// An extension of the response: the code of the refusal, for counter and log.
#[derive(Clone)]
pub(super) struct Refused(pub(super) &'static str);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Failure(error) = self;
        let (status, code) = (error.status(), error.code());
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let detail = ErrorDetail::new(&error);
        let mut response = (status, axum::Json(ErrorBody { error: detail })).into_response();
        response.extensions_mut().insert(Refused(code));
        let mut set = |name, value| {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        };
        if status == StatusCode::PAYLOAD_TOO_LARGE || code == TOO_MANY_WRONG_TOKENS {
            // The rest of a large body stays unread, so no request can follow on this connection. A client that guesses
            // tokens has to open a new connection for each guess.
            set(header::CONNECTION, "close");
        }
        match status {
            StatusCode::UNAUTHORIZED => set(header::WWW_AUTHENTICATE, "Bearer"),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => set(header::RETRY_AFTER, "1"),
            _ => {}
        }
        response
    }
}
