//! The limits of the daemon, each with its flag.

use super::duration;
use crate::config::Limits;
use clap::Parser;
use std::time::Duration;

#[derive(Parser, Clone)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Sockets; one more is refused with 503
    #[arg(long, env = "KEYBEAT_MAX_SOCKETS", value_name = "N", default_value = "100000")]
    max_sockets: usize,
    /// Sockets of one address; one more is refused with 429
    #[arg(long, env = "KEYBEAT_MAX_SOCKETS_PER_ADDRESS", value_name = "N", default_value = "20000")]
    max_sockets_per_address: usize,
    /// Connections that are no sockets; one more is refused with 503
    #[arg(long, env = "KEYBEAT_MAX_CONNECTIONS", value_name = "N", default_value = "8192")]
    max_connections: usize,
    /// Connections of one address that are no sockets; one more is refused with 429
    #[arg(long, env = "KEYBEAT_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N", default_value = "4096")]
    max_connections_per_address: usize,
    /// How long a TLS handshake, and the headers of a request, may take
    #[arg(long, env = "KEYBEAT_HANDSHAKE_TIMEOUT", value_name = "DURATION", default_value = "15s", value_parser = duration)]
    handshake_timeout: Duration,
    /// How long the body of a request may take
    #[arg(long, env = "KEYBEAT_BODY_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    body_timeout: Duration,
    /// A request's body; a longer one is refused with 413
    #[arg(long, env = "KEYBEAT_MAX_BODY_BYTES", value_name = "BYTES", default_value = "4194304")]
    max_body_bytes: usize,
    /// All bodies that are being read; one more is refused with 503
    #[arg(long, env = "KEYBEAT_MAX_BODIES_BYTES", value_name = "BYTES", default_value = "268435456")]
    max_bodies_bytes: usize,
    /// A message of a socket; a longer one closes it with 1009
    #[arg(long, env = "KEYBEAT_MAX_MESSAGE_BYTES", value_name = "BYTES", default_value = "65536")]
    max_message_bytes: usize,
    /// Messages that a socket may send, ten times as many at once; more close it with 4029
    #[arg(long, env = "KEYBEAT_MAX_MESSAGES_PER_SECOND", value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    max_messages_per_second: u32,
    /// Users that a socket may watch by name; more are an error
    #[arg(long, env = "KEYBEAT_MAX_WATCHES_PER_SOCKET", value_name = "N", default_value = "10000")]
    max_watches_per_socket: usize,
    /// Mebibytes that changes may take which wait for slow sockets; beyond, the slowest are closed with 1013
    #[arg(long, env = "KEYBEAT_MAILBOX_MIB", value_name = "N", default_value = "256", value_parser = clap::value_parser!(u32).range(1..))]
    mailbox_mib: u32,
    /// Heartbeats of a client's token, ten times as many at once; more are refused with 429
    #[arg(long, env = "KEYBEAT_MAX_HEARTBEATS_PER_SECOND", value_name = "N", default_value = "20", value_parser = clap::value_parser!(u32).range(1..))]
    max_heartbeats_per_second: u32,
    /// Wrong tokens of one address, ten times as many at once; more are refused with 429, right ones are not
    #[arg(long, env = "KEYBEAT_MAX_WRONG_TOKENS_PER_SECOND", value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    max_wrong_tokens_per_second: u32,
    /// Live keys that a client's token may set; more are refused with 429
    #[arg(long, env = "KEYBEAT_MAX_KEYS_PER_TOKEN", value_name = "N", default_value = "64")]
    max_keys_per_token: usize,
    /// How late the event of the daemon's own key may come; later, the event stream counts as dead and is begun anew
    #[arg(long, env = "KEYBEAT_CANARY_LIMIT", value_name = "DURATION", default_value = "1s", value_parser = duration)]
    canary_limit: Duration,
    /// Requests to Redis under way; one more is refused with 503
    #[arg(long, env = "KEYBEAT_MAX_REDIS_REQUESTS", value_name = "N", default_value = "1024")]
    max_redis_requests: usize,
}

impl LimitArgs {
    pub fn limits(&self) -> Limits {
        Limits {
            sockets: self.max_sockets,
            sockets_per_address: self.max_sockets_per_address,
            connections: self.max_connections,
            connections_per_address: self.max_connections_per_address,
            handshake_timeout: self.handshake_timeout,
            body_timeout: self.body_timeout,
            body_bytes: self.max_body_bytes,
            bodies_bytes: self.max_bodies_bytes,
            message_bytes: self.max_message_bytes,
            messages_per_second: self.max_messages_per_second,
            watches_per_socket: self.max_watches_per_socket,
            mailbox_bytes: self.mailbox_mib as usize * 1024 * 1024,
            heartbeats_per_second: self.max_heartbeats_per_second,
            wrong_tokens_per_second: self.max_wrong_tokens_per_second,
            keys_per_token: self.max_keys_per_token,
            canary: self.canary_limit,
            redis_requests: self.max_redis_requests,
            ..Limits::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_have_the_limits_own_defaults() {
        let typed = LimitArgs::parse_from(["keybeat"]).limits();
        assert_eq!(format!("{typed:?}"), format!("{:?}", Limits::default()));
    }
}
