//! Where a daemon is, as it is typed, and what to type where it cannot be reached.

use crate::client::{Address, Error};
use anyhow::anyhow;
use clap::Parser;
use std::path::PathBuf;

/// Where the daemon is.
#[derive(Parser, Clone)]
pub struct AddressArgs {
    /// The daemon [default: http://127.0.0.1:7400]
    #[arg(long, env = "KEYBEAT_URL", value_name = "URL", value_parser = Address::parse)]
    pub url: Option<Address>,
    /// Who has signed the certificate of an https:// daemon, in PEM [default: the system's authorities]
    #[arg(long, env = "KEYBEAT_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

/// The error, with what to type next.
pub fn advised(why: Error) -> anyhow::Error {
    match advice(&why) {
        Some(advice) => anyhow!("{why}; {advice}"),
        None => why.into(),
    }
}

fn advice(why: &Error) -> Option<&'static str> {
    Some(match why {
        Error::Unreachable { .. } => "start one (keybeat serve), or name it: --url http://HOST:PORT",
        Error::Silent { .. } => "start it again (keybeat serve), or name another: --url http://HOST:PORT",
        Error::NoDaemon { .. } => "name one: --url http://HOST:PORT",
        Error::Untrusted { .. } => "name who has signed it: --ca FILE",
        Error::Refused(_) | Error::TokenExpired(_) => "name a file with another token: --token-file FILE",
        _ => return None,
    })
}
