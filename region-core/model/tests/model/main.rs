//! Stories and properties of a mesh of cores over simulated links and stores.

mod changes;
mod expiry;
mod failover;
mod faults;
mod forgotten;
mod joins;
mod logs;
mod parked_order;
mod parking;
mod partition;
mod properties;
mod sends;
mod stores;
mod support;
mod voters;
