//! Certificates: the daemon's own, and those for Redis.

use crate::config::TlsFiles;
use crate::redis::tls;
use clap::Parser;
use std::path::PathBuf;

#[derive(Parser, Clone)]
pub struct TlsArgs {
    /// Speak TLS with this certificate, and what leads from it to an authority, in PEM
    #[arg(long, env = "KEYBEAT_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key in PEM
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
    /// Who has signed the certificate of a rediss:// server, in PEM [default: the system's authorities]
    #[arg(long, env = "KEYBEAT_REDIS_CA", value_name = "FILE")]
    redis_ca: Option<PathBuf>,
    /// Our certificate for a rediss:// server that asks for one, in PEM
    #[arg(long, env = "KEYBEAT_REDIS_CERT", value_name = "FILE", requires = "redis_key")]
    redis_cert: Option<PathBuf>,
    /// That certificate's private key in PEM
    #[arg(long, env = "KEYBEAT_REDIS_KEY", value_name = "FILE", requires = "redis_cert")]
    redis_key: Option<PathBuf>,
}

impl RedisTlsArgs {
    pub fn files(&self) -> tls::TlsFiles {
        let own = self.redis_cert.clone().zip(self.redis_key.clone());
        tls::TlsFiles { ca: self.redis_ca.clone(), own }
    }
}
