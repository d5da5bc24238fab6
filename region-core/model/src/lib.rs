//! The decisions of a region, pure: who gets which number, what is durable enough to ack, what a replica may apply.
//!
//! Nothing in here has a socket, a clock, entropy or a runtime. Time and salts come in as arguments, effects go out as
//! values; the shell in `region-core` performs them.

pub mod ports;
