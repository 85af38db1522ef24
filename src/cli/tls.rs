//! Certificates of the daemon.

use crate::config::TlsFiles;
use clap::Parser;
use std::path::PathBuf;

#[derive(Parser, Clone)]
pub struct TlsArgs {
    /// Serve HTTPS with this certificate, followed by its intermediate certificates, in PEM
    #[arg(long, env = "KEYBEAT_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of --tls-cert, in PEM
    #[arg(long, env = "KEYBEAT_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl TlsArgs {
    pub fn files(&self) -> Option<TlsFiles> {
        let (cert, key) = self.tls_cert.clone().zip(self.tls_key.clone())?;
        Some(TlsFiles { cert, key })
    }
}
