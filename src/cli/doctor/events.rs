//! Rights and events: may the user run what keybeat needs, and does the server send what happens?

use super::finding::{Finding, Severity};
use super::server::best_classes;
use super::settings::{EVENTS, cannot_set, may_set, setting_fix};
use super::vendor;
use crate::cli::printed;
use crate::cli::rights::quoted;
use crate::redis::inspect::{ConfigAccess, Facts};
use crate::redis::{CLASSES, NEW_CLASS, missing_classes};

pub(super) fn rights(facts: &Facts) -> Finding {
    let (needed, extras) = (facts.forbidden.join(" "), facts.forbidden_extras.join(" "));
    if needed.is_empty() && extras.is_empty() {
        return Finding::ok("rights", "the user may run every command that keybeat uses");
    }
    if needed.is_empty() {
        let lacks = |right| facts.forbidden_extras.contains(&right);
        let mut outcomes = Vec::new();
        if lacks("+getex") {
            outcomes.push("each daemon listens to all heartbeats");
        }
        if lacks("+get") {
            outcomes.push("a user whose socket closes stays online until the TTL of the key ends");
        } else if extras != "+getex" {
            outcomes.push("a heartbeat of another daemon at the moment in which a socket closes may be lost");
        }
        let cause = format!("the user lacks {extras}; {}", outcomes.join("; "));
        return Finding::new("rights", Severity::Note, cause, format!("redis-cli ACL SETUSER USER {extras}"));
    }
    let keys: String = facts.key_globs.iter().map(|glob| quoted(&format!("~{glob}")) + " ").collect();
    let all = format!("{needed} {extras}");
    Finding::new(
        "rights",
        Severity::Fatal,
        format!("the user lacks {needed}, or access to the keys or channels for it"),
        format!("redis-cli ACL SETUSER USER {keys}'&__keyevent@*' {}", all.trim_end()),
    )
}

pub(super) fn lease(facts: &Facts) -> Finding {
    Finding::ok(
        "lease",
        match &facts.holder {
            Some(name) => format!("the daemon {} listens to heartbeats for all", printed::text(name)),
            None => "no daemon listens to heartbeats for others".into(),
        },
    )
}

pub(super) fn events(facts: &Facts) -> Finding {
    if let Some(mut missing) = facts.missing_classes().filter(|missing| !missing.is_empty()) {
        let held = facts.setting(EVENTS).unwrap_or_default();
        missing
            .extend(best_classes(facts).chars().filter(|&class| class == NEW_CLASS && !held.contains(class)));
        let cause = format!("notify-keyspace-events is {held:?} and lacks {missing:?}");
        let mend = setting_fix(facts, EVENTS, &format!("{held}{missing}"));
        return if may_set(facts) {
            Finding::new(
                "events",
                Severity::Warning,
                format!("{cause}; keybeat serve adds them when it starts"),
                mend,
            )
        } else {
            missing_for_good(facts, format!("{cause}; {}", cannot_set(facts)), mend)
        };
    }
    let missed: Vec<&str> = ["set", "expired", "del", "keybeat-fence"]
        .into_iter()
        .filter(|name| !facts.arrived.contains(*name))
        .collect();
    if missed.is_empty() {
        return new_keys(facts);
    }
    let cause = format!("the server sent no event for these changes of a test key: {}", missed.join(", "));
    if missed.contains(&"keybeat-fence") {
        let mend = "redis-cli ACL SETUSER USER '&__keyevent@*' +subscribe +publish";
        return Finding::new(
            "events",
            Severity::Fatal,
            format!("{cause}; the subscription receives nothing"),
            mend,
        );
    }
    missing_for_good(facts, cause, setting_fix(facts, EVENTS, &best_classes(facts)))
}

/// The server publishes too little, and keybeat may not change that: it uses client tracking if it may.
fn missing_for_good(facts: &Facts, cause: String, mend: String) -> Finding {
    if facts.tracks {
        let cause = format!(
            "{cause}; keybeat serve uses client tracking instead (mode tracking), which costs the server a question per heartbeat"
        );
        return Finding::new("events", Severity::Warning, cause, mend);
    }
    let cause =
        format!("{cause}; client tracking does not work, so keybeat serve polls all keys (mode sweeps)");
    let mend =
        format!("{mend}; or let keybeat use client tracking: redis-cli ACL SETUSER USER '+client|tracking'");
    Finding::new("events", Severity::Fatal, cause, mend)
}

/// Whether the server reports keys that other commands than SET create. The daemon works without it.
fn new_keys(facts: &Facts) -> Finding {
    const CHECK: &str = "events";
    const LATE: &str = "keys that other commands than SET create are found only when keybeat compares all keys, and \
                        --events new works as set";
    if facts.arrived.contains("new") {
        let cause = "the server sent an event for each change of a test key: new, set, expired, deleted; keybeat serve can do \
                     without set (--events new)";
        return Finding::ok(CHECK, cause);
    }
    if !best_classes(facts).contains(NEW_CLASS) {
        let cause = format!("the server does not know the event class {NEW_CLASS} (new keys): {LATE}");
        return Finding::new(CHECK, Severity::Note, cause, "install Redis 7 or newer, or Valkey");
    }
    let adds = if may_set(facts) { "; keybeat serve adds it when it starts" } else { "" };
    let cause = format!("notify-keyspace-events lacks {NEW_CLASS} (new keys){adds}; without it, {LATE}");
    let held = facts.setting(EVENTS).unwrap_or(CLASSES);
    Finding::new(CHECK, Severity::Note, cause, setting_fix(facts, EVENTS, &format!("{held}{NEW_CLASS}")))
}

/// Whether the event classes survive a restart: a setting that is not in the file is lost.
pub(super) fn after_restart(facts: &Facts) -> Finding {
    const CHECK: &str = "restart";
    let severity = if may_set(facts) { Severity::Note } else { Severity::Warning };
    let again = if may_set(facts) { "keybeat serve sets them again" } else { cannot_set(facts) };
    if let Some(operator) = vendor::operator(facts) {
        return Finding::ok(CHECK, format!("unknown: {operator} has no file to read here"));
    }
    let path = facts.field("config_file");
    if path.is_empty() {
        let cause = format!(
            "the server was started without a configuration file, so it loses its settings at a restart; {again}"
        );
        return Finding::new(CHECK, severity, cause, "start it with a file: redis-server ./redis.conf");
    }
    match facts.in_file.as_deref().map(|setting| missing_classes(setting, CLASSES)) {
        None => Finding::new(
            CHECK,
            Severity::Note,
            format!(
                "cannot read {path} on this machine, so it is unknown whether the server sends events after a restart"
            ),
            format!("check that the file contains: notify-keyspace-events {}", best_classes(facts)),
        ),
        Some(missing) if missing.is_empty() => {
            Finding::ok(CHECK, format!("{path} sets the event classes, too"))
        }
        Some(missing) => Finding::new(
            CHECK,
            severity,
            format!(
                "notify-keyspace-events in {path} lacks {missing:?}, so the server sends no such events after a restart; {again}"
            ),
            match facts.config {
                ConfigAccess::Allowed => "redis-cli CONFIG REWRITE".to_owned(),
                _ => format!("write into {path}: {EVENTS} {}", best_classes(facts)),
            },
        ),
    }
}
