//! TLS to Redis with certificates that the user names.

use crate::certificates::{certificates, private_key, verifier};
use anyhow::{Context, Result};
use fred::types::config::{TlsConfig, TlsConnector};
use rustls::ClientConfig;
use rustls::crypto::ring::default_provider;
use std::path::PathBuf;
use std::sync::Arc;

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
    pub fn config(&self) -> Result<TlsConfig> {
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
        Ok(TlsConnector::from(config).into())
    }
}
