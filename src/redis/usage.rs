//! The resources that a server has used so far, for benches.

use crate::redis::info::Info;
use crate::redis::resp::client::RespClient;
use crate::redis::server_config::{self, EVENTS};
use crate::redis::target::Target;
use anyhow::{Result, anyhow};
use std::collections::BTreeMap;

/// A connection to the server that is measured.
pub struct UsageMeter(RespClient);

/// The resources that the server has used since it started.
pub struct ServerUsage {
    /// CPU seconds.
    pub cpu_s: f64,
    /// Bytes sent to all clients.
    pub output_bytes: f64,
    /// Bytes received from all clients.
    pub input_bytes: f64,
    /// How often each command was called, by its name.
    pub calls: BTreeMap<String, u64>,
}

impl UsageMeter {
    /// Connects, and switches the server's notifications off.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses CONFIG.
    pub async fn without_events(target: &Target) -> Result<UsageMeter> {
        let client = RespClient::connect(target, "keybeat-bench").await?;
        server_config::set(client.pipeline(), EVENTS, "").await?.map_err(|why| anyhow!(why))?;
        Ok(UsageMeter(client))
    }

    /// Reads the counters.
    ///
    /// # Errors
    /// The connection was lost, or the server refuses INFO.
    pub async fn read(&self) -> Result<ServerUsage> {
        let info = Info::read(self.0.pipeline(), &["cpu", "stats", "commandstats"]).await?;
        let number = |name: &str| info.field(name).parse::<f64>().unwrap_or_default();
        Ok(ServerUsage {
            cpu_s: number("used_cpu_user") + number("used_cpu_sys"),
            output_bytes: number("total_net_output_bytes"),
            input_bytes: number("total_net_input_bytes"),
            calls: info.calls(),
        })
    }
}
