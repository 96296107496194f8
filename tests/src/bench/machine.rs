//! What the figures were measured on.

use std::fmt;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// The machine, as far as it can be seen.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
    /// File system and device below the folder that homes are made in.
    disk: String,
    rustc: String,
    /// Whether this program, and so probably what it measures, was built with optimisation.
    optimised: bool,
    /// What else ran when the measuring began.
    load_1m: f64,
}

impl Machine {
    /// Looks around.
    pub(crate) fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        let rustc = Command::new("rustc").arg("--version").output().ok();
        let rustc = rustc.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
        let load = read("/proc/loadavg");
        Self {
            cpu: after(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            disk: disk(&read("/proc/self/mounts"), &std::env::temp_dir()),
            rustc: rustc.trim().to_owned(),
            optimised: !cfg!(debug_assertions),
            load_1m: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        }
    }
}

/// The file system that holds `path`, by the mount point that is the longest prefix.
fn disk(mounts: &str, path: &Path) -> String {
    let mount = |line: &str| {
        let mut words = line.split(' ');
        let (device, point, kind) = (words.next()?, words.next()?, words.next()?);
        path.starts_with(point).then(|| (point.len(), format!("{kind} on {device}")))
    };
    let longest = mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length);
    longest.map_or_else(|| "unknown".to_owned(), |(_, disk)| disk)
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, memory_mib, kernel, disk, rustc, optimised, load_1m } = self;
        let build = if *optimised { "" } else { ", NOT OPTIMISED: the figures mean nothing" };
        write!(
            f,
            "{cpu}, {cores} cores, {memory_mib} MiB, Linux {kernel}, {disk}, {rustc}{build}, load {load_1m}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_the_one_mounted_nearest() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/deep xfs rw 0 0\n";
        assert_eq!(disk(mounts, Path::new("/home/x")), "ext4 on /dev/a");
        assert_eq!(disk(mounts, Path::new("/tmp/x")), "tmpfs on tmpfs");
        assert_eq!(disk(mounts, Path::new("/tmp/deep/x")), "xfs on /dev/b");
        assert_eq!(disk("", Path::new("/")), "unknown");
    }
}
