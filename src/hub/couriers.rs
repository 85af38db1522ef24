//! Couriers: a few tasks that write to the connections of many readers. Otherwise a change that thousands of readers are sent wakes
//! the task of each of them. docs/PERFORMANCE.md has what this brought.

use super::{Hub, Watcher};
use crate::lock::lock;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// Readers that a courier serves before other tasks have a turn.
const ROUND: usize = 32;
/// Readers after which the first courier begins, while the rest are still called.
const CALLED_AT_ONCE: usize = 256;

/// The readers that wait for a courier: each at most once.
#[derive(Default)]
pub(super) struct Couriers {
    waiting: Mutex<VecDeque<Arc<Watcher>>>,
    work: Notify,
}

impl Couriers {
    /// Something is pending for these readers: sends a courier to those with a connection of their own, and rings the bell of the
    /// others.
    pub(super) fn wake<'a>(&self, readers: impl Iterator<Item = &'a Arc<Watcher>>) {
        let mut calls = readers.filter(|reader| reader.calls_courier()).cloned();
        loop {
            let some: Vec<_> = calls.by_ref().take(CALLED_AT_ONCE).collect();
            if some.is_empty() {
                return;
            }
            lock(&self.waiting).extend(some);
            self.work.notify_one();
        }
    }

    /// The readers of the next round. If more are left, another courier helps.
    fn round(&self) -> Vec<Arc<Watcher>> {
        let mut waiting = lock(&self.waiting);
        let most = waiting.len().min(ROUND);
        let round = waiting.drain(..most).collect();
        if !waiting.is_empty() {
            self.work.notify_one();
        }
        round
    }
}

impl Hub {
    /// Serves as a courier, for as long as the hub lives. Several may serve at once.
    pub async fn serve_as_courier(&self) {
        loop {
            self.couriers.work.notified().await;
            loop {
                let round = self.couriers.round();
                if round.is_empty() {
                    break;
                }
                round.iter().for_each(|reader| reader.deliver());
                tokio::task::yield_now().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{change, hub};
    use super::super::watcher::Direct;
    use super::*;
    use crate::presence::Name;
    use std::time::Duration;
    use tokio::task::JoinSet;
    use tokio::time::timeout;

    const CHANGES: u64 = 200;

    /// A connection that is busy now and then, and the numbers that it was sent, by a courier and by the task.
    #[derive(Default)]
    struct Connection {
        sent: Mutex<[Vec<u64>; 2]>,
        refuses: bool,
    }

    impl Connection {
        fn take(&self, reader: &Watcher, by: usize) {
            let mut sent = lock(&self.sent);
            let before = sent.iter().flatten().max().copied().unwrap_or(0);
            let seqs: Vec<u64> = reader.take(usize::MAX).iter().map(|entry| entry.seq).collect();
            assert!(
                seqs.first().is_none_or(|&first| first > before) && seqs.is_sorted(),
                "{before}, {seqs:?}"
            );
            sent[by].extend(seqs);
        }
    }

    impl Direct for Connection {
        fn deliver(&self, reader: &Watcher) -> bool {
            if self.refuses && fastrand::bool() {
                return false;
            }
            self.take(reader, 0);
            true
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn courier_or_task_sends_each_change_to_every_reader() {
        let hub = Arc::new(hub());
        let users: Vec<Name> = (0..CHANGES).map(|i| format!("u{i}").as_str().into()).collect();
        let mut tasks = JoinSet::new();
        let mut readers = Vec::new();
        for number in 0..150 {
            let (reader, refuses) = (hub.watcher(), number % 3 == 0);
            for user in &users {
                hub.watch(&reader, user);
            }
            let connection = Arc::new(Connection { refuses, ..Connection::default() });
            if number % 3 != 1 {
                reader.set_direct(Some(connection.clone()));
            }
            readers.push(connection.clone());
            tasks.spawn(async move {
                loop {
                    reader.rung().await;
                    connection.take(&reader, 1);
                }
            });
        }
        for _ in 0..3 {
            let hub = hub.clone();
            tasks.spawn(async move { hub.serve_as_courier().await });
        }
        for user in &users {
            hub.apply(&change(user, true));
            tokio::task::yield_now().await;
        }
        let mut by_either = [0, 0];
        for (number, connection) in readers.iter().enumerate() {
            let sent = || lock(&connection.sent).each_ref().map(Vec::len);
            let all = async {
                while sent().iter().sum::<usize>() < CHANGES as usize {
                    tokio::task::yield_now().await;
                }
            };
            assert!(timeout(Duration::from_secs(20), all).await.is_ok(), "reader {number}: {:?}", sent());
            let [by_courier, by_task] = sent();
            match number % 3 {
                0 => by_either = [by_either[0] + by_courier, by_either[1] + by_task],
                1 => assert_eq!(by_courier, 0, "reader {number} has no connection for couriers"),
                _ => assert_eq!(by_task, 0, "reader {number} takes every courier"),
            }
        }
        assert!(by_either.iter().all(|&sent| sent > 0), "{by_either:?}");
    }
}
