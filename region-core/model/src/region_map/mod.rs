//! The region map (design.md 4.1): the one small record that the regions of a mesh agree upon, as a pure state machine.
//!
//! ```text
//!   MapCommand ──committed by Raft, in one order──► MapState::apply ──► MapAnswer
//!        ▲                                              │
//!   LeaderLeases::admit, by the leader's clock          ▼
//!   HolderLease: may I sequence now?  ◄── answer   MapState, the same in every region
//! ```
//! Nothing in here knows a clock: times are arguments, counted from any fixed point of the one clock that the caller
//! always uses. Commands carry what they were decided upon (a lease's term, a store's counter, the version that was
//! seen), so a command that comes late or twice changes nothing.

mod anew;
mod command;
mod failover;
mod lease;
mod reachability;
mod slots;
mod state;

pub use command::{FirstMap, MapAnswer, MapCommand, MapFact, MapRefusal, RangeOf};
pub use failover::{FailoverRules, LeaderView};
pub use lease::{Asked, HolderLease, LeaderLeases, LeaseStanding};
pub use reachability::{Reachability, Silences};
pub use slots::{SlotGroup, SlotTable};
pub use state::{Lease, MapState, RegionEntry, RegionState, StoreMark};

use std::time::Duration;

/// Length of a lease (design.md 4.1).
pub const LEASE: Duration = Duration::from_secs(6);
/// How often a lease is renewed (design.md 4.1).
pub const RENEW_EVERY: Duration = Duration::from_secs(2);
/// How far a clock may run from true time, in percent (design.md 4.1).
pub const DRIFT_PERCENT: u32 = 1;
/// How long a region is out of reach before it is failed over, unless configured (design.md 4.4).
pub const FAILOVER_AFTER: Duration = Duration::from_secs(10);
/// How long a region is out of reach before the leader gives it no lease any more: with what is left of the last one,
/// less than [`FAILOVER_AFTER`].
pub const UNREACHED_AFTER: Duration = Duration::from_secs(3);
/// A voter's word on what it reaches counts for so long.
pub const REPORTS_STAY_FRESH: Duration = Duration::from_secs(3);
/// How long a fenced region that is in reach may take to return before its slots go to others.
pub const RETURN_GRACE: Duration = Duration::from_secs(5);
/// Map voters without which nothing is failed over by itself (design.md 4.1, two regions).
pub const FEWEST_VOTERS: usize = 3;
/// Regions of a map, those that were removed included.
pub const MAXIMUM_REGIONS: usize = 64;
/// Voters of the map: 3 or 5, and in between while they change.
pub const MAXIMUM_MAP_VOTERS: usize = 5;
/// Voters of a placement log.
pub const MAXIMUM_PLACEMENT_VOTERS: usize = 5;
/// Shortest and longest lease that the map grants, in milliseconds.
pub const LEASE_MILLISECONDS: std::ops::RangeInclusive<u32> = 100..=60_000;
