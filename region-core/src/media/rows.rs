//! Records of media, beside the region map's own keys: none of those begins like these.

use bytes::Bytes;
use hearth_protocol::ConversationId;
use hearth_protocol::record::{MediaRecord, MediaScanRecord, Record};
use region_model::media::Items;
use region_model::media::ports::MediaObject;
use region_model::ports::{MapChange, MapStore, StoreError};
use uuid::Uuid;

/// Before the 16 bytes of the conversation and the 16 of the media.
const ITEMS: &[u8] = b"media/item/";
/// Behind every key that begins with [`ITEMS`].
const ITEMS_END: &[u8] = b"media/item0";
/// Before the 16 bytes of the conversation.
const SCANS: &[u8] = b"media/scan/";
/// Rows read at a time.
pub(super) const PAGE: usize = 64;

fn item_key(object: MediaObject) -> Bytes {
    [ITEMS, object.conversation.0.as_bytes(), object.id.as_bytes()].concat().into()
}

fn scan_key(conversation: ConversationId) -> Bytes {
    [SCANS, conversation.0.as_bytes()].concat().into()
}

/// The first key behind another one.
fn behind(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

fn object_of(key: &[u8]) -> Option<MediaObject> {
    let ids = key.strip_prefix(ITEMS).filter(|ids| ids.len() == 32)?;
    let (conversation, id) = ids.split_at(16);
    Some(MediaObject {
        conversation: ConversationId(Uuid::from_slice(conversation).ok()?),
        id: Uuid::from_slice(id).ok()?,
    })
}

/// A record; `None` where there is none, or one of a version that this build does not read, which is left as it is.
fn record_of(object: MediaObject, value: &[u8]) -> Option<MediaRecord> {
    let read = MediaRecord::decode(value);
    if let Err(error) = &read {
        tracing::warn!(%error, media = %object.id, "a record of media does not read");
    }
    read.ok()
}

async fn range(store: &dyn MapStore, from: Bytes, to: Bytes) -> Result<Items, StoreError> {
    let rows = store.range(from, to, PAGE).await?;
    let read = |(key, value): &(Bytes, Bytes)| {
        let object = object_of(key)?;
        Some((object, record_of(object, value)))
    };
    Ok(rows.iter().filter_map(read).collect())
}

/// The records behind one, of all conversations.
pub(super) async fn all(store: &dyn MapStore, after: Option<MediaObject>) -> Result<Items, StoreError> {
    let from = after.map_or_else(|| Bytes::from_static(ITEMS), |after| behind(&item_key(after)));
    range(store, from, Bytes::from_static(ITEMS_END)).await
}

/// The records of a conversation behind one.
pub(super) async fn of(
    store: &dyn MapStore,
    conversation: ConversationId,
    after: Option<Uuid>,
) -> Result<Items, StoreError> {
    let first = MediaObject { conversation, id: Uuid::nil() };
    let from = after.map_or_else(|| item_key(first), |id| behind(&item_key(MediaObject { conversation, id })));
    range(store, from, behind(&item_key(MediaObject { conversation, id: Uuid::max() }))).await
}

/// The next conversation with records, by id.
pub(super) async fn next_conversation(
    store: &dyn MapStore,
    after: Option<ConversationId>,
) -> Result<Option<ConversationId>, StoreError> {
    let last = |conversation| behind(&item_key(MediaObject { conversation, id: Uuid::max() }));
    let from = after.map_or_else(|| Bytes::from_static(ITEMS), last);
    let rows = store.range(from, Bytes::from_static(ITEMS_END), 1).await?;
    Ok(rows.first().and_then(|(key, _)| object_of(key)).map(|object| object.conversation))
}

/// One record.
pub(super) async fn one(store: &dyn MapStore, object: MediaObject) -> Result<Option<MediaRecord>, StoreError> {
    Ok(store.get(item_key(object)).await?.and_then(|value| record_of(object, &value)))
}

/// How far a conversation was looked through; `None` where nothing of it is looked for.
pub(super) async fn scan(
    store: &dyn MapStore,
    conversation: ConversationId,
) -> Result<Option<MediaScanRecord>, StoreError> {
    Ok(store.get(scan_key(conversation)).await?.and_then(|value| MediaScanRecord::decode(&value).ok()))
}

/// The change that puts a record, or takes it away.
pub(super) fn change(object: MediaObject, record: Option<&MediaRecord>) -> MapChange {
    let key = item_key(object);
    match record {
        Some(record) => MapChange::Put(key, record.encode().into()),
        None => MapChange::Remove(key),
    }
}

/// The change that says how far a conversation was looked through, or forgets it.
pub(super) fn scan_change(conversation: ConversationId, scan: Option<MediaScanRecord>) -> MapChange {
    let key = scan_key(conversation);
    match scan {
        Some(scan) => MapChange::Put(key, scan.encode().into()),
        None => MapChange::Remove(key),
    }
}

/// Whether there is a record, also one that does not read.
pub(super) async fn is_known(store: &dyn MapStore, object: MediaObject) -> Result<bool, StoreError> {
    Ok(store.get(item_key(object)).await?.is_some())
}
