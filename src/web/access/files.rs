//! The files that say which tokens are good.

use crate::config::Access;
use crate::web::access::revoked::Revoked;
use crate::web::access::service_token::{self, ServiceToken};
use crate::web::access::token::{KeySet, Rules};
use anyhow::{Context, Result, anyhow};
use ring::hmac;
use std::path::Path;

/// The keys of `--jwt-key` and `--jwt-secret`.
pub(super) fn keys(access: &Access) -> Result<Option<KeySet>> {
    Ok(match (public_keys(access)?, secret(access)?) {
        (Some(public), Some(secret)) => Some(public.with_secret(secret)),
        (public, secret) => public.or(secret),
    })
}

fn rules(access: &Access) -> Rules {
    Rules { audience: access.audience.clone(), issuer: access.issuer.clone() }
}

/// The keys of `--jwt-key`.
pub(super) fn public_keys(access: &Access) -> Result<Option<KeySet>> {
    let Some(path) = access.jwt_key.as_deref() else { return Ok(None) };
    let file = read(path, "--jwt-key", "it holds public keys in PEM or a JWKS")?;
    KeySet::public(&file, rules(access)).map(Some).with_context(|| format!("--jwt-key {}", path.display()))
}

/// The secret of `--jwt-secret`.
pub(super) fn secret(access: &Access) -> Result<Option<KeySet>> {
    let Some(path) = access.jwt_secret.as_deref() else { return Ok(None) };
    let file = read(path, "--jwt-secret", "make a secret: openssl rand -hex 32")?;
    KeySet::secret(&file, rules(access)).map(Some).with_context(|| format!("--jwt-secret {}", path.display()))
}

/// The tokens of `--service-token`.
pub(super) fn service_tokens(access: &Access, tags: &hmac::Key) -> Result<Vec<ServiceToken>> {
    let Some(path) = access.service_token.as_deref() else { return Ok(Vec::new()) };
    let file = String::from_utf8(read(path, "--service-token", "make a token: openssl rand -hex 32")?)
        .with_context(|| format!("--service-token {} is not UTF-8", path.display()))?;
    service_token::parse(&file, tags).with_context(|| format!("--service-token {}", path.display()))
}

/// The list of `--revoked`.
pub(super) fn revoked(access: &Access) -> Result<Revoked> {
    let Some(path) = access.revoked.as_deref() else { return Ok(Revoked::default()) };
    let file = read(path, "--revoked", "it may be empty, but it must exist")?;
    Revoked::parse(&file).with_context(|| format!("--revoked {}", path.display()))
}

fn read(path: &Path, flag: &str, advice: &str) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|why| {
        anyhow!(
            "{flag} {} cannot be read: {why}; the file must exist and be readable by the daemon's user; {advice}",
            path.display()
        )
    })
}
