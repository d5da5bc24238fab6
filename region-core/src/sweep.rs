//! Texts of deleted and expired messages, and of erased users, leave the store: first the entries lose their content, in
//! the log and in kept tails, then the store's files are rewritten. A delete is taken up once it is below the mark and
//! everything between it and its message is here, an erasure once everything below it is; until then it is looked at again
//! by the next sweep.

use std::sync::Arc;

use hearth_protocol::entry::Forget;
use hearth_protocol::record::{ChangeRecord, MessageChange};
use hearth_protocol::{Change, EntryKind, LogId, LogKind, Position, SealedEntry, Timestamp, UserId};
use region_model::Input;
use region_model::ports::{StoreError, TakenContent};
use uuid::Uuid;

use crate::reads::has_rows;
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
    let mut failed = region.failed.subscribe();
    loop {
        let swept = async {
            sweep.tick().await;
            region.sweep_content().await
        };
        tokio::select! {
            () = Region::until_failed(&mut failed) => return,
            swept = swept => if let Err(error) = swept {
                region.fail(&error.to_string());
            },
        }
    }
}

/// Whether an entry gives a message its content: it is the message, or an edit of it.
fn is_content_of(entry: &SealedEntry, message: Uuid, sender: &UserId) -> bool {
    let fixed = &entry.entry.fixed;
    let is_it = match fixed.kind {
        EntryKind::Message => fixed.id == message,
        EntryKind::Edit => fixed.target == Some(message),
        _ => false,
    };
    is_it && fixed.sender == *sender && entry.content().is_some()
}

/// Whether an entry has content that goes when a user is erased: what it wrote in a conversation, or its own profile.
fn is_text_of(log: LogId, entry: &SealedEntry, user: &UserId) -> bool {
    let fixed = &entry.entry.fixed;
    let has_text = match log.kind {
        LogKind::Conversation => fixed.sender == *user && matches!(fixed.kind, EntryKind::Message | EntryKind::Edit),
        LogKind::User => matches!(entry.change(), Some(Change::Profile { .. })),
        LogKind::Placement => false,
    };
    has_text && entry.content().is_some()
}

/// Whether an entry has content that somebody said, and that goes with the floor. What changes members, names and settings
/// stays: the log adds up to them.
fn is_said(entry: &SealedEntry) -> bool {
    let said = matches!(entry.entry.fixed.kind, EntryKind::Message | EntryKind::Edit | EntryKind::Reaction);
    said && entry.content().is_some()
}

impl Region {
    async fn sweep_content(self: &Arc<Self>) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let (deletes, next) = self.stores.log.deletes(after, PAGE).await?;
            for (log, change) in deletes {
                match change.what.clone() {
                    MessageChange::Forgotten(Forget::User(user)) => self.take_texts_of(log, &user, change).await?,
                    MessageChange::Forgotten(Forget::Below { from, floor, before, .. }) => {
                        self.take_below(log, (from, floor), before, change).await?;
                    }
                    _ => {
                        if let Some(taken) = self.content_of(log, change).await? {
                            self.stores.log.take_content(taken).await?;
                        }
                    }
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
        if !view.held || by >= view.marked || !has_rows(&view, target, by + 1) {
            return Ok(None);
        }
        let Some(message) = self.stores.log.read(log, target, target + 1, 1, usize::MAX).await?.pop() else {
            return Ok(None);
        };
        let fixed = &message.entry.fixed;
        // Edits above the delete came back with a tail, without their content.
        let changes = self.stores.log.changes(log, target, target + 1, by).await?;
        let edits = changes.iter().filter(|change| change.what == MessageChange::Edited);
        let entries = std::iter::once(fixed.position).chain(edits.map(|edit| edit.position)).collect();
        let tail = self.tail_content(log, fixed.id, &fixed.sender).await?;
        Ok(Some(TakenContent { log, entries, tail, done: Some(delete) }))
    }

    /// What the erasure of a user takes away. It is done with the last of it: one that a crash cuts off begins again.
    async fn take_texts_of(&self, log: LogId, user: &UserId, erased: ChangeRecord) -> Result<(), StoreError> {
        let by = erased.position.sequence.0;
        if !self.is_whole(log, 1, by).await {
            return Ok(());
        }
        self.input(Input::Erased(log, user.clone(), erased.time)).await;
        let is_its = |entry: &SealedEntry| is_text_of(log, entry, user);
        self.take_of_line(log, (1, by), is_its).await?;
        self.take_of_tail(log, |entry| entry.entry.fixed.time <= erased.time && is_its(entry)).await?;
        self.done(log, erased).await
    }

    /// What a floor takes away: what is below it, edits above it of messages below, and what a tail has of before.
    async fn take_below(
        &self,
        log: LogId,
        (from, floor): (u64, u64),
        before: Timestamp,
        raised: ChangeRecord,
    ) -> Result<(), StoreError> {
        let by = raised.position.sequence.0;
        if !self.is_whole(log, from, by).await {
            return Ok(());
        }
        self.take_of_line(log, (from, floor), is_said).await?;
        let mut next = from;
        while next < floor {
            let to = floor.min(next + TARGETS);
            let changes = self.stores.log.changes(log, next, to, by).await?;
            let above =
                |change: &&ChangeRecord| change.what == MessageChange::Edited && change.position.sequence.0 >= floor;
            let entries = changes.iter().filter(above).map(|change| change.position).collect();
            self.take(TakenContent { log, entries, tail: Vec::new(), done: None }).await?;
            next = to;
        }
        self.take_of_tail(log, |entry| entry.entry.fixed.time <= before && is_said(entry)).await?;
        self.done(log, raised).await
    }

    /// Whether a change is marked, and everything from a number up to it is here.
    async fn is_whole(&self, log: LogId, from: u64, by: u64) -> bool {
        let view = self.view(log, false).await;
        view.is_ok_and(|view| view.held && by < view.marked && has_rows(&view, from, by + 1))
    }

    async fn take_of_line(
        &self,
        log: LogId,
        (from, to): (u64, u64),
        goes: impl Fn(&SealedEntry) -> bool,
    ) -> Result<(), StoreError> {
        let mut next = from;
        while next < to {
            let page = self.stores.log.read(log, next, to, PAGE, PAGE_BYTES).await?;
            let Some(last) = page.last() else { break };
            next = last.sequence().0 + 1;
            let entries = page.iter().filter(|entry| goes(entry)).map(|entry| entry.entry.fixed.position).collect();
            self.take(TakenContent { log, entries, tail: Vec::new(), done: None }).await?;
        }
        Ok(())
    }

    async fn take_of_tail(&self, log: LogId, goes: impl Fn(&SealedEntry) -> bool) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.stores.log.read_tail(log, after, TAIL_PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.entry.fixed.position);
            let tail = page.iter().filter(|entry| goes(entry)).map(|entry| entry.entry.fixed.position).collect();
            self.take(TakenContent { log, entries: Vec::new(), tail, done: None }).await?;
        }
    }

    async fn done(&self, log: LogId, change: ChangeRecord) -> Result<(), StoreError> {
        let taken = TakenContent { log, entries: Vec::new(), tail: Vec::new(), done: Some(change) };
        self.stores.log.take_content(taken).await
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
            let of_it = page.iter().filter(|entry| is_content_of(entry, message, sender));
            found.extend(of_it.map(|entry| entry.entry.fixed.position));
        }
    }
}
