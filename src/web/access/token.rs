//! Clients' tokens (JSON Web Tokens): the keys that verify them, and the rules that their claims keep.
//!
//! The algorithm is fixed by the key, never by the token. Time comes from outside, so each rule is a test.

use crate::presence::check_user;
use anyhow::{Context, Result, bail, ensure};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use std::sync::Arc;
use tracing::warn;

/// How far the clocks of issuer and daemon may be apart, in seconds.
pub const LEEWAY_S: u64 = 5;
/// The longest token: what fits the headers of common servers.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// The most keys of a file: a token without a key id is tried with each.
const MAX_KEYS: usize = 64;
/// Shorter secrets can be guessed from one token (RFC 7518, 3.2).
const SECRET_BYTES: usize = 32;
/// The shortest RSA modulus (RFC 7518, 3.3).
const RSA_BYTES: usize = 2048 / 8;

/// Names a key among those of all times: a digest.
pub type Fingerprint = [u8; 32];

/// What a token allows, once it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whom it speaks for.
    pub user: Option<Arc<str>>,
    /// Whom it may watch.
    pub watch: Vec<Pattern>,
    /// When it runs out, in seconds since the epoch.
    pub expires: u64,
    /// Which key verified it.
    pub key: Fingerprint,
}

/// Why a token is not accepted. The text completes "the token is not accepted: …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Invalid {
    #[error("it is not a JSON Web Token, or has more than {MAX_TOKEN_BYTES} bytes")]
    Malformed,
    #[error("its alg is not that of the daemon's key")]
    Algorithm,
    #[error("its kid names no key that the daemon has")]
    UnknownKey,
    #[error("its header has crit, which this daemon does not know")]
    Critical,
    #[error("its signature does not fit; it was made with another key, or changed")]
    Signature,
    #[error(
        "its claims cannot be read; exp and nbf are numbers, sub and iss texts, aud and watch lists of texts"
    )]
    Claims,
    #[error("it has no exp, and a token has to run out")]
    NoExpiry,
    #[error("it has expired; get a new one")]
    Expired,
    #[error("it is not valid yet (nbf)")]
    NotYet,
    #[error("its aud does not name this daemon")]
    Audience,
    #[error("its iss is another issuer")]
    Issuer,
    #[error("its sub cannot be a user's name")]
    User,
}

/// What of a token's claims has to be so.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// What `aud` must name.
    pub audience: Option<String>,
    /// What `iss` must be.
    pub issuer: Option<String>,
}

/// Whom a token may watch: everybody, names that begin so, or one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// `*`
    All,
    /// `team-*`
    Prefix(Box<str>),
    /// `alice`
    Exact(Box<str>),
}

impl Pattern {
    fn parse(text: &str) -> Pattern {
        match text.strip_suffix('*') {
            Some("") => Pattern::All,
            Some(prefix) => Pattern::Prefix(prefix.into()),
            None => Pattern::Exact(text.into()),
        }
    }

    /// Does it cover this user? Names are compared byte by byte: é of one code point is not é of two.
    pub fn covers(&self, user: &str) -> bool {
        match self {
            Pattern::All => true,
            Pattern::Prefix(prefix) => user.starts_with(&**prefix),
            Pattern::Exact(name) => user == &**name,
        }
    }
}

/// The keys of one file.
pub struct Keys {
    keys: Vec<Key>,
    rules: Rules,
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    decoding: DecodingKey,
    fingerprint: Fingerprint,
}

impl Keys {
    /// Reads a key file: a JWKS, public keys in PEM, or else a secret.
    pub fn parse(file: &[u8], rules: Rules) -> Result<Keys> {
        let text = file.trim_ascii();
        let keys = if text.starts_with(b"{") {
            from_jwks(text)?
        } else if text.starts_with(b"-----BEGIN ") {
            from_pem(std::str::from_utf8(text).context("PEM is text, and this is not")?)?
        } else {
            vec![from_secret(text)?]
        };
        ensure!(keys.len() <= MAX_KEYS, "it has {} keys; at most {MAX_KEYS} are allowed", keys.len());
        Ok(Keys { keys, rules })
    }

    /// The algorithms, for the log.
    pub fn algorithms(&self) -> String {
        let names: Vec<String> = self.keys.iter().map(|key| format!("{:?}", key.algorithm)).collect();
        names.join(", ")
    }

    /// Is this key still among them?
    pub fn has(&self, fingerprint: &Fingerprint) -> bool {
        self.keys.iter().any(|key| key.fingerprint == *fingerprint)
    }

    /// Verifies a token at `now`, in seconds since the epoch.
    pub fn verify(&self, token: &str, now: u64) -> Result<Grant, Invalid> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Invalid::Malformed);
        }
        let header = decode_header(token).map_err(|_| Invalid::Malformed)?;
        // No extension is known here, so one that must be understood cannot be (RFC 7515, 4.1.11).
        if header.crit.is_some() {
            return Err(Invalid::Critical);
        }
        let named = |key: &&Key| match (&header.kid, &key.id) {
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

impl Key {
    fn new(id: Option<String>, algorithm: Algorithm, decoding: DecodingKey, bytes: &[u8]) -> Key {
        let named = [format!("{algorithm:?}").as_bytes(), bytes].concat();
        let mut fingerprint = Fingerprint::default();
        fingerprint.copy_from_slice(digest(&SHA256, &named).as_ref());
        Key { id, algorithm, decoding, fingerprint }
    }

    /// The claims of a token that this key has signed.
    fn claims(&self, token: &str) -> Result<Claims, Invalid> {
        // The library checks the signature, and that its algorithm is this one. What the claims say is
        // checked by our own rules, which are handed the time.
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

/// The claims that mean something here.
#[derive(Debug, Default, Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<Texts>,
    watch: Option<Texts>,
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
}

impl Rules {
    fn grant(&self, claims: Claims, now: u64, key: Fingerprint) -> Result<Grant, Invalid> {
        let expires = claims.exp.ok_or(Invalid::NoExpiry)?;
        // As whole seconds: what is not a number, or before 1970, is 0.
        let expires = expires as u64;
        if now >= expires.saturating_add(LEEWAY_S) {
            return Err(Invalid::Expired);
        }
        if claims.nbf.is_some_and(|nbf| nbf as u64 > now + LEEWAY_S) {
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
        let watch = claims.watch.as_ref().map_or(&[][..], Texts::list);
        let watch = watch.iter().map(|text| Pattern::parse(text)).collect();
        Ok(Grant { user: claims.sub.map(Arc::from), watch, expires, key })
    }
}

fn from_secret(secret: &[u8]) -> Result<Key> {
    ensure!(!secret.is_empty(), "it is empty; put a secret there: openssl rand -hex 32");
    ensure!(
        secret.len() >= SECRET_BYTES,
        "its HS256 secret has {} bytes, and whoever has one token could guess it; HS256 takes {SECRET_BYTES} or more: \
         openssl rand -hex 32",
        secret.len()
    );
    Ok(Key::new(None, Algorithm::HS256, DecodingKey::from_secret(secret), secret))
}

fn from_pem(text: &str) -> Result<Vec<Key>> {
    let mut keys = Vec::new();
    for block in text.split("-----BEGIN ").filter(|block| !block.trim().is_empty()) {
        let label = block.split("-----").next().unwrap_or_default();
        match label {
            "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
            _ if label.ends_with("PRIVATE KEY") => {
                bail!(
                    "it has a private key, which belongs to the issuer alone; give the public one: openssl pkey -pubout"
                )
            }
            _ => bail!("it has a {label:?}; give a PUBLIC KEY in PEM: openssl pkey -pubout"),
        }
        keys.push(from_pem_block(&format!("-----BEGIN {block}"))?);
    }
    Ok(keys)
}

fn from_pem_block(pem: &str) -> Result<Key> {
    let pem = pem.as_bytes();
    let (algorithm, key) = if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
        (Algorithm::RS256, key)
    } else if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        (Algorithm::ES256, key)
    } else if let Ok(key) = DecodingKey::from_ed_pem(pem) {
        (Algorithm::EdDSA, key)
    } else {
        bail!("it has a key that is neither RSA, nor EC of P-256, nor Ed25519");
    };
    let bytes = key.try_get_as_bytes()?.to_vec();
    match algorithm {
        Algorithm::RS256 => ensure!(bytes.len() > RSA_BYTES, "its RSA key has less than 2048 bits"),
        // An uncompressed point of P-256.
        Algorithm::ES256 => ensure!(bytes.len() == 65, "its EC key is not of P-256, which ES256 takes"),
        _ => {}
    }
    Ok(Key::new(None, algorithm, key, &bytes))
}

fn from_jwks(text: &[u8]) -> Result<Vec<Key>> {
    let set: JwkSet = serde_json::from_slice(text).context("it begins with { and is no JWKS")?;
    let mut keys = Vec::new();
    for jwk in &set.keys {
        match from_jwk(jwk) {
            Ok(key) => keys.push(key),
            // An identity provider has keys for other uses in the same set.
            Err(why) => warn!(kid = jwk.common.key_id, "a key of the JWKS is passed over: {why:#}"),
        }
    }
    ensure!(!keys.is_empty(), "its JWKS has no key that can be used");
    Ok(keys)
}

fn from_jwk(jwk: &Jwk) -> Result<Key> {
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
        _ => bail!("it is neither RSA, nor EC of P-256, nor Ed25519, nor a secret"),
    };
    if let Some(other) = common.key_algorithm.filter(|&other| other != named) {
        bail!("its alg is {other}, and this daemon takes {named} of such a key");
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
    Ok(Key::new(common.key_id.clone(), algorithm, key, &bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const NOW: u64 = 1_800_000_000;

    fn signed_with(header: &Header, claims: &Value, secret: &[u8]) -> String {
        encode(header, claims, &EncodingKey::from_secret(secret)).unwrap()
    }

    fn signed(claims: &Value) -> String {
        signed_with(&Header::default(), claims, SECRET)
    }

    fn keys() -> Keys {
        Keys::parse(SECRET, Rules::default()).unwrap()
    }

    fn good() -> Value {
        json!({"sub": "alice", "exp": NOW + 60, "watch": ["bob", "team-*"]})
    }

    /// The good claims, with one changed.
    fn with(name: &str, value: Value) -> Value {
        let mut claims = good();
        claims[name] = value;
        claims
    }

    fn verify(claims: &Value) -> Result<Grant, Invalid> {
        keys().verify(&signed(claims), NOW)
    }

    #[test]
    fn a_good_token_says_who_and_whom_and_until_when() {
        let grant = verify(&good()).unwrap();
        assert_eq!((grant.user.as_deref(), grant.expires), (Some("alice"), NOW + 60));
        assert_eq!(grant.watch, [Pattern::Exact("bob".into()), Pattern::Prefix("team-".into())]);
        assert!(keys().has(&grant.key));
        let nobody = verify(&json!({"exp": NOW + 60})).unwrap();
        assert_eq!((nobody.user, nobody.watch), (None, vec![]));
    }

    #[test]
    fn a_token_has_to_run_out_and_is_good_until_then() {
        assert_eq!(verify(&json!({"sub": "alice"})), Err(Invalid::NoExpiry));
        assert_eq!(verify(&with("exp", Value::Null)), Err(Invalid::NoExpiry));
        for (exp, good) in [(NOW + 1, true), (NOW - LEEWAY_S + 1, true), (NOW - LEEWAY_S, false), (0, false)]
        {
            assert_eq!(verify(&with("exp", json!(exp))).is_ok(), good, "{exp}");
        }
        for odd in [json!(-1), json!(-1e300), json!(0.5)] {
            assert_eq!(verify(&with("exp", odd.clone())), Err(Invalid::Expired), "{odd}");
        }
        for odd in [json!("9999999999"), json!([1]), json!(true), json!({})] {
            assert_eq!(verify(&with("exp", odd.clone())), Err(Invalid::Claims), "{odd}");
        }
        assert!(verify(&with("exp", json!(1e300))).is_ok());
    }

    #[test]
    fn a_token_is_not_good_before_its_time() {
        for (nbf, good) in [(NOW - 9, true), (NOW + LEEWAY_S, true), (NOW + LEEWAY_S + 1, false)] {
            assert_eq!(verify(&with("nbf", json!(nbf))).is_ok(), good, "{nbf}");
        }
        assert_eq!(verify(&with("nbf", json!(NOW + 60))), Err(Invalid::NotYet));
    }

    #[test]
    fn audience_and_issuer_count_where_they_are_asked_for() {
        let rules = Rules { audience: Some("presence".into()), issuer: Some("us".into()) };
        let keys = Keys::parse(SECRET, rules).unwrap();
        let verify = |aud: Value, iss: Value| {
            let claims = json!({"sub": "alice", "exp": NOW + 60, "aud": aud, "iss": iss});
            keys.verify(&signed(&claims), NOW).map(|_| ())
        };
        assert_eq!(verify(json!("presence"), json!("us")), Ok(()));
        assert_eq!(verify(json!(["chat", "presence"]), json!("us")), Ok(()));
        for aud in [json!("chat"), json!(["chat"]), json!([]), Value::Null, json!("presence2")] {
            assert_eq!(verify(aud, json!("us")), Err(Invalid::Audience));
        }
        for iss in [json!("them"), json!(""), Value::Null] {
            assert_eq!(verify(json!("presence"), iss), Err(Invalid::Issuer));
        }
        assert!(super::tests::verify(&with("aud", json!("whoever"))).is_ok(), "not asked for");
    }

    #[test]
    fn a_sub_that_can_be_nobodys_name_is_refused() {
        for sub in ["", "al#ice", "al\nice", &"x".repeat(257)] {
            assert_eq!(verify(&with("sub", json!(sub))), Err(Invalid::User), "{sub:?}");
        }
        assert_eq!(verify(&with("sub", json!(7))), Err(Invalid::Claims));
    }

    #[test]
    fn only_the_keys_own_signature_counts() {
        let token = signed(&good());
        let other = signed_with(&Header::default(), &good(), b"another secret, as long as the first");
        assert_eq!(keys().verify(&other, NOW), Err(Invalid::Signature));
        let (message, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = message.split_once('.').unwrap();
        let (_, forged) = other.rsplit_once('.').unwrap();
        assert_eq!(keys().verify(&format!("{message}."), NOW), Err(Invalid::Signature));
        assert_eq!(keys().verify(&format!("{message}.{forged}"), NOW), Err(Invalid::Signature));
        let mallory = signed(&with("sub", json!("mallory")));
        let payload = mallory.split('.').nth(1).unwrap();
        let moved = format!("{header}.{payload}.{signature}");
        assert_eq!(keys().verify(&moved, NOW), Err(Invalid::Signature));
    }

    #[test]
    fn the_algorithm_is_the_keys_and_not_the_tokens() {
        for algorithm in [Algorithm::HS384, Algorithm::HS512] {
            let token = signed_with(&Header::new(algorithm), &good(), SECRET);
            assert_eq!(keys().verify(&token, NOW), Err(Invalid::Algorithm));
        }
        // alg none, in each spelling, with and without a signature.
        let payload = signed(&good()).split('.').nth(1).unwrap().to_owned();
        for header in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJOb25lIn0", "eyJhbGciOiIifQ", "e30"] {
            for signature in ["", "AAAA"] {
                let token = format!("{header}.{payload}.{signature}");
                assert!(keys().verify(&token, NOW).is_err(), "{token}");
            }
        }
        // The public key of a pair taken for a secret: the oldest trick against these tokens.
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let pem = pair.public_key_pem();
        let keys = Keys::parse(pem.as_bytes(), Rules::default()).unwrap();
        for secret in [pem.as_bytes(), pem.trim().as_bytes()] {
            let token = signed_with(&Header::default(), &good(), secret);
            assert_eq!(keys.verify(&token, NOW), Err(Invalid::Algorithm));
        }
    }

    #[test]
    fn a_header_that_must_be_understood_is_not() {
        let header = Header { crit: Some(vec!["exp".into()]), ..Header::default() };
        assert_eq!(keys().verify(&signed_with(&header, &good(), SECRET), NOW), Err(Invalid::Critical));
    }

    #[test]
    fn a_token_that_is_too_long_is_not_even_read() {
        let token = signed(&with("watch", json!(["x".repeat(MAX_TOKEN_BYTES)])));
        assert_eq!(keys().verify(&token, NOW), Err(Invalid::Malformed));
    }

    #[test]
    fn each_kind_of_key_verifies_its_own_tokens() {
        let rsa = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
        let private = rsa::pkcs8::EncodePrivateKey::to_pkcs8_pem(&rsa, Default::default()).unwrap();
        let public = |key: &rsa::RsaPrivateKey| {
            rsa::pkcs8::EncodePublicKey::to_public_key_pem(&key.to_public_key(), Default::default()).unwrap()
        };
        let rsa_key = EncodingKey::from_rsa_pem(private.as_bytes()).unwrap();
        let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let ec_key = EncodingKey::from_ec_pem(ec.serialize_pem().as_bytes()).unwrap();
        let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        // The library reads only the shorter form of RFC 5958, which is the first 48 bytes.
        let ed_key = EncodingKey::from_ed_der(&short_ed(&ed.serialize_der()));
        let all = [
            (public(&rsa), Algorithm::RS256, &rsa_key),
            (ec.public_key_pem(), Algorithm::ES256, &ec_key),
            (ed.public_key_pem(), Algorithm::EdDSA, &ed_key),
        ];
        let both = Keys::parse(format!("{}{}", all[0].0, all[2].0).as_bytes(), Rules::default()).unwrap();
        for (i, (pem, algorithm, key)) in all.iter().enumerate() {
            let keys = Keys::parse(pem.as_bytes(), Rules::default()).unwrap();
            assert_eq!(keys.algorithms(), format!("{algorithm:?}"));
            let token = encode(&Header::new(*algorithm), &good(), key).unwrap();
            assert!(keys.verify(&token, NOW).is_ok(), "{algorithm:?}");
            for (j, (other, _, _)) in all.iter().enumerate().filter(|&(j, _)| i != j) {
                let other = Keys::parse(other.as_bytes(), Rules::default()).unwrap();
                assert_eq!(other.verify(&token, NOW), Err(Invalid::Algorithm), "{i} with {j}");
            }
            assert_eq!(both.verify(&token, NOW).is_ok(), i != 1, "two keys in one file");
        }
        let small = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 1024).unwrap();
        for (bad, why) in [
            (public(&small), "2048"),
            (private.to_string(), "private"),
            (rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().public_key_pem(), "P-256"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(), "CERTIFICATE"),
            (String::new(), "empty"),
            ("x".repeat(SECRET_BYTES - 1), "31 bytes"),
            (ed.public_key_pem().repeat(MAX_KEYS + 1), "at most 64"),
            ("{}".into(), "JWKS"),
            (r#"{"keys":[]}"#.into(), "no key"),
        ] {
            let Err(error) = Keys::parse(bad.as_bytes(), Rules::default()) else { panic!("{why}") };
            assert!(format!("{error:#}").contains(why), "{error:#}");
        }
    }

    /// A PKCS#8 of an Ed25519 key without its public half.
    fn short_ed(der: &[u8]) -> Vec<u8> {
        let seed = der.windows(2).position(|two| two == [0x04, 0x20]).unwrap() + 2;
        let head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        [&head, &der[seed..seed + 32]].concat()
    }

    #[test]
    fn a_jwks_has_keys_by_name_and_others_are_passed_over() {
        use base64_url as b64;
        let jwks = json!({"keys": [
            {"kty": "oct", "kid": "old", "k": b64(SECRET), "alg": "HS256"},
            {"kty": "oct", "kid": "new", "k": b64(b"the new secret has thirty-two b.")},
            {"kty": "oct", "kid": "strong", "k": b64(SECRET), "alg": "HS512"},
            {"kty": "RSA", "kid": "enc", "use": "enc", "n": b64(&[7; 256]), "e": "AQAB"},
            {"kty": "RSA", "kid": "weak", "n": b64(&[7; 128]), "e": "AQAB"},
            {"kty": "oct", "kid": "short", "k": b64(b"too short a secret")},
        ]});
        let keys = Keys::parse(jwks.to_string().as_bytes(), Rules::default()).unwrap();
        assert_eq!(keys.algorithms(), "HS256, HS256");
        let token = |kid: Option<&str>, secret: &[u8]| {
            let header = Header { kid: kid.map(str::to_owned), ..Header::default() };
            signed_with(&header, &good(), secret)
        };
        assert!(keys.verify(&token(Some("old"), SECRET), NOW).is_ok());
        assert!(keys.verify(&token(None, b"the new secret has thirty-two b."), NOW).is_ok());
        assert_eq!(keys.verify(&token(Some("new"), SECRET), NOW), Err(Invalid::Signature));
        assert_eq!(keys.verify(&token(Some("gone"), SECRET), NOW), Err(Invalid::UnknownKey));
    }

    fn base64_url(bytes: &[u8]) -> String {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
        let bits: Vec<u8> = bits.collect();
        let digit = |six: &[u8]| six.iter().fold(0, |n, bit| n << 1 | bit) << (6 - six.len());
        bits.chunks(6).map(|six| char::from(DIGITS[usize::from(digit(six))])).collect()
    }

    #[test]
    fn a_pattern_covers_names_byte_by_byte() {
        for (pattern, user, covers) in [
            ("*", "whoever", true),
            ("alice", "alice", true),
            ("alice", "alice2", false),
            ("alice", "Alice", false),
            ("team-*", "team-a", true),
            ("team-*", "team", false),
            ("te*m", "team", false),
            ("te*m", "te*m", true),
            ("é", "e\u{301}", false),
            ("", "alice", false),
        ] {
            assert_eq!(Pattern::parse(pattern).covers(user), covers, "{pattern} {user}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_key_file_or_a_token_panic(
            file in prop::collection::vec(any::<u8>(), 0..200),
            text in "(-----BEGIN PUBLIC KEY-----\n|\\{\"keys\":\\[)?.{0,80}",
            token in "[A-Za-z0-9_.\\-]{0,120}",
            any_token in ".{0,60}",
        ) {
            drop(Keys::parse(&file, Rules::default()));
            drop(Keys::parse(text.as_bytes(), Rules::default()));
            prop_assert!(keys().verify(&token, NOW).is_err());
            prop_assert!(keys().verify(&any_token, NOW).is_err());
        }

        #[test]
        fn a_token_with_one_byte_changed_is_another(at in 0..400usize, to in "[A-Za-z0-9_.\\-]") {
            let token = signed(&good());
            let at = at % token.len();
            let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
            // The last digit has bits that stand for nothing; they have to be 0.
            if changed != token {
                prop_assert!(keys().verify(&changed, NOW).is_err(), "{changed}");
            }
        }

        #[test]
        fn a_token_is_good_from_nbf_to_exp_and_not_a_second_longer(
            exp in NOW - 100..NOW + 100, nbf in proptest::option::of(NOW - 100..NOW + 100),
        ) {
            let claims = json!({"sub": "alice", "exp": exp, "nbf": nbf});
            let good = NOW < exp + LEEWAY_S && nbf.is_none_or(|nbf| nbf <= NOW + LEEWAY_S);
            prop_assert_eq!(verify(&claims).is_ok(), good);
        }

        #[test]
        fn whatever_the_claims_are_they_are_read_or_refused(
            name in "sub|exp|nbf|iss|aud|watch", value in any_json(),
        ) {
            if let Ok(grant) = verify(&with(&name, value)) {
                prop_assert!(grant.user.is_none_or(|user| check_user(&user).is_ok()));
            }
        }

        #[test]
        fn what_no_pattern_begins_is_covered_by_none(user in ".{1,20}", list in prop::collection::vec(".{0,8}", 0..6)) {
            let covered = list.iter().any(|text| Pattern::parse(text).covers(&user));
            let model = list.iter().any(|text| {
                *text == user || text.ends_with('*') && user.as_bytes().starts_with(&text.as_bytes()[..text.len() - 1])
            });
            // A name that itself ends with * is covered as a name that begins so.
            prop_assert_eq!(covered, model);
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((".{0,5}", inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }
}
