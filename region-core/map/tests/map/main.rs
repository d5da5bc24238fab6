//! The replicated map over real time and durable stores: founding, elections, proposals by other ways, leases, changes
//! of voters, lost stores and the named voter. `HEARTH_TEST_ALL=1` runs the long forms.

mod elections;
mod failover;
mod golden;
mod leases;
mod mesh;
mod voters;

/// How long a test waits for anything before it says what it waited for.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

fn all() -> bool {
    std::env::var_os("HEARTH_TEST_ALL").is_some()
}
