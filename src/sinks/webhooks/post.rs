//! One attempt to deliver a batch.

use super::endpoint::Endpoint;
use super::secret::Secret;
use crate::certificates;
use crate::presence::{Parcel, Undelivered};
use anyhow::{Context, Result, anyhow};
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// The longest time of an attempt. Receivers should answer first and work afterwards.
const ATTEMPT: Duration = Duration::from_secs(15);

/// Sends batches to one URL.
pub struct Poster {
    endpoint: Endpoint,
    secret: Arc<Secret>,
    /// For `https://`.
    tls: Option<TlsConnector>,
}

/// Why a batch was not delivered, for people too.
pub(super) type Failure = (Undelivered, String);

impl Poster {
    /// A poster that trusts the authorities of the system.
    ///
    /// # Errors
    /// There is no authority to trust.
    pub fn new(endpoint: Endpoint, secret: Arc<Secret>) -> Result<Poster> {
        let tls = endpoint.is_secure().then(Poster::trust).transpose()?;
        Ok(Poster { endpoint, secret, tls })
    }

    fn trust() -> Result<TlsConnector> {
        let verifier = certificates::verifier(None, "SSL_CERT_FILE=")?;
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }

    /// The receiver.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends a batch once.
    ///
    /// # Errors
    /// The receiver did not acknowledge it.
    pub async fn post(&self, parcel: &Parcel) -> Result<(), Failure> {
        let unreached = |why: anyhow::Error| (Undelivered::Unreached, format!("{why:#}"));
        let answered = timeout(ATTEMPT, self.exchange(parcel)).await;
        let answered = answered.unwrap_or_else(|_| Err(anyhow!("no answer within {ATTEMPT:?}")));
        let status = answered.map_err(unreached)?;
        let shown = self.endpoint.shown();
        match status.as_u16() {
            _ if status.is_success() => Ok(()),
            429 | 502..=504 => Err((Undelivered::Unreached, format!("{shown} is overloaded: {status}"))),
            300..=399 => Err((
                Undelivered::Refused,
                format!("{shown} redirects ({status}), and redirects are not followed"),
            )),
            _ => Err((Undelivered::Refused, format!("{shown} answered {status}"))),
        }
    }

    async fn exchange(&self, parcel: &Parcel) -> Result<StatusCode> {
        let request = self.request(parcel)?;
        let tcp = self.endpoint.connect().await?;
        let Some(tls) = &self.tls else { return talk(tcp, request).await };
        let name = ServerName::try_from(self.endpoint.host().to_owned())?;
        let shown = self.endpoint.shown();
        let stream = tls.connect(name, tcp).await.with_context(|| format!("no TLS with {shown}"))?;
        talk(stream, request).await
    }

    fn request(&self, parcel: &Parcel) -> Result<Request<Body>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let signature = self.secret.sign(&parcel.id, now, &parcel.body)?;
        let request = Request::post(self.endpoint.path())
            .header(header::HOST, self.endpoint.authority())
            .header(header::CONNECTION, "close")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("keybeat/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &parcel.id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", signature);
        Ok(request.body(Body::from(parcel.body.clone()))?)
    }
}

/// Sends a request and returns the status of the answer. The body of the answer means nothing, so it is not read.
async fn talk<S>(stream: S, request: Request<Body>) -> Result<StatusCode>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await;
    drop(connection);
    Ok(answer?.status())
}
