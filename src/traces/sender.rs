//! The HTTP client that sends batches of spans to the collector.
//!
//! It replaces the exporter's own clients, which depend on HTTP/2 or a second TLS library.

use anyhow::{Context, Result};
use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, Uri, header};
use bytes::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

/// Time limit of an attempt.
const ANSWER: Duration = Duration::from_secs(5);
/// Maximum size of an answer, in bytes; it contains at most an error message.
const MOST: usize = 64 * 1024;

/// Sends on the daemon's runtime, because the exporter's thread has none.
#[derive(Debug)]
pub(super) struct Sender {
    to: Arc<str>,
    runtime: Handle,
    failing: Arc<AtomicBool>,
}

impl Sender {
    /// A client for this host and port.
    pub(super) fn new(to: String) -> Sender {
        Sender { to: to.into(), runtime: Handle::current(), failing: Arc::default() }
    }
}

type Sent<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Sender {
    fn send_bytes<'a, 'b>(&'a self, request: Request<Bytes>) -> Sent<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        let (to, failing) = (self.to.clone(), self.failing.clone());
        let sent = self.runtime.spawn(async move {
            let answer = timeout(ANSWER, exchange(&to, request)).await;
            let answer = answer.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {ANSWER:?}")));
            log(&to, &failing, &answer);
            answer
        });
        Box::pin(async move { Ok(sent.await??) })
    }
}

/// Sends one request on its own connection; there is one every few seconds.
async fn exchange(to: &str, request: Request<Bytes>) -> Result<Response<Bytes>> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().context("the address of the collector has no path")?;
    head.uri = Uri::from(path.clone());
    head.headers.insert(header::HOST, HeaderValue::from_str(to)?);
    let (head, body) = sender.send_request(Request::from_parts(head, Body::from(body))).await?.into_parts();
    Ok(Response::from_parts(head, to_bytes(Body::new(body), MOST).await?))
}

/// Logs once when batches start to fail, and once when they succeed again.
fn log(to: &str, failing: &AtomicBool, answer: &Result<Response<Bytes>>) {
    let why = match answer {
        Ok(answer) if answer.status().is_success() => None,
        Ok(answer) => Some(format!("the collector returned {}", answer.status())),
        Err(why) => Some(format!("{why:#}")),
    };
    let before = failing.swap(why.is_some(), Ordering::Relaxed);
    match why {
        Some(why) if !before => {
            warn!(to, "cannot send traces; they are lost until the collector accepts them: {why}");
        }
        None if before => info!(to, "sending traces again"),
        _ => {}
    }
}
