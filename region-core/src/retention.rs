//! Homes raise the floor of their conversations: what retention is over for goes below it, by an entry that every copy gets
//! ([`crate::sweep`] takes the texts away). Entries carry times that never decrease along the log, so that the floor is
//! found by halving, and is a function of the log, its settings and a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::entry::Forget;
use hearth_protocol::{Change, EntryKind, LogId, LogKind, SealedEntry, Timestamp};
use region_model::LogView;
use region_model::ports::StoreError;
use region_model::view::View;
use uuid::Uuid;

use crate::region::Region;
use crate::runtime::wall;

/// Logs looked at per page.
const PAGE: usize = 256;
/// A floor is raised at most so often within the time that messages are kept.
const STEPS: u64 = 30;

/// Runs until the region stops.
pub(crate) async fn run(region: Arc<Region>) {
    // Not at the start, when everything else wants the store.
    let period = region.options.content_sweep;
    let mut sweep = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failed = region.store.failed.subscribe();
    let mut due = HashMap::new();
    loop {
        let raised = async {
            sweep.tick().await;
            region.raise_floors(wall(), &mut due).await
        };
        tokio::select! {
            () = Region::until_failed(&mut failed) => return,
            raised = raised => if let Err(error) = raised {
                region.fail(&error.to_string());
            },
        }
    }
}

/// What is to become of the floor of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// It is to be here from now on.
    At(u64),
    /// It is looked at again then.
    Later(Timestamp),
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How long a conversation keeps its messages, in milliseconds, with days of this length.
fn kept_for(view: &LogView, day: Duration) -> Option<u64> {
    match &view.view {
        View::Conversation(state) => Some(u64::from(state.settings.retention_days).saturating_mul(milliseconds(day))),
        View::Empty | View::User(_) | View::Placements(_) => None,
    }
}

impl Region {
    /// Looks at the conversations whose home is here. `due` says of each when it has to be looked at again: nothing of it is
    /// read before.
    async fn raise_floors(
        self: &Arc<Self>,
        now: Timestamp,
        due: &mut HashMap<LogId, Timestamp>,
    ) -> Result<(), StoreError> {
        let mut after = None;
        let mut next_due = HashMap::new();
        loop {
            let page = self.stores.log.logs(LogKind::Conversation, after, PAGE).await?;
            let full = page.len() == PAGE;
            after = page.last().map(|summary| summary.log);
            for summary in page.iter().filter(|summary| summary.record.home == *self.me() && summary.mark > 1) {
                let known = due.get(&summary.log).copied().filter(|at| *at > now);
                let at = match known {
                    Some(at) => Some(at),
                    None => self.raise_floor(summary.log, now).await?,
                };
                next_due.extend(at.map(|at| (summary.log, at)));
            }
            if !full {
                *due = next_due;
                return Ok(());
            }
        }
    }

    /// Raises the floor of a conversation where that is due. Returns when it has to be looked at again; with the next sweep,
    /// where that cannot be told. Of a conversation that is younger than a day nothing is looked at but its first entry.
    async fn raise_floor(self: &Arc<Self>, log: LogId, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let day = milliseconds(self.options.retention_day);
        let first = self.entry_at(log, 1).await?.map(|entry| entry.entry.fixed.time.0.saturating_add(day));
        if let Some(at) = first.filter(|at| *at > now.0) {
            return Ok(Some(Timestamp(at)));
        }
        let Ok(view) = self.view(log, false).await else { return Ok(None) };
        let Some(kept) = kept_for(&view, self.options.retention_day).filter(|_| view.held && view.open.is_none())
        else {
            return Ok(None);
        };
        let floor = match self.floor_due(log, &view, kept, now).await? {
            Due::At(floor) => floor,
            // Settings may change meanwhile.
            Due::Later(at) => return Ok(Some(at.min(Timestamp(now.0 + day)))),
        };
        let Some(below) = self.entry_at(log, floor - 1).await? else { return Ok(None) };
        let before = Timestamp(now.0.saturating_sub(kept));
        let forget = Forget::Below { from: view.floor, floor, before, previous: below.hash };
        let content = Change::Forget(forget).encode();
        let command = self.own_command(log, EntryKind::System, Uuid::new_v4(), content);
        if let Err(refusal) = self.command(command).await {
            tracing::debug!(region = %self.me(), %log, %refusal, "a floor is not raised yet");
            return Ok(None);
        }
        Ok(Some(Timestamp(now.0 + kept / STEPS)))
    }

    /// Where the floor has to be: at the first entry that is not older than `kept`. It goes up once something was said below.
    async fn floor_due(&self, log: LogId, view: &LogView, kept: u64, now: Timestamp) -> Result<Due, StoreError> {
        let over = |entry: &SealedEntry| entry.entry.fixed.time.0.saturating_add(kept) <= now.0;
        let (mut low, mut high) = (view.floor, view.marked);
        let Some(oldest) = self.entry_at(log, low).await?.filter(|_| low < high) else {
            return Ok(Due::Later(Timestamp(now.0 + kept / STEPS)));
        };
        if !over(&oldest) {
            return Ok(Due::Later(Timestamp(oldest.entry.fixed.time.0.saturating_add(kept))));
        }
        // Of what is between, `low` is over, and `high` is not or is not marked.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.entry_at(log, middle).await? {
                Some(entry) if over(&entry) => low = middle,
                _ => high = middle,
            }
        }
        if self.says_something(log, view.floor, high).await? {
            return Ok(Due::At(high));
        }
        Ok(Due::Later(Timestamp(now.0 + kept / STEPS)))
    }

    /// Whether anything but raises of the floor stands between: those alone are no reason for another.
    async fn says_something(&self, log: LogId, from: u64, to: u64) -> Result<bool, StoreError> {
        let page = self.stores.log.read(log, from, to, PAGE, usize::MAX).await?;
        let raises = |entry: &Arc<SealedEntry>| matches!(entry.forgets(), Some(Forget::Below { .. }));
        Ok(!page.iter().all(raises))
    }

    /// The entry of this number, where it is here.
    pub(crate) async fn entry_at(&self, log: LogId, sequence: u64) -> Result<Option<Arc<SealedEntry>>, StoreError> {
        Ok(self.stores.log.read(log, sequence, sequence + 1, 1, usize::MAX).await?.pop())
    }
}
