//! The limits of the daemon, each with its flag. The defaults are in [`Limits::DEFAULT`].

use super::values;
use crate::config::Limits;
use clap::Parser;
use humantime::Duration;

const DEFAULT: Limits = Limits::DEFAULT;
const MIB: usize = 1024 * 1024;

#[derive(Parser, Clone)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Maximum open WebSockets; further upgrades get 503
    #[arg(long, env = "KEYBEAT_MAX_SOCKETS", value_name = "N", default_value_t = DEFAULT.sockets, value_parser = values::count())]
    max_sockets: usize,
    /// Maximum open WebSockets per client address; further upgrades get 429
    #[arg(long, env = "KEYBEAT_MAX_SOCKETS_PER_ADDRESS", value_name = "N", default_value_t = DEFAULT.sockets_per_address, value_parser = values::count())]
    max_sockets_per_address: usize,
    /// Maximum open WebSockets of one user's tokens; further upgrades get 429
    #[arg(long, env = "KEYBEAT_MAX_SOCKETS_PER_USER", value_name = "N", default_value_t = DEFAULT.sockets_per_user, value_parser = values::count())]
    max_sockets_per_user: usize,
    /// Maximum open event streams of one user's tokens; further ones get 429
    #[arg(long, env = "KEYBEAT_MAX_STREAMS_PER_USER", value_name = "N", default_value_t = DEFAULT.streams_per_user, value_parser = values::count())]
    max_streams_per_user: usize,
    /// Maximum users that all sockets and streams of one user's tokens watch by name; the others of a watch are refused
    #[arg(long, env = "KEYBEAT_MAX_WATCHES_PER_USER", value_name = "N", default_value_t = DEFAULT.watches_per_user, value_parser = values::count())]
    max_watches_per_user: usize,
    /// Maximum requests per second of one user's tokens, in bursts ten times as many; further ones get 429
    #[arg(long, env = "KEYBEAT_MAX_REQUESTS_PER_SECOND", value_name = "N", default_value_t = DEFAULT.requests_per_second, value_parser = values::whole(1..=u32::MAX))]
    max_requests_per_second: u32,
    /// Maximum open connections, WebSockets excluded; a further one replaces the one idle longest, or gets 503
    #[arg(long, env = "KEYBEAT_MAX_CONNECTIONS", value_name = "N", default_value_t = DEFAULT.connections, value_parser = values::count())]
    max_connections: usize,
    /// Maximum open connections per client address, WebSockets excluded; further ones get 429
    #[arg(long, env = "KEYBEAT_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N", default_value_t = DEFAULT.connections_per_address, value_parser = values::count())]
    max_connections_per_address: usize,
    /// Time of an HTTP connection without a request; after it the connection is closed
    #[arg(long, env = "KEYBEAT_IDLE_TIMEOUT", value_name = "DURATION", default_value_t = DEFAULT.idle_timeout.into(), value_parser = duration)]
    idle_timeout: Duration,
    /// Time for a TLS handshake and for the headers of a request; after it the connection is closed
    #[arg(long, env = "KEYBEAT_HANDSHAKE_TIMEOUT", value_name = "DURATION", default_value_t = DEFAULT.handshake_timeout.into(), value_parser = duration)]
    handshake_timeout: Duration,
    /// Time during which a client reads nothing of an answer, event stream or socket; after it the connection is closed
    #[arg(long, env = "KEYBEAT_WRITE_TIMEOUT", value_name = "DURATION", default_value_t = DEFAULT.write_timeout.into(), value_parser = duration)]
    write_timeout: Duration,
    /// Time for the body of a request; after it the request gets 400
    #[arg(long, env = "KEYBEAT_BODY_TIMEOUT", value_name = "DURATION", default_value_t = DEFAULT.body_timeout.into(), value_parser = duration)]
    body_timeout: Duration,
    /// Maximum size of a request's body in bytes; a longer one gets 413
    #[arg(long, env = "KEYBEAT_MAX_BODY_BYTES", value_name = "BYTES", default_value_t = DEFAULT.body_bytes, value_parser = values::count())]
    max_body_bytes: usize,
    /// Memory for all request bodies that are being read and all watches that wait for Redis, in bytes; further ones get 503 or `busy`
    #[arg(long, env = "KEYBEAT_MAX_BODIES_BYTES", value_name = "BYTES", default_value_t = DEFAULT.bodies_bytes, value_parser = values::count())]
    max_bodies_bytes: usize,
    /// Maximum size of a WebSocket message in bytes; a longer one closes the socket (1009)
    #[arg(long, env = "KEYBEAT_MAX_MESSAGE_BYTES", value_name = "BYTES", default_value_t = DEFAULT.message_bytes, value_parser = values::count())]
    max_message_bytes: usize,
    /// Maximum messages per second of one socket, in bursts ten times as many; above it the socket is closed (4029)
    #[arg(long, env = "KEYBEAT_MAX_MESSAGES_PER_SECOND", value_name = "N", default_value_t = DEFAULT.messages_per_second, value_parser = values::whole(1..=u32::MAX))]
    max_messages_per_second: u32,
    /// Maximum users that one socket watches by name; a watch beyond it gets an error
    #[arg(long, env = "KEYBEAT_MAX_WATCHES_PER_SOCKET", value_name = "N", default_value_t = DEFAULT.watches_per_socket, value_parser = values::count())]
    max_watches_per_socket: usize,
    /// Maximum members of a group that is watched without count; a larger group gets too_large_group
    #[arg(long, env = "KEYBEAT_MAX_GROUP_MEMBERS", value_name = "N", default_value_t = DEFAULT.group_members, value_parser = values::count())]
    max_group_members: usize,
    /// Memory for what waits for slow clients, in MiB: changes, snapshots, messages and answers, and for messages that
    /// clients have begun; above it, the clients with the longest queues are closed (sockets: 1013)
    #[arg(long, env = "KEYBEAT_MAILBOX_MIB", value_name = "N", default_value_t = (DEFAULT.mailbox_bytes / MIB) as u32, value_parser = values::whole(1..=u32::MAX))]
    mailbox_mib: u32,
    /// Maximum heartbeats and logouts per second of one client's token, in bursts ten times as many; further ones get 429
    #[arg(long, env = "KEYBEAT_MAX_HEARTBEATS_PER_SECOND", value_name = "N", default_value_t = DEFAULT.heartbeats_per_second, value_parser = values::whole(1..=u32::MAX))]
    max_heartbeats_per_second: u32,
    /// Maximum wrong tokens per second of one client address, in bursts ten times as many; further wrong ones get
    /// 429, valid ones are still accepted
    #[arg(long, env = "KEYBEAT_MAX_WRONG_TOKENS_PER_SECOND", value_name = "N", default_value_t = DEFAULT.wrong_tokens_per_second, value_parser = values::whole(1..=u32::MAX))]
    max_wrong_tokens_per_second: u32,
    /// Maximum live keys that one client's token sets; further keys get 429
    #[arg(long, env = "KEYBEAT_MAX_KEYS_PER_TOKEN", value_name = "N", default_value_t = DEFAULT.keys_per_token, value_parser = values::count())]
    max_keys_per_token: usize,
    /// Time for the event of the daemon's own canary key to arrive; after it the daemon treats the event stream as
    /// dead, reconnects and reconciles
    #[arg(long, env = "KEYBEAT_CANARY_LIMIT", value_name = "DURATION", default_value_t = DEFAULT.canary.into(), value_parser = duration)]
    canary_limit: Duration,
    /// Maximum requests that wait for Redis at the same time; further ones get 503
    #[arg(long, env = "KEYBEAT_MAX_REDIS_REQUESTS", value_name = "N", default_value_t = DEFAULT.redis_requests, value_parser = values::count())]
    max_redis_requests: usize,
}

impl LimitArgs {
    pub fn limits(&self) -> Limits {
        Limits {
            sockets: self.max_sockets,
            sockets_per_address: self.max_sockets_per_address,
            sockets_per_user: self.max_sockets_per_user,
            streams_per_user: self.max_streams_per_user,
            watches_per_user: self.max_watches_per_user,
            requests_per_second: self.max_requests_per_second,
            connections: self.max_connections,
            connections_per_address: self.max_connections_per_address,
            idle_timeout: self.idle_timeout.into(),
            handshake_timeout: self.handshake_timeout.into(),
            write_timeout: self.write_timeout.into(),
            body_timeout: self.body_timeout.into(),
            body_bytes: self.max_body_bytes,
            bodies_bytes: self.max_bodies_bytes,
            message_bytes: self.max_message_bytes,
            messages_per_second: self.max_messages_per_second,
            watches_per_socket: self.max_watches_per_socket,
            group_members: self.max_group_members,
            mailbox_bytes: self.mailbox_mib as usize * MIB,
            heartbeats_per_second: self.max_heartbeats_per_second,
            wrong_tokens_per_second: self.max_wrong_tokens_per_second,
            keys_per_token: self.max_keys_per_token,
            canary: self.canary_limit.into(),
            redis_requests: self.max_redis_requests,
            ..DEFAULT
        }
    }
}

/// A duration that clap can print as a default.
fn duration(text: &str) -> Result<Duration, String> {
    values::duration(text).map(Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_the_default_limits() {
        let typed = LimitArgs::parse_from(["keybeat"]).limits();
        assert_eq!(format!("{typed:?}"), format!("{DEFAULT:?}"));
    }
}
