//! One region: the homes that it sequences, the replicas that it holds, the sends that it parks.
//!
//! The decisions are in `region-model`; this crate is their shell. [`handle::RegionHandle`] is what edges and
//! compositions use.

pub mod edge;
pub mod handle;

pub use edge::{Connection, EdgeEvent};
pub use handle::{ApiCall, Opened, Readiness, RegionHandle, Replay};
