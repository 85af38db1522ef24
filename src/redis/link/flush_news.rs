//! News of FLUSHALL and FLUSHDB, which publish no event: client tracking of the daemons' canaries.
//!
//! The prefix is that of the canaries, so the server tracks no user. The news is only a reason to send the
//! canary at once, which then finds out whether the keyspace is another. Without the right `+client|tracking`, and
//! for SWAPDB, the next canary finds it within a second.

use crate::redis::link::feed::{Ended, Feed, Feeder};
use crate::redis::link::pushes::PushStream;
use crate::redis::names::Names;
use crate::redis::resp::pushes::Push;
use crate::redis::target::Target;
use anyhow::Result;
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::time::sleep;
use tracing::debug;

/// The wait before the next attempt when the connection was lost.
const AGAIN: Duration = Duration::from_secs(1);

/// Reports flushes until the driver ends. If the server refuses, there is no news.
pub(super) async fn watch(target: &Target, names: &Names, feed: &Feeder) -> Ended {
    loop {
        match listen(target, names, feed).await {
            Ok(Listened::Refused(why)) => {
                debug!(server = target.shown(), why, "the server does not report flushes at once");
                return std::future::pending().await;
            }
            Ok(Listened::Stopping) => return Ended::stopping(),
            Err(why) => debug!(server = target.shown(), "the connection for news of flushes ended: {why:#}"),
        }
        sleep(AGAIN).await;
    }
}

enum Listened {
    Refused(String),
    Stopping,
}

async fn listen(target: &Target, names: &Names, feed: &Feeder) -> Result<Listened> {
    let (prefix, channel) = (names.canary_prefix(), names.flush_channel());
    let mut stream = match PushStream::open(target, "keybeat-flushes", &prefix, &channel).await? {
        Ok(stream) => stream,
        Err(why) => return Ok(Listened::Refused(why)),
    };
    loop {
        let mut flushed = false;
        stream
            .read(|push| {
                flushed |= *push == Push::All;
                ControlFlow::Continue(())
            })
            .await?;
        if flushed && feed.send(Feed::Suspect).await.is_err() {
            return Ok(Listened::Stopping);
        }
    }
}
