//! Settings of the server, and whether they can be changed.

use super::finding::{Finding, Severity};
use super::vendor;
use crate::redis::inspect::{ConfigAccess, Facts};

/// The setting that decides which events the server sends.
pub(super) const EVENTS: &str = "notify-keyspace-events";
/// The default output buffer limit of a subscriber: 32 MiB.
const STOCK_BUFFER: u64 = 32 * 1024 * 1024;
/// Keys that one round of active expiry checks at effort 1; each further step of effort adds a quarter.
const KEYS_PER_ROUND: u64 = 20;
/// Of a check that needs CONFIG GET, which does not work.
const UNKNOWN: &str = "unknown: CONFIG GET does not work";

/// May the user change settings?
pub(super) fn may_set(facts: &Facts) -> bool {
    facts.config == ConfigAccess::Allowed
}

/// Why the user cannot change settings.
pub(super) fn cannot_set(facts: &Facts) -> &'static str {
    match facts.config {
        ConfigAccess::Absent if vendor::operator(facts).is_some() => "the service does not allow CONFIG",
        ConfigAccess::Absent => "CONFIG is renamed or disabled, so nobody can set it while the server runs",
        _ => "the user may not set it",
    }
}

/// How to change a setting of this server.
pub(super) fn setting_fix(facts: &Facts, name: &str, value: &str) -> String {
    if let Some(switch) = vendor::events_switch(facts, name, value).filter(|_| name == EVENTS) {
        return switch;
    }
    // In the file a value with spaces has no quotes.
    let in_file = format!("write into the server's file: {name} {value}; then restart the server");
    match facts.config {
        ConfigAccess::Allowed => format!("redis-cli CONFIG SET {name} '{value}'"),
        ConfigAccess::Forbidden => {
            format!(
                "redis-cli ACL SETUSER USER '+config|get' '+config|set', and keybeat can set it; or {in_file}"
            )
        }
        ConfigAccess::Absent => {
            format!("{in_file}; at a managed service, change its parameter {name} to {value}")
        }
    }
}

pub(super) fn config(facts: &Facts) -> Finding {
    const CHECK: &str = "config";
    if facts.settings.is_some() && may_set(facts) {
        return Finding::ok(CHECK, "the user may run CONFIG GET and CONFIG SET");
    }
    let why = if facts.config == ConfigAccess::Absent {
        "CONFIG is renamed or disabled"
    } else {
        "the user may not run CONFIG"
    };
    let cause =
        format!("{why}, so keybeat cannot read or add event classes; some settings below were not checked");
    let quiet = "start keybeat with --configure-redis false";
    let mend = match facts.config {
        _ if vendor::operator(facts).is_some() => quiet.to_owned(),
        ConfigAccess::Absent => format!("{quiet}, and set {EVENTS} in the server's file"),
        _ => format!("redis-cli ACL SETUSER USER '+config|get' '+config|set'; or {quiet}"),
    };
    Finding::new(CHECK, Severity::Note, cause, mend)
}

pub(super) fn eviction(facts: &Facts) -> Finding {
    let (Some(most), Some(policy)) = (facts.setting("maxmemory"), facts.setting("maxmemory-policy")) else {
        return Finding::ok("eviction", UNKNOWN);
    };
    match (most, policy) {
        (_, "noeviction") => {
            Finding::ok("eviction", "noeviction: when memory is full, writes fail and no key is evicted")
        }
        ("0", policy) => Finding::ok("eviction", format!("{policy}, but maxmemory is 0 (no limit)")),
        (_, policy) => Finding::new(
            "eviction",
            Severity::Warning,
            format!(
                "{policy}: when memory is full, the server evicts presence keys and their users go offline until the next heartbeat"
            ),
            setting_fix(facts, "maxmemory-policy", "noeviction"),
        ),
    }
}

pub(super) fn buffers(facts: &Facts) -> Finding {
    const LIMIT: &str = "client-output-buffer-limit";
    let mend = setting_fix(facts, LIMIT, "pubsub 256mb 64mb 60");
    let Some(text) = facts.setting(LIMIT) else {
        return Finding::ok("buffers", UNKNOWN);
    };
    let mut words = text.split_whitespace().skip_while(|word| *word != "pubsub").skip(1);
    let [hard, soft] =
        [words.next(), words.next()].map(|word| word.and_then(|word| word.parse::<u64>().ok()));
    let (Some(hard), Some(soft)) = (hard, soft) else {
        return Finding::ok("buffers", format!("unknown: {text:?} has no pubsub"));
    };
    let mib = |bytes: u64| bytes / 1024 / 1024;
    // Measured: 94 bytes per event.
    let events = if hard == 0 { soft } else { hard } / 94;
    match hard {
        0 if soft == 0 => Finding::ok("buffers", "the output buffer of a subscriber has no limit"),
        1..STOCK_BUFFER => Finding::new(
            "buffers",
            Severity::Warning,
            format!(
                "the server disconnects a subscriber that is {} MiB (about {events} events) behind; keybeat must then reconcile \
                 all keys",
                mib(hard)
            ),
            mend,
        ),
        STOCK_BUFFER => Finding::new(
            "buffers",
            Severity::Note,
            format!(
                "the default limit: the server disconnects a subscriber that is 32 MiB (about {events} events) behind"
            ),
            mend,
        ),
        hard => Finding::ok(
            "buffers",
            format!("a subscriber may be {} MiB (about {events} events) behind", mib(hard)),
        ),
    }
}

/// The time in seconds in which active expiry checks all keys with a TTL once. It checks some keys in each round and
/// runs `hz` rounds per second. (Measured on Redis 7.0 to 8.2 and Valkey 9.)
fn pass_s(expiring: u64, hz: u64, effort: u64) -> f64 {
    let per_round = KEYS_PER_ROUND + KEYS_PER_ROUND / 4 * effort.saturating_sub(1);
    expiring as f64 / (per_round * hz.max(1)) as f64
}

pub(super) fn lag(facts: &Facts) -> Finding {
    let number = |name: &str| facts.setting(name).and_then(|text| text.parse::<u64>().ok());
    let Some(hz) = number("hz") else {
        return Finding::ok("lag", UNKNOWN);
    };
    let (expiring, effort) = (facts.expiring(), number("active-expire-effort").unwrap_or(1));
    let pass = pass_s(expiring, hz, effort);
    let cause = format!(
        "with {expiring} keys, hz {hz} and effort {effort}, the server alone expires a key {:.1} s (median) to {pass:.1} s \
         (maximum) after its deadline",
        pass / 2.0
    );
    if hz > 100 {
        let cause =
            format!("{cause}; such a high hz costs CPU and is unnecessary with keybeat's deadline probes");
        return Finding::new("lag", Severity::Note, cause, setting_fix(facts, "hz", "10"));
    }
    Finding::ok("lag", format!("{cause}; keybeat's deadline probes reduce this to milliseconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_lag_follows_from_keys_hz_and_effort() {
        // The measured p99 in seconds, from 100,000 keys on; 0.01 % of the keys expire per second.
        for (keys, hz, effort, measured) in [
            (100_000, 10, 1, 479.0),
            (100_000, 100, 1, 51.0),
            (100_000, 10, 10, 125.0),
            (1_000_000, 100, 1, 492.0),
        ] {
            let computed = pass_s(keys, hz, effort);
            assert!(
                (computed / measured - 1.0).abs() < 0.25,
                "{keys} {hz} {effort}: {computed}, measured {measured}"
            );
        }
    }

    #[test]
    fn fix_of_a_setting_suits_the_server() {
        let fix = |config| setting_fix(&Facts { config, ..Facts::default() }, "hz", "10");
        assert_eq!(fix(ConfigAccess::Allowed), "redis-cli CONFIG SET hz '10'");
        for config in [ConfigAccess::Forbidden, ConfigAccess::Absent] {
            assert!(
                !fix(config).contains("CONFIG SET") && fix(config).contains("file: hz 10;"),
                "{}",
                fix(config)
            );
        }
    }
}
