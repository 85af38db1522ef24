//! News of FLUSHALL and FLUSHDB, which publish no event: client tracking of the daemons' canaries.
//!
//! The server pushes the names of changed keys under a prefix, and `null` when a database was flushed, of whatever number.
//! The prefix is that of the canaries, so the server tracks no user. The news is only a reason to send the
//! canary at once, which then finds out whether the keyspace is another. Without the right `+client|tracking`, and
//! for SWAPDB, the next canary finds it within a second.

use crate::redis::link::feed::{Ended, Feed, Feeder};
use crate::redis::names::Names;
use crate::redis::resp::commands::Commands;
use crate::redis::resp::connection::RespConnection;
use crate::redis::resp::reply::Allowed;
use crate::redis::target::Target;
use anyhow::Result;
use std::time::Duration;
use tokio::time::sleep;
use tracing::debug;

/// The wait before the next attempt when the connection was lost.
const AGAIN: Duration = Duration::from_secs(1);

/// The push of the server after a flush, as RESP3.
const FLUSHED: &[u8] = b"invalidate\r\n_\r\n";

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
    let mut connection = RespConnection::open(target, "keybeat-flushes").await?;
    let mut commands = Commands::one(&["HELLO", "3"]);
    commands.add(&["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", &names.canary_prefix()]);
    // A connection with a subscription has a limited output buffer at the server.
    commands.add(&["SUBSCRIBE", &names.flush_channel()]);
    connection.send(&commands).await?;
    let mut accepted = None;
    while accepted.is_none() {
        connection.take_raw(|bytes| read_replies(bytes, &mut accepted)).await?;
    }
    if let Some(Err(why)) = accepted {
        return Ok(Listened::Refused(why));
    }
    loop {
        let mut flushed = false;
        connection.take_raw(|bytes| read_pushes(bytes, &mut flushed)).await?;
        if flushed && feed.send(Feed::Suspect).await.is_err() {
            return Ok(Listened::Stopping);
        }
    }
}

/// Waits for the last reply, the confirmation of the subscription, or for a refusal. Returns how many bytes are done with.
fn read_replies(bytes: &[u8], accepted: &mut Option<Allowed<()>>) -> usize {
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let refusal = lines.clone().find_map(|line| line.strip_prefix(b"-"));
    *accepted = match refusal {
        Some(why) => Some(Err(String::from_utf8_lossy(why).trim().to_owned())),
        None => lines.any(|line| line == b"subscribe\r\n").then_some(Ok(())),
    };
    if accepted.is_some() { bytes.len() } else { 0 }
}

/// Looks for news of a flush. Returns how many bytes are done with: all but what may be the start of one.
fn read_pushes(bytes: &[u8], flushed: &mut bool) -> usize {
    *flushed = bytes.windows(FLUSHED.len()).any(|window| window == FLUSHED);
    bytes.len() - bytes.len().min(FLUSHED.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_accept_or_refuse() {
        let read = |bytes: &[u8]| {
            let mut accepted = None;
            (read_replies(bytes, &mut accepted), accepted)
        };
        let hello = b"%1\r\n$5\r\nproto\r\n:3\r\n".as_slice();
        let subscribed = b">3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n".as_slice();
        assert_eq!(read(hello), (0, None));
        let all = [hello, b"+OK\r\n", subscribed].concat();
        assert_eq!(read(&all), (all.len(), Some(Ok(()))));
        let refused = [hello, b"-NOPERM no tracking\r\n", subscribed].concat();
        assert_eq!(read(&refused).1, Some(Err("NOPERM no tracking".into())));
        assert_eq!(read(&refused[..hello.len() + 9]), (0, None), "the line is not whole");
    }

    #[test]
    fn flush_is_found_wherever_it_is_cut() {
        let names = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\np:#\r\n".as_slice();
        let flush = b">2\r\n$10\r\ninvalidate\r\n_\r\n".as_slice();
        let all = [names, flush, names, flush].concat();
        for cut in 0..=all.len() {
            let (mut count, mut buffer) = (0, Vec::new());
            for part in [&all[..cut], &all[cut..]] {
                buffer.extend_from_slice(part);
                let mut flushed = false;
                let done = read_pushes(&buffer, &mut flushed);
                buffer.drain(..done);
                count += usize::from(flushed);
            }
            assert!((1..=2).contains(&count), "{count} at {cut}");
        }
        let mut flushed = false;
        read_pushes(names, &mut flushed);
        assert!(!flushed);
    }
}
