//! The address of a daemon, and advice for errors of the connection to it.

use crate::client::{Address, ClientError};
use anyhow::anyhow;
use clap::Parser;
use std::path::PathBuf;

/// The address of a daemon.
#[derive(Parser, Clone)]
pub struct AddressArgs {
    /// URL of the daemon [default: http://127.0.0.1:7400]
    #[arg(long, env = "KEYBEAT_URL", value_name = "URL", value_parser = Address::parse)]
    pub url: Option<Address>,
    /// CA certificates for an https:// daemon, in PEM [default: the system's CA certificates]
    #[arg(long, env = "KEYBEAT_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

/// The error, followed by advice where there is some.
pub fn advised(why: ClientError) -> anyhow::Error {
    match advice(&why) {
        Some(advice) => anyhow!("{why}; {advice}"),
        None => why.into(),
    }
}

fn advice(why: &ClientError) -> Option<&'static str> {
    Some(match why {
        ClientError::Unreachable { .. } => {
            "start a daemon (keybeat serve), or name a running one: --url http://HOST:PORT"
        }
        ClientError::Silent { .. } => {
            "restart it (keybeat serve), or name another one: --url http://HOST:PORT"
        }
        ClientError::NoDaemon { .. } => "name a daemon: --url http://HOST:PORT",
        ClientError::NoHandshake { .. } => {
            "for nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \
             $connection_upgrade; examples/deploy/nginx.conf is complete"
        }
        ClientError::Untrusted { .. } => "name its CA certificate: --ca FILE",
        ClientError::Refused(_) | ClientError::TokenExpired(_) => {
            "name a file with another token: --token-file FILE"
        }
        _ => return None,
    })
}
