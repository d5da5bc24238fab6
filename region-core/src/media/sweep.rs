//! Media that nothing shows any more go: first the bytes, then the record, so that what a crash cuts off is done again.

use std::sync::Arc;

use hearth_protocol::record::MediaRecord;
use hearth_protocol::{ConversationId, Timestamp};
use region_model::media::ports::MediaObject;
use region_model::media::{Fate, Standing, arrived, follow};
use region_model::ports::{MapSync, StoreError};

use super::rows;
use super::trace::TraceQuestion;
use crate::region::Region;
use crate::runtime::wall;

/// Objects of the store compared with the records at a time.
const OBJECTS: usize = 1_024;
/// Calls that look through one conversation in one sweep; what is left is looked through by the next.
const CALLS: usize = 256;

/// Runs until the region stops: behind each sweep of contents.
pub(crate) async fn run(region: Arc<Region>) {
    let mut failed = region.store.failed.subscribe();
    let mut looked_through = false;
    loop {
        let swept = async {
            region.media.swept.notified().await;
            if !looked_through {
                region.sweep_forgotten_media().await?;
                looked_through = true;
            }
            region.sweep_media(wall()).await
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
    /// Bytes without a record go: those of a store that was emptied or restored.
    async fn sweep_forgotten_media(&self) -> Result<(), StoreError> {
        let (store, mut after) = (&self.options.media.store, None);
        loop {
            let objects = match store.objects(after, OBJECTS).await {
                Ok(objects) => objects,
                Err(error) => {
                    tracing::warn!(region = %self.me(), %error, "media are not compared with their records");
                    return Ok(());
                }
            };
            let Some(last) = objects.last().copied() else { return Ok(()) };
            after = Some(last);
            for object in objects {
                // A record of another version does not read, and keeps its bytes.
                if !rows::is_known(&*self.stores.map, object).await? && !self.delete_bytes(object).await {
                    return Ok(());
                }
            }
        }
    }

    async fn sweep_media(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut after = None;
        while let Some(conversation) = rows::next_conversation(&*self.stores.map, after).await? {
            self.sweep_media_of(conversation, now).await?;
            after = Some(conversation);
        }
        Ok(())
    }

    async fn sweep_media_of(&self, conversation: ConversationId, now: Timestamp) -> Result<(), StoreError> {
        let mut after = None;
        let mut looked_through = false;
        loop {
            let page = rows::of(&*self.stores.map, conversation, after).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.id);
            let items: Vec<_> = page.into_iter().filter_map(|(object, record)| Some((object, record?))).collect();
            let Some((_, first)) = items.first() else { continue };
            if !looked_through {
                looked_through = true;
                if !self.look_for_all_uses(first, conversation).await {
                    // Nobody who holds it is in reach: nothing is decided, and nothing goes.
                    return Ok(());
                }
                // Records changed by that are read again.
                after = None;
                continue;
            }
            if !self.sweep_page(conversation, &items, now).await? {
                return Ok(());
            }
        }
        self.forget_scan(conversation).await
    }

    /// Looks through all that is new. Returns whether it did.
    async fn look_for_all_uses(&self, of: &MediaRecord, conversation: ConversationId) -> bool {
        for _ in 0..CALLS {
            match self.look_for_uses(&of.uploader, conversation, true).await {
                Ok(true) => {}
                Ok(false) => return true,
                Err(refusal) => {
                    tracing::debug!(region = %self.me(), %refusal, "media are looked at again later");
                    return false;
                }
            }
        }
        false
    }

    /// Returns whether the next page may be looked at.
    async fn sweep_page(
        &self,
        conversation: ConversationId,
        items: &[(MediaObject, MediaRecord)],
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let Some((_, first)) = items.first() else { return Ok(true) };
        let uses = items.iter().flat_map(|(_, record)| record.uses.iter().copied()).collect();
        let Some(scan) = rows::scan(&*self.stores.map, conversation).await? else { return Ok(true) };
        let question = TraceQuestion { region: self.me().clone(), scanned: scan.scanned, uses };
        let Ok(trace) = self.trace(&first.uploader, conversation, &question, true).await else { return Ok(false) };
        // Something was said meanwhile that may carry them.
        let is_current = trace.looked.references.is_empty() && !trace.looked.more;
        let mut standings = trace.standings.into_iter();
        for (object, known) in items {
            let of_it: Vec<Standing> = standings.by_ref().take(known.uses.len()).collect();
            if of_it.len() != known.uses.len() {
                return Ok(false);
            }
            let mut record = known.clone();
            let mut fate = follow(&mut record, &of_it, trace.kept_for, now, &self.options.media.rules);
            if fate == Fate::Stays && !record.stored {
                let Ok(stored) = self.options.media.store.stat(*object).await else { continue };
                fate = arrived(&mut record, stored.as_ref(), now);
            }
            match fate {
                Fate::Goes if !is_current => {}
                Fate::Goes if !self.take_media(*object, known).await? => return Ok(false),
                Fate::Goes => {}
                Fate::Stays => self.keep_media(*object, known, &record).await?,
            }
        }
        Ok(true)
    }

    /// Takes media away whose record is still the same. Returns whether the store did.
    async fn take_media(&self, object: MediaObject, known: &MediaRecord) -> Result<bool, StoreError> {
        let is_same = async || Ok(rows::one(&*self.stores.map, object).await?.as_ref() == Some(known));
        if !is_same().await? {
            return Ok(true);
        }
        // Others wait for no store.
        if !self.delete_bytes(object).await {
            return Ok(false);
        }
        let _order = self.media.order.lock().await;
        if is_same().await? {
            self.put_media(object, Some(known), None, MapSync::Kernel).await?;
        }
        Ok(true)
    }

    async fn keep_media(
        &self,
        object: MediaObject,
        known: &MediaRecord,
        record: &MediaRecord,
    ) -> Result<(), StoreError> {
        let _order = self.media.order.lock().await;
        if record == known || rows::one(&*self.stores.map, object).await?.as_ref() != Some(known) {
            return Ok(());
        }
        self.put_media(object, Some(known), Some(record), MapSync::Kernel).await
    }

    /// A conversation without media is looked through no more.
    async fn forget_scan(&self, conversation: ConversationId) -> Result<(), StoreError> {
        let _order = self.media.order.lock().await;
        if !rows::of(&*self.stores.map, conversation, None).await?.is_empty() {
            return Ok(());
        }
        self.stores.map.write(vec![rows::scan_change(conversation, None)], MapSync::Kernel).await
    }

    async fn delete_bytes(&self, object: MediaObject) -> bool {
        let deleted = self.options.media.store.delete(object).await;
        if let Err(error) = &deleted {
            tracing::warn!(region = %self.me(), %error, "media are deleted later");
        }
        deleted.is_ok()
    }
}
