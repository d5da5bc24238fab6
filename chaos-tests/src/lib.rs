//! What the stories share: a mesh as a child process, thin raw clients that record what they see, and a checker.
//!
//! It knows the shipped binary and the client contract, and nothing of the server's code.

pub mod checker;
pub mod mesh;
pub mod peer;
pub mod raw;
pub mod web;

pub use checker::Checker;
pub use mesh::{Exit, Mesh, Region};
pub use peer::{Auth, Frame, Peer};
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
