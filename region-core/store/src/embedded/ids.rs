//! Which ids a log has dedup records of: most sends are new, and this says so without a look into the tables.
//!
//! A log that was empty when its first entry came is known from then on; any other is known once its records were read
//! through. What is not known costs a look-up. The tables may make a look-up wait for a sync; a send must not.

use std::collections::{HashMap, HashSet};

use hearth_protocol::LogId;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

/// Records of one log that are kept in mind; a log with more is looked up in the tables.
pub(super) const IDS_OF_A_LOG: usize = 65_536;
/// Ids in each of two generations: about 16 bytes each, 32 MB when both are full.
const IDS: usize = 1_000_000;

/// What is known of a log.
#[derive(Debug, Default)]
struct Known {
    /// Hashes of keys: two keys with one hash cost a look-up and no more.
    hashes: HashSet<u64>,
    /// Whether every record of the log is among them.
    complete: bool,
    /// Which reading through may complete it.
    reading: u64,
}

/// A bounded memory in two generations, as [`super::heads::Heads`].
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<LogId, Known>,
    old: HashMap<LogId, Known>,
    /// Ids in `young`.
    ids: usize,
    readings: u64,
}

impl Generations {
    /// What is known of a log; it survives the next turn.
    fn use_of(&mut self, log: LogId) -> Option<&mut Known> {
        if let Some(known) = self.old.remove(&log) {
            self.ids += known.hashes.len();
            self.young.insert(log, known);
        }
        self.young.get_mut(&log)
    }

    fn add(&mut self, log: LogId, hash: u64) {
        let Some(known) = self.use_of(log) else { return };
        let fresh = known.hashes.insert(hash);
        if known.hashes.len() > IDS_OF_A_LOG {
            self.forget(log);
        } else if fresh {
            self.ids += 1;
        }
    }

    fn forget(&mut self, log: LogId) {
        self.old.remove(&log);
        if let Some(known) = self.young.remove(&log) {
            self.ids = self.ids.saturating_sub(known.hashes.len());
        }
    }

    fn begin(&mut self, log: LogId, complete: bool) -> u64 {
        self.forget(log);
        if self.ids >= IDS {
            self.old = std::mem::take(&mut self.young);
            self.ids = 0;
        }
        self.readings += 1;
        self.young.insert(log, Known { complete, reading: self.readings, ..Known::default() });
        self.readings
    }
}

/// What is known of all logs.
#[derive(Debug, Default)]
pub(super) struct Ids(Mutex<Generations>);

impl Ids {
    /// The log has no record: from now on all of its ids pass through [`Ids::add`].
    pub(super) fn begin_empty(&self, log: LogId) {
        self.0.lock().begin(log, true);
    }

    /// The log has a record of that key. To be called before the record's commit is answered.
    pub(super) fn add(&self, log: LogId, key: &[u8]) {
        self.0.lock().add(log, xxh3_64(key));
    }

    /// Forgets a log.
    pub(super) fn forget(&self, log: LogId) {
        self.0.lock().forget(log);
    }

    /// Whether the log surely has no record of that key; `None` when that is not known.
    pub(super) fn lacks(&self, log: LogId, key: &[u8]) -> Option<bool> {
        let mut ids = self.0.lock();
        let known = ids.use_of(log).filter(|known| known.complete)?;
        Some(!known.hashes.contains(&xxh3_64(key)))
    }

    /// Begins to read a log's records through: what is added meanwhile is kept. `None` when somebody does so already.
    pub(super) fn begin_reading(&self, log: LogId) -> Option<u64> {
        let mut ids = self.0.lock();
        if ids.use_of(log).is_some() { None } else { Some(ids.begin(log, false)) }
    }

    /// The records were read through: `keys` are all that there were, or `None` when they were too many.
    pub(super) fn read(&self, log: LogId, reading: u64, keys: Option<&[Box<[u8]>]>) {
        let mut ids = self.0.lock();
        // Another life of the log may have begun meanwhile.
        if ids.use_of(log).is_none_or(|known| known.reading != reading) {
            return;
        }
        let Some(keys) = keys else { return };
        for key in keys {
            ids.add(log, xxh3_64(key));
        }
        if let Some(known) = ids.use_of(log) {
            known.complete = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(number: u128) -> LogId {
        LogId { kind: hearth_protocol::LogKind::Conversation, id: uuid::Uuid::from_u128(number) }
    }

    fn keys(of: &[&str]) -> Vec<Box<[u8]>> {
        of.iter().map(|key| key.as_bytes().into()).collect()
    }

    #[test]
    fn a_log_known_from_its_beginning_lacks_what_was_not_added() {
        let ids = Ids::default();
        assert_eq!(ids.lacks(log(1), b"a"), None);
        ids.begin_empty(log(1));
        assert_eq!(ids.lacks(log(1), b"a"), Some(true));
        ids.add(log(1), b"a");
        assert_eq!(ids.lacks(log(1), b"a"), Some(false));
        ids.forget(log(1));
        assert_eq!(ids.lacks(log(1), b"a"), None);
    }

    #[test]
    fn a_log_is_known_once_it_was_read_through_with_what_came_meanwhile() {
        let ids = Ids::default();
        let reading = ids.begin_reading(log(1)).expect("nobody reads it");
        assert_eq!(ids.begin_reading(log(1)), None);
        ids.add(log(1), b"meanwhile");
        assert_eq!(ids.lacks(log(1), b"other"), None);
        ids.read(log(1), reading, Some(&keys(&["before"])));
        for (key, lacks) in [("before", false), ("meanwhile", false), ("other", true)] {
            assert_eq!(ids.lacks(log(1), key.as_bytes()), Some(lacks), "{key}");
        }
    }

    #[test]
    fn a_reading_of_a_former_life_of_the_log_and_one_of_too_many_records_tell_nothing() {
        let ids = Ids::default();
        let reading = ids.begin_reading(log(1)).expect("nobody reads it");
        ids.forget(log(1));
        let other = ids.begin_reading(log(1)).expect("forgotten");
        ids.read(log(1), reading, Some(&keys(&["a"])));
        assert_eq!(ids.lacks(log(1), b"b"), None);
        ids.read(log(1), other, None);
        assert_eq!(ids.lacks(log(1), b"b"), None);
        assert_eq!(ids.begin_reading(log(1)), None, "it is not read again and again");
    }

    #[test]
    fn a_log_that_outgrows_its_share_and_logs_long_unused_are_forgotten() {
        let ids = Ids::default();
        ids.begin_empty(log(1));
        for number in 0..=IDS_OF_A_LOG {
            ids.add(log(1), &number.to_le_bytes());
        }
        assert_eq!(ids.lacks(log(1), b"a"), None);
        let logs = 3 * IDS / IDS_OF_A_LOG;
        for number in 2..logs as u128 {
            ids.begin_empty(log(number));
            for id in 0..IDS_OF_A_LOG {
                ids.add(log(number), &id.to_le_bytes());
            }
        }
        assert_eq!(ids.lacks(log(2), b"a"), None);
        assert_eq!(ids.lacks(log(logs as u128 - 1), b"a"), Some(true));
        let kept = ids.0.lock();
        let all = kept.young.values().chain(kept.old.values()).map(|known| known.hashes.len()).sum::<usize>();
        assert!(all <= 2 * (IDS + IDS_OF_A_LOG), "{all}");
    }
}
