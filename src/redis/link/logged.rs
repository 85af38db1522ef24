//! The faults that the log contains already: a lasting fault is logged once, not with each attempt to connect.

use std::collections::BTreeSet;

/// Lines that are remembered. Beyond it, all are forgotten, and each is logged once more.
const MOST: usize = 32;

/// Lines that were logged since the last connection that lasted.
#[derive(Default)]
pub(super) struct LoggedLines(BTreeSet<String>);

impl LoggedLines {
    /// Was this line not logged yet?
    pub(super) fn is_new(&mut self, line: &str) -> bool {
        if self.0.len() >= MOST && !self.0.contains(line) {
            self.0.clear();
        }
        self.0.insert(line.to_owned())
    }

    /// A connection lasted, so what comes next is news.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_new_once() {
        let mut lines = LoggedLines::default();
        assert_eq!(["a", "b", "a", "b"].map(|line| lines.is_new(line)), [true, true, false, false]);
        lines.clear();
        assert!(lines.is_new("a"));
        assert_eq!((0..100).filter(|number| lines.is_new(&number.to_string())).count(), 100);
        assert!(lines.0.len() <= MOST);
    }
}
