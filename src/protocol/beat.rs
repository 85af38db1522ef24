//! The sign of life that keeps the user of a socket online: the query parameter `beat`.

/// See the module's head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Beat {
    /// The open connection, which the daemon's pings prove to be alive.
    #[default]
    Connection,
    /// Each message of the client except `ping`. The pongs of a sleeping device do not count.
    Messages,
    /// Nothing: the user appears offline unless another session is live.
    Never,
}

impl Beat {
    /// The value of a parameter; `None` if there is no such value.
    pub fn parse(text: &str) -> Option<Beat> {
        [Beat::Messages, Beat::Never].into_iter().find(|beat| beat.parameter() == Some(text))
    }

    /// The parameter's value; `None` where there is no parameter.
    pub const fn parameter(self) -> Option<&'static str> {
        match self {
            Beat::Connection => None,
            Beat::Messages => Some("message"),
            Beat::Never => Some("false"),
        }
    }
}
