//! The region map over the links: its requests and answers on the control lane, and what `/metrics` shows of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hearth_protocol::RegionId;
use hearth_protocol::mesh::{Body, MapAsk, MapTell, MeshFrame};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use prost::Message as _;
use region_core::Ownership;
use region_map::{LeaseView, MapNetwork, MapNode, NotAnswered, RegionMapLog as _};
use region_model::ownership::Right;
use region_model::region_map::{MapState, RegionState};
use replication::{Lane, LinksHandle};
use tokio::sync::{Semaphore, oneshot, watch};

/// Requests to and of other regions under way; more get no answer, and are made again.
const UNDER_WAY: usize = 256;

/// Who waits for an answer, by the number of the request.
type Waiting = Mutex<HashMap<u64, (RegionId, oneshot::Sender<Bytes>)>>;

/// The way of the map's requests over the links of one region.
#[derive(Debug)]
pub(crate) struct MapLinks {
    links: LinksHandle,
    waiting: Waiting,
    next: AtomicU64,
    answering: Arc<Semaphore>,
}

/// Forgets a request, answered or not: openraft drops those that take too long.
struct Asked<'a> {
    waiting: &'a Waiting,
    number: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.number);
    }
}

fn encode(body: Body) -> Bytes {
    Bytes::from(MeshFrame { body: Some(body) }.encode_to_vec())
}

impl MapLinks {
    pub(crate) fn new(links: LinksHandle) -> Arc<Self> {
        let answering = Arc::new(Semaphore::new(UNDER_WAY));
        Arc::new(Self { links, waiting: Waiting::default(), next: AtomicU64::new(1), answering })
    }

    /// Takes a frame of the control lane, if it is the map's: whether it was.
    pub(crate) fn take(self: &Arc<Self>, node: &MapNode, peer: &RegionId, frame: &Bytes) -> bool {
        if !MeshFrame::may_be_of_the_map(frame) {
            return false;
        }
        match MeshFrame::decode(frame.clone()).map(|frame| frame.body) {
            Ok(Some(Body::MapAsk(ask))) => self.answer(node, peer, ask),
            Ok(Some(Body::MapTell(tell))) => {
                let mut waiting = self.waiting.lock();
                if waiting.get(&tell.request_id).is_some_and(|(asked, _)| asked == peer)
                    && let Some((_, answer)) = waiting.remove(&tell.request_id)
                {
                    // Whoever asked may have gone.
                    let _gone = answer.send(tell.body).is_err();
                }
            }
            _ => return false,
        }
        true
    }

    fn answer(self: &Arc<Self>, node: &MapNode, peer: &RegionId, ask: MapAsk) {
        let Ok(permit) = Arc::clone(&self.answering).try_acquire_owned() else { return };
        let (links, node, peer) = (self.links.clone(), node.clone(), peer.clone());
        tokio::spawn(async move {
            if let Some(body) = node.handle(&peer, ask.body).await {
                let tell = encode(Body::MapTell(MapTell { request_id: ask.request_id, body }));
                // A lost answer is asked for again.
                let _lost = links.send(peer.as_str(), Lane::Control, tell).is_err();
            }
            drop(permit);
        });
    }
}

#[async_trait]
impl MapNetwork for MapLinks {
    async fn ask(&self, to: &RegionId, request: Bytes, patience: Duration) -> Result<Bytes, NotAnswered> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.len() >= UNDER_WAY {
                return Err(NotAnswered);
            }
            waiting.insert(number, (to.clone(), answer));
        }
        let _asked = Asked { waiting: &self.waiting, number };
        let ask = encode(Body::MapAsk(MapAsk { request_id: number, body: request }));
        self.links.send(to.as_str(), Lane::Control, ask).map_err(|_| NotAnswered)?;
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(body)) => Ok(body),
            _ => Err(NotAnswered),
        }
    }
}

/// What the core is told of the map.
#[derive(Debug)]
pub(crate) struct MapOwnership {
    pub(crate) node: MapNode,
    pub(crate) lease: LeaseView,
}

impl Ownership for MapOwnership {
    fn right(&self) -> Right {
        self.lease.right()
    }

    fn map(&self) -> watch::Receiver<Arc<MapState>> {
        self.node.watch()
    }
}

/// What a region knows of the map, read when `/metrics` is asked for.
#[derive(Debug)]
struct MapCollector {
    region: RegionId,
    node: MapNode,
    lease: LeaseView,
}

/// How each region of the mesh takes part, and how many slots it stewards, as the map has it here.
fn encode_regions(map: &MapState, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    let help = "1 for the state that the map has a region in";
    let mut family = encoder.encode_descriptor("hearth_region_state", help, None, MetricType::Gauge)?;
    for entry in map.members() {
        for state in RegionState::OF_MEMBERS {
            let labels = [("region", entry.region.as_str()), ("state", state.as_str())];
            ConstGauge::new(i64::from(entry.state == state)).encode(family.encode_family(&labels)?)?;
        }
    }
    let help = "Slots that a region stewards by the map";
    let mut family = encoder.encode_descriptor("hearth_region_slots", help, None, MetricType::Gauge)?;
    for entry in map.members() {
        let slots = i64::try_from(map.slots.stewarded(&entry.region)).unwrap_or(i64::MAX);
        ConstGauge::new(slots).encode(family.encode_family(&[("region", entry.region.as_str())])?)?;
    }
    Ok(())
}

/// Registers the map's metrics of one region.
pub(crate) fn register(region: &RegionId, node: &MapNode, lease: &LeaseView, registry: &mut Registry) {
    let (region, node, lease) = (region.clone(), node.clone(), lease.clone());
    registry.register_collector(Box::new(MapCollector { region, node, lease }));
}

impl Collector for MapCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let version = i64::try_from(self.node.watch().borrow().version).unwrap_or(i64::MAX);
        let leader = self.node.leadership().leader;
        let here = [("region", self.region.as_str().to_owned())];
        let gauge = MetricType::Gauge;
        let mut family =
            encoder.encode_descriptor("hearth_map_version", "Version of the region map here", None, gauge)?;
        ConstGauge::new(version).encode(family.encode_family(&here)?)?;
        let gauge = MetricType::Gauge;
        let mut family =
            encoder.encode_descriptor("hearth_map_leader", "1 for the region that leads the map", None, gauge)?;
        if let Some(leader) = leader {
            let labels = [("region", leader.as_str().to_owned())];
            ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
        }
        encode_regions(&self.node.watch().borrow(), &mut encoder)?;
        let mut family = encoder.encode_descriptor(
            "hearth_map_fences",
            "Fences that this region committed as the map's leader",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(self.node.fences_committed()).encode(family.encode_family(&here)?)?;
        let gauge = MetricType::Gauge;
        let help = "What is left of this region's lease";
        let mut family = encoder.encode_descriptor("hearth_lease_seconds", help, None, gauge)?;
        ConstGauge::new(self.lease.remaining().as_secs_f64()).encode(family.encode_family(&here)?)
    }
}
