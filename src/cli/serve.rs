//! `keybeat serve`: the daemon.

use super::{ServeArgs, Usage, logging};
use crate::redis::target::Target;
use crate::server::{Daemon, StopSignal};
use anyhow::{Result, bail};
use std::io::IsTerminal;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

/// The value of `--redis` that starts a private Redis.
const PRIVATE: &str = "private";

pub async fn run(args: ServeArgs) -> Result<ExitCode> {
    let format = args.daemon.log_format;
    logging::result(format, serve(args).await)
}

async fn serve(args: ServeArgs) -> Result<ExitCode> {
    let traces = logging::start(args.daemon.log_format, &args.daemon.log)?;
    let config = args.daemon.config()?;
    let redis = named_redis(&args)?;
    // Before the port opens, since a program that finds it open may stop the daemon at once.
    let mut signals = stop_signals()?;
    let daemon = tokio::select! {
        daemon = Daemon::bind(config, redis) => daemon?,
        _ = signals() => {
            info!("stopped before it listened");
            return Ok(ExitCode::SUCCESS);
        }
    };
    if let Some(url) = daemon.private_redis() {
        let text = format!(
            "started a private Redis at {url}; its data belong to this daemon and are lost when it stops. \
             To use your own Redis: keybeat serve --redis redis://HOST:6379"
        );
        // A daemon whose --redis was forgotten looks as if nobody were online.
        if args.redis.is_some() { info!("{text}") } else { warn!("{text}") }
    }
    if let Some(file) = &args.config {
        info!("settings read from {}", file.display());
    }
    info!("listening on {}://{}", daemon.scheme(), daemon.address()?);
    if let Some(address) = daemon.admin_address()? {
        info!("health and metrics on {}://{address}", daemon.scheme());
    }
    reload_at_hangup(&daemon)?;
    let ran = daemon.run(signals).await;
    traces.end().await;
    ran?;
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The Redis that the arguments name; `None` for a private one.
///
/// # Errors
/// [`Usage`] for a password of a private Redis, and where a private Redis would be started by mistake: a daemon for others would lose all presence when it
/// stops, and an empty variable was meant to name a Redis.
pub fn named_redis(args: &ServeArgs) -> Result<Option<Target>> {
    let listen = args.daemon.listen;
    match args.redis.as_deref() {
        Some(PRIVATE) | None if args.redis_access.has_password() => bail!(Usage(
            "--redis-password-file is for a Redis that --redis URL names, and none is named".into()
        )),
        Some(PRIVATE) => Ok(None),
        Some(url) => super::redis(url, &args.redis_access).map(Some),
        None if std::env::var_os("KEYBEAT_REDIS").is_some() => bail!(Usage(format!(
            "KEYBEAT_REDIS is set but empty; name a Redis, unset the variable, or start a private Redis with --redis \
             {PRIVATE}"
        ))),
        None if !listen.ip().is_loopback() => bail!(Usage(format!(
            "no Redis is named, and --listen {listen} is not a loopback address; name a Redis with --redis URL, or start \
             a private Redis with --redis {PRIVATE}"
        ))),
        None => Ok(None),
    }
}

/// Reloads keys, tokens and certificates at each SIGHUP. Without such files a daemon in a terminal keeps the signal's default
/// action, and ends with the terminal; elsewhere a reload of a service must not end it.
pub fn reload_at_hangup(daemon: &Daemon) -> Result<()> {
    if !daemon.has_files() && std::io::stderr().is_terminal() {
        return Ok(());
    }
    let reload = daemon.reload();
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reload();
        }
    });
    Ok(())
}

/// Each call waits for the next SIGTERM or SIGINT.
pub fn stop_signals() -> Result<impl AsyncFnMut() -> StopSignal> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move || {
        tokio::select! {
            _ = terminate.recv() => StopSignal::Terminate,
            _ = interrupt.recv() => StopSignal::Interrupt,
        }
    })
}

/// Completes at the first SIGTERM or SIGINT.
pub fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut signals = stop_signals()?;
    Ok(async move {
        signals().await;
    })
}
