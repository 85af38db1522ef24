//! The answers of hyper itself, which refuses a request whose head it cannot read. They have no body, and hyper has no setting for
//! them; so this stream writes an answer with the error body in their place.

use crate::error::Error;
use crate::protocol::{ErrorBody, ErrorDetail};
use crate::web::failure::Failure;
use crate::web::limits::activity::{Activity, RequestPhase};
use crate::web::protective_headers;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::IntoResponse;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection's stream, see the module's head.
pub(super) struct ExplainedRefusal<S> {
    stream: S,
    activity: Arc<Activity>,
    /// The longest head of a request, in bytes.
    most: usize,
    /// The rest of the answer that is written in place of hyper's.
    instead: Option<Vec<u8>>,
}

impl<S> ExplainedRefusal<S> {
    /// Explains the refusals on `stream`, whose requests have a head of at most `most` bytes.
    pub(super) fn new(stream: S, activity: Arc<Activity>, most: usize) -> ExplainedRefusal<S> {
        ExplainedRefusal { stream, activity, most, instead: None }
    }

    /// The stream itself.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// The answer in place of these bytes, if they are a refusal of hyper's: it has no body, and no request is under way.
    fn explained(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let status = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        let error = match status {
            b"400" => unreadable(),
            b"431" => Error::HeadTooLarge(self.most),
            _ => return None,
        };
        let head = std::str::from_utf8(bytes.strip_suffix(b"\r\n\r\n")?).ok()?;
        let is_empty = head.lines().any(|line| line.eq_ignore_ascii_case("content-length: 0"));
        if !is_empty || self.activity.phase().0 == RequestPhase::Request {
            return None;
        }
        let date = head.lines().find(|line| line.starts_with("date: ")).unwrap_or_default();
        Some(answer(error, head.lines().next().unwrap_or_default(), date))
    }
}

/// The error of a request that is not HTTP.
pub(super) fn unreadable() -> Error {
    Error::InvalidRequest(
        "the request is not valid HTTP/1.1: its first line must be METHOD PATH HTTP/1.1, each header NAME: VALUE".into(),
    )
}

/// An answer with this first line and this date.
fn answer(error: Error, first: &str, date: &str) -> Vec<u8> {
    let body = ErrorBody { error: ErrorDetail::new(&error) };
    let body = serde_json::to_string(&body).unwrap_or_default();
    let mut headers: HeaderMap = std::mem::take(Failure(error).into_response().headers_mut());
    protective_headers::add(&mut headers, "");
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    let mut bytes = format!("{first}\r\n{date}\r\n").into_bytes();
    for (name, value) in &headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

impl<S: AsyncRead + Unpin> AsyncRead for ExplainedRefusal<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ExplainedRefusal<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.instead.is_none() {
            self.instead = self.explained(bytes);
        }
        let Some(mut rest) = self.instead.take() else {
            return Pin::new(&mut self.stream).poll_write(context, bytes);
        };
        while !rest.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &rest) {
                Poll::Pending => {
                    self.instead = Some(rest);
                    return Poll::Pending;
                }
                Poll::Ready(written) => drop(rest.drain(..written?)),
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match parts {
            [only] => self.poll_write(context, only),
            _ => Pin::new(&mut self.stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
