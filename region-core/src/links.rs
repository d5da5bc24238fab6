//! The links to other regions, as the core needs them. The mesh composition puts QUIC behind this port.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use hearth_protocol::RegionId;
pub use region_model::Lane;

/// A frame was not taken: the link is down or its queue is full. Whatever matters is sent again by cursor or timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the link did not take the frame")]
pub struct NotSent;

/// Links to the other regions of the mesh.
pub trait Links: Send + Sync + fmt::Debug {
    /// Queues a frame; never waits.
    ///
    /// # Errors
    /// [`NotSent`].
    fn send(&self, peer: &RegionId, lane: Lane, frame: Bytes) -> Result<(), NotSent>;

    /// Whether a peer can be reached now.
    fn is_up(&self, peer: &RegionId) -> bool;

    /// Smoothed round trip to a peer, when its link is up.
    fn round_trip(&self, peer: &RegionId) -> Option<Duration>;
}

/// What the links tell a region.
#[derive(Debug)]
pub enum LinkEvent {
    /// A link came up.
    Up(RegionId),
    /// A link went down.
    Down(RegionId),
    /// Frames of a peer, in the order of their lane.
    Frames(RegionId, Vec<Bytes>),
}
