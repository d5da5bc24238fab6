//! Appends: whatever waits for a log goes into one conditional batch of its open bucket, so that a group of messages
//! costs one round of consensus. What goes over buckets is a [`Move`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bytes::Bytes;
use hearth_protocol::record::{LogRecord, Record};
use hearth_protocol::{Epoch, LogId, SealedEntry};
use region_model::ports::{AppendOutcome, LogAppend, StoreError};
use scylla::value::CqlValue;

use crate::Store;
use crate::database::{Cas, Seen, Write};
use crate::effects::Effects;
use crate::moving::Move;
use crate::queue::{Asked, answer};
use crate::reads::entry_of;
use crate::stamps::put;
use crate::state::State;
use crate::values::{big, blob, int, maybe_big, of_log, shard, unsigned};

/// Entries, and bytes of them, after which a batch is not added to.
const BATCH_ENTRIES: usize = 256;
const BATCH_BYTES: usize = 512 * 1024;

/// What becomes of an append under a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It goes into the batch of the open bucket.
    Fits,
    /// It is a change over buckets.
    Alone,
    /// The batch is full.
    Later,
    Conflict {
        length: u64,
        sealed: Epoch,
    },
}

/// Appends that go into one batch, in their order, with those between them that do not go at all.
struct Group {
    members: Vec<(Asked, Option<AppendOutcome>)>,
    bucket: u64,
    size: u64,
    length: u64,
    sealed: Epoch,
    mark: u64,
    record: Option<LogRecord>,
    entries: Vec<Arc<SealedEntry>>,
    bytes: usize,
    effects: Effects,
}

/// The length after an append to a log.
fn length_after(append: &LogAppend) -> u64 {
    let end = append.entries.last().map_or(append.first(), |entry| entry.sequence().0 + 1);
    let open = append.record.as_ref().and_then(|record| record.open_ranges.last()).map_or(0, |(_, to)| *to);
    end.max(open)
}

impl Group {
    fn new(state: &State, size: u64) -> Self {
        Self {
            members: Vec::new(),
            bucket: state.bucket,
            size,
            length: state.length(),
            sealed: state.sealed(),
            mark: state.mark,
            record: None,
            entries: Vec::new(),
            bytes: 0,
            effects: Effects::default(),
        }
    }

    fn judge(&self, append: &LogAppend) -> Verdict {
        if self.length != append.expect || append.epoch < self.sealed || !append.is_numbered() {
            return Verdict::Conflict { length: self.length, sealed: self.sealed };
        }
        let cuts = append.apart.is_some_and(|apart| apart < self.length);
        if cuts || append.changes_ranges() || length_after(append) / self.size != self.bucket {
            return if self.is_empty() { Verdict::Alone } else { Verdict::Later };
        }
        let bytes: usize = append.entries.iter().map(|entry| entry.encoded.len()).sum();
        let full = self.entries.len() + append.entries.len() > BATCH_ENTRIES || self.bytes + bytes > BATCH_BYTES;
        if full && !self.is_empty() { Verdict::Later } else { Verdict::Fits }
    }

    /// Whether it has nothing to commit.
    fn is_empty(&self) -> bool {
        self.members.iter().all(|(_, refused)| refused.is_some())
    }

    fn take(&mut self, asked: Asked) {
        let append = &asked.append;
        self.length = length_after(append);
        self.mark = self.mark.max(append.mark.min(append.end()));
        if let Some(record) = &append.record {
            self.sealed = record.sealed;
            self.record = Some(record.clone());
        }
        self.entries.extend(append.entries.iter().cloned());
        self.bytes += append.entries.iter().map(|entry| entry.encoded.len()).sum::<usize>();
        self.effects.add(append);
        self.effects.change = asked.stamp + 1;
        self.members.push((asked, None));
    }
}

impl Store {
    /// Makes appends to one log in their order, and answers each.
    pub(crate) async fn append_all(&self, log: LogId, mut waiting: VecDeque<Asked>) {
        // Whether the state was read, or proved by a write, since the first of them was asked.
        let mut fresh = false;
        while !waiting.is_empty() {
            match self.some_appends(log, &mut waiting, fresh).await {
                Ok(proved) => fresh = proved,
                Err(error) => {
                    self.forget(log);
                    for asked in waiting.drain(..) {
                        answer(asked.reply, Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Makes as many of the first as go together. Returns whether the state is known to be true.
    async fn some_appends(&self, log: LogId, waiting: &mut VecDeque<Asked>, fresh: bool) -> Result<bool, StoreError> {
        let state = if fresh { self.state(log).await? } else { self.state_for(log, waiting).await? };
        self.renumber(&state, waiting).await?;
        let mut group = Group::new(&state, self.bucket);
        while let Some(asked) = waiting.front() {
            match group.judge(&asked.append) {
                Verdict::Fits => group.take(waiting.pop_front().expect("it is in front")),
                Verdict::Conflict { length, sealed } => {
                    let asked = waiting.pop_front().expect("it is in front");
                    group.members.push((asked, Some(AppendOutcome::Conflict { length, sealed })));
                }
                Verdict::Later => break,
                Verdict::Alone => {
                    let asked = waiting.pop_front().expect("it is in front");
                    refuse(group);
                    return self.alone(log, &state, asked, waiting).await;
                }
            }
        }
        if group.is_empty() {
            refuse(group);
            return Ok(true);
        }
        self.commit(log, state, group, waiting).await
    }

    /// The remembered state, or a fresh one where the first append would conflict with what is remembered: another
    /// process may have written since.
    async fn state_for(&self, log: LogId, waiting: &VecDeque<Asked>) -> Result<State, StoreError> {
        let state = self.state(log).await?;
        let conflicts = waiting.front().is_some_and(|asked| {
            matches!(Group::new(&state, self.bucket).judge(&asked.append), Verdict::Conflict { .. })
        });
        if conflicts { self.fresh_state(log).await } else { Ok(state) }
    }

    /// Numbers are above that of the log's last change, whoever gave that out.
    async fn renumber(&self, state: &State, waiting: &mut VecDeque<Asked>) -> Result<(), StoreError> {
        let Some(last) = state.change else { return Ok(()) };
        if waiting.front().is_none_or(|asked| asked.stamp > last) {
            return Ok(());
        }
        self.stamps.pass(last).await?;
        for asked in waiting {
            asked.stamp = self.stamps.draw(2)?;
        }
        Ok(())
    }

    /// Whoever opens the store after this process finds the log; and the region lists it.
    async fn note(&self, log: LogId, state: &mut State, stamp: u64) -> Result<(), StoreError> {
        if state.noted && state.held() {
            return Ok(());
        }
        let statements = &self.database.statements;
        let at = Some(CqlValue::BigInt(put(stamp)));
        let mut writes: Vec<Write<'_>> =
            vec![(&statements.put_open_log, vec![int(shard(log)), of_log(log), at.clone()])];
        if !state.held() {
            let values = vec![int(log.kind as i32), int(shard(log)), of_log(log), big(state.bucket), at];
            writes.push((&statements.put_log, values));
        }
        self.database.run_all(writes).await?;
        state.noted = true;
        Ok(())
    }

    async fn commit(
        &self,
        log: LogId,
        mut state: State,
        mut group: Group,
        waiting: &mut VecDeque<Asked>,
    ) -> Result<bool, StoreError> {
        let began = Instant::now();
        let done = match self.note(log, &mut state, group.effects.change).await {
            Ok(()) => self.write_group(log, &state, &group).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(Cas::Applied) => {}
            Ok(Cas::Refused) => {
                // Somebody else wrote: all are judged anew by what is there now.
                self.forget(log);
                for (asked, _) in group.members.into_iter().rev() {
                    waiting.push_front(asked);
                }
                self.fresh_state(log).await?;
                return Ok(true);
            }
            Err(error) => {
                self.forget(log);
                fail(group, &error);
                return Err(error);
            }
        }
        state.change = Some(group.effects.change);
        state.head = Some(group.length);
        state.mark = group.mark;
        if let Some(record) = group.record.take() {
            state.epoch = Some(record.sealed.0);
            state.record = Some(record);
        }
        self.remember(log, state);
        if let Err(error) = self.perform(log, &group.effects).await {
            // It is decided: whoever asks for the log next does the rest. What was answered must be there to be found.
            self.forget(log);
            fail(group, &error);
            return Err(error);
        }
        self.count(began, group.members.len(), group.entries.len());
        for (asked, refused) in group.members {
            let applied = AppendOutcome::Applied { change: asked.stamp + 1 };
            answer(asked.reply, Ok(refused.unwrap_or(applied)));
        }
        Ok(true)
    }

    async fn write_group(&self, log: LogId, state: &State, group: &Group) -> Result<Cas, StoreError> {
        let statements = &self.database.statements;
        let change = group.effects.change;
        let redo = if group.effects.is_empty() { None } else { blob(&group.effects.encode()) };
        let (key, bucket) = (of_log(log), big(state.bucket));
        let (head, mark) = (big(group.length), big(group.mark));
        let condition = [maybe_big(state.change), maybe_big(state.head), maybe_big(state.epoch)];
        let mut writes: Vec<Write<'_>> = Vec::with_capacity(group.entries.len() + 1);
        if let Some(record) = &group.record {
            let record_bytes = blob(&record.encode());
            let mut values = vec![head, big(record.sealed.0), mark, big(change), record_bytes, redo, None];
            values.extend([key.clone(), bucket.clone()].into_iter().chain(condition));
            writes.push((&statements.set_state, values));
        } else {
            let mut values = vec![head, mark, big(change), redo, key.clone(), bucket.clone()];
            values.extend(condition);
            writes.push((&statements.advance, values));
        }
        for entry in &group.entries {
            let values = vec![key.clone(), bucket.clone(), big(entry.sequence().0), blob(&entry.encoded)];
            writes.push((&statements.put_entry, values));
        }
        let first = group.entries.first().map(|entry| (entry.sequence().0, entry.encoded.clone()));
        let look = || self.seen(log, state, change, first.clone());
        self.database.compare_and_set(writes, look).await
    }

    /// Whether a change is in the open bucket of a state, after whatever is under way there.
    async fn seen(
        &self,
        log: LogId,
        state: &State,
        change: u64,
        first: Option<(u64, Bytes)>,
    ) -> Result<Seen, StoreError> {
        let now = self.stored(log, state.bucket).await?;
        if now.change == Some(change) {
            return Ok(Seen::Done);
        }
        if now.change == state.change {
            return Ok(Seen::NotYet);
        }
        self.tells(log, first).await
    }

    /// Somebody went on, upon a change or instead of it: its first entry tells.
    async fn tells(&self, log: LogId, first: Option<(u64, Bytes)>) -> Result<Seen, StoreError> {
        let Some((sequence, bytes)) = first else { return Ok(Seen::Unclear) };
        let asked = vec![of_log(log), big(sequence / self.bucket), big(sequence)];
        let row: Option<(Option<Vec<u8>>,)> = self.database.row(&self.database.statements.entry_now, asked).await?;
        let same = row.and_then(|(entry,)| entry).is_some_and(|entry| entry[..] == bytes[..]);
        Ok(if same { Seen::Done } else { Seen::Never })
    }

    /// An append over buckets.
    async fn alone(
        &self,
        log: LogId,
        state: &State,
        asked: Asked,
        waiting: &mut VecDeque<Asked>,
    ) -> Result<bool, StoreError> {
        let began = Instant::now();
        let mut state = state.clone();
        let made = match self.note(log, &mut state, asked.stamp).await {
            Ok(()) => self.move_of(log, &state, &asked).await,
            Err(error) => Err(error),
        };
        let done = match made {
            Ok(change) => self.decide(log, &state, &change).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(Cas::Applied) => {
                self.count(began, 1, asked.append.entries.len());
                answer(asked.reply, Ok(AppendOutcome::Applied { change: asked.stamp + 1 }));
                Ok(true)
            }
            Ok(Cas::Refused) => {
                waiting.push_front(asked);
                self.fresh_state(log).await?;
                Ok(true)
            }
            Err(error) => {
                self.forget(log);
                answer(asked.reply, Err(error.clone()));
                Err(error)
            }
        }
    }

    async fn move_of(&self, log: LogId, state: &State, asked: &Asked) -> Result<Move, StoreError> {
        let append = &asked.append;
        let length = state.length();
        let cut = append.apart.filter(|apart| *apart < length);
        let begin = append.begin.as_ref();
        let dropped = begin.map_or((0, 0), |begin| (begin.dropped.start, begin.dropped.end));
        let kept = cut.map_or(state.mark, |cut| state.mark.min(cut));
        let head = length_after(append);
        let mut effects = Effects { change: asked.stamp + 1, bucket: Some(head / self.bucket), ..Effects::default() };
        effects.add(append);
        if let Some(cut) = cut {
            let found: Option<(Option<i64>, Option<Vec<u8>>)> =
                self.database.row(&self.database.statements.snapshot, vec![of_log(log)]).await?;
            let beyond = found.and_then(|(length, _)| length).is_some_and(|length| unsigned(length) > cut);
            effects.snapshot_gone = beyond && append.snapshot.is_none();
            effects.mark_gone = true;
            effects.outbox_gone = Some(cut);
            effects.changes_gone.push((cut, length));
        }
        if dropped.0 < dropped.1 {
            effects.changes_gone.push(dropped);
        }
        let record = append.record.as_ref().or(state.record.as_ref());
        Ok(Move {
            decided: asked.stamp,
            change: asked.stamp + 1,
            to: head / self.bucket,
            length,
            cut,
            keeps_tail: true,
            dropped,
            puts: append.filled.iter().chain(&append.entries).map(|entry| entry.encoded.to_vec()).collect(),
            head: Some(head),
            epoch: record.map(|record| record.sealed.0),
            mark: kept.max(append.mark.min(append.end())),
            record: record.map(Record::encode),
            redo: Some(effects.encode()),
        })
    }

    /// Decides a change over buckets, and does it.
    pub(crate) async fn decide(&self, log: LogId, state: &State, change: &Move) -> Result<Cas, StoreError> {
        let mut values = vec![blob(&change.encode()), big(change.decided), of_log(log), big(state.bucket)];
        values.extend([maybe_big(state.change), maybe_big(state.head), maybe_big(state.epoch)]);
        let look = || async {
            let now = self.stored(log, state.bucket).await?;
            match now.change {
                // Another process may have found it and done it.
                found if found == Some(change.decided) || found == Some(change.change) => Ok(Seen::Done),
                found if found == state.change => Ok(Seen::NotYet),
                _ => {
                    let first = change.puts.first().map(|bytes| entry_of(bytes.clone())).transpose()?;
                    self.tells(log, first.map(|entry| (entry.sequence().0, entry.encoded.clone()))).await
                }
            }
        };
        let decided = self.database.compare_and_set(vec![(&self.database.statements.set_moving, values)], look).await?;
        if decided == Cas::Applied {
            self.fresh_state(log).await?;
        }
        Ok(decided)
    }

    fn count(&self, began: Instant, appends: usize, entries: usize) {
        let counters = &self.counters;
        counters.commits.fetch_add(1, Relaxed);
        counters.appends.fetch_add(appends as u64, Relaxed);
        counters.entries.fetch_add(entries as u64, Relaxed);
        let spent = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        counters.commit_microseconds.fetch_add(spent, Relaxed);
    }
}

/// Answers those that do not go.
fn refuse(group: Group) {
    for (asked, refused) in group.members {
        if let Some(refused) = refused {
            answer(asked.reply, Ok(refused));
        }
    }
}

fn fail(group: Group, error: &StoreError) {
    for (asked, _) in group.members {
        answer(asked.reply, Err(error.clone()));
    }
}
