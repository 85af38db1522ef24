//! The loop that writes transitions into a Redis Stream. It decides nothing: [`StreamWriter`] does.

mod view;

use crate::hub::{Hub, StreamState};
use crate::metrics::Metrics;
use crate::presence::{StreamCounts, StreamOrder, StreamReply, StreamRole, StreamWriter, Time};
use crate::redis::stream::StreamStore;
use crate::redis::writer::Store;
use anyhow::{Result, bail};
use std::mem::{Discriminant, discriminant};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use view::HubView;

/// How often a writer looks for transitions: they wait so long at most, and share a write.
const WRITER_TICK: Duration = Duration::from_millis(20);
/// The same for a daemon that does not write.
const WAITING_TICK: Duration = Duration::from_millis(200);
/// The longest time until the view has everything that Redis did.
const MARKED: Duration = Duration::from_secs(1);

/// The parts of the daemon that the loop needs.
pub struct StreamSink {
    /// Names this run of this daemon.
    pub daemon: String,
    /// The stream.
    pub stream: Arc<StreamStore>,
    /// The transitions.
    pub hub: Arc<Hub>,
    /// Sends marks into the event streams.
    pub marks: Arc<Store>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The daemon's clock.
    pub now: Arc<dyn Fn() -> Time + Send + Sync>,
    /// Cancelled when other daemons are to do this one's work.
    pub leaving: CancellationToken,
}

impl StreamSink {
    /// Writes until the daemon leaves; then gives up the lease, and ends.
    pub async fn run(self) {
        self.hub.begin_history();
        let mut open = self.hub.opened();
        let opened = async { drop(open.wait_for(|open| *open).await) };
        let mut left = pin!(self.leaving.cancelled());
        tokio::select! {
            () = opened => {}
            () = &mut left => return,
        }
        let mut desk = Desk::new(StreamWriter::new(&self.daemon), self.state());
        loop {
            self.turn(&mut desk).await;
            if self.leaving.is_cancelled() {
                if desk.writer.leave() {
                    return;
                }
                sleep(WRITER_TICK).await;
                continue;
            }
            let writes = desk.writer.role() == StreamRole::Writer;
            tokio::select! {
                () = sleep(if writes { WRITER_TICK } else { WAITING_TICK }) => {}
                () = &mut left => {}
            }
        }
    }

    fn state(&self) -> StreamState {
        StreamState { name: self.stream.names().stream().to_owned(), ..StreamState::default() }
    }

    /// Carries out orders until there are no more.
    async fn turn(&self, desk: &mut Desk) {
        let view = HubView(&self.hub);
        while let Some(order) = desk.writer.next((self.now)(), &view) {
            let reply = match self.carry_out(&order).await {
                Ok(reply) => {
                    desk.succeeded(&order);
                    reply
                }
                Err(why) => self.failed(desk, &order, format!("{why:#}")),
            };
            desk.writer.replied((self.now)(), reply, &view);
            self.publish(desk);
        }
        self.publish(desk);
    }

    async fn carry_out(&self, order: &StreamOrder) -> Result<StreamReply> {
        if *order != StreamOrder::Mark {
            return self.stream.carry_out(order).await;
        }
        let mark = self.hub.next_mark();
        self.marks.mark(mark).await?;
        if timeout(MARKED, self.hub.passed(mark)).await.is_err() {
            bail!("the event streams of Redis are more than {MARKED:?} late");
        }
        Ok(StreamReply::Marked)
    }

    fn failed(&self, desk: &mut Desk, order: &StreamOrder, why: String) -> StreamReply {
        self.metrics.stream.errors.inc();
        if desk.state.error.is_none() {
            warn!(
                why,
                stream = desk.state.name,
                "the stream could not be written or read; the daemon tries again"
            );
        }
        desk.state.error = Some(why);
        desk.failed = Some(discriminant(order));
        StreamReply::Failed
    }

    fn publish(&self, desk: &mut Desk) {
        let (counts, writes) = (desk.writer.counts(), desk.writer.role() == StreamRole::Writer);
        let before = std::mem::replace(&mut desk.counted, counts);
        if counts != before {
            self.metrics.stream.add(before, counts);
        }
        if writes != desk.state.writes {
            let says = if writes {
                "this daemon writes the stream"
            } else {
                "this daemon no longer writes the stream"
            };
            info!(stream = desk.state.name, "{says}");
        }
        let lag = desk.writer.lag(&HubView(&self.hub));
        self.metrics.stream.writer.set(writes.into());
        self.metrics.stream.lag.set(lag.unwrap_or(0) as i64);
        desk.state.writes = writes;
        desk.state.lag = lag;
        (desk.state.written, desk.state.dropped) = (counts.written, counts.repeated);
        self.hub.set_stream(desk.state.clone());
    }
}

/// The state of the loop.
struct Desk {
    writer: StreamWriter,
    state: StreamState,
    /// The part of the writer's counts that the metrics contain.
    counted: StreamCounts,
    /// The kind of the order that failed last.
    failed: Option<Discriminant<StreamOrder>>,
}

impl Desk {
    fn new(writer: StreamWriter, state: StreamState) -> Desk {
        Desk { writer, state, counted: StreamCounts::default(), failed: None }
    }

    /// The error ends when an order of the same kind succeeds: others may always succeed.
    fn succeeded(&mut self, order: &StreamOrder) {
        if self.failed.take_if(|failed| *failed == discriminant(order)).is_some() {
            self.state.error = None;
        }
    }
}
