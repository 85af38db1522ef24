//! Where the server publishes no events: the names that client tracking pushes, passed on to the driver while this daemon
//! tracks them for all.

use crate::redis::link::canary_marks::CanaryMarks;
use crate::redis::link::feed::{Ended, Feed, Feeder};
use crate::redis::link::flush_news;
use crate::redis::link::parser::{Events, Kind, Parsed, Parser};
use crate::redis::link::pushes::PushStream;
use crate::redis::names::Names;
use crate::redis::resp::pushes::Push;
use crate::redis::target::Target;
use anyhow::{Context, Result, anyhow};
use std::ops::ControlFlow;
use tokio::sync::watch;

/// The most names in a chunk.
const CHUNK: usize = 512;
/// The connection's name at the server.
pub(super) const NAME: &str = "keybeat-tracking";

/// The server whose keys are tracked.
pub(super) struct Tracked<'a> {
    pub(super) primary: &'a Target,
    pub(super) names: &'a Names,
    pub(super) parser: &'a Parser,
    pub(super) marks: &'a CanaryMarks,
    pub(super) feed: &'a Feeder,
}

/// Passes pushed names on while `ordered` is true, and only news of flushes while it is false, until something breaks.
pub(super) async fn run(
    place: Tracked<'_>,
    mut stream: Option<PushStream>,
    mut ordered: watch::Receiver<bool>,
) -> Ended {
    loop {
        if let Some(stream) = stream.take() {
            tokio::select! {
                ended = place.pass_on(stream) => return ended,
                Ok(_) = ordered.wait_for(|tracks| !tracks) => {}
            }
            if place.marks.switch(false) && place.prove().await.is_err() {
                return Ended::stopping();
            }
        }
        tokio::select! {
            ended = flush_news::watch(place.primary, place.names, place.feed) => return ended,
            Ok(_) = ordered.wait_for(|tracks| *tracks) => {}
        }
        match place.begin().await {
            Ok(begun) => stream = Some(begun),
            Err(why) => return why.context("client tracking could not begin").into(),
        }
    }
}

impl Tracked<'_> {
    /// Tracks the keys for all daemons from now on.
    async fn begin(&self) -> Result<PushStream> {
        let (prefix, channel) = (self.names.tracked_prefix(), self.names.flush_channel());
        let opened = PushStream::open(self.primary, NAME, prefix, &channel).await?;
        let stream = opened.map_err(|why| anyhow!("{why}"))?;
        let mut leads = Events::default();
        leads.push(Kind::Leads, b"");
        if self.marks.switch(true) {
            leads.push(Kind::Canary, b"");
        }
        self.feed.send(Feed::Events(leads)).await.context("the driver has ended")?;
        Ok(stream)
    }

    /// A canary is proven.
    async fn prove(&self) -> Result<()> {
        let mut proof = Events::default();
        proof.push(Kind::Canary, b"");
        self.feed.send(Feed::Events(proof)).await
    }

    /// Passes names on until the connection is lost or the driver ends.
    async fn pass_on(&self, mut stream: PushStream) -> Ended {
        // The push under way has named the canary's key. Its names have no order, so it proves the stream at its end.
        let mut canary = false;
        loop {
            let (chunk, flushed) = match self.next(&mut stream, &mut canary).await {
                Ok(next) => next,
                Err(why) => return why.context("the tracking connection was lost").into(),
            };
            if !chunk.is_empty() && self.feed.send(Feed::Events(chunk)).await.is_err() {
                return Ended::stopping();
            }
            if flushed && self.feed.send(Feed::Suspect).await.is_err() {
                return Ended::stopping();
            }
        }
    }

    /// The next chunk, and whether a database was flushed.
    async fn next(&self, stream: &mut PushStream, canary: &mut bool) -> Result<(Events, bool)> {
        let (mut chunk, mut flushed) = (Events::default(), false);
        let take = |push: &Push| {
            match push {
                Push::Key(key) => match self.parser.parse_pushed(key) {
                    Parsed::Evidence(kind, name) => chunk.push(kind, &name),
                    Parsed::CanaryKey => *canary = true,
                    _ => {}
                },
                Push::End if std::mem::take(canary) && self.marks.pushed() => chunk.push(Kind::Canary, b""),
                Push::All => flushed = true,
                _ => {}
            }
            if chunk.len() >= CHUNK { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        stream.read(take).await?;
        Ok((chunk, flushed))
    }
}
