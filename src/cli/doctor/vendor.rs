//! The limits of the service behind a server, and its switches in place of CONFIG and ACL.

use super::finding::{Finding, Severity};
use crate::redis::inspect::{ConfigAccess, Facts};
use crate::redis::vendor::Vendor;

/// The page with the sources.
const PAGE: &str = "docs/MANAGED_REDIS.md";
/// The beginning of a fix that changes rights.
const SETUSER: &str = "redis-cli ACL SETUSER USER ";

fn name(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::ElastiCache => "Amazon ElastiCache",
        Vendor::ElastiCacheServerless => "Amazon ElastiCache Serverless",
        Vendor::MemoryDb => "Amazon MemoryDB",
        Vendor::Azure => "Azure Managed Redis or a predecessor",
        Vendor::RedisCloud => "Redis Cloud",
        Vendor::Upstash => "Upstash",
        Vendor::Heroku => "Heroku Key-Value Store",
        Vendor::KeyDb => "KeyDB",
        Vendor::Dragonfly => "Dragonfly",
    }
}

/// The service, if it was recognised.
pub(super) fn vendor(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "vendor";
    let (vendor, evidence) = facts.vendor.as_ref()?;
    let cause = format!("{} ({evidence})", name(*vendor));
    Some(match vendor {
        Vendor::Dragonfly => Finding::new(
            CHECK,
            Severity::Warning,
            format!("{cause}: it publishes no events for SET and DEL, so keybeat polls all keys"),
            format!("use Redis or Valkey; see {PAGE}"),
        ),
        Vendor::ElastiCacheServerless => Finding::new(
            CHECK,
            Severity::Note,
            format!("{cause}: all its settings are fixed, and it publishes no events"),
            format!("use an ElastiCache cluster with nodes, or Memorystore or another service of {PAGE}"),
        ),
        _ => Finding::ok(CHECK, format!("{cause}; {PAGE} has what it allows")),
    })
}

/// How to set the event classes, `setting`, at this service; `None` where CONFIG SET or the server's file does it.
pub(super) fn events_switch(facts: &Facts, setting: &str, classes: &str) -> Option<String> {
    if facts.config == ConfigAccess::Allowed {
        return None;
    }
    Some(match facts.vendor.as_ref()?.0 {
        Vendor::ElastiCache => format!(
            "set it in a custom parameter group of the cluster: aws elasticache modify-cache-parameter-group \
             --cache-parameter-group-name GROUP --parameter-name-values 'ParameterName={setting},ParameterValue={classes}'"
        ),
        Vendor::ElastiCacheServerless => {
            "use an ElastiCache cluster with nodes, whose parameter group has the setting".into()
        }
        Vendor::MemoryDb => {
            format!("set {setting} to {classes} in the cluster's parameter group, if it has the setting")
        }
        Vendor::Azure => format!(
            "in the Azure portal, under Advanced settings, set the keyspace notifications to {classes}; in a template, \
             notifyKeyspaceEvents of the database"
        ),
        Vendor::Heroku => {
            format!("heroku redis:keyspace-notifications REDIS_URL --config '{classes}' --app APP")
        }
        Vendor::RedisCloud => {
            format!(
                "allow the user +config in the console of Redis Cloud; keybeat then sets {setting} itself"
            )
        }
        Vendor::Upstash => format!("use a user with +config; keybeat then sets {setting} itself"),
        Vendor::KeyDb | Vendor::Dragonfly => return None,
    })
}

/// Whether somebody else operates the server, so that it has no file to look at.
pub(super) fn operator(facts: &Facts) -> Option<&'static str> {
    let vendor = facts.vendor.as_ref()?.0;
    (!matches!(vendor, Vendor::KeyDb | Vendor::Dragonfly)).then(|| name(vendor))
}

/// The finding with the service's own way to change rights, where ACL SETUSER is blocked.
pub(super) fn adapt(finding: Finding, facts: &Facts) -> Finding {
    let place = match facts.vendor.as_ref().map(|(vendor, _)| vendor) {
        Some(Vendor::ElastiCache | Vendor::ElastiCacheServerless | Vendor::MemoryDb) => {
            "add to the access string of the user"
        }
        Some(Vendor::RedisCloud) => "add to the rule of the user in the console of Redis Cloud",
        _ => return finding,
    };
    let fix = finding.mend.map(|fix| match fix.split_once(SETUSER) {
        Some((before, rules)) => format!("{before}{place}: {rules}"),
        None => fix,
    });
    Finding { mend: fix, ..finding }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = "notify-keyspace-events";

    fn facts(vendor: Vendor, config: ConfigAccess) -> Facts {
        Facts { vendor: Some((vendor, "the host is h".into())), config, ..Facts::default() }
    }

    #[test]
    fn each_service_has_its_own_switch() {
        for (vendor, words) in [
            (Vendor::ElastiCache, "aws elasticache modify-cache-parameter-group"),
            (Vendor::ElastiCacheServerless, "with nodes"),
            (Vendor::MemoryDb, "parameter group"),
            (Vendor::Azure, "Azure portal"),
            (Vendor::Heroku, "heroku redis:keyspace-notifications REDIS_URL --config 'E$gxe'"),
            (Vendor::RedisCloud, "console"),
            (Vendor::Upstash, "+config"),
        ] {
            let switch =
                events_switch(&facts(vendor, ConfigAccess::Absent), EVENTS, "E$gxe").expect("a switch");
            assert!(switch.contains(words), "{vendor:?}: {switch}");
            assert_eq!(
                events_switch(&facts(vendor, ConfigAccess::Allowed), EVENTS, "E$gxe"),
                None,
                "{vendor:?}"
            );
        }
        assert_eq!(events_switch(&facts(Vendor::KeyDb, ConfigAccess::Absent), EVENTS, "E$gxe"), None);
        assert_eq!(
            events_switch(&Facts { config: ConfigAccess::Absent, ..Facts::default() }, EVENTS, "x"),
            None
        );
    }

    #[test]
    fn rights_are_changed_where_the_service_allows_it() {
        let finding = || Finding::new("rights", Severity::Note, "x", format!("{SETUSER}+get"));
        let adapted = |vendor| adapt(finding(), &facts(vendor, ConfigAccess::Absent)).mend;
        assert_eq!(adapted(Vendor::MemoryDb).as_deref(), Some("add to the access string of the user: +get"));
        assert_eq!(adapted(Vendor::KeyDb), finding().mend);
        assert_eq!(adapt(finding(), &Facts::default()), finding());
    }
}
