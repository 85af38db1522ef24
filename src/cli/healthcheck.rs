//! `keybeat healthcheck`, for the health check of a container or supervisor.

use super::access::TokenArgs;
use super::daemon::DaemonApi;
use super::{HealthcheckArgs, printed, progress};
use anyhow::{Result, bail};
use axum::http::Method;
use std::io::Write;
use std::process::ExitCode;

pub async fn run(args: HealthcheckArgs) -> Result<ExitCode> {
    // The health endpoints reveal nothing about users, so they need no token.
    let daemon = DaemonApi::new(&args.address, TokenArgs::none())?;
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let (status, body) = progress::waiting_for(&daemon.shown(), daemon.call(Method::GET, path, None)).await?;
    let text = String::from_utf8_lossy(&body);
    if !status.is_success() {
        bail!("{path} returned {status}: {}", text.trim());
    }
    writeln!(std::io::stdout(), "{}", printed::text(text.trim()))?;
    Ok(ExitCode::SUCCESS)
}
