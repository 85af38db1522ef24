//! The file of `--jwt-key`: public keys in PEM, or a JWKS.
//!
//! Every other content is an error. None of it may become a secret.

use super::key_bytes::{from_base64, is_on_p256, modulus_bytes, unsigned_bytes};
use super::public_text::public_text;
use super::secret_file;
use super::verifying_key::VerifyingKey;
use crate::error::shown;
use anyhow::{Context, Result, bail, ensure};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use tracing::warn;

/// Keys in one file. A token without a key id is tried with each key.
pub(super) const MAX_KEYS: usize = 64;
/// The shortest RSA modulus, in bytes (RFC 7518, 3.3).
const RSA_BYTES: usize = 2048 / 8;
const MOST_RSA_BYTES: usize = 8192 / 8;
/// The coordinates of a point on P-256, and a public key of Ed25519, in bytes.
const P256_BYTES: usize = 32;
const ED25519_BYTES: usize = 32;
/// Skipped keys of a JWKS that an error names.
const NAMED: usize = 3;
/// Begins a block of PEM.
const BEGIN: &str = "-----BEGIN ";

/// Reads the keys. The error says what the file is instead, and what to do.
pub(super) fn parse(file: &[u8]) -> Result<Vec<VerifyingKey>> {
    ensure!(!file.trim_ascii().is_empty(), "it is empty; put a public key in PEM or a JWKS there");
    let Ok(text) = std::str::from_utf8(file) else { bail!("{}", other_bytes(file)) };
    let is_binary = |char: char| char.is_control() && !char.is_ascii_whitespace();
    ensure!(!text.contains(is_binary), "{}", other_bytes(file));
    let text = text.trim_start_matches('\u{feff}').trim();
    let keys = if text.starts_with('{') {
        from_jwks(text)?
    } else if text.contains(BEGIN) {
        from_pem(text)?
    } else {
        bail!("{}", other_text(text));
    };
    ensure!(keys.len() <= MAX_KEYS, "it has {} keys; at most {MAX_KEYS} are allowed", keys.len());
    Ok(keys)
}

/// The kind of a file that is not UTF-8.
fn other_bytes(file: &[u8]) -> &'static str {
    match file {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "it is UTF-16; save it as UTF-8",
        [0x30, ..] => "it is DER; convert it to PEM: openssl pkey -pubin -inform DER -in FILE -out key.pem",
        _ => "it is binary; a public key in PEM and a JWKS are text",
    }
}

/// The kind of a text without a PEM block and without a JWKS. It never repeats the text, which may be a secret.
fn other_text(text: &str) -> &'static str {
    match public_text(text) {
        Some(what) => what,
        None => {
            "it has no public key in PEM and is no JWKS. If it is a secret for HS256, write --jwt-secret FILE instead of \
             --jwt-key FILE"
        }
    }
}

/// Reads each block, wherever it stands.
fn from_pem(text: &str) -> Result<Vec<VerifyingKey>> {
    let mut keys = Vec::new();
    for block in text.split(BEGIN).skip(1) {
        let (label, rest) = block.split_once("-----").context("its PEM block has no label")?;
        match label {
            "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
            _ if label.ends_with("PRIVATE KEY") => bail!(
                "it has a private key, which only the issuer may have; use the public key: openssl pkey -pubout"
            ),
            "CERTIFICATE" => {
                bail!("it has a CERTIFICATE; use its public key: openssl x509 -in FILE -noout -pubkey")
            }
            _ => bail!("it has a {label:?}; use a PUBLIC KEY in PEM: openssl pkey -pubout"),
        }
        let (body, _) =
            rest.split_once("-----END ").with_context(|| format!("its {label} has no END line"))?;
        ensure!(!body.contains('\\'), "its line breaks are written as \\n; write real line breaks");
        keys.push(from_pem_block(label, body)?);
    }
    Ok(keys)
}

/// Reads one block. `body` is the base64 between its first and its last line.
fn from_pem_block(label: &str, body: &str) -> Result<VerifyingKey> {
    // Without the spaces that indented files and other systems add.
    let body: Vec<&str> = body.split_ascii_whitespace().collect();
    let pem = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", body.join("\n"));
    let pem = pem.as_bytes();
    let (algorithm, key) = if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
        (Algorithm::RS256, key)
    } else if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        (Algorithm::ES256, key)
    } else if let Ok(key) = DecodingKey::from_ed_pem(pem) {
        (Algorithm::EdDSA, key)
    } else {
        bail!("it has a key that is not RSA, EC P-256 or Ed25519, or that was cut or changed");
    };
    let bytes = key.try_get_as_bytes()?.to_vec();
    match algorithm {
        Algorithm::RS256 => check_modulus("its RSA key", modulus_bytes(&bytes))?,
        Algorithm::ES256 => check_curve(&body.concat(), &bytes)?,
        _ => {}
    }
    Ok(VerifyingKey::new(None, algorithm, key, &bytes))
}

/// An error unless an EC key is on P-256. `point` is the key's point, `body` the base64 of the whole. Other curves have points of
/// the same length, and a key on them would verify no token.
fn check_curve(body: &str, point: &[u8]) -> Result<()> {
    let der = from_base64(body).unwrap_or_default();
    ensure!(is_on_p256(&der), "its EC key is not on P-256, which ES256 requires");
    ensure!(
        point.len() == 1 + 2 * P256_BYTES,
        "its EC key has a compressed point; write it uncompressed: openssl ec -pubin -in FILE -conv_form uncompressed"
    );
    Ok(())
}

/// An error if an RSA key is too short to be safe, or too long for the library, which would verify no token with it.
fn check_modulus(key: &str, bytes: usize) -> Result<()> {
    ensure!(bytes >= RSA_BYTES, "{key} has less than 2048 bits");
    ensure!(bytes <= MOST_RSA_BYTES, "{key} has {} bits; at most 8192 are allowed", bytes * 8);
    Ok(())
}

fn from_jwks(text: &str) -> Result<Vec<VerifyingKey>> {
    let set: JwkSet = serde_json::from_str(text)
        .context(r#"it begins with { but is not a JWKS; a JWKS is {"keys":[…]} with one object per key"#)?;
    ensure!(!set.keys.is_empty(), "its JWKS has no key: its list keys is empty");
    let (mut keys, mut skipped) = (Vec::new(), Vec::new());
    for (number, jwk) in (1..).zip(&set.keys) {
        match from_jwk(jwk) {
            Ok(key) => keys.push(key),
            Err(why) => skipped.push((named(jwk, number), why)),
        }
    }
    if keys.is_empty() {
        let mut faults: Vec<String> =
            skipped.iter().take(NAMED).map(|(key, why)| format!("{key}: {why:#}")).collect();
        faults.extend((skipped.len() > NAMED).then(|| format!("and {} more", skipped.len() - NAMED)));
        bail!("its JWKS has no key that this daemon supports; {}", faults.join("; "));
    }
    // Identity providers publish keys for other uses in the same set.
    skipped.iter().for_each(|(key, why)| warn!("skipped a key of the JWKS: {key}: {why:#}"));
    Ok(keys)
}

/// A key of a JWKS in a message: by its id, or else by its place in the list.
fn named(jwk: &Jwk, number: usize) -> String {
    jwk.common.key_id.as_deref().map_or(format!("key {number}"), |id| format!("kid {}", shown(id)))
}

fn from_jwk(jwk: &Jwk) -> Result<VerifyingKey> {
    let common = &jwk.common;
    ensure!(!matches!(common.public_key_use, Some(PublicKeyUse::Encryption)), "it is for encryption");
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::OctetKey(_) => (Algorithm::HS256, KeyAlgorithm::HS256),
        _ => bail!("it is not RSA, EC P-256, Ed25519 or a secret"),
    };
    // The library does not know the name Ed25519 for EdDSA (RFC 9864). This curve has no other algorithm.
    let is_ed25519 = |other| named == KeyAlgorithm::EdDSA && other == KeyAlgorithm::UNKNOWN_ALGORITHM;
    let other = common.key_algorithm.filter(|&other| other != named && !is_ed25519(other));
    if let Some(other) = other {
        bail!("its alg is {other}; this daemon supports {named} for such a key");
    }
    let key = DecodingKey::from_jwk(jwk)?;
    check_lengths(&jwk.algorithm, &key)?;
    let bytes = serde_json::to_vec(&jwk.algorithm)?;
    Ok(VerifyingKey::new(common.key_id.clone(), algorithm, key, &bytes))
}

/// An error if a part of a key is too short. A coordinate without its leading zeros gives another key, which verifies no token.
fn check_lengths(key: &AlgorithmParameters, decoding: &DecodingKey) -> Result<()> {
    let length = |part: &str| from_base64(part).map_or(0, |bytes| bytes.len());
    let exact = |name: &str, part: &str, bytes: usize| {
        let found = length(part);
        ensure!(
            found == bytes,
            "its {name} has {found} bytes in place of {bytes}; the issuer must not leave out leading zeros (RFC 7518, 6.2.1.2)"
        );
        Ok(())
    };
    match key {
        AlgorithmParameters::RSA(parts) => {
            check_modulus("it", unsigned_bytes(&from_base64(&parts.n).unwrap_or_default()))?;
        }
        AlgorithmParameters::EllipticCurve(parts) => {
            exact("x", &parts.x, P256_BYTES)?;
            exact("y", &parts.y, P256_BYTES)?;
        }
        AlgorithmParameters::OctetKeyPair(parts) => exact("x", &parts.x, ED25519_BYTES)?,
        AlgorithmParameters::OctetKey(_) => secret_file::check(decoding.try_get_as_bytes()?)?,
        _ => {}
    }
    Ok(())
}
