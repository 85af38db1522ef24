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

/// The advice about a certificate that is not trusted, by the words of rustls. An authority changes nothing about its names and dates.
fn of_certificate(why: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| why.contains(word));
    if has(&["not valid for name", "NotValidForName"]) {
        "name the daemon as its certificate does: --url https://NAME:PORT; or give it a certificate for this name"
    } else if has(&["expired", "Expired"]) {
        "renew the daemon's certificate, or correct the clock of this machine"
    } else if has(&["not valid yet", "NotValidYet"]) {
        "correct the clock of this machine, or that of the machine which made the certificate"
    } else {
        "name its CA certificate: --ca FILE"
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
        ClientError::NoDaemon { .. } => {
            "name a daemon: --url http://HOST:PORT, with the path below which a proxy serves it: --url https://HOST/PATH"
        }
        ClientError::NoHandshake { .. } => {
            "for nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \
             $connection_upgrade; examples/deploy/nginx.conf is complete"
        }
        ClientError::Untrusted { why, .. } => of_certificate(why),
        ClientError::Refused(_) | ClientError::TokenExpired(_) => {
            "name a file with another token: --token-file FILE"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{CertificateError, Error};
    use std::time::Duration;

    #[test]
    fn advice_fits_the_fault_of_a_certificate() {
        let (time, edge) =
            (UnixTime::since_unix_epoch(Duration::from_secs(9)), UnixTime::since_unix_epoch(Duration::ZERO));
        let expected = ServerName::try_from("127.0.0.1").unwrap();
        let other =
            CertificateError::NotValidForNameContext { expected, presented: vec!["a.example".into()] };
        for (fault, flag) in [
            (CertificateError::UnknownIssuer, "--ca FILE"),
            (CertificateError::BadSignature, "--ca FILE"),
            (other, "--url https://NAME"),
            (CertificateError::NotValidForName, "--url https://NAME"),
            (CertificateError::ExpiredContext { time, not_after: edge }, "renew"),
            (CertificateError::Expired, "renew"),
            (CertificateError::NotValidYetContext { time, not_before: edge }, "clock"),
            (CertificateError::NotValidYet, "clock"),
        ] {
            let why = Error::InvalidCertificate(fault).to_string();
            let said =
                advised(ClientError::Untrusted { address: "https://127.0.0.1".into(), why }).to_string();
            assert!(said.contains(flag) && (flag == "--ca FILE" || !said.contains("--ca")), "{said}");
        }
    }
}
