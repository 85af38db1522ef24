//! Watches over the daemon's parts, and reports to systemd or any other program that sets `NOTIFY_SOCKET`.
//!
//! - `READY=1` once the daemon accepts connections. It does not wait for Redis: without Redis the daemon retries and
//!   `/readyz` says why, while a service manager that waited would restart it again and again.
//! - `WATCHDOG=1` at half of `WATCHDOG_USEC`, each after a pulse of the driver's loop. A loop that hangs gives no pulse.
//!   An unreachable Redis does not stop the pulse.
//! - `STATUS=…` when the answer of `/readyz` changes.
//! - `STOPPING=1` when the stop begins, with `EXTEND_TIMEOUT_USEC=…`: a drain may take longer than `TimeoutStopSec`.
//!
//! The protocol is that of sd_notify(3) and sd_watchdog_enabled(3).

use crate::hub::Health;
use crate::presence::Time;
use anyhow::{Result, bail};
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinError;
use tracing::debug;

/// A message to the service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// The daemon accepts connections.
    Ready,
    /// The driver's loop runs.
    Alive,
    /// The answer of `/readyz`.
    Status(String),
    /// The stop has begun. It may take so long.
    Stopping(Duration),
}

/// A task that has to run as long as the daemon, and its name.
pub type Part<'a> = (&'static str, &'a mut (dyn Future<Output = Result<(), JoinError>> + Send + Unpin));

/// Waits for `stop`.
///
/// # Errors
/// One of the parts ends first: the daemon must not go on without it.
pub async fn until_stopped<T, const N: usize>(
    stop: impl Future<Output = T>,
    parts: [Part<'_>; N],
) -> Result<T> {
    let ends = parts.map(|(name, task)| Box::pin(async move { (name, task.await) }));
    tokio::select! {
        stopped = stop => Ok(stopped),
        ((name, ended), ..) = futures_util::future::select_all(ends) => match ended {
            Ok(()) => bail!("{name} has ended"),
            Err(why) => bail!("{name} has ended: {why}"),
        },
    }
}

/// How often the service manager expects a pulse: half of the time after which it restarts the daemon. `None` if it
/// expects none.
pub fn wanted_pulse() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|half| !half.is_zero())
}

/// Sends a message. Does nothing when there is no service manager.
pub async fn tell(word: Word) {
    // Not on a worker of the runtime: the datagram blocks while the service manager does not read.
    let sent = tokio::task::spawn_blocking(move || match &word {
        Word::Ready => sd_notify::notify(&[NotifyState::Ready]),
        Word::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
        Word::Status(text) => sd_notify::notify(&[NotifyState::Status(text)]),
        Word::Stopping(time) => {
            let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
            sd_notify::notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros)])
        }
    });
    if let Ok(Err(why)) = sent.await {
        debug!(%why, "cannot write to NOTIFY_SOCKET");
    }
}

/// Sends each pulse of the driver's loop, if `wanted`, and each change of the status, until the loop ends.
pub async fn report<F: Future<Output = ()>>(
    mut pulse: watch::Receiver<Time>,
    mut status: watch::Receiver<Health>,
    wanted: bool,
    tell: impl Fn(Word) -> F,
) {
    let first = described(&status.borrow_and_update());
    tell(first).await;
    loop {
        let word = tokio::select! {
            beat = pulse.changed() => match beat {
                Ok(()) if wanted => Word::Alive,
                Ok(()) => continue,
                Err(_) => return,
            },
            Ok(()) = status.changed() => described(&status.borrow_and_update()),
        };
        tell(word).await;
    }
}

fn described(status: &Health) -> Word {
    Word::Status(if status.up {
        "follows Redis".to_owned()
    } else {
        // One line, since a line break would begin another message.
        format!("does not follow Redis: {}", status.cause.replace('\n', " "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::sync::oneshot;

    fn status(up: bool) -> Health {
        Health { up, since: Time::default(), cause: if up { String::new() } else { "it\nis away".into() } }
    }

    fn recorder(kept: &Arc<Mutex<Vec<Word>>>) -> impl Fn(Word) -> std::future::Ready<()> + use<> {
        let kept = kept.clone();
        move |word| {
            kept.lock().unwrap().push(word);
            std::future::ready(())
        }
    }

    /// Runs the other task, on the same thread, until it waits.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn hanging_loop_sends_no_pulse() {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let (beat, pulse) = watch::channel(Time::default());
        let (change, health) = watch::channel(status(false));
        let task = tokio::spawn(report(pulse, health, true, recorder(&sent)));
        settle().await;
        for _ in 0..3 {
            beat.send_replace(Time::default());
            settle().await;
        }
        let down = Word::Status("does not follow Redis: it is away".into());
        assert_eq!(*sent.lock().unwrap(), [down, Word::Alive, Word::Alive, Word::Alive]);
        // The reporter still runs, but the loop gives no pulse, so it sends none.
        change.send_replace(status(true));
        settle().await;
        assert_eq!(sent.lock().unwrap().len(), 5);
        assert_eq!(sent.lock().unwrap()[4..], [Word::Status("follows Redis".into())]);
        drop(beat);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn unwanted_pulses_are_not_sent() {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let (beat, pulse) = watch::channel(Time::default());
        let (_change, health) = watch::channel(status(true));
        let task = tokio::spawn(report(pulse, health, false, recorder(&sent)));
        for _ in 0..3 {
            beat.send_replace(Time::default());
            settle().await;
        }
        drop(beat);
        task.await.unwrap();
        assert_eq!(*sent.lock().unwrap(), [Word::Status("follows Redis".into())]);
    }

    #[tokio::test]
    async fn stop_is_no_error_while_the_parts_run() {
        let (end, stop) = oneshot::channel::<()>();
        let mut driver = tokio::spawn(std::future::pending::<()>());
        end.send(()).unwrap();
        let stop = async { stop.await.unwrap() };
        until_stopped(stop, [("the driver", &mut driver)]).await.unwrap();
    }

    #[tokio::test]
    async fn part_that_ends_is_named_in_the_error() {
        let mut listener = tokio::spawn(std::future::pending::<()>());
        let mut driver = tokio::spawn(async { panic!("on purpose") });
        let parts: [Part<'_>; 2] = [("the listener", &mut listener), ("the driver", &mut driver)];
        let why = until_stopped(std::future::pending::<()>(), parts).await.unwrap_err().to_string();
        assert!(why.starts_with("the driver has ended: ") && why.contains("on purpose"), "{why}");
        let mut driver = tokio::spawn(async {});
        let why =
            until_stopped(std::future::pending::<()>(), [("the driver", &mut driver)]).await.unwrap_err();
        assert_eq!(why.to_string(), "the driver has ended");
    }
}
