//! How the daemon learns that the users of a server have renewed their keys.

/// The source of renewals, for one server; the one that takes the most messages first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Renewals {
    /// Each `set`, `expire` and `persist` event: no renewal is unheard.
    Expire,
    /// Each `set` event. Other renewals are found by the probe at the deadline.
    #[default]
    Set,
    /// Questions alone: the daemon does not subscribe to `set`, and asks for each key once per TTL.
    New,
    /// Client tracking: the server publishes no events, but pushes the name of each key that changes, and the daemon asks for it.
    Tracking,
}

impl Renewals {
    /// Each source once.
    pub const ALL: [Renewals; 4] = [Renewals::Expire, Renewals::Set, Renewals::New, Renewals::Tracking];

    /// The word for `/v1/stats` and the metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Renewals::Expire => "expire",
            Renewals::Set => "set",
            Renewals::New => "new",
            Renewals::Tracking => "tracking",
        }
    }
}
