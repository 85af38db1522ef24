//! The password of a Redis in a file, so that it is in no URL and can change while the program runs.

use anyhow::{Context, Result, ensure};
use std::path::PathBuf;

/// A file that is read at each connection attempt.
#[derive(Debug, Clone)]
pub struct PasswordFile(pub PathBuf);

impl PasswordFile {
    /// The password, without one line break at its end.
    ///
    /// # Errors
    /// The file cannot be read, or it has no password. The text does not contain the password.
    pub fn read(&self) -> Result<String> {
        let name = || format!("--redis-password-file {}", self.0.display());
        let text = std::fs::read(&self.0).with_context(|| format!("{} cannot be read", name()))?;
        let text = String::from_utf8(text).ok().with_context(|| format!("{} is not UTF-8", name()))?;
        let password = text.strip_suffix('\n').unwrap_or(&text);
        let password = password.strip_suffix('\r').unwrap_or(password);
        ensure!(!password.is_empty(), "{} is empty; write the password into it", name());
        Ok(password.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = PasswordFile(folder.path().join("password"));
        for (text, password) in
            [("secret", "secret"), ("secret\n", "secret"), ("secret\r\n", "secret"), (" s e\n\n", " s e\n")]
        {
            std::fs::write(&file.0, text).unwrap();
            assert_eq!(file.read().unwrap(), password, "{text:?}");
        }
        for bad in [&b""[..], b"\n", b"hunter2\xff"] {
            std::fs::write(&file.0, bad).unwrap();
            let why = format!("{:#}", file.read().unwrap_err());
            assert!(why.contains("--redis-password-file") && !why.contains("hunter2"), "{why}");
        }
    }
}
