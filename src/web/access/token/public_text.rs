//! Texts that people put into a key file by mistake and that others may know. None of them may become a secret.

/// Names a text that is no PEM and no JWKS.
pub(super) fn public_text(text: &str) -> Option<&'static str> {
    let first = text.split_ascii_whitespace().next().unwrap_or_default();
    if text.starts_with('[') {
        Some(r#"it is a JSON list; a JWKS is {"keys":[…]}: put the list there"#)
    } else if text.starts_with('<') {
        Some("it is HTML or XML, perhaps the error page of a server; download the JWKS again")
    } else if first.starts_with("ssh-") || first.starts_with("ecdsa-sha2-") || text.starts_with("---- BEGIN")
    {
        Some("it is a key of SSH; convert it to PEM: ssh-keygen -e -m PKCS8 -f FILE")
    } else if first.starts_with("https://") || first.starts_with("http://") {
        Some("it is a URL; download the JWKS and name its file")
    } else if is_bare_key(text) {
        Some(
            "it is the base64 of a key without its PEM lines; add the lines -----BEGIN PUBLIC KEY----- and -----END PUBLIC KEY-----",
        )
    } else {
        None
    }
}

/// Is this the base64 of a DER key or certificate? Each begins with a sequence of 48 to 65,535 bytes or, for Ed25519, of 42.
fn is_bare_key(text: &str) -> bool {
    let is_base64 =
        |byte: u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte) || byte.is_ascii_whitespace();
    text.bytes().all(is_base64)
        && ["MII", "MIG", "MCow", "MFkw", "MFIw", "MHYw"].iter().any(|head| text.starts_with(head))
}
