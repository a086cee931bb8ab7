//! The machine that a measurement was made on, and what its processes used.

use std::fs;
use std::process::Command;
use std::time::Duration;

/// Ticks of a second in `/proc/PID/stat`, on every Linux (proc(5)).
const TICKS: f64 = 100.0;

/// One line: processor, cores, memory, kernel, system.
pub fn describe() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, name: &str, separator| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(separator)).map(|(_, value)| value);
        value.unwrap_or("?").trim().trim_matches('"').to_owned()
    };
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let kilobytes = after(&memory, "MemTotal", ':');
    let kilobytes: f64 =
        kilobytes.split_whitespace().next().and_then(|it| it.parse().ok()).unwrap_or(0.0);
    format!(
        "{}, {cores} cores, {:.0} GB, Linux {}, {}",
        after(&cpu, "model name", ':'),
        kilobytes / 1e6,
        read("/proc/sys/kernel/osrelease").trim(),
        after(&read("/etc/os-release"), "PRETTY_NAME", '='),
    )
}

/// How busy both cores were with others' work is for the reader to judge by.
pub fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Threads of this process that are named so run before all others of their
/// core; whether that was allowed. What stands for another machine does not wait
/// for the clients that share its core.
pub fn prefer(name: &str) -> bool {
    let named = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return false };
    tasks.flatten().filter(named).all(|task| {
        let mut chrt = Command::new("chrt");
        chrt.args(["--fifo", "--pid", "1"]).arg(task.file_name());
        chrt.status().is_ok_and(|status| status.success())
    })
}

/// CPU time of a process so far: user and system.
pub fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: f64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|it| it.parse::<f64>().ok()).sum();
    Duration::from_secs_f64(ticks / TICKS)
}

/// Memory that a process has touched and not given back, in KiB.
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The first child of a process whose title has `word` in it.
pub fn child(parent: u32, word: &str) -> Option<u32> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let ppid: u32 = fields.nth(1)?.parse().ok()?;
        let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        (ppid == parent && (title.contains(word) || stat.contains(word))).then_some(pid)
    })
}
