//! The results, as a table or as one JSON object per line, and the progress.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

/// Prints each row as soon as it is measured.
pub struct Report {
    pub json: bool,
}

impl Report {
    /// Prints the head of a table.
    pub fn head(&self, columns: &[&str]) {
        if !self.json {
            println!("\n| {} |\n|{}", columns.join(" | "), "---|".repeat(columns.len()));
        }
    }

    /// Prints a row: `object` with `--json`, else `cells`.
    pub fn row(&self, object: Value, cells: &[String]) {
        if self.json {
            println!("{object}");
        } else {
            println!("| {} |", cells.join(" | "));
        }
    }
}

/// A progress bar of `steps`, drawn only on a terminal.
pub fn bar(what: &str, steps: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed}");
    let bar = ProgressBar::new(steps).with_message(what.to_owned());
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Median, 99th percentile and maximum of sorted values; zeros if there are none.
pub fn quantiles(sorted: &[f64]) -> [f64; 3] {
    let last = sorted.len().saturating_sub(1) as f64;
    [0.5, 0.99, 1.0].map(|q| sorted.get((q * last).round() as usize).copied().unwrap_or(0.0))
}

pub fn ms(value: f64) -> String {
    if value < 1_000.0 { format!("{value:.1} ms") } else { format!("{:.2} s", value / 1000.0) }
}

/// A figure that is known only of a daemon that the bench has started.
pub fn known(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "-".into(), show)
}
