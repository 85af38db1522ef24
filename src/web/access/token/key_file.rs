//! The file of `--jwt-key`: public keys in PEM, or a JWKS.
//!
//! Every other content is an error. None of it may become a secret.

use super::public_text::public_text;
use super::secret_file;
use super::verifying_key::VerifyingKey;
use anyhow::{Context, Result, bail, ensure};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use tracing::warn;

/// Keys in one file. A token without a key id is tried with each key.
pub(super) const MAX_KEYS: usize = 64;
/// The shortest RSA modulus, in bytes (RFC 7518, 3.3).
const RSA_BYTES: usize = 2048 / 8;
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
        Algorithm::RS256 => ensure!(bytes.len() > RSA_BYTES, "its RSA key has less than 2048 bits"),
        // An uncompressed point of P-256.
        Algorithm::ES256 => ensure!(bytes.len() == 65, "its EC key is not on P-256, which ES256 requires"),
        _ => {}
    }
    Ok(VerifyingKey::new(None, algorithm, key, &bytes))
}

fn from_jwks(text: &str) -> Result<Vec<VerifyingKey>> {
    let set: JwkSet = serde_json::from_str(text)
        .context(r#"it begins with { but is not a JWKS; a JWKS is {"keys":[…]} with one object per key"#)?;
    let mut keys = Vec::new();
    for jwk in &set.keys {
        match from_jwk(jwk) {
            Ok(key) => keys.push(key),
            // Identity providers publish keys for other uses in the same set.
            Err(why) => warn!(kid = jwk.common.key_id, "skipped a key of the JWKS: {why:#}"),
        }
    }
    ensure!(!keys.is_empty(), "its JWKS has no key that this daemon supports");
    Ok(keys)
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
    if let AlgorithmParameters::RSA(parts) = &jwk.algorithm {
        // Base64 has 4 characters for 3 bytes.
        ensure!(parts.n.len() / 4 * 3 >= RSA_BYTES - 3, "it has less than 2048 bits");
    }
    let bytes = serde_json::to_vec(&jwk.algorithm)?;
    if let AlgorithmParameters::OctetKey(_) = &jwk.algorithm {
        secret_file::check_length(key.try_get_as_bytes()?)?;
    }
    Ok(VerifyingKey::new(common.key_id.clone(), algorithm, key, &bytes))
}
