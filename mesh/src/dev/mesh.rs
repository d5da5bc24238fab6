//! The regions of a development mesh in one process.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use replication::{FaultState, LinkFaults};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::folder::Secrets;
use super::routes;
use super::spec::{DevSpec, RegionSpec};
use crate::region::{RegionParts, RunningRegion, StartError};

/// A row of the ready line and of `GET /api/v1/dev/regions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionRow {
    /// The region.
    pub id: String,
    /// Its HTTP base URL.
    pub http: String,
    /// Its WebSocket URL.
    pub ws: String,
    /// Its WebTransport URL.
    pub webtransport: String,
    /// Its folder.
    pub data: String,
    /// Its links' UDP address: in `GET /api/v1/dev/regions` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Its process, with `--processes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

impl RegionRow {
    pub(crate) fn of(region: &RegionSpec) -> Self {
        Self {
            id: region.id.clone(),
            http: region.http(),
            ws: region.ws(),
            webtransport: region.webtransport(),
            data: region.data.display().to_string(),
            link: None,
            pid: None,
        }
    }

    pub(crate) fn with_link(region: &RegionSpec) -> Self {
        Self { link: Some(super::spec::loopback(region.link_port).to_string()), ..Self::of(region) }
    }
}

/// Sockets of a region that were bound to settle its ports.
#[derive(Debug)]
pub(crate) struct BoundRegion {
    pub(crate) http: TcpListener,
    pub(crate) webtransport: UdpSocket,
    pub(crate) link: UdpSocket,
    pub(crate) administration: TcpListener,
}

/// A mesh of regions in this process.
#[derive(Debug)]
pub struct DevMesh {
    /// Its addresses.
    pub spec: DevSpec,
    /// Faults under all links.
    pub faults: LinkFaults,
    secrets: Secrets,
    regions: Mutex<BTreeMap<String, RunningRegion>>,
}

/// How the reason of a region begins that lets its sessions leave.
const DRAINING: &str = "DRAINING";
/// Longest wait for links after a start, beside the time that their delays take. They are up within a second; a machine
/// that stood still for a while must not fail a start.
const LINKS_PATIENCE: Duration = Duration::from_secs(20);
/// How long a start waits for leases.
const LEASES_PATIENCE: Duration = Duration::from_secs(5);
/// One-way delays that a handshake takes at most, its hello and a lost datagram included.
const HANDSHAKE_DELAYS: u32 = 10;

impl DevMesh {
    pub(crate) fn new(spec: DevSpec, secrets: Secrets) -> Arc<Self> {
        let faults = LinkFaults::new();
        for (from, to, delay) in &spec.delays {
            let state = FaultState { delay: Duration::from_millis(*delay), ..FaultState::default() };
            faults.set(from, to, state);
        }
        Arc::new(Self { spec, faults, secrets, regions: Mutex::new(BTreeMap::new()) })
    }

    pub(crate) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Starts a region. Returns `false` when it runs already. One whose store failed is started anew.
    ///
    /// # Errors
    /// [`StartError`]; the region is down then.
    pub(crate) async fn start_region(
        self: &Arc<Self>,
        id: &str,
        bound: Option<BoundRegion>,
    ) -> Result<bool, StartError> {
        let mut regions = self.regions.lock().await;
        if let Some(running) = regions.get(id) {
            let region_core::Readiness::NotReady(reason) = running.handle.readiness() else { return Ok(false) };
            if reason.starts_with(DRAINING) {
                running.undrain();
                return Ok(true);
            }
        }
        if let Some(failed) = regions.remove(id) {
            failed.stop().await;
        }
        let spec = self.spec.region(id).ok_or_else(|| StartError::Config(format!("no region {id:?} in this mesh")))?;
        let config = self.spec.config(spec, &self.secrets);
        let bound = match bound {
            Some(bound) => RegionParts {
                http: Some(bound.http),
                webtransport: Some(bound.webtransport),
                link: Some(bound.link),
                administration: Some(bound.administration),
                ..RegionParts::default()
            },
            None => RegionParts::default(),
        };
        let parts = RegionParts {
            faults: self.faults.clone(),
            extra_routes: Some(routes::routes(self.clone(), id)),
            allowed_hosts: Some(self.spec.hosts()),
            refuse_foreign_origins: true,
            ..bound
        };
        let running = RunningRegion::start(&config, parts).await?;
        regions.insert(id.to_owned(), running);
        Ok(true)
    }

    /// Waits until every running region reaches every other, and `others`, which run in processes of their own; links
    /// that are cut and regions whose stores failed are left out.
    ///
    /// # Errors
    /// What a person is told when a link does not come up.
    pub(crate) async fn wait_for_links(&self, others: &[String]) -> Result<(), String> {
        let slowest = self.spec.delays.iter().map(|(_, _, delay)| *delay).max().unwrap_or(0);
        let deadline = tokio::time::Instant::now() + LINKS_PATIENCE + Duration::from_millis(slowest) * HANDSHAKE_DELAYS;
        while let Some((one, other)) = self.link_that_is_down(others).await {
            if tokio::time::Instant::now() >= deadline {
                return Err(format!("{one} serves, but its link to {other} does not come up"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.wait_for_leases().await;
        Ok(())
    }

    /// Waits until every running region may sequence, for a while: where too few of the map's voters run, no region may,
    /// and what is sent is parked.
    pub(crate) async fn wait_for_leases(&self) {
        let deadline = tokio::time::Instant::now() + LEASES_PATIENCE;
        while tokio::time::Instant::now() < deadline {
            let without = self.regions.lock().await.values().any(|region| is_up(region) && !region.may_sequence());
            if !without {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn link_that_is_down(&self, others: &[String]) -> Option<(String, String)> {
        let regions = self.regions.lock().await;
        let running: Vec<&String> = regions.iter().filter(|(_, region)| is_up(region)).map(|(id, _)| id).collect();
        for id in &running {
            let links = &regions[*id].links;
            let down = |other: &&String| *other != *id && !links.is_up(other) && !self.severed(id, other);
            if let Some(other) = running.iter().copied().chain(others).find(down) {
                return Some(((*id).clone(), other.clone()));
            }
        }
        None
    }

    /// Whether no link can stand between two regions: it needs both directions.
    fn severed(&self, one: &str, other: &str) -> bool {
        [self.faults.get(one, other), self.faults.get(other, one)]
            .iter()
            .any(|fault| fault.cut || fault.loss_percent >= 100.0)
    }

    /// Stops a region. Returns `false` when it does not run.
    pub(crate) async fn stop_region(&self, id: &str) -> bool {
        let Some(region) = self.regions.lock().await.remove(id) else { return false };
        region.drain(Duration::from_millis(500)).await;
        region.stop().await;
        true
    }

    /// Drains the sessions of a region; its homes stay. Returns `None` when it does not run, `Some(false)` when it
    /// drains already.
    pub(crate) async fn drain_region(&self, id: &str, over: Duration) -> Option<bool> {
        let (handle, gateway) = {
            let regions = self.regions.lock().await;
            let region = regions.get(id)?;
            (region.handle.clone(), region.gateway.clone())
        };
        if handle.readiness() != region_core::Readiness::Ready {
            return Some(false);
        }
        handle.set_draining(true);
        gateway.drain(over).await;
        Some(true)
    }

    /// Drains every region at once, then stops them: whoever still leaves one can still reach the others.
    pub(crate) async fn stop_all(&self, within: Duration) {
        let regions = std::mem::take(&mut *self.regions.lock().await);
        let mut drains = tokio::task::JoinSet::new();
        for (_, region) in regions {
            drains.spawn(async move {
                region.drain(within).await;
                region
            });
        }
        for region in drains.join_all().await {
            region.stop().await;
        }
    }
}

/// Whether a region has links: one whose store failed has closed them.
fn is_up(region: &RunningRegion) -> bool {
    match region.handle.readiness() {
        region_core::Readiness::Ready => true,
        region_core::Readiness::NotReady(reason) => reason.starts_with(DRAINING),
    }
}
