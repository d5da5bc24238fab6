//! Texts of deleted and expired messages, and of erased users, leave the store: first the entries lose their content, in
//! the log and in kept tails, then the store's files are rewritten. A delete is taken up once it is below the mark and
//! everything between it and its message is here, an erasure once everything below it is; until then it is looked at again
//! by the next sweep.

use std::ops::Range;
use std::sync::Arc;

use hearth_protocol::record::ChangeRecord;
use hearth_protocol::{LogId, Position, Timestamp, UserId};
use region_model::Input;
use region_model::ports::{StoreError, TakenContent};
use region_model::view::Taking;
use uuid::Uuid;

use crate::region::Region;
use crate::runtime::wall;

/// Deletes, entries that expired, and entries of a log looked at per page.
const PAGE: usize = 256;
/// Entries of a tail looked at per page.
const TAIL_PAGE: usize = 256;
/// Messages whose changes are looked at per page.
const TARGETS: u64 = 1_024;
/// Bytes of one page of a log.
const PAGE_BYTES: usize = 1024 * 1024;

/// Runs until the region stops.
pub(crate) async fn run(region: Arc<Region>) {
    let mut sweep = tokio::time::interval(region.options.content_sweep);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failed = region.store.failed.subscribe();
    loop {
        let swept = async {
            sweep.tick().await;
            let swept = region.sweep_content().await;
            region.media.swept.notify_one();
            swept
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
    async fn sweep_content(self: &Arc<Self>) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let (deletes, next) = self.stores.log.deletes(after, PAGE).await?;
            for (log, change) in deletes {
                if let Some(taking) = Taking::of(log, &change) {
                    self.take_forgotten(log, &taking, change).await?;
                } else if let Some(taken) = self.content_of(log, change).await? {
                    self.stores.log.take_content(taken).await?;
                }
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
        self.take_expired(wall()).await?;
        if self.stores.log.scrub().await? {
            tracing::info!(region = %self.me(), "the store's files were rewritten without what was taken away");
        }
        Ok(())
    }

    async fn take_expired(&self, now: Timestamp) -> Result<(), StoreError> {
        loop {
            let expired = self.stores.log.expired(now, PAGE).await?;
            if expired.is_empty() {
                return Ok(());
            }
            self.stores.log.take_expired(expired).await?;
        }
    }

    /// What a delete takes away; `None` while that cannot be told.
    async fn content_of(&self, log: LogId, delete: ChangeRecord) -> Result<Option<TakenContent>, StoreError> {
        let Ok(view) = self.view(log, false).await else { return Ok(None) };
        let (target, by) = (delete.target, delete.position.sequence.0);
        if !view.held || by >= view.marked || !view.has_rows(target, by + 1) {
            return Ok(None);
        }
        let Some(message) = self.stores.log.read(log, target, target + 1, 1, usize::MAX).await?.pop() else {
            return Ok(None);
        };
        let fixed = &message.entry.fixed;
        let changes = self.stores.log.changes(log, target, target + 1, by).await?;
        let entries = Taking::with_delete(&delete, fixed.position, &changes).collect();
        let tail = self.tail_content(log, fixed.id, &fixed.sender).await?;
        Ok(Some(TakenContent { log, entries, tail, done: Some(delete) }))
    }

    /// What an erasure or a floor takes away. It is done with the last of it: one that a crash cuts off begins again.
    async fn take_forgotten(&self, log: LogId, taking: &Taking, change: ChangeRecord) -> Result<(), StoreError> {
        let by = change.position.sequence.0;
        if !self.is_whole(log, taking.line.start, by).await {
            return Ok(());
        }
        match &taking.user {
            Some(user) => self.input(Input::Erased(log, user.clone(), taking.until)).await,
            None => self.take_edits_of(log, taking, by).await?,
        }
        self.take_of_line(log, taking).await?;
        self.take_of_tail(log, taking).await?;
        let (entries, tail) = (Vec::new(), Vec::new());
        self.stores.log.take_content(TakenContent { log, entries, tail, done: Some(change) }).await
    }

    /// Edits below `by` of messages below the floor: those that stand above it have nothing to show either.
    async fn take_edits_of(&self, log: LogId, taking: &Taking, by: u64) -> Result<(), StoreError> {
        let Range { start: mut next, end } = taking.line;
        while next < end {
            let to = end.min(next + TARGETS);
            let changes = self.stores.log.changes(log, next, to, by).await?;
            let entries = taking.edits_above(by, &changes).collect();
            self.take(TakenContent { log, entries, tail: Vec::new(), done: None }).await?;
            next = to;
        }
        Ok(())
    }

    /// Whether a change is marked, and everything from a number up to it is here.
    async fn is_whole(&self, log: LogId, from: u64, by: u64) -> bool {
        let view = self.view(log, false).await;
        view.is_ok_and(|view| view.held && by < view.marked && view.has_rows(from, by + 1))
    }

    async fn take_of_line(&self, log: LogId, taking: &Taking) -> Result<(), StoreError> {
        let Range { start: mut next, end } = taking.line;
        while next < end {
            let page = self.stores.log.read(log, next, end, PAGE, PAGE_BYTES).await?;
            let Some(last) = page.last() else { break };
            next = last.sequence().0 + 1;
            let goes = page.iter().filter(|entry| taking.takes(entry));
            let entries = goes.map(|entry| entry.entry.fixed.position).collect();
            self.take(TakenContent { log, entries, tail: Vec::new(), done: None }).await?;
        }
        Ok(())
    }

    async fn take_of_tail(&self, log: LogId, taking: &Taking) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.stores.log.read_tail(log, after, TAIL_PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.entry.fixed.position);
            let goes = page.iter().filter(|entry| taking.takes_of_tail(entry));
            let tail = goes.map(|entry| entry.entry.fixed.position).collect();
            self.take(TakenContent { log, entries: Vec::new(), tail, done: None }).await?;
        }
    }

    async fn take(&self, taken: TakenContent) -> Result<(), StoreError> {
        if taken.entries.is_empty() && taken.tail.is_empty() {
            return Ok(());
        }
        self.stores.log.take_content(taken).await
    }

    async fn tail_content(&self, log: LogId, message: Uuid, sender: &UserId) -> Result<Vec<Position>, StoreError> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.stores.log.read_tail(log, after, TAIL_PAGE).await?;
            let Some(last) = page.last() else { return Ok(found) };
            after = Some(last.entry.fixed.position);
            let of_it = page.iter().filter(|entry| Taking::gives_content(entry, message, sender));
            found.extend(of_it.map(|entry| entry.entry.fixed.position));
        }
    }
}
