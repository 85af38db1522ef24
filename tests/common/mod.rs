//! Real servers for tests and benches. Each has its own free port and folder, and is stopped by its own process id.

#![allow(dead_code)] // each test or bench uses a part of this module

pub mod browser;
pub mod certificates;
pub mod churn;
pub mod cluster;
pub mod daemon;
pub mod fault_list;
pub mod faults;
pub mod fleet;
pub mod front;
pub mod proxy;
pub mod receiver;
pub mod redis;
pub mod shifts;
pub mod socket;
pub mod stream;
pub mod terminal;
pub mod tokens;
pub mod visitor;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// How long a test waits for an event before it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A port that is free and that no other test process draws while this one runs.
///
/// The ports lie below those that the kernel gives to clients (32768 and up on Linux), so no client
/// takes a port while a test has stopped the server there. Browsers and Node's `fetch` refuse 10080 (the Fetch standard, "port
/// blocking"); their other blocked ports are lower.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(10_081..32_000);
        if reserve(port) && std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Reserves a port until this process ends. False if another test process, or this one, has reserved it.
///
/// The reservation is an abstract Unix socket whose name contains the port. The kernel knows the name in
/// every process and frees it when the process ends, however it ends. No file is left behind.
fn reserve(port: u16) -> bool {
    static RESERVED: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());
    let name = SocketAddr::from_abstract_name(format!("keybeat-test-port-{port}")).expect("a short name");
    let Ok(socket) = UnixDatagram::bind_addr(&name) else { return false };
    RESERVED.lock().expect("not poisoned").push(socket);
    true
}

/// Milliseconds since the epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// Calls `check` every few milliseconds until it returns a value.
pub async fn until<T>(what: &str, check: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, what, check).await
}

/// The same, with another limit.
pub async fn within<T>(limit: Duration, what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn no_port_is_drawn_twice() {
    let port = free_port();
    assert!(!reserve(port), "the port {port} is not reserved");
}
