//! `keybeat doctor`: checks of a Redis server for everything that breaks presence, with a fix for each problem.

mod directory;
mod events;
mod finding;
mod keys;
mod last_seen;
mod server;
mod settings;
mod stream;
mod vendor;

use super::rights::refused_right;
use super::stream::NO_STREAM;
use super::{DoctorArgs, Usage, logging, printed, progress};
use crate::presence::KeyPattern;
use crate::redis::cluster::{self, Node, SLOTS};
use crate::redis::directory::DirectoryNames;
use crate::redis::inspect::Facts;
use crate::redis::stream::StreamNames;
use crate::redis::target::{Target, is_about_password};
use anyhow::Result;
use finding::{Finding, Severity};
use indicatif::ProgressBar;
use std::io::Write;
use std::process::ExitCode;

pub async fn run(args: DoctorArgs) -> Result<ExitCode> {
    logging::start_quiet();
    let target = super::redis(&args.redis.redis, &args.redis.redis_access)?;
    let bar = progress::step(&format!("checking {}", target.shown()));
    let pattern = args.redis.pattern.pattern();
    let stream = args.stream.as_deref().map(|name| names(name, &pattern)).transpose()?;
    if stream.is_none() && !args.webhook.is_empty() {
        return Err(Usage(NO_STREAM.into()).into());
    }
    let hosts = target.hosts();
    let webhooks = !args.webhook.is_empty();
    let subject = Subject { hosts: &hosts, pattern: &pattern, stream: stream.as_ref(), webhooks };
    let findings = look_at(&target, subject, &bar).await;
    bar.finish_and_clear();
    print(&findings, args.json)?;
    let fatal = findings.iter().any(|finding| finding.severity == Severity::Fatal);
    Ok(if fatal { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The subject of the examination, the same for all servers.
#[derive(Clone, Copy)]
struct Subject<'a> {
    /// The hosts that the URL names.
    hosts: &'a [String],
    /// The pattern of the presence keys.
    pattern: &'a KeyPattern,
    /// The stream, if one is named.
    stream: Option<&'a StreamNames>,
    /// Webhooks receive the entries of the stream.
    webhooks: bool,
}

fn names(stream: &str, pattern: &KeyPattern) -> Result<StreamNames, Usage> {
    let none = DirectoryNames { status: String::new(), group: String::new() };
    StreamNames::new(stream, pattern, &none).map_err(Usage)
}

/// Checks each primary of a cluster separately, because a setting can be wrong on one of them.
async fn look_at(target: &Target, subject: Subject<'_>, bar: &ProgressBar) -> Vec<Finding> {
    let topology = match cluster::primaries(target).await {
        Ok(topology) => topology,
        Err(why) => return vec![unreachable(&why).reaching(target)],
    };
    if !topology.clustered {
        return look_at_node(&topology.nodes[0], subject, bar).await;
    }
    let coverage = coverage(topology.fleet().without_owner(), topology.nodes.len());
    let mut findings = vec![match topology.nodes.first() {
        Some(node) => coverage.reaching(&node.target),
        None => coverage,
    }];
    for node in &topology.nodes {
        let found = look_at_node(node, subject, bar).await;
        findings.extend(found.into_iter().map(|finding| finding.at(node)));
    }
    findings
}

async fn look_at_node(node: &Node, subject: Subject<'_>, bar: &ProgressBar) -> Vec<Finding> {
    let Subject { hosts, pattern, stream, webhooks } = subject;
    let show = |what: &str| bar.set_message(printed::text(&format!("{}: {what}", node.shown())).into_owned());
    let findings = match Facts::read(node, hosts, pattern, show).await {
        Ok(facts) => {
            let mut findings = examine(&facts);
            if facts.can_be_tried() && !server::is_too_old(&facts) {
                findings.extend(directory::look_at(node, pattern).await);
                findings.extend(last_seen::look_at(node, pattern).await);
                if let Some(names) = stream {
                    findings.extend(stream::look_at(node, names, webhooks).await);
                }
            }
            findings.into_iter().map(|finding| vendor::adapt(finding, &facts)).collect()
        }
        Err(why) => vec![unreachable(&why)],
    };
    findings.into_iter().map(|finding| finding.reaching(&node.target)).collect()
}

fn unreachable(why: &anyhow::Error) -> Finding {
    let cause = format!("{why:#}");
    let fix = remedy(&cause);
    Finding::new("connection", Severity::Fatal, cause, fix)
}

/// The fix for a server that cannot be examined, by the words of the cause.
fn remedy(cause: &str) -> String {
    let has = |words: &str| cause.contains(words);
    if let Some(right) = refused_right(cause) {
        return format!("redis-cli ACL SETUSER USER '+{right}'");
    }
    if let Some((_, mapping)) = cause.split_once("--cluster-address-map ") {
        return format!(
            "name the address at which the node is reached: --cluster-address-map {mapping}; several separated by commas"
        );
    }
    let text = if is_about_password(cause) && has("rediss://USER") {
        "--redis rediss://USER:PASSWORD@HOST:PORT"
    } else if is_about_password(cause) {
        "--redis redis://USER:PASSWORD@HOST:PORT"
    } else if has("cluster support disabled") {
        "the server is not part of a cluster; write redis:// in place of redis-cluster://"
    } else if has("cluster_state is not ok") {
        "redis-cli --cluster check with the address of one node, then redis-cli --cluster fix"
    } else if has("DB index is out of range") {
        "write a database that the server has, such as --redis redis://HOST:PORT/0"
    } else if has("then write redis://") {
        "--redis redis://HOST:PORT, if the port does not speak TLS"
    } else if has("if this port speaks TLS") {
        "--redis rediss://HOST:PORT, if the port speaks TLS; otherwise name the port of a Redis server, usually 6379"
    } else if has("does not seem to speak TLS") {
        "--redis redis://HOST:PORT"
    } else if has("--redis-ca FILE") {
        "--redis-ca FILE, a file in PEM with the certificate of the server's authority, or with the server's own"
    } else if has("as its certificate has it") {
        "name the server by a host name or address that its certificate has, or add the one of the URL to the certificate"
    } else if has("renew the server's certificate") {
        "renew the server's certificate, or correct the clock of this machine: timedatectl set-ntp true"
    } else {
        "start it: redis-server ./redis.conf; or name another one: --redis URL"
    };
    text.to_owned()
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
            writeln!(out, "{}", printed::json(finding)?)?;
            continue;
        }
        if finding.server != server {
            server.clone_from(&finding.server);
            writeln!(out, "\n{}", printed::text(server.as_deref().unwrap_or_default()))?;
        }
        let severity = format!("{:?}", finding.severity).to_lowercase();
        writeln!(out, "{severity:7}  {:12}  {}", finding.check, printed::text(&finding.cause))?;
        if let Some(mend) = &finding.mend {
            writeln!(out, "{:7}  {:12}  → {}", "", "", printed::text(mend))?;
        }
    }
    if !as_json {
        writeln!(out, "\n{}", summary(findings))?;
    }
    Ok(out.flush()?)
}

/// The last line: how many checks found something.
fn summary(findings: &[Finding]) -> String {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let all = if findings.len() == 1 { "1 check".into() } else { format!("{} checks", findings.len()) };
    match [Severity::Fatal, Severity::Warning, Severity::Note].map(count) {
        [0, 0, 0] => format!("{all}, all ok"),
        [0, warnings, notes] => format!("{all}; warnings: {warnings}, notes: {notes}; presence works"),
        [fatal, warnings, notes] => format!(
            "{all}; fatal: {fatal}, warnings: {warnings}, notes: {notes}; fix the fatal ones first, presence does not work"
        ),
    }
}

/// All checks, in the order in which to fix the problems.
fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![server::version(facts)];
    if server::is_too_old(facts) {
        return findings;
    }
    findings.extend(vendor::vendor(facts));
    findings.extend([server::role(facts), server::cluster(facts)]);
    if !facts.can_be_tried() {
        return findings;
    }
    findings.extend([
        events::rights(facts),
        events::lease(facts),
        events::events(facts),
        events::after_restart(facts),
        settings::config(facts),
    ]);
    findings.extend([settings::eviction(facts), settings::buffers(facts), settings::lag(facts)]);
    findings.extend([server::clock(facts), server::replicas(facts)]);
    findings.extend([keys::immortal(&facts.keys), keys::other_types(facts)]);
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_counts_checks_and_findings() {
        let mut findings = vec![Finding::new("connection", Severity::Fatal, "refused", "start it")];
        assert!(summary(&findings).starts_with("1 check; fatal: 1, warnings: 0, notes: 0; fix"));
        findings[0] = Finding::ok("version", "Redis 7.0.15");
        assert_eq!(summary(&findings), "1 check, all ok");
        findings.push(Finding::new("lag", Severity::Note, "hz 500", "hz 10"));
        assert_eq!(summary(&findings), "2 checks; warnings: 0, notes: 1; presence works");
    }

    #[test]
    fn old_server_has_one_finding() {
        let info = crate::redis::info::Info::parse("redis_version:5.0.14\r\nrole:master");
        let findings = examine(&Facts { info, ..Facts::default() });
        let causes: Vec<_> = findings.iter().map(|finding| (finding.severity, &*finding.cause)).collect();
        let wanted =
            "Redis 5.0.14 does not support RESP3, which keybeat requires; the remaining checks were skipped";
        assert_eq!(causes, [(Severity::Fatal, wanted)]);
    }

    #[test]
    fn refused_command_becomes_the_right_that_is_missing() {
        let cause = "cannot connect: NOPERM this user has no permissions to run the 'client|setname' command";
        assert_eq!(remedy(cause), "redis-cli ACL SETUSER USER '+client|setname'");
        assert!(remedy("Connection refused").starts_with("start it"));
        for (cause, fix) in [
            ("Connection reset by peer; if this port speaks TLS, write rediss://", "--redis rediss://"),
            ("does not speak RESP; if this port speaks TLS, write rediss://", "--redis rediss://"),
            ("this port does not seem to speak TLS: write redis://", "--redis redis://"),
            (
                "NOAUTH; the URL needs the right user and password, rediss://USER:PASSWORD@HOST:PORT",
                "--redis rediss://",
            ),
            (
                "NOAUTH; the URL needs the right user and password, redis://USER:PASSWORD@HOST:PORT",
                "--redis redis://",
            ),
            ("UnknownIssuer; name that certificate with --redis-ca FILE", "--redis-ca FILE"),
            ("write the server's name in the URL as its certificate has it", "name the server by"),
            ("certificate expired; renew the server's certificate, or correct the clock", "renew"),
        ] {
            assert!(remedy(cause).starts_with(fix), "{cause}: {}", remedy(cause));
        }
        let cause = "cannot connect; map it: --cluster-address-map 203.0.113.1:7=REACHABLE:PORT";
        assert!(remedy(cause).contains("reached: --cluster-address-map 203.0.113.1:7=REACHABLE:PORT;"));
    }
}
