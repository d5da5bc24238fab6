//! Values that are bound to statements, and how rows are spread over partitions.

use hearth_protocol::LogId;
use scylla::value::CqlValue;
use uuid::Uuid;

/// The values of one statement, in its order.
pub(crate) type Values = Vec<Option<CqlValue>>;

/// Partitions of what belongs to a whole region.
pub(crate) const SHARDS: i32 = 16;
/// Partitions of the dedup records of a log.
pub(crate) const DEDUP_SHARDS: i32 = 64;
/// The one partition of tables that have one.
pub(crate) const ONE_PART: i32 = 0;
/// Milliseconds of a day.
pub(crate) const DAY: u64 = 86_400_000;

/// The bytes of a value as it is sent, without its length.
pub(crate) fn bytes_of(value: &CqlValue) -> usize {
    match value {
        CqlValue::Blob(bytes) => bytes.len(),
        CqlValue::Text(text) => text.len(),
        CqlValue::Uuid(_) => 16,
        CqlValue::Int(_) => 4,
        CqlValue::Boolean(_) => 1,
        _ => 8,
    }
}

/// A number. Sequences, epochs and times are far below the end of `bigint`; a bound above it means "to the end".
pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What [`number`] made.
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(crate) fn big(value: u64) -> Option<CqlValue> {
    Some(CqlValue::BigInt(number(value)))
}

pub(crate) fn maybe_big(value: Option<u64>) -> Option<CqlValue> {
    value.and_then(big)
}

pub(crate) fn int(value: i32) -> Option<CqlValue> {
    Some(CqlValue::Int(value))
}

pub(crate) fn blob(value: &[u8]) -> Option<CqlValue> {
    Some(CqlValue::Blob(value.to_vec()))
}

pub(crate) fn text(value: &str) -> Option<CqlValue> {
    Some(CqlValue::Text(value.to_owned()))
}

pub(crate) fn uuid(value: Uuid) -> Option<CqlValue> {
    Some(CqlValue::Uuid(value))
}

pub(crate) fn of_log(log: LogId) -> Option<CqlValue> {
    blob(&log.to_bytes())
}

/// The shard of a log: ids made at about the same time differ in their last bytes.
pub(crate) fn shard(log: LogId) -> i32 {
    i32::from(log.id.as_bytes()[15]) % SHARDS
}

/// The shard of a dedup record in its log.
pub(crate) fn dedup_shard(id: Uuid) -> i32 {
    i32::from(id.as_bytes()[15]) % DEDUP_SHARDS
}
