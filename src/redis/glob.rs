//! Globs as Redis matches them (`stringmatchlen` in its util.c): `*`, `?`, `[a-c]`, `[^a]`, and `\` before a literal.

/// A glob for names.
#[derive(Debug, Clone)]
pub struct Glob(String);

const SPECIAL: &str = "*?[]\\^-";

impl Glob {
    /// A glob as a user types it.
    pub fn new(text: &str) -> Glob {
        Glob(text.to_owned())
    }

    /// A glob that matches every name.
    pub fn any() -> Glob {
        Glob::new("*")
    }

    /// As typed.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The literal with which every matching name begins, as far as no character of it is special.
    pub fn literal_start(&self) -> &str {
        let end = self.0.find(|c| SPECIAL.contains(c) && c != '-').unwrap_or(self.0.len());
        &self.0[..end]
    }

    /// Whether it matches the whole of this name.
    pub fn matches(&self, name: &[u8]) -> bool {
        let glob = self.0.as_bytes();
        let (mut at, mut read) = (0, 0);
        // Where the last star is, and how much of the name it takes.
        let mut star = None;
        loop {
            if glob.get(at) == Some(&b'*') {
                star = Some((at, read));
                at += 1;
            } else if read == name.len() {
                return at == glob.len();
            } else if let Some(next) = glob.get(at).and_then(|_| matches_one(&glob[at..], name[read])) {
                (at, read) = (at + next, read + 1);
            } else if let Some((starred, taken)) = star {
                star = Some((starred, taken + 1));
                (at, read) = (starred + 1, taken + 1);
            } else {
                return false;
            }
        }
    }
}

/// How many bytes of the glob match this byte; `None` if they do not.
fn matches_one(glob: &[u8], byte: u8) -> Option<usize> {
    match glob {
        [b'?', ..] => Some(1),
        [b'[', class @ ..] => {
            let (length, found) = class_has(class, byte);
            found.then_some(1 + length)
        }
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// The length of a class with its closing bracket, and whether the class has this byte. Redis reads a class without a
/// closing bracket to the end.
fn class_has(class: &[u8], byte: u8) -> (usize, bool) {
    let negated = class.first() == Some(&b'^');
    let (mut at, mut found) = (usize::from(negated), false);
    loop {
        match class[at..] {
            [] => return (at, found != negated),
            [b']', ..] => return (at + 1, found != negated),
            [b'\\', literal, ..] => {
                found |= literal == byte;
                at += 2;
            }
            [from, b'-', to, ..] => {
                found |= (from.min(to)..=from.max(to)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= literal == byte;
                at += 1;
            }
        }
    }
}

/// A glob that matches only this text.
pub(super) fn glob_escaped(text: &str) -> String {
    let mut glob = String::with_capacity(text.len());
    for c in text.chars() {
        if SPECIAL.contains(c) {
            glob.push('\\');
        }
        glob.push(c);
    }
    glob
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn globs_match_as_in_redis() {
        for (glob, name, matches) in [
            ("*", "", true),
            ("a*", "alice", true),
            ("*#*", "alice#tab", true),
            ("*#*", "alice", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcdef", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("[^a]x", "bx", true),
            ("[^a]x", "ax", false),
            ("[a-", "-", true),
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(Glob::new(glob).matches(name.as_bytes()), matches, "{glob} {name}");
        }
        assert_eq!(Glob::new("team-a*").literal_start(), "team-a");
        assert_eq!(Glob::new(r"te\am").literal_start(), "te");
    }

    proptest! {
        #[test]
        fn escaped_text_matches_only_itself(text in ".{0,12}", other in ".{0,12}") {
            let glob = Glob::new(&glob_escaped(&text));
            prop_assert!(glob.matches(text.as_bytes()));
            prop_assert_eq!(glob.matches(other.as_bytes()), text == other);
        }

        #[test]
        fn any_glob_ends(glob in r"[ab*?\[\]\\^-]{0,12}", name in "[ab]{0,12}") {
            let glob = Glob::new(&glob);
            let starts = name.starts_with(glob.literal_start());
            prop_assert!(!glob.matches(name.as_bytes()) || starts);
        }
    }
}
