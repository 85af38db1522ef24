//! TLS of the daemon's own port.

use crate::config::TlsFiles;
use anyhow::{Context, Result, ensure};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::sync::{Arc, Mutex};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The certificate and what is made of it; read again by [`reload`](Tls::reload).
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

    /// Reads them again, for connections from now on; if that fails, what was read before stays.
    pub fn reload(&self) -> Result<()> {
        let config = Arc::new(read(&self.files)?);
        *self.config.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = config;
        Ok(())
    }

    /// The handshake of one connection.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self.config.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        TlsAcceptor::from(config).accept(stream).await
    }
}

fn read(files: &TlsFiles) -> Result<ServerConfig> {
    let (cert, key) = (&files.cert, &files.key);
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.with_context(|| {
        format!("--tls-cert {} cannot be read; it has to be a file with a certificate in PEM", cert.display())
    })?;
    ensure!(!chain.is_empty(), "--tls-cert {} has no certificate in PEM", cert.display());
    let private = PrivateKeyDer::from_pem_file(key).with_context(|| {
        format!(
            "--tls-key {} has no private key in PEM that can be read; it has to be that of the certificate",
            key.display()
        )
    })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| format!("{} and {} do not fit", cert.display(), key.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
