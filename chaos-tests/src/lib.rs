//! What the stories share: the binary as a child process (a mesh, or regions from written configurations), thin raw
//! clients that record what they see, one load of them, and a checker.
//!
//! It knows the shipped binary and the client contract, and nothing of the server's code.

mod changes;
pub mod chaos;
pub mod checker;
mod example;
pub mod load;
pub mod mesh;
pub mod peer;
pub mod process;
pub mod raw;
pub mod site;
pub mod web;

pub use checker::Checker;
pub use example::example;
pub use load::Load;
pub use mesh::{Mesh, Region, Setup};
pub use peer::{Auth, Frame, Peer};
pub use process::{Exit, run, shell};
pub use site::{Served, Site};
pub use web::Answer;

use std::time::{Duration, Instant};

/// Waits until `holds` says so, looking every 20 ms.
///
/// # Panics
/// When it does not hold within `within`.
pub async fn until<F: Future<Output = bool>>(what: &str, within: Duration, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + within;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within {} s", within.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A new random id.
#[must_use]
pub fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
