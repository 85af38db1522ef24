//! The names of a stream and of the keys next to it.

use crate::presence::KeyPattern;
use crate::redis::cluster::slot;
use crate::redis::directory::DirectoryNames;

/// A stream and its own keys. Their names begin with the stream's, as a hash tag if it has none, so that all lie in its slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamNames {
    stream: String,
    base: String,
}

impl StreamNames {
    /// The names for a stream of this name.
    ///
    /// # Errors
    /// The name cannot be used with these other keys; the text says why.
    pub fn new(
        stream: &str,
        pattern: &KeyPattern,
        directory: &DirectoryNames,
    ) -> Result<StreamNames, String> {
        if stream.is_empty() {
            return Err("--stream '' is empty; name a stream, such as presence-events".into());
        }
        let tagged =
            stream.find('{').is_some_and(|open| stream[open + 1..].find('}').is_some_and(|at| at > 0));
        let base = if tagged { stream.to_owned() } else { format!("{{{stream}}}") };
        let names = StreamNames { stream: stream.to_owned(), base };
        if slot(names.lease().as_bytes()) != slot(stream.as_bytes()) {
            return Err(format!(
                "--stream {stream:?} has a brace that begins no hash tag; choose a name without braces, or one such as app{{events}}"
            ));
        }
        let own = |key: &str| key.starts_with(&format!("{}#", pattern.before()));
        let keys = [stream.to_owned(), names.lease(), names.bucket(0)];
        if keys.iter().any(|key| own(key) || pattern.name(key.as_bytes()).is_some()) {
            return Err(format!(
                "--stream {stream:?} matches the pattern of the presence keys, {pattern}; choose another name"
            ));
        }
        let overlap = directory.prefixes().find(|prefix| keys.iter().any(|key| key.starts_with(*prefix)));
        match overlap {
            Some(prefix) => Err(format!(
                "--stream {stream:?} begins with {prefix:?}, the prefix of statuses or groups; choose another name"
            )),
            None => Ok(names),
        }
    }

    /// The stream.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The key of the writer's lease.
    pub(super) fn lease(&self) -> String {
        format!("{}#writer", self.base)
    }

    /// The SET of the users in a bucket whom the stream says are online.
    pub(super) fn bucket(&self, bucket: usize) -> String {
        format!("{}#online:{bucket}", self.base)
    }

    /// The key of the lease of a consumer group.
    pub(super) fn group(&self, group: &str) -> String {
        format!("{}#group:{group}", self.base)
    }

    /// A key for doctor's trials.
    pub(super) fn doctor(&self) -> String {
        format!("{}#doctor", self.base)
    }

    /// Globs of all these keys, as an ACL has them.
    pub fn globs(&self) -> [String; 2] {
        [self.stream.clone(), format!("{}#*", self.base)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(stream: &str, pattern: &str) -> Result<StreamNames, String> {
        let directory = DirectoryNames { status: "presence-status:".into(), group: "presence-group:".into() };
        StreamNames::new(stream, &pattern.parse().unwrap(), &directory)
    }

    #[test]
    fn keys_lie_in_the_slot_of_the_stream() {
        for (stream, lease) in [
            ("events", "{events}#writer"),
            ("app{events}:1", "app{events}:1#writer"),
            ("a{b", "{a{b}#writer"),
        ] {
            let names = names(stream, "presence:<user>[#<session>]").unwrap();
            assert_eq!(names.lease(), lease);
            assert_eq!(slot(names.bucket(7).as_bytes()), slot(stream.as_bytes()), "{stream}");
        }
    }

    #[test]
    fn unusable_names_are_refused() {
        let usual = "presence:<user>[#<session>]";
        for (stream, pattern) in [
            ("", usual),
            ("a}b", usual),
            ("{}a", usual),
            ("presence:events", usual),
            ("presence:#events", usual),
            ("presence-status:x", usual),
            ("events", "{<user>}[#<session>]"),
        ] {
            assert!(names(stream, pattern).is_err(), "{stream} {pattern}");
        }
        assert!(names("presence-events", usual).is_ok());
    }
}
