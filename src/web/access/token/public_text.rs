//! Texts that people put into a key file by mistake and that others may know. None of them may become a secret.

use super::key_bytes::{from_base64, from_hex, is_key, is_of_ssh};

const JWKS: &str = r#"it is a JSON list; a JWKS is {"keys":[…]}: put the list there"#;
const SSH: &str = "it is a key of SSH; convert it to PEM: ssh-keygen -e -m PKCS8 -f FILE";
const FAILURE: &str = "it is the answer of a server that failed; get the file again";

/// The texts of servers, proxies and programs in place of a file that they cannot deliver. A secret of random digits has no spaces.
const FAILURES: [&str; 34] = [
    "access denied",
    "an error occurred",
    "bad gateway",
    "bad request",
    "connection refused",
    "could not resolve host",
    "curl: (",
    "default backend",
    "error code:",
    "forbidden",
    "gateway time",
    "internal server error",
    "method not allowed",
    "no healthy upstream",
    "no route to host",
    "no such file",
    "no such host",
    "not authorized",
    "not available",
    "not found",
    "permission denied",
    "quota exceeded",
    "rate limit",
    "request failed",
    "service unavailable",
    "something went wrong",
    "stream timeout",
    "temporarily unavailable",
    "timed out",
    "too many requests",
    "try again",
    "unauthorized",
    "upstream connect error",
    "upstream request timeout",
];

/// Names a text that is no PEM and no JWKS.
pub(super) fn public_text(text: &str) -> Option<&'static str> {
    // Files of settings have quotes, and line breaks as \n.
    let text = text.trim().trim_matches(['"', '\'']).replace("\\n", "\n").replace("\\r", "");
    let text = text.trim();
    let first = text.split_ascii_whitespace().next().unwrap_or_default();
    if text.starts_with('[') {
        Some(JWKS)
    } else if text.starts_with('<') {
        Some("it is HTML or XML, perhaps the error page of a server; download the JWKS again")
    } else if first.starts_with("ssh-") || first.starts_with("ecdsa-sha2-") || text.starts_with("---- BEGIN")
    {
        Some(SSH)
    } else if first.starts_with("https://") || first.starts_with("http://") {
        Some("it is a URL; download the JWKS and name its file")
    } else if text.contains("PUBLIC KEY") || text.contains("-----BEGIN ") || text.contains("-----END ") {
        Some("it is a PEM file, or a part of one; name the whole file with --jwt-key")
    } else if is_failure(text) {
        Some(FAILURE)
    } else {
        encoded(text).or_else(|| encoded(without_name(text)?))
    }
}

/// The value of a setting, such as `JWT_KEY=MCow…`, `publicKey: MCow…` or `ed25519:MCow…`.
fn without_name(text: &str) -> Option<&str> {
    let (name, value) = text.split_once(['=', ':'])?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    (!name.is_empty() && name.bytes().all(is_name)).then(|| value.trim().trim_matches(['"', '\'']))
}

/// Is this the text of a failed HTTP request: a status of 400 or more and its reason, or words of a known failure?
fn is_failure(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let is_status = |status: &str| {
        let is_number = status.len() == 3 && status.bytes().all(|byte| byte.is_ascii_digit());
        is_number && matches!(status.as_bytes()[0], b'4' | b'5')
    };
    let (first, rest) = text.split_once([' ', ':', '\n']).unwrap_or((&text, ""));
    first.starts_with("http/")
        || is_status(first) && rest.contains(|char: char| char.is_ascii_alphabetic())
        || FAILURES.iter().any(|failure| text.contains(failure))
}

/// Names a key or another public file that is written in base64 or hex.
fn encoded(text: &str) -> Option<&'static str> {
    if from_hex(text.strip_prefix("0x").unwrap_or(text)).is_some_and(|bytes| is_key(&bytes)) {
        return Some(
            "it is the hex of a key; convert it to PEM: xxd -r -p FILE | openssl pkey -pubin -inform DER",
        );
    }
    if text.starts_with("eyJ") && text.matches('.').count() == 2 {
        return Some("it is a token (JWT), which its client knows; a secret is random: openssl rand -hex 32");
    }
    let bytes = from_base64(text)?;
    if is_key(&bytes) {
        return Some(
            "it is the base64 of a key without its PEM lines; add the lines -----BEGIN PUBLIC KEY----- and -----END PUBLIC KEY-----",
        );
    }
    if is_of_ssh(&bytes) {
        return Some(SSH);
    }
    let is_file = bytes.starts_with(b"-----BEGIN ") || bytes.starts_with(b"{\"");
    is_file.then_some("it is the base64 of a PEM file or of JSON; decode it: base64 -d FILE")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECP256K1: &str = "MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEub+vk2GeHFxqmyLWSXGpu8hm+22vG9MsyDa2W2GH7gpw0Zud5qbf+JQ6SgDuKyKQh3t54EtXf/uIsSBBqHM4Tw==";
    const ED448: &str =
        "MEMwBQYDK2VxAzoADdVYtPeQtcrVIshRG01JvqbTeM0xXrYC84sbWqgnTx2tGNMno4mU2Y0k0w7AjKj5CC2C3wRGwNOA";

    fn assert_named(text: &str, what: &str) {
        let named = public_text(text);
        assert!(named.is_some_and(|named| named.contains(what)), "{text}: {named:?}");
    }

    #[test]
    fn keys_in_base64_are_named() {
        for key in [
            SECP256K1,
            ED448,
            // X25519, and P-256 with a compressed point.
            "MCowBQYDK2VuAyEAqYGBQ27o3lu10manrK0+SpMqZJNeDPGwBhTriAxxBlw=",
            "MDkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDIgAChiwVjunyhtgzZsrjsd54jvtcWKRBuzNZrDQkWsrciXY=",
            // The first lines of longer ones: public keys of RSA in both forms, private keys, certificates.
            "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAzkYqszLQ1CXpfKHPbKRP",
            "MIIBCgKCAQEAzkYqszLQ1CXpfKHPbKRPGzU8/N1VZTsOqjY8Guu7GOP1+lOAPMdW",
            "MIIEowIBAAKCAQEAzkYqszLQ1CXpfKHPbKRPGzU8/N1VZTsOqjY8Guu7GOP1+lOA",
            "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQDORiqzMtDUJel8",
            "MHcCAQEEIMBAjdHtFW3URY5aeJ5HRhOvXSLWaKXXa943Biz4/TnvoAoGCCqGSM49",
            "MIIBbTCCAROgAwIBAgIULlLuTGWtE8cM/98k17INRfMTCnAwCgYIKoZIzj0EAwIw",
            "MIHFMG4CAQAwDDEKMAgGA1UEAwwBeDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IA",
            "MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgLyR+dP8ECewICCAAw",
        ] {
            let url_safe = key.replace('+', "-").replace('/', "_");
            for text in [
                key.to_owned(),
                format!("  {key}\n"),
                format!("\"{key}\""),
                format!("'{url_safe}'"),
                url_safe.trim_end_matches('=').to_owned(),
                format!("\"{}\\n{}\\n\"", &key[..40], &key[40..]),
            ] {
                assert_named(&text, "the base64 of a key");
            }
        }
    }

    #[test]
    fn other_encodings_of_public_files_are_named() {
        let hex: String = from_base64(SECP256K1).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_named(&hex, "the hex of a key");
        assert_named(&hex.to_uppercase().replace("30", "30:"), "the hex of a key");
        // {"keys":[ and -----BEGIN PUBLIC KEY-----
        assert_named("eyJrZXlzIjpbeyJrdHkiOiJSU0EiLCJuIjoiMDEyMzQ1Njc4OWFiY2RlZiJ9XX0=", "base64 -d");
        assert_named("LS0tLS1CRUdJTiBQVUJMSUMgS0VZLS0tLS0KTUZrd0V3WUhLb1pJemowQ0FRWUk=", "base64 -d");
        assert_named(&format!("0x{hex}"), "the hex of a key");
        for name in ["JWT_KEY=", "publicKey: ", "ed25519:", "key=\""] {
            assert_named(&format!("{name}{ED448}"), "the base64 of a key");
        }
        for part in [
            "MCowBQYDK2VwAyEA -----END PUBLIC KEY-----",
            "----BEGIN PUBLIC KEY----- MCowBQYDK2VwAyEA",
            "-----BEGIN%20PUBLIC%20KEY----- and -----END RSA PRIVATE KEY-----",
        ] {
            assert_named(part, "a PEM file, or a part of one");
        }
        assert_named("AAAAC3NzaC1lZDI1NTE5AAAAIGSI3zcnJzcnJzcnJzcnJzcnJzcnJzcnJzcnJzcn", "ssh-keygen");
        assert_named("\"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC7 me@example\"", "ssh-keygen");
        assert_named("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg", "token");
    }

    #[test]
    fn failures_of_servers_are_named() {
        for text in [
            "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
            "no healthy upstream, as Envoy answers it",
            "RBAC: access denied, as Envoy answers it",
            "default backend - 404, as an ingress answers",
            "404: Not Found, as a host of repositories answers",
            "404 page not found, as programs in Go answer it",
            "HTTP/1.1 502 Bad Gateway, with its first line",
            "503 Service Temporarily Unavailable, and so on",
            "curl: (6) Could not resolve host: issuer.example",
            "error code: 1020, as a content network answers",
            "Rate limit exceeded, as a gateway answers",
            "Something went wrong. Please try again later.",
            "The requested URL was not found on this server.",
            "cat: jwt-secret.txt: No such file or directory",
        ] {
            assert_named(text, "the answer of a server");
        }
    }

    #[test]
    fn secrets_are_not_taken_for_other_texts() {
        for secret in [
            "0123456789abcdef0123456789abcdef",
            "correct horse battery staple, and 4 more words",
            "5001 nights of rain over the old harbour town",
            "404404404404404404404404404404404404",
            "MIIthisIsNoBase64OfAKeyButASecretOfWords",
            "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
            "MFYwLWEtc2VjcmV0LXRoYXQtYmVnaW5zLWxpa2UtYS1rZXk=",
            "\"a-quoted-secret-of-more-than-32-characters\"",
            "name=0123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(public_text(secret), None, "{secret}");
        }
    }
}
