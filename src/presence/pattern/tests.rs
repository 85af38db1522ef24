//! Keys read and written under patterns.

use super::*;
use proptest::prelude::*;

fn pattern(text: &str) -> KeyPattern {
    text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
}

fn name(pattern: &KeyPattern, key: &str) -> Option<String> {
    pattern.name(key.as_bytes()).map(|name| String::from_utf8(name.into_owned()).unwrap())
}

/// Each pattern with keys and their names; `-` is a key that does not match, `!` one with an invalid name.
const READ: [(&str, &[(&str, &str)]); 9] = [
    (
        "presence:<user>[#<session>]",
        &[
            ("presence:alice", "alice"),
            ("presence:alice#tab", "alice#tab"),
            ("presence:a:b", "a:b"),
            ("presenc:alice", "-"),
            ("presence:", "!"),
            ("presence:alice#", "!"),
            ("presence:a#b#c", "!"),
        ],
    ),
    (
        "user:<user>:online",
        &[
            ("user:alice:online", "alice"),
            ("user:alice:count", "-"),
            ("user:alice", "-"),
            ("user::online", "!"),
            ("user:a:b:online", "a:b"),
            ("user:alice:online:online", "-"),
            ("user:alice:online2", "-"),
            ("user:a#b:online", "!"),
            ("user:#canary:#:d1", "-"),
        ],
    ),
    (
        "{<user>}:presence",
        &[("{alice}:presence", "alice"), ("{alice}:other", "-"), ("{a}b}:presence", "a}b")],
    ),
    (
        "{<user>}:presence[:<session>]",
        &[
            ("{alice}:presence", "alice"),
            ("{alice}:presence:tab", "alice#tab"),
            ("{alice}:presence:a:b", "alice#a:b"),
            ("{alice}:presence:", "!"),
            ("{alice}:presences", "-"),
            ("{a}:presence}:presence:b", "-"),
        ],
    ),
    (
        "presence:<user>[:<session>]",
        &[
            ("presence:alice", "alice"),
            ("presence:alice:tab", "alice#tab"),
            ("presence:a:b:c", "a#b:c"),
            ("presence:alice:", "!"),
            ("presence::tab", "!"),
            ("presence:alice#tab", "!"),
        ],
    ),
    (
        "presence:<user>:<session>",
        &[
            ("presence:alice:tab", "alice#tab"),
            ("presence:alice", "-"),
            ("presence:alice:", "!"),
            ("presence:a:b:c", "a#b:c"),
        ],
    ),
    (
        "user:<user>[:<session>]:online",
        &[
            ("user:alice:online", "alice"),
            ("user:alice:tab:online", "alice#tab"),
            ("user:alice::online", "!"),
            ("user:alice:online:online", "alice#online"),
            ("user:a:b:c:online", "a#b:c"),
            ("user:alice:tab", "-"),
            ("user:a:b:online:online", "-"),
        ],
    ),
    ("p:<user>:[<session>]", &[("p:alice:", "alice"), ("p:alice:tab", "alice#tab"), ("p:alice", "-")]),
    (
        "p:<user>[(<session>)]",
        &[("p:alice", "alice"), ("p:alice(tab)", "alice#tab"), ("p:alice(tab", "-"), ("p:alice(a)b)", "-")],
    ),
];

#[test]
fn keys_are_read_as_the_pattern_says() {
    for (text, keys) in READ {
        let pattern = pattern(text);
        for (key, expected) in keys {
            let found = match name(&pattern, key) {
                None => "-".to_owned(),
                Some(name) if Key::parse(name.as_bytes()).is_err() => "!".to_owned(),
                Some(name) => name,
            };
            assert_eq!(found, *expected, "{key} under {text}");
            if !["-", "!"].contains(expected) {
                assert_eq!(pattern.redis_key(expected), *key, "{expected} under {text}");
            }
        }
    }
}

#[test]
fn patterns_without_clear_names_are_refused() {
    for (text, why) in [
        ("", PatternError::NoUser),
        ("presence:<session>", PatternError::NoUser),
        ("presence:<usr>", PatternError::NoUser),
        ("p:<user>:<user>", PatternError::Twice(USER)),
        ("p:<user>:<session>:<session>", PatternError::Twice(SESSION)),
        ("<user>", PatternError::NothingBefore),
        ("<user>:online", PatternError::NothingBefore),
        ("p:<session>:<user>", PatternError::SessionFirst),
        ("p:<user><session>", PatternError::NothingBetween),
        ("p:<user>[<session>]", PatternError::NothingBetween),
        ("p:<user>[:<session>", PatternError::Bracket),
        ("p:<user>:<session>]", PatternError::Bracket),
        ("p:<user>:<device>", PatternError::Unknown("device".into())),
    ] {
        assert_eq!(text.parse::<KeyPattern>(), Err(why), "{text}");
    }
    for text in ["app[1]:<user>", "p<<user>", "p:<user>>", "p:<user>:[x]:<1>"] {
        assert!(text.parse::<KeyPattern>().is_ok(), "{text}");
    }
    assert_eq!(pattern("presence:<user>[#<session>]"), KeyPattern::of_prefix("presence:"));
    assert_eq!(KeyPattern::of_prefix("<user>[").name(b"<user>[a"), Some(b"a".as_slice().into()));
}

#[test]
fn names_that_end_early_are_refused() {
    let early = NameError::EndsEarly;
    for (text, user, session, why) in [
        ("presence:<user>[:<session>]", "a:b", None, KeyError::User(early)),
        ("presence:<user>[:<session>]", "a:", Some("tab"), KeyError::User(early)),
        ("user:<user>:online", "a:online", None, KeyError::User(early)),
        ("user:<user>:online", "a", Some("tab"), KeyError::Session(NameError::NotInPattern)),
        ("presence:<user>:<session>", "a", None, KeyError::Session(NameError::Missing)),
        ("user:<user>[:<session>]:online", "a", Some("x:online"), KeyError::Session(early)),
        ("user:<user>:online", "a#b", None, KeyError::User(NameError::Mark)),
        ("p:<user>[::<session>]", "a:", None, KeyError::User(early)),
    ] {
        assert_eq!(pattern(text).key(user, session), Err(why), "{user} {session:?} under {text}");
    }
    let default = KeyPattern::of_prefix("presence:");
    assert_eq!(default.key("a:b", Some("c")), Ok(Key::parse(b"a:b#c").unwrap()));
}

/// Patterns of few characters, so that literals and names overlap.
fn any_pattern() -> impl Strategy<Value = KeyPattern> {
    let valid = |text: String| text.parse::<KeyPattern>().ok();
    "[a:]{1,2}<user>[a:\\[]{0,3}(<session>[a:\\]]{0,4})?".prop_filter_map("a valid pattern", valid)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn accepted_names_read_back_as_themselves(
        pattern in any_pattern(), user in "[a:b]{1,5}", session in proptest::option::of("[a:b]{1,5}"),
    ) {
        if let Ok(key) = pattern.key(&user, session.as_deref()) {
            let written = pattern.redis_key(key.as_str());
            let read = pattern.name(written.as_bytes());
            prop_assert_eq!(read.as_deref(), Some(key.as_bytes()), "{} under {}", written, pattern);
        }
    }

    #[test]
    fn keys_that_are_read_are_written_back(pattern in any_pattern(), key in "[a:b#]{0,9}") {
        let key = [pattern.before(), &key].concat();
        let name = pattern.name(key.as_bytes());
        if let Some(Ok(name)) = name.map(|name| Key::parse(&name)) {
            prop_assert_eq!(pattern.redis_key(name.as_str()), key.clone(), "under {}", pattern);
            prop_assert_eq!(pattern.key(name.user(), name.session()), Ok(name.clone()), "{} under {}", key, pattern);
        }
    }

    #[test]
    fn own_keys_match_no_pattern(pattern in any_pattern(), rest in "[a:b#]{0,6}") {
        let own = [pattern.before(), "#", &rest].concat();
        let name = pattern.name(own.as_bytes());
        prop_assert!(name.is_none_or(|name| Key::parse(&name).is_err()), "{} under {}", own, pattern);
    }

    #[test]
    fn any_text_is_a_pattern_or_refused(
        text in ".{0,40}", literals in prop::collection::vec(".{0,3}", 4),
        bytes in prop::collection::vec(any::<u8>(), 0..60), user in ".{0,12}", session in ".{0,12}",
    ) {
        let [a, b, c, d] = &literals[..] else { unreachable!() };
        for text in [text, format!("{a}<user>{b}<session>{c}"), format!("{a}<user>{b}[{c}<session>{d}]{a}")] {
            let Ok(pattern) = text.parse::<KeyPattern>() else { continue };
            for key in [bytes.clone(), [a.as_bytes(), &bytes].concat()] {
                let name = pattern.name(&key);
                prop_assert!(name.is_none() || key.starts_with(pattern.before().as_bytes()));
            }
            if let Ok(key) = pattern.key(&user, Some(&session)) {
                let written = pattern.redis_key(key.as_str());
                let read = pattern.name(written.as_bytes());
                prop_assert_eq!(read.as_deref(), Some(key.as_bytes()));
            }
        }
    }
}
