//! What is kept of push decisions, beside the region map's own keys: none of those begins like these. It outlives the
//! process; a power cut may take the newest, and then a message may be decided, and pushed, twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use hearth_protocol::record::{PushRecord, Record};
use hearth_protocol::{ConversationId, Epoch, LogId, UserId};
use region_model::ports::{MapChange, MapStore, MapSync, StoreError};
use region_model::push::Kept;
use uuid::Uuid;

/// Before the 16 bytes of the user's record and the 16 of the conversation.
const PREFIX: &[u8] = b"push/kept/";
/// Rows read at a time.
const PAGE: usize = 1_024;
/// Bytes of the id of a log in a key.
const ID: usize = 16;

fn prefix_of(record: LogId) -> Vec<u8> {
    [PREFIX, record.id.as_bytes()].concat()
}

/// What is kept of one user under an epoch of the user's record. Rows of another epoch are taken away: somebody else
/// decided since.
///
/// # Errors
/// Of the store.
pub(super) async fn load(
    store: &dyn MapStore,
    record: LogId,
    epoch: Option<Epoch>,
) -> Result<BTreeMap<LogId, Kept>, StoreError> {
    let prefix = prefix_of(record);
    let end = Bytes::from([&prefix[..], &[u8::MAX; ID + 1]].concat());
    let mut from = Bytes::from(prefix.clone());
    let (mut kept, mut old) = (BTreeMap::new(), Vec::new());
    loop {
        let rows = store.range(from.clone(), end.clone(), PAGE).await?;
        for (key, value) in &rows {
            let conversation = key.strip_prefix(&prefix[..]).and_then(|id| Uuid::from_slice(id).ok());
            let row = PushRecord::decode(value).ok().filter(|row| Some(row.epoch) == epoch);
            match (conversation, row) {
                (Some(id), Some(row)) => {
                    let log = LogId::conversation(ConversationId(id));
                    kept.insert(log, Kept { decided: row.decided, shown: row.shown });
                }
                _ => old.push(MapChange::Remove(key.clone())),
            }
        }
        match rows.last() {
            Some((last, _)) if rows.len() == PAGE => from = Bytes::from([&last[..], &[0]].concat()),
            Some(_) | None => break,
        }
    }
    if !old.is_empty() {
        store.write(old, MapSync::Kernel).await?;
    }
    Ok(kept)
}

/// The change that keeps what is decided of a user's conversation, or forgets it.
pub(super) fn change(user: &UserId, log: LogId, epoch: Epoch, kept: Option<Kept>) -> MapChange {
    let key = Bytes::from([&prefix_of(LogId::user(user))[..], log.id.as_bytes()].concat());
    match kept {
        Some(Kept { decided, shown }) => MapChange::Put(key, PushRecord { epoch, decided, shown }.encode().into()),
        None => MapChange::Remove(key),
    }
}
