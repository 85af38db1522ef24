//! The requirements of a Redis besides its URL: certificates, a password, and the addresses of a cluster's nodes.

use crate::redis::address_map::{AddressMap, AddressMapping};
use crate::redis::password_file::PasswordFile;
use crate::redis::target::Target;
use crate::redis::tls::RedisTlsFiles;
use anyhow::Result;
use clap::Parser;
use std::path::PathBuf;

#[derive(Parser, Clone)]
pub struct RedisAccessArgs {
    /// File with the password for Redis, read at each connection attempt; the URL has the user name
    #[arg(long, env = "KEYBEAT_REDIS_PASSWORD_FILE", value_name = "FILE")]
    redis_password_file: Option<PathBuf>,
    /// CA certificates for a rediss:// server, in PEM [default: the system's CA certificates]
    #[arg(long, env = "KEYBEAT_REDIS_CA", value_name = "FILE")]
    redis_ca: Option<PathBuf>,
    /// Client certificate for a rediss:// server that requires one, in PEM
    #[arg(long, env = "KEYBEAT_REDIS_CERT", value_name = "FILE", requires = "redis_key")]
    redis_cert: Option<PathBuf>,
    /// Private key of --redis-cert, in PEM
    #[arg(long, env = "KEYBEAT_REDIS_KEY", value_name = "FILE", requires = "redis_cert")]
    redis_key: Option<PathBuf>,
    /// Reachable addresses for the nodes of a cluster whose announced ones are not (NAT, containers): ANNOUNCED=REACHABLE, a
    /// HOST or HOST:PORT on each side; several separated by commas [default: the announced addresses]
    #[arg(long, env = "KEYBEAT_CLUSTER_ADDRESS_MAP", value_name = "FROM=TO", value_delimiter = ',', value_parser = AddressMapping::parse)]
    cluster_address_map: Vec<AddressMapping>,
}

impl RedisAccessArgs {
    /// The password file, if there is one.
    pub fn has_password(&self) -> bool {
        self.redis_password_file.is_some()
    }

    fn tls(&self) -> RedisTlsFiles {
        RedisTlsFiles { ca: self.redis_ca.clone(), own: self.redis_cert.clone().zip(self.redis_key.clone()) }
    }

    /// The fault of each file that cannot be used.
    pub fn faults(&self) -> Vec<anyhow::Error> {
        let tls = self.tls();
        let tls = if tls.is_empty() { Ok(()) } else { tls.config().map(drop) };
        let password =
            self.redis_password_file.clone().map_or(Ok(()), |path| PasswordFile(path).read().map(drop));
        [tls, password].into_iter().filter_map(Result::err).collect()
    }

    /// The Redis with these certificates, this password and these addresses.
    ///
    /// # Errors
    /// A file or a mapping cannot be used, or it does not suit the URL.
    pub fn apply(&self, target: Target) -> Result<Target> {
        let target =
            target.with_tls(&self.tls())?.with_addresses(AddressMap::new(&self.cluster_address_map)?)?;
        match &self.redis_password_file {
            Some(path) => target.with_password(PasswordFile(path.clone())),
            None => Ok(target),
        }
    }
}
