//! The server under load as a child process, a development mesh or one region behind TLS, and what `/proc` tells of it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::UserId;
use rustls::ClientConfig;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use super::BenchError;
use super::costs::BenchStores;
use super::served::{self, Signer};
use crate::rest::{DevRegion, Rest};

/// How long the mesh may take until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take to leave; the contract says 10 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(12);
/// Lines of its log that are shown where it ended by itself.
const LAST_WORDS: usize = 8;
/// Ticks of `/proc/<pid>/stat` in a second, fixed by Linux towards user space.
const TICKS: u64 = 100;

/// A running mesh. Dropping it kills the process, and removes its data.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    pid: u32,
    pub(super) regions: Vec<DevRegion>,
    pub(super) stores: BenchStores,
    data: PathBuf,
    /// Set of a region behind TLS, which knows no tokens of development.
    signer: Option<Signer>,
    /// Kept open: a server whose output is closed may end.
    stdout: tokio::io::Lines<BufReader<ChildStdout>>,
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
        stores: BenchStores,
        (regions, latency): (&str, &str),
        data: &Path,
    ) -> Result<Self, BenchError> {
        let flags = ["dev", "--json", "--regions", regions, "--latency", latency, "--limits", "off", "--port", "0"];
        let mut command = Command::new(executable);
        command.args(flags).arg("--data").arg(data).arg("--fresh");
        // An older binary, which another one is compared with, need not know the flag.
        if stores != BenchStores::default() {
            command.args(["--stores", stores.name()]);
        }
        let mut server = Self::spawn(command, data).await?;
        server.stores = stores;
        let ready = server.ready().await?;
        if ready.regions.is_empty() {
            return Err(failed(ready.message.unwrap_or_else(|| "its ready line names no region".to_owned())));
        }
        server.regions = ready.regions;
        Ok(server)
    }

    /// Starts `executable serve`: one region behind TLS, which takes so many connections from here. Gives what clients
    /// have to trust.
    pub(super) async fn start_tls(
        executable: &Path,
        data: &Path,
        connections: usize,
    ) -> Result<(Self, Arc<ClientConfig>), BenchError> {
        std::fs::create_dir_all(data).map_err(|error| failed(format!("{}: {error}", data.display())))?;
        let setup = served::set_up(executable, data, connections).await?;
        let mut command = Command::new(executable);
        command.args(["serve", "--json", "--config"]).arg(data.join("region.toml"));
        let mut server = Self::spawn(command, data).await?;
        server.ready().await?;
        server.regions = vec![setup.region];
        server.signer = Some(setup.signer);
        Ok((server, setup.trust))
    }

    /// Has what meshes of a folder have in servers dropped, and the folder removed: its next mesh has embedded stores.
    pub(super) async fn forget(executable: &Path, data: &Path) -> Result<(), BenchError> {
        Self::start(executable, BenchStores::Embedded, ("eu-west", "none"), data).await?.stop().await;
        Ok(())
    }

    async fn spawn(mut command: Command, data: &Path) -> Result<Self, BenchError> {
        std::fs::create_dir_all(data).map_err(|error| failed(format!("{}: {error}", data.display())))?;
        let log = data.with_extension("log");
        let log_file = std::fs::File::create(&log).map_err(|error| failed(format!("{}: {error}", log.display())))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file).kill_on_drop(true);
        let started = command.spawn();
        let mut child = started.map_err(|error| failed(format!("the server could not be started: {error}")))?;
        let stdout = child.stdout.take().ok_or_else(|| failed("the server has no stdout".to_owned()))?;
        let pid = child.id().ok_or_else(|| failed("the server ended at once".to_owned()))?;
        let stdout = BufReader::new(stdout).lines();
        let (regions, stores) = (Vec::new(), BenchStores::default());
        Ok(Self { child, pid, regions, stores, data: data.to_owned(), signer: None, stdout })
    }

    async fn ready(&mut self) -> Result<Ready, BenchError> {
        let line = tokio::time::timeout(READY_TIMEOUT, self.stdout.next_line()).await;
        let line = line.map_err(|_| failed(format!("not ready within {} s", READY_TIMEOUT.as_secs())))?;
        let line = line.ok().flatten().ok_or_else(|| failed(format!("it ended: {}", self.last_words())))?;
        serde_json::from_str(&line).map_err(|_| failed("its ready line is no JSON".to_owned()))
    }

    /// The end of its log, which goes with it.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.data.with_extension("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
    }

    /// A token that the region takes.
    pub(super) async fn token(&self, rest: &Rest, base: &str, user: &UserId) -> Result<String, BenchError> {
        match &self.signer {
            Some(signer) => signer.token(user),
            None => Ok(rest.dev_token(base, user, 86_400).await?.token),
        }
    }

    /// Bytes of the server's memory that are resident; 0 when it is gone.
    pub(super) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        parse_resident(&status).unwrap_or(0)
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
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended where it was stopped. Where it was not, it is waited for, since it would write its data again.
        let _ = self.child.start_kill();
        for _ in 0..100 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // The folder knows what it has in servers, until that is dropped.
        if self.stores == BenchStores::Embedded {
            let _ = std::fs::remove_dir_all(&self.data);
        }
        let _ = std::fs::remove_file(self.data.with_extension("log"));
    }
}

/// CPU time of a process so far, user and system together; `None` when it is gone.
pub(super) fn cpu(pid: Option<u32>) -> Option<Duration> {
    let who = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    parse_cpu(&std::fs::read_to_string(format!("/proc/{who}/stat")).ok()?)
}

fn failed(what: String) -> BenchError {
    BenchError::Server { what }
}

/// `VmRSS` of `/proc/<pid>/status`, which counts in KiB.
fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
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
        let (stores, stdout) = (BenchStores::default(), BufReader::new(stdout).lines());
        Self { child, pid, regions, stores, data: PathBuf::new(), signer: None, stdout }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(parse_resident("Name:\thearth\nVmRSS:\t   120 kB\nThreads:\t4\n"), Some(122_880));
    }

    #[test]
    fn cpu_time_is_read_behind_any_process_name() {
        let stat = "1 (a) b (c) S 0 1 1 0 -1 4194560 10 20 30 40 150 50 7 8 20 0 1 0 3 4 5";
        assert_eq!(parse_cpu(stat), Some(Duration::from_secs(2)));
        assert!(cpu(None).is_some());
    }
}
