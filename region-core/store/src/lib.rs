//! The stores behind the ports of `region_model::ports`.
//!
//! [`embedded`] is the default: one fjall database per region, one committer thread, one sync for everything that
//! waits. [`memory`] is the reference adapter for tests, with switches for every answer that a port may give.

pub mod embedded;
pub mod memory;
