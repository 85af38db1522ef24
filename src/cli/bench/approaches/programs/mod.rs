//! The servers of the approaches that keybeat is compared with. Each is a small real program: it accepts sockets or requests, and talks
//! to Redis. Each server has a thread with a runtime of its own, so its CPU time can be read.

mod members;
mod polled;
mod published;
mod sockets;
mod stored;
mod watchers;

pub use members::{BUS, members};
pub use polled::polled;
pub use published::published;
pub use stored::{CHANGES, stored};

use crate::cli::bench::site::cpu_in;
use crate::redis::target::Target;
use anyhow::{Context, Result};
use axum::Router;
use axum::serve::ListenerExt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// How long a server waits before it connects to Redis again.
const RECONNECT: Duration = Duration::from_millis(100);

/// The settings of a server.
pub struct Setup {
    pub redis: Target,
    /// A user is offline so long after the last heartbeat.
    pub ttl: Duration,
    /// The server's number.
    pub number: usize,
}

/// A server: what it answers, and what it does by itself.
pub struct Parts {
    pub router: Router,
    pub work: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// A running server, which ends when this is dropped.
pub struct Server {
    pub at: SocketAddr,
    /// The thread's folder in `/proc`.
    thread: String,
    stop: CancellationToken,
}

impl Server {
    /// Starts a server in a thread of its own.
    ///
    /// # Errors
    /// The thread or its runtime does not start, or no port is free.
    pub async fn start(setup: Setup, make: fn(Setup) -> Parts) -> Result<Server> {
        let (started, waiting) = oneshot::channel();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        std::thread::Builder::new().name("bench-server".into()).spawn(move || {
            let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async {
                let served = serve(make(setup), started);
                stopped.run_until_cancelled(served).await;
            });
        })?;
        let (at, thread) = waiting.await.context("a server of the bench did not start")?;
        Ok(Server { at, thread, stop })
    }

    /// CPU seconds so far.
    pub fn cpu(&self) -> Option<f64> {
        cpu_in(&std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.thread)).ok()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(parts: Parts, started: oneshot::Sender<(SocketAddr, String)>) -> Option<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.ok()?;
    let at = listener.local_addr().ok()?;
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    let thread = stat.split_whitespace().next().unwrap_or_default().to_owned();
    started.send((at, thread)).ok()?;
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    tokio::select! {
        served = axum::serve(listener, parts.router).into_future() => served.ok(),
        () = parts.work => None,
    }
}
