//! The server under load: a development mesh as a child process, and what `/proc` tells of it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use super::BenchError;
use crate::rest::DevRegion;

/// How long the mesh may take until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to leave; the contract says 10 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(12);
/// Ticks of `/proc/<pid>/stat` in a second, fixed by Linux towards user space.
const TICKS: u64 = 100;

/// A running mesh. Dropping it kills the process.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    pid: u32,
    pub(super) regions: Vec<DevRegion>,
    data: PathBuf,
    _stdout: tokio::io::Lines<BufReader<ChildStdout>>,
}

#[derive(Deserialize)]
struct Ready {
    #[serde(default)]
    regions: Vec<DevRegion>,
    #[serde(default)]
    message: Option<String>,
}

impl Server {
    /// Starts `executable dev` with fresh data and without rate limits, and waits until it is ready.
    pub(super) async fn start(
        executable: &Path,
        regions: &str,
        latency: &str,
        data: &Path,
    ) -> Result<Self, BenchError> {
        let failed = |what: String| BenchError::Server { what };
        std::fs::create_dir_all(data).map_err(|error| failed(format!("{}: {error}", data.display())))?;
        let log = data.with_extension("log");
        let log_file = std::fs::File::create(&log).map_err(|error| failed(format!("{}: {error}", log.display())))?;
        let mut child = Command::new(executable)
            .args(["dev", "--json", "--regions", regions, "--latency", latency, "--limits", "off", "--port", "0"])
            .arg("--data")
            .arg(data)
            .arg("--fresh")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(format!("{} could not be started: {error}", executable.display())))?;
        let stdout = child.stdout.take().ok_or_else(|| failed("the server has no stdout".to_owned()))?;
        let pid = child.id().ok_or_else(|| failed("the server ended at once".to_owned()))?;
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(READY_TIMEOUT, lines.next_line()).await;
        let line = line.map_err(|_| failed(format!("not ready within {} s", READY_TIMEOUT.as_secs())))?;
        let line = line.ok().flatten().ok_or_else(|| failed(format!("it ended; see {}", log.display())))?;
        let ready: Ready = serde_json::from_str(&line).map_err(|_| failed("its ready line is no JSON".to_owned()))?;
        if ready.regions.is_empty() {
            return Err(failed(ready.message.unwrap_or_else(|| "its ready line names no region".to_owned())));
        }
        Ok(Self { child, pid, regions: ready.regions, data: data.to_owned(), _stdout: lines })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn region(&self, name: &str) -> Result<&DevRegion, BenchError> {
        let found = self.regions.iter().find(|region| region.id.as_str() == name);
        found.ok_or_else(|| BenchError::Server { what: format!("it has no region {name}") })
    }

    /// Lets it drain, and removes its data.
    pub(super) async fn stop(mut self) {
        if let Ok(pid) = i32::try_from(self.pid) {
            // It may have ended already; then there is nobody to tell.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT);
        }
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
        let _ = std::fs::remove_dir_all(&self.data);
        let _ = std::fs::remove_file(self.data.with_extension("log"));
    }
}

/// CPU time of a process so far, user and system together; `None` when it is gone.
pub(super) fn cpu(pid: Option<u32>) -> Option<Duration> {
    let who = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    parse_cpu(&std::fs::read_to_string(format!("/proc/{who}/stat")).ok()?)
}

/// Fields 14 and 15; the name in field 2 may hold spaces and brackets, so counting starts behind it.
fn parse_cpu(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1_000 / TICKS))
}

#[cfg(test)]
impl Server {
    /// Regions that run elsewhere, with a sleeping process in the server's place.
    pub(super) fn stand_in(regions: Vec<DevRegion>) -> Self {
        let mut child =
            Command::new("sleep").arg("60").stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("sleep");
        let stdout = child.stdout.take().expect("piped");
        let pid = child.id().expect("it runs");
        Self { child, pid, regions, data: PathBuf::new(), _stdout: BufReader::new(stdout).lines() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_any_process_name() {
        let stat = "1 (a) b (c) S 0 1 1 0 -1 4194560 10 20 30 40 150 50 7 8 20 0 1 0 3 4 5";
        assert_eq!(parse_cpu(stat), Some(Duration::from_secs(2)));
        assert!(cpu(None).is_some());
    }
}
