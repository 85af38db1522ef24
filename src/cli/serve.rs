//! `keybeat serve`: the daemon.

use super::{ServeArgs, logging};
use crate::server::Daemon;
use anyhow::Result;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

pub async fn run(args: ServeArgs) -> Result<ExitCode> {
    let traces = logging::start(args.daemon.log_format, &args.daemon.log)?;
    let config = args.daemon.config()?;
    let redis = args.redis.as_deref().map(|url| super::redis(url, &args.redis_tls)).transpose()?;
    let daemon = Daemon::bind(config, redis).await?;
    info!("listening on {}://{}", daemon.scheme(), daemon.address()?);
    reload_at_hangup(&daemon)?;
    let ran = daemon.run(stop_signal()?).await;
    traces.end().await;
    ran?;
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Reloads keys, tokens and certificates at each SIGHUP. Without such files the signal keeps its default action, so
/// a daemon in a terminal ends with the terminal.
pub fn reload_at_hangup(daemon: &Daemon) -> Result<()> {
    let Some(reload) = daemon.reload() else { return Ok(()) };
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reload();
        }
    });
    Ok(())
}

/// Completes at the first SIGTERM or SIGINT.
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
