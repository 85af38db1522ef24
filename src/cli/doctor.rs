//! `keybeat doctor`: whatever breaks presence at a Redis server, and the mend for each.

use super::{DoctorArgs, logging, progress};
use crate::redis::cluster::{self, Node, SLOTS};
use crate::redis::inspect::{Facts, Keys, classes};
use crate::redis::missing_classes;
use crate::redis::target::{Target, is_about_password};
use anyhow::Result;
use indicatif::ProgressBar;
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;

/// The first version that speaks RESP3, which keybeat needs.
const OLDEST: u64 = 6;
/// Clocks that are further apart make the times on the wire hard to compare, in milliseconds.
const CLOCK_MS: i64 = 1_000;
/// The stock limit of what a subscriber may have before it: 32 MiB.
const STOCK_BUFFER: u64 = 32 * 1024 * 1024;
/// Keys that one round of the active expiry looks at, with effort 1; each step of effort adds a quarter.
const KEYS_PER_ROUND: u64 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Ok,
    Note,
    Warning,
    Fatal,
}

/// What one check has found.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// Which node of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    check: &'static str,
    severity: Severity,
    cause: String,
    /// The command that mends it, or what to do.
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

    /// The same of one node of a cluster, and its mend to be done there.
    fn at(self, node: &Node) -> Finding {
        let (host, port) = node.addresses.first().and_then(|at| at.rsplit_once(':')).unwrap_or_default();
        let there = format!("redis-cli -h {host} -p {port} ");
        let mend = self.mend.map(|mend| mend.replace("redis-cli ", &there));
        Finding { server: Some(node.shown().to_owned()), mend, ..self }
    }
}

pub async fn run(args: DoctorArgs) -> Result<ExitCode> {
    logging::start_quiet();
    let target = super::redis(&args.redis.redis, &args.redis.redis_tls)?;
    let bar = progress::step(&format!("asking {}", target.shown()));
    let findings = look_at(&target, &args.redis.prefix, &bar).await;
    bar.finish_and_clear();
    print(&findings, args.json)?;
    let fatal = findings.iter().any(|finding| finding.severity == Severity::Fatal);
    Ok(if fatal { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Of a cluster: each primary by itself, for a setting can be wrong at one of them.
async fn look_at(target: &Target, prefix: &str, bar: &ProgressBar) -> Vec<Finding> {
    let topology = match cluster::primaries(target).await {
        Ok(topology) => topology,
        Err(why) => return vec![unreachable(&why)],
    };
    if !topology.clustered {
        return look_at_node(&topology.nodes[0], prefix, bar).await;
    }
    let mut findings = vec![coverage(topology.without_owner(), topology.nodes.len())];
    for node in &topology.nodes {
        let found = look_at_node(node, prefix, bar).await;
        findings.extend(found.into_iter().map(|finding| finding.at(node)));
    }
    findings
}

async fn look_at_node(node: &Node, prefix: &str, bar: &ProgressBar) -> Vec<Finding> {
    let say = |what: &str| bar.set_message(format!("{}: {what}", node.shown()));
    match Facts::read(node, prefix, say).await {
        Ok(facts) => examine(&facts),
        Err(why) => vec![unreachable(&why)],
    }
}

fn unreachable(why: &anyhow::Error) -> Finding {
    let cause = format!("{why:#}");
    let mend = if is_about_password(&cause) {
        "--redis redis://USER:PASSWORD@HOST:PORT"
    } else {
        "start it: redis-server ./redis.conf; or name another: --redis URL"
    };
    Finding::new("connection", Severity::Fatal, cause, mend)
}

fn coverage(missing: usize, primaries: usize) -> Finding {
    if missing == 0 {
        return Finding::ok("coverage", format!("{primaries} primaries own all {SLOTS} slots"));
    }
    let cause = format!("{missing} of {SLOTS} slots have no owner: heartbeats of their users fail");
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

/// All checks, in the order in which one would mend.
fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![version(facts), role(facts), cluster(facts)];
    if !facts.can_be_tried() {
        return findings;
    }
    findings.extend([rights(facts), events(facts), events_after_restart(facts), configuring(facts)]);
    findings.extend([eviction(facts), buffers(facts), lag(facts), clock(facts), replicas(facts)]);
    findings.extend([immortal(&facts.keys), other_types(&facts.keys)]);
    findings
}

fn version(facts: &Facts) -> Finding {
    let (name, version) = match facts.field("valkey_version") {
        "" => ("Redis", facts.field("redis_version")),
        version => ("Valkey", version),
    };
    let major = version.split('.').next().and_then(|major| major.parse::<u64>().ok());
    match major {
        None => Finding::new("version", Severity::Fatal, "INFO does not tell it", "ACL SETUSER USER +info"),
        Some(major) if major < OLDEST => Finding::new(
            "version",
            Severity::Fatal,
            format!("{name} {version} does not speak RESP3, which keybeat needs"),
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
        format!("it is a replica of {primary}; a replica takes no heartbeats and expires nothing by itself"),
        format!("--redis redis://{primary}"),
    )
}

fn cluster(facts: &Facts) -> Finding {
    if facts.field("cluster_enabled") != "1" {
        return Finding::ok("cluster", "it is no part of a cluster");
    }
    let of = |name: &str| facts.cluster.get(name).map_or("", String::as_str);
    let (state, slots) = (of("cluster_state"), of("cluster_slots_ok"));
    if state != "ok" {
        let cause = format!(
            "its cluster is {state}, with {slots} of 16384 slots served: heartbeats of the others fail"
        );
        return Finding::new("cluster", Severity::Fatal, cause, "redis-cli --cluster fix HOST:PORT");
    }
    let primaries = of("cluster_size");
    match facts.slots {
        Some(0) => {
            return Finding::ok("cluster", "it owns no slot of its cluster, so nothing more was tried");
        }
        Some(slots) => {
            return Finding::ok(
                "cluster",
                format!("it owns {slots} slots of a cluster of {primaries} primaries"),
            );
        }
        None if primaries == "1" => {
            return Finding::ok("cluster", "it is the only primary of its cluster, and holds every key");
        }
        None => {}
    }
    let cause = format!(
        "it is one of {primaries} primaries of a cluster; each tells only of the keys that it holds, and nothing more was tried"
    );
    Finding::new("cluster", Severity::Warning, cause, "--redis redis-cluster://HOST:PORT")
}

fn rights(facts: &Facts) -> Finding {
    if facts.forbidden.is_empty() {
        return Finding::ok("rights", "every command that keybeat needs is allowed");
    }
    let rights = facts.forbidden.join(" ");
    Finding::new(
        "rights",
        Severity::Fatal,
        format!("this user lacks {rights}, or the keys or channels for it"),
        format!("redis-cli ACL SETUSER USER '~presence:*' '&__keyevent@*' {rights}"),
    )
}

/// The command that sets what is missing.
fn set_classes(held: &str, missing: &str) -> String {
    format!("redis-cli CONFIG SET notify-keyspace-events '{held}{missing}'")
}

fn events(facts: &Facts) -> Finding {
    if let Some(missing) = facts.missing_classes().filter(|missing| !missing.is_empty()) {
        let held = facts.setting("notify-keyspace-events").unwrap_or_default();
        let cause = format!("notify-keyspace-events is {held:?} and lacks {missing:?}");
        let mend = set_classes(held, &missing);
        return if facts.may_set {
            Finding::new(
                "events",
                Severity::Warning,
                format!("{cause}; keybeat serve adds it when it starts"),
                mend,
            )
        } else {
            Finding::new("events", Severity::Fatal, format!("{cause}, and this user may not set it"), mend)
        };
    }
    let unheard: Vec<&str> = ["set", "expired", "del", "keybeat-fence"]
        .into_iter()
        .filter(|name| !facts.heard.contains(*name))
        .collect();
    if unheard.is_empty() {
        return Finding::ok("events", "a key of our own came, expired and was deleted, and each was told");
    }
    let told = format!("what was done to a key of our own was not told: {}", unheard.join(", "));
    if unheard.contains(&"keybeat-fence") {
        let mend = "redis-cli ACL SETUSER USER '&__keyevent@*' +subscribe +publish";
        return Finding::new(
            "events",
            Severity::Fatal,
            format!("{told}; the subscription does not stand"),
            mend,
        );
    }
    Finding::new("events", Severity::Fatal, told, set_classes("", classes()))
}

/// A setting that is not in the file is gone after a restart.
fn events_after_restart(facts: &Facts) -> Finding {
    const CHECK: &str = "restart";
    let severity = if facts.may_set { Severity::Note } else { Severity::Warning };
    let again = if facts.may_set {
        "; keybeat serve sets them again"
    } else {
        ", and this user may not set them again"
    };
    let path = facts.field("config_file");
    if path.is_empty() {
        let cause = format!(
            "the server was started without a file, so settings made since are gone after a restart{again}"
        );
        return Finding::new(CHECK, severity, cause, "start it with one: redis-server ./redis.conf");
    }
    match facts.in_file.as_deref().map(missing_classes) {
        None => Finding::new(
            CHECK,
            Severity::Note,
            format!(
                "{path} cannot be read here, so it is not known whether the events are told after a restart"
            ),
            format!("look there for: notify-keyspace-events {}", classes()),
        ),
        Some(missing) if missing.is_empty() => Finding::ok(CHECK, format!("{path} has the events too")),
        Some(missing) => Finding::new(
            CHECK,
            severity,
            format!(
                "in {path} notify-keyspace-events lacks {missing:?}: after a restart the events are not told{again}"
            ),
            "redis-cli CONFIG REWRITE",
        ),
    }
}

fn configuring(facts: &Facts) -> Finding {
    if facts.settings.is_some() && facts.may_set {
        return Finding::ok("config", "CONFIG GET and CONFIG SET are allowed");
    }
    Finding::new(
        "config",
        Severity::Note,
        "CONFIG is forbidden, so keybeat cannot see or add event classes; settings below were not all checked",
        "redis-cli ACL SETUSER USER '+config|get' '+config|set'; or start keybeat with --configure-redis false",
    )
}

fn eviction(facts: &Facts) -> Finding {
    let (Some(most), Some(policy)) = (facts.setting("maxmemory"), facts.setting("maxmemory-policy")) else {
        return Finding::ok("eviction", "not known: CONFIG GET is forbidden");
    };
    match (most, policy) {
        (_, "noeviction") => {
            Finding::ok("eviction", "noeviction: full memory is an error for whoever writes")
        }
        ("0", policy) => Finding::ok("eviction", format!("{policy}, but memory has no limit")),
        (_, policy) => Finding::new(
            "eviction",
            Severity::Warning,
            format!(
                "{policy}: when memory is full the server throws presence keys away, and their users blink"
            ),
            "redis-cli CONFIG SET maxmemory-policy noeviction",
        ),
    }
}

fn buffers(facts: &Facts) -> Finding {
    const MEND: &str = "redis-cli CONFIG SET client-output-buffer-limit 'pubsub 256mb 64mb 60'";
    let Some(text) = facts.setting("client-output-buffer-limit") else {
        return Finding::ok("buffers", "not known: CONFIG GET is forbidden");
    };
    let mut words = text.split_whitespace().skip_while(|word| *word != "pubsub").skip(1);
    let [hard, soft] =
        [words.next(), words.next()].map(|word| word.and_then(|word| word.parse::<u64>().ok()));
    let (Some(hard), Some(soft)) = (hard, soft) else {
        return Finding::ok("buffers", format!("not known: {text:?} has no pubsub"));
    };
    let mib = |bytes: u64| bytes / 1024 / 1024;
    // 94 bytes an event, measured.
    let events = if hard == 0 { soft } else { hard } / 94;
    match hard {
        0 if soft == 0 => Finding::ok("buffers", "a subscriber may fall behind without limit"),
        1..STOCK_BUFFER => Finding::new(
            "buffers",
            Severity::Warning,
            format!(
                "a subscriber that is {} MiB behind, about {events} events, is cut off; keybeat then has to compare all keys",
                mib(hard)
            ),
            MEND,
        ),
        STOCK_BUFFER => Finding::new(
            "buffers",
            Severity::Note,
            format!("the stock limit: a subscriber that is 32 MiB behind, about {events} events, is cut off"),
            MEND,
        ),
        hard => Finding::ok(
            "buffers",
            format!("a subscriber may be {} MiB behind, about {events} events", mib(hard)),
        ),
    }
}

/// How long the server itself takes to notice an expiry: a pass over all keys with a TTL, of which a round
/// looks at some, `hz` times a second. (Measured on Redis 7.0 to 8.2 and Valkey 9.)
fn pass_s(expiring: u64, hz: u64, effort: u64) -> f64 {
    let per_round = KEYS_PER_ROUND + KEYS_PER_ROUND / 4 * effort.saturating_sub(1);
    expiring as f64 / (per_round * hz.max(1)) as f64
}

fn lag(facts: &Facts) -> Finding {
    let number = |name: &str| facts.setting(name).and_then(|text| text.parse::<u64>().ok());
    let Some(hz) = number("hz") else { return Finding::ok("lag", "not known: CONFIG GET is forbidden") };
    let (expiring, effort) = (facts.expiring(), number("active-expire-effort").unwrap_or(1));
    let pass = pass_s(expiring, hz, effort);
    let cause = format!(
        "with {expiring} keys, hz {hz} and effort {effort} the server by itself notices an expiry after {:.1} s in the middle \
         and {pass:.1} s at worst",
        pass / 2.0
    );
    if hz > 100 {
        let cause =
            format!("{cause}; so high an hz costs CPU, and with keybeat's deadline probes it is not needed");
        return Finding::new("lag", Severity::Note, cause, "redis-cli CONFIG SET hz 10");
    }
    Finding::ok("lag", format!("{cause}; keybeat's deadline probes make it milliseconds"))
}

fn clock(facts: &Facts) -> Finding {
    let Some((ahead, unsure)) = facts.clock_ms else {
        return Finding::ok("clock", "not known: TIME is forbidden");
    };
    let side = if ahead < 0 { "behind" } else { "ahead of" };
    let apart = format!("the server's clock is {} ms {side} this machine's, ± {unsure} ms", ahead.abs());
    if ahead.abs() - unsure <= CLOCK_MS {
        return Finding::ok("clock", apart);
    }
    let cause =
        format!("{apart}; keys set with EXAT or PXAT by programs here last longer or shorter than they mean");
    Finding::new("clock", Severity::Warning, cause, "timedatectl set-ntp true, on both machines")
}

fn replicas(facts: &Facts) -> Finding {
    match facts.field("connected_slaves") {
        "" | "0" => Finding::ok(
            "replicas",
            "none: if this server is lost, so is who was online until the next heartbeat",
        ),
        count => Finding::new(
            "replicas",
            Severity::Note,
            format!("{count}; a replica that becomes the primary has settings of its own, event classes too"),
            format!("on each replica: {}", set_classes("", classes())),
        ),
    }
}

/// "12 of 300 presence keys" and what follows of the one named first.
fn some_of(keys: &Keys, count: usize) -> String {
    let all = if keys.all { "" } else { " that were looked at" };
    format!("{count} of {} presence keys{all}", keys.asked)
}

fn immortal(keys: &Keys) -> Finding {
    let Some(first) = keys.immortal.first() else {
        return Finding::ok("ttl", format!("each of {} presence keys has a TTL", keys.asked));
    };
    let some = some_of(keys, keys.immortal.len());
    let cause =
        format!("{some} have no TTL, such as {first:?}: their users are online until the keys are deleted");
    Finding::new("ttl", Severity::Warning, cause, format!("redis-cli EXPIRE {} 30", quoted(first)))
}

fn other_types(keys: &Keys) -> Finding {
    let Some((first, kind)) = keys.other.first() else {
        return Finding::ok("types", format!("{} presence keys looked at are strings", keys.asked));
    };
    let some = some_of(keys, keys.other.len());
    let cause = format!(
        "{some} are no strings, such as the {kind} {first:?}: what is written into them is no heartbeat"
    );
    let first = quoted(first);
    Finding::new(
        "types",
        Severity::Warning,
        cause,
        format!("redis-cli DEL {first}; and for a heartbeat SET {first} 1 EX 30"),
    )
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_lag_follows_from_keys_hz_and_effort() {
        // The measured p99, from 100,000 keys on: 0.01 % of them expire each second.
        for (keys, hz, effort, measured) in [
            (100_000, 10, 1, 479.0),
            (100_000, 100, 1, 51.0),
            (100_000, 10, 10, 125.0),
            (1_000_000, 100, 1, 492.0),
        ] {
            let told = pass_s(keys, hz, effort);
            assert!(
                (told / measured - 1.0).abs() < 0.25,
                "{keys} {hz} {effort}: {told}, measured {measured}"
            );
        }
    }

    #[test]
    fn clocks_apart_are_told_unless_the_way_is_as_long() {
        let at =
            |ahead, unsure| clock(&Facts { clock_ms: Some((ahead, unsure)), ..Facts::default() }).severity;
        assert_eq!([at(5, 1), at(-900, 1), at(3_000, 2_500)], [Severity::Ok; 3]);
        assert_eq!([at(1_500, 1), at(-1_500, 1)], [Severity::Warning; 2]);
    }

    #[test]
    fn a_version_that_is_too_old_is_fatal() {
        let of = |name: &str, version: &str| {
            let info = HashMap::from([(name.to_owned(), version.to_owned())]);
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
    fn a_cluster_that_is_not_whole_is_fatal() {
        let of = |state: &str, size: &str| {
            let info = HashMap::from([("cluster_enabled".to_owned(), "1".to_owned())]);
            let cluster = [("cluster_state", state), ("cluster_size", size), ("cluster_slots_ok", "9")];
            let cluster = cluster.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            super::cluster(&Facts { info, cluster, ..Facts::default() }).severity
        };
        assert_eq!(
            [of("fail", "3"), of("ok", "3"), of("ok", "1")],
            [Severity::Fatal, Severity::Warning, Severity::Ok]
        );
    }

    #[test]
    fn a_name_with_a_quote_stays_one_word_of_the_shell() {
        assert_eq!(quoted("presence:o'neil; rm"), r"'presence:o'\''neil; rm'");
    }
}
