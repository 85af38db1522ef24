//! `keybeat doctor`: checks of a Redis server for everything that breaks presence, with a fix for each problem.

use super::{DoctorArgs, logging, progress};
use crate::presence::KeyPattern;
use crate::redis::cluster::{self, Node, SLOTS};
use crate::redis::inspect::{Facts, KeySample};
use crate::redis::target::{Target, is_about_password};
use crate::redis::{CLASSES, NEW_CLASS, missing_classes};
use anyhow::Result;
use indicatif::ProgressBar;
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;

/// The first major version of Redis with RESP3, which keybeat requires.
const OLDEST: u64 = 6;
/// The first major version that knows the class of new keys.
const KNOWS_NEW: u64 = 7;
/// A larger difference between the clocks makes times on the wire hard to compare, in milliseconds.
const CLOCK_MS: i64 = 1_000;
/// The default output buffer limit of a subscriber: 32 MiB.
const STOCK_BUFFER: u64 = 32 * 1024 * 1024;
/// Keys that one round of active expiry checks at effort 1; each further step of effort adds a quarter.
const KEYS_PER_ROUND: u64 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Ok,
    Note,
    Warning,
    Fatal,
}

/// The result of one check.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// The node of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    check: &'static str,
    severity: Severity,
    cause: String,
    /// The command that fixes the problem, or what to do. Programs read this field name, so it stays.
    mend: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, cause: impl Into<String>) -> Finding {
        Finding { server: None, check, severity: Severity::Ok, cause: cause.into(), mend: None }
    }

    fn new(
        check: &'static str,
        severity: Severity,
        cause: impl Into<String>,
        mend: impl Into<String>,
    ) -> Finding {
        Finding { server: None, check, severity, cause: cause.into(), mend: Some(mend.into()) }
    }

    /// The same result for one node of a cluster; its fix addresses that node.
    fn at(self, node: &Node) -> Finding {
        let (host, port) =
            node.primary.addresses.first().and_then(|at| at.rsplit_once(':')).unwrap_or_default();
        let there = format!("redis-cli -h {host} -p {port} ");
        let mend = self.mend.map(|mend| mend.replace("redis-cli ", &there));
        Finding { server: Some(node.shown().to_owned()), mend, ..self }
    }
}

pub async fn run(args: DoctorArgs) -> Result<ExitCode> {
    logging::start_quiet();
    let target = super::redis(&args.redis.redis, &args.redis.redis_tls)?;
    let bar = progress::step(&format!("checking {}", target.shown()));
    let findings = look_at(&target, &args.redis.pattern.pattern(), &bar).await;
    bar.finish_and_clear();
    print(&findings, args.json)?;
    let fatal = findings.iter().any(|finding| finding.severity == Severity::Fatal);
    Ok(if fatal { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Checks each primary of a cluster separately, because a setting can be wrong on one of them.
async fn look_at(target: &Target, pattern: &KeyPattern, bar: &ProgressBar) -> Vec<Finding> {
    let topology = match cluster::primaries(target).await {
        Ok(topology) => topology,
        Err(why) => return vec![unreachable(&why)],
    };
    if !topology.clustered {
        return look_at_node(&topology.nodes[0], pattern, bar).await;
    }
    let mut findings = vec![coverage(topology.fleet().without_owner(), topology.nodes.len())];
    for node in &topology.nodes {
        let found = look_at_node(node, pattern, bar).await;
        findings.extend(found.into_iter().map(|finding| finding.at(node)));
    }
    findings
}

async fn look_at_node(node: &Node, pattern: &KeyPattern, bar: &ProgressBar) -> Vec<Finding> {
    let show = |what: &str| bar.set_message(format!("{}: {what}", node.shown()));
    match Facts::read(node, pattern, show).await {
        Ok(facts) => examine(&facts),
        Err(why) => vec![unreachable(&why)],
    }
}

fn unreachable(why: &anyhow::Error) -> Finding {
    let cause = format!("{why:#}");
    let mend = if is_about_password(&cause) {
        "--redis redis://USER:PASSWORD@HOST:PORT"
    } else {
        "start it: redis-server ./redis.conf; or name another one: --redis URL"
    };
    Finding::new("connection", Severity::Fatal, cause, mend)
}

fn coverage(missing: usize, primaries: usize) -> Finding {
    if missing == 0 {
        return Finding::ok("coverage", format!("{primaries} primaries own all {SLOTS} slots"));
    }
    let cause = format!("{missing} of {SLOTS} slots have no owner; heartbeats of users in these slots fail");
    Finding::new("coverage", Severity::Fatal, cause, "redis-cli --cluster fix HOST:PORT")
}

fn print(findings: &[Finding], as_json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut server = None;
    for finding in findings {
        if as_json {
            writeln!(out, "{}", serde_json::to_string(finding)?)?;
            continue;
        }
        if finding.server != server {
            server.clone_from(&finding.server);
            writeln!(out, "\n{}", server.as_deref().unwrap_or_default())?;
        }
        let severity = format!("{:?}", finding.severity).to_lowercase();
        writeln!(out, "{severity:7}  {:12}  {}", finding.check, finding.cause)?;
        if let Some(mend) = &finding.mend {
            writeln!(out, "{:7}  {:12}  → {mend}", "", "")?;
        }
    }
    Ok(out.flush()?)
}

/// All checks, in the order in which to fix the problems.
fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![version(facts), role(facts), cluster(facts)];
    if !facts.can_be_tried() {
        return findings;
    }
    findings.extend([rights(facts), events(facts), events_after_restart(facts), configuring(facts)]);
    findings.extend([eviction(facts), buffers(facts), lag(facts), clock(facts), replicas(facts)]);
    findings.extend([immortal(&facts.keys), other_types(facts)]);
    findings
}

/// Name, version and major version of the server.
fn software(facts: &Facts) -> (&'static str, &str, Option<u64>) {
    let (name, version) = match facts.field("valkey_version") {
        "" => ("Redis", facts.field("redis_version")),
        version => ("Valkey", version),
    };
    (name, version, version.split('.').next().and_then(|major| major.parse().ok()))
}

/// The classes that a server should have: those that keybeat needs, and the one of new keys if the server knows it.
fn best_classes(facts: &Facts) -> String {
    let knows_new = software(facts).2.is_some_and(|major| major >= KNOWS_NEW);
    CLASSES.chars().chain(knows_new.then_some(NEW_CLASS)).collect()
}

fn version(facts: &Facts) -> Finding {
    let (name, version, major) = software(facts);
    match major {
        None => Finding::new(
            "version",
            Severity::Fatal,
            "INFO does not report the version",
            "redis-cli ACL SETUSER USER +info",
        ),
        Some(major) if major < OLDEST => Finding::new(
            "version",
            Severity::Fatal,
            format!("{name} {version} does not support RESP3, which keybeat requires"),
            format!("install Redis {OLDEST} or newer, or Valkey"),
        ),
        Some(_) => Finding::ok("version", format!("{name} {version}")),
    }
}

fn role(facts: &Facts) -> Finding {
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

fn cluster(facts: &Facts) -> Finding {
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
        "the server is one of {primaries} primaries of a cluster; each sends events only for its own keys; the remaining \
         checks were skipped"
    );
    Finding::new("cluster", Severity::Warning, cause, "--redis redis-cluster://HOST:PORT")
}

fn rights(facts: &Facts) -> Finding {
    if facts.forbidden.is_empty() {
        return Finding::ok("rights", "the user may run every command that keybeat needs");
    }
    let keys: String = facts.key_globs.iter().map(|glob| quoted(&format!("~{glob}")) + " ").collect();
    let rights = facts.forbidden.join(" ");
    Finding::new(
        "rights",
        Severity::Fatal,
        format!("the user lacks {rights}, or access to the keys or channels for it"),
        format!("redis-cli ACL SETUSER USER {keys}'&__keyevent@*' {rights}"),
    )
}

/// The command that adds the missing classes.
fn set_classes(held: &str, missing: &str) -> String {
    format!("redis-cli CONFIG SET notify-keyspace-events '{held}{missing}'")
}

fn events(facts: &Facts) -> Finding {
    if let Some(mut missing) = facts.missing_classes().filter(|missing| !missing.is_empty()) {
        let held = facts.setting("notify-keyspace-events").unwrap_or_default();
        missing
            .extend(best_classes(facts).chars().filter(|&class| class == NEW_CLASS && !held.contains(class)));
        let cause = format!("notify-keyspace-events is {held:?} and lacks {missing:?}");
        let mend = set_classes(held, &missing);
        return if facts.may_set {
            Finding::new(
                "events",
                Severity::Warning,
                format!("{cause}; keybeat serve adds them when it starts"),
                mend,
            )
        } else {
            Finding::new("events", Severity::Fatal, format!("{cause}; the user may not set it"), mend)
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
    Finding::new("events", Severity::Fatal, cause, set_classes("", &best_classes(facts)))
}

/// Whether the server reports keys that other commands than SET create. The daemon works without it.
fn new_keys(facts: &Facts) -> Finding {
    const CHECK: &str = "events";
    const LATE: &str =
        "keys that other commands than SET create are found only when keybeat compares all keys";
    if facts.arrived.contains("new") {
        let cause = "the server sent an event for each change of a test key: new, set, expired, deleted";
        return Finding::ok(CHECK, cause);
    }
    if !best_classes(facts).contains(NEW_CLASS) {
        let cause = format!("the server does not know the event class {NEW_CLASS} (new keys): {LATE}");
        return Finding::new(CHECK, Severity::Note, cause, "install Redis 7 or newer, or Valkey");
    }
    let adds = if facts.may_set { "; keybeat serve adds it when it starts" } else { "" };
    let cause = format!("notify-keyspace-events lacks {NEW_CLASS} (new keys){adds}; without it, {LATE}");
    let held = facts.setting("notify-keyspace-events").unwrap_or(CLASSES);
    Finding::new(CHECK, Severity::Note, cause, set_classes(held, &NEW_CLASS.to_string()))
}

/// Whether the event classes survive a restart: a setting that is not in the file is lost.
fn events_after_restart(facts: &Facts) -> Finding {
    const CHECK: &str = "restart";
    let severity = if facts.may_set { Severity::Note } else { Severity::Warning };
    let again =
        if facts.may_set { "; keybeat serve sets them again" } else { "; the user may not set them again" };
    let path = facts.field("config_file");
    if path.is_empty() {
        let cause = format!(
            "the server was started without a configuration file, so it loses its settings at a restart{again}"
        );
        return Finding::new(CHECK, severity, cause, "start it with a file: redis-server ./redis.conf");
    }
    match facts.in_file.as_deref().map(missing_classes) {
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
                "notify-keyspace-events in {path} lacks {missing:?}, so the server sends no such events after a restart{again}"
            ),
            "redis-cli CONFIG REWRITE",
        ),
    }
}

fn configuring(facts: &Facts) -> Finding {
    if facts.settings.is_some() && facts.may_set {
        return Finding::ok("config", "the user may run CONFIG GET and CONFIG SET");
    }
    Finding::new(
        "config",
        Severity::Note,
        "the user may not run CONFIG, so keybeat cannot read or add event classes; some settings below were not checked",
        "redis-cli ACL SETUSER USER '+config|get' '+config|set'; or start keybeat with --configure-redis false",
    )
}

fn eviction(facts: &Facts) -> Finding {
    let (Some(most), Some(policy)) = (facts.setting("maxmemory"), facts.setting("maxmemory-policy")) else {
        return Finding::ok("eviction", "unknown: the user may not run CONFIG GET");
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
            "redis-cli CONFIG SET maxmemory-policy noeviction",
        ),
    }
}

fn buffers(facts: &Facts) -> Finding {
    const MEND: &str = "redis-cli CONFIG SET client-output-buffer-limit 'pubsub 256mb 64mb 60'";
    let Some(text) = facts.setting("client-output-buffer-limit") else {
        return Finding::ok("buffers", "unknown: the user may not run CONFIG GET");
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
            MEND,
        ),
        STOCK_BUFFER => Finding::new(
            "buffers",
            Severity::Note,
            format!(
                "the default limit: the server disconnects a subscriber that is 32 MiB (about {events} events) behind"
            ),
            MEND,
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

fn lag(facts: &Facts) -> Finding {
    let number = |name: &str| facts.setting(name).and_then(|text| text.parse::<u64>().ok());
    let Some(hz) = number("hz") else {
        return Finding::ok("lag", "unknown: the user may not run CONFIG GET");
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
        return Finding::new("lag", Severity::Note, cause, "redis-cli CONFIG SET hz 10");
    }
    Finding::ok("lag", format!("{cause}; keybeat's deadline probes reduce this to milliseconds"))
}

fn clock(facts: &Facts) -> Finding {
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

fn replicas(facts: &Facts) -> Finding {
    match facts.field("connected_slaves") {
        "" | "0" => Finding::ok(
            "replicas",
            "none: if this server is lost, its users are offline until their next heartbeat",
        ),
        count => Finding::new(
            "replicas",
            Severity::Note,
            format!("{count}; a replica that becomes primary uses its own settings, event classes included"),
            format!("on each replica: {}", set_classes("", &best_classes(facts))),
        ),
    }
}

/// "12 of 300 presence keys"; for a sample "12 of 300 sampled presence keys".
fn some_of(keys: &KeySample, count: usize) -> String {
    let sampled = if keys.all { "" } else { "sampled " };
    format!("{count} of {} {sampled}presence keys", keys.asked)
}

fn immortal(keys: &KeySample) -> Finding {
    let Some(first) = keys.immortal.first() else {
        return Finding::ok("ttl", format!("all {} presence keys that were checked have a TTL", keys.asked));
    };
    let some = some_of(keys, keys.immortal.len());
    let cause =
        format!("{some} have no TTL, such as {first:?}; their users stay online until the keys are deleted");
    Finding::new("ttl", Severity::Warning, cause, format!("redis-cli EXPIRE {} 30", quoted(first)))
}

fn other_types(facts: &Facts) -> Finding {
    let keys = &facts.keys;
    let Some((first, kind)) = keys.other.first() else {
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

/// A word in single quotes for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::info::Info;

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
            [Severity::Fatal, Severity::Warning, Severity::Ok]
        );
    }

    #[test]
    fn quoted_name_stays_one_shell_word() {
        assert_eq!(quoted("presence:o'neil; rm"), r"'presence:o'\''neil; rm'");
    }
}
