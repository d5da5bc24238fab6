//! Links between regions.
//!
//! A region has one UDP port and one QUIC endpoint. Every pair of regions shares one connection,
//! dialled by the region whose name sorts first, with mutual TLS under the mesh's own authority.
//! A connection carries a few long-lived streams ([`Lane`]); a stream carries opaque,
//! length-prefixed frames in order. What is inside a frame is not known here.
//!
//! A link is *at most once*: frames that wait, or are on their way, when it goes down are lost.
//! Whoever needs more resends after the next [`LinkEvent::Up`]. While a link stays up, frames of
//! one lane arrive in the order in which they were sent, without gaps.
//!
//! This is the only package that names quinn for region links.

mod backoff;
mod config;
mod endpoint;
mod faults;
mod handshake;
mod lanes;
mod liveness;
mod metrics;
mod peer;
mod socket;
mod tls;
mod wire;

pub use config::{LinkConfig, LinkLimits, LinkTimes, LinkTls, PeerConfig};
pub use endpoint::{LinkError, Links, LinksHandle};
pub use faults::{FaultState, LinkFault, LinkFaults};
pub use lanes::{Lane, MAXIMUM_FRAME_BYTES, MESSAGE_LANES, SendError};
pub use liveness::{Liveness, LivenessAction};
pub use metrics::LinkMetrics;
pub use peer::{DownReason, LinkEvent, PeerHello};
pub use tls::TlsError;
pub use wire::{Incompatible, Refusal, VersionRange, negotiate};
