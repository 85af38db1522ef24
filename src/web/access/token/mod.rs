//! The content of a client's token (JSON Web Token), and the rules for its claims. The time is an argument, so tests can check each
//! rule.

mod key_bytes;
mod key_file;
mod keys;
mod public_text;
mod secret_file;
#[cfg(test)]
mod tests;
mod verifying_key;
mod watch_claim;

pub use keys::KeySet;
pub use watch_claim::WatchClaim;

use crate::presence::check_user;
use serde::Deserialize;
use serde_json::Number;
use std::sync::Arc;

/// How long after `exp` a token is still accepted, in seconds, because the clocks of issuer and daemon may differ.
pub const LEEWAY_S: u64 = 30;
/// How long before `nbf` a token is already accepted, in seconds: less than after `exp`, because an issuer that postpones a
/// token means it.
pub const EARLY_LEEWAY_S: u64 = 5;
/// How long after `exp` a socket or stream stays open that was opened before, in seconds. Its client had a warning.
const OPEN_LEEWAY_S: u64 = 5;
/// The latest `exp`, in seconds: the end of the year 9999. A later one is in milliseconds by mistake, and the token would be
/// valid for 50,000 years.
const LATEST_S: f64 = 253_402_300_799.0;
/// The longest token, in bytes: common servers accept headers of this size.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Identifies a key across reloads: a digest of it.
pub type Fingerprint = [u8; 32];

/// The rights of a verified token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The user that it speaks for.
    pub user: Option<Arc<str>>,
    /// Its `jti`, by which it can be revoked.
    pub id: Option<Box<str>>,
    /// The users that it may watch.
    pub watch: WatchClaim,
    /// The groups that it may watch.
    pub groups: WatchClaim,
    /// When it expires, in seconds since the epoch.
    pub expires: u64,
    /// When the sockets and streams end that were opened with it, in seconds since the epoch.
    pub ends: u64,
    /// The key that verified it.
    pub key: Fingerprint,
}

impl Grant {
    /// May it watch this user? Users may always watch themselves.
    pub fn may_watch(&self, user: &str) -> bool {
        self.user.as_deref() == Some(user) || self.watch.covers(user)
    }
}

/// Why a token is not accepted. The text completes "the token is not accepted: …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Invalid {
    #[error("it is not a JSON Web Token, or has more than {MAX_TOKEN_BYTES} bytes")]
    Malformed,
    #[error("its alg is not {expected}, the algorithm of the daemon's key")]
    Algorithm { expected: String },
    #[error("its kid names no key of this daemon")]
    UnknownKey,
    #[error("its header has crit, which this daemon does not support")]
    Critical,
    #[error("its signature is wrong; another key signed it, or it was changed")]
    Signature,
    #[error(
        "its claims cannot be read; exp and nbf must be numbers, sub, iss and jti strings, aud, watch and groups strings or lists of strings"
    )]
    Claims,
    #[error("it has no exp, and every token must expire")]
    NoExpiry,
    #[error("its exp is later than the year 9999; exp is in seconds since 1970, not in milliseconds")]
    FarExpiry,
    #[error("its nbf is later than the year 9999; nbf is in seconds since 1970, not in milliseconds")]
    FarStart,
    #[error("it has expired; get a new one")]
    Expired,
    #[error("it is not valid yet: its nbf is in the future; send it again then")]
    NotYet,
    #[error("its aud does not contain the required audience")]
    Audience,
    #[error("its iss is not the required issuer")]
    Issuer,
    #[error("its sub is not a valid user name")]
    User,
}

/// The claims that the daemon's settings require.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// A value that `aud` must contain.
    pub audience: Option<String>,
    /// The value of `iss`.
    pub issuer: Option<String>,
}

/// The claims that the daemon reads.
#[derive(Debug, Default, Deserialize)]
struct Claims {
    sub: Option<String>,
    jti: Option<Id>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<Texts>,
    watch: Option<Texts>,
    groups: Option<Texts>,
}

/// A `jti`. It should be a string; some issuers write a number.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Id {
    Text(Box<str>),
    Number(Number),
}

impl Id {
    fn into_text(self) -> Box<str> {
        match self {
            Id::Text(text) => text,
            Id::Number(number) => number.to_string().into(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn list(&self) -> &[String] {
        match self {
            Texts::One(text) => std::slice::from_ref(text),
            Texts::Many(texts) => texts,
        }
    }

    fn watch_claim(&self) -> WatchClaim {
        match self {
            Texts::One(text) => WatchClaim::of_text(text),
            Texts::Many(texts) => WatchClaim::of_list(texts.iter().map(String::as_str)),
        }
    }
}

impl Rules {
    fn grant(&self, claims: Claims, now: u64, key: Fingerprint) -> Result<Grant, Invalid> {
        let expires = claims.exp.ok_or(Invalid::NoExpiry)?;
        if expires > LATEST_S {
            return Err(Invalid::FarExpiry);
        }
        // In whole seconds: NaN, and a time before 1970, become 0.
        let expires = expires as u64;
        if now >= expires.saturating_add(LEEWAY_S) {
            return Err(Invalid::Expired);
        }
        if claims.nbf.is_some_and(|nbf| nbf > LATEST_S) {
            return Err(Invalid::FarStart);
        }
        if claims.nbf.is_some_and(|nbf| nbf as u64 > now + EARLY_LEEWAY_S) {
            return Err(Invalid::NotYet);
        }
        if let Some(audience) = &self.audience
            && !claims.aud.as_ref().is_some_and(|aud| aud.list().contains(audience))
        {
            return Err(Invalid::Audience);
        }
        if self.issuer.is_some() && claims.iss != self.issuer {
            return Err(Invalid::Issuer);
        }
        if let Some(user) = &claims.sub {
            check_user(user).map_err(|_| Invalid::User)?;
        }
        let watch = claims.watch.as_ref().map(Texts::watch_claim).unwrap_or_default();
        let groups = claims.groups.as_ref().map(Texts::watch_claim).unwrap_or_default();
        let ends = expires + if now < expires { OPEN_LEEWAY_S } else { LEEWAY_S };
        let (user, id) = (claims.sub.map(Arc::from), claims.jti.map(Id::into_text));
        Ok(Grant { user, id, watch, groups, expires, ends, key })
    }
}
