//! Keys and rows of the embedded store. Numbers in keys are big-endian, so that byte order is number order.

use bytes::{Buf, Bytes};
use hearth_protocol::record::{CursorRecord, OutboxRecord, Record, RecordError};
use hearth_protocol::{Epoch, LogId, Position, SealedEntry, Sequence, Timestamp, UserId, entry::EntryError};
use region_model::ports::{DedupKey, ExpiredContent};
use std::sync::Arc;
use uuid::Uuid;

/// Version byte of an entry's row.
const ROW_VERSION: u8 = 1;
/// Bytes before the entry: version, mark, change.
const ROW_HEAD: usize = 17;
/// Length of an entry's key: log and sequence.
pub(super) const ENTRY_KEY: usize = LogId::LENGTH + 8;
/// Length of the key of a change of a message: log and two numbers.
pub(super) const CHANGE_KEY: usize = ENTRY_KEY + 8;
/// Length of the key of an entry of a tail: log, epoch and sequence.
pub(super) const TAIL_KEY: usize = LogId::LENGTH + 16;

/// Length of the key of when content is over: time, and the key of an entry of a tail.
const EXPIRY_KEY: usize = 8 + TAIL_KEY;

/// Why stored bytes cannot be used. The store counts as broken from then on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("reading failed: {0}")]
    Read(#[from] fjall::Error),
    #[error("the journal cannot be emptied: {0}")]
    Journal(#[from] std::io::Error),
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error("{0}")]
    Entry(#[from] EntryError),
    #[error("a row of {0} has a form that this build does not know")]
    Form(&'static str),
}

/// What the keys of a log's entries and dedup records start with: the log's bytes from the last to the first. Ids made
/// at about the same time differ in their last bytes only; with those in front, a memtable tells most keys apart by
/// the four bytes that it holds beside its pointers (measured: about a sixth of the processor time of an append).
pub(super) fn spread(log: LogId) -> [u8; LogId::LENGTH] {
    let mut bytes = log.to_bytes();
    bytes.reverse();
    bytes
}

/// Key of an entry.
pub(super) fn entry(log: LogId, sequence: u64) -> [u8; ENTRY_KEY] {
    numbered(spread(log), sequence)
}

fn numbered(log: [u8; LogId::LENGTH], sequence: u64) -> [u8; ENTRY_KEY] {
    let mut key = [0; ENTRY_KEY];
    key[..LogId::LENGTH].copy_from_slice(&log);
    key[LogId::LENGTH..].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// The sequence in an entry's key.
pub(super) fn sequence(key: &[u8]) -> Result<u64, ReadError> {
    let bytes = key.get(LogId::LENGTH..).and_then(|rest| rest.try_into().ok()).ok_or(ReadError::Form("entries"))?;
    Ok(u64::from_be_bytes(bytes))
}

/// Writes an entry's row into `row`, which is cleared first.
pub(super) fn write_row(row: &mut Vec<u8>, mark: u64, change: u64, encoded: &[u8]) {
    row.clear();
    row.push(ROW_VERSION);
    row.extend_from_slice(&mark.to_be_bytes());
    row.extend_from_slice(&change.to_be_bytes());
    row.extend_from_slice(encoded);
}

/// Mark and change of an entry's row.
pub(super) fn row_head(row: &[u8]) -> Result<(u64, u64), ReadError> {
    match row.split_first() {
        Some((&ROW_VERSION, mut rest)) if rest.len() > ROW_HEAD - 1 => Ok((rest.get_u64(), rest.get_u64())),
        _ => Err(ReadError::Form("entries")),
    }
}

/// The entry of a row. Copies the bytes: a slice would keep a whole block of the cache alive.
pub(super) fn row_entry(row: &[u8]) -> Result<Arc<SealedEntry>, ReadError> {
    row_head(row)?;
    Ok(SealedEntry::decode(Bytes::copy_from_slice(&row[ROW_HEAD..]))?)
}

/// Key of a change of a message: log, the message's number, the number of what changes it.
pub(super) fn change(log: LogId, target: u64, sequence: u64) -> [u8; CHANGE_KEY] {
    let mut key = [0; CHANGE_KEY];
    key[..ENTRY_KEY].copy_from_slice(&entry(log, target));
    key[ENTRY_KEY..].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// Key of what says when the content of an entry is over: time, log, position. The entry is in the log or in its tail.
pub(super) fn expiry(at: Timestamp, log: LogId, position: Position) -> [u8; EXPIRY_KEY] {
    let mut key = [0; EXPIRY_KEY];
    key[..8].copy_from_slice(&at.0.to_be_bytes());
    key[8..].copy_from_slice(&tail(log, position));
    key
}

/// Reads [`expiry`].
pub(super) fn read_expiry(key: &[u8]) -> Result<ExpiredContent, ReadError> {
    let form = || ReadError::Form("expiries");
    let mut key: &[u8] = key.get(..EXPIRY_KEY).ok_or_else(form)?;
    let at = Timestamp(key.get_u64());
    let log = LogId::from_bytes(&key[..LogId::LENGTH]).ok_or_else(form)?;
    key.advance(LogId::LENGTH);
    let position = Position { epoch: Epoch(key.get_u64()), sequence: Sequence(key.get_u64()) };
    Ok(ExpiredContent { at, log, position })
}

/// The log in a key that begins with [`spread`].
pub(super) fn log_of(key: &[u8]) -> Result<LogId, ReadError> {
    let mut bytes = key.get(..LogId::LENGTH).ok_or(ReadError::Form("deletes"))?.to_vec();
    bytes.reverse();
    LogId::from_bytes(&bytes).ok_or(ReadError::Form("deletes"))
}

/// The number of what changes a message, in the key of the change.
pub(super) fn changed_by(key: &[u8]) -> Result<u64, ReadError> {
    let bytes = key.get(ENTRY_KEY..).and_then(|rest| rest.try_into().ok()).ok_or(ReadError::Form("changes"))?;
    Ok(u64::from_be_bytes(bytes))
}

/// What the keys of the dedup records of an id start with; the sender follows.
pub(super) fn dedup_of_id(log: LogId, id: Uuid) -> [u8; LogId::LENGTH + 16] {
    let mut key = [0; LogId::LENGTH + 16];
    key[..LogId::LENGTH].copy_from_slice(&spread(log));
    key[LogId::LENGTH..].copy_from_slice(id.as_bytes());
    key
}

/// Writes a dedup record's key into `key`, which is cleared first.
pub(super) fn write_dedup(key: &mut Vec<u8>, dedup: &DedupKey) {
    key.clear();
    key.extend_from_slice(&spread(dedup.log));
    key.extend_from_slice(dedup.id.as_bytes());
    key.extend_from_slice(dedup.sender.as_str().as_bytes());
}

/// Writes a record's stored form into `value`, which is cleared first: `Record::encode` without its allocations.
pub(super) fn write_record<R: Record>(value: &mut Vec<u8>, record: &R) {
    value.clear();
    *value = record.encode_into(std::mem::take(value));
}

/// Key of an outbox item: its order is (log, sequence, user).
pub(super) fn outbox(item: &OutboxRecord) -> Vec<u8> {
    let mut key = Vec::with_capacity(ENTRY_KEY + 64);
    key.extend_from_slice(&numbered(item.log.to_bytes(), item.position.sequence.0));
    key.extend_from_slice(item.user.as_str().as_bytes());
    key
}

/// Where the outbox items of a log's entries from a sequence on begin.
pub(super) fn outbox_from(log: LogId, sequence: u64) -> [u8; ENTRY_KEY] {
    numbered(log.to_bytes(), sequence)
}

/// Key of an entry of a tail: log, epoch, sequence. Under one epoch a sequence was given once.
pub(super) fn tail(log: LogId, position: Position) -> [u8; TAIL_KEY] {
    let mut key = [0; TAIL_KEY];
    key[..LogId::LENGTH].copy_from_slice(&log.to_bytes());
    key[LogId::LENGTH..LogId::LENGTH + 8].copy_from_slice(&position.epoch.0.to_be_bytes());
    key[LogId::LENGTH + 8..].copy_from_slice(&position.sequence.0.to_be_bytes());
    key
}

/// Key of a member's cursors: log, user.
pub(super) fn cursor(log: LogId, user: &UserId) -> Vec<u8> {
    let mut key = Vec::with_capacity(LogId::LENGTH + 64);
    key.extend_from_slice(&log.to_bytes());
    key.extend_from_slice(user.as_str().as_bytes());
    key
}

/// Writes a member's cursors into `value`, which is cleared first: the number of the change, then the record.
pub(super) fn write_cursor(value: &mut Vec<u8>, change: u64, record: &CursorRecord) {
    value.clear();
    value.extend_from_slice(&change.to_be_bytes());
    *value = record.encode_into(std::mem::take(value));
}

/// Reads [`write_cursor`].
pub(super) fn read_cursor(mut bytes: &[u8]) -> Result<(CursorRecord, u64), ReadError> {
    if bytes.len() < 8 {
        return Err(ReadError::Form("cursors"));
    }
    let change = bytes.get_u64();
    Ok((CursorRecord::decode(bytes)?, change))
}

/// Two numbers in one value: mark and change of a mark's row.
pub(super) fn pair(first: u64, second: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&first.to_be_bytes());
    bytes[8..].copy_from_slice(&second.to_be_bytes());
    bytes
}

/// Reads [`pair`].
pub(super) fn read_pair(mut bytes: &[u8]) -> Result<(u64, u64), ReadError> {
    if bytes.len() == 16 { Ok((bytes.get_u64(), bytes.get_u64())) } else { Err(ReadError::Form("marks")) }
}

/// A snapshot's row: the length that it is valid for, then its bytes.
pub(super) fn write_snapshot(value: &mut Vec<u8>, length: u64, snapshot: &[u8]) {
    value.clear();
    value.extend_from_slice(&length.to_be_bytes());
    value.extend_from_slice(snapshot);
}

/// Reads [`write_snapshot`].
pub(super) fn read_snapshot(mut bytes: &[u8]) -> Result<(u64, Bytes), ReadError> {
    if bytes.len() < 8 {
        return Err(ReadError::Form("snapshots"));
    }
    Ok((bytes.get_u64(), Bytes::copy_from_slice(bytes)))
}
