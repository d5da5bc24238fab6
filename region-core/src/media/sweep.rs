//! Does what a sweep of media needs done: [`Sweep`] says in which order.

use std::sync::Arc;

use hearth_protocol::record::MediaRecord;
use hearth_protocol::{ConversationId, Position, UserId};
use region_model::media::ports::MediaObject;
use region_model::media::{Sweep, SweepStep, SweepTold, TraceQuestion, Traced};
use region_model::ports::{MapSync, StoreError};

use super::rows;
use crate::region::Region;
use crate::runtime::wall;

/// Objects of the store compared with the records at a time.
const OBJECTS: usize = 1_024;

/// Runs until the region stops: behind each sweep of contents.
pub(crate) async fn run(region: Arc<Region>) {
    let mut failed = region.store.failed.subscribe();
    let mut has_compared = false;
    loop {
        let swept = async {
            region.media.swept.notified().await;
            let mut sweep = Sweep::new(!has_compared);
            let swept = region.sweep_media(&mut sweep).await;
            has_compared |= sweep.has_compared();
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
    async fn sweep_media(&self, sweep: &mut Sweep) -> Result<(), StoreError> {
        while let Some(step) = sweep.step() {
            let told = self.sweep_step(step).await?;
            sweep.take(told, wall(), &self.options.media.rules);
        }
        Ok(())
    }

    async fn sweep_step(&self, step: SweepStep) -> Result<SweepTold, StoreError> {
        let map = &*self.stores.map;
        Ok(match step {
            SweepStep::Objects(after) => SweepTold::Objects(self.media_objects(after).await),
            SweepStep::IsKnown(object) => SweepTold::Is(rows::is_known(map, object).await?),
            SweepStep::Conversation(after) => SweepTold::Conversation(rows::next_conversation(map, after).await?),
            SweepStep::Page(conversation, after) => SweepTold::Items(rows::of(map, conversation, after).await?),
            SweepStep::Look(conversation, user) => {
                let looked = self.look_for_uses(&user, conversation, true).await;
                if let Err(refusal) = &looked {
                    tracing::debug!(region = %self.me(), %refusal, "media are looked at again later");
                }
                SweepTold::Looked(looked.ok())
            }
            SweepStep::Trace(conversation, user, uses) => {
                SweepTold::Traced(self.trace_uses(&user, conversation, uses).await?)
            }
            SweepStep::Stat(object) => SweepTold::Stored(self.options.media.store.stat(object).await.ok()),
            SweepStep::IsSame(object, known) => SweepTold::Is(rows::one(map, object).await?.as_ref() == Some(&known)),
            SweepStep::Delete(object) => SweepTold::Is(self.delete_bytes(object).await),
            SweepStep::Put(object, known, record) => {
                self.replace_media(object, &known, record.as_ref()).await?;
                SweepTold::Done
            }
            SweepStep::ForgetScan(conversation) => {
                self.forget_scan(conversation).await?;
                SweepTold::Done
            }
        })
    }

    async fn media_objects(&self, after: Option<MediaObject>) -> Option<Vec<MediaObject>> {
        let objects = self.options.media.store.objects(after, OBJECTS).await;
        if let Err(error) = &objects {
            tracing::warn!(region = %self.me(), %error, "media are not compared with their records");
        }
        objects.ok()
    }

    async fn trace_uses(
        &self,
        user: &UserId,
        conversation: ConversationId,
        uses: Vec<Position>,
    ) -> Result<Traced, StoreError> {
        let Some(scan) = rows::scan(&*self.stores.map, conversation).await? else {
            return Ok(Traced::NothingLookedFor);
        };
        let question = TraceQuestion { region: self.me().clone(), scanned: scan.scanned, uses, judges: true };
        Ok(self.trace(user, conversation, &question, true).await.map_or(Traced::OutOfReach, Traced::Said))
    }

    /// Puts a record in the place of the one that was decided on, if that is still there.
    async fn replace_media(
        &self,
        object: MediaObject,
        known: &MediaRecord,
        record: Option<&MediaRecord>,
    ) -> Result<(), StoreError> {
        let _order = self.media.order.lock().await;
        if rows::one(&*self.stores.map, object).await?.as_ref() != Some(known) {
            return Ok(());
        }
        self.put_media(object, Some(known), record, MapSync::Kernel).await
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
