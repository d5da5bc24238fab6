//! The QUIC links behind the core's port.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hearth_protocol::{LogId, RegionId};
use region_core::{LinkEvent, Links, NotSent, RegionHandle};
use region_map::MapNode;
use region_model::Lane;
use replication::{LinksHandle, MESSAGE_LANES};
use tokio::sync::mpsc;

use crate::map::MapLinks;

/// The links of one region, as its core sees them.
#[derive(Debug)]
pub(crate) struct QuicLinks(pub(crate) LinksHandle);

/// Frames of one log take one lane, so that they keep their order.
fn lane_of(log: &LogId) -> replication::Lane {
    let id = log.id.as_u128();
    let folded = (id ^ (id >> 64)) % u128::from(MESSAGE_LANES);
    replication::Lane::for_hash(u64::try_from(folded).unwrap_or(0))
}

impl Links for QuicLinks {
    fn send(&self, peer: &RegionId, lane: Lane, frame: Bytes) -> Result<(), NotSent> {
        let lane = match lane {
            Lane::Log(log) => lane_of(&log),
            Lane::Bulk => replication::Lane::Bulk,
            Lane::Control => replication::Lane::Control,
        };
        self.0.send(peer.as_str(), lane, frame).map_err(|_| NotSent)
    }

    fn is_up(&self, peer: &RegionId) -> bool {
        self.0.is_up(peer.as_str())
    }

    fn round_trip(&self, peer: &RegionId) -> Option<Duration> {
        self.0.round_trip(peer.as_str())
    }
}

/// Hands the links' events to the core until either ends, and the map's frames to the map.
pub(crate) async fn pump(
    mut events: mpsc::Receiver<replication::LinkEvent>,
    region: RegionHandle,
    map: Arc<MapLinks>,
    node: MapNode,
) {
    while let Some(event) = events.recv().await {
        let event = match event {
            replication::LinkEvent::Up { peer, hello } => {
                tracing::info!(region = %region.region(), peer, incarnation = hello.incarnation, "link up");
                RegionId::new(&peer).map(LinkEvent::Up)
            }
            replication::LinkEvent::Down { peer, reason } => {
                tracing::info!(region = %region.region(), peer, ?reason, "link down");
                RegionId::new(&peer).map(LinkEvent::Down)
            }
            replication::LinkEvent::Frames { peer, lane, mut frames } => RegionId::new(&peer).map(|peer| {
                if lane == replication::Lane::Control {
                    frames.retain(|frame| !map.take(&node, &peer, frame));
                }
                LinkEvent::Frames(peer, frames)
            }),
            replication::LinkEvent::Refused { .. } => continue,
        };
        // Names of peers come from the configuration, which checked them.
        if let Ok(event) = event {
            region.link_event(event).await;
        }
    }
}
