//! The failures of a webhook that are logged: each one that differs from the last, and at most one a minute.

use crate::presence::Time;

/// The time between two warnings, in milliseconds.
const EVERY_MS: u64 = 60_000;

/// See the module's head.
#[derive(Default)]
pub(super) struct Warnings {
    /// The failure that was logged last, unless the webhook has worked since.
    logged: Option<String>,
    next_at: Time,
}

impl Warnings {
    /// Whether to log this failure now.
    pub(super) fn failed(&mut self, now: Time, why: &str) -> bool {
        let logs = now >= self.next_at && self.logged.as_deref() != Some(why);
        if logs {
            self.logged = Some(why.to_owned());
            self.next_at = now.plus(EVERY_MS);
        }
        logs
    }

    /// The webhook works.
    pub(super) fn recovered(&mut self) {
        self.logged = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_logged_once_a_minute() {
        let mut warnings = Warnings::default();
        let mut logs = |at_s: u64, why| warnings.failed(Time::from_ms(at_s * 1_000), why);
        assert_eq!([logs(1, "500"), logs(2, "500"), logs(3, "down")], [true, false, false]);
        assert_eq!([logs(60, "down"), logs(61, "down"), logs(200, "down")], [false, true, false]);
        warnings.recovered();
        let mut logs = |at_s: u64, why| warnings.failed(Time::from_ms(at_s * 1_000), why);
        assert_eq!([logs(210, "down"), logs(211, "down")], [true, false], "it failed again");
        warnings.recovered();
        assert!(!warnings.failed(Time::from_ms(215_000), "down"), "within a minute");
        assert!(warnings.failed(Time::from_ms(270_000), "down"));
    }
}
