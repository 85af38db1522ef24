//! Webhooks: a consumer group of the stream for each URL, and one daemon at a time that sends its events.
//!
//! `endpoint` has the URL and which addresses are allowed, `secret` the signatures, `post` one attempt, `event` the JSON of an entry.
//! [`Delivery`] decides when which events go.

mod endpoint;
mod event;
mod post;
mod secret;
mod warnings;

pub use endpoint::Endpoint;
pub use post::Poster;
pub use secret::Secret;

use crate::hub::{Hub, WebhookState};
use crate::metrics::Metrics;
use crate::presence::{Delivery, Parcel, Time, Undelivered};
use crate::redis::stream::{GroupEntry, GroupLease, StreamGroup};
use anyhow::Result;
use post::Failure;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use warnings::Warnings;

/// How often the sender looks for entries, and a daemon that stands by for the lease.
const TICK: Duration = Duration::from_millis(100);
const STAND_BY: Duration = Duration::from_secs(1);
/// How often the lease is renewed.
const RENEW: Duration = Duration::from_secs(2);
/// How often the daemon looks whether the stream still has the events that wait.
const TRIMMED: Duration = Duration::from_secs(10);
/// How often the daemon asks how far the receiver is behind.
const LAG: Duration = Duration::from_secs(2);
/// Entries in one read.
const READ: usize = 500;
/// The wait after a command that failed.
const FAILED_AGAIN: Duration = Duration::from_secs(1);
/// Time to give up the lease.
const RELEASE: Duration = Duration::from_millis(500);

/// The sender of one URL.
pub struct WebhookSink {
    /// Names this run of this daemon.
    pub daemon: String,
    /// The group of the URL.
    pub group: StreamGroup,
    /// Sends to the URL.
    pub poster: Poster,
    /// Where the state is published.
    pub hub: Arc<Hub>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The daemon's clock.
    pub now: Arc<dyn Fn() -> Time + Send + Sync>,
    /// Cancelled when other daemons are to do this one's work.
    pub leaving: CancellationToken,
}

/// The state of the webhook, and its last warning.
struct Record {
    state: WebhookState,
    warnings: Warnings,
}

/// One term as sender.
#[derive(Default)]
struct Desk {
    delivery: Delivery,
    /// Entries that were read before and not acknowledged are read after this id: those of the last sender, or those that were left in
    /// the stream. `None` once all of them were read.
    pending: Option<String>,
    /// Those that were left in the stream are read.
    again: bool,
}

impl WebhookSink {
    /// Sends until the daemon leaves.
    pub async fn run(self) {
        let state = WebhookState { url: self.poster.endpoint().shown(), ..WebhookState::default() };
        let mut record = Record { state, warnings: Warnings::default() };
        self.publish(&record);
        tokio::select! {
            () = self.serve(&mut record) => {}
            () = self.leaving.cancelled() => {}
        }
        // A batch under way may arrive, and is sent again by the next sender, with the same id.
        if timeout(RELEASE, self.group.release(&self.daemon)).await.is_err() {
            warn!(
                url = record.state.url,
                "the lease of the webhook was not given up; it ends in ten seconds"
            );
        }
    }

    async fn serve(&self, record: &mut Record) {
        loop {
            match self.group.lease(&self.daemon).await {
                Ok(GroupLease::Held) => {
                    info!(url = record.state.url, "this daemon sends the webhook");
                    record.state.sends = true;
                    if let Err(why) = self.send(record).await {
                        self.failed(record, format!("{why:#}"));
                        sleep(FAILED_AGAIN).await;
                    }
                    record.state.end_term();
                }
                Ok(lease) => {
                    record.state.sends = lease == GroupLease::WithoutStream;
                    self.publish(record);
                    sleep(STAND_BY).await;
                }
                Err(why) => {
                    self.failed(record, format!("{why:#}"));
                    self.publish(record);
                    sleep(STAND_BY).await;
                }
            }
        }
    }

    /// One term as sender; ends when another daemon has the lease.
    async fn send(&self, record: &mut Record) -> Result<()> {
        self.group.create().await?;
        let mut desk = Desk { pending: Some("0".into()), ..Desk::default() };
        let (mut renew_at, mut trim_at) = (Instant::now() + RENEW, Instant::now() + TRIMMED);
        let mut lag_at = Instant::now();
        loop {
            if Instant::now() >= trim_at {
                trim_at = Instant::now() + TRIMMED;
                self.trim(&mut desk, record).await?;
            }
            if Instant::now() >= lag_at {
                lag_at = Instant::now() + LAG;
                record.state.lag = self.lag().await;
            }
            let more = self.fill(&mut desk).await?;
            (record.state.waiting, record.state.refused) = (desk.delivery.held(), desk.delivery.refused());
            self.publish(record);
            match desk.delivery.next((self.now)()) {
                Some(parcel) => {
                    let Some(answer) = self.post(&parcel, &mut renew_at).await? else { return Ok(()) };
                    self.settle(&mut desk, answer, record).await?;
                }
                None if more => {}
                None => sleep(TICK).await,
            }
            if Instant::now() >= renew_at {
                renew_at = Instant::now() + RENEW;
                if self.group.lease(&self.daemon).await? != GroupLease::Held {
                    return Ok(());
                }
            }
        }
    }

    /// Reads as many entries as may wait. Returns whether more can be read at once.
    async fn fill(&self, desk: &mut Desk) -> Result<bool> {
        let room = desk.delivery.room().min(READ);
        if room == 0 {
            return Ok(false);
        }
        // Most of what is read again is held already.
        let most = if desk.again { READ } else { room };
        let entries = self.group.read(desk.pending.as_deref(), most).await?;
        let useless = self.add(desk, &entries);
        match &mut desk.pending {
            Some(pending) => match entries.last() {
                Some(last) if !desk.delivery.has_read_enough() => pending.clone_from(&last.id),
                _ => {
                    desk.pending = None;
                    desk.again = false;
                    desk.delivery.end_reading_again();
                }
            },
            None => {
                desk.pending = desk.delivery.read_again();
                desk.again = desk.pending.is_some();
            }
        }
        self.group.acknowledge(&useless).await?;
        Ok(desk.pending.is_some())
    }

    /// Drops what the stream no longer has: nobody waits for it.
    async fn trim(&self, desk: &mut Desk, record: &mut Record) -> Result<()> {
        if desk.delivery.held() == 0 {
            return Ok(());
        }
        let (first, refused) = (self.group.first().await?, desk.delivery.refused());
        let trimmed = desk.delivery.trim(first.as_deref());
        if refused > 0 && desk.delivery.refused() == 0 {
            record.recovered();
        }
        self.metrics.webhooks.trimmed.inc_by(trimmed.len() as u64);
        self.group.acknowledge(&trimmed).await
    }

    /// How many entries the receiver has not acknowledged; `None` if the server does not know, or refuses to report it.
    async fn lag(&self) -> Option<u64> {
        self.group.lag().await.unwrap_or_else(|why| {
            debug!("the lag of the webhook is not known: {why:#}");
            None
        })
    }

    /// Hands events to the delivery. Returns the ids of entries without an event.
    fn add(&self, desk: &mut Desk, entries: &[GroupEntry]) -> Vec<String> {
        let (mut events, mut useless) = (Vec::new(), Vec::new());
        for entry in entries {
            match event::event(entry) {
                Some(event) => events.push(event),
                None => useless.push(entry.id.clone()),
            }
        }
        let trimmed = entries.iter().filter(|entry| entry.fields.is_empty()).count();
        self.metrics.webhooks.trimmed.inc_by(trimmed as u64);
        desk.delivery.add(events);
        useless
    }

    /// Sends a batch, and renews the lease meanwhile; `None` if another daemon has it.
    async fn post(&self, parcel: &Parcel, renew_at: &mut Instant) -> Result<Option<Result<(), Failure>>> {
        let mut post = std::pin::pin!(self.poster.post(parcel));
        loop {
            tokio::select! {
                answer = &mut post => return Ok(Some(answer)),
                () = tokio::time::sleep_until(*renew_at) => {
                    *renew_at = Instant::now() + RENEW;
                    if self.group.lease(&self.daemon).await? != GroupLease::Held {
                        return Ok(None);
                    }
                }
            }
        }
    }

    async fn settle(&self, desk: &mut Desk, answer: Result<(), Failure>, record: &mut Record) -> Result<()> {
        match answer {
            Ok(()) => {
                self.metrics.webhooks.attempt("delivered");
                let ids = desk.delivery.delivered((self.now)());
                self.metrics.webhooks.delivered.inc_by(ids.len() as u64);
                record.state.delivered += ids.len() as u64;
                // While events wait that the receiver refused, their error is the one to look at.
                if desk.delivery.refused() == 0 {
                    record.recovered();
                }
                self.group.acknowledge(&ids).await
            }
            Err((why, text)) => {
                self.metrics.webhooks.attempt(match why {
                    Undelivered::Unreached => "unreached",
                    Undelivered::Refused => "refused",
                });
                desk.delivery.failed((self.now)(), why);
                self.failed(record, text);
                Ok(())
            }
        }
    }

    fn failed(&self, record: &mut Record, why: String) {
        if record.warnings.failed((self.now)(), &why) {
            warn!(url = record.state.url, why, "the webhook was not delivered; the daemon tries again");
        }
        record.state.error = Some(why);
    }

    fn publish(&self, Record { state, .. }: &Record) {
        self.hub.set_webhook(self.poster.endpoint().url(), state.clone());
        // Webhooks at one host are shown together.
        let same: Vec<WebhookState> =
            self.hub.webhooks().into_iter().filter(|other| other.url == state.url && other.sends).collect();
        let sum = |count: fn(&WebhookState) -> usize| same.iter().map(count).sum::<usize>() as u64;
        let lag =
            (!same.is_empty()).then(|| same.iter().map(|state| state.lag).sum::<Option<u64>>()).flatten();
        self.metrics.webhooks.set(&state.url, sum(|state| state.waiting), sum(|state| state.refused), lag);
    }
}

impl Record {
    /// The webhook works.
    fn recovered(&mut self) {
        self.state.error = None;
        self.warnings.recovered();
    }
}
