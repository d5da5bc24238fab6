//! A whole mesh in one thread, from one seed, over the code that ships.
//!
//! ```text
//!   Plan (seed, faults, clients) ──► World: one queue of events in simulated time
//!                                     │ RegionCore × n   the decisions that the release binary links
//!                                     │ Disk, Links, MapService, Clock   ports, simulated
//!                                     │ Client × n   sends, retries, roams
//!                                     ▼
//!                                  History ──► checker ──► verdict
//! ```
//! The same plan gives the same run, to the hash of everything that happened. [`history`] and [`checker`] know nothing
//! of the simulation: the stories over real sockets fill the same history and are judged by the same checker.

mod aimed;
mod alterations;
pub mod checker;
mod clients;
mod clock;
mod disk;
mod drains;
mod errands;
mod explain;
mod faults;
pub mod history;
#[cfg(feature = "mutants")]
pub mod hunt;
mod limits;
mod map;
mod media;
mod memberships;
mod network;
mod plan;
mod presence;
mod push;
mod random;
mod region;
mod run;
mod sessions;
mod shrink;
mod stores;
mod trace;
mod typing;
mod uploads;
mod visitors;
mod wishes;
mod woken;
mod world;

pub use plan::{Aim, Fault, FaultKind, PACE, Plan, Size};
pub use run::{Ran, STEPS, Verdict, run, run_told, run_whole};
pub use shrink::{Shrunk, shrink};
