//! The state of a log: what its open bucket says, and what is remembered of it.

use std::collections::HashMap;

use hearth_protocol::record::{LogRecord, Record};
use hearth_protocol::{Epoch, LogId};
use region_model::ports::StoreError;

use crate::Store;
use crate::database::unreadable;
use crate::effects::Effects;
use crate::moving::Move;
use crate::values::{big, int, of_log, shard, unsigned};

/// Logs per generation of the memory: two of 65,536 are about 60 MB when full.
const STATES: usize = 65_536;
/// Buckets that a log can have gone through since its row in `logs` was written.
const HOPS: usize = 100_000;

/// The static columns of a bucket.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored {
    pub(crate) head: Option<u64>,
    pub(crate) epoch: Option<u64>,
    pub(crate) mark: Option<u64>,
    pub(crate) change: Option<u64>,
    pub(crate) record: Option<Vec<u8>>,
    pub(crate) redo: Option<Vec<u8>>,
    pub(crate) moving: Option<Vec<u8>>,
    pub(crate) next: Option<u64>,
}

type Number = Option<i64>;
type Blob = Option<Vec<u8>>;
type StoredRow = (Number, Number, Number, Number, Blob, Blob, Blob, Number);

/// What an append of a log is conditional on, and what it starts from.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// The open bucket.
    pub(crate) bucket: u64,
    /// The number of the last change; `None` before the first.
    pub(crate) change: Option<u64>,
    /// The column `head`: the length; `None` for a log that is not held.
    pub(crate) head: Option<u64>,
    /// The column `epoch`.
    pub(crate) epoch: Option<u64>,
    pub(crate) mark: u64,
    pub(crate) record: Option<LogRecord>,
    /// Whether `open_logs` has it.
    pub(crate) noted: bool,
}

impl State {
    pub(crate) fn length(&self) -> u64 {
        self.head.unwrap_or(0)
    }

    pub(crate) fn sealed(&self) -> Epoch {
        self.record.as_ref().map(|record| record.sealed).unwrap_or_default()
    }

    pub(crate) fn held(&self) -> bool {
        self.record.is_some() || self.head.is_some_and(|head| head > 0)
    }

    /// The sequence of the last entry: below the open ranges at the end.
    pub(crate) fn last(&self) -> Option<u64> {
        let mut end = self.length();
        for (from, to) in self.open_ranges().iter().rev() {
            if *to == end {
                end = *from;
            }
        }
        end.checked_sub(1)
    }

    pub(crate) fn open_ranges(&self) -> &[(u64, u64)] {
        self.record.as_ref().map_or(&[], |record| &record.open_ranges)
    }
}

/// A bounded memory in two generations: when the younger is full it becomes the older, and what was only in the older
/// is forgotten.
#[derive(Debug, Default)]
pub(crate) struct States {
    young: HashMap<LogId, State>,
    old: HashMap<LogId, State>,
}

impl States {
    pub(crate) fn get(&mut self, log: LogId) -> Option<&State> {
        if let Some(state) = self.old.remove(&log) {
            self.young.entry(log).or_insert(state);
        }
        self.young.get(&log)
    }

    /// Remembers a state; what is forgotten for it, as far as it was noted.
    pub(crate) fn put(&mut self, log: LogId, state: State) -> Vec<LogId> {
        self.old.remove(&log);
        self.young.insert(log, state);
        if self.young.len() < STATES {
            return Vec::new();
        }
        let forgotten = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        forgotten.into_iter().filter(|(_, state)| state.noted).map(|(log, _)| log).collect()
    }

    /// Forgets a log; whether it was noted.
    pub(crate) fn forget(&mut self, log: LogId) -> bool {
        let old = self.old.remove(&log);
        self.young.remove(&log).or(old).is_some_and(|state| state.noted)
    }
}

impl Store {
    /// The static columns of a bucket, after whatever is under way there.
    pub(crate) async fn stored(&self, log: LogId, bucket: u64) -> Result<Stored, StoreError> {
        let values = vec![of_log(log), big(bucket)];
        let row: Option<StoredRow> = self.database.row(&self.database.statements.state, values).await?;
        let Some((head, epoch, mark, change, record, redo, moving, next)) = row else { return Ok(Stored::default()) };
        let number = |value: Number| value.map(unsigned);
        Ok(Stored {
            head: number(head),
            epoch: number(epoch),
            mark: number(mark),
            change: number(change),
            record,
            redo,
            moving,
            next: number(next),
        })
    }

    /// Finds the state of a log, and finishes what a process that ended left undone. Whoever appends calls it first:
    /// the next append writes over what says so.
    async fn settle(&self, log: LogId) -> Result<State, StoreError> {
        let statements = &self.database.statements;
        let kind = int(log.kind as i32);
        let hint: Option<(Option<i64>,)> =
            self.database.row(&statements.log_bucket, vec![kind, int(shard(log)), of_log(log)]).await?;
        let mut bucket = hint.and_then(|(bucket,)| bucket).map_or(0, unsigned);
        for _ in 0..HOPS {
            let stored = self.stored(log, bucket).await?;
            if let Some(moving) = &stored.moving {
                let change = Move::decode(moving)?;
                self.perform_move(log, bucket, &change).await?;
                bucket = change.to;
                continue;
            }
            if let Some(next) = stored.next {
                bucket = next;
                continue;
            }
            if let Some(redo) = &stored.redo {
                self.perform(log, &Effects::decode(redo)?).await?;
            }
            let mark: Option<(Option<i64>,)> = self.database.row(&statements.mark, vec![of_log(log)]).await?;
            let mark = mark.and_then(|(mark,)| mark).map_or(0, unsigned);
            let record = stored.record.as_deref().map(LogRecord::decode).transpose().map_err(unreadable)?;
            return Ok(State {
                bucket,
                change: stored.change,
                head: stored.head,
                epoch: stored.epoch,
                mark: if stored.head.is_some() { mark.max(stored.mark.unwrap_or(0)) } else { 0 },
                record,
                noted: false,
            });
        }
        Err(unreadable(format!("{log} has no open bucket")))
    }

    /// The state as remembered, or as found. To be called by the queue of the log only.
    pub(crate) async fn state(&self, log: LogId) -> Result<State, StoreError> {
        if let Some(state) = self.states.lock().get(log) {
            return Ok(state.clone());
        }
        let state = self.settle(log).await?;
        self.remember(log, state.clone());
        Ok(state)
    }

    /// The state as the server has it now.
    pub(crate) async fn fresh_state(&self, log: LogId) -> Result<State, StoreError> {
        let noted = self.states.lock().forget(log);
        let state = State { noted, ..self.settle(log).await? };
        self.remember(log, state.clone());
        Ok(state)
    }

    pub(crate) fn remember(&self, log: LogId, state: State) {
        let forgotten = self.states.lock().put(log, state);
        if forgotten.is_empty() {
            return;
        }
        let Ok(stamp) = self.stamps.draw(1) else { return };
        let database = std::sync::Arc::clone(&self.database);
        self.runtime.spawn(async move {
            let remove = &database.statements.remove_open_log;
            let away = Some(scylla::value::CqlValue::BigInt(crate::stamps::away(stamp)));
            let writes =
                forgotten.into_iter().map(|log| (remove, vec![away.clone(), int(shard(log)), of_log(log)])).collect();
            // A row too many costs a look at the next start.
            if let Err(error) = database.run_all(writes).await {
                tracing::debug!(%error, "logs stay noted as open");
            }
        });
    }

    /// What was remembered of a log is not believed any more.
    pub(crate) fn forget(&self, log: LogId) {
        self.states.lock().forget(log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(open_ranges: &[(u64, u64)]) -> Option<LogRecord> {
        let region = hearth_protocol::RegionId::new("eu").expect("a name");
        Some(LogRecord {
            home: region,
            voters: vec![],
            accepted: Epoch(1),
            sealed: Epoch(2),
            openings: vec![],
            floor: 0,
            published: 0,
            open_ranges: open_ranges.to_vec(),
            incarnation: 1,
        })
    }

    #[test]
    fn the_last_entry_is_below_the_open_ranges_at_the_end() {
        let last =
            |head, open: &[(u64, u64)]| State { head: Some(head), record: record(open), ..State::default() }.last();
        assert_eq!(last(9, &[]), Some(8));
        assert_eq!(last(9, &[(2, 5)]), Some(8));
        assert_eq!(last(9, &[(2, 9)]), Some(1));
        assert_eq!(last(9, &[(2, 5), (5, 9)]), Some(1));
        assert_eq!(last(9, &[(0, 9)]), None);
        assert_eq!(State::default().last(), None);
    }

    #[test]
    fn states_in_use_outlive_a_turn_and_the_others_are_told() {
        let log = |number: u128| LogId { kind: hearth_protocol::LogKind::User, id: uuid::Uuid::from_u128(number) };
        let mut states = States::default();
        let noted = || State { noted: true, ..State::default() };
        assert_eq!(states.put(log(0), noted()), []);
        for number in 1..STATES as u128 {
            states.put(log(number), State::default());
        }
        assert!(states.get(log(0)).is_some(), "it is young again");
        for number in 0..STATES as u128 - 2 {
            assert_eq!(states.put(log(1 << 20 | number), noted()), [], "what was forgotten was not noted");
        }
        states.put(log(1 << 30), noted());
        assert!(states.get(log(0)).is_some() && states.get(log(1)).is_none());
        assert!(states.forget(log(0)) && !states.forget(log(0)));
    }
}
