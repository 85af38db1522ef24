//! TLS of the daemon's own port.

use crate::certificates::{certificates, private_key};
use crate::config::TlsFiles;
use crate::lock::lock;
use anyhow::{Context, Result};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use std::io;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The certificate of the daemon's port; [`prepare`](Tls::prepare) reads it again.
pub struct Tls {
    files: TlsFiles,
    config: Mutex<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads certificate and key.
    pub fn new(files: TlsFiles) -> Result<Tls> {
        let config = Mutex::new(Arc::new(read(&files)?));
        Ok(Tls { files, config })
    }

    /// Reads certificate and key again, and returns what puts them into use for new connections. On an error, and until
    /// then, the old ones stay in use.
    pub fn prepare(&self) -> Result<impl FnOnce() + '_> {
        let config = Arc::new(read(&self.files)?);
        Ok(move || *lock(&self.config) = config)
    }

    /// The handshake of one connection.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        let config = lock(&self.config).clone();
        TlsAcceptor::from(config).accept(stream).await
    }
}

fn read(files: &TlsFiles) -> Result<ServerConfig> {
    let (cert, key) = (&files.cert, &files.key);
    let chain = certificates(cert, "--tls-cert")?;
    let private = private_key(key, "--tls-key")?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| format!("{} and {} do not belong together", cert.display(), key.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
