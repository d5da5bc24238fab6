//! The mesh over real sockets under random faults: a plan from a seed, a load of real clients through every region, the
//! faults performed on real processes, and the checker of [`simulation`] over what the clients saw.
//!
//! The plan is pure and follows from its seed; a run over real sockets does not: the same seed brings the same faults at
//! the same times, and another interleaving.

pub mod book;
pub mod client;
pub mod driver;
mod ends;
pub mod measure;
pub mod plan;
pub mod population;
pub mod reading;
pub mod report;
pub mod run;

pub use plan::{Fault, Kind, Plan};
pub use population::Population;
pub use report::{Report, Verdict};
pub use run::run;
