//! The settings of a daemon, as they were decided after the command line was read.

use std::net::SocketAddr;
use std::time::Duration;

/// The port at which a daemon listens by default: what `--listen` and the commands' `--url` assume.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7400";
/// Where presence keys start by default.
pub const DEFAULT_PREFIX: &str = "presence:";
/// The TTL of a heartbeat by default.
pub const DEFAULT_TTL: &str = "30s";
/// The Redis that the commands which need one assume.
pub const DEFAULT_REDIS: &str = "redis://127.0.0.1:6379";

/// What `keybeat serve` runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// HTTP and WebSocket.
    pub listen: SocketAddr,
    /// Presence keys start so.
    pub prefix: String,
    /// The TTL that the daemon writes, and the first guess of other programs' TTLs.
    pub ttl: Duration,
    /// Add missing classes to `notify-keyspace-events`.
    pub configure_redis: bool,
    /// Deadline probes.
    pub probes: bool,
    /// The limits below.
    pub limits: Limits,
}

/// The limits of queues and requests, each with its outcome.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Users in one request; more is an error.
    pub users_per_request: usize,
    /// Users that one socket may watch by name; more is an error.
    pub watches_per_socket: usize,
    /// Bytes of one WebSocket message; a longer one closes the socket with 1009.
    pub message_bytes: usize,
    /// Bytes of a request's body; more is a 413. Room for 10,000 of the longest names.
    pub body_bytes: usize,
    /// Pending transitions of a lossless socket; more closes it with 4008.
    pub lossless_pending: usize,
    /// What all sockets' mailboxes may hold together, in bytes; beyond it the largest are closed with 1013.
    pub mailbox_bytes: usize,
    /// Users offline whose last heartbeat is remembered; the longest ago are forgotten.
    pub remembered_users: usize,
    /// fred's event ring; overrun, it is a gap. 65,536 cost 40 MB and hold a flood of 1,000,000
    /// events at Redis' full speed on two cores.
    pub event_ring: usize,
    /// How long a canary may be under way before its stream counts as dead.
    pub canary: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            users_per_request: 10_000,
            watches_per_socket: 10_000,
            message_bytes: 64 * 1024,
            body_bytes: 4 * 1024 * 1024,
            lossless_pending: 100_000,
            mailbox_bytes: 256 * 1024 * 1024,
            remembered_users: 262_144,
            event_ring: 65_536,
            canary: Duration::from_secs(1),
        }
    }
}
