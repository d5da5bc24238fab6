//! The composition: a region from its configuration, and a mesh of regions for development.
//!
//! Listeners, stores, clock and links are parameters, so that a test boots the same program that ships.

pub mod admin;
pub mod backup;
pub mod dev;
mod keys;
mod links;
mod map;
mod media;
mod metadata;
mod push;
mod region;
mod reload;
pub mod serve;
mod store;

pub use metadata::{RebuildPlan, RebuildProgress, plan_metadata, rebuild_metadata};
pub use region::{RegionParts, RunningRegion, StartError};
pub use store::{HAS_SERVERS, MigrationStep, migrate};
