//! Export of spans to a collector by OTLP over HTTP with protobuf. The settings are OpenTelemetry's own variables:
//! `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_SCHEDULE_DELAY` and others.

use super::sender::Sender;
use super::{Layered, collector};
use anyhow::{Context, Result, bail};
use axum::http::{HeaderMap, Uri};
use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::HeaderExtractor;
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::time::Duration;
use tracing::{Span, info, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};

/// Time limit of the last batch when the daemon stops: the rest of the 5 s of a stop.
const LAST: Duration = Duration::from_secs(1);

/// A running export, if the environment names a collector. At most 2,048 spans are queued (`OTEL_BSP_MAX_QUEUE_SIZE`);
/// further ones are dropped. The log reports the first drop, and at the end the number of drops.
pub struct Traces(Option<Export>);

struct Export {
    provider: SdkTracerProvider,
    to: String,
}

impl Traces {
    /// Starts the export to the collector that the environment names; returns it with the layer that feeds it.
    ///
    /// # Errors
    /// The address of the collector cannot be used.
    pub fn start() -> Result<(Traces, Option<Layered>)> {
        let Some((name, address)) = collector() else { return Ok((Traces(None), None)) };
        let to = named_place(name, &address)?;
        let exporter = SpanExporter::builder().with_http().with_http_client(Sender::new(to.clone())).build();
        let exporter = exporter.with_context(|| format!("{name} is {address:?}"))?;
        let provider =
            SdkTracerProvider::builder().with_resource(resource()).with_batch_exporter(exporter).build();
        let ours = filter_fn(|of| of.is_span() && of.target().starts_with("keybeat"));
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("keybeat"))
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(ours.with_max_level_hint(LevelFilter::INFO))
            .boxed();
        Ok((Traces(Some(Export { provider, to })), Some(layer)))
    }

    /// Logs where traces are sent; called once the log has started.
    pub fn begun(&self) {
        if let Some(Export { to, .. }) = &self.0 {
            info!(to, "sending traces");
        }
    }

    /// Sends the queued spans, within 1 s.
    pub async fn end(self) {
        let Some(Export { provider, to }) = self.0 else { return };
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST)).await;
        if let Ok(Err(why)) = ended {
            warn!(to, "could not send the last traces: {why}");
        }
    }
}

/// An error if the environment names a collector whose address cannot be used.
pub(super) fn check() -> Result<()> {
    collector().map_or(Ok(()), |(name, address)| named_place(name, &address).map(drop))
}

fn named_place(name: &str, address: &str) -> Result<String> {
    place(address).with_context(|| format!("{name} is {address:?}"))
}

/// Host and port of the collector.
fn place(address: &str) -> Result<String> {
    let uri: Uri = address.parse().unwrap_or_default();
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(host)) => Ok(format!("{host}:{}", uri.port_u16().unwrap_or(80))),
        _ => {
            bail!("traces are sent by plain HTTP only; name a local collector, such as http://127.0.0.1:4318")
        }
    }
}

fn resource() -> Resource {
    let resource = Resource::builder_empty()
        .with_service_name("keybeat")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match std::env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => resource.with_service_name(name).build(),
        _ => resource.build(),
    }
}

/// Makes the span part of the trace that the headers name.
pub(super) fn join(span: &Span, headers: &HeaderMap) {
    if headers.contains_key("traceparent") {
        let parent = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
        // This fails only without an export, where the span is not recorded.
        span.set_parent(parent).ok();
    }
}
