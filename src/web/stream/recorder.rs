//! The latest transitions, for streams that come back: whoever knows up to which number it was told reads on
//! from there, as long as that is still here.

use crate::hub::{Hub, Told, Watcher};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Transitions that are kept, at 200 bytes or so each; with names of full length 12 MB.
pub const KEPT: usize = 16_384;
/// How far the recorder itself may fall behind before it begins anew.
const BEHIND: usize = 100_000;

/// What is asked for is no longer here, or not from this recording.
#[derive(Debug, PartialEq, Eq)]
pub struct Gone;

/// See the module's head. It begins with the first stream: until then nothing is recorded.
pub struct Recorder {
    ring: Mutex<Ring>,
    /// The number up to which everything is recorded.
    end: watch::Sender<u64>,
    begun: Mutex<bool>,
}

#[derive(Default)]
struct Ring {
    /// The number before the first that is held. All after it are held, without a hole.
    from: u64,
    told: VecDeque<Arc<Told>>,
}

impl Ring {
    fn end(&self) -> u64 {
        self.from + self.told.len() as u64
    }

    /// Takes in a transition; false if one before it is missing. What came while the recorder joined is left out.
    fn push(&mut self, told: Arc<Told>) -> bool {
        if told.seq <= self.end() {
            return true;
        }
        if told.seq != self.end() + 1 {
            return false;
        }
        if self.told.len() == KEPT {
            self.told.pop_front();
            self.from += 1;
        }
        self.told.push_back(told);
        true
    }

    fn after(&self, seq: u64, most: usize) -> Result<Vec<Arc<Told>>, Gone> {
        let skip = seq.checked_sub(self.from).filter(|_| seq <= self.end()).ok_or(Gone)?;
        Ok(self.told.range(skip as usize..).take(most).cloned().collect())
    }
}

impl Recorder {
    /// One that has not begun.
    pub fn new() -> Recorder {
        Recorder { ring: Mutex::default(), end: watch::Sender::new(0), begun: Mutex::default() }
    }

    /// Begins to record, if it has not: all transitions from now on, until `stop`.
    pub fn begin(self: &Arc<Recorder>, hub: &Arc<Hub>, stop: &CancellationToken) {
        let mut begun = self.begun.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if std::mem::replace(&mut *begun, true) {
            return;
        }
        let watcher = self.join(hub);
        let (recorder, hub, stop) = (self.clone(), hub.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = recorder.record(&hub, watcher) => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Forgets what is held, and starts from here.
    fn join(&self, hub: &Hub) -> Arc<Watcher> {
        let watcher = hub.watcher();
        watcher.make_lossless(BEHIND);
        hub.watch_all(&watcher).for_each(drop);
        let from = hub.seq();
        *self.ring() = Ring { from, told: VecDeque::new() };
        self.end.send_replace(from);
        watcher
    }

    async fn record(&self, hub: &Hub, mut watcher: Arc<Watcher>) {
        loop {
            watcher.rung().await;
            if watcher.overflowed() || !self.take_in(&watcher) {
                hub.unwatch_all(&watcher);
                watcher = self.join(hub);
            }
        }
    }

    /// Takes in what is there; false if something is missing.
    fn take_in(&self, watcher: &Watcher) -> bool {
        loop {
            let some = watcher.take(1024);
            if some.is_empty() {
                return true;
            }
            let mut ring = self.ring();
            let whole = some.into_iter().all(|told| ring.push(told));
            let end = ring.end();
            drop(ring);
            self.end.send_replace(end);
            if !whole {
                return false;
            }
        }
    }

    /// The number up to which everything is recorded, as it grows.
    pub fn end(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    /// At most `most` transitions after the one with number `seq`, without a hole.
    pub fn after(&self, seq: u64, most: usize) -> Result<Vec<Arc<Told>>, Gone> {
        self.ring().after(seq, most)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::presence::{Change, Key, Reason, Time};
    use std::time::Duration;

    fn change(user: u64, live: bool) -> Change {
        let key = Key::parse(format!("u{user}").as_bytes()).unwrap();
        let at = Time::from_ms(2);
        Change { key, live, at, last_seen: at, reason: Reason::Heartbeat, deadline: None }
    }

    #[test]
    fn what_came_while_it_joined_is_left_out_and_a_hole_is_noticed() {
        let hub = Hub::new(Time::from_ms(1), 640, Arc::new(Metrics::new()));
        hub.open();
        let watcher = hub.watcher();
        watcher.make_lossless(10);
        hub.watch_all(&watcher).for_each(drop);
        (1..=5).for_each(|user| drop(hub.apply(&change(user, true))));
        let mut ring = Ring { from: 2, told: VecDeque::new() };
        let some = watcher.take(10).into_iter().filter(|told| told.seq != 4);
        let whole: Vec<bool> = some.map(|told| ring.push(told)).collect();
        assert_eq!(whole, [true, true, true, false], "after 3 there would be a hole");
        let held = ring.after(2, 9).map(|told| told.iter().map(|told| told.seq).collect::<Vec<_>>());
        assert_eq!(held, Ok(vec![3]), "1 and 2 came before");
    }

    #[tokio::test]
    async fn it_holds_the_latest_without_a_hole_and_says_what_is_gone() {
        let hub = Arc::new(Hub::new(Time::from_ms(1), 640, Arc::new(Metrics::new())));
        hub.open();
        hub.apply(&change(1, true));
        let (recorder, stop) = (Arc::new(Recorder::new()), CancellationToken::new());
        recorder.begin(&hub, &stop);
        recorder.begin(&hub, &stop);
        let seqs =
            |after: u64| recorder.after(after, 3).map(|told| told.iter().map(|told| told.seq).collect());
        assert_eq!([seqs(0), seqs(1), seqs(2)], [Err(Gone), Ok(vec![]), Err(Gone)]);
        let last = KEPT as u64 + 11;
        for user in 2..=last {
            hub.apply(&change(user, true));
        }
        hub.ring();
        let mut end = recorder.end();
        let full = end.wait_for(|&end| end == last);
        tokio::time::timeout(Duration::from_secs(20), full).await.unwrap().unwrap();
        assert_eq!([seqs(10), seqs(last), seqs(last + 1)], [Err(Gone), Ok(vec![]), Err(Gone)]);
        assert_eq!([seqs(11), seqs(last - 1)], [Ok(vec![12, 13, 14]), Ok(vec![last])]);
        stop.cancel();
    }
}
