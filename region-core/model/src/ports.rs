//! What a region asks of its stores. Each port is small, asynchronous and paged, and says when an outcome is unknown,
//! so that an adapter over CQL, PostgreSQL, Redis or Kafka can stand behind it.
//!
//! ```text
//!   log:   0        1 … mark-1        mark … length-1
//!          header   shown to members  on disk, waits for copies
//! ```
//! Lengths and marks are exclusive ends: a log of length 3 holds its header and the entries 1 and 2.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use hearth_protocol::record::{
    ChangeRecord, CursorRecord, DedupRecord, LogRecord, OutboxRecord, ParkedSend, StoreIdentity,
};
use hearth_protocol::{Epoch, LogId, LogKind, Placement, Position, SealedEntry, Timestamp, UserId};
use uuid::Uuid;

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It did not happen and will not: the store is broken or full. The region stops using it at once and never
    /// retries (a sync that failed once is not believed later).
    #[error("the store is unavailable: {0}")]
    Unavailable(Arc<str>),
    /// It may or may not have happened. The caller reads before it goes on.
    #[error("the store did not answer: the outcome is unknown")]
    Unknown,
}

/// One log's part of a commit. All of it happens or nothing.
#[derive(Clone, Debug)]
pub struct LogAppend {
    /// The log.
    pub log: LogId,
    /// The length that it must have now, counting what earlier appends of the same call add.
    pub expect: u64,
    /// The epoch under which the writer writes: not below the stored `sealed`.
    pub epoch: Epoch,
    /// The entries, numbered from `expect` on.
    pub entries: Vec<Arc<SealedEntry>>,
    /// The mark as the writer knows it; stored with the entries and never moved back.
    pub mark: u64,
    /// The log's record, when it changes. Always set by the append that creates the log.
    pub record: Option<LogRecord>,
    /// Whether it changes what was promised of the log, or which line it is on. Means nothing to a store.
    pub promises: bool,
    /// A snapshot of the folded state, valid for the given length.
    pub snapshot: Option<(u64, Bytes)>,
    /// Entries from this sequence on leave the log first, with their dedup records and what they told of memberships, and
    /// stay as a tail ([`MessageLog::read_tail`]). The mark goes back to it, and a snapshot beyond it goes.
    pub apart: Option<u64>,
    /// Set when the log goes on above a range that is still to be pulled; `record` names the range then.
    pub begin: Option<Begin>,
    /// Entries of an open range, ascending, below `expect`; `record` names what is open without them.
    pub filled: Vec<Arc<SealedEntry>>,
    /// Dedup records of the entries.
    pub dedup: Vec<(DedupKey, DedupRecord)>,
    /// What the entries do to earlier messages. It goes when they leave the log.
    pub changes: Vec<ChangeRecord>,
    /// Memberships to be told.
    pub outbox: Vec<OutboxRecord>,
}

/// Where a log goes on above an open range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Entries that are dropped first: they stood above an open range of an earlier subscription.
    pub dropped: Range<u64>,
    /// The length of the log from then on, before `entries`.
    pub at: u64,
}

impl LogAppend {
    /// One that adds and changes nothing.
    #[must_use]
    pub fn empty(log: LogId, expect: u64, epoch: Epoch) -> Self {
        Self {
            log,
            expect,
            epoch,
            entries: Vec::new(),
            mark: 0,
            record: None,
            promises: false,
            snapshot: None,
            apart: None,
            begin: None,
            filled: Vec::new(),
            dedup: Vec::new(),
            changes: Vec::new(),
            outbox: Vec::new(),
        }
    }

    /// The sequence of the first of `entries`, at least.
    #[must_use]
    pub fn first(&self) -> u64 {
        let end = self.apart.map_or(self.expect, |apart| apart.min(self.expect));
        self.begin.as_ref().map_or(end, |begin| begin.at)
    }

    /// The length after it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first() + self.entries.len() as u64
    }

    /// Whether the entries go on from the first without a step back. Anything else would overwrite rows.
    #[must_use]
    pub fn is_numbered(&self) -> bool {
        let mut least = self.first();
        self.entries.iter().all(|entry| {
            let sequence = entry.sequence().0;
            let fits = sequence >= least && sequence < u64::MAX;
            least = sequence.saturating_add(1);
            fits
        })
    }

    /// Whether it changes which ranges are open.
    #[must_use]
    pub fn changes_ranges(&self) -> bool {
        self.begin.is_some() || !self.filled.is_empty()
    }
}

/// The length of a log by its last entry and its record: one past the last entry, or the end of the open range where
/// nothing stands above it yet.
#[must_use]
pub fn length_of(last: Option<u64>, record: Option<&LogRecord>) -> u64 {
    let open_end = record.and_then(|record| record.open_ranges.last()).map_or(0, |(_, to)| *to);
    last.map_or(0, |last| last + 1).max(open_end)
}

/// What names a sent message: dedup is per log, sender and id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DedupKey {
    /// The log.
    pub log: LogId,
    /// The sender's id: compared before the sender, since it alone tells most of them apart.
    pub id: Uuid,
    /// The sender.
    pub sender: UserId,
}

impl DedupKey {
    /// Every key under which an entry of a log is found.
    pub fn all_of(log: LogId, entry: &SealedEntry) -> impl Iterator<Item = Self> {
        let sender = &entry.entry.fixed.sender;
        entry.ids().map(move |id| Self { log, id, sender: sender.clone() })
    }
}

/// Names the message that somebody wants to change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetKey {
    /// The log.
    pub log: LogId,
    /// Who wants to: where two senders gave an id to a message each, one's own is meant.
    pub actor: UserId,
    /// The message's id.
    pub id: Uuid,
}

/// Content that goes for good, because its message was deleted or its author erased.
#[derive(Clone, Debug)]
pub struct TakenContent {
    /// The log.
    pub log: LogId,
    /// Entries of the log. One that is not there, or has no content, is left as it is.
    pub entries: Vec<Position>,
    /// Entries of its tail.
    pub tail: Vec<Position>,
    /// Set with the last of it: the change that took it, which is not told of by [`MessageLog::deletes`] any more.
    pub done: Option<ChangeRecord>,
}

/// Content that goes for good, because its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExpiredContent {
    /// When it was over.
    pub at: Timestamp,
    /// The log.
    pub log: LogId,
    /// The entry's position: it is in the log or in its tail.
    pub position: Position,
}

/// A page of [`MessageLog::deletes`].
pub type Deletes = (Vec<(LogId, ChangeRecord)>, Option<Bytes>);

/// What a store has of a message by its id, and of what was done to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetFound {
    /// Entries of the log on disk, which are all looked at.
    pub length: u64,
    /// The entry; the actor's own, or else the first, of several.
    pub entry: Option<Arc<SealedEntry>>,
    /// What was done to it.
    pub changes: Vec<ChangeRecord>,
}

/// What became of one [`LogAppend`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// It is durable. `change` is the region-wide number of this change: it grows with every append of the region.
    Applied {
        /// The number of the change.
        change: u64,
    },
    /// Nothing happened: the log is not as expected.
    Conflict {
        /// Its length.
        length: u64,
        /// The epoch below which it takes nothing.
        sealed: Epoch,
    },
}

/// Everything that a region needs to go on with a log.
#[derive(Clone, Debug, Default)]
pub struct LoadedLog {
    /// Where the log lives, as far as this region knows.
    pub placement: Option<Placement>,
    /// The record; `None` when this region does not hold the log.
    pub record: Option<LogRecord>,
    /// Entries held, open ranges counted: see [`length_of`].
    pub length: u64,
    /// The mark as last stored.
    pub mark: u64,
    /// The entry before the first open range.
    pub below_open: Option<Arc<SealedEntry>>,
    /// The newest snapshot.
    pub snapshot: Option<(u64, Bytes)>,
    /// The last entry.
    pub last: Option<Arc<SealedEntry>>,
    /// All entries from the lower of snapshot length and mark on.
    pub entries: Vec<Arc<SealedEntry>>,
    /// The number of its last change.
    pub change: u64,
}

/// A row of [`MessageLog::logs`].
#[derive(Clone, Debug)]
pub struct LogSummary {
    /// The log.
    pub log: LogId,
    /// Its record.
    pub record: LogRecord,
    /// Entries held.
    pub length: u64,
    /// The mark as last stored.
    pub mark: u64,
    /// The last entry.
    pub last: Option<Arc<SealedEntry>>,
    /// The number of its last change.
    pub change: u64,
}

/// The logs that a region holds, their entries and what is committed with them.
#[async_trait]
pub trait MessageLog: Send + Sync + std::fmt::Debug {
    /// Appends to many logs in one durable commit, each on its own condition, in the order given. Calls are applied in
    /// the order in which they were made (the future's first poll), also when several wait; whatever waits may share
    /// one sync. A conflict of one log does not touch the others.
    async fn append(&self, appends: Vec<LogAppend>) -> Result<Vec<AppendOutcome>, StoreError>;

    /// Reads what is needed to go on with a log; the default value when the region knows nothing of it.
    async fn load(&self, log: LogId) -> Result<LoadedLog, StoreError>;

    /// Entries with `from <= sequence < to`, ascending, at most `rows` and about `bytes` (at least one entry).
    async fn read(
        &self,
        log: LogId,
        from: u64,
        to: u64,
        rows: usize,
        bytes: usize,
    ) -> Result<Vec<Arc<SealedEntry>>, StoreError>;

    /// Looks up dedup records; one answer per key, in order.
    async fn dedup(&self, keys: Vec<DedupKey>) -> Result<Vec<Option<DedupRecord>>, StoreError>;

    /// Finds a message by its id, with what was done to it. Found as long as the dedup record of the message is kept.
    async fn target(&self, key: TargetKey) -> Result<TargetFound, StoreError>;

    /// What was done to the messages `from <= number < to` by entries below `below`: by message, and of each in the order
    /// of their numbers. At most as many of each as the product lets be made.
    async fn changes(&self, log: LogId, from: u64, to: u64, below: u64) -> Result<Vec<ChangeRecord>, StoreError>;

    /// Deletes of messages, and erasures of users, whose content was not taken away yet, at most `rows` behind the place `after`, in an order of
    /// the store's own; and the place to go on from, `None` at the end.
    async fn deletes(&self, after: Option<Bytes>, rows: usize) -> Result<Deletes, StoreError>;

    /// Takes content away, durably. Position, hash and digest of the entries stay. The bytes are in the store's files
    /// until [`MessageLog::scrub`].
    async fn take_content(&self, taken: TakenContent) -> Result<(), StoreError>;

    /// Entries of logs and of tails, at most `rows`, that have content whose time was over at `now`; empty at the end.
    async fn expired(&self, now: Timestamp, rows: usize) -> Result<Vec<ExpiredContent>, StoreError>;

    /// Takes content away as [`MessageLog::take_content`] does, of what [`MessageLog::expired`] told, which it does not tell
    /// again.
    async fn take_expired(&self, taken: Vec<ExpiredContent>) -> Result<(), StoreError>;

    /// Rewrites the store's files, so that no content that was taken away before this call, and nothing of a log that
    /// was removed, is left in them. Returns whether there was anything to do. It takes seconds, and others are served
    /// meanwhile.
    async fn scrub(&self) -> Result<bool, StoreError>;

    /// Forgets dedup records of entries that were sequenced before `before`. Looks at no more than `rows` (at least 1)
    /// records behind the place `after` (`None`: from the start), in an order of the store's own; returns the place to
    /// go on from, `None` at the end. Not synced by itself: one that comes back is forgotten the next time.
    async fn expire_dedup(
        &self,
        before: Timestamp,
        after: Option<Bytes>,
        rows: usize,
    ) -> Result<Option<Bytes>, StoreError>;

    /// Logs of one kind that the region holds, by id, after `after`.
    async fn logs(&self, kind: LogKind, after: Option<LogId>, limit: usize) -> Result<Vec<LogSummary>, StoreError>;

    /// Stores marks that no append carried. Not synced by itself: a lost one is learned again from the home.
    async fn put_marks(&self, marks: Vec<(LogId, u64)>) -> Result<(), StoreError>;

    /// Logs of which a tail is kept, by id, after `after`.
    async fn tails(&self, after: Option<LogId>, limit: usize) -> Result<Vec<LogId>, StoreError>;

    /// The tail of a log: entries that left it by [`LogAppend::apart`], by epoch and sequence, after `after`.
    async fn read_tail(
        &self,
        log: LogId,
        after: Option<Position>,
        rows: usize,
    ) -> Result<Vec<Arc<SealedEntry>>, StoreError>;

    /// Drops a log with everything about it but its placement and its tail.
    async fn remove(&self, log: LogId) -> Result<(), StoreError>;
}

/// What is known of a log without reading an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLook {
    /// Its record.
    pub record: LogRecord,
    /// Entries held.
    pub length: u64,
    /// The mark as last stored.
    pub mark: u64,
}

/// Why a look at a store found nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRead {
    /// This row does not read; others may.
    #[error("{0}")]
    Row(String),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Looks at logs for whoever checks a store. Nothing is decided by what is read here, so a row that does not read is
/// told, and does not make the store unavailable as a read of [`MessageLog`] does.
#[async_trait]
pub trait Inspect: Send + Sync + std::fmt::Debug {
    /// Ids of the logs of one kind that the region holds, after `after`; their records are not read.
    async fn log_ids(&self, kind: LogKind, after: Option<LogId>, limit: usize) -> Result<Vec<LogId>, NotRead>;

    /// What is known of a log; `None` when it is not held.
    async fn look(&self, log: LogId) -> Result<Option<LogLook>, NotRead>;

    /// One entry; `None` when it is not there.
    async fn entry(&self, log: LogId, sequence: u64) -> Result<Option<Arc<SealedEntry>>, NotRead>;
}

/// Placements as this region learned them from the placement logs.
#[async_trait]
pub trait Placements: Send + Sync + std::fmt::Debug {
    /// The newest placement known.
    async fn placement(&self, log: LogId) -> Result<Option<Placement>, StoreError>;

    /// Takes placements; one of an older epoch than the known one is ignored. Not synced by itself.
    async fn put_placements(&self, placements: Vec<Placement>) -> Result<(), StoreError>;
}

/// Memberships that homes of users must hear of. Written by [`LogAppend::outbox`].
#[async_trait]
pub trait OutboxLog: Send + Sync + std::fmt::Debug {
    /// Items by (log, sequence, user) after the given one.
    async fn outbox(&self, after: Option<OutboxRecord>, limit: usize) -> Result<Vec<OutboxRecord>, StoreError>;

    /// Items that are done. Not synced by itself: an item told twice is harmless.
    async fn outbox_done(&self, items: Vec<OutboxRecord>) -> Result<(), StoreError>;
}

/// Sends that wait for their home, and refusals that wait for their device.
#[async_trait]
pub trait ParkingLot: Send + Sync + std::fmt::Debug {
    /// Stores sends durably under their numbers; one with a known number is replaced.
    async fn park(&self, sends: Vec<ParkedSend>) -> Result<(), StoreError>;

    /// Sends by number, after the given one.
    async fn parked(&self, after: Option<u64>, limit: usize) -> Result<Vec<ParkedSend>, StoreError>;

    /// Forgets sends. Not synced by itself: one that goes out twice is answered by dedup.
    async fn unpark(&self, numbers: Vec<u64>) -> Result<(), StoreError>;
}

/// How far members of conversations are: state beside the logs. The newest of it may be lost with the power: other
/// regions have it, or the member's client says it again.
#[async_trait]
pub trait Cursors: Send + Sync + std::fmt::Debug {
    /// Puts records, each over the one of its log and member; one of a log that the region does not hold is ignored. Not
    /// synced by itself: it outlives the process, and a power cut may take it. Returns the region-wide number of this
    /// change: it grows with every append and every call of this.
    async fn put_cursors(&self, records: Vec<CursorRecord>) -> Result<u64, StoreError>;

    /// Records of a log by member, after the given one, each with the number of the change that put it.
    async fn cursors(
        &self,
        log: LogId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<(CursorRecord, u64)>, StoreError>;
}

/// One change of [`MapStore::write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapChange {
    /// Puts a value under a key, over the one before.
    Put(Bytes, Bytes),
    /// Takes a key away; one that is not there is no error.
    Remove(Bytes),
}

/// When [`MapStore::write`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapSync {
    /// Once it is on disk.
    Disk,
    /// Once it would outlive this process; a power cut may take it, but nothing before what it keeps.
    Kernel,
}

/// The region map's own keys: log, vote and snapshot of its consensus. Keys are 1 to 64 bytes, values at most
/// [`MAP_VALUE_BYTES`].
#[async_trait]
pub trait MapStore: Send + Sync + std::fmt::Debug {
    /// The value under a key.
    async fn get(&self, key: Bytes) -> Result<Option<Bytes>, StoreError>;

    /// Keys with `from <= key < to` and their values, ascending, at most `rows`.
    async fn range(&self, from: Bytes, to: Bytes, rows: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError>;

    /// The last key with `from <= key < to` and its value.
    async fn last(&self, from: Bytes, to: Bytes) -> Result<Option<(Bytes, Bytes)>, StoreError>;

    /// Makes all changes, in their order, in one commit, or none. Calls are applied in the order in which they were
    /// made (the future's first poll).
    async fn write(&self, changes: Vec<MapChange>, sync: MapSync) -> Result<(), StoreError>;
}

/// Longest value of a [`MapStore`].
pub const MAP_VALUE_BYTES: usize = 1 << 20;

/// When logs changed for a user: what a change feed is sorted by. Asked about thousands of logs in one call, none of
/// which is loaded for it.
#[async_trait]
pub trait LastChanges: Send + Sync + std::fmt::Debug {
    /// Of each of `logs`, in their order, the number of its last change, or of the change that put the cursors of `user`
    /// in it when that was later; `None` for a log that the region does not hold.
    async fn last_changes(&self, user: &UserId, logs: Vec<LogId>) -> Result<Vec<Option<u64>>, StoreError>;
}

/// The stores of one region.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Entries.
    pub log: Arc<dyn MessageLog>,
    /// Placements.
    pub placements: Arc<dyn Placements>,
    /// Memberships to be told.
    pub outbox: Arc<dyn OutboxLog>,
    /// Parked sends.
    pub parking: Arc<dyn ParkingLot>,
    /// How far members are.
    pub cursors: Arc<dyn Cursors>,
    /// When logs changed.
    pub last_changes: Arc<dyn LastChanges>,
    /// The region map's keys.
    pub map: Arc<dyn MapStore>,
    /// Looks that find what does not read.
    pub inspect: Arc<dyn Inspect>,
    /// Who the store is.
    pub identity: StoreIdentity,
    /// Counters of what the store did, for metrics.
    pub counters: Arc<StoreCounters>,
}

/// What a store did since it was opened. Read by `/metrics`.
#[derive(Debug, Default)]
pub struct StoreCounters {
    /// Commits.
    pub commits: std::sync::atomic::AtomicU64,
    /// Syncs that the store asked of the kernel.
    pub syncs: std::sync::atomic::AtomicU64,
    /// Log appends in those commits.
    pub appends: std::sync::atomic::AtomicU64,
    /// Entries in those commits.
    pub entries: std::sync::atomic::AtomicU64,
    /// Microseconds spent in commits, sync included.
    pub commit_microseconds: std::sync::atomic::AtomicU64,
    /// Calls waiting for the committer now.
    pub waiting: std::sync::atomic::AtomicU64,
    /// Requests to servers that were not answered, and were made again.
    pub repeated: std::sync::atomic::AtomicU64,
    /// Requests to servers, those that were made again included.
    pub requests: std::sync::atomic::AtomicU64,
    /// Of these, conditional writes: rounds of consensus.
    pub rounds: std::sync::atomic::AtomicU64,
    /// Bytes that commits wrote to the store's journal, or values that were sent to servers.
    pub bytes: std::sync::atomic::AtomicU64,
}
