//! Where the server publishes no events: the names that client tracking pushes, passed on to the driver.

use crate::redis::link::canary_marks::CanaryMarks;
use crate::redis::link::feed::{Ended, Feed, Feeder};
use crate::redis::link::parser::{Events, Kind, Parsed, Parser};
use crate::redis::link::pushes::PushStream;
use crate::redis::resp::pushes::Push;
use anyhow::Result;
use std::ops::ControlFlow;

/// The most names in a chunk.
const CHUNK: usize = 512;

/// Passes pushed names on until something breaks.
pub(super) struct TrackedKeys<'a> {
    pub(super) stream: PushStream,
    pub(super) parser: &'a Parser,
    pub(super) marks: &'a CanaryMarks,
    /// The push under way has named the canary's key. Its names have no order, so it proves the stream at its end.
    pub(super) canary: bool,
}

impl TrackedKeys<'_> {
    /// Passes names on until the connection is lost or the driver ends.
    pub(super) async fn run(mut self, feed: &Feeder) -> Ended {
        loop {
            let (chunk, flushed) = match self.next().await {
                Ok(next) => next,
                Err(why) => return why.context("the tracking connection was lost").into(),
            };
            if !chunk.is_empty() && feed.send(Feed::Events(chunk)).await.is_err() {
                return Ended::stopping();
            }
            if flushed && feed.send(Feed::Suspect).await.is_err() {
                return Ended::stopping();
            }
        }
    }

    /// The next chunk, and whether a database was flushed.
    async fn next(&mut self) -> Result<(Events, bool)> {
        let (mut chunk, mut flushed) = (Events::default(), false);
        let TrackedKeys { stream, parser, marks, canary } = self;
        let take = |push: &Push| {
            match push {
                Push::Key(key) => match parser.parse_pushed(key) {
                    Parsed::Evidence(kind, name) => chunk.push(kind, &name),
                    Parsed::CanaryKey => *canary = true,
                    _ => {}
                },
                Push::End if std::mem::take(canary) && marks.pushed() => chunk.push(Kind::Canary, b""),
                Push::All => flushed = true,
                _ => {}
            }
            if chunk.len() >= CHUNK { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        stream.read(take).await?;
        Ok((chunk, flushed))
    }
}
