//! Tests of tokens, their claims and the keys that verify them.

use super::key_file::MAX_KEYS;
use super::secret_file::SECRET_BYTES;
use super::*;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use proptest::prelude::*;
use rcgen::PublicKeyData;
use serde_json::{Value, json};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_800_000_000;

fn signed_with(header: &Header, claims: &Value, secret: &[u8]) -> String {
    encode(header, claims, &EncodingKey::from_secret(secret)).unwrap()
}

fn signed(claims: &Value) -> String {
    signed_with(&Header::default(), claims, SECRET)
}

/// The refusal of a token whose alg is not this one.
fn other_than(expected: &str) -> Invalid {
    Invalid::Algorithm { expected: expected.into() }
}

fn keys() -> KeySet {
    KeySet::secret(SECRET, Rules::default()).unwrap()
}

fn good() -> Value {
    json!({"sub": "alice", "exp": NOW + 60, "watch": ["bob", "team-*"]})
}

/// The valid claims, with one changed.
fn with(name: &str, value: Value) -> Value {
    let mut claims = good();
    claims[name] = value;
    claims
}

fn verify(claims: &Value) -> Result<Grant, Invalid> {
    keys().verify(&signed(claims), NOW)
}

#[test]
fn valid_token_has_user_watch_and_expiry() {
    let grant = verify(&good()).unwrap();
    assert_eq!((grant.user.as_deref(), grant.expires), (Some("alice"), NOW + 60));
    assert_eq!(grant.watch, WatchClaim::of_list(["bob", "team-*"]));
    assert!(keys().has(&grant.key));
    let nobody = verify(&json!({"exp": NOW + 60})).unwrap();
    assert_eq!((nobody.user, nobody.watch), (None, WatchClaim::default()));
}

#[test]
fn token_must_expire_and_is_valid_until_then() {
    assert_eq!(verify(&json!({"sub": "alice"})), Err(Invalid::NoExpiry));
    assert_eq!(verify(&with("exp", Value::Null)), Err(Invalid::NoExpiry));
    for (exp, good) in [(NOW + 1, true), (NOW - LEEWAY_S + 1, true), (NOW - LEEWAY_S, false), (0, false)] {
        assert_eq!(verify(&with("exp", json!(exp))).is_ok(), good, "{exp}");
    }
    for odd in [json!(-1), json!(-1e300), json!(0.5)] {
        assert_eq!(verify(&with("exp", odd.clone())), Err(Invalid::Expired), "{odd}");
    }
    for odd in [json!("9999999999"), json!([1]), json!(true), json!({})] {
        assert_eq!(verify(&with("exp", odd.clone())), Err(Invalid::Claims), "{odd}");
    }
    assert!(verify(&with("exp", json!(253_402_300_799_u64))).is_ok(), "the end of the year 9999");
    for ms in [json!((NOW + 60) * 1000), json!(253_402_300_800_u64), json!(1e300)] {
        assert_eq!(verify(&with("exp", ms.clone())), Err(Invalid::FarExpiry), "{ms}");
    }
}

#[test]
fn token_is_refused_before_nbf() {
    for (nbf, good) in [(NOW - 9, true), (NOW + 5, true), (NOW + 6, false), (NOW + 8, false)] {
        assert_eq!(verify(&with("nbf", json!(nbf))).is_ok(), good, "{nbf}");
    }
    assert_eq!(verify(&with("nbf", json!(NOW + 60))), Err(Invalid::NotYet));
    assert_eq!(verify(&with("nbf", json!(NOW * 1000))), Err(Invalid::FarStart), "milliseconds");
    assert!(keys().verify(&signed(&with("nbf", json!(NOW + 8))), NOW + 3).is_ok(), "the same token later");
}

#[test]
fn audience_and_issuer_are_checked_where_required() {
    let rules = Rules { audience: Some("presence".into()), issuer: Some("us".into()) };
    let keys = KeySet::secret(SECRET, rules).unwrap();
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
    assert!(super::tests::verify(&with("aud", json!("whoever"))).is_ok(), "not required");
}

#[test]
fn sub_must_be_a_valid_user_name() {
    for sub in ["", "al#ice", "al\nice", &"x".repeat(257)] {
        assert_eq!(verify(&with("sub", json!(sub))), Err(Invalid::User), "{sub:?}");
    }
    assert_eq!(verify(&with("sub", json!(7))), Err(Invalid::Claims));
}

#[test]
fn foreign_or_moved_signature_is_refused() {
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
fn key_decides_the_algorithm() {
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let token = signed_with(&Header::new(algorithm), &good(), SECRET);
        assert_eq!(keys().verify(&token, NOW), Err(other_than("HS256")));
    }
    // alg none, in several spellings, with and without a signature.
    let payload = signed(&good()).split('.').nth(1).unwrap().to_owned();
    for header in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJOb25lIn0", "eyJhbGciOiIifQ", "e30"] {
        for signature in ["", "AAAA"] {
            let token = format!("{header}.{payload}.{signature}");
            assert!(keys().verify(&token, NOW).is_err(), "{token}");
        }
    }
    // A token signed with the public key as if it were an HS256 secret: the classic attack on JWT.
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let pem = pair.public_key_pem();
    let keys = KeySet::public(pem.as_bytes(), Rules::default()).unwrap();
    for secret in [pem.as_bytes(), pem.trim().as_bytes()] {
        let token = signed_with(&Header::default(), &good(), secret);
        assert_eq!(keys.verify(&token, NOW), Err(other_than("ES256")));
    }
}

#[test]
fn critical_header_is_refused() {
    let header = Header { crit: Some(vec!["exp".into()]), ..Header::default() };
    assert_eq!(keys().verify(&signed_with(&header, &good(), SECRET), NOW), Err(Invalid::Critical));
}

#[test]
fn too_long_token_is_refused() {
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
    let both = KeySet::public(format!("{}{}", all[0].0, all[2].0).as_bytes(), Rules::default()).unwrap();
    for (i, (pem, algorithm, key)) in all.iter().enumerate() {
        let keys = KeySet::public(pem.as_bytes(), Rules::default()).unwrap();
        assert_eq!(keys.names(), format!("{algorithm:?}"));
        let token = encode(&Header::new(*algorithm), &good(), key).unwrap();
        assert!(keys.verify(&token, NOW).is_ok(), "{algorithm:?}");
        for (j, (other, ..)) in all.iter().enumerate().filter(|&(j, _)| i != j) {
            let other = KeySet::public(other.as_bytes(), Rules::default()).unwrap();
            let expected = format!("{:?}", all[j].1);
            assert_eq!(other.verify(&token, NOW), Err(other_than(&expected)), "{i} with {j}");
        }
        assert_eq!(both.verify(&token, NOW).is_ok(), i != 1, "two keys in one file");
    }
    let small = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 1024).unwrap();
    for (bad, why) in [
        (public(&small), "2048"),
        (private.to_string(), "private"),
        (rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().public_key_pem(), "P-256"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(), "openssl x509"),
        (SECP256K1.into(), "not on P-256"),
        (P256_COMPRESSED.into(), "compressed point"),
        (rsa_of(250), "less than 2048 bits"),
        (rsa_of(1025), "at most 8192"),
        (X25519.into(), "not RSA, EC P-256 or Ed25519"),
        (String::new(), "empty"),
        (ed.public_key_pem().repeat(MAX_KEYS + 1), "at most 64"),
        ("{}".into(), "JWKS"),
        (r#"{"keys":[]}"#.into(), "no key"),
    ] {
        let Err(error) = KeySet::public(bad.as_bytes(), Rules::default()) else { panic!("{why}") };
        assert!(format!("{error:#}").contains(why), "{error:#}");
    }
}

/// A key on another curve with points of the same length, and a key on P-256 whose point is compressed.
const SECP256K1: &str = "-----BEGIN PUBLIC KEY-----
MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEub+vk2GeHFxqmyLWSXGpu8hm+22vG9Ms
yDa2W2GH7gpw0Zud5qbf+JQ6SgDuKyKQh3t54EtXf/uIsSBBqHM4Tw==
-----END PUBLIC KEY-----
";
const P256_COMPRESSED: &str = "-----BEGIN PUBLIC KEY-----
MDkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDIgAChiwVjunyhtgzZsrjsd54jvtcWKRB
uzNZrDQkWsrciXY=
-----END PUBLIC KEY-----
";

/// The DER of an Ed25519 key before its 32 bytes (RFC 8410, 10.1).
const ED25519_HEAD: &[u8] = &[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

const X25519: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VuAyEAqYGBQ27o3lu10manrK0+SpMqZJNeDPGwBhTriAxxBlw=
-----END PUBLIC KEY-----
";

/// A public RSA key in PEM whose modulus has so many bytes.
fn rsa_of(bytes: u16) -> String {
    let integer = [&[2, 0x82], &(bytes + 1).to_be_bytes()[..], &[0], &vec![7; bytes.into()]].concat();
    let key = [integer, vec![2, 3, 1, 0, 1]].concat();
    let der = [&[0x30, 0x82], &u16::try_from(key.len()).unwrap().to_be_bytes()[..], &key].concat();
    let mut text = base64_url(&der).replace('-', "+").replace('_', "/");
    text += &"===="[..(4 - text.len() % 4) % 4];
    format!("-----BEGIN RSA PUBLIC KEY-----\n{text}\n-----END RSA PUBLIC KEY-----\n")
}

/// A public key in PEM, the same in DER, and a key that signs its tokens.
fn public_key() -> (String, Vec<u8>, EncodingKey) {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let private = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
    (pair.public_key_pem(), pair.subject_public_key_info(), private)
}

#[test]
fn pem_block_is_found_anywhere_in_the_file() {
    let (pem, _, private) = public_key();
    let token = encode(&Header::new(Algorithm::ES256), &good(), &private).unwrap();
    let indented: String = pem.lines().map(|line| format!("    {line}\r\n")).collect();
    for text in [
        pem.clone(),
        format!("# key of the issuer\n{pem}"),
        format!("\u{feff}{pem}"),
        format!("Bag Attributes\n    localKeyID: 01\n{pem}# the end\n"),
        format!("\u{feff}\r\n{indented}"),
    ] {
        let keys = KeySet::public(text.as_bytes(), Rules::default()).unwrap();
        assert!(keys.verify(&token, NOW).is_ok(), "{text}");
        let forged = signed_with(&Header::default(), &good(), text.trim().as_bytes());
        assert_eq!(keys.verify(&forged, NOW), Err(other_than("ES256")), "{text}");
    }
}

#[test]
fn other_content_never_becomes_a_secret() {
    let (pem, der, _) = public_key();
    let bare: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    for (file, advice) in [
        (&der[..], "-inform DER"),
        (bare.as_bytes(), "BEGIN PUBLIC KEY"),
        (b"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC7 me@example", "ssh-keygen -e"),
        (br#"[{"kty":"RSA","n":"0123456789012345678901234567890","e":"AQAB"}]"#, "{\"keys\":[…]}"),
        (b"<html><head><title>502 Bad Gateway</title></head></html>", "download the JWKS again"),
        (b"https://issuer.example/.well-known/jwks.json", "download the JWKS"),
        (b"\xff\xfe-\0-\0-\0", "UTF-8"),
        (b"\x00\x01\x02 forty bytes of nothing that is a key", "binary"),
        (pem.replace('\n', "\\n").as_bytes(), "real line breaks"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA", "END line"),
        (SECRET, "--jwt-secret FILE"),
    ] {
        let Err(error) = KeySet::public(file, Rules::default()) else { panic!("{advice}") };
        let error = format!("{error:#}");
        assert!(error.contains(advice), "{error}");
        assert!(!error.contains("0123456789abcdef"), "{error}");
        if file != SECRET {
            assert!(KeySet::secret(file, Rules::default()).is_err(), "as a secret: {advice}");
        }
    }
}

#[test]
fn secret_is_one_line_of_text() {
    let line = std::str::from_utf8(SECRET).unwrap();
    for text in [line.to_owned(), format!("{line}\n"), format!("{line}\r\n")] {
        let keys = KeySet::secret(text.as_bytes(), Rules::default()).unwrap();
        assert!(keys.verify(&signed(&good()), NOW).is_ok(), "{text:?}");
    }
    let (pem, _, _) = public_key();
    for (bad, why) in [
        (String::new(), "empty"),
        ("\n".into(), "empty"),
        ("x".repeat(SECRET_BYTES - 1), "31 bytes"),
        (format!("{line}\n{line}\n"), "several lines"),
        (format!("{line}\n\n"), "several lines"),
        (format!("\u{feff}{line}"), "byte order mark"),
        (format!("{line}\0"), "control"),
        (pem, "--jwt-key FILE"),
        (r#"{"keys":[]}"#.into(), "--jwt-key FILE"),
        (r#"{"error":"no such realm at this server"}"#.into(), "answer of a server"),
        ("upstream connect error or disconnect/reset before headers".into(), "answer of a server"),
        (SECP256K1.lines().filter(|line| !line.starts_with('-')).collect(), "base64 of a key"),
    ] {
        let Err(error) = KeySet::secret(bad.as_bytes(), Rules::default()) else { panic!("{why}") };
        assert!(format!("{error:#}").contains(why), "{error:#}");
    }
    assert!(KeySet::secret(&[0xe9; 40], Rules::default()).is_err(), "not UTF-8");
}

#[test]
fn alg_selects_between_secret_and_keys() {
    let (pem, _, private) = public_key();
    let jwks = json!({"keys": [{"kty": "oct", "kid": "old", "k": base64_url(&[7; 32])}]}).to_string();
    let both = |file: &str| KeySet::public(file.as_bytes(), Rules::default()).unwrap().with_secret(keys());
    let of_key = encode(&Header::new(Algorithm::ES256), &good(), &private).unwrap();
    assert!(both(&pem).verify(&of_key, NOW).is_ok());
    assert!(both(&pem).verify(&signed(&good()), NOW).is_ok());
    let of_set = signed_with(&Header::default(), &good(), &[7; 32]);
    assert_eq!(both(&jwks).verify(&of_set, NOW), Err(Invalid::Signature), "only the secret verifies HS256");
}

#[test]
fn reload_keeps_the_kind_of_key() {
    let (pem, _, _) = public_key();
    let oct = json!({"keys": [{"kty": "oct", "k": base64_url(&[7; 32])}]}).to_string();
    let read = |text: &str| KeySet::public(text.as_bytes(), Rules::default()).unwrap();
    assert!(read(&pem).check_same_kinds(&read(&public_key().0)).is_ok());
    assert!(read(&oct).check_same_kinds(&keys()).is_ok());
    for (before, after) in [(&pem, &oct), (&oct, &pem)] {
        let error = read(before).check_same_kinds(&read(after)).unwrap_err().to_string();
        assert!(error.contains("restart the daemon"), "{error}");
    }
}

#[test]
fn everybody_is_text_and_never_a_list() {
    for (claim, everybody) in [
        (json!("*"), true),
        (json!(["*"]), false),
        (json!(["*", "bob"]), false),
        (json!("team-*"), false),
        (json!("alice"), false),
    ] {
        let grant = verify(&with("watch", claim.clone())).unwrap();
        assert_eq!(grant.watch.covers_everybody(), everybody, "{claim}");
        assert_eq!(grant.may_watch("mallory"), everybody, "{claim}");
        assert!(grant.may_watch("alice"), "users watch themselves: {claim}");
    }
    assert!(verify(&with("watch", json!("team-*"))).unwrap().may_watch("team-a"));
    let nobody = verify(&json!({"exp": NOW + 60})).unwrap();
    assert!(!nobody.may_watch("alice"));
}

#[test]
fn open_sockets_end_soon_after_expiry() {
    for (exp, ends) in [(NOW + 60, NOW + 65), (NOW - 10, NOW + 20)] {
        assert_eq!(verify(&with("exp", json!(exp))).unwrap().ends, ends);
    }
}

#[test]
fn ed25519_is_a_name_of_eddsa() {
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let key = EncodingKey::from_ed_der(&short_ed(&ed.serialize_der()));
    let x = base64_url(ed.public_key_raw());
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "alg": "Ed25519", "x": x});
    let jwks = json!({"keys": [jwk]}).to_string();
    let header = base64_url(br#"{"alg":"Ed25519"}"#);
    let message = format!("{header}.{}", base64_url(good().to_string().as_bytes()));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::EdDSA).unwrap();
    let token = format!("{message}.{signature}");
    for file in [ed.public_key_pem(), jwks] {
        let keys = KeySet::public(file.as_bytes(), Rules::default()).unwrap();
        assert!(keys.verify(&token, NOW).is_ok(), "{file}");
    }
    assert_eq!(keys().verify(&token, NOW), Err(other_than("HS256")));
}

/// A PKCS#8 of an Ed25519 key without its public half.
fn short_ed(der: &[u8]) -> Vec<u8> {
    let seed = der.windows(2).position(|two| two == [0x04, 0x20]).unwrap() + 2;
    let head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    [&head, &der[seed..seed + 32]].concat()
}

#[test]
fn jwks_selects_keys_by_id_and_skips_others() {
    use base64_url as b64;
    let jwks = json!({"keys": [
        {"kty": "oct", "kid": "old", "k": b64(SECRET), "alg": "HS256"},
        {"kty": "oct", "kid": "new", "k": b64(b"the new secret has thirty-two b.")},
        {"kty": "oct", "kid": "strong", "k": b64(SECRET), "alg": "HS512"},
        {"kty": "RSA", "kid": "enc", "use": "enc", "n": b64(&[7; 256]), "e": "AQAB"},
        {"kty": "RSA", "kid": "weak", "n": b64(&[7; 128]), "e": "AQAB"},
        {"kty": "oct", "kid": "short", "k": b64(b"too short a secret")},
    ]});
    let keys = KeySet::public(jwks.to_string().as_bytes(), Rules::default()).unwrap();
    assert_eq!(keys.names(), r#"HS256 with kid "old", HS256 with kid "new""#);
    let token = |kid: Option<&str>, secret: &[u8]| {
        let header = Header { kid: kid.map(str::to_owned), ..Header::default() };
        signed_with(&header, &good(), secret)
    };
    assert!(keys.verify(&token(Some("old"), SECRET), NOW).is_ok());
    assert!(keys.verify(&token(None, b"the new secret has thirty-two b."), NOW).is_ok());
    assert_eq!(keys.verify(&token(Some("new"), SECRET), NOW), Err(Invalid::Signature));
    assert_eq!(keys.verify(&token(Some("gone"), SECRET), NOW), Err(Invalid::UnknownKey));
}

#[test]
fn jwks_without_a_good_key_names_each_fault() {
    use base64_url as b64;
    let ec = |x: &[u8], y: &[u8]| json!({"kty": "EC", "crv": "P-256", "kid": "e", "x": b64(x), "y": b64(y)});
    for (key, fault) in [
        (json!({"kty": "oct", "kid": "s", "k": b64(b"short")}), "kid \"s\": its HS256 secret has 5 bytes"),
        (json!({"kty": "oct", "k": b64(SECRET), "alg": "HS512"}), "key 1: its alg is HS512"),
        (json!({"kty": "oct", "k": b64(X25519.as_bytes())}), "others may know its secret: it is a PEM file"),
        (json!({"kty": "oct", "k": b64(&[ED25519_HEAD, &[7; 32]].concat())}), "it is a key in DER"),
        (ec(&[7; 31], &[7; 32]), "kid \"e\": its x has 31 bytes in place of 32"),
        (ec(&[7; 32], &[7; 31]), "its y has 31 bytes in place of 32"),
        (ec(&[7; 33], &[7; 31]), "its x has 33 bytes"),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": b64(&[7; 31])}), "its x has 31 bytes"),
        (json!({"kty": "RSA", "n": b64(&[&[0; 200][..], &[7; 56]].concat()), "e": "AQAB"}), "2048 bits"),
        (
            json!({"kty": "EC", "crv": "secp256k1", "x": b64(&[7; 32]), "y": b64(&[7; 32])}),
            "not RSA, EC P-256",
        ),
    ] {
        let text = json!({"keys": [key]}).to_string();
        let Err(error) = KeySet::public(text.as_bytes(), Rules::default()) else { panic!("{fault}") };
        let error = format!("{error:#}");
        assert!(error.contains("no key that this daemon supports") && error.contains(fault), "{error}");
        assert!(!error.contains("0123456789abcdef"), "{error}");
    }
    let five = json!({"keys": vec![ec(&[7; 31], &[7; 32]); 5]}).to_string();
    let Err(error) = KeySet::public(five.as_bytes(), Rules::default()) else { panic!("all are short") };
    assert!(error.to_string().ends_with("; and 2 more"), "{error}");
}

fn base64_url(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let bits: Vec<u8> = bits.collect();
    let digit = |six: &[u8]| six.iter().fold(0, |n, bit| n << 1 | bit) << (6 - six.len());
    bits.chunks(6).map(|six| char::from(DIGITS[usize::from(digit(six))])).collect()
}

#[test]
fn pattern_compares_names_byte_by_byte() {
    for (pattern, user, covers) in [
        ("*", "whoever", false),
        ("*", "*", true),
        ("**", "*b", true),
        ("**", "b", false),
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
        assert_eq!(WatchClaim::of_list([pattern]).covers(user), covers, "{pattern} {user}");
    }
}

proptest! {
    #[test]
    fn arbitrary_key_files_and_tokens_never_panic(
        file in prop::collection::vec(any::<u8>(), 0..200),
        text in "(-----BEGIN PUBLIC KEY-----\n|\\{\"keys\":\\[)?.{0,80}",
        token in "[A-Za-z0-9_.\\-]{0,120}",
        any_token in ".{0,60}",
    ) {
        drop(KeySet::public(&file, Rules::default()));
        drop(KeySet::secret(&file, Rules::default()));
        drop(KeySet::public(text.as_bytes(), Rules::default()));
        prop_assert!(keys().verify(&token, NOW).is_err());
        prop_assert!(keys().verify(&any_token, NOW).is_err());
    }

    #[test]
    fn token_with_one_changed_byte_is_refused(at in 0..400usize, to in "[A-Za-z0-9_.\\-]") {
        let token = signed(&good());
        let at = at % token.len();
        let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
        // The last digit has unused bits, which must be 0.
        if changed != token {
            prop_assert!(keys().verify(&changed, NOW).is_err(), "{changed}");
        }
    }

    #[test]
    fn token_is_valid_from_nbf_to_exp(
        exp in NOW - 100..NOW + 100, nbf in proptest::option::of(NOW - 100..NOW + 100),
    ) {
        let claims = json!({"sub": "alice", "exp": exp, "nbf": nbf});
        let good = NOW < exp + LEEWAY_S && nbf.is_none_or(|nbf| nbf <= NOW + EARLY_LEEWAY_S);
        prop_assert_eq!(verify(&claims).is_ok(), good);
    }

    #[test]
    fn arbitrary_claims_are_read_or_refused(
        name in "sub|exp|nbf|iss|aud|watch", value in any_json(),
    ) {
        if let Ok(grant) = verify(&with(&name, value)) {
            prop_assert!(grant.user.is_none_or(|user| check_user(&user).is_ok()));
        }
    }

    #[test]
    fn patterns_cover_what_the_model_covers(
        user in "[a-c*é]{1,6}", list in prop::collection::vec("[a-c*é]{0,4}[*]?", 0..12),
    ) {
        let covered = WatchClaim::of_list(list.iter().map(String::as_str)).covers(&user);
        let model = list.iter().any(|text| {
            *text == user || text.len() > 1 && text.ends_with('*') && user.as_bytes().starts_with(&text.as_bytes()[..text.len() - 1])
        });
        // A name that itself ends with * is covered as a prefix.
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
