//! The file of `--jwt-secret`: one line of text.

use super::key_bytes::is_key;
use super::public_text::public_text;
use super::verifying_key::VerifyingKey;
use anyhow::{Context, Result, bail, ensure};
use jsonwebtoken::{Algorithm, DecodingKey};

/// The shortest secret, in bytes: a shorter one can be guessed from one token (RFC 7518, 3.2).
pub(super) const SECRET_BYTES: usize = 32;

/// Reads the secret: the line as it stands, without the line break at its end. The error never repeats it.
pub(super) fn parse(file: &[u8]) -> Result<VerifyingKey> {
    let text =
        std::str::from_utf8(file).context("it is not UTF-8; a secret is text: openssl rand -hex 32")?;
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    ensure!(!line.trim().is_empty(), "it is empty; put a secret there: openssl rand -hex 32");
    if line.contains("-----BEGIN ") || line.starts_with('{') && line.contains("\"keys\"") {
        bail!("it has public keys; write --jwt-key FILE instead of --jwt-secret FILE");
    }
    if line.trim_start().starts_with('{') {
        bail!(
            "it is JSON, perhaps the answer of a server that failed; a secret is one line: openssl rand -hex 32"
        );
    }
    if let Some(what) = public_text(line) {
        bail!("others may know it: {what}");
    }
    ensure!(!line.contains('\n'), "it has several lines; a secret is one line: openssl rand -hex 32");
    ensure!(
        !line.contains(|char: char| char.is_control() || char == '\u{feff}'),
        "it has control characters or a byte order mark; a secret is one line of text: openssl rand -hex 32"
    );
    check_length(line.as_bytes())?;
    Ok(VerifyingKey::new(None, Algorithm::HS256, DecodingKey::from_secret(line.as_bytes()), line.as_bytes()))
}

/// An error if a secret is too short, or others may know it.
pub(super) fn check(secret: &[u8]) -> Result<()> {
    ensure!(
        !is_key(secret),
        "others may know its secret: it is a key in DER; a secret is random: openssl rand -hex 32"
    );
    if let Some(what) = std::str::from_utf8(secret).ok().and_then(public_text) {
        bail!("others may know its secret: {what}");
    }
    check_length(secret)
}

/// An error if a secret is so short that it can be guessed.
fn check_length(secret: &[u8]) -> Result<()> {
    ensure!(
        secret.len() >= SECRET_BYTES,
        "its HS256 secret has {} bytes, so anyone with one token could guess it; HS256 requires {SECRET_BYTES} or more: \
         openssl rand -hex 32",
        secret.len()
    );
    Ok(())
}
