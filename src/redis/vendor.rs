//! The service or program behind a server, as far as the server or its host name reveals it. No I/O.
//!
//! docs/MANAGED_REDIS.md has what is known of each, with sources.

use crate::redis::info::Info;

/// A service that operates servers, or a program with restrictions of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// Amazon ElastiCache with nodes.
    ElastiCache,
    /// Amazon ElastiCache Serverless.
    ElastiCacheServerless,
    /// Amazon MemoryDB.
    MemoryDb,
    /// Azure Managed Redis, or one of its predecessors.
    Azure,
    /// Redis Cloud.
    RedisCloud,
    /// Upstash.
    Upstash,
    /// Heroku Key-Value Store.
    Heroku,
    /// KeyDB, a program.
    KeyDb,
    /// Dragonfly, a program.
    Dragonfly,
}

/// The ends of host names, in lower case, and whose they are.
const DOMAINS: [(&str, Vendor); 8] = [
    (".cache.amazonaws.com", Vendor::ElastiCache),
    (".upstash.io", Vendor::Upstash),
    (".redis-cloud.com", Vendor::RedisCloud),
    (".redislabs.com", Vendor::RedisCloud),
    (".redis.azure.net", Vendor::Azure),
    (".redisenterprise.cache.azure.net", Vendor::Azure),
    (".redis.cache.windows.net", Vendor::Azure),
    (".cache.amazonaws.com.cn", Vendor::ElastiCache),
];

/// The end of the host names of virtual machines at Amazon, which Heroku's servers have too.
const MACHINES: &str = ".amazonaws.com";

impl Vendor {
    /// The vendor, and what gave it away. `hosts` are the host names of the URL and those that a cluster announces. Without CONFIG a
    /// virtual machine at Amazon is taken for Heroku's.
    pub fn recognise(info: &Info, hosts: &[String], has_config: bool) -> Option<(Vendor, String)> {
        of_info(info, hosts).or_else(|| hosts.iter().find_map(|host| of_host(host, has_config)))
    }
}

fn of_info(info: &Info, hosts: &[String]) -> Option<(Vendor, String)> {
    let field = |name: &str, vendor| {
        let value = info.field(name);
        (!value.is_empty()).then(|| (vendor, format!("INFO has {name}:{value}")))
    };
    if info.field("os") == "Amazon ElastiCache" {
        let serverless = hosts.iter().any(|host| is_serverless(host));
        let vendor = if serverless { Vendor::ElastiCacheServerless } else { Vendor::ElastiCache };
        return field("os", vendor);
    }
    field("dragonfly_version", Vendor::Dragonfly).or_else(|| field("mvcc_depth", Vendor::KeyDb))
}

fn of_host(host: &str, has_config: bool) -> Option<(Vendor, String)> {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let known = DOMAINS.iter().find(|(end, _)| name.ends_with(end)).map(|(_, vendor)| *vendor);
    let vendor = match known {
        Some(Vendor::ElastiCache) if is_serverless(&name) => Vendor::ElastiCacheServerless,
        Some(vendor) => vendor,
        None if name.contains(".memorydb.") && name.contains(MACHINES) => Vendor::MemoryDb,
        None if name.contains(".compute") && name.ends_with(MACHINES) && !has_config => Vendor::Heroku,
        None => return None,
    };
    Some((vendor, format!("the host is {host}")))
}

fn is_serverless(host: &str) -> bool {
    host.contains(".serverless.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(info: &str, host: &str, has_config: bool) -> Option<Vendor> {
        Vendor::recognise(&Info::parse(info), &[host.to_owned()], has_config).map(|(vendor, _)| vendor)
    }

    #[test]
    fn hosts_reveal_their_vendor() {
        for (host, vendor) in [
            ("presence.abc123.0001.use1.cache.amazonaws.com", Some(Vendor::ElastiCache)),
            ("clustercfg.presence.abc123.EUW1.Cache.AmazonAWS.com.", Some(Vendor::ElastiCache)),
            ("presence-abc.serverless.use1.cache.amazonaws.com", Some(Vendor::ElastiCacheServerless)),
            ("clustercfg.my-cluster.xxxxxx.memorydb.us-east-1.amazonaws.com", Some(Vendor::MemoryDb)),
            ("presence.westeurope.redis.azure.net", Some(Vendor::Azure)),
            ("presence.westeurope.redisenterprise.cache.azure.net", Some(Vendor::Azure)),
            ("presence.redis.cache.windows.net", Some(Vendor::Azure)),
            ("redis-12345.c1.us-east-1-4.ec2.redns.redis-cloud.com", Some(Vendor::RedisCloud)),
            ("redis-12345.c1.us-east-1-4.ec2.cloud.redislabs.com", Some(Vendor::RedisCloud)),
            ("eu1-presence-1.upstash.io", Some(Vendor::Upstash)),
            ("ec2-52-3-6-1.compute-1.amazonaws.com", Some(Vendor::Heroku)),
            ("ec2-52-3-6-1.eu-west-1.compute.amazonaws.com", Some(Vendor::Heroku)),
            ("cache.amazonaws.com.evil.example", None),
            ("upstash.io", None),
            ("redis.example", None),
            ("10.0.0.1", None),
        ] {
            assert_eq!(of("redis_version:7.1.0", host, false), vendor, "{host}");
        }
        assert_eq!(of("", "ec2-52-3-6-1.compute-1.amazonaws.com", true), None, "somebody's own server");
    }

    #[test]
    fn info_reveals_its_vendor() {
        for (info, vendor) in [
            ("os:Amazon ElastiCache", Some(Vendor::ElastiCache)),
            ("redis_version:7.4.0\r\ndragonfly_version:df-v1.40.1", Some(Vendor::Dragonfly)),
            ("redis_version:6.3.4\r\n# KeyDB\r\nmvcc_depth:0", Some(Vendor::KeyDb)),
            ("os:Linux 5.10.0\r\nredis_version:7.0.15", None),
            ("server_name:valkey\r\nvalkey_version:9.1.2", None),
        ] {
            assert_eq!(of(info, "10.0.0.1", true), vendor, "{info}");
        }
        let serverless = of("os:Amazon ElastiCache", "x.serverless.use1.cache.amazonaws.com", false);
        assert_eq!(serverless, Some(Vendor::ElastiCacheServerless));
    }
}
