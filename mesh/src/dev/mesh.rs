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
    /// Its links' UDP address.
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
            link: Some(super::spec::loopback(region.link_port).to_string()),
            pid: None,
        }
    }
}

/// Sockets of a region that were bound to settle its ports.
#[derive(Debug)]
pub(crate) struct BoundRegion {
    pub(crate) http: TcpListener,
    pub(crate) webtransport: UdpSocket,
    pub(crate) link: UdpSocket,
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

/// Longest wait for links after a start.
const LINKS_PATIENCE: Duration = Duration::from_secs(4);

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
            if reason.starts_with("DRAINING") {
                running.undrain();
                return Ok(true);
            }
        }
        if let Some(failed) = regions.remove(id) {
            failed.stop().await;
        }
        let spec = self.spec.region(id).ok_or_else(|| StartError::Config(format!("no region {id:?} in this mesh")))?;
        let config = self.spec.config(spec, &self.secrets);
        let (http, webtransport, link) = match bound {
            Some(bound) => (Some(bound.http), Some(bound.webtransport), Some(bound.link)),
            None => (None, None, None),
        };
        let parts = RegionParts {
            http,
            webtransport,
            link,
            faults: self.faults.clone(),
            extra_routes: Some(routes::routes(self.clone(), id)),
            allowed_hosts: Some(self.spec.hosts()),
            refuse_foreign_origins: true,
        };
        let running = RunningRegion::start(&config, parts).await?;
        regions.insert(id.to_owned(), running);
        Ok(true)
    }

    /// Waits until every running region reaches every other, as far as links are not cut.
    pub(crate) async fn wait_for_links(&self) {
        let deadline = tokio::time::Instant::now() + LINKS_PATIENCE;
        while tokio::time::Instant::now() < deadline {
            if self.all_linked().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tracing::warn!("not all links came up in time; the mesh serves, and they are still tried");
    }

    async fn all_linked(&self) -> bool {
        let regions = self.regions.lock().await;
        let linked = |one: &RunningRegion, other: &str| {
            one.links.is_up(other) || self.faults.get(one.handle.region().as_str(), other).cut
        };
        regions.iter().all(|(id, one)| regions.keys().filter(|other| *other != id).all(|other| linked(one, other)))
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

    /// Drains and stops every region.
    pub(crate) async fn stop_all(&self, within: Duration) {
        let mut regions = std::mem::take(&mut *self.regions.lock().await);
        let drains = regions.values_mut().map(|region| region.drain(within));
        futures_join(drains).await;
        for (_, region) in regions {
            region.stop().await;
        }
    }
}

async fn futures_join<T>(futures: impl Iterator<Item = impl Future<Output = T>>) {
    let mut pending: Vec<_> = futures.map(Box::pin).collect();
    for future in &mut pending {
        future.await;
    }
}
