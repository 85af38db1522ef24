//! The secret of webhooks, and signatures by the Standard Webhooks specification
//! (<https://github.com/standard-webhooks/standard-webhooks>).

use anyhow::{Context, Result, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use std::path::Path;

/// How a secret begins.
const PREFIX: &str = "whsec_";
/// The length of a secret in bytes, as the specification has it.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// See the module's head.
pub struct Secret(EncodingKey);

impl Secret {
    /// Reads the file of `--webhook-secret`.
    ///
    /// # Errors
    /// The file cannot be read, or it is no secret. The text does not contain the secret.
    pub fn read(path: &Path) -> Result<Secret> {
        let name = || format!("--webhook-secret {}", path.display());
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", name()))?;
        Secret::parse(&text).with_context(|| format!("{} cannot be used", name()))
    }

    fn parse(text: &str) -> Result<Secret> {
        const MAKE: &str = "make one: echo \"whsec_$(openssl rand -base64 32)\"";
        let line = text.trim_end_matches(['\n', '\r']);
        let base64 =
            line.strip_prefix(PREFIX).with_context(|| format!("it does not begin with {PREFIX}; {MAKE}"))?;
        let key = EncodingKey::from_base64_secret(base64)
            .ok()
            .with_context(|| format!("what follows {PREFIX} is not base64; {MAKE}"))?;
        let bytes = base64.trim_end_matches('=').len() * 3 / 4;
        ensure!(
            BYTES.contains(&bytes),
            "its secret has {bytes} bytes; {} to {} are allowed; {MAKE}",
            BYTES.start(),
            BYTES.end()
        );
        Ok(Secret(key))
    }

    /// The value of `webhook-signature` for a message.
    ///
    /// # Errors
    /// Never, with a secret that was read.
    pub(super) fn sign(&self, id: &str, timestamp: u64, body: &str) -> Result<String> {
        let signed = format!("{id}.{timestamp}.{body}");
        let url_safe = crypto::sign(signed.as_bytes(), &self.0, Algorithm::HS256)?;
        let mut base64 = url_safe.replace('-', "+").replace('_', "/");
        while base64.len() % 4 > 0 {
            base64.push('=');
        }
        Ok(format!("v1,{base64}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_is_that_of_the_specification() {
        // The example of the reference libraries.
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let signed = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn unusable_secret_is_not_repeated() {
        for text in ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_hunter2!", "whsec_aHVudGVyMg=="] {
            let why = format!("{:#}", Secret::parse(text).err().unwrap());
            assert!(why.contains("openssl") && !why.contains("hunter2") && !why.contains("aHVu"), "{why}");
        }
    }
}
