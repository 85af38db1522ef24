//! The presence keys: without a TTL, or of a type that is not a string.

use super::finding::{Finding, Severity};
use crate::cli::rights::quoted;
use crate::redis::inspect::{Facts, KeySample};

/// The result of both checks without a presence key.
const NO_KEYS: &str = "there are no presence keys yet";

/// "12 of 300 presence keys"; for a sample "12 of 300 sampled presence keys".
fn some_of(keys: &KeySample, count: usize) -> String {
    let sampled = if keys.all { "" } else { "sampled " };
    format!("{count} of {} {sampled}presence keys", keys.asked)
}

pub(super) fn immortal(keys: &KeySample) -> Finding {
    let Some(first) = keys.immortal.first() else {
        if keys.asked == 0 {
            return Finding::ok("ttl", NO_KEYS);
        }
        return Finding::ok("ttl", format!("all {} presence keys that were checked have a TTL", keys.asked));
    };
    let some = some_of(keys, keys.immortal.len());
    let cause =
        format!("{some} have no TTL, such as {first:?}; their users stay online until the keys are deleted");
    Finding::new("ttl", Severity::Warning, cause, format!("redis-cli EXPIRE {} 30", quoted(first)))
}

pub(super) fn other_types(facts: &Facts) -> Finding {
    let keys = &facts.keys;
    let Some((first, kind)) = keys.other.first() else {
        if keys.asked == 0 {
            return Finding::ok("types", NO_KEYS);
        }
        return Finding::ok(
            "types",
            format!("all {} presence keys that were checked are strings", keys.asked),
        );
    };
    let some = some_of(keys, keys.other.len());
    let (severity, seen) = if facts.arrived.contains("new") {
        (
            Severity::Note,
            "they count from their creation, EXPIRE renews them, and other writes are not heartbeats",
        )
    } else {
        (Severity::Warning, "keybeat finds them only when it compares all keys")
    };
    let cause = format!("{some} are not strings, such as the {kind} {first:?}; {seen}");
    let first = quoted(first);
    Finding::new(
        "types",
        severity,
        cause,
        format!("redis-cli DEL {first}; send heartbeats as SET {first} 1 EX 30"),
    )
}
