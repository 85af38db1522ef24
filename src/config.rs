//! The settings of a daemon, as decided after the command line was parsed, and every default.

use crate::presence::{Candidacy, KeyPattern, Renewals};
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The default of `--listen`, and the daemon that commands use without `--url`.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7400";
/// The default of `--prefix`.
pub const DEFAULT_PREFIX: &str = "presence:";
/// The default of `--status-prefix`.
pub const DEFAULT_STATUS_PREFIX: &str = "presence-status:";
/// The default of `--group-prefix`.
pub const DEFAULT_GROUP_PREFIX: &str = "presence-group:";
/// The default of `--ttl`, for the daemon and for `keybeat beat`.
pub const DEFAULT_TTL: Duration = Duration::from_secs(30);
/// The default of `--close-grace`.
pub const DEFAULT_CLOSE_GRACE: Duration = Duration::from_secs(5);
/// The shortest `--last-seen`.
pub const MIN_LAST_SEEN: Duration = Duration::from_secs(60);
/// The default of `--stream-maxlen`.
pub const DEFAULT_STREAM_MAXLEN: u64 = 1_000_000;
/// The Redis that `ls` and `doctor` use without `--redis`.
pub const DEFAULT_REDIS: &str = "redis://127.0.0.1:6379";

/// The settings of `keybeat serve`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of HTTP and WebSocket.
    pub listen: SocketAddr,
    /// Address of health, metrics and stats, which are then not at `listen`.
    pub admin_listen: Option<SocketAddr>,
    /// The pattern of the presence keys.
    pub key_pattern: KeyPattern,
    /// Prefix of the keys with users' statuses; empty switches statuses off.
    pub status_prefix: String,
    /// Prefix of the keys with groups; empty switches groups off.
    pub group_prefix: String,
    /// TTL that the daemon writes; also the first guess of the TTL that other programs write.
    pub ttl: Duration,
    /// How long a user stays online after the user's socket closed with 1001.
    pub close_grace: Duration,
    /// For how long Redis remembers when users were last seen; `None` if it does not.
    pub last_seen: Option<Duration>,
    /// Whether to add missing classes to `notify-keyspace-events`.
    pub configure_redis: bool,
    /// How to learn of renewals.
    pub events: EventsMode,
    /// Whether to send deadline probes.
    pub probes: bool,
    /// The daemon's part among several at one server.
    pub lease: LeaseMode,
    /// The users that the daemon keeps.
    pub hold: Hold,
    /// The rights to read and write.
    pub access: Access,
    /// Certificate for TLS; without one the daemon serves plain HTTP.
    pub tls: Option<TlsFiles>,
    /// File with a line for each write, refusal and administrative call.
    pub audit: Option<PathBuf>,
    /// Proxies whose `X-Forwarded-For` names the client.
    pub trusted_proxies: Vec<IpNet>,
    /// Time between SIGTERM and the stop, in which requests are still served.
    pub drain: Duration,
    /// The stream of transitions.
    pub stream: Option<StreamSettings>,
    /// Limits of queues and requests.
    pub limits: Limits,
}

/// A stream of transitions.
#[derive(Debug, Clone)]
pub struct StreamSettings {
    /// Its key.
    pub name: String,
    /// About so many entries are kept.
    pub maxlen: u64,
    /// The URLs that receive its entries.
    pub webhooks: Vec<String>,
    /// The file with the secret that signs what they receive.
    pub webhook_secret: Option<PathBuf>,
    /// `https://` URLs may lead to private addresses.
    pub webhook_private: bool,
}

/// The daemon that listens to renewals and asks at deadlines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LeaseMode {
    /// One daemon per server, perhaps this one.
    #[default]
    Stands,
    /// One daemon per server; this one only while no daemon stands that keeps all users.
    StandsIn,
    /// One daemon per server, and not this one.
    Follows,
    /// This daemon for itself, whatever others do.
    Alone,
}

/// The users that the daemon keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hold {
    /// All.
    #[default]
    All,
    /// Those whom a client watches or has just asked for.
    Watched,
}

impl LeaseMode {
    /// As the tracker needs it.
    pub const fn candidacy(self) -> Candidacy {
        match self {
            LeaseMode::Stands => Candidacy::Stands,
            LeaseMode::StandsIn => Candidacy::StandsIn,
            LeaseMode::Follows | LeaseMode::Alone => Candidacy::Never,
        }
    }
}

/// How the daemon is to learn of renewals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EventsMode {
    /// From each `set`.
    #[default]
    Set,
    /// From each `set` and `expire`.
    Expire,
    /// From questions alone; as [`EventsMode::Set`] at a server that publishes no `new`.
    New,
    /// The cheapest way that the server allows.
    Auto,
}

impl EventsMode {
    /// The events that a link tries first.
    pub const fn renewals(self) -> Renewals {
        match self {
            EventsMode::Set => Renewals::Set,
            EventsMode::Expire => Renewals::Expire,
            EventsMode::New | EventsMode::Auto => Renewals::New,
        }
    }
}

/// A certificate and its private key, in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate, followed by its intermediate certificates.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// The rights to read and write. Without a key and without a service token there is no authentication.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Verifies clients' tokens: public keys in PEM, or a JWKS.
    pub jwt_key: Option<PathBuf>,
    /// Verifies clients' tokens with HS256: a secret.
    pub jwt_secret: Option<PathBuf>,
    /// A token's `aud` must contain this.
    pub audience: Option<String>,
    /// A token's `iss` must equal this.
    pub issuer: Option<String>,
    /// Bearer tokens of backends, one per line.
    pub service_token: Option<PathBuf>,
    /// Values of `sub` or `jti` whose tokens are refused, one per line.
    pub revoked: Option<PathBuf>,
    /// Origins of web pages that may call the daemon, such as `https://example.com`, `https://*.example.com` or
    /// `http://localhost:*`; `*` allows any origin.
    pub origins: Vec<String>,
    /// Values of the header `Host` that are allowed where no token is required, besides local names.
    pub hosts: Vec<String>,
}

impl Access {
    /// Whether requests need no token.
    pub fn is_open(&self) -> bool {
        self.jwt_key.is_none() && self.jwt_secret.is_none() && self.service_token.is_none()
    }
}

/// The limits of queues and requests, each with its outcome.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open WebSockets; further upgrades get 503.
    pub sockets: usize,
    /// Open WebSockets per client address; further upgrades get 429.
    pub sockets_per_address: usize,
    /// Open WebSockets of one user's tokens; further upgrades get 429.
    pub sockets_per_user: usize,
    /// Open event streams of one user's tokens; further ones get 429.
    pub streams_per_user: usize,
    /// Users that all sockets and streams of one user's tokens watch by name; a `watch` beyond it gets an `error`.
    pub watches_per_user: usize,
    /// Requests per second of one user's tokens, with bursts of ten times as many; above it they get 429.
    pub requests_per_second: u32,
    /// Open connections, WebSockets excluded; a further one replaces the one idle longest, or gets 503.
    pub connections: usize,
    /// Open connections per client address, WebSockets excluded; further ones get 429.
    pub connections_per_address: usize,
    /// Time of an HTTP connection without a request; after it the daemon closes the connection.
    pub idle_timeout: Duration,
    /// Time for a TLS handshake and for the headers of a request; after it the daemon closes the connection.
    pub handshake_timeout: Duration,
    /// Time during which a client takes no byte of an answer, event stream or socket; after it the daemon closes the connection.
    pub write_timeout: Duration,
    /// Time for a request's body; after it the request fails with 400.
    pub body_timeout: Duration,
    /// Memory for all request bodies that are being read and for watches that wait, in bytes; further ones get 503 `busy`.
    pub bodies_bytes: usize,
    /// Frames per second of one socket, with bursts of ten times as many; above it the socket is closed with 4029.
    pub messages_per_second: u32,
    /// Wrong tokens per second of one address, with bursts of ten times as many; above it they get 429.
    pub wrong_tokens_per_second: u32,
    /// Heartbeats and goodbyes per second of one client's token, with bursts of ten times as many; above it they get 429.
    pub heartbeats_per_second: u32,
    /// Live keys that one client's token may set through the daemon; further keys get 429.
    pub keys_per_token: usize,
    /// Requests that wait for Redis at the same time; further ones get 503.
    pub redis_requests: usize,
    /// Users that one socket may watch by name; a `watch` beyond it gets an `error`.
    pub watches_per_socket: usize,
    /// Members of a group that a client may watch without `count`; a larger one gets `too_large_group`.
    pub group_members: usize,
    /// Size of one WebSocket message, in bytes; a longer one closes the socket with 1009.
    pub message_bytes: usize,
    /// Size of a request's body, in bytes; a longer one gets 413. The default holds 10,000 of the longest names.
    pub body_bytes: usize,
    /// Pending transitions of a lossless socket; above it the socket is closed with 4008.
    pub lossless_pending: usize,
    /// Memory for what waits for all clients, and of messages that they have not ended, in bytes; above it the clients with the longest queues are closed.
    pub mailbox_bytes: usize,
    /// Offline users whose last heartbeat is kept; above it the oldest are forgotten.
    pub remembered_users: usize,
    /// Time for the event of the daemon's canary key to arrive; after it the event stream counts as dead.
    pub canary: Duration,
}

impl Limits {
    /// The default of each limit. `--help` and the OpenAPI document read them here.
    pub const DEFAULT: Limits = Limits {
        sockets: 100_000,
        sockets_per_address: 20_000,
        sockets_per_user: 100,
        streams_per_user: 100,
        watches_per_user: 50_000,
        requests_per_second: 200,
        connections: 8_192,
        connections_per_address: 4_096,
        // Longer than the 60 s for which nginx and other proxies keep an idle connection.
        idle_timeout: Duration::from_secs(75),
        handshake_timeout: Duration::from_secs(15),
        write_timeout: Duration::from_secs(60),
        body_timeout: Duration::from_secs(10),
        bodies_bytes: 256 * 1024 * 1024,
        messages_per_second: 100,
        wrong_tokens_per_second: 10,
        heartbeats_per_second: 20,
        keys_per_token: 64,
        redis_requests: 1_024,
        watches_per_socket: 10_000,
        group_members: 1_000,
        message_bytes: 64 * 1024,
        body_bytes: 4 * 1024 * 1024,
        lossless_pending: 100_000,
        mailbox_bytes: 256 * 1024 * 1024,
        remembered_users: 262_144,
        canary: Duration::from_secs(1),
    };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}
