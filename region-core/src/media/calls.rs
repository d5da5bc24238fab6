//! What clients ask about media: where to put them, and where they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_protocol::media::{CreateMedia, MediaDownload, MediaId, MediaUpload, UploadLink};
use hearth_protocol::record::MediaScanRecord;
use hearth_protocol::rest::ApiAnswer;
use hearth_protocol::{ConversationId, ErrorCode, LogId, Position, Refusal, Timestamp, UserId};
use region_model::media::ports::{Download, MediaObject, Upload};
use region_model::media::{Fate, Looked, MediaKnown, TraceQuestion, arrived, used_by};
use region_model::ports::{MapSync, StoreError};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::rows;
use crate::api::{refusal_of, unreadable};
use crate::call::ApiCall;
use crate::region::Region;
use crate::runtime::wall;

/// What the region of media gives to the one that asks for a client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Given {
    download: MediaDownload,
    known: MediaKnown,
}

fn no_media() -> Refusal {
    Refusal::new(ErrorCode::NotFound, "no such media in this conversation, or they have not come yet")
}

impl Region {
    /// A member asks where to put media of a conversation. They stay in this region.
    pub(super) async fn create_media(
        self: &Arc<Self>,
        user: &UserId,
        wanted: &CreateMedia,
        key: Uuid,
    ) -> Result<ApiAnswer, Refusal> {
        let (rules, conversation) = (&self.options.media.rules, wanted.conversation_id);
        // Who is no member is told what everybody is told, whatever it asks for.
        self.check_member(user, conversation, true).await?;
        rules.check(wanted)?;
        let id = MediaId::of_key(self.me(), user, conversation, key);
        let object = MediaObject { conversation, id: id.id };
        if self.media.room(user).unused_of_user >= rules.unused_of_user {
            // Some may be used by now.
            self.look_for_uses(user, conversation, true).await?;
        }
        let refusal = |error: StoreError| self.store_refusal(&error);
        let start = self.last_entry(conversation).await?;
        let _order = self.media.order.lock().await;
        let now = wall();
        let before = rows::one(&*self.stores.map, object).await.map_err(refusal)?;
        let record = rules.record(before.as_ref(), wanted, user, self.media.room(user), now)?;
        if rows::scan(&*self.stores.map, conversation).await.map_err(refusal)?.is_none() {
            let scan = MediaScanRecord { scanned: start };
            let change = rows::scan_change(conversation, Some(scan));
            self.stores.map.write(vec![change], MapSync::Kernel).await.map_err(refusal)?;
        }
        // On disk before a byte can come: there are no bytes that nobody remembers.
        self.put_media(object, before.as_ref(), Some(&record), MapSync::Disk).await.map_err(refusal)?;
        let status = if before.is_some() { 200 } else { 201 };
        Ok(ApiAnswer::json(status, &self.upload_of(id, wanted, now, record.upload_until)))
    }

    fn upload_of(&self, id: MediaId, wanted: &CreateMedia, now: Timestamp, until: Timestamp) -> MediaUpload {
        let object = MediaObject { conversation: wanted.conversation_id, id: id.id };
        let upload = Upload { content_type: &wanted.content_type, size: wanted.size };
        let link = self.options.media.store.upload_link(object, upload, now, until);
        MediaUpload {
            media_url: id.url(wanted.conversation_id, wanted.name.as_deref()),
            media_id: id,
            conversation_id: wanted.conversation_id,
            region: self.me().clone(),
            upload: UploadLink {
                method: "PUT".to_owned(),
                url: link.url,
                headers: link.headers.into_iter().collect::<BTreeMap<_, _>>(),
                expires_at: link.expires_at,
            },
            limits: self.options.media.rules.limits(),
        }
    }

    /// The last entry of a conversation that is shown, where it is here: media that are put now are carried above it.
    async fn last_entry(&self, conversation: ConversationId) -> Result<Option<Position>, Refusal> {
        let log = LogId::conversation(conversation);
        let view = self.view(log, false).await?;
        let Some(last) = TraceQuestion::begins_behind(&view, self.me()) else { return Ok(None) };
        let entry = self.entry_at(log, last).await.map_err(|error| self.store_refusal(&error))?;
        Ok(entry.map(|entry| entry.entry.fixed.position))
    }

    /// Where media are, for whoever is shown a message that carries them.
    pub(super) async fn media_link(
        self: &Arc<Self>,
        user: &UserId,
        id: ConversationId,
        media: &MediaId,
        name: Option<&str>,
    ) -> Result<ApiAnswer, Refusal> {
        match self.given_by(user, id, media, name).await {
            Ok(Given { download, known }) => {
                self.check_shown(user, id, media, &known, true).await?;
                Ok(ApiAnswer::json(200, &download))
            }
            // Whether there are such media is told to members alone.
            Err(refusal) => self.check_member(user, id, true).await.and(Err(refusal)),
        }
    }

    async fn given_by(
        self: &Arc<Self>,
        user: &UserId,
        id: ConversationId,
        media: &MediaId,
        name: Option<&str>,
    ) -> Result<Given, Refusal> {
        if media.region == *self.me() {
            return self.give_media(id, media, name).await;
        }
        if !self.options.map.regions.contains(&media.region) {
            return Err(no_media());
        }
        let call = ApiCall::MediaGiven { id, media: media.clone(), name: name.map(str::to_owned) };
        let answer = self.to_home(&media.region, user, &call, true).await?;
        if answer.status != 200 {
            return Err(refusal_of(&answer));
        }
        serde_json::from_slice(&answer.body).map_err(|_| unreadable())
    }

    /// A link to media that are here, with what is known of their uses: whoever asks for it checks who gets it.
    pub(super) async fn give_media(
        self: &Arc<Self>,
        conversation: ConversationId,
        media: &MediaId,
        name: Option<&str>,
    ) -> Result<Given, Refusal> {
        let refusal = |error: StoreError| self.store_refusal(&error);
        let object = MediaObject { conversation, id: media.id };
        let known = rows::one(&*self.stores.map, object).await.map_err(refusal)?;
        let known = known.filter(|_| media.region == *self.me()).ok_or_else(no_media)?;
        if !known.stored && !self.has_arrived(object).await? {
            return Err(no_media());
        }
        if self.look_for_uses(&known.uploader, conversation, false).await.is_err() {
            self.look_elsewhere(&known.uploader, conversation);
        }
        let record = rows::one(&*self.stores.map, object).await.map_err(refusal)?.ok_or_else(no_media)?;
        let scan = rows::scan(&*self.stores.map, conversation).await.map_err(refusal)?.unwrap_or_default();
        let now = wall();
        let until = Timestamp(now.0 + self.options.media.rules.link_for);
        let download = Download { content_type: &record.content_type, name };
        let link = self.options.media.store.download_link(object, download, now, until);
        let download = MediaDownload {
            media_id: media.clone(),
            conversation_id: conversation,
            region: self.me().clone(),
            content_type: record.content_type,
            size: record.size,
            url: link.url,
            expires_at: link.expires_at,
        };
        Ok(Given {
            download,
            known: MediaKnown { uploader: record.uploader, uses: record.uses, scanned: scan.scanned },
        })
    }

    /// Looks for uses at whoever holds the conversation, behind the answer: whoever is given a link looks further by itself.
    /// One at a time.
    fn look_elsewhere(self: &Arc<Self>, user: &UserId, conversation: ConversationId) {
        let Ok(permit) = self.media.elsewhere.clone().try_acquire_owned() else { return };
        let (region, user) = (self.clone(), user.clone());
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(refusal) = region.look_for_uses(&user, conversation, true).await {
                tracing::debug!(region = %region.me(), %refusal, "uses of media are looked for later");
            }
        });
    }

    /// Whether the bytes have come by now; then that is noted.
    async fn has_arrived(&self, object: MediaObject) -> Result<bool, Refusal> {
        let stored = self.options.media.store.stat(object).await.map_err(|error| {
            tracing::warn!(region = %self.me(), %error, "the media store is asked again later");
            Refusal::new(ErrorCode::StoreUnavailable, "this region's media store is unavailable").with_retry_after(5)
        })?;
        let refusal = |error: StoreError| self.store_refusal(&error);
        let _order = self.media.order.lock().await;
        let Some(before) = rows::one(&*self.stores.map, object).await.map_err(refusal)? else { return Ok(false) };
        let mut record = before.clone();
        // What is to go goes with the sweep.
        if arrived(&mut record, stored.as_ref(), wall(), &self.options.media.rules) == Fate::Goes || !record.stored {
            return Ok(false);
        }
        self.put_media(object, Some(&before), Some(&record), MapSync::Kernel).await.map_err(refusal)?;
        Ok(true)
    }

    /// Looks through what is new in a conversation for media of this region. Returns whether there is more.
    pub(super) async fn look_for_uses(
        &self,
        user: &UserId,
        conversation: ConversationId,
        pass_on: bool,
    ) -> Result<bool, Refusal> {
        let refusal = |error: StoreError| self.store_refusal(&error);
        let Some(scan) = rows::scan(&*self.stores.map, conversation).await.map_err(refusal)? else { return Ok(false) };
        let question =
            TraceQuestion { region: self.me().clone(), scanned: scan.scanned, uses: Vec::new(), judges: false };
        let looked = self.trace(user, conversation, &question, pass_on).await?.looked;
        self.note_uses(conversation, scan, &looked).await.map_err(refusal)?;
        Ok(looked.more)
    }

    /// Notes what was found. What was found twice is noted once, so that two may look at once.
    async fn note_uses(
        &self,
        conversation: ConversationId,
        before: MediaScanRecord,
        looked: &Looked,
    ) -> Result<(), StoreError> {
        let _order = self.media.order.lock().await;
        for (position, id, carrier) in looked.uses() {
            let object = MediaObject { conversation, id };
            let Some(known) = rows::one(&*self.stores.map, object).await? else { continue };
            let mut record = known.clone();
            if used_by(&mut record, position, carrier) {
                self.put_media(object, Some(&known), Some(&record), MapSync::Kernel).await?;
            }
        }
        // Somebody else may have gone further meanwhile.
        let is_same = rows::scan(&*self.stores.map, conversation).await? == Some(before);
        if is_same && looked.scanned != before.scanned {
            let scan = MediaScanRecord { scanned: looked.scanned };
            self.stores.map.write(vec![rows::scan_change(conversation, Some(scan))], MapSync::Kernel).await?;
        }
        Ok(())
    }
}
