//! The decisions of a region, pure: who gets which number, what is durable enough to ack, what a replica may apply.
//!
//! Nothing in here has a socket, a clock, entropy or a runtime. Time and salts come in as arguments, effects go out as
//! values; the shell in `region-core` performs them.

mod bucket;
pub mod chain;
pub mod command;
#[cfg(feature = "conformance")]
pub mod conformance;
mod copies;
pub mod core;
pub mod delivery;
pub mod effect;
pub mod few;
mod followers;
mod home;
mod joins;
pub mod line;
mod log;
pub mod media;
pub mod mutants;
pub mod ownership;
mod pacing;
mod parking;
pub mod ports;
pub mod presence;
pub mod push;
mod ranges;
pub mod receipts;
pub mod region_map;
mod replica;
pub mod seen;
pub mod session;
mod succession;
mod targets;
pub mod typing;
pub mod view;

pub use bucket::Bucket;
pub use command::{Ack, Command, Outcome};
pub use core::{
    CopyStanding, CoreGauges, CoreOptions, Input, Now, ParkedStanding, RegionCore, Standing, region_sender,
};
pub use effect::{DeviceOutcome, Effect, Lane, LogView};
pub use home::is_by_id;
pub use parking::ParkingBounds;
