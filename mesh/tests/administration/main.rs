//! The administration port over real sockets: who is let in, what a dry run leaves alone, what the audit log keeps.

mod changes;
mod door;
#[path = "../support/regions.rs"]
mod regions;
mod support;
mod verify;
