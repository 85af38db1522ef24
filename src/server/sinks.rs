//! Starts and ends the stream of transitions and its webhooks.

use crate::config::{Config, Hold, StreamSettings};
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::presence::{Time, fnv1a};
use crate::redis::Names;
use crate::redis::channel::Channel;
use crate::redis::cluster::Topology;
use crate::redis::directory::DirectoryNames;
use crate::redis::stream::{StreamGroup, StreamNames, StreamStore};
use crate::redis::target::Target;
use crate::redis::writer::Store;
use crate::sinks::stream::StreamSink;
use crate::sinks::webhooks::{Endpoint, Poster, Secret, WebhookSink};
use anyhow::{Context, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

/// Time to write the last transitions into the stream.
const LAST_ENTRIES: Duration = Duration::from_secs(1);

/// A stream that is to be written, and its settings.
pub(super) struct OpenStream {
    store: Arc<StreamStore>,
    settings: StreamSettings,
}

/// The parts of the daemon that the sinks need.
pub(super) struct Parts {
    pub(super) daemon: String,
    pub(super) hub: Arc<Hub>,
    pub(super) marks: Arc<Store>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) now: Arc<dyn Fn() -> Time + Send + Sync>,
    pub(super) leaving: CancellationToken,
}

/// The sinks that run.
pub(super) struct Sinks(Vec<AbortOnDropHandle<()>>);

impl Sinks {
    /// Waits until they have given up their leases.
    pub(super) async fn end(self) {
        let all = async {
            for sink in self.0 {
                drop(sink.await);
            }
        };
        if timeout(LAST_ENTRIES, all).await.is_err() {
            warn!("the last transitions were not written into the stream; the next writer adds them");
        }
    }
}

/// The stream of transitions, if there is one. A daemon that keeps only some users writes none.
pub(super) fn open(
    config: &Config,
    servers: (watch::Receiver<Arc<Topology>>, watch::Receiver<Target>),
    others: (Channel, &Names),
) -> Option<OpenStream> {
    let settings = config.stream.clone()?;
    if config.hold == Hold::Watched {
        info!("a daemon with --hold watched does not write the stream; another daemon has to");
        return None;
    }
    let directory =
        DirectoryNames { status: config.status_prefix.clone(), group: config.group_prefix.clone() };
    match StreamNames::new(&settings.name, &config.key_pattern, &directory) {
        Ok(names) => {
            let store = Arc::new(StreamStore::new(servers, others, names, settings.maxlen));
            Some(OpenStream { store, settings })
        }
        // The command line has refused it.
        Err(why) => {
            error!("{why}");
            None
        }
    }
}

/// Starts the writer of the stream, and a sender for each webhook.
pub(super) fn start(stream: OpenStream, parts: Parts) -> Sinks {
    let OpenStream { store, settings } = stream;
    let mut tasks = Vec::new();
    match posters(&settings) {
        Ok(posters) => {
            for poster in posters {
                let sink = webhook(&store, poster, &parts);
                tasks.push(AbortOnDropHandle::new(tokio::spawn(sink.run())));
            }
        }
        Err(why) => error!("no webhook is sent: {why:#}"),
    }
    let Parts { daemon, hub, marks, metrics, now, leaving } = parts;
    let sink = StreamSink { daemon, stream: store, hub, marks, metrics, now, leaving };
    tasks.push(AbortOnDropHandle::new(tokio::spawn(sink.run())));
    Sinks(tasks)
}

fn posters(settings: &StreamSettings) -> Result<Vec<Poster>> {
    if settings.webhooks.is_empty() {
        return Ok(Vec::new());
    }
    let file = settings.webhook_secret.as_deref().context("there is no --webhook-secret")?;
    let secret = Arc::new(Secret::read(file)?);
    let poster = |url: &String| Poster::new(Endpoint::parse(url, settings.webhook_private)?, secret.clone());
    settings.webhooks.iter().map(poster).collect()
}

fn webhook(store: &Arc<StreamStore>, poster: Poster, parts: &Parts) -> WebhookSink {
    let name = format!("keybeat-{:016x}", fnv1a(poster.endpoint().url().as_bytes()));
    WebhookSink {
        daemon: parts.daemon.clone(),
        group: StreamGroup::new(store.clone(), &name),
        poster,
        hub: parts.hub.clone(),
        metrics: parts.metrics.clone(),
        now: parts.now.clone(),
        leaving: parts.leaving.clone(),
    }
}
