//! The committer: one thread per store that puts whatever waits into one record of the journal, syncs it once, answers
//! all and hands the changes to the applier.

mod content;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use bytes::Bytes;
use fjall::Readable as _;
use hearth_protocol::record::{CursorRecord, OutboxRecord, ParkedSend};
use hearth_protocol::{Epoch, LogId, Placement};
use region_model::ports::{
    AppendOutcome, DedupKey, ExpiredContent, LogAppend, MapChange, MapSync, StoreCounters, StoreError, TakenContent,
};
use tokio::sync::{mpsc, oneshot};

use super::applier::{Behind, Work};
use super::batch::{Batch, Sync};
use super::broken::Broken;
use super::heads::{Head, Heads};
use super::ids::Ids;
use super::journal::Journal;
use super::keys::{self, ReadError};
use super::tables::Tables;

/// Calls that wait at most; further callers wait for their turn to wait.
pub(super) const QUEUE_BOUND: usize = 4_096;
/// Items after which a batch is committed although more calls wait: bounds memory and the time of one commit, and lets
/// the answers of one commit go out while the next is made.
const BATCH_ITEMS: usize = 1_024;
/// Heads per generation of the cache: two of 65,536 are about 20 MB when full.
const HEADS: usize = 65_536;
/// Numbers of changes reserved at a time.
pub(super) const CHANGE_BLOCK: u64 = 1_000_000;
/// Key of the reserved numbers of changes in `meta`.
pub(super) const CHANGE_FLOOR: &[u8] = b"change-floor";

/// Key in `meta` of the number of the last change that took something away which the files still hold.
pub(super) const SCRUB: &[u8] = b"scrub";

pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// A call that changes the store.
pub(super) enum Job {
    Append(Vec<LogAppend>, Answer<Vec<AppendOutcome>>),
    /// Answered with the number of the change.
    Cursors(Vec<CursorRecord>, Answer<u64>),
    Write(Write, Answer<()>),
}

/// A change without outcomes of its own.
pub(super) enum Write {
    Park(Vec<ParkedSend>),
    Remove(LogId),
    TakeContent(Box<TakenContent>),
    TakeExpired(Vec<ExpiredContent>),
    /// The tables were rewritten after [`SCRUB`] said this.
    Scrubbed(u64),
    Marks(Vec<(LogId, u64)>),
    Placements(Vec<Placement>),
    OutboxDone(Vec<OutboxRecord>),
    Unpark(Vec<u64>),
    /// Keys of dedup records.
    ForgetDedup(Vec<Bytes>),
    Map(Vec<MapChange>, MapSync),
}

impl Write {
    fn sync(&self) -> Sync {
        match self {
            Self::Park(_)
            | Self::Remove(_)
            | Self::TakeContent(_)
            | Self::TakeExpired(_)
            | Self::Scrubbed(_)
            | Self::Map(_, MapSync::Disk) => Sync::Disk,
            Self::Marks(_)
            | Self::Placements(_)
            | Self::OutboxDone(_)
            | Self::Unpark(_)
            | Self::ForgetDedup(_)
            | Self::Map(_, MapSync::Kernel) => Sync::Kernel,
        }
    }
}

enum Pending {
    Append(Vec<AppendOutcome>, Answer<Vec<AppendOutcome>>),
    Cursors(u64, Answer<u64>),
    Write(Answer<()>),
}

pub(super) struct Committer {
    tables: Tables,
    journal: Journal,
    applier: SyncSender<Work>,
    behind: Arc<Behind>,
    ids: Arc<Ids>,
    /// Commits so far.
    ticket: u64,
    /// Keys of the dedup records in the batch.
    dedup: Vec<Vec<u8>>,
    broken: Arc<Broken>,
    counters: Arc<StoreCounters>,
    skip_sync: bool,
    heads: Heads,
    change: u64,
    floor: u64,
    batch: Batch,
    sync: Sync,
    pending: Vec<Pending>,
    staged_placements: HashMap<LogId, Epoch>,
    appends: u64,
    entries: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Committer {
    /// A committer whose next change is `floor + 1`.
    pub(super) fn new(
        (tables, journal): (Tables, Journal),
        (applier, behind, ids): (SyncSender<Work>, Arc<Behind>, Arc<Ids>),
        broken: Arc<Broken>,
        counters: Arc<StoreCounters>,
        floor: u64,
        skip_sync: bool,
    ) -> Self {
        Self {
            batch: Batch::new(&tables.database, 0),
            tables,
            journal,
            applier,
            behind,
            ids,
            ticket: 0,
            dedup: Vec::new(),
            broken,
            counters,
            skip_sync,
            heads: Heads::new(HEADS),
            change: floor,
            floor,
            sync: Sync::Kernel,
            pending: Vec::new(),
            staged_placements: HashMap::new(),
            appends: 0,
            entries: 0,
            key: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Serves until the queue is closed and empty.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let _guard = self.broken.guard();
        let mut jobs = Vec::with_capacity(QUEUE_BOUND);
        while queue.blocking_recv_many(&mut jobs, QUEUE_BOUND) > 0 {
            for job in jobs.drain(..) {
                if let Some(reason) = self.broken.reason() {
                    refuse(job, &reason);
                } else if let Err(error) = self.stage(job) {
                    self.fail(&error.to_string());
                } else if self.batch.len() >= BATCH_ITEMS {
                    self.finish();
                }
                self.counters.waiting.fetch_sub(1, Relaxed);
            }
            self.finish();
        }
    }

    fn stage(&mut self, job: Job) -> Result<(), ReadError> {
        match job {
            Job::Append(appends, answer) => {
                // The answer is kept before anything can fail, so that a failure reaches it.
                if appends.iter().any(takes_away) {
                    // What is taken away is looked for in the tables: what waits must be there first.
                    self.finish();
                }
                self.pending.push(Pending::Append(Vec::with_capacity(appends.len()), answer));
                if let Some(reason) = self.broken.reason() {
                    self.fail(&reason);
                    return Ok(());
                }
                self.sync = Sync::Disk;
                for append in appends {
                    let outcome = self.append(append)?;
                    if let Some(Pending::Append(outcomes, _)) = self.pending.last_mut() {
                        outcomes.push(outcome);
                    }
                }
                Ok(())
            }
            Job::Cursors(records, answer) => self.cursors(records, answer),
            // These look for rows: those that wait must be in the tables first.
            Job::Write(
                write @ (Write::Remove(_) | Write::TakeContent(_) | Write::TakeExpired(_) | Write::Scrubbed(_)),
                answer,
            ) => {
                self.finish();
                if let Some(reason) = self.broken.reason() {
                    refuse(Job::Write(write, answer), &reason);
                    return Ok(());
                }
                self.write(write, answer)
            }
            Job::Write(write, answer) => self.write(write, answer),
        }
    }

    fn head(&mut self, log: LogId) -> Result<Head, ReadError> {
        if let Some(head) = self.heads.get(&log) {
            return Ok(head);
        }
        self.behind.wait_for(self.ticket);
        let head = self.tables.head(log)?;
        self.heads.put(log, head);
        Ok(head)
    }

    fn next_change(&mut self) -> u64 {
        self.change += 1;
        if self.change > self.floor {
            self.floor += CHANGE_BLOCK;
            self.batch.put(&self.tables.meta, CHANGE_FLOOR, &self.floor.to_be_bytes());
        }
        self.change
    }

    /// How far members are. A log that the region does not hold has none.
    fn cursors(&mut self, records: Vec<CursorRecord>, answer: Answer<u64>) -> Result<(), ReadError> {
        let change = self.next_change();
        self.pending.push(Pending::Cursors(change, answer));
        for record in records {
            if self.head(record.log)?.held {
                keys::write_cursor(&mut self.value, change, &record);
                self.batch.put(&self.tables.cursors, &keys::cursor(record.log, &record.user), &self.value);
            }
        }
        Ok(())
    }

    fn append(&mut self, append: LogAppend) -> Result<AppendOutcome, ReadError> {
        let mut head = self.head(append.log)?;
        if head.length != append.expect || append.epoch < head.sealed || !append.is_numbered() {
            return Ok(AppendOutcome::Conflict { length: head.length, sealed: head.sealed });
        }
        head.change = self.next_change();
        if let Some(apart) = append.apart.filter(|apart| *apart < head.length) {
            self.put_apart(append.log, apart)?;
            head.mark = head.mark.min(apart);
        }
        head.mark = head.mark.max(append.mark.min(append.end()));
        self.stage_ranges(&append, &head)?;
        head.length = append.first();
        for entry in &append.entries {
            let sequence = entry.sequence().0;
            keys::write_row(&mut self.value, head.mark, head.change, &entry.encoded);
            self.batch.put(&self.tables.entries, &keys::entry(append.log, sequence), &self.value);
            self.note_expiry(append.log, entry);
            head.length = sequence + 1;
        }
        let key = append.log.to_bytes();
        if append.entries.is_empty() || append.apart.is_some() {
            self.batch.put(&self.tables.marks, &key, &keys::pair(head.mark, head.change));
        }
        if let Some(record) = &append.record {
            keys::write_record(&mut self.value, record);
            self.batch.put(&self.tables.logs, &key, &self.value);
            head.sealed = record.sealed;
        }
        if let Some((length, snapshot)) = &append.snapshot {
            keys::write_snapshot(&mut self.value, *length, snapshot);
            self.batch.put(&self.tables.snapshots, &key, &self.value);
        }
        if !head.held {
            self.ids.begin_empty(append.log);
        }
        self.stage_others(&append);
        head.held = true;
        self.heads.put(append.log, head);
        self.appends += 1;
        self.entries += append.entries.len() as u64;
        Ok(AppendOutcome::Applied { change: head.change })
    }

    /// Takes the end of a log out of it: its entries stay as a tail, what they told does not. Memory grows with the
    /// tail's rows. [`Ids`] keeps what it knows: an id too many costs a look-up.
    fn put_apart(&mut self, log: LogId, from: u64) -> Result<(), ReadError> {
        self.behind.wait_for(self.ticket);
        let view = self.tables.database.snapshot();
        for row in view.range(&self.tables.entries, keys::entry(log, from)..=keys::entry(log, u64::MAX)) {
            let (key, row) = row.into_inner()?;
            let entry = keys::row_entry(&row)?;
            self.batch.remove(&self.tables.entries, &key);
            self.batch.put(&self.tables.tails, &keys::tail(log, entry.entry.fixed.position), &row);
            for dedup in DedupKey::all_of(log, &entry) {
                keys::write_dedup(&mut self.key, &dedup);
                if let Some(record) = self.tables.dedup(&self.key)?
                    && record.position == entry.entry.fixed.position
                {
                    self.batch.remove(&self.tables.dedup, &self.key);
                }
            }
        }
        self.take_changes(log, &(from..u64::MAX))?;
        for row in view.range(&self.tables.outbox, keys::outbox_from(log, from)..=keys::outbox_from(log, u64::MAX)) {
            self.batch.remove(&self.tables.outbox, &row.key()?);
        }
        let key = log.to_bytes();
        if let Some(snapshot) = view.get(&self.tables.snapshots, key)?
            && keys::read_snapshot(&snapshot)?.0 > from
        {
            self.batch.remove(&self.tables.snapshots, &key);
        }
        Ok(())
    }

    /// Drops what a new beginning drops, and puts entries of an open range: their mark is that they may be shown. Dedup
    /// records of what is dropped stay, and so does what [`Ids`] knows: to forget it between an `add` and its commit would
    /// let a reading miss the record.
    fn stage_ranges(&mut self, append: &LogAppend, head: &Head) -> Result<(), ReadError> {
        if let Some(begin) = append.begin.as_ref().filter(|begin| !begin.dropped.is_empty()) {
            self.take_changes(append.log, &begin.dropped)?;
        }
        for sequence in append.begin.iter().flat_map(|begin| begin.dropped.clone()) {
            self.batch.remove(&self.tables.entries, &keys::entry(append.log, sequence));
        }
        for entry in &append.filled {
            let sequence = entry.sequence().0;
            keys::write_row(&mut self.value, head.mark.min(sequence + 1), head.change, &entry.encoded);
            self.batch.put(&self.tables.entries, &keys::entry(append.log, sequence), &self.value);
            self.note_expiry(append.log, entry);
        }
        Ok(())
    }

    fn stage_others(&mut self, append: &LogAppend) {
        for change in &append.changes {
            keys::write_record(&mut self.value, change);
            let key = keys::change(append.log, change.target, change.position.sequence.0);
            self.batch.put(&self.tables.changes, &key, &self.value);
            if change.what.takes_content() {
                self.batch.put(&self.tables.deletes, &key, &self.value);
            }
        }
        for (dedup, record) in &append.dedup {
            keys::write_dedup(&mut self.key, dedup);
            keys::write_record(&mut self.value, record);
            self.batch.put(&self.tables.dedup, &self.key, &self.value);
            // Nobody asks for it before the commit is answered.
            self.ids.add(dedup.log, &self.key);
            self.behind.remember(self.key.clone(), self.ticket + 1, self.value.clone());
            self.dedup.push(self.key.clone());
        }
        for item in &append.outbox {
            keys::write_record(&mut self.value, item);
            self.batch.put(&self.tables.outbox, &keys::outbox(item), &self.value);
        }
    }

    fn write(&mut self, write: Write, answer: Answer<()>) -> Result<(), ReadError> {
        self.pending.push(Pending::Write(answer));
        if write.sync() == Sync::Disk {
            self.sync = Sync::Disk;
        }
        match write {
            Write::Park(sends) => {
                for send in sends {
                    if send.content.is_empty() {
                        // What it said is in the files.
                        self.note_scrub();
                    }
                    keys::write_record(&mut self.value, &send);
                    self.batch.put(&self.tables.parked, &send.number.to_be_bytes(), &self.value);
                }
            }
            Write::Remove(log) => self.remove(log)?,
            Write::TakeContent(taken) => self.take_content(&taken)?,
            Write::TakeExpired(taken) => self.take_expired(&taken)?,
            Write::Scrubbed(after) => self.scrubbed(after)?,
            Write::Marks(marks) => {
                for (log, mark) in marks {
                    self.mark(log, mark)?;
                }
            }
            Write::Placements(placements) => {
                for placement in placements {
                    self.place(&placement)?;
                }
            }
            Write::OutboxDone(items) => {
                for item in items {
                    self.batch.remove(&self.tables.outbox, &keys::outbox(&item));
                }
            }
            Write::Unpark(numbers) => {
                for number in numbers {
                    self.batch.remove(&self.tables.parked, &number.to_be_bytes());
                }
            }
            Write::ForgetDedup(keys) => {
                for key in keys {
                    self.batch.remove(&self.tables.dedup, &key);
                }
            }
            Write::Map(changes, _) => {
                for change in changes {
                    match change {
                        MapChange::Put(key, value) => self.batch.put(&self.tables.map, &key, &value),
                        MapChange::Remove(key) => self.batch.remove(&self.tables.map, &key),
                    }
                }
            }
        }
        Ok(())
    }

    /// A mark that no append carried. A log that the region does not hold has none.
    fn mark(&mut self, log: LogId, mark: u64) -> Result<(), ReadError> {
        let mut head = self.head(log)?;
        if head.held && mark > head.mark {
            head.mark = mark;
            self.batch.put(&self.tables.marks, &log.to_bytes(), &keys::pair(head.mark, head.change));
            self.heads.put(log, head);
        }
        Ok(())
    }

    fn place(&mut self, placement: &Placement) -> Result<(), ReadError> {
        let known = match self.staged_placements.get(&placement.log) {
            Some(epoch) => Some(*epoch),
            None => {
                self.behind.wait_for(self.ticket);
                self.tables.placement(placement.log)?.map(|placement| placement.epoch)
            }
        };
        if known.is_none_or(|known| placement.epoch >= known) {
            keys::write_record(&mut self.value, placement);
            self.batch.put(&self.tables.placements, &placement.log.to_bytes(), &self.value);
            self.staged_placements.insert(placement.log, placement.epoch);
        }
        Ok(())
    }

    /// Takes everything about a log away but its placement, in one batch: memory grows with the log's rows.
    fn remove(&mut self, log: LogId) -> Result<(), ReadError> {
        self.behind.wait_for(self.ticket);
        let prefix = log.to_bytes();
        let tables = &self.tables;
        let spread = keys::spread(log);
        let spread =
            [&tables.entries, &tables.dedup, &tables.changes, &tables.deletes].map(|keyspace| (keyspace, spread));
        let plain = [&tables.outbox, &tables.cursors].map(|keyspace| (keyspace, prefix));
        for (keyspace, prefix) in spread.into_iter().chain(plain) {
            for row in keyspace.prefix(prefix) {
                self.batch.remove(keyspace, &row.key()?);
            }
        }
        for keyspace in [&tables.logs, &tables.snapshots, &tables.marks] {
            self.batch.remove(keyspace, &prefix);
        }
        self.heads.forget(&log);
        self.ids.forget(log);
        self.note_scrub();
        Ok(())
    }

    /// Commits what is staged and answers everybody whose call is in it.
    fn finish(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let size = self.batch.len().min(BATCH_ITEMS);
        let batch = std::mem::replace(&mut self.batch, Batch::new(&self.tables.database, size));
        let sync = if self.skip_sync { Sync::Kernel } else { self.sync };
        let began = Instant::now();
        let mut applied = None;
        if batch.len() > 0 {
            let (mut record, staged) = batch.into_parts();
            if let Err(error) = self.journal.append(&mut record, sync == Sync::Disk) {
                return self.fail(&format!("a commit failed: {error}"));
            }
            self.ticket += 1;
            self.behind.committed(self.ticket);
            self.counters.bytes.fetch_add(record.len() as u64, Relaxed);
            self.count(sync, began);
            applied = Some(Work {
                staged,
                ticket: self.ticket,
                segment: self.journal.segment(),
                dedup: std::mem::take(&mut self.dedup),
            });
        }
        self.sync = Sync::Kernel;
        self.staged_placements.clear();
        self.heads.turn_if_full();
        for pending in self.pending.drain(..) {
            // A caller that went away does not want its answer.
            let _gone = match pending {
                Pending::Append(outcomes, answer) => answer.send(Ok(outcomes)).is_err(),
                Pending::Cursors(change, answer) => answer.send(Ok(change)).is_err(),
                Pending::Write(answer) => answer.send(Ok(())).is_err(),
            };
        }
        // Behind the answers: nobody waits for the tables, unless they are too far behind.
        if applied.is_some_and(|work| self.applier.send(work).is_err()) {
            self.fail("the applier ended");
        }
    }

    fn count(&mut self, sync: Sync, began: Instant) {
        let counters = &self.counters;
        counters.commits.fetch_add(1, Relaxed);
        if sync == Sync::Disk {
            counters.syncs.fetch_add(1, Relaxed);
        }
        counters.appends.fetch_add(std::mem::take(&mut self.appends), Relaxed);
        counters.entries.fetch_add(std::mem::take(&mut self.entries), Relaxed);
        let spent = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        counters.commit_microseconds.fetch_add(spent, Relaxed);
    }

    /// The store is broken from now on; everybody whose call is in the batch hears it.
    fn fail(&mut self, reason: &str) {
        let reason = self.broken.set(reason);
        self.batch = Batch::new(&self.tables.database, 0);
        self.dedup.clear();
        for pending in self.pending.drain(..) {
            let error = StoreError::Unavailable(Arc::clone(&reason));
            let _gone = match pending {
                Pending::Append(_, answer) => answer.send(Err(error)).is_err(),
                Pending::Cursors(_, answer) => answer.send(Err(error)).is_err(),
                Pending::Write(answer) => answer.send(Err(error)).is_err(),
            };
        }
    }
}

/// Whether an append takes rows away that it has to look for.
fn takes_away(append: &LogAppend) -> bool {
    append.apart.is_some() || append.begin.as_ref().is_some_and(|begin| !begin.dropped.is_empty())
}

fn refuse(job: Job, reason: &Arc<str>) {
    let error = StoreError::Unavailable(Arc::clone(reason));
    let _gone = match job {
        Job::Append(_, answer) => answer.send(Err(error)).is_err(),
        Job::Cursors(_, answer) => answer.send(Err(error)).is_err(),
        Job::Write(_, answer) => answer.send(Err(error)).is_err(),
    };
}
