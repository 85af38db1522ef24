//! Recognises the bytes of keys and certificates, however a text writes them: in base64 or in hex.

use crate::certificates::{DerValues, der_header};

/// Tags of DER.
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// The object identifiers of public keys on an elliptic curve, and of the curve P-256 (RFC 5480).
const EC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// How the identifiers of the algorithms of keys begin: RSA and elliptic curves, Ed25519 and Ed448, those of NIST.
const KEY_ALGORITHMS: [&[u8]; 3] = [&[0x2a, 0x86, 0x48], &[0x2b, 0x65], &[0x60, 0x86, 0x48, 0x01, 0x65]];

/// Is this DER, or the beginning of it, a key or a certificate? A random secret is none: more than three of its bytes would have to
/// fit.
pub(super) fn is_key(der: &[u8]) -> bool {
    let Some((SEQUENCE, _, body)) = der_header(der) else { return false };
    match der_header(body) {
        // A public key, or a private one that a password protects: its algorithm comes first. A certificate: its content does.
        Some((SEQUENCE, _, first)) => match der_header(first) {
            Some((IDENTIFIER, _, algorithm)) => {
                KEY_ALGORITHMS.iter().any(|known| algorithm.starts_with(known))
            }
            Some((VERSION, 3, version)) => version.starts_with(&[INTEGER, 1]),
            Some((INTEGER, 1..=21, _)) => true,
            _ => false,
        },
        // A private key: its version comes first.
        Some((INTEGER, 1, [0 | 1, INTEGER | OCTETS | SEQUENCE, ..])) => true,
        // The modulus of a public RSA key.
        Some((INTEGER, 128.., [0, ..])) => true,
        _ => false,
    }
}

/// Is this the DER of a public key on the curve P-256?
pub(super) fn is_on_p256(der: &[u8]) -> bool {
    let algorithm = DerValues::new(der).take(SEQUENCE).and_then(|key| DerValues::new(key).take(SEQUENCE));
    let mut parts = DerValues::new(algorithm.unwrap_or_default());
    parts.take(IDENTIFIER) == Some(EC_KEY) && parts.take(IDENTIFIER) == Some(P256)
}

/// The length of the modulus of a public RSA key (RFC 8017, A.1.1), in bytes.
pub(super) fn modulus_bytes(der: &[u8]) -> usize {
    let modulus = DerValues::new(der).take(SEQUENCE).and_then(|key| DerValues::new(key).take(INTEGER));
    unsigned_bytes(modulus.unwrap_or_default())
}

/// The length of a number without the zeros before it, in bytes.
pub(super) fn unsigned_bytes(number: &[u8]) -> usize {
    number.iter().skip_while(|byte| **byte == 0).count()
}

/// Is this a public key as SSH writes it: the length of its algorithm's name, then the name?
pub(super) fn is_of_ssh(bytes: &[u8]) -> bool {
    let Some(([0, 0, 0, _], name)) = bytes.split_first_chunk() else { return false };
    [&b"ssh-"[..], b"ecdsa-sha2-", b"sk-"].iter().any(|known| name.starts_with(known))
}

/// The bytes of a base64 text in either alphabet, with or without padding. Spaces do not count.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    from_digits(text, 6, |byte| {
        Some(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        })
    })
}

/// The bytes of a hex text. Spaces and colons do not count.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    from_digits(&text.replace(':', " "), 4, |byte| {
        char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
    })
}

/// The bytes whose bits are these digits, each of so many bits. Bits that fill no byte are dropped.
fn from_digits(text: &str, bits: u32, digit: impl Fn(u8) -> Option<u8>) -> Option<Vec<u8>> {
    let (mut bytes, mut held, mut count) = (Vec::with_capacity(text.len()), 0_u32, 0);
    let digits = text.trim_ascii_end().trim_end_matches('=').bytes();
    for byte in digits.filter(|byte| !byte.is_ascii_whitespace()) {
        held = held << bits | u32::from(digit(byte)?);
        count += bits;
        if count >= 8 {
            count -= 8;
            bytes.extend(u8::try_from(held >> count));
            held &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn digits_become_their_bytes() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("TQ==", b"M"),
            ("TWE=", b"Ma"),
            ("TWFu", b"Man"),
            ("TW\r\nFu \n", b"Man"),
            ("TQ", b"M"),
            ("-_+/", &[0xfb, 0xff, 0xbf]),
        ] {
            assert_eq!(from_base64(text).as_deref(), Some(bytes), "{text}");
        }
        assert_eq!(from_hex("4D:61\n6e").as_deref(), Some(&b"Man"[..]));
        for other in ["TW=u", "T.Q", "né"] {
            assert_eq!(from_base64(other), None, "{other}");
        }
        assert_eq!(from_hex("4g"), None);
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_key(bytes in prop::collection::vec(any::<u8>(), 32..80)) {
            prop_assert!(!is_key(&bytes) && !is_on_p256(&bytes) && !is_of_ssh(&bytes), "{bytes:?}");
        }

        #[test]
        fn any_bytes_are_read_or_refused(begun in prop::collection::vec(0_u8..0x90, 0..12), text in ".{0,40}") {
            is_key(&[&[SEQUENCE][..], &begun].concat());
            is_on_p256(&begun);
            is_of_ssh(&begun);
            from_base64(&text);
            from_hex(&text);
        }
    }
}
