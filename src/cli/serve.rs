//! `keybeat serve`

use super::{ServeArgs, logging};
use crate::server::Daemon;
use anyhow::Result;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

pub async fn run(args: ServeArgs) -> Result<ExitCode> {
    logging::start(args.daemon.log_format, &args.daemon.log);
    if let Some(code) = refuse_open_door(&args.daemon) {
        return Ok(code);
    }
    let redis = args.redis.as_deref().map(super::redis).transpose()?;
    let daemon = Daemon::bind(args.daemon.config(), redis).await?;
    info!("listening on http://{}", daemon.address()?);
    daemon.run(stop_signal()?).await?;
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// On an address that others can reach, everyone doing everything has to be asked for.
pub fn refuse_open_door(args: &super::DaemonArgs) -> Option<ExitCode> {
    if args.listen.ip().is_loopback() {
        return None;
    }
    if args.no_auth {
        warn!(
            "--no-auth on {}: whoever reaches this address may read and write everybody's presence",
            args.listen
        );
        return None;
    }
    eprintln!(
        "keybeat: {} is not a loopback address, so others could read and write everybody's presence. \
         Listen on 127.0.0.1, or, where something in front keeps others out, say so: --no-auth",
        args.listen
    );
    Some(ExitCode::from(2))
}

/// Done at the first SIGTERM or SIGINT.
pub fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
