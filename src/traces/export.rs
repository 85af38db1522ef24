//! Spans to a collector, by OTLP over HTTP with protobuf. All that can be set is OpenTelemetry's own environment:
//! `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_SCHEDULE_DELAY` and the rest.

use anyhow::{Context, Result, bail};
use axum::http::HeaderMap;
use bytes::Bytes;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TracerProvider;
use opentelemetry::KeyValue;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{HeaderExtractor, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::pin::Pin;
use std::time::Duration;
use tokio::runtime::Handle;
use tracing::{Level, Span, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::{Layer, Registry};

/// Where the collector is; the first that is set, as OpenTelemetry says.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// How long a batch may take, and the last one of a daemon that stops.
const WITHIN: Duration = Duration::from_secs(5);

/// A running export. At most 2,048 spans wait (`OTEL_BSP_MAX_QUEUE_SIZE`); what does not fit is dropped, and the log
/// says how many.
pub struct Export(SdkTracerProvider);

impl Export {
    /// An export to the collector that the environment names, if it names one, and the layer that feeds it.
    ///
    /// # Errors
    /// The address is not one that can be used.
    pub fn start() -> Result<Option<(Export, impl Layer<Registry> + Send + Sync)>> {
        let named = |name: &&str| std::env::var(name).is_ok_and(|value| !value.is_empty());
        let Some(name) = ENDPOINTS.into_iter().find(named) else { return Ok(None) };
        let endpoint = std::env::var(name).unwrap_or_default();
        if !endpoint.starts_with("http://") {
            bail!("{name} is {endpoint:?}: traces go by plain HTTP to a collector near by, as http://127.0.0.1:4318");
        }
        let exporter = SpanExporter::builder().with_http().with_http_client(Sender::new()).build();
        let exporter = exporter.with_context(|| format!("{name} is {endpoint:?}"))?;
        let provider = SdkTracerProvider::builder().with_resource(resource()).with_batch_exporter(exporter).build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("keybeat"))
            .with_location(false)
            .with_threads(false)
            .with_filter(filter_fn(|of| of.is_span() && of.target().starts_with("keybeat") && *of.level() <= Level::INFO));
        Ok(Some((Export(provider), layer)))
    }

    /// Sends what waits. Within 5 s.
    pub async fn end(self) {
        let ended = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(WITHIN)).await;
        if let Ok(Err(why)) = ended {
            warn!("the last traces could not be sent: {why}");
        }
    }
}

fn resource() -> Resource {
    let resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => resource.build(),
        None => resource.with_service_name("keybeat").build(),
    }
}

/// Makes the span part of the trace that the headers name.
pub(super) fn join(span: &Span, headers: &HeaderMap) {
    if headers.contains_key("traceparent") {
        let parent = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
        // An error where the span is not taken: there is no export.
        span.set_parent(parent).ok();
    }
}

/// Sends on the daemon's runtime: batches are made on a thread without one.
#[derive(Debug)]
struct Sender {
    client: HyperClient,
    runtime: Handle,
}

impl Sender {
    fn new() -> Sender {
        Sender { client: HyperClient::with_default_connector(WITHIN, None), runtime: Handle::current() }
    }
}

type Sent<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Sender {
    fn send_bytes<'a, 'b>(&'a self, request: Request<Bytes>) -> Sent<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move { client.send_bytes(request).await });
        Box::pin(async move { sent.await? })
    }
}
