//! The keys that verify clients' tokens.
//!
//! The key decides the algorithm, never the token, and the flag decides the kind of key, never the file: a public key that
//! counted as a secret would let everyone who has it sign tokens.

use super::verifying_key::{Signed, VerifyingKey};
use super::{Fingerprint, Grant, Invalid, MAX_TOKEN_BYTES, Rules, key_file, secret_file};
use anyhow::{Result, bail};
use jsonwebtoken::Algorithm;
use jsonwebtoken::dangerous::insecure_decode_claims;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tracing::warn;

/// The keys of `--jwt-key` and `--jwt-secret`.
pub struct KeySet {
    keys: Vec<VerifyingKey>,
    rules: Rules,
}

impl KeySet {
    /// Reads the content of `--jwt-key`: public keys in PEM, or a JWKS. The error names what is wrong with the file, and how to
    /// correct it.
    pub fn public(file: &[u8], rules: Rules) -> Result<KeySet> {
        Ok(KeySet { keys: key_file::parse(file)?, rules })
    }

    /// Reads the content of `--jwt-secret`: one line, which verifies HS256.
    pub fn secret(file: &[u8], rules: Rules) -> Result<KeySet> {
        Ok(KeySet { keys: vec![secret_file::parse(file)?], rules })
    }

    /// Adds the key of `--jwt-secret`. From then on it alone verifies HS256.
    pub fn with_secret(mut self, secret: KeySet) -> KeySet {
        let all = self.keys.len();
        self.keys.retain(|key| key.algorithm != Algorithm::HS256);
        let unused = all - self.keys.len();
        if unused > 0 {
            warn!(
                "--jwt-key has {unused} secrets (kty oct) that verify nothing: only --jwt-secret verifies HS256"
            );
        }
        self.keys.extend(secret.keys);
        self
    }

    /// An error unless `next`, the same files read again, has keys of the same kinds: a public key must not be replaced by a
    /// secret while the daemon runs, nor a secret by a public key.
    pub fn check_same_kinds(&self, next: &KeySet) -> Result<()> {
        if self.kinds() == next.kinds() {
            return Ok(());
        }
        bail!(
            "the keys were {} and are now {}; a reload does not change between secrets and public keys: restart the daemon",
            self.names(),
            next.names()
        );
    }

    /// Are there secrets, and are there public keys?
    fn kinds(&self) -> (bool, bool) {
        let is_secret = |key: &VerifyingKey| key.algorithm == Algorithm::HS256;
        (self.keys.iter().any(is_secret), !self.keys.iter().all(is_secret))
    }

    /// The algorithm and key id of each key, for the log.
    pub fn names(&self) -> String {
        let names: Vec<String> = self.keys.iter().map(VerifyingKey::name).collect();
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
        let signed = Signed::split(token).ok_or(Invalid::Malformed)?;
        let header: Header = part(signed.header).ok_or(Invalid::Malformed)?;
        // A verifier must refuse critical extensions that it does not support (RFC 7515, 4.1.11), and this one supports none.
        if header.crit.is_some() {
            return Err(Invalid::Critical);
        }
        let named = |key: &&VerifyingKey| match (&header.kid, &key.id) {
            (Some(asked), Some(id)) => asked == id,
            _ => true,
        };
        let named: Vec<&VerifyingKey> = self.keys.iter().filter(named).collect();
        if named.is_empty() {
            return Err(Invalid::UnknownKey);
        }
        let fits: Vec<_> = named.iter().filter(|key| key.is_for(&header.alg)).collect();
        if fits.is_empty() {
            return Err(Invalid::Algorithm { expected: algorithms(&named) });
        }
        let key = fits.iter().find(|key| key.has_signed(&signed)).ok_or(Invalid::Signature)?;
        let claims = part(signed.claims).ok_or(Invalid::Claims)?;
        self.rules.grant(claims, now, key.fingerprint)
    }
}

/// The header of a token, as far as the daemon reads it. The library's own header fails at a new name of an algorithm.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

/// Reads one part of a token: base64 of a JSON object.
fn part<T: DeserializeOwned>(part: &str) -> Option<T> {
    // The library reads the second part of three.
    insecure_decode_claims(format!(".{part}.")).ok()
}

/// The algorithms of these keys, each once, for an error.
fn algorithms(keys: &[&VerifyingKey]) -> String {
    let mut names: Vec<String> = keys.iter().map(|key| format!("{:?}", key.algorithm)).collect();
    names.sort();
    names.dedup();
    names.join(" or ")
}
