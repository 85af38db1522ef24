//! Batches of spans on their way to the collector.
//!
//! Of its own: the exporter's clients bring HTTP/2 or a second TLS into the tree.

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

/// How long an attempt may take.
const ANSWER: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes: it says at most what was wrong.
const MOST: usize = 64 * 1024;

/// Sends on the daemon's runtime: batches are made on a thread without one.
#[derive(Debug)]
pub(super) struct Sender {
    to: Arc<str>,
    runtime: Handle,
    failing: Arc<AtomicBool>,
}

impl Sender {
    /// One to this host and port.
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
            tell(&to, &failing, &answer);
            answer
        });
        Box::pin(async move { Ok(sent.await??) })
    }
}

/// One request on a connection of its own: there is one every few seconds.
async fn exchange(to: &str, request: Request<Bytes>) -> Result<Response<Bytes>> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().context("the collector's address has no path")?;
    head.uri = Uri::from(path.clone());
    head.headers.insert(header::HOST, HeaderValue::from_str(to)?);
    let (head, body) = sender.send_request(Request::from_parts(head, Body::from(body))).await?.into_parts();
    Ok(Response::from_parts(head, to_bytes(Body::new(body), MOST).await?))
}

/// Says it once when batches begin to fail, and when they no longer do.
fn tell(to: &str, failing: &AtomicBool, answer: &Result<Response<Bytes>>) {
    let why = match answer {
        Ok(answer) if answer.status().is_success() => None,
        Ok(answer) => Some(format!("it answered {}", answer.status())),
        Err(why) => Some(format!("{why:#}")),
    };
    let before = failing.swap(why.is_some(), Ordering::Relaxed);
    match why {
        Some(why) if !before => {
            warn!(to, "traces cannot be sent, and are lost until they can: {why}");
        }
        None if before => info!(to, "traces are sent again"),
        _ => {}
    }
}
