//! The names of keys and channels in one Redis database.

/// The names in one Redis database: which keys are presence keys, and which channels publish their events.
#[derive(Debug, Clone)]
pub struct Names {
    prefix: String,
    db: u8,
}

/// The first byte after the prefix in a key of the daemon itself. No user name can begin with it.
const OWN_MARK: u8 = b'#';

/// How the canary's key continues after [`OWN_MARK`]. A second `#` is in no valid name, so a daemon whose prefix is the
/// beginning of this daemon's does not take the key for a session.
const CANARY: &str = "canary:#:";

/// The same for the mark of a goodbye.
const LEFT: &str = "left:#:";

/// The operations that create or end a key (Redis documents them under "keyspace notifications").
/// `expire` is not among them: it doubles the traffic, and the probe at the deadline finds a key that
/// `EXPIRE` renewed. They need the class letters in [`CLASSES`].
const OPERATIONS: [&str; 11] = [
    "set",
    "new",
    "expired",
    "del",
    "evicted",
    "rename_from",
    "rename_to",
    "restore",
    "copy_to",
    "move_from",
    "move_to",
];

/// What `notify-keyspace-events` must contain: keyevents of string, generic, expired and evicted.
pub const CLASSES: &str = "E$gxe";

/// The class of `new`, which reports each key that any command creates. Redis 6 does not know the class, and the
/// daemon works without it.
pub const NEW_CLASS: char = 'n';

/// The operation of the channel on which the daemon publishes its fences. The channel's name begins like that of
/// a keyevent channel, so that one ACL rule (`&__keyevent@*`) covers both.
pub(super) const FENCE_OPERATION: &str = "keybeat-fence";

impl Names {
    /// The names of database `db` with `prefix`.
    pub fn new(prefix: &str, db: u8) -> Names {
        Names { prefix: prefix.to_owned(), db }
    }

    /// The Redis key of a presence key.
    pub fn redis_key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The key without its prefix; `None` for a key that is not presence, or the own key of any daemon.
    pub fn strip<'a>(&self, redis_key: &'a [u8]) -> Option<&'a [u8]> {
        let name = redis_key.strip_prefix(self.prefix.as_bytes())?;
        let mark = name.iter().position(|&byte| byte == OWN_MARK);
        let own = mark.is_some_and(|at| {
            at == 0 || [CANARY, LEFT].iter().any(|own| name[at + 1..].starts_with(own.as_bytes()))
        });
        (!own).then_some(name)
    }

    /// The pattern of `SCAN … MATCH` for keys whose name after the prefix matches `pattern`, a glob.
    pub fn scan_pattern(&self, pattern: &str) -> String {
        glob_escaped(&self.prefix) + pattern
    }

    /// The key that the daemon named `daemon` renews to verify the event stream.
    pub fn canary_key(&self, daemon: &str) -> String {
        format!("{}{}{CANARY}{daemon}", self.prefix, OWN_MARK as char)
    }

    /// The key by which a daemon marks that this session has said goodbye.
    pub fn left_key(&self, key: &str) -> String {
        format!("{}{}{LEFT}{key}", self.prefix, OWN_MARK as char)
    }

    /// All channels to subscribe to. The fences' channel is the last: once a fence arrives, the other
    /// subscriptions are active too.
    pub fn channels(&self) -> Vec<String> {
        OPERATIONS.iter().chain([&FENCE_OPERATION]).map(|name| self.channel(name)).collect()
    }

    /// The channel of the fences.
    pub fn fence_channel(&self) -> String {
        self.channel(FENCE_OPERATION)
    }

    fn channel(&self, operation: &str) -> String {
        format!("__keyevent@{}__:{operation}", self.db)
    }
}

/// A glob that matches only this text.
pub(super) fn glob_escaped(text: &str) -> String {
    let mut glob = String::with_capacity(text.len());
    for c in text.chars() {
        if "*?[]\\^-".contains(c) {
            glob.push('\\');
        }
        glob.push(c);
    }
    glob
}

/// The classes of [`CLASSES`] that a server's setting lacks. `A` stands for many of them.
pub fn missing_classes(setting: &str) -> String {
    let has =
        |class: char| setting.contains(class) || (setting.contains('A') && "g$lshzxetd".contains(class));
    CLASSES.chars().filter(|&class| !has(class)).collect()
}

/// The classes that the daemon uses and that a server's setting had and no longer has.
pub(super) fn lost_classes(held: &str, now: &str) -> String {
    let had = missing_classes(held);
    let lost = missing_classes(now).chars().filter(|&class| !had.contains(class)).collect::<String>();
    if lacks_new(now) && !lacks_new(held) { lost + &NEW_CLASS.to_string() } else { lost }
}

/// Whether a server's setting lacks [`NEW_CLASS`]. `A` does not include it.
pub fn lacks_new(setting: &str) -> bool {
    !setting.contains(NEW_CLASS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_prefixed_keys_are_presence_keys() {
        let names = Names::new("presence:", 3);
        assert_eq!(names.strip(b"presence:alice#tab"), Some(&b"alice#tab"[..]));
        assert_eq!(names.strip(b"other:alice"), None);
        assert_eq!(names.strip(names.canary_key("x").as_bytes()), None);
        let other = Names::new("presence:eu:", 3).canary_key("x:17");
        assert_eq!(names.strip(other.as_bytes()), None, "of a daemon with a longer prefix");
        let left = Names::new("presence:eu:", 3).left_key("alice#tab");
        assert_eq!(names.strip(left.as_bytes()), None, "a goodbye at such a daemon");
        assert!(names.strip(b"presence:eu:#canary:x").is_some(), "a user may have such a session");
        assert_eq!(names.strip(b"presence:"), Some(&b""[..]), "not a name; the detector counts it");
        assert_eq!(names.channels()[0], "__keyevent@3__:set");
    }

    #[test]
    fn glob_characters_of_prefix_are_escaped() {
        assert_eq!(Names::new("p[1]*:", 0).scan_pattern("a*"), r"p\[1\]\*:a*");
    }

    #[test]
    fn missing_classes_are_found() {
        for (setting, missing) in
            [("", "E$gxe"), ("KEA", ""), ("Ex", "$ge"), ("A", "E"), ("g$xeE", ""), ("Kx", "E$ge")]
        {
            assert_eq!(missing_classes(setting), missing, "{setting}");
        }
    }

    #[test]
    fn lost_classes_are_found() {
        for (held, now, lost) in [
            ("KEAn", "E$gxen", ""),
            ("E$gxe", "E$x", "ge"),
            ("E$gxen", "E$gxe", "n"),
            ("E$", "KEA", ""),
            ("", "", ""),
        ] {
            assert_eq!(lost_classes(held, now), lost, "{held} {now}");
        }
    }
}
