//! One process a region under a supervisor that restarts none.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal as Kill, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{Signal, SignalKind};
use tokio::sync::Mutex;

use super::control::{self, ControlAnswer, ControlRequest};
use super::folder::Folder;
use super::mesh::{DevMesh, RegionRow};
use super::run::{DevError, caught, handle};
use super::spec::DevSpec;

/// Set in the environment of a child: each region is a process of its own.
pub(crate) const CHILD: &str = "HEARTH_DEV_CHILD";
/// Longest wait for a child to be ready, or to end after a signal.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest drain of a child that ends.
const DRAIN: Duration = Duration::from_secs(5);

/// Signals of the supervisor.
#[derive(Debug)]
pub struct Signals<'a> {
    pub(super) interrupt: &'a mut Signal,
    pub(super) terminate: &'a mut Signal,
}

struct Running {
    child: Child,
    /// A child ends when this closes: so it never outlives its supervisor, whatever ended that.
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    pid: u32,
}

struct Supervisor {
    spec: DevSpec,
    children: Mutex<BTreeMap<String, Running>>,
}

/// Runs a process a region until a signal.
///
/// # Errors
/// [`DevError`] when a child does not start.
pub async fn supervise(
    spec: DevSpec,
    listener: TcpListener,
    secret: String,
    signals: Signals<'_>,
    ready: impl FnOnce(&[RegionRow]),
) -> Result<(), DevError> {
    let supervisor = Arc::new(Supervisor { spec, children: Mutex::new(BTreeMap::new()) });
    let mut rows = Vec::new();
    let mut started = Vec::new();
    for region in &supervisor.spec.regions {
        started.push((region, supervisor.spawn(&region.id)?));
    }
    for (region, mut running) in started {
        running.wait_for_line("ready").await.map_err(|reason| DevError::Failed(format!("{}: {reason}", region.id)))?;
        rows.push(RegionRow { pid: Some(running.pid), ..RegionRow::of(region) });
        supervisor.children.lock().await.insert(region.id.clone(), running);
    }
    ready(&rows);
    let served = control::serve(listener, secret, |request| supervisor.clone().handle(request));
    tokio::select! {
        () = served => {}
        _ = signals.interrupt.recv() => {}
        _ = signals.terminate.recv() => {}
    }
    tokio::select! {
        () = supervisor.stop_all() => {}
        _ = signals.interrupt.recv() => {}
        _ = signals.terminate.recv() => {}
    }
    Ok(())
}

impl Running {
    /// Waits for a line of the child.
    async fn wait_for_line(&mut self, wanted: &str) -> Result<(), String> {
        let read = async {
            while let Ok(Some(line)) = self.output.next_line().await {
                if line == wanted {
                    return true;
                }
            }
            false
        };
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(true) => Ok(()),
            Ok(false) => Err("the process ended; its log on standard error says why".to_owned()),
            Err(_) => Err(format!("nothing within {} s", PATIENCE.as_secs())),
        }
    }

    async fn stop(mut self) {
        // The process may have ended by itself: then there is nothing to signal.
        if let Ok(pid) = i32::try_from(self.pid) {
            let _ = kill(Pid::from_raw(pid), Kill::SIGTERM);
        }
        if tokio::time::timeout(PATIENCE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

impl Supervisor {
    fn spawn(&self, region: &str) -> Result<Running, DevError> {
        let failed = |reason: String| DevError::Failed(format!("{region}: {reason}"));
        let exe = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
        let spec = serde_json::to_string(&self.spec).map_err(|error| failed(error.to_string()))?;
        let mut child = Command::new(exe)
            .args(["dev", "child", region])
            .env(CHILD, spec)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let pid = child.id().ok_or_else(|| failed("no process".to_owned()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("no pipes".to_owned()));
        };
        Ok(Running { child, input, output: BufReader::new(output).lines(), pid })
    }

    async fn handle(self: Arc<Self>, request: ControlRequest) -> ControlAnswer {
        let (ControlRequest::Start { region } | ControlRequest::Stop { region } | ControlRequest::Drain { region, .. }) =
            &request;
        if self.spec.region(region).is_none() {
            return ControlAnswer { code: 2, message: format!("no region {region:?} in this mesh") };
        }
        let mut children = self.children.lock().await;
        let alive = match children.get_mut(region) {
            Some(running) => matches!(running.child.try_wait(), Ok(None)),
            None => false,
        };
        if !alive {
            children.remove(region);
        }
        match request {
            ControlRequest::Start { region } => self.start(&mut children, &region, alive).await,
            ControlRequest::Stop { region } => match children.remove(&region) {
                Some(running) => {
                    running.stop().await;
                    ControlAnswer { code: 0, message: format!("{region} is down") }
                }
                None => ControlAnswer { code: 6, message: format!("{region} is down already") },
            },
            ControlRequest::Drain { region, over_ms } => match children.get_mut(&region) {
                Some(running) => running.ask(&format!("drain {over_ms}"), &region).await,
                None => ControlAnswer { code: 70, message: format!("{region} is down: `hearth dev start {region}`") },
            },
        }
    }

    async fn start(&self, children: &mut BTreeMap<String, Running>, region: &str, alive: bool) -> ControlAnswer {
        if alive && let Some(running) = children.get_mut(region) {
            return running.ask("start", region).await;
        }
        match self.spawn(region) {
            Ok(mut running) => match running.wait_for_line("ready").await {
                Ok(()) => {
                    children.insert(region.to_owned(), running);
                    ControlAnswer { code: 0, message: format!("{region} is ready") }
                }
                Err(reason) => ControlAnswer { code: 70, message: format!("{region} does not start: {reason}") },
            },
            Err(error) => ControlAnswer { code: 70, message: error.to_string() },
        }
    }

    async fn stop_all(&self) {
        let children = std::mem::take(&mut *self.children.lock().await);
        let stops: Vec<_> = children.into_values().map(|running| tokio::spawn(running.stop())).collect();
        for stop in stops {
            let _ = stop.await;
        }
    }
}

impl Running {
    /// Has a living child do something, and passes its answer on.
    async fn ask(&mut self, line: &str, region: &str) -> ControlAnswer {
        let failed = || ControlAnswer { code: 70, message: format!("{region} does not answer") };
        if self.input.write_all(format!("{line}\n").as_bytes()).await.is_err() {
            return failed();
        }
        let read = async {
            while let Ok(Some(line)) = self.output.next_line().await {
                if let Ok(answer) = serde_json::from_str(&line) {
                    return Some(answer);
                }
            }
            None
        };
        // A drain takes as long as it was given.
        tokio::time::timeout(Duration::from_secs(600), read).await.ok().flatten().unwrap_or_else(failed)
    }
}

/// Runs one region in this process for a supervisor. Ends on a signal and when standard input closes.
///
/// # Errors
/// [`DevError`] when the region does not start.
pub async fn child(region: &str, say: impl Fn(&str)) -> Result<(), DevError> {
    let failed = |reason: String| DevError::Failed(reason);
    let spec = std::env::var(CHILD).map_err(|_| failed("this is a part of `hearth dev --processes`".to_owned()))?;
    let spec: DevSpec = serde_json::from_str(&spec).map_err(|error| failed(error.to_string()))?;
    let mut interrupt = caught(SignalKind::interrupt())?;
    let mut terminate = caught(SignalKind::terminate())?;
    let secrets = Folder::secrets_of(&spec.data)?;
    let mesh = DevMesh::new(spec, secrets);
    mesh.start_region(region, None).await.map_err(|error| DevError::Region { region: region.to_owned(), error })?;
    mesh.wait_for_links().await;
    say("ready");
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            line = input.next_line() => match line {
                Ok(Some(line)) => {
                    let answer = handle(mesh.clone(), parse(&line, region)).await;
                    say(&serde_json::to_string(&answer).unwrap_or_default());
                }
                Ok(None) | Err(_) => return Ok(()),
            },
            // A terminal sends its interrupt to children too: the supervisor decides.
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {
                mesh.stop_all(DRAIN).await;
                return Ok(());
            }
        }
    }
}

fn parse(line: &str, region: &str) -> ControlRequest {
    match line.strip_prefix("drain ").and_then(|over| over.parse().ok()) {
        Some(over_ms) => ControlRequest::Drain { region: region.to_owned(), over_ms },
        None => ControlRequest::Start { region: region.to_owned() },
    }
}
