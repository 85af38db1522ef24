//! `keybeat webhooks test`: one signed sample event, for the author of a receiver.

use super::{Usage, WebhookTestArgs, printed};
use crate::presence::{HookEvent, Parcel};
use crate::sinks::webhooks::{Endpoint, Poster, Secret};
use anyhow::{Result, anyhow, bail};
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

pub async fn test(args: WebhookTestArgs) -> Result<ExitCode> {
    let usage = |why: anyhow::Error| anyhow!(Usage(format!("{why:#}")));
    let endpoint = Endpoint::parse(&args.url, args.webhook_allow_private).map_err(usage)?;
    let secret = Secret::read(&args.webhook_secret).map_err(usage)?;
    let poster = Poster::new(endpoint, Arc::new(secret))?;
    let parcel = sample();
    if let Err((_, why)) = poster.post(&parcel).await {
        bail!("the sample event was not acknowledged: {why}");
    }
    let shown = poster.endpoint().shown();
    writeln!(std::io::stdout(), "{} acknowledged {}", printed::text(&shown), parcel.body)?;
    Ok(ExitCode::SUCCESS)
}

fn sample() -> Parcel {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let id = format!("{now}-0");
    let json = format!(
        r#"{{"id":"{id}","user":"keybeat-test","state":"online","at_ms":{now},"since_ms":{now},"reason":"heartbeat"}}"#
    );
    Parcel::of(&[HookEvent { id, user: "keybeat-test".into(), json }])
}
