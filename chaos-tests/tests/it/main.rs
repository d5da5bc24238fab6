//! Stories that drive the shipped binary from outside, by the client contract alone.

mod administration;
mod closed_door;
mod crash;
mod dev;
mod edits;
mod exits;
mod expiry;
mod failover;
mod faults;
mod five_regions;
mod joining;
mod links;
mod membership;
mod metrics;
mod mutants;
mod operators;
mod partition;
mod presence;
mod push;
mod receipts;
mod scenario;
mod serve;
mod sessions;
mod stores;
mod typing;
