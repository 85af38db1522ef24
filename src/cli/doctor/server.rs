//! The server itself: version, role, cluster, clock, replicas.

use super::finding::{Finding, Severity};
use super::settings::{EVENTS, setting_fix};
use crate::redis::cluster::SLOTS;
use crate::redis::inspect::Facts;
use crate::redis::{CLASSES, NEW_CLASS};

/// The first major version of Redis with RESP3, which keybeat requires.
const OLDEST: u64 = 6;
/// The first major version that knows the class of new keys.
const KNOWS_NEW: u64 = 7;
/// A larger difference between the clocks makes times on the wire hard to compare, in milliseconds.
const CLOCK_MS: i64 = 1_000;

/// Name, version and major version of the server.
fn software(facts: &Facts) -> (&'static str, &str, Option<u64>) {
    let (name, version) = match facts.field("valkey_version") {
        "" => ("Redis", facts.field("redis_version")),
        version => ("Valkey", version),
    };
    (name, version, version.split('.').next().and_then(|major| major.parse().ok()))
}

/// The classes that a server should have: those that keybeat needs, and the one of new keys if the server knows it.
pub(super) fn best_classes(facts: &Facts) -> String {
    let knows_new = software(facts).2.is_some_and(|major| major >= KNOWS_NEW);
    CLASSES.chars().chain(knows_new.then_some(NEW_CLASS)).collect()
}

/// Is the version known, and older than keybeat's oldest? Then the other checks would name rights and events that it cannot have.
pub(super) fn is_too_old(facts: &Facts) -> bool {
    software(facts).2.is_some_and(|major| major < OLDEST)
}

pub(super) fn version(facts: &Facts) -> Finding {
    let (name, version, major) = software(facts);
    match major {
        None => Finding::new(
            "version",
            Severity::Fatal,
            "INFO does not report the version",
            "redis-cli ACL SETUSER USER +info",
        ),
        Some(_) if is_too_old(facts) => Finding::new(
            "version",
            Severity::Fatal,
            format!(
                "{name} {version} does not support RESP3, which keybeat requires; the remaining checks were skipped"
            ),
            format!("install Redis {OLDEST} or newer, or Valkey"),
        ),
        Some(_) => Finding::ok("version", format!("{name} {version}")),
    }
}

pub(super) fn role(facts: &Facts) -> Finding {
    if facts.field("role") != "slave" {
        return Finding::ok("role", "a primary");
    }
    let primary = format!("{}:{}", facts.field("master_host"), facts.field("master_port"));
    Finding::new(
        "role",
        Severity::Fatal,
        format!(
            "the server is a replica of {primary}; a replica accepts no heartbeats and expires no keys by itself"
        ),
        format!("--redis redis://{primary}"),
    )
}

pub(super) fn cluster(facts: &Facts) -> Finding {
    if facts.field("cluster_enabled") != "1" {
        return Finding::ok("cluster", "the server is not part of a cluster");
    }
    let of = |name: &str| facts.cluster.field(name);
    let (state, slots) = (of("cluster_state"), of("cluster_slots_ok"));
    if state != "ok" {
        let cause = format!(
            "the state of the cluster is {state}; {slots} of {SLOTS} slots are served, heartbeats in the other slots fail"
        );
        return Finding::new("cluster", Severity::Fatal, cause, "redis-cli --cluster fix HOST:PORT");
    }
    let primaries = of("cluster_size");
    match facts.slots {
        Some(0) => {
            return Finding::ok(
                "cluster",
                "the server owns no slot of its cluster; the remaining checks were skipped",
            );
        }
        Some(slots) => {
            return Finding::ok(
                "cluster",
                format!("the server owns {slots} slots of a cluster with {primaries} primaries"),
            );
        }
        None if primaries == "1" => {
            return Finding::ok(
                "cluster",
                "the server is the only primary of its cluster and holds every key",
            );
        }
        None => {}
    }
    let cause = format!(
        "the server is one of {primaries} primaries of a cluster, and each has only its share of the users, so keybeat serve \
         refuses this URL; the remaining checks were skipped"
    );
    Finding::new("cluster", Severity::Fatal, cause, "--redis redis-cluster://HOST:PORT")
}

pub(super) fn clock(facts: &Facts) -> Finding {
    let Some((ahead, unsure)) = facts.clock_ms else {
        return Finding::ok("clock", "unknown: the user may not run TIME");
    };
    let side = if ahead < 0 { "behind" } else { "ahead of" };
    let apart =
        format!("the server's clock is {} ms {side} this machine's clock (± {unsure} ms)", ahead.abs());
    if ahead.abs() - unsure <= CLOCK_MS {
        return Finding::ok("clock", apart);
    }
    let cause =
        format!("{apart}; keys that programs here set with EXAT or PXAT expire too early or too late");
    Finding::new("clock", Severity::Warning, cause, "timedatectl set-ntp true (on both machines)")
}

pub(super) fn replicas(facts: &Facts) -> Finding {
    match facts.field("connected_slaves") {
        "" | "0" => Finding::ok(
            "replicas",
            "none: if this server is lost, its users are offline until their next heartbeat",
        ),
        count => Finding::new(
            "replicas",
            Severity::Note,
            format!("{count}; a replica that becomes primary uses its own settings, event classes included"),
            format!("on each replica: {}", setting_fix(facts, EVENTS, &best_classes(facts))),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::info::Info;

    #[test]
    fn clock_difference_within_the_uncertainty_is_ok() {
        let at =
            |ahead, unsure| clock(&Facts { clock_ms: Some((ahead, unsure)), ..Facts::default() }).severity;
        assert_eq!([at(5, 1), at(-900, 1), at(3_000, 2_500)], [Severity::Ok; 3]);
        assert_eq!([at(1_500, 1), at(-1_500, 1)], [Severity::Warning; 2]);
    }

    #[test]
    fn old_version_is_fatal() {
        let of = |name: &str, version: &str| {
            let info = Info::parse(&format!("{name}:{version}"));
            version_severity(&Facts { info, ..Facts::default() })
        };
        assert_eq!([of("redis_version", "5.0.14"), of("redis_version", "")], [Severity::Fatal; 2]);
        assert_eq!(
            [of("redis_version", "6.0.0"), of("valkey_version", "9.1.2"), of("redis_version", "10.0.0")],
            [Severity::Ok; 3]
        );
    }

    fn version_severity(facts: &Facts) -> Severity {
        version(facts).severity
    }

    #[test]
    fn incomplete_cluster_is_fatal() {
        let of = |state: &str, size: &str| {
            let info = Info::parse("cluster_enabled:1");
            let cluster = format!("cluster_state:{state}\ncluster_size:{size}\ncluster_slots_ok:9");
            let cluster = Info::parse(&cluster);
            super::cluster(&Facts { info, cluster, ..Facts::default() }).severity
        };
        assert_eq!(
            [of("fail", "3"), of("ok", "3"), of("ok", "1")],
            [Severity::Fatal, Severity::Fatal, Severity::Ok]
        );
    }
}
