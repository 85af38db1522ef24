//! What the program that keeps the daemon running is told: systemd, or whoever else sets `NOTIFY_SOCKET`.
//!
//! - `READY=1` once connections are taken. Not once Redis is followed: a daemon waits for its Redis, and answers
//!   meanwhile what `/readyz` says; a service manager that waited with it would start it over and over.
//! - `WATCHDOG=1` at half of `WATCHDOG_USEC`, each upon a sign of life of the driver's loop. A loop that hangs
//!   or has panicked gives none, while a Redis that is out of reach silences nothing.
//! - `STATUS=…` whenever what `/readyz` says changes.
//! - `STOPPING=1` as the stop begins.
//!
//! The protocol is that of sd_notify(3) and sd_watchdog_enabled(3).

use crate::hub::Health;
use crate::presence::Time;
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::sync::watch;
use tracing::debug;

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Connections are taken.
    Ready,
    /// The driver's loop turns.
    Alive,
    /// How it is.
    Status(String),
    /// The stop has begun.
    Stopping,
}

/// How often a sign of life is wanted: half of the time after which silence counts as death. None if nobody waits.
pub fn wanted_pulse() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|half| !half.is_zero())
}

/// Tells it; nothing happens where nobody listens.
pub async fn tell(word: Word) {
    // Not on a worker of the runtime: where the other side does not read, the datagram waits.
    let told = tokio::task::spawn_blocking(move || match &word {
        Word::Ready => sd_notify::notify(&[NotifyState::Ready]),
        Word::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
        Word::Status(text) => sd_notify::notify(&[NotifyState::Status(text)]),
        Word::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
    });
    if let Ok(Err(why)) = told.await {
        debug!(%why, "NOTIFY_SOCKET takes nothing");
    }
}

/// Passes on the loop's signs of life, where they are wanted, and each change of the status, for as long as the
/// loop lives.
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
        // One line: the next would be another word.
        format!("does not follow Redis: {}", status.cause.replace('\n', " "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn status(up: bool) -> Health {
        Health { up, since: Time::default(), cause: if up { String::new() } else { "it\nis away".into() } }
    }

    fn tells(kept: &Arc<Mutex<Vec<Word>>>) -> impl Fn(Word) -> std::future::Ready<()> + use<> {
        let kept = kept.clone();
        move |word| {
            kept.lock().unwrap().push(word);
            std::future::ready(())
        }
    }

    /// Lets the other task, on the same thread, do all that it can do now.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_loop_that_gives_no_sign_of_life_is_passed_on_as_silence() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let (beat, pulse) = watch::channel(Time::default());
        let (say, health) = watch::channel(status(false));
        let task = tokio::spawn(report(pulse, health, true, tells(&told)));
        settle().await;
        for _ in 0..3 {
            beat.send_replace(Time::default());
            settle().await;
        }
        let down = Word::Status("does not follow Redis: it is away".into());
        assert_eq!(*told.lock().unwrap(), [down, Word::Alive, Word::Alive, Word::Alive]);
        // The task lives and can speak; the loop gives no more signs, and none are made up.
        say.send_replace(status(true));
        settle().await;
        assert_eq!(told.lock().unwrap().len(), 5);
        assert_eq!(told.lock().unwrap()[4..], [Word::Status("follows Redis".into())]);
        drop(beat);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn signs_of_life_that_nobody_wants_are_kept() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let (beat, pulse) = watch::channel(Time::default());
        let (_say, health) = watch::channel(status(true));
        let task = tokio::spawn(report(pulse, health, false, tells(&told)));
        for _ in 0..3 {
            beat.send_replace(Time::default());
            settle().await;
        }
        drop(beat);
        task.await.unwrap();
        assert_eq!(*told.lock().unwrap(), [Word::Status("follows Redis".into())]);
    }
}
