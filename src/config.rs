//! The settings of a daemon, as they were decided after the command line was read.

use std::net::SocketAddr;
use std::path::PathBuf;
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
    /// Who may do what.
    pub access: Access,
    /// Speak TLS, with this certificate.
    pub tls: Option<TlsFiles>,
    /// The limits below.
    pub limits: Limits,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate, and what leads from it to an authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Who may do what. With neither key nor service token everyone may do everything.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// What verifies clients' tokens: a secret, public keys in PEM, or a JWKS.
    pub jwt_key: Option<PathBuf>,
    /// What a token's `aud` must name.
    pub audience: Option<String>,
    /// What a token's `iss` must be.
    pub issuer: Option<String>,
    /// The bearer tokens of backends, one a line.
    pub service_token: Option<PathBuf>,
    /// Web pages of other origins that may speak to the daemon, such as `https://example.com`; `*` is any.
    pub origins: Vec<String>,
}

impl Access {
    /// May everyone do everything?
    pub fn is_open(&self) -> bool {
        self.jwt_key.is_none() && self.service_token.is_none()
    }
}

/// The limits of queues and requests, each with its outcome.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Sockets; one more is a 503.
    pub sockets: usize,
    /// Sockets of one address; one more is a 429.
    pub sockets_per_address: usize,
    /// Connections that are no sockets; one more is a 503.
    pub connections: usize,
    /// Connections of one address that are no sockets; one more is a 429.
    pub connections_per_address: usize,
    /// How long a TLS handshake, and the headers of a request, may take; then the connection is closed.
    pub handshake_timeout: Duration,
    /// How long a request's body may take; then it is an error.
    pub body_timeout: Duration,
    /// Bytes of all bodies that are being read; more is a 503.
    pub bodies_bytes: usize,
    /// Frames that a socket may send each second, ten times as many at once; more closes it with 4029.
    pub messages_per_second: u32,
    /// Wrong tokens that one address may show each second, ten times as many at once; more is a 429.
    pub wrong_tokens_per_second: u32,
    /// Heartbeats that a client's token may send each second, ten times as many at once; more is a 429.
    pub heartbeats_per_second: u32,
    /// Live keys that a client's token may have set through the daemon; one more is a 429.
    pub keys_per_token: usize,
    /// Requests to Redis under way; one more is a 503.
    pub redis_requests: usize,
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
    /// How long a canary may be under way before its stream counts as dead.
    pub canary: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            sockets: 100_000,
            sockets_per_address: 20_000,
            connections: 8_192,
            connections_per_address: 4_096,
            handshake_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(10),
            bodies_bytes: 256 * 1024 * 1024,
            messages_per_second: 100,
            wrong_tokens_per_second: 10,
            heartbeats_per_second: 20,
            keys_per_token: 64,
            redis_requests: 1_024,
            users_per_request: 10_000,
            watches_per_socket: 10_000,
            message_bytes: 64 * 1024,
            body_bytes: 4 * 1024 * 1024,
            lossless_pending: 100_000,
            mailbox_bytes: 256 * 1024 * 1024,
            remembered_users: 262_144,
            canary: Duration::from_secs(1),
        }
    }
}
