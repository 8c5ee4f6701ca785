//! How results are printed.

use std::fmt;
use std::fs;
use std::thread;
use std::time::Duration;

/// The machine that a benchmark runs on, in a line.
#[derive(Debug)]
pub(crate) struct Machine {
    kernel: String,
    cores: usize,
    cpu: String,
}

impl Machine {
    pub(crate) fn new() -> Machine {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find(|line| line.starts_with("model name"));
        let cpu = model.and_then(|line| line.split_once(": ")).map_or("unknown CPU", |(_, model)| model);
        Machine {
            kernel: kernel.trim().to_owned(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            cpu: cpu.trim().to_owned(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "machine: Linux {}, {} cores, {}", self.kernel, self.cores, self.cpu)
    }
}

/// The value below which `part` of the sorted, non-empty `values` lie, interpolated between neighbours.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let at = part * (values.len() - 1) as f64;
    let (below, above) = (values[at.floor() as usize], values[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// Nanoseconds in the unit that reads best.
pub(crate) fn time(ns: f64) -> String {
    match ns {
        _ if ns < 1e3 => format!("{ns:.0} ns"),
        _ if ns < 1e6 => format!("{:.1} µs", ns / 1e3),
        _ if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}

pub(crate) fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

/// Prints whether a measured value, a ratio or another number, keeps within its bounds. Without a `must`, only the aim
/// is told.
pub(crate) fn judge(what: &str, must: Option<f64>, aim: f64, got: f64) {
    let kept = must.is_none_or(|must| got <= must);
    let verdict = match (kept, got <= aim) {
        (false, _) => "MISSED",
        (true, true) => "ok, aim reached",
        (true, false) => "ok",
    };
    let must = must.map(|must| format!("must <= {must}, ")).unwrap_or_default();
    println!("  {what}: {must}aim <= {aim}, got {got:.3}: {verdict}");
}
