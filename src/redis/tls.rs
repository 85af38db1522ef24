//! TLS to Redis, with the system's authorities or with certificates that the user names.

use crate::certificates::{certificates, private_key, verifier};
use anyhow::{Context, Result};
use rustls::ClientConfig;
use rustls::crypto::ring::default_provider;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// How a connection speaks TLS.
#[derive(Debug, Clone)]
pub(super) enum Tls {
    /// The system's authorities are trusted.
    System,
    /// As the user's files say.
    Files { config: Arc<ClientConfig>, files: RedisTlsFiles },
}

impl Tls {
    /// The options with which redis-cli trusts the same authorities and shows the same certificate.
    pub(super) fn of_redis_cli(&self) -> String {
        let Tls::Files { files, .. } = self else { return String::new() };
        let own = files.own.iter().flat_map(|(cert, key)| [("--cert", cert), ("--key", key)]);
        let all = files.ca.iter().map(|ca| ("--cacert", ca)).chain(own);
        all.map(|(option, file)| format!(" {option} {}", quoted(&file.display().to_string()))).collect()
    }

    /// The configuration of a connection. The system's authorities are read once.
    ///
    /// # Errors
    /// The system has no authorities.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>> {
        static OF_SYSTEM: OnceLock<Arc<ClientConfig>> = OnceLock::new();
        match self {
            Tls::Files { config, .. } => Ok(config.clone()),
            Tls::System => match OF_SYSTEM.get() {
                Some(config) => Ok(config.clone()),
                None => {
                    let config = RedisTlsFiles::default().config()?;
                    Ok(OF_SYSTEM.get_or_init(|| config).clone())
                }
            },
        }
    }
}

/// Files in PEM.
#[derive(Debug, Clone, Default)]
pub struct RedisTlsFiles {
    /// The authorities of the server's certificate; without it, the system's authorities.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key, for a server that requires one.
    pub own: Option<(PathBuf, PathBuf)>,
}

impl RedisTlsFiles {
    /// Did the user name no file?
    pub fn is_empty(&self) -> bool {
        self.ca.is_none() && self.own.is_none()
    }

    /// The configuration of connections.
    ///
    /// # Errors
    /// A file cannot be read, or certificate and key do not match.
    pub fn config(&self) -> Result<Arc<ClientConfig>> {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier(self.ca.as_deref(), "--redis-ca")?);
        let config = match &self.own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => builder
                .with_client_auth_cert(certificates(cert, "--redis-cert")?, private_key(key, "--redis-key")?)
                .with_context(|| {
                    format!("{} and {} do not belong together", cert.display(), key.display())
                })?,
        };
        Ok(Arc::new(config))
    }
}

/// A word for a shell, in quotes if it needs them.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_cli_gets_the_same_files() {
        let files = RedisTlsFiles {
            ca: Some("/etc/redis/ca.pem".into()),
            own: Some(("my cert.pem".into(), "key.pem".into())),
        };
        let config = RedisTlsFiles::default().config().unwrap();
        let words = Tls::Files { config, files }.of_redis_cli();
        assert_eq!(words, " --cacert /etc/redis/ca.pem --cert 'my cert.pem' --key key.pem");
        assert_eq!(Tls::System.of_redis_cli(), "");
    }
}
