//! `--status-prefix` and `--group-prefix`: the keys with statuses and groups.

use super::Usage;
use crate::config::{DEFAULT_GROUP_PREFIX, DEFAULT_STATUS_PREFIX};
use crate::presence::KeyPattern;
use crate::redis::directory::DirectoryNames;
use clap::Parser;
use tracing::warn;

#[derive(Parser, Clone)]
pub struct DirectoryArgs {
    /// Prefix of the keys with users' statuses; '' switches statuses off [default: presence-status:]
    #[arg(long, env = "KEYBEAT_STATUS_PREFIX", value_name = "TEXT")]
    status_prefix: Option<String>,
    /// Prefix of the keys with groups, which are SETs of users; '' switches groups off [default: presence-group:]
    #[arg(long, env = "KEYBEAT_GROUP_PREFIX", value_name = "TEXT")]
    group_prefix: Option<String>,
}

impl DirectoryArgs {
    fn typed(&self) -> DirectoryNames {
        let typed = |prefix: &Option<String>| prefix.clone().unwrap_or_default();
        DirectoryNames { status: typed(&self.status_prefix), group: typed(&self.group_prefix) }
    }

    /// The prefixes. A default that overlaps with a prefix that somebody chose is switched off.
    pub fn names(&self, pattern: &KeyPattern) -> DirectoryNames {
        let mut names = self.typed();
        let fits = |with: &DirectoryNames, names: &DirectoryNames| {
            with.overlaps(pattern).len() == names.overlaps(pattern).len()
        };
        if self.status_prefix.is_none() {
            let with = DirectoryNames { status: DEFAULT_STATUS_PREFIX.into(), ..names.clone() };
            names = if fits(&with, &names) { with } else { names };
        }
        if self.group_prefix.is_none() {
            let with = DirectoryNames { group: DEFAULT_GROUP_PREFIX.into(), ..names.clone() };
            names = if fits(&with, &names) { with } else { names };
        }
        names
    }

    /// Each reason why these prefixes cannot be used.
    pub fn faults(&self, pattern: &KeyPattern) -> Vec<Usage> {
        self.typed().overlaps(pattern).iter().map(|overlap| Usage(overlap.to_string())).collect()
    }

    /// Warns of a default that is switched off.
    pub fn warn(&self, pattern: &KeyPattern) {
        let names = self.names(pattern);
        for (flag, default, typed, used) in [
            ("--status-prefix", DEFAULT_STATUS_PREFIX, &self.status_prefix, &names.status),
            ("--group-prefix", DEFAULT_GROUP_PREFIX, &self.group_prefix, &names.group),
        ] {
            if typed.is_none() && used.is_empty() {
                warn!(
                    "{flag} is off: its default, {default}, overlaps with other keys of the daemon; name another prefix"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_default_is_switched_off() {
        let names = |args: &[&str], pattern: &str| {
            let args = DirectoryArgs::parse_from([&["keybeat"], args].concat());
            let names = args.names(&pattern.parse().unwrap());
            (names.status, names.group, args.faults(&pattern.parse().unwrap()).len())
        };
        let (status, group) = (DEFAULT_STATUS_PREFIX.to_owned(), DEFAULT_GROUP_PREFIX.to_owned());
        let usual = "presence:<user>[#<session>]";
        assert_eq!(names(&[], usual), (status.clone(), group.clone(), 0));
        assert_eq!(names(&["--status-prefix", ""], usual), (String::new(), group, 0));
        assert_eq!(names(&[], "presence<user>[#<session>]"), (String::new(), String::new(), 0));
        assert_eq!(names(&["--group-prefix", "presence-"], usual), (String::new(), "presence-".into(), 0));
        assert_eq!(names(&["--group-prefix", "presence:g:"], usual), (status, "presence:g:".into(), 1));
    }
}
