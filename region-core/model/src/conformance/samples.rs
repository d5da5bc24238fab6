//! What the sentences append: everything follows from numbers, so that what was read can be compared.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::entry::{Fixed, content_digest};
use hearth_protocol::record::{DedupRecord, LogRecord, Opening, OutboxRecord, ParkedSend};
use hearth_protocol::{
    ConversationId, DeviceId, Entry, EntryKind, Epoch, Level, LogId, LogKind, MessageId, Placement, Position, RegionId,
    SealedEntry, Sequence, Timestamp, UserId,
};
use uuid::Uuid;

use crate::ports::{DedupKey, LogAppend};

/// The log of a conversation, ascending with the number.
#[must_use]
pub fn conversation(number: u128) -> LogId {
    LogId { kind: LogKind::Conversation, id: Uuid::from_u128(number << 64 | number) }
}

/// A user.
#[must_use]
pub fn user(name: &str) -> UserId {
    UserId::new(name).expect("a valid name")
}

/// A region.
#[must_use]
pub fn region(name: &str) -> RegionId {
    RegionId::new(name).expect("a valid name")
}

/// A position in the first epoch.
#[must_use]
pub fn position(sequence: u64) -> Position {
    Position { epoch: Epoch(1), sequence: Sequence(sequence) }
}

fn message_id(sequence: u64) -> Uuid {
    Uuid::from_u128(u128::from(sequence) + 1)
}

/// The message at a sequence; its text is `number <sequence> of <log>`.
#[must_use]
pub fn entry(log: LogId, sequence: u64) -> Arc<SealedEntry> {
    let salt = Bytes::from_static(&[7; 16]);
    let content = Bytes::from(format!("{{\"text\":\"number {sequence} of {log}\"}}"));
    let fixed = Fixed {
        position: position(sequence),
        kind: EntryKind::Message,
        sender: user("ann"),
        id: message_id(sequence),
        time: Timestamp(1_000 + sequence),
        level: Level::Region,
        digest: content_digest(&salt, &content),
        previous: [0; 32],
        origin: region("eu"),
        reply_to: None,
        target: None,
        expires_at: None,
        original_time: None,
    };
    SealedEntry::seal(Entry { fixed, content: Some((salt, content)) })
}

/// The same, whose content is over at a time.
#[must_use]
pub fn expiring(log: LogId, sequence: u64, at: u64) -> Arc<SealedEntry> {
    let mut entry = entry(log, sequence).entry.clone();
    entry.fixed.expires_at = Some(Timestamp(at));
    SealedEntry::seal(entry)
}

/// The messages at sequences.
#[must_use]
pub fn entries(log: LogId, sequences: Range<u64>) -> Vec<Arc<SealedEntry>> {
    sequences.map(|sequence| entry(log, sequence)).collect()
}

/// The dedup key of [`entry`].
#[must_use]
pub fn dedup_key(log: LogId, sequence: u64) -> DedupKey {
    DedupKey { log, sender: user("ann"), id: message_id(sequence) }
}

/// Message id and dedup record of [`entry`].
#[must_use]
pub fn dedup_of(sequence: u64) -> (Uuid, DedupRecord) {
    let record = DedupRecord {
        position: position(sequence),
        time: Timestamp(1_000 + sequence),
        digest: [u8::try_from(sequence % 256).expect("below 256"); 32],
        reply_to: None,
        level: Level::Region,
    };
    (message_id(sequence), record)
}

/// The record of a log that takes nothing below the epoch `sealed`.
#[must_use]
pub fn record(sealed: u64) -> LogRecord {
    LogRecord {
        home: region("eu"),
        voters: vec![region("eu"), region("us")],
        accepted: Epoch(1),
        sealed: Epoch(sealed),
        openings: vec![Opening { epoch: Epoch(1), first: 0, previous: [0; 32], loss: false }],
        floor: 0,
        published: 0,
        open_ranges: vec![],
        incarnation: 1,
    }
}

/// `count` entries from `expect` on with their dedup records; the record when it is the log's first.
#[must_use]
pub fn append(log: LogId, expect: u64, count: u64) -> LogAppend {
    let sequences = expect..expect + count;
    LogAppend {
        log,
        expect,
        epoch: Epoch(1),
        entries: entries(log, sequences.clone()),
        mark: 0,
        record: (expect == 0).then(|| record(1)),
        snapshot: None,
        apart: None,
        promises: false,
        begin: None,
        filled: vec![],
        dedup: sequences.map(|sequence| (dedup_key(log, sequence), dedup_of(sequence).1)).collect(),
        changes: vec![],
        outbox: vec![],
    }
}

/// A placement under an epoch.
#[must_use]
pub fn placement(log: LogId, epoch: u64) -> Placement {
    let first = Placement::first(log, region("eu"), vec![region("eu"), region("us")], Level::Majority);
    Placement { epoch: Epoch(epoch), ..first }
}

/// A parked send of a number.
#[must_use]
pub fn parked(number: u64) -> ParkedSend {
    ParkedSend {
        number,
        conversation: ConversationId(conversation(1).id),
        sender: user("ann"),
        device: DeviceId(Uuid::from_u128(3)),
        id: MessageId(message_id(number)),
        content: Bytes::from(format!("{{\"text\":\"parked {number}\"}}")),
        reply_to: None,
        expires_at: None,
        level: None,
        parked_at: Timestamp(number),
        refused: None,
        kind: EntryKind::Message,
        target: None,
        joined: Some(number),
    }
}

/// A membership to be told, of the entry at a sequence of [`conversation`].
#[must_use]
pub fn outbox(log: u128, sequence: u64, who: &str) -> OutboxRecord {
    OutboxRecord { log: conversation(log), position: position(sequence), user: user(who), joined: true }
}
