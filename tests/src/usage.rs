//! What a node counts itself, and what it takes of the machine.

use crate::Process;
use std::time::Duration;

/// Which machine this is, as far as figures depend on it.
pub fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{}, {cores} cores", model.unwrap_or("unknown"))
}

/// The processor time of a process so far, its children left out. Linux only.
pub fn cpu_of(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
    // A tick is a hundredth of a second on every Linux (USER_HZ).
    Duration::from_millis(ticks * 10)
}

impl Process {
    /// The sum of its samples of one metric, of those that carry all `labels` (`key="value"`).
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text =
            self.http().get(self.url("metrics")).send().await.expect("an answer").text().await.expect("text");
        let samples = text.lines().filter(|line| line.split([' ', '{']).next() == Some(name));
        let samples = samples.filter(|line| labels.iter().all(|label| line.contains(label)));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Its processor time so far, its children left out. Linux only.
    pub fn cpu(&self) -> Duration {
        cpu_of(self.pid())
    }

    /// Its resident memory in MiB, its children left out. Linux only.
    pub fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("Linux");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a resident size");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("KiB") / 1024.0
    }
}
