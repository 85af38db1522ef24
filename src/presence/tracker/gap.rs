//! Why events of a server may be missing.

/// The cause of a gap: a word for metrics and spans, and a sentence for logs and `/readyz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// No gap yet: the server's first comparison.
    Start,
    /// A connection was lost, or a command failed.
    Connection,
    /// The canary did not come back in time.
    Canary,
    /// A closing fence did not come back in time.
    Fence,
    /// The process was stopped or starved.
    Stalled,
    /// FLUSHALL, FLUSHDB or SWAPDB.
    Replaced,
    /// A server that published no `set` events now does.
    Events,
    /// A Sentinel names another primary.
    Failover,
    /// The server left the cluster.
    Topology,
}

impl Cause {
    /// Each cause once.
    pub const ALL: [Cause; 9] = [
        Cause::Start,
        Cause::Connection,
        Cause::Canary,
        Cause::Fence,
        Cause::Stalled,
        Cause::Replaced,
        Cause::Events,
        Cause::Failover,
        Cause::Topology,
    ];

    /// The value of the label `cause` in `keybeat_gaps_total` and `keybeat_repairs_total`.
    pub const fn label(self) -> &'static str {
        match self {
            Cause::Start => "start",
            Cause::Connection => "connection",
            Cause::Canary => "canary",
            Cause::Fence => "fence",
            Cause::Stalled => "stalled",
            Cause::Replaced => "replaced",
            Cause::Events => "events",
            Cause::Failover => "failover",
            Cause::Topology => "topology",
        }
    }

    /// The text for people, where nothing more precise is known.
    pub const fn text(self) -> &'static str {
        match self {
            Cause::Start => "the daemon has just started",
            Cause::Connection => "a connection to Redis was lost",
            Cause::Canary => "the event stream is dead (canary not seen in time)",
            Cause::Fence => "the event stream is dead (fence not seen in time)",
            Cause::Stalled => "the daemon was stopped or starved",
            Cause::Replaced => "the keyspace was replaced (FLUSHALL, FLUSHDB or SWAPDB)",
            Cause::Events => "the server published no set events and now does",
            Cause::Failover => "a Sentinel names another primary",
            Cause::Topology => "it is no longer a primary of the cluster",
        }
    }
}
