//! One key that verifies tokens.

use super::Fingerprint;
use crate::error::shown;
use jsonwebtoken::{Algorithm, DecodingKey};
use ring::digest::{SHA256, digest};

/// A public key, or a secret.
pub(super) struct VerifyingKey {
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    decoding: DecodingKey,
    pub(super) fingerprint: Fingerprint,
}

/// The parts of a token, in base64.
pub(super) struct Signed<'a> {
    pub(super) header: &'a str,
    pub(super) claims: &'a str,
    /// The header and the claims, which the signature covers.
    message: &'a str,
    signature: &'a str,
}

impl Signed<'_> {
    pub(super) fn split(token: &str) -> Option<Signed<'_>> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        (!claims.contains('.')).then_some(Signed { header, claims, message, signature })
    }
}

impl VerifyingKey {
    pub(super) fn new(
        id: Option<String>,
        algorithm: Algorithm,
        decoding: DecodingKey,
        bytes: &[u8],
    ) -> VerifyingKey {
        let named = [format!("{algorithm:?}").as_bytes(), bytes].concat();
        let mut fingerprint = Fingerprint::default();
        fingerprint.copy_from_slice(digest(&SHA256, &named).as_ref());
        VerifyingKey { id, algorithm, decoding, fingerprint }
    }

    pub(super) fn name(&self) -> String {
        match &self.id {
            Some(id) => format!("{:?} with kid {}", self.algorithm, shown(id)),
            None => format!("{:?}", self.algorithm),
        }
    }

    /// Is this the name of the key's algorithm? Ed25519 is another name of EdDSA (RFC 9864).
    pub(super) fn is_for(&self, alg: &str) -> bool {
        format!("{:?}", self.algorithm) == alg || (self.algorithm, alg) == (Algorithm::EdDSA, "Ed25519")
    }

    pub(super) fn has_signed(&self, token: &Signed) -> bool {
        let message = token.message.as_bytes();
        jsonwebtoken::crypto::verify(token.signature, message, &self.decoding, self.algorithm)
            .unwrap_or(false)
    }
}
