//! Metrics of the process, by the names that Prometheus' own client libraries use. They are read from `/proc` at each scrape;
//! what `/proc` does not have is left out.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use std::fmt;
use std::fs;
use std::sync::OnceLock;

/// Clock ticks per second on Linux, the unit of times in `/proc/PID/stat`.
const TICKS: f64 = 100.0;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// When the process started, in seconds since 1970. The kernel's answer moves with the wall clock, so it counts once.
    started: OnceLock<Option<f64>>,
}

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let file = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let stat = file("stat");
        let started = || started_in(&stat, &fs::read_to_string("/proc/stat").unwrap_or_default());
        let mut family = Family(encoder);
        family.cpu(cpu_in(&stat))?;
        family.gauge(
            "process_resident_memory",
            "Resident memory of the process",
            Some(Unit::Bytes),
            memory_in(&file("status")),
        )?;
        family.gauge("process_open_fds", "Open file descriptors", None, open_files())?;
        let most = open_files_in(&file("limits"));
        family.gauge("process_max_fds", "File descriptors that the process may have open", None, most)?;
        family.gauge(
            "process_start_time",
            "When the process started, since 1970",
            Some(Unit::Seconds),
            *self.started.get_or_init(started),
        )
    }
}

/// Encodes the values that exist.
struct Family<'a>(DescriptorEncoder<'a>);

impl Family<'_> {
    fn cpu(&mut self, seconds: Option<f64>) -> fmt::Result {
        let Some(seconds) = seconds else { return Ok(()) };
        let counter = ConstCounter::new(seconds);
        let (help, kind) = ("CPU time of the process, of user and system.", counter.metric_type());
        counter.encode(self.0.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), kind)?)
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<Unit>, value: Option<f64>) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        let gauge = ConstGauge::new(value);
        let kind = gauge.metric_type();
        gauge.encode(self.0.encode_descriptor(name, &format!("{help}."), unit.as_ref(), kind)?)
    }
}

/// The fields of `/proc/PID/stat` after the name of the program, which may contain spaces.
fn fields(stat: &str) -> impl Iterator<Item = Option<f64>> {
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after.split_whitespace().map(|field| field.parse().ok())
}

fn cpu_in(stat: &str) -> Option<f64> {
    let ticks: Option<f64> = fields(stat).skip(11).take(2).sum();
    ticks.filter(|_| !stat.is_empty()).map(|ticks| ticks / TICKS)
}

/// The start of the process, from its own `stat` file and that of the machine.
fn started_in(stat: &str, machine: &str) -> Option<f64> {
    let boot: f64 = machine.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
    Some(boot + fields(stat).nth(19)?? / TICKS)
}

fn memory_in(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
}

fn open_files() -> Option<f64> {
    // The folder itself is open while it is read.
    Some((fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1)) as f64)
}

/// The soft limit of open files; `None` if there is no limit.
fn open_files_in(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_proc_are_read() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 3 0 1234 99 5";
        assert_eq!(cpu_in(stat), Some(2.0));
        assert_eq!(started_in(stat, "cpu 1 2\nbtime 1700000000\nctxt 9\n"), Some(1_700_000_012.34));
        assert_eq!(memory_in("VmHWM:\t  9 kB\nVmRSS:\t    2048 kB\n"), Some(2_097_152.0));
        let limits = "Limit     Soft Limit  Hard Limit  Units\nMax open files     1024     4096     files\n";
        assert_eq!(open_files_in(limits), Some(1_024.0));
        assert_eq!(open_files_in(&limits.replace("1024", "unlimited")), None);
        assert_eq!((cpu_in(""), started_in("", ""), memory_in("")), (None, None, None), "without /proc");
    }
}
