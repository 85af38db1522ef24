//! The names of the keys with statuses and groups.

use crate::presence::{KeyPattern, Name, check_user};
use crate::redis::glob::glob_escaped;
use std::fmt;

/// What a key of the directory is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The status of a user: `presence-status:alice`.
    Status,
    /// The members of a group: `presence-group:team-a`.
    Group,
}

/// The prefixes of both kinds of keys. A kind with an empty prefix is off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryNames {
    /// Of the keys with statuses.
    pub status: String,
    /// Of the keys with groups.
    pub group: String,
}

/// Why two prefixes cannot be used together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    flag: &'static str,
    prefix: String,
    other: String,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Overlap { flag, prefix, other } = self;
        write!(
            f,
            "{flag} {prefix:?} overlaps with {other}: a key could belong to both; choose a prefix of which neither begins \
             with the other"
        )
    }
}

impl DirectoryNames {
    /// The prefix of one kind; `None` if that kind is off.
    pub fn prefix(&self, kind: Kind) -> Option<&str> {
        let prefix = match kind {
            Kind::Status => &self.status,
            Kind::Group => &self.group,
        };
        (!prefix.is_empty()).then_some(prefix)
    }

    /// The prefixes in use.
    pub fn prefixes(&self) -> impl Iterator<Item = &str> {
        [Kind::Status, Kind::Group].into_iter().filter_map(|kind| self.prefix(kind))
    }

    /// The key of a user's status, or of a group.
    pub(in crate::redis) fn key(&self, kind: Kind, name: &str) -> String {
        format!("{}{name}", self.prefix(kind).unwrap_or_default())
    }

    /// The kind of a key, and the user or group in it; `None` for any other key. The error is that the name breaks the rules of
    /// user names, which are those of groups too.
    pub(super) fn parse(&self, key: &[u8]) -> Option<Result<(Kind, Name), ()>> {
        let of = |kind| Some((kind, key.strip_prefix(self.prefix(kind)?.as_bytes())?));
        let (kind, name) = of(Kind::Status).or_else(|| of(Kind::Group))?;
        let name = std::str::from_utf8(name).ok().filter(|name| check_user(name).is_ok());
        Some(name.map(|name| (kind, name.into())).ok_or(()))
    }

    /// The pattern of `SCAN … MATCH` that all keys with a status match.
    pub(super) fn status_glob(&self) -> Option<String> {
        Some(glob_escaped(self.prefix(Kind::Status)?) + "*")
    }

    /// The faults of these prefixes with this pattern of presence keys: a server tracks no two prefixes of which one begins with
    /// the other, and a key must not be presence and a status at once.
    pub fn overlaps(&self, pattern: &KeyPattern) -> Vec<Overlap> {
        let overlap = |one: &str, other: &str| one.starts_with(other) || other.starts_with(one);
        let is_presence = |prefix: &str| {
            pattern.name(format!("{prefix}x").as_bytes()).is_some() || pattern.before().starts_with(prefix)
        };
        let kinds = [("--status-prefix", &self.status), ("--group-prefix", &self.group)];
        let used = kinds.into_iter().filter(|(_, prefix)| !prefix.is_empty());
        let mut faults: Vec<Overlap> = used
            .filter(|(_, prefix)| is_presence(prefix))
            .map(|(flag, prefix)| {
                let other = format!("the pattern of the presence keys, {pattern}");
                Overlap { flag, prefix: prefix.clone(), other }
            })
            .collect();
        if !self.status.is_empty() && !self.group.is_empty() && overlap(&self.status, &self.group) {
            let other = format!("--group-prefix {:?}", self.group);
            faults.push(Overlap { flag: "--status-prefix", prefix: self.status.clone(), other });
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(status: &str, group: &str) -> DirectoryNames {
        DirectoryNames { status: status.into(), group: group.into() }
    }

    #[test]
    fn keys_have_a_kind_and_a_valid_name() {
        let both = names("s[1]:", "g:");
        assert_eq!(both.key(Kind::Status, "alice"), "s[1]:alice");
        assert_eq!(both.parse(b"s[1]:alice"), Some(Ok((Kind::Status, "alice".into()))));
        assert_eq!(both.parse(b"g:team a"), Some(Ok((Kind::Group, "team a".into()))));
        assert_eq!(both.parse(b"h:team"), None);
        for invalid in [&b"g:"[..], b"g:a#b", b"g:a\nb", b"g:\xff"] {
            assert_eq!(both.parse(invalid), Some(Err(())), "{invalid:?}");
        }
        assert_eq!(both.status_glob().as_deref(), Some(r"s\[1\]:*"));
        let off = names("", "");
        assert_eq!((off.parse(b"s:alice"), off.status_glob(), off.prefixes().count()), (None, None, 0));
    }

    #[test]
    fn overlapping_prefixes_are_faults() {
        let faults =
            |status, group, pattern: &str| names(status, group).overlaps(&pattern.parse().unwrap()).len();
        let usual = "presence:<user>[#<session>]";
        assert_eq!(faults("presence-status:", "presence-group:", usual), 0);
        assert_eq!(faults("presence:", "presence:g:", usual), 3);
        assert_eq!(faults("pre", "g:", usual), 1, "presence keys begin so");
        assert_eq!(faults("", "", usual), 0, "both are off");
        assert_eq!(faults("s:", "g:", "s:<user>"), 1);
        assert_eq!(faults("s:", "g:", "s:<user>:online"), 1, "presence keys begin so");
        assert_eq!(faults("s:a", "g:", "s:<user>:online"), 0, "only keys with this ending are presence");
    }
}
