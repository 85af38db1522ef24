//! Certificates of the daemon, and certificates for Redis.

use crate::config::TlsFiles;
use crate::redis::tls;
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

#[derive(Parser, Clone)]
pub struct RedisTlsArgs {
    /// CA certificates for a rediss:// server, in PEM [default: the system's CA certificates]
    #[arg(long, env = "KEYBEAT_REDIS_CA", value_name = "FILE")]
    redis_ca: Option<PathBuf>,
    /// Client certificate for a rediss:// server that requires one, in PEM
    #[arg(long, env = "KEYBEAT_REDIS_CERT", value_name = "FILE", requires = "redis_key")]
    redis_cert: Option<PathBuf>,
    /// Private key of --redis-cert, in PEM
    #[arg(long, env = "KEYBEAT_REDIS_KEY", value_name = "FILE", requires = "redis_cert")]
    redis_key: Option<PathBuf>,
}

impl RedisTlsArgs {
    pub fn files(&self) -> tls::RedisTlsFiles {
        let own = self.redis_cert.clone().zip(self.redis_key.clone());
        tls::RedisTlsFiles { ca: self.redis_ca.clone(), own }
    }
}
