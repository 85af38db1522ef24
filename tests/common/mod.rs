//! Real servers for tests and benches, on free ports and in folders of their own, ended by their own ids.

#![allow(dead_code)] // each user of this module needs a part of it

pub mod browser;
pub mod certificates;
pub mod churn;
pub mod cluster;
pub mod daemon;
pub mod fault_list;
pub mod faults;
pub mod proxy;
pub mod redis;
pub mod socket;
pub mod terminal;
pub mod tokens;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// How long an event may be awaited before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A port that nobody has now, each time another.
///
/// Below those that the kernel gives to whoever names none (32768 and up on Linux), so that nobody
/// takes it while the server that a test has ended there is down.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = fastrand::u16(10_000..32_000);
        let is_free = std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free && GIVEN.lock().expect("no panic with it").insert(port) {
            return port;
        }
    }
}

/// Milliseconds since the epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// Waits until `check` gives something, asking again every few milliseconds.
pub async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
