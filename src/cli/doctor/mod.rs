//! `keybeat doctor`: checks of a Redis server for everything that breaks presence, with a fix for each problem.

mod directory;
mod events;
mod finding;
mod keys;
mod server;
mod settings;
mod stream;

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
    let stream = args.stream.map(|name| names(&name, &pattern)).transpose()?;
    let findings = look_at(&target, (&pattern, stream.as_ref()), &bar).await;
    bar.finish_and_clear();
    print(&findings, args.json)?;
    let fatal = findings.iter().any(|finding| finding.severity == Severity::Fatal);
    Ok(if fatal { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The pattern of the presence keys, and the stream, if one is named.
type Names<'a> = (&'a KeyPattern, Option<&'a StreamNames>);

fn names(stream: &str, pattern: &KeyPattern) -> Result<StreamNames, Usage> {
    let none = DirectoryNames { status: String::new(), group: String::new() };
    StreamNames::new(stream, pattern, &none).map_err(Usage)
}

/// Checks each primary of a cluster separately, because a setting can be wrong on one of them.
async fn look_at(target: &Target, names: Names<'_>, bar: &ProgressBar) -> Vec<Finding> {
    let topology = match cluster::primaries(target).await {
        Ok(topology) => topology,
        Err(why) => return vec![unreachable(&why)],
    };
    if !topology.clustered {
        return look_at_node(&topology.nodes[0], names, bar).await;
    }
    let mut findings = vec![coverage(topology.fleet().without_owner(), topology.nodes.len())];
    for node in &topology.nodes {
        let found = look_at_node(node, names, bar).await;
        findings.extend(found.into_iter().map(|finding| finding.at(node)));
    }
    findings
}

async fn look_at_node(node: &Node, (pattern, stream): Names<'_>, bar: &ProgressBar) -> Vec<Finding> {
    let show = |what: &str| bar.set_message(printed::text(&format!("{}: {what}", node.shown())).into_owned());
    match Facts::read(node, pattern, show).await {
        Ok(facts) => {
            let mut findings = examine(&facts);
            if facts.can_be_tried() {
                findings.extend(directory::look_at(node, pattern).await);
                if let Some(names) = stream {
                    findings.extend(stream::look_at(node, names).await);
                }
            }
            findings
        }
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
    Ok(out.flush()?)
}

/// All checks, in the order in which to fix the problems.
fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![server::version(facts), server::role(facts), server::cluster(facts)];
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
