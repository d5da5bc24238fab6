//! Dedup records outlive the texts that they are of by far, and not for ever: this sweep forgets those of entries that
//! are older than any retry.

use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::Timestamp;
use region_model::ports::StoreError;

use crate::region::Region;
use crate::runtime::wall;

/// The sweep runs at the start and this often.
const SWEEP: Duration = Duration::from_secs(24 * 3_600);
/// Records looked at per page.
const PAGE: usize = 1_024;
/// Pause between pages: appends that came meanwhile go into a commit of their own.
const PAUSE: Duration = Duration::from_millis(20);

/// Runs until the region stops.
pub(crate) async fn run(region: Arc<Region>) {
    let mut sweep = tokio::time::interval(SWEEP);
    let mut failed = region.store.failed.subscribe();
    loop {
        let swept = async {
            sweep.tick().await;
            region.forget_old_dedup(wall()).await
        };
        tokio::select! {
            () = Region::until_failed(&mut failed) => return,
            swept = swept => if let Err(error) = swept {
                region.fail(&error.to_string());
            },
        }
    }
}

impl Region {
    async fn forget_old_dedup(&self, now: Timestamp) -> Result<(), StoreError> {
        let window = u64::try_from(self.options.dedup_window.as_millis()).unwrap_or(u64::MAX);
        let before = Timestamp(now.0.saturating_sub(window));
        let mut after = None;
        loop {
            after = self.stores.log.expire_dedup(before, after, PAGE).await?;
            if after.is_none() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
