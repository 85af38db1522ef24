//! INFO, and the other replies that have its form.

use crate::redis::resp::client::Pipeline;
use crate::redis::resp::commands::Commands;
use crate::redis::resp::reply::{Allowed, RedisReply};
use anyhow::{Context, Result};
use std::collections::{BTreeMap, HashMap};

/// The errors of a server that takes no writes: a script runs for too long, it loads its data, its cluster is down, its
/// memory is full, it cannot save, or too few replicas follow it.
pub(super) const REFUSED: [&str; 6] = ["BUSY", "LOADING", "CLUSTERDOWN", "OOM", "MISCONF", "NOREPLICAS"];

/// The fields of INFO or CLUSTER INFO.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info(HashMap<String, String>);

impl Info {
    /// Parses `name:value` lines and ignores all others.
    pub fn parse(text: &str) -> Info {
        let mut info = Info::default();
        info.add(text);
        info
    }

    fn add(&mut self, text: &str) {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        self.0.extend(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())));
    }

    /// Reads these sections, or the server's default sections if none are named.
    ///
    /// # Errors
    /// The connection was lost, or the server refused INFO.
    pub(super) async fn read(pipeline: &Pipeline, sections: &[&str]) -> Result<Info> {
        let mut commands = Commands::default();
        // Redis before 7 accepts only one section in a command.
        sections.iter().for_each(|section| commands.add(&["INFO", section]));
        if sections.is_empty() {
            commands.add(&["INFO"]);
        }
        let mut info = Info::default();
        for reply in pipeline.send(commands).await? {
            info.add(&reply.text().context("INFO was refused; an ACL user needs +info")?);
        }
        Ok(info)
    }

    /// Reads CLUSTER INFO. A server that is not part of a cluster refuses it.
    ///
    /// # Errors
    /// The connection was lost.
    pub(super) async fn read_cluster(pipeline: &Pipeline) -> Result<Allowed<Info>> {
        Ok(match pipeline.one(&["CLUSTER", "INFO"]).await? {
            RedisReply::Refused(why) => Err(why),
            reply => Ok(Info::parse(&reply.text()?)),
        })
    }

    /// A field; empty if there is none.
    pub fn field(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// How many keys a database has, not only presence keys.
    pub(super) fn keys_in(&self, db: u8) -> usize {
        number_after("keys=", self.field(&format!("db{db}"))).unwrap_or(0) as usize
    }

    /// How many keys with a TTL the server has, in all databases.
    pub(super) fn expiring(&self) -> u64 {
        let databases = self.0.iter().filter(|(name, _)| name.starts_with("db"));
        databases.filter_map(|(_, text)| number_after("expires=", text)).sum()
    }

    /// How often each command was called, by its name. Needs the section commandstats.
    pub(super) fn calls(&self) -> BTreeMap<String, u64> {
        let call = |(name, text): (&String, &String)| {
            Some((name.strip_prefix("cmdstat_")?.to_owned(), number_after("calls=", text)?))
        };
        self.0.iter().filter_map(call).collect()
    }

    /// How many commands the server has refused in a state in which it takes no writes. Needs the section errorstats.
    pub(super) fn refused_writes(&self) -> u64 {
        let count = |code: &&str| number_after("count=", self.field(&format!("errorstat_{code}")));
        REFUSED.iter().filter_map(count).sum()
    }

    /// How long the server has been running, in milliseconds: keys that it loaded from disk may be that old.
    /// `u64::MAX` if it started without data, or if the uptime is unknown.
    pub(super) fn uptime_ms(&self) -> u64 {
        // Redis 7 and later report this; the keys of an append-only file are not counted.
        let started_empty =
            self.field("rdb_last_load_keys_loaded") == "0" && self.field("aof_enabled") == "0";
        let seconds = self.field("uptime_in_seconds").parse::<u64>();
        seconds.ok().filter(|_| !started_empty).map_or(u64::MAX, |seconds| seconds.saturating_mul(1_000))
    }
}

/// Reads one number of `keys=7,expires=7,…`.
fn number_after(name: &str, text: &str) -> Option<u64> {
    text.split(',').find_map(|part| part.strip_prefix(name)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_report_their_keys() {
        let info = Info::parse("db0:keys=5,expires=3,avg_ttl=0\r\ndb3:keys=9,expires=9\r\nrole:master\r\n");
        assert_eq!(info.expiring(), 12);
        assert_eq!((info.keys_in(0), info.keys_in(3)), (5, 9));
        assert_eq!(info.keys_in(1), 0, "INFO leaves out an empty database");
    }

    #[test]
    fn refused_writes_are_counted() {
        let info =
            Info::parse("errorstat_ERR:count=9\r\nerrorstat_OOM:count=3\r\nerrorstat_BUSY:count=4\r\n");
        assert_eq!(info.refused_writes(), 7);
        assert_eq!(Info::default().refused_writes(), 0);
    }

    #[test]
    fn calls_are_counted_by_command() {
        let info = Info::parse(
            "cmdstat_set:calls=7,usec=9\r\ncmdstat_config|get:calls=2,usec=1\r\nused:calls=1\r\n",
        );
        let calls = info.calls();
        assert_eq!((calls.len(), calls["set"], calls["config|get"]), (2, 7, 2));
    }

    #[test]
    fn uptime_counts_only_with_loaded_data() {
        let uptime = |loaded: &str, aof: &str| {
            let text = format!("uptime_in_seconds:3\nrdb_last_load_keys_loaded:{loaded}\naof_enabled:{aof}");
            Info::parse(&text).uptime_ms()
        };
        assert_eq!([uptime("7", "0"), uptime("0", "1"), uptime("0", "0")], [3_000, 3_000, u64::MAX]);
        assert_eq!(Info::parse("uptime_in_seconds:3").uptime_ms(), 3_000, "before Redis 7");
        assert_eq!(Info::default().uptime_ms(), u64::MAX);
    }
}
