//! The keys that verify clients' tokens: read from one file, a JWKS, public keys in PEM, or a secret.
//!
//! The key decides the algorithm, never the token.

use super::{Claims, Fingerprint, Grant, Invalid, MAX_TOKEN_BYTES, Rules};
use anyhow::{Context, Result, bail, ensure};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use ring::digest::{SHA256, digest};
use tracing::warn;

/// KeySet in one file. A token without a key id is tried with each key.
pub(super) const MAX_KEYS: usize = 64;
/// The shortest secret, in bytes: a shorter one can be guessed from one token (RFC 7518, 3.2).
pub(super) const SECRET_BYTES: usize = 32;
/// The shortest RSA modulus, in bytes (RFC 7518, 3.3).
const RSA_BYTES: usize = 2048 / 8;

/// The keys of one file.
pub struct KeySet {
    keys: Vec<VerifyingKey>,
    rules: Rules,
}

struct VerifyingKey {
    id: Option<String>,
    algorithm: Algorithm,
    decoding: DecodingKey,
    fingerprint: Fingerprint,
}

impl KeySet {
    /// Reads a key file: a JWKS, public keys in PEM, or else a secret. The error names what is wrong with the file.
    pub fn parse(file: &[u8], rules: Rules) -> Result<KeySet> {
        let text = file.trim_ascii();
        let keys = if text.starts_with(b"{") {
            from_jwks(text)?
        } else if text.starts_with(b"-----BEGIN ") {
            from_pem(std::str::from_utf8(text).context("PEM is text, and this is not")?)?
        } else {
            vec![from_secret(text)?]
        };
        ensure!(keys.len() <= MAX_KEYS, "it has {} keys; at most {MAX_KEYS} are allowed", keys.len());
        Ok(KeySet { keys, rules })
    }

    /// The algorithms, for the log.
    pub fn algorithms(&self) -> String {
        let names: Vec<String> = self.keys.iter().map(|key| format!("{:?}", key.algorithm)).collect();
        names.join(", ")
    }

    /// Does the file still have this key?
    pub fn has(&self, fingerprint: &Fingerprint) -> bool {
        self.keys.iter().any(|key| key.fingerprint == *fingerprint)
    }

    /// Verifies a token at `now`, in seconds since the epoch.
    pub fn verify(&self, token: &str, now: u64) -> Result<Grant, Invalid> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Invalid::Malformed);
        }
        let header = decode_header(token).map_err(|_| Invalid::Malformed)?;
        // A verifier must refuse critical extensions that it does not support (RFC 7515, 4.1.11), and this one supports none.
        if header.crit.is_some() {
            return Err(Invalid::Critical);
        }
        let named = |key: &&VerifyingKey| match (&header.kid, &key.id) {
            (Some(asked), Some(id)) => asked == id,
            _ => true,
        };
        let mut worst = Invalid::UnknownKey;
        for key in self.keys.iter().filter(named) {
            if header.alg != key.algorithm {
                worst = Invalid::Algorithm;
                continue;
            }
            match key.claims(token) {
                Ok(claims) => return self.rules.grant(claims, now, key.fingerprint),
                Err(Invalid::Signature) => worst = Invalid::Signature,
                Err(other) => return Err(other),
            }
        }
        Err(worst)
    }
}

impl VerifyingKey {
    fn new(id: Option<String>, algorithm: Algorithm, decoding: DecodingKey, bytes: &[u8]) -> VerifyingKey {
        let named = [format!("{algorithm:?}").as_bytes(), bytes].concat();
        let mut fingerprint = Fingerprint::default();
        fingerprint.copy_from_slice(digest(&SHA256, &named).as_ref());
        VerifyingKey { id, algorithm, decoding, fingerprint }
    }

    /// The claims of a token, if this key signed it.
    fn claims(&self, token: &str) -> Result<Claims, Invalid> {
        // The library checks the signature and the algorithm. `Rules` checks the claims, with the time as an argument.
        let mut validation = Validation::new(self.algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        decode::<Claims>(token, &self.decoding, &validation).map(|token| token.claims).map_err(
            |why| match why.kind() {
                ErrorKind::Json(_) | ErrorKind::InvalidClaimFormat(_) | ErrorKind::Utf8(_) => Invalid::Claims,
                ErrorKind::InvalidAlgorithm => Invalid::Algorithm,
                ErrorKind::InvalidToken => Invalid::Malformed,
                _ => Invalid::Signature,
            },
        )
    }
}

fn from_secret(secret: &[u8]) -> Result<VerifyingKey> {
    ensure!(!secret.is_empty(), "it is empty; put a secret there: openssl rand -hex 32");
    ensure!(
        secret.len() >= SECRET_BYTES,
        "its HS256 secret has {} bytes, so anyone with one token could guess it; HS256 requires {SECRET_BYTES} or more: \
         openssl rand -hex 32",
        secret.len()
    );
    Ok(VerifyingKey::new(None, Algorithm::HS256, DecodingKey::from_secret(secret), secret))
}

fn from_pem(text: &str) -> Result<Vec<VerifyingKey>> {
    let mut keys = Vec::new();
    for block in text.split("-----BEGIN ").filter(|block| !block.trim().is_empty()) {
        let label = block.split("-----").next().unwrap_or_default();
        match label {
            "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
            _ if label.ends_with("PRIVATE KEY") => {
                bail!(
                    "it has a private key, which only the issuer may have; use the public key: openssl pkey -pubout"
                )
            }
            _ => bail!("it has a {label:?}; use a PUBLIC KEY in PEM: openssl pkey -pubout"),
        }
        keys.push(from_pem_block(&format!("-----BEGIN {block}"))?);
    }
    Ok(keys)
}

fn from_pem_block(pem: &str) -> Result<VerifyingKey> {
    let pem = pem.as_bytes();
    let (algorithm, key) = if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
        (Algorithm::RS256, key)
    } else if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        (Algorithm::ES256, key)
    } else if let Ok(key) = DecodingKey::from_ed_pem(pem) {
        (Algorithm::EdDSA, key)
    } else {
        bail!("it has a key that is not RSA, EC P-256 or Ed25519");
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

fn from_jwks(text: &[u8]) -> Result<Vec<VerifyingKey>> {
    let set: JwkSet = serde_json::from_slice(text).context("it begins with { but is not a JWKS")?;
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
    if let Some(other) = common.key_algorithm.filter(|&other| other != named) {
        bail!("its alg is {other}; this daemon supports {named} for such a key");
    }
    let key = DecodingKey::from_jwk(jwk)?;
    if let AlgorithmParameters::RSA(parts) = &jwk.algorithm {
        // Base64 has 4 characters for 3 bytes.
        ensure!(parts.n.len() / 4 * 3 >= RSA_BYTES - 3, "it has less than 2048 bits");
    }
    let bytes = serde_json::to_vec(&jwk.algorithm)?;
    if let AlgorithmParameters::OctetKey(_) = &jwk.algorithm {
        from_secret(key.try_get_as_bytes()?)?;
    }
    Ok(VerifyingKey::new(common.key_id.clone(), algorithm, key, &bytes))
}
