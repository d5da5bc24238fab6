//! How often the server made its data durable, as the kernel counts it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How often perf tells; a count is at most this old.
const INTERVAL_MS: &str = "100";

/// Counts `fsync` and `fdatasync` of one process by perf, or flushes of the data's disk where perf may not.
#[derive(Debug)]
pub(super) enum Syncs {
    Perf { child: Child, total: Arc<AtomicU64> },
    Disk { device: Option<(u32, u32)> },
}

impl Syncs {
    /// Starts to count what the process `pid`, with its data at `data`, does from now on.
    pub(super) async fn start(pid: u32, data: &Path) -> Self {
        match Self::perf(pid).await {
            Some(perf) => perf,
            None => {
                let device = std::fs::metadata(data).ok().map(|metadata| {
                    (nix::sys::stat::major(metadata.dev()) as u32, nix::sys::stat::minor(metadata.dev()) as u32)
                });
                Self::Disk { device }
            }
        }
    }

    /// `None` when perf is missing, may not look, or does not tell within two seconds.
    async fn perf(pid: u32) -> Option<Self> {
        let mut child = Command::new("perf")
            .args(["stat", "-x", ",", "-I", INTERVAL_MS, "--log-fd", "1"])
            .args(["-e", "syscalls:sys_enter_fdatasync", "-e", "syscalls:sys_enter_fsync", "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let mut lines = BufReader::new(child.stdout.take()?).lines();
        let first = tokio::time::timeout(Duration::from_secs(2), lines.next_line()).await.ok()?.ok()??;
        let first = first.contains("syscalls:").then(|| perf_count(&first).unwrap_or(0))?;
        let total = Arc::new(AtomicU64::new(first));
        let counted = Arc::clone(&total);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                counted.fetch_add(perf_count(&line).unwrap_or(0), Ordering::Relaxed);
            }
        });
        Some(Self::Perf { child, total })
    }

    /// What counts, for people.
    pub(super) fn source(&self) -> &'static str {
        match self {
            Self::Perf { .. } => "perf: fsync and fdatasync of the server process",
            Self::Disk { .. } => "/proc/diskstats: flushes of the data's disk, other processes' included",
        }
    }

    /// The count so far.
    pub(super) fn count(&self) -> u64 {
        match self {
            Self::Perf { total, .. } => total.load(Ordering::Relaxed),
            Self::Disk { device } => {
                let stats = std::fs::read_to_string("/proc/diskstats").unwrap_or_default();
                disk_flushes(&stats, *device)
            }
        }
    }

    /// Ends counting.
    pub(super) async fn stop(self) {
        if let Self::Perf { mut child, .. } = self {
            let _ = child.kill().await;
        }
    }
}

/// The second field of a line such as `0.100,12,,syscalls:sys_enter_fsync,…`.
fn perf_count(line: &str) -> Option<u64> {
    line.contains("syscalls:").then(|| line.split(',').nth(1)?.trim().parse().ok())?
}

/// Field 19: flush requests completed; of one device, or of all when it has no row of its own.
fn disk_flushes(stats: &str, device: Option<(u32, u32)>) -> u64 {
    let rows = stats.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let device: (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((device, fields.nth(16)?.parse::<u64>().ok()?))
    });
    let rows: Vec<_> = rows.collect();
    let own = rows.iter().find(|(row, _)| Some(*row) == device);
    own.map_or_else(|| rows.iter().map(|(_, count)| count).sum(), |(_, count)| *count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATS: &str =
        " 254 0 vda 77785 10996 5311002 51514 31548 55903 18968408 58492 0 13460 111163 10736 38 2032880 1041 3197 114
 253 0 zram0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 3 0";

    #[test]
    fn flushes_are_those_of_the_data_s_disk() {
        assert_eq!(disk_flushes(STATS, Some((254, 0))), 3_197);
        assert_eq!(disk_flushes(STATS, Some((8, 1))), 3_200);
    }

    #[test]
    fn a_line_of_perf_gives_its_count() {
        assert_eq!(perf_count("     0.100264178,12,,syscalls:sys_enter_fsync,0,100.00,,"), Some(12));
        assert_eq!(perf_count("     0.1,<not counted>,,syscalls:sys_enter_fsync,0,100.00,,"), None);
        assert_eq!(perf_count("Error:"), None);
    }
}
