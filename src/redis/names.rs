//! The names of keys and channels in one Redis database.

use crate::presence::{KeyPattern, Renewals};
use crate::redis::glob::{Glob, glob_escaped};
use std::borrow::Cow;

/// The names in one Redis database: which keys are presence keys, and which channels publish their events.
#[derive(Debug, Clone)]
pub struct Names {
    pattern: KeyPattern,
    db: u8,
}

/// The first byte in a key of the daemon itself after the literal before `<user>`. No user name can begin with it.
const OWN_MARK: u8 = b'#';

/// How the canary's key continues after [`OWN_MARK`]. A second `#` is in no valid name, so a daemon whose prefix is the
/// beginning of this daemon's does not take the key for a session.
const CANARY: &str = "canary:#:";

/// The same for the mark of a goodbye.
const LEFT: &str = "left:#:";

/// The same for the lease.
const LEASE: &str = "lease:#:";

/// The same for the times when users were last seen; the number of the bucket follows.
const SEEN: &str = "seen:#:";

/// The operations that create or end a key (Redis documents them under "keyspace notifications"). They need the class
/// letters of [`classes`].
const CHANGES: [&str; 10] = [
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

/// The classes that `notify-keyspace-events` must contain by default: keyevents of string, generic, expired and evicted.
pub const CLASSES: &str = "E$gxe";

/// The same for a daemon that does not listen to `set`.
const CLASSES_WITHOUT_SET: &str = "Egxe";

/// The class of `new`, which reports each key that any command creates. Redis 6 does not know the class, and the
/// daemon works without it.
pub const NEW_CLASS: char = 'n';

/// The operation of the channel on which the daemon publishes its fences. The channel's name begins like that of
/// a keyevent channel, so that one ACL rule (`&__keyevent@*`) covers both.
pub(super) const FENCE_OPERATION: &str = "keybeat-fence";

/// The operation of the daemons' channel; the literal parts of the pattern follow. Its name, too, begins like that of a keyevent channel.
const DAEMONS_OPERATION: &str = "keybeat-daemons:";

impl Names {
    /// The names of database `db` whose presence keys have this pattern.
    pub fn new(pattern: &KeyPattern, db: u8) -> Names {
        Names { pattern: pattern.clone(), db }
    }

    /// The pattern of the presence keys.
    pub fn pattern(&self) -> &KeyPattern {
        &self.pattern
    }

    /// The Redis key of a presence key, which is named by its user and session: `alice#phone`.
    pub fn redis_key(&self, key: &str) -> String {
        self.pattern.redis_key(key)
    }

    /// User and session of a key, `alice#phone`; `None` for a key that is not presence, or the own key of any daemon.
    pub fn name<'a>(&self, redis_key: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let rest = redis_key.strip_prefix(self.pattern.before().as_bytes())?;
        let mark = rest.iter().position(|&byte| byte == OWN_MARK);
        let own = mark.is_some_and(|at| {
            at == 0
                || [CANARY, LEFT, LEASE, SEEN].iter().any(|own| rest[at + 1..].starts_with(own.as_bytes()))
        });
        if own { None } else { self.pattern.name(redis_key) }
    }

    /// The pattern of `SCAN … MATCH` that all keys match whose name, `alice#phone`, matches `wanted`. Other keys may match
    /// it too, unless a name is the rest of its key after a prefix.
    pub fn scan_pattern(&self, wanted: &Glob) -> String {
        let before = glob_escaped(self.pattern.before());
        if self.pattern.is_prefix() {
            return before + wanted.text();
        }
        let start = wanted.literal_start().split(char::from(OWN_MARK)).next().unwrap_or_default();
        before + &glob_escaped(start) + "*" + &glob_escaped(self.pattern.ending())
    }

    /// Globs of the presence keys and of the daemons' own keys.
    pub fn key_globs(&self) -> Vec<String> {
        let [before, ending] = [self.pattern.before(), self.pattern.ending()].map(glob_escaped);
        match ending.is_empty() {
            true => vec![before + "*"],
            false => vec![format!("{before}*{ending}"), before + "#*"],
        }
    }

    /// The key that the daemon named `daemon` renews to verify the event stream.
    pub fn canary_key(&self, daemon: &str) -> String {
        self.canary_prefix() + daemon
    }

    /// The key by which a daemon marks that this session has said goodbye.
    pub fn left_key(&self, key: &str) -> String {
        format!("{}{}{LEFT}{key}", self.pattern.before(), OWN_MARK as char)
    }

    /// The key that names the daemon which listens to renewals for all. It has no hash tag of its own, so a number at its end
    /// puts it into any slot.
    pub fn lease_key(&self) -> String {
        let ending = self.pattern.ending().replace(['{', '}'], "");
        format!("{}{}{LEASE}{ending}", self.pattern.before(), OWN_MARK as char)
    }

    /// The sorted set with the times when users of this bucket were last seen. Like the lease it has no hash tag of its own, so the
    /// buckets lie in different slots.
    pub(super) fn seen_key(&self, bucket: usize) -> String {
        let ending = self.pattern.ending().replace(['{', '}'], "");
        format!("{}{}{SEEN}{bucket}{ending}", self.pattern.before(), OWN_MARK as char)
    }

    /// The channels whose events report renewals, for the holder of the lease alone.
    pub(super) fn renewal_channels(&self, renewals: Renewals) -> Vec<String> {
        operations(renewals).iter().map(|name| self.channel(name)).collect()
    }

    /// All channels to subscribe to for this source of renewals. The fences' channel is the last: once a fence arrives, the
    /// other subscriptions are active too.
    pub fn channels(&self, renewals: Renewals) -> Vec<String> {
        let operations = operations(renewals).iter().chain(&CHANGES).chain([&FENCE_OPERATION]);
        operations.map(|name| self.channel(name)).collect()
    }

    /// The channels of events among them, except that of one operation.
    pub(super) fn event_channels(&self, renewals: Renewals, except: Option<&str>) -> Vec<String> {
        let operations = operations(renewals).iter().chain(&CHANGES).filter(|&&name| Some(name) != except);
        operations.map(|name| self.channel(name)).collect()
    }

    /// The prefix of all daemons' canaries.
    pub(super) fn canary_prefix(&self) -> String {
        format!("{}{}{CANARY}", self.pattern.before(), OWN_MARK as char)
    }

    /// The prefix of all presence keys and of the daemons' own keys.
    pub(super) fn tracked_prefix(&self) -> &str {
        self.pattern.before()
    }

    /// A channel on which nothing is published.
    pub(in crate::redis) fn flush_channel(&self) -> String {
        self.channel("keybeat-flush")
    }

    /// The channel of the fences.
    pub fn fence_channel(&self) -> String {
        self.channel(FENCE_OPERATION)
    }

    /// The channel on which the daemons of this pattern and database talk to each other.
    pub fn daemons_channel(&self) -> String {
        self.channel(&self.daemons_operation())
    }

    /// The operation that a message of the daemons' channel appears to have.
    pub(super) fn daemons_operation(&self) -> String {
        format!("{DAEMONS_OPERATION}{}{}", self.pattern.before(), self.pattern.ending())
    }

    fn channel(&self, operation: &str) -> String {
        format!("__keyevent@{}__:{operation}", self.db)
    }
}

/// The operations that report renewals. By default `expire` is not among them: it doubles the traffic, and the probe at the
/// deadline finds a key that `EXPIRE` renewed.
const fn operations(renewals: Renewals) -> &'static [&'static str] {
    match renewals {
        Renewals::Expire => &["set", "expire", "persist"],
        Renewals::Set => &["set"],
        Renewals::New | Renewals::Tracking => &[],
    }
}

/// The classes that `notify-keyspace-events` must contain for this source of renewals, apart from [`NEW_CLASS`].
pub(super) const fn classes(renewals: Renewals) -> &'static str {
    match renewals {
        Renewals::Expire | Renewals::Set | Renewals::Tracking => CLASSES,
        Renewals::New => CLASSES_WITHOUT_SET,
    }
}

/// Those of `wanted` that a server's setting lacks. `A` stands for many of them.
pub fn missing_classes(setting: &str, wanted: &str) -> String {
    let has =
        |class: char| setting.contains(class) || (setting.contains('A') && "g$lshzxetd".contains(class));
    wanted.chars().filter(|&class| !has(class)).collect()
}

/// The classes that the daemon uses, [`NEW_CLASS`] or one of `wanted`, and that a server's setting had and no longer has.
pub(super) fn lost_classes(held: &str, now: &str, wanted: &str) -> String {
    let had = missing_classes(held, wanted);
    let lost = missing_classes(now, wanted).chars().filter(|&class| !had.contains(class)).collect::<String>();
    if lacks_new(now) && !lacks_new(held) { lost + &NEW_CLASS.to_string() } else { lost }
}

/// Whether a server's setting lacks [`NEW_CLASS`]. `A` does not include it.
pub fn lacks_new(setting: &str) -> bool {
    !setting.contains(NEW_CLASS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pattern: &str, db: u8) -> Names {
        Names::new(&pattern.parse().unwrap(), db)
    }

    #[test]
    fn lease_is_of_one_pattern_and_no_user() {
        let keys =
            ["presence:<user>[#<session>]", "user:<user>:online", "user:<user>:away", "{<user>}:presence"];
        let keys = keys.map(|pattern| (names(pattern, 0), names(pattern, 0).lease_key()));
        assert_eq!(
            keys.each_ref().map(|(_, key)| key.as_str()),
            ["presence:#lease:#:", "user:#lease:#::online", "user:#lease:#::away", "{#lease:#::presence"]
        );
        for (names, key) in &keys {
            assert_eq!(names.name(key.as_bytes()), None, "{key}");
        }
    }

    #[test]
    fn seen_keys_are_of_one_pattern_and_no_user() {
        let patterns =
            ["presence:<user>[#<session>]", "user:<user>:online", "{<user>}:presence", "p:<user>:<session>"];
        for (pattern, key) in patterns.into_iter().zip([
            "presence:#seen:#:7",
            "user:#seen:#:7:online",
            "{#seen:#:7:presence",
            "p:#seen:#:7",
        ]) {
            let names = names(pattern, 0);
            assert_eq!(names.seen_key(7), key);
            assert_eq!(names.name(key.as_bytes()), None, "{key}");
        }
        let europe = Names::new(&KeyPattern::of_prefix("presence:eu:"), 0).seen_key(7);
        let all = names("presence:<user>[#<session>]", 0);
        assert_eq!(all.name(europe.as_bytes()), None, "of a daemon with a longer prefix");
    }

    #[test]
    fn only_prefixed_keys_are_presence_keys() {
        let names = names("presence:<user>[#<session>]", 3);
        assert_eq!(names.name(b"presence:alice#tab").as_deref(), Some(&b"alice#tab"[..]));
        assert_eq!(names.name(b"other:alice"), None);
        assert_eq!(names.name(names.canary_key("x").as_bytes()), None);
        let europe = Names::new(&KeyPattern::of_prefix("presence:eu:"), 3);
        let other = europe.canary_key("x:17");
        assert_eq!(names.name(other.as_bytes()), None, "of a daemon with a longer prefix");
        let left = europe.left_key("alice#tab");
        assert_eq!(names.name(left.as_bytes()), None, "a goodbye at such a daemon");
        assert!(names.name(b"presence:eu:#canary:x").is_some(), "a user may have such a session");
        assert_eq!(names.name(b"presence:").as_deref(), Some(&b""[..]), "not a name; the detector counts it");
        assert_eq!(names.channels(Renewals::Set)[0], "__keyevent@3__:set");
        assert_eq!(names.channels(Renewals::New)[0], "__keyevent@3__:new");
        assert_eq!(names.daemons_channel(), "__keyevent@3__:keybeat-daemons:presence:");
    }

    #[test]
    fn own_keys_are_no_presence_keys_under_any_pattern() {
        for pattern in
            ["user:<user>:online", "{<user>}:presence", "presence:<user>[:<session>]", "p:<user>:<session>"]
        {
            let names = names(pattern, 0);
            let own = names.canary_key("d1:17");
            assert!(own.starts_with(&format!("{}#", names.pattern().before())), "{own}");
            assert_eq!(names.name(own.as_bytes()), None, "{own}");
            let left = names.left_key("alice#tab");
            assert_eq!(names.name(left.as_bytes()), None, "{left}");
        }
    }

    #[test]
    fn globs_cover_presence_keys_and_own_keys() {
        assert_eq!(names("presence:<user>[#<session>]", 0).key_globs(), ["presence:*"]);
        assert_eq!(names("user:<user>:online", 0).key_globs(), ["user:*:online", "user:#*"]);
    }

    #[test]
    fn scans_ask_for_all_keys_that_may_match() {
        for (pattern, wanted, scanned) in [
            ("p[1]*:<user>[#<session>]", "a*", r"p\[1\]\*:a*"),
            ("user:<user>:online", "*", "user:*:online"),
            ("user:<user>:online", "team-?", "user:team\\-*:online"),
            ("user:<user>[:<session>]:online", "alice#*", "user:alice*:online"),
            ("{<user>}:presence[:<session>]", "al", "{al*"),
        ] {
            assert_eq!(
                names(pattern, 0).scan_pattern(&Glob::new(wanted)),
                scanned,
                "{wanted} under {pattern}"
            );
        }
    }

    #[test]
    fn missing_classes_are_found() {
        for (setting, missing) in
            [("", "E$gxe"), ("KEA", ""), ("Ex", "$ge"), ("A", "E"), ("g$xeE", ""), ("Kx", "E$ge")]
        {
            assert_eq!(missing_classes(setting, CLASSES), missing, "{setting}");
        }
        assert_eq!(missing_classes("", classes(Renewals::New)), "Egxe", "set events are not needed");
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
            assert_eq!(lost_classes(held, now, CLASSES), lost, "{held} {now}");
        }
        assert_eq!(lost_classes("E$gxen", "Egxen", classes(Renewals::New)), "");
    }
}
