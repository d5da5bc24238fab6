//! A mesh of regions in one process, each on a store of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::RegionId;
use region_map::in_process::{InProcess, Link};
use region_map::{LeaseKeeper, LeaseView, MapNode, MapOptions, MapTimes, RegionMapLog, boot_clock};
use region_model::region_map::{FailoverRules, MapAnswer, MapCommand, MapState};
use region_store::memory::Memory;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::PATIENCE;

pub(crate) fn region(name: &str) -> RegionId {
    RegionId::new(name).expect("a valid name")
}

/// A running region.
pub(crate) struct Running {
    pub(crate) node: MapNode,
    pub(crate) lease: LeaseView,
}

pub(crate) struct Mesh {
    pub(crate) names: Vec<RegionId>,
    pub(crate) network: InProcess,
    pub(crate) stores: BTreeMap<RegionId, (Memory, Uuid)>,
    pub(crate) running: BTreeMap<RegionId, Running>,
    pub(crate) failover: FailoverRules,
}

impl Mesh {
    /// All regions, started; every message takes `delay`.
    pub(crate) async fn start(names: &[&str], delay: Duration) -> Self {
        let mut mesh = Self::stopped(names, delay);
        for name in names {
            mesh.start_region(&region(name)).await;
        }
        mesh
    }

    pub(crate) fn stopped(names: &[&str], delay: Duration) -> Self {
        let names: Vec<RegionId> = names.iter().map(|name| region(name)).collect();
        let network = InProcess::default();
        network.set_usual(Link { delay, loss: 0.0, cut: false });
        let store =
            |(number, name): (u128, &RegionId)| (name.clone(), (Memory::new(name.clone()), Uuid::from_u128(number)));
        let stores = (1..).zip(&names).map(store).collect();
        Self { names, network, stores, running: BTreeMap::new(), failover: FailoverRules::default() }
    }

    pub(crate) async fn start_region(&mut self, name: &RegionId) {
        let (memory, store) = &self.stores[name];
        let options = MapOptions {
            region: name.clone(),
            store: *store,
            regions: self.names.clone(),
            times: MapTimes::default(),
            failover: self.failover,
        };
        let network = self.network.of(name.clone());
        let node = MapNode::start(options, memory.stores().map, network, boot_clock()).await.expect("starts");
        self.network.attach(name.clone(), node.clone());
        let lease = LeaseKeeper::start(&node).await.expect("starts");
        self.running.insert(name.clone(), Running { node, lease });
    }

    /// A region dies: silent at once, and what its store had not synced is lost.
    pub(crate) async fn kill(&mut self, name: &RegionId) {
        let running = self.running.remove(name).expect("it runs");
        self.network.detach(name);
        self.stores[name].0.crash();
        running.node.stop().await;
    }

    /// The region's store is gone: the next start is on a new one.
    pub(crate) fn lose_store(&mut self, name: &RegionId, number: u128) {
        self.stores.insert(name.clone(), (Memory::new(name.clone()), Uuid::from_u128(number)));
    }

    pub(crate) fn node(&self, name: &RegionId) -> &MapNode {
        &self.running[name].node
    }

    pub(crate) fn map(&self, name: &RegionId) -> Arc<MapState> {
        self.node(name).watch().borrow().clone()
    }

    /// The one that leads now and is followed by all others that run, once that is so.
    pub(crate) async fn leader(&self) -> RegionId {
        let look = || {
            let views: Vec<_> = self.running.values().map(|running| running.node.leadership()).collect();
            let leader = views.first()?.leader.clone()?;
            let leads = self.running.get(&leader)?.node.leadership().is_here;
            (leads && views.iter().all(|view| view.leader.as_ref() == Some(&leader))).then_some(leader)
        };
        self.until("all follow one leader", look).await
    }

    /// Looks every 5 ms until there is something to see.
    pub(crate) async fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let seen = timeout(PATIENCE, async {
            loop {
                if let Some(seen) = look() {
                    return seen;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        match seen.await {
            Ok(seen) => seen,
            Err(_) => panic!("waited for: {what}; {:?}", self.views()),
        }
    }

    fn views(&self) -> Vec<String> {
        let view = |(name, running): (&RegionId, &Running)| {
            let map = running.node.watch().borrow().clone();
            let leadership = running.node.leadership();
            format!("{name}: version {} {leadership:?} lease {:?}", map.version, running.lease.remaining())
        };
        self.running.iter().map(view).collect()
    }

    /// Every region that runs holds its lease.
    pub(crate) async fn all_hold_leases(&self) {
        self.until("all hold leases", || self.running.values().all(|region| region.lease.may_sequence()).then_some(()))
            .await;
    }

    pub(crate) async fn propose(&self, by: &RegionId, command: MapCommand) -> MapAnswer {
        self.node(by).propose(command, PATIENCE).await.expect("it is decided")
    }

    pub(crate) async fn stop(self) {
        for running in self.running.values() {
            running.node.stop().await;
        }
    }
}

/// Half and largest of some times, in milliseconds.
pub(crate) fn spread(mut times: Vec<Duration>) -> (u128, u128) {
    times.sort();
    (times[times.len() / 2].as_millis(), times[times.len() - 1].as_millis())
}

pub(crate) fn since(start: Instant) -> Duration {
    start.elapsed()
}
