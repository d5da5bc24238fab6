//! One process a region under a supervisor that restarts none.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use super::control::{self, ControlAnswer, ControlRequest};
use super::folder::Folder;
use super::mesh::{DevMesh, RegionRow};
use super::routes;
use super::run::{DRAIN, DevError, END, Signals, handle};
use super::spec::DevSpec;

/// Set in the environment of a child: each region is a process of its own.
pub(crate) const CHILD: &str = "HEARTH_DEV_CHILD";
/// What a child says once it serves.
const READY: &str = "ready";
/// Longest wait for a child to serve.
const PATIENCE: Duration = Duration::from_secs(15);
/// The same where it makes its tables in servers first.
const PATIENCE_WITH_SERVERS: Duration = Duration::from_secs(90);
/// Longest wait for a child to do what was asked, beside the time that it was given for it. It gives up on links before.
const ANSWER: Duration = Duration::from_secs(60);

/// What a supervisor asks of a child, as one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "do")]
enum ChildRequest {
    /// Serve again after a drain, or with a store that failed.
    Start,
    /// Let the sessions leave.
    Drain {
        /// Over this many milliseconds.
        over_ms: u64,
    },
    /// Say when the links to these regions are up.
    Links {
        /// Regions whose processes live.
        others: Vec<String>,
    },
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
pub(super) async fn supervise(
    spec: DevSpec,
    listener: TcpListener,
    secret: String,
    signals: &mut Signals,
    ready: impl FnOnce(&[RegionRow]),
) -> Result<(), DevError> {
    let supervisor = Arc::new(Supervisor { spec, children: Mutex::new(BTreeMap::new()) });
    let runs = tokio::select! {
        rows = supervisor.start_all() => {
            ready(&rows?);
            true
        }
        () = signals.next() => false,
    };
    if runs {
        let served = control::serve(listener, secret, |request| supervisor.clone().handle(request));
        tokio::select! {
            () = served => {}
            () = signals.next() => {}
        }
    }
    tokio::select! {
        () = supervisor.stop_all() => {}
        () = signals.next() => {}
    }
    Ok(())
}

impl Running {
    /// Waits until the region of this child serves.
    async fn ready(&mut self, region: &str, patience: Duration) -> Result<(), DevError> {
        let read = async {
            while let Ok(Some(line)) = self.output.next_line().await {
                if line == READY {
                    return true;
                }
            }
            false
        };
        match tokio::time::timeout(patience, read).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let ended = self.child.wait().await.ok();
                let code = ended.and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
                Err(DevError::Child { region: region.to_owned(), code })
            }
            Err(_) => Err(DevError::Failed(format!("region {region}: not ready within {} s", patience.as_secs()))),
        }
    }

    async fn stop(mut self) {
        // The process may have ended by itself: then there is nothing to signal.
        if let Ok(pid) = i32::try_from(self.pid) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if tokio::time::timeout(END, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

impl Supervisor {
    fn patience(&self) -> Duration {
        if self.spec.servers.is_some() { PATIENCE_WITH_SERVERS } else { PATIENCE }
    }

    async fn start_all(&self) -> Result<Vec<RegionRow>, DevError> {
        let mut children = self.children.lock().await;
        for region in &self.spec.regions {
            children.insert(region.id.clone(), self.spawn(&region.id)?);
        }
        let mut rows = Vec::new();
        for region in &self.spec.regions {
            let Some(running) = children.get_mut(&region.id) else { continue };
            running.ready(&region.id, self.patience()).await?;
            rows.push(RegionRow { pid: Some(running.pid), ..RegionRow::of(region) });
        }
        linked(&mut children).await.map_err(DevError::Failed)?;
        Ok(rows)
    }

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
                Some(running) => running.ask(&ChildRequest::Drain { over_ms }, &region).await,
                None => ControlAnswer { code: 70, message: format!("{region} is down: `hearth dev start {region}`") },
            },
        }
    }

    async fn start(&self, children: &mut BTreeMap<String, Running>, region: &str, alive: bool) -> ControlAnswer {
        if alive && let Some(running) = children.get_mut(region) {
            return running.ask(&ChildRequest::Start, region).await;
        }
        let failed = |message: String| ControlAnswer { code: 70, message };
        let mut running = match self.spawn(region) {
            Ok(running) => running,
            Err(error) => return failed(error.to_string()),
        };
        if let Err(error) = running.ready(region, self.patience()).await {
            return failed(error.to_string());
        }
        children.insert(region.to_owned(), running);
        match linked(children).await {
            Ok(()) => ControlAnswer { code: 0, message: format!("{region} is ready") },
            Err(message) => failed(message),
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

/// Waits until every living child has links to every other.
async fn linked(children: &mut BTreeMap<String, Running>) -> Result<(), String> {
    children.retain(|_, running| matches!(running.child.try_wait(), Ok(None)));
    let others: Vec<String> = children.keys().cloned().collect();
    for (region, running) in children {
        let answer = running.ask(&ChildRequest::Links { others: others.clone() }, region).await;
        if answer.code != 0 {
            return Err(answer.message);
        }
    }
    Ok(())
}

impl Running {
    /// Has a living child do something, and passes its answer on.
    async fn ask(&mut self, request: &ChildRequest, region: &str) -> ControlAnswer {
        let failed = || ControlAnswer { code: 70, message: format!("{region} does not answer") };
        let Ok(line) = serde_json::to_string(request) else { return failed() };
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
        let given = match request {
            ChildRequest::Drain { over_ms } => Duration::from_millis(*over_ms),
            ChildRequest::Start | ChildRequest::Links { .. } => Duration::ZERO,
        };
        tokio::time::timeout(given + ANSWER, read).await.ok().flatten().unwrap_or_else(failed)
    }
}

/// Runs one region in this process for a supervisor. Ends on a signal and when standard input closes: at once, whatever
/// it does.
///
/// # Errors
/// [`DevError`] when the region does not start.
pub async fn child(region: &str, say: fn(&str)) -> Result<(), DevError> {
    let failed = |reason: String| DevError::Failed(reason);
    let spec = std::env::var(CHILD).map_err(|_| failed("this is a part of `hearth dev --processes`".to_owned()))?;
    let spec: DevSpec = serde_json::from_str(&spec).map_err(|error| failed(error.to_string()))?;
    mutate()?;
    let mut signals = Signals::caught()?;
    let secrets = Folder::secrets_of(&spec.data)?;
    let mesh = DevMesh::new(spec, secrets);
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let started = async {
        routes::adopt_faults(&mesh, region).await;
        mesh.start_region(region, None).await
    };
    tokio::select! {
        started = started => {
            started.map_err(|error| DevError::Region { region: region.to_owned(), error })?;
        }
        // The supervisor asks nothing before it is told: it is gone.
        _ = input.next_line() => return Ok(()),
    }
    say(READY);
    loop {
        tokio::select! {
            line = input.next_line() => match line {
                Ok(Some(line)) => {
                    tokio::spawn(answer(mesh.clone(), region.to_owned(), line, say));
                }
                Ok(None) | Err(_) => return Ok(()),
            },
            // A terminal sends its interrupt to children too: the supervisor decides.
            () = signals.terminated() => {
                mesh.stop_all(DRAIN).await;
                return Ok(());
            }
        }
    }
}

/// Switches on the wrong reading of the core that a test names, for this region's whole life.
#[cfg(feature = "mutants")]
fn mutate() -> Result<(), DevError> {
    let Ok(name) = std::env::var("HEARTH_MUTANT") else { return Ok(()) };
    let known = region_model::mutants::switch_on(Some(&name));
    known.then_some(()).ok_or_else(|| DevError::Failed(format!("there is no mutant {name:?}: see hearth sim --mutant")))
}

#[cfg(not(feature = "mutants"))]
fn mutate() -> Result<(), DevError> {
    Ok(())
}

async fn answer(mesh: Arc<DevMesh>, region: String, line: String, say: fn(&str)) {
    let answer = match serde_json::from_str(&line) {
        Ok(ChildRequest::Start) => handle(mesh, ControlRequest::Start { region }).await,
        Ok(ChildRequest::Drain { over_ms }) => handle(mesh, ControlRequest::Drain { region, over_ms }).await,
        Ok(ChildRequest::Links { others }) => match mesh.wait_for_links(&others).await {
            Ok(()) => ControlAnswer { code: 0, message: String::new() },
            Err(message) => ControlAnswer { code: 70, message },
        },
        Err(error) => ControlAnswer { code: 70, message: error.to_string() },
    };
    say(&serde_json::to_string(&answer).unwrap_or_default());
}
