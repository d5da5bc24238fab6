//! The region map under consensus: `region_model::region_map` in every region, by one Raft group between them.
//!
//! ```text
//!   propose ──► MapNode ──leader here?──► openraft ──► MapStore (log, vote, snapshot)
//!                  │ no                       │ ▲
//!                  └── MapNetwork ◄───────────┘ │
//!                      (leader, or another      │
//!                       region as a relay)      └── entries, votes and snapshots of the other regions
//! ```
//! openraft stays behind [`RegionMapLog`]: nothing of it is in the interface. Bytes that leave the process are in
//! `wire.rs`, each with a version byte.

mod clock;
mod elections;
mod failover;
pub mod in_process;
mod keeper;
mod machine;
mod members;
mod network;
mod node;
mod port;
mod raft;
mod reach;
mod records;
mod restored;
mod store;
mod wire;

pub use clock::{MapClock, boot_clock};
pub use failover::{NotFailedOver, SlotsMoved};
pub use keeper::{LeaseKeeper, LeaseView};
pub use node::{MapNode, StartError};
pub use port::{Leadership, MapNetwork, MapOptions, MapTimes, NotAnswered, NotDecided, RegionMapLog};
pub use restored::{begin_anew, forget, stored_map};
