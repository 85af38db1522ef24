//! The file of `--revoked`: clients' tokens that are refused before they expire, by their `sub` or `jti`.

use super::token::Grant;
use anyhow::{Context, Result};
use std::collections::HashSet;

/// The values of the file. None, if there is no file.
#[derive(Debug, Default)]
pub(super) struct Revoked(HashSet<Box<str>>);

impl Revoked {
    /// Reads the file: one value a line. A line that begins with `#` is a comment, since no user name contains `#`. Spaces at
    /// either end do not count, here and in the token: a value that an editor has changed must not let the token pass.
    pub(super) fn parse(file: &[u8]) -> Result<Revoked> {
        let text = std::str::from_utf8(file).context("it is not UTF-8")?;
        let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
        Ok(Revoked(lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(Box::from).collect()))
    }

    /// Does it name the user or the id of this token?
    pub(super) fn names(&self, grant: &Grant) -> bool {
        let has = |value: &str| self.0.contains(value.trim());
        // Mostly empty, and each delivery asks.
        !self.0.is_empty() && (grant.user.as_deref().is_some_and(has) || grant.id.as_deref().is_some_and(has))
    }
}

#[cfg(test)]
mod tests {
    use super::super::token::WatchClaim;
    use super::*;

    fn grant(user: Option<&str>, id: Option<&str>) -> Grant {
        Grant {
            groups: Default::default(),
            user: user.map(Into::into),
            id: id.map(Into::into),
            watch: WatchClaim::default(),
            expires: 0,
            ends: 0,
            key: [0; 32],
        }
    }

    #[test]
    fn users_and_ids_are_revoked_line_by_line() {
        let revoked = Revoked::parse("\u{feff}alice\r\n# bob\n\n  t-7 \nal ice".as_bytes()).unwrap();
        for (user, id, named) in [
            (Some("alice"), None, true),
            (Some("alice "), None, true),
            (Some("al ice"), Some("x"), true),
            (Some("carol"), Some("t-7"), true),
            (None, Some("t-7"), true),
            (Some("t-7"), None, true),
            (Some("bob"), None, false),
            (Some("Alice"), None, false),
            (Some("carol"), Some("t-70"), false),
            (None, None, false),
        ] {
            assert_eq!(revoked.names(&grant(user, id)), named, "{user:?} {id:?}");
        }
        assert!(!Revoked::parse(b"").unwrap().names(&grant(Some("alice"), Some(""))));
        assert!(Revoked::parse(b"alice\n\xff").is_err(), "half a file would leave the other half valid");
    }
}
