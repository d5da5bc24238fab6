//! Tells the homes of users what they are in. Items are on disk with the entry that made them; each is told until the
//! user's record has its majority.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use hearth_protocol::Change;
use hearth_protocol::record::OutboxRecord;
use tokio::sync::mpsc;

use crate::region::Region;

/// Items told at a time.
const CONCURRENT: usize = 64;
/// How often items that failed, or that a full queue left out, are taken up again.
const SWEEP: Duration = Duration::from_secs(5);
/// Items read per sweep.
const PAGE: usize = 1_024;

/// Runs until the region stops.
pub(crate) async fn run(region: Arc<Region>, mut ready: mpsc::Receiver<OutboxRecord>) {
    let mut telling = FuturesUnordered::new();
    let mut sweep = tokio::time::interval(SWEEP);
    let mut failed = region.store.failed.subscribe();
    loop {
        tokio::select! {
            () = Region::until_failed(&mut failed) => return,
            item = ready.recv(), if telling.len() < CONCURRENT => match item {
                Some(item) => telling.push(tell(region.clone(), item)),
                None => return,
            },
            Some(()) = telling.next(), if !telling.is_empty() => {}
            _ = sweep.tick(), if telling.is_empty() => match region.stores.outbox.outbox(None, PAGE).await {
                Ok(items) => {
                    for item in items {
                        telling.push(tell(region.clone(), item));
                    }
                }
                Err(error) => region.fail(&error.to_string()),
            },
        }
    }
}

async fn tell(region: Arc<Region>, item: OutboxRecord) {
    let Some(conversation) = item.log.as_conversation() else { return };
    // Only what has its copies is told: an item of an entry that still waits stays for the next sweep.
    let Ok(view) = region.view(item.log, false).await else { return };
    if view.marked <= item.position.sequence.0 {
        return;
    }
    let change = if item.joined {
        Change::Joined { conversation, position: item.position }
    } else {
        Change::Removed { conversation, position: item.position }
    };
    match region.change_user(&item.user, &change).await {
        Ok(()) => {
            if let Err(error) = region.stores.outbox.outbox_done(vec![item]).await {
                region.fail(&error.to_string());
            }
        }
        Err(refusal) => tracing::debug!(region = %region.me(), %refusal, "a membership is told later"),
    }
}
