//! `hearth dev`: settles ports, starts the regions, serves control requests, drains on a signal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::control::{self, ControlAnswer, ControlRequest};
use super::folder::{FolderError, LockedFolder, MeshFile, mesh_file, random_secret, write_mesh_file};
use super::mesh::{BoundRegion, DevMesh, RegionRow};
use super::spec::{DevOptions, DevSpec, RegionSpec, loopback};
use super::{processes, servers};
use crate::region::{StartError, bind_tcp, bind_udp};

/// Longest drain of the sessions of a mesh or a region that ends.
pub(super) const DRAIN: Duration = Duration::from_secs(5);
/// Longest end after a signal, the drain included.
pub(super) const END: Duration = Duration::from_secs(9);
/// Longest wait for ports of processes that are about to end.
const PORT_PATIENCE: Duration = Duration::from_secs(3);
/// Tries to find a port that is free for TCP and UDP alike.
const PORT_TRIES: u32 = 64;

/// Why a development mesh does not run, with the exit code that scripts rely on.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A region's name, or their number, cannot be used.
    #[error("{0}")]
    Usage(String),
    /// A port is taken.
    #[error("port {0} is in use")]
    PortInUse(u16),
    /// The data folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A region does not start.
    #[error("region {region}: {error}")]
    Region {
        /// Which.
        region: String,
        /// Why.
        error: StartError,
    },
    /// What an emptied folder had in servers cannot be dropped.
    #[error("what the folder has in servers cannot be dropped: {0}")]
    Servers(StartError),
    /// The process of a region ended before it served; it has said why on standard error.
    #[error("region {region}: its process ended before it served")]
    Child {
        /// Which.
        region: String,
        /// Its exit code, if no signal ended it.
        code: Option<u8>,
    },
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl DevError {
    /// 2 usage, 3 port in use, 4 data folder in use, 5 data folder of another version, 70 anything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Folder(FolderError::Stores { .. }) => 2,
            Self::PortInUse(_) => 3,
            Self::Folder(FolderError::InUse(_)) => 4,
            Self::Folder(FolderError::Version { .. }) => 5,
            Self::Region { error: StartError::InUse { .. }, .. } => 3,
            Self::Region { error: StartError::Store(region_store::embedded::OpenError::Version { .. }), .. } => 5,
            Self::Child { code: Some(code @ 3..=5), .. } => *code,
            Self::Folder(_) | Self::Servers(_) | Self::Region { .. } | Self::Child { .. } | Self::Failed(_) => 70,
        }
    }

    /// What to type.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Usage(_) => "see `hearth dev --help`".to_owned(),
            Self::PortInUse(port) => {
                format!("stop what listens there, or choose others: `hearth dev --port {}`", port.saturating_add(1000))
            }
            Self::Folder(FolderError::InUse(_)) => {
                "stop that mesh first, or use another folder: `hearth dev --data DIR`".to_owned()
            }
            Self::Folder(FolderError::Version { path, .. }) => {
                format!(
                    "keep it and use another: `hearth dev --data DIR`; or drop it: `hearth dev --fresh --data {}`",
                    path.display()
                )
            }
            Self::Folder(FolderError::Foreign(_)) => {
                "name an empty or a new folder: `hearth dev --data DIR`".to_owned()
            }
            Self::Folder(FolderError::Stores { path, has }) => {
                format!(
                    "use another folder: `hearth dev --data DIR`; or that kind: `--stores {has}`; or drop what is in it: `--fresh --data {}`",
                    path.display()
                )
            }
            Self::Servers(_) | Self::Region { error: StartError::Servers(_), .. } => {
                "start them: `./services up cassandra postgresql`; or name others: `--cassandra HOST:PORT`, `--postgresql HOST:PORT`".to_owned()
            }
            Self::Folder(FolderError::Failed { .. }) => {
                "make it readable and writable, or use another folder: `hearth dev --data DIR`".to_owned()
            }
            Self::Region { error: StartError::Store(_) | StartError::Read(_), .. } => {
                "keep the folder for a look and use another: `hearth dev --data DIR`; or drop what is in it: `hearth dev --fresh`, with its --data".to_owned()
            }
            Self::Child { .. } => "its error and what to type are on standard error".to_owned(),
            Self::Region { .. } | Self::Failed(_) => {
                "the log on standard error says more; HEARTH_LOG=debug says most".to_owned()
            }
        }
    }
}

/// The signals that end a mesh.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn caught() -> Result<Self, DevError> {
        Ok(Self { interrupt: caught(SignalKind::interrupt())?, terminate: caught(SignalKind::terminate())? })
    }

    /// Resolves with the next SIGTERM.
    pub(super) async fn terminated(&mut self) {
        self.terminate.recv().await;
    }

    /// Resolves with the next of them.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The one line that scripts wait for.
#[must_use]
pub fn ready_line(regions: &[RegionRow]) -> String {
    serde_json::json!({ "ready": true, "regions": regions }).to_string()
}

/// Runs a mesh until SIGINT or SIGTERM. `ready` is called with the rows of the ready line.
///
/// # Errors
/// [`DevError`] when it does not start.
pub async fn run(options: DevOptions, ready: impl FnOnce(&[RegionRow])) -> Result<(), DevError> {
    check_regions(&options.regions)?;
    let mut signals = Signals::caught()?;
    let locked = LockedFolder::of(&options.data)?;
    if options.fresh {
        // Before the folder is emptied: it alone knows their names.
        servers::forget(&locked.path, &options.stores).await.map_err(DevError::Servers)?;
    }
    let folder = locked.open(options.fresh)?;
    let servers = servers::settle(&folder.path, &options)?;
    // Left behind by a mesh that was killed: its regions' processes may hold their ports for another moment.
    let patience = if mesh_file(&folder.path).exists() { PORT_PATIENCE } else { Duration::ZERO };
    let (mut spec, bound) = settle(&options, folder.path.clone(), patience).await?;
    spec.servers = servers;
    folder.certify(&spec)?;
    let listener = bind_tcp(loopback(0)).map_err(|error| DevError::Failed(error.to_string()))?;
    let control = listener.local_addr().map_err(|error| DevError::Failed(error.to_string()))?.port();
    let file = MeshFile { control, secret: random_secret(), spec: spec.clone() };
    write_mesh_file(&folder.path, &file)?;
    let ended = if options.processes {
        drop(bound);
        processes::supervise(spec, listener, file.secret, &mut signals, ready).await
    } else {
        let mesh = DevMesh::new(spec, folder.secrets.clone());
        in_one_process(&mesh, bound, listener, file.secret, &mut signals, ready).await
    };
    // The mesh is gone: nobody finds it by this file any more.
    let _ = std::fs::remove_file(mesh_file(&folder.path));
    ended
}

fn check_regions(regions: &[String]) -> Result<(), DevError> {
    if regions.is_empty() || regions.len() > 16 {
        return Err(DevError::Usage("give 1 to 16 regions".to_owned()));
    }
    for (index, region) in regions.iter().enumerate() {
        if hearth_protocol::RegionId::new(region).is_err() {
            return Err(DevError::Usage(format!("{region:?} is no region name: lower-case letters, digits and `-`")));
        }
        if regions[..index].contains(region) {
            return Err(DevError::Usage(format!("region {region:?} is named twice")));
        }
    }
    Ok(())
}

fn caught(kind: SignalKind) -> Result<Signal, DevError> {
    signal(kind).map_err(|error| DevError::Failed(format!("signals cannot be caught: {error}")))
}

/// Binds every socket of the mesh, so that all addresses are known before the first region starts.
async fn settle(
    options: &DevOptions,
    data: PathBuf,
    patience: Duration,
) -> Result<(DevSpec, Vec<BoundRegion>), DevError> {
    let deadline = tokio::time::Instant::now() + patience;
    let mut regions = Vec::new();
    let mut bound = Vec::new();
    for (index, id) in options.regions.iter().enumerate() {
        let wanted = match options.port {
            0 => 0,
            port => u16::try_from(index).ok().and_then(|index| port.checked_add(index)).ok_or_else(|| {
                DevError::Usage(format!("port {port} leaves no room for {} regions", options.regions.len()))
            })?,
        };
        let sockets = loop {
            match bind_region(wanted).await {
                Err(DevError::PortInUse(_)) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                bound => break bound?,
            }
        };
        let port = sockets.http.local_addr().map_err(|error| DevError::Failed(error.to_string()))?.port();
        let link_port = sockets.link.local_addr().map_err(|error| DevError::Failed(error.to_string()))?.port();
        let administration = sockets.administration.local_addr();
        let administration_port = administration.map_err(|error| DevError::Failed(error.to_string()))?.port();
        let folder = data.join("regions").join(id);
        regions.push(RegionSpec { id: id.clone(), port, link_port, administration_port, data: folder });
        bound.push(sockets);
    }
    let mut delays = Vec::new();
    for from in &options.regions {
        for to in options.regions.iter().filter(|to| *to != from) {
            let delay = u64::try_from(options.latency.between(from, to).as_millis()).unwrap_or(u64::MAX);
            delays.push((from.clone(), to.clone(), delay));
        }
    }
    let spec = DevSpec {
        data,
        regions,
        delays,
        limits: options.limits,
        anti_entropy: options.anti_entropy,
        content_sweep: options.content_sweep,
        retention_day: options.retention_day,
        failover: options.failover,
        failover_after: options.failover_after,
        servers: None,
    };
    Ok((spec, bound))
}

async fn bind_region(port: u16) -> Result<BoundRegion, DevError> {
    let in_use = |error: StartError| match error {
        StartError::InUse { address } => DevError::PortInUse(address.port()),
        other => DevError::Failed(other.to_string()),
    };
    let link = bind_udp(loopback(0)).map_err(in_use)?;
    let administration = bind_tcp(loopback(0)).map_err(in_use)?;
    for _ in 0..PORT_TRIES {
        let http = bind_tcp(loopback(port)).map_err(in_use)?;
        let chosen = http.local_addr().map_err(|error| DevError::Failed(error.to_string()))?.port();
        match bind_udp(loopback(chosen)) {
            Ok(webtransport) => return Ok(BoundRegion { http, webtransport, link, administration }),
            Err(error) if port != 0 => return Err(in_use(error)),
            Err(_) => {}
        }
    }
    Err(DevError::Failed("no port is free for TCP and UDP alike".to_owned()))
}

async fn in_one_process(
    mesh: &Arc<DevMesh>,
    bound: Vec<BoundRegion>,
    listener: TcpListener,
    secret: String,
    signals: &mut Signals,
    ready: impl FnOnce(&[RegionRow]),
) -> Result<(), DevError> {
    let started = async {
        for (region, sockets) in mesh.spec.regions.iter().zip(bound) {
            let started = mesh.start_region(&region.id, Some(sockets)).await;
            started.map_err(|error| DevError::Region { region: region.id.clone(), error })?;
        }
        mesh.wait_for_links(&[]).await.map_err(DevError::Failed)
    };
    let runs = tokio::select! {
        started = started => started.map(|()| true)?,
        () = signals.next() => false,
    };
    if runs {
        let rows: Vec<RegionRow> = mesh.spec.regions.iter().map(RegionRow::of).collect();
        ready(&rows);
        let served = control::serve(listener, secret, |request| handle(mesh.clone(), request));
        tokio::select! {
            () = served => {}
            () = signals.next() => {}
        }
    }
    tokio::select! {
        _ = tokio::time::timeout(END, mesh.stop_all(DRAIN)) => {}
        () = signals.next() => {}
    }
    Ok(())
}

/// Performs a control request on a mesh of this process.
pub(super) async fn handle(mesh: Arc<DevMesh>, request: ControlRequest) -> ControlAnswer {
    let (ControlRequest::Start { region } | ControlRequest::Stop { region } | ControlRequest::Drain { region, .. }) =
        &request;
    if mesh.spec.region(region).is_none() {
        let known: Vec<&str> = mesh.spec.regions.iter().map(|region| region.id.as_str()).collect();
        let message = format!("no region {region:?} in this mesh; it has {}", known.join(", "));
        return ControlAnswer { code: 2, message };
    }
    match request {
        ControlRequest::Start { region } => match mesh.start_region(&region, None).await {
            Ok(true) => match mesh.wait_for_links(&[]).await {
                Ok(()) => ControlAnswer { code: 0, message: format!("{region} is ready") },
                Err(message) => ControlAnswer { code: 70, message },
            },
            Ok(false) => ControlAnswer { code: 6, message: format!("{region} runs already") },
            Err(error) => ControlAnswer { code: 70, message: format!("{region} does not start: {error}") },
        },
        ControlRequest::Stop { region } => {
            if mesh.stop_region(&region).await {
                ControlAnswer { code: 0, message: format!("{region} is down") }
            } else {
                ControlAnswer { code: 6, message: format!("{region} is down already") }
            }
        }
        ControlRequest::Drain { region, over_ms } => {
            match mesh.drain_region(&region, Duration::from_millis(over_ms)).await {
                Some(true) => ControlAnswer {
                    code: 0,
                    message: format!("{region} has no sessions; `hearth dev start {region}` lets them back"),
                },
                Some(false) => ControlAnswer { code: 6, message: format!("{region} takes no sessions already") },
                None => ControlAnswer { code: 70, message: format!("{region} is down: `hearth dev start {region}`") },
            }
        }
    }
}
