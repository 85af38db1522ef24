//! A Rust client that watches everybody through a proxy, and reconnects by itself.

use super::faults::View;
use keybeat::client::{Client, ClientEvent};
use keybeat::protocol::State;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

/// A connection attempt, once its wait is over: the client's own limit of a handshake, and time for a busy machine.
const ATTEMPT: Duration = Duration::from_secs(13);

/// See the module's head.
pub struct Visitor {
    pub view: Arc<Mutex<View>>,
    live: Arc<AtomicBool>,
    late: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl Visitor {
    /// Connects to this port.
    pub fn start(port: u16, lossless: bool) -> Visitor {
        let (view, live, late) = (Arc::default(), Arc::default(), Arc::default());
        let task = tokio::spawn(run(port, lossless, Arc::clone(&view), Arc::clone(&live), Arc::clone(&late)));
        Visitor { view, live, late, _task: AbortOnDropHandle::new(task) }
    }

    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Relaxed)
    }

    /// Attempts that came later than the client had announced.
    pub fn late(&self) -> Vec<String> {
        self.late.lock().expect("not poisoned").clone()
    }
}

async fn run(
    port: u16,
    lossless: bool,
    view: Arc<Mutex<View>>,
    live: Arc<AtomicBool>,
    late: Arc<Mutex<Vec<String>>>,
) {
    let mut client = Client::connect(&format!("http://127.0.0.1:{port}")).expect("an address");
    if lossless {
        client.watch_all_lossless()
    } else {
        client.watch_all()
    }
    let mut due: Option<Instant> = None;
    loop {
        let event = client.next().await.expect("the client goes on");
        if matches!(event, ClientEvent::Live | ClientEvent::Waiting { .. })
            && let Some(over) = due.take().map(|due| due.elapsed()).filter(|over| *over > ATTEMPT)
        {
            late.lock().expect("not poisoned").push(format!("{event:?} came {over:.1?} after the wait"));
        }
        match event {
            ClientEvent::Live => live.store(true, Ordering::Relaxed),
            ClientEvent::Waiting { retry, .. } => {
                live.store(false, Ordering::Relaxed);
                due = Some(Instant::now() + retry);
            }
            ClientEvent::Snapshot(users) => {
                let mut view = view.lock().expect("not poisoned");
                users.iter().for_each(|user| view.set(user.user(), user.online()));
            }
            ClientEvent::Transitions(changes) => {
                let mut view = view.lock().expect("not poisoned");
                changes.iter().for_each(|change| view.set(&change.user, change.state == State::Online));
            }
            _ => {}
        }
    }
}
