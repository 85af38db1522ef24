//! Which sockets of a server watch whom.

use crate::lock::lock;
use axum::extract::ws::Message;
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Messages that may wait for a client. With more, the server closes the socket.
const QUEUE: usize = 4_096;

/// A socket's end of the queue.
#[derive(Clone)]
pub struct Watcher {
    id: u64,
    queue: mpsc::Sender<Message>,
    /// Changes that wait for a snapshot.
    held: Arc<Mutex<Option<Vec<Message>>>>,
    /// Cancelled when the queue is full.
    pub too_slow: CancellationToken,
}

impl Watcher {
    pub fn new(id: u64) -> (Watcher, mpsc::Receiver<Message>) {
        let (queue, messages) = mpsc::channel(QUEUE);
        (Watcher { id, queue, held: Arc::default(), too_slow: CancellationToken::new() }, messages)
    }

    /// Holds changes back until the snapshot is sent. A snapshot that is older than a change may arrive after it, and would undo it.
    pub fn hold(&self) {
        lock(&self.held).get_or_insert_default();
    }

    /// Sends the snapshot, if there is one, and then what was held back.
    pub fn release(&self, snapshot: Option<Message>) {
        let held = lock(&self.held).take().unwrap_or_default();
        snapshot.into_iter().chain(held).for_each(|message| self.queue(message));
    }

    /// Sends a change.
    fn send(&self, message: Message) {
        let mut held = lock(&self.held);
        match &mut *held {
            Some(held) if held.len() < QUEUE => held.push(message),
            Some(_) => self.too_slow.cancel(),
            None => self.queue(message),
        }
    }

    /// Queues a message, or has the socket closed.
    fn queue(&self, message: Message) {
        if self.queue.try_send(message).is_err() {
            self.too_slow.cancel();
        }
    }
}

/// See the module's head.
#[derive(Default)]
pub struct Watchers {
    // A std mutex, held for one look-up.
    by_user: Mutex<HashMap<String, Vec<Watcher>>>,
}

impl Watchers {
    pub fn add(&self, watcher: &Watcher, users: &[String]) {
        let mut by_user = lock(&self.by_user);
        for user in users {
            by_user.entry(user.clone()).or_default().push(watcher.clone());
        }
    }

    pub fn remove(&self, watcher: &Watcher, users: &[String]) {
        let mut by_user = lock(&self.by_user);
        for user in users {
            if let Some(watchers) = by_user.get_mut(user) {
                watchers.retain(|other| other.id != watcher.id);
            }
        }
    }

    /// Sends a user's state to all who watch the user. It is encoded once.
    pub fn send(&self, user: &str, online: bool) {
        let by_user = lock(&self.by_user);
        let Some(watchers) = by_user.get(user).filter(|watchers| !watchers.is_empty()) else { return };
        let message = Message::Text(transition(user, online).into());
        watchers.iter().for_each(|watcher| watcher.send(message.clone()));
    }
}

fn state(online: bool) -> &'static str {
    if online { "online" } else { "offline" }
}

/// The message of keybeat with the fields that a page needs, so that the approaches differ by what they send, not how.
fn transition(user: &str, online: bool) -> String {
    json!({"type": "transitions", "transitions": [{"user": user, "state": state(online)}]}).to_string()
}

/// The answer to a watch: these users are online, the others are not.
pub fn snapshot(users: &[String], online: &[String]) -> String {
    let object = |user: &String| json!({"user": user, "state": state(online.contains(user))});
    json!({"type": "snapshot", "users": users.iter().map(object).collect::<Vec<_>>()}).to_string()
}
