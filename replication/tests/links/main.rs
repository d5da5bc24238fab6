//! Links between real endpoints on loopback.

mod exchange;
mod support;
mod trust;
